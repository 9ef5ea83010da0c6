//! The whole model against central differences in f64, in every variant, and on the emulator against itself (tests only).

use super::*;
#[cfg(feature = "emulator")]
use crate::ops::case;
use crate::ops::central::{check, noise};

const ITEMS: usize = 7;

/// Four sequences of lengths 1, 3, 2 and 5 with repeated items, two numeric context columns and two categorical ones.
fn batch() -> Batch {
    let offsets = vec![0, 1, 4, 6, 11];
    let r = 11;
    let context = |lane| ContextRows {
        numeric: noise(lane, r * 2).iter().map(|&v| v as f32).collect(),
        categories: (0..r as u32).flat_map(|i| [(i + u32::from(lane)) % 3, i % 2]).collect(),
    };
    Batch {
        users: vec![0, 1, 2, 3],
        offsets: offsets.into(),
        items: vec![3, 0, 6, 6, 1, 2, 5, 4, 3, 0, 1].into(),
        targets: vec![1; r].into(),
        row_keys: (0..r as u64).collect(),
        context: context(50).into(),
        target_context: context(51).into(),
        ..Batch::default()
    }
}

fn model(config: &config::Model, attributes: bool) -> Model {
    model_on(&Device::ORACLE, config, attributes).unwrap()
}

fn model_on(device: &Device, config: &config::Model, attributes: bool) -> Result<Model> {
    // Item 2 has no attribute, item 5 two.
    let lists = attributes.then(|| AttributeLists::new(&[0, 1, 2, 2, 3, 4, 6, 7], &[0, 1, 2, 0, 1, 2, 2], 3));
    let context = config.kind == "cans" || config.context == "yes";
    let (numeric, categories) = if context { (2, vec![3, 2]) } else { (0, vec![]) };
    let sizes = Sizes { items: ITEMS, numeric, categories, attributes: lists };
    let mut model = Model::new(config, sizes, device, 5)?;
    // Larger and unequal values than initial ones, so that no gradient is lost in symmetry.
    for (i, param) in model.params_mut().iter_mut().enumerate() {
        let moved = noise(100 + i as u8, param.shape.iter().product());
        let values: Vec<f64> = param.value.to_f64(device)?.iter().zip(moved).map(|(v, m)| v + 0.3 * m).collect();
        param.value = device.reals(&values)?;
    }
    Ok(model)
}

use crate::device::Real;

fn prove(config: &config::Model, attributes: bool, queries: Queries) {
    let batch = batch();
    let mut model = model(config, attributes);
    let masks = || Masks::training(config.dropout, 3, 9);
    let d = config.dim as usize;
    let q = if queries == Queries::All { batch.rows() } else { batch.sequences() };
    // The loss is a fixed linear function of everything a loss can see: queries, target contexts and the scoring table.
    let (wq, wc, wt) = (noise(1, q * d), noise(2, q * d), noise(3, ITEMS * d));
    let value = |model: &mut Model| {
        model.refresh_tables().unwrap();
        model.forward(&batch, queries, &masks()).unwrap();
        let s = model.scoring();
        let dot = |b: &Buffer, w: &[f64]| f64::of(b).unwrap().iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        dot(s.query, &wq) + s.context.map_or(0.0, |c| dot(c, &wc)) + dot(s.table, &wt)
    };
    value(&mut model);
    let mut table = model.take_table_grad();
    f64::of_mut(&mut table).unwrap().iter_mut().zip(&wt).for_each(|(g, w)| *g += w);
    model.give_table_grad(table);
    let mut dquery = Device::ORACLE.reals(&wq).unwrap();
    let dcontext = Device::ORACLE.reals(&wc).unwrap();
    let has_context = model.hyper.context;
    model.backward(&batch, &mut dquery, has_context.then_some(&dcontext), &masks()).unwrap();
    let copy = |b: &Buffer| f64::of(b).unwrap().to_vec();
    let inputs: Vec<_> = model.params().iter().map(|p| copy(&p.value)).collect();
    let gradients: Vec<_> = model.params().iter().map(|p| copy(&p.grad)).collect();
    assert!(gradients.iter().all(|g| g.iter().any(|&x| x != 0.0)), "a parameter receives no gradient");
    let model = std::cell::RefCell::new(model);
    check(&inputs, &gradients, |values| {
        let mut model = model.borrow_mut();
        for (param, values) in model.params_mut().iter_mut().zip(values) {
            f64::of_mut(&mut param.value).unwrap().copy_from_slice(values);
        }
        value(&mut model)
    });
}

fn small(kind: &str) -> config::Model {
    config::Model {
        kind: kind.into(),
        dim: 4,
        layers: 2,
        heads: 2,
        max_len: 5,
        ffn_mult: 2,
        dropout: 0.25,
        ..config::Model::default()
    }
}

#[test]
fn sasrec_pre_norm_all_positions() {
    prove(&small("sasrec"), false, Queries::All);
}

#[test]
fn sasrec_as_its_program_has_it() {
    prove(&config::Model { norm: "sasrec".into(), positions: "start".into(), ..small("sasrec") }, false, Queries::All);
    prove(&config::Model { norm: "sasrec".into(), activation: "gelu".into(), heads: 1, ..small("sasrec") }, true, Queries::Last);
}

#[test]
fn sasrec_post_norm_separate_table_gelu() {
    let config = config::Model { norm: "post".into(), tied: false, activation: "gelu".into(), ..small("sasrec") };
    prove(&config, false, Queries::All);
}

#[test]
fn sasrec_last_position_with_attributes_and_separate_table() {
    prove(&config::Model { tied: false, ..small("sasrec") }, true, Queries::Last);
}

#[test]
fn cans_bidirectional_last_position_with_context_and_attributes() {
    prove(&config::Model { causal: false, ..small("cans") }, true, Queries::Last);
}

#[test]
fn sasrec_with_context_all_positions() {
    prove(&config::Model { context: "yes".into(), heads: 1, ..small("sasrec") }, false, Queries::All);
}

/// Cosine of what the blocks of a fresh model hand on with what they were given, over all rows.
fn handed_on(config: config::Model) -> f64 {
    let query = |layers| {
        let config = config::Model { layers, dim: 64, max_len: 5, ..config.clone() };
        let mut model = Model::new(&config, Sizes { items: ITEMS, ..Sizes::default() }, &Device::ORACLE, 5).unwrap();
        model.forward(&batch(), Queries::All, &Masks::none()).unwrap();
        f64::of(model.scoring().query).unwrap().to_vec()
    };
    let (given, out) = (query(0), query(2));
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(&given, &out) / (dot(&given, &given) * dot(&out, &out)).sqrt()
}

/// Where random blocks drown the items, one negative per row is too weak a signal to find them again.
#[test]
fn weights_into_attention_may_begin_larger() {
    let config = config::Model { init_weights: "attention".into(), ..config::Model::default() };
    let sizes = Sizes { items: ITEMS, ..Sizes::default() };
    let model = Model::new(&config, sizes, &Device::ORACLE, 5).unwrap();
    for param in model.params().iter().filter(|p| p.name.ends_with(".weight")) {
        let values = f64::of(&param.value).unwrap();
        let spread = (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt();
        let d = f64::from(config.dim);
        let wanted = if param.name.ends_with("qkv.weight") { (2.0 / (4.0 * d)).sqrt() } else { config.init_std };
        assert!((spread / wanted - 1.0).abs() < 0.05, "{}: {spread} for {wanted}", param.name);
    }
}

#[test]
fn a_fresh_model_still_knows_the_last_item() {
    let of = |init: &str| handed_on(config::Model { init_weights: init.into(), ..config::Model::default() });
    assert_eq!(config::Model::default().init_weights, "normal");
    assert!(of("normal") > 0.9, "{}", of("normal"));
    assert!(of("glorot") < 0.5, "{}", of("glorot"));
}

#[test]
fn a_prediction_does_not_depend_on_its_batch() {
    let batch = batch();
    let mut model = model(&small("sasrec"), false);
    model.forward(&batch, Queries::Last, &Masks::none()).unwrap();
    let all = f64::of(model.scoring().query).unwrap().to_vec();
    let alone = Batch {
        users: vec![3],
        offsets: vec![0, 5].into(),
        items: batch.items[6..].to_vec().into(),
        targets: vec![1; 5].into(),
        ..Batch::default()
    };
    model.forward(&alone, Queries::Last, &Masks::none()).unwrap();
    assert_eq!(f64::of(model.scoring().query).unwrap(), &all[12..]);
}

/// The encoder as one long operation: what it hands to a loss, and every gradient.
#[cfg(feature = "emulator")]
fn whole(config: config::Model, attributes: bool, queries: Queries) -> case::Case {
    use case::{Case, Output};
    let shape = format!("{}, norm {}, {}, {queries:?}", config.kind, config.norm, config.activation);
    Case::new("encoder", shape, move |device| {
        let (batch, masks) = (batch(), Masks::training(config.dropout, 3, 9));
        let mut model = model_on(device, &config, attributes)?;
        model.refresh_tables()?;
        model.forward(&batch, queries, &masks)?;
        let scoring = model.scoring();
        let mut outputs = vec![Output::reals("query", device, scoring.query)?, Output::reals("table", device, scoring.table)?];
        outputs.extend(scoring.context.map(|c| Output::reals("context", device, c)).transpose()?);
        let n = scoring.query.len();
        let (mut dquery, dcontext) = (device.reals(&noise(1, n))?, device.reals(&noise(2, n))?);
        let has_context = model.hyper.context;
        model.backward(&batch, &mut dquery, has_context.then_some(&dcontext), &masks)?;
        // One vector: a gradient of four numbers alone would measure luck.
        let gradients: Vec<Vec<f64>> = model.params().iter().map(|p| p.grad.to_f64(device)).collect::<Result<_>>()?;
        outputs.push(Output { name: "gradients", values: case::Values::Reals(gradients.concat()) });
        Ok(outputs)
    })
}

#[cfg(feature = "emulator")]
#[test]
fn kernels_agree_with_the_plain_path() {
    let post = config::Model { norm: "post".into(), tied: false, activation: "gelu".into(), ..small("sasrec") };
    case::emulated::in_every_way(&[
        whole(small("sasrec"), false, Queries::All),
        whole(post, true, Queries::Last),
        whole(config::Model { causal: false, ..small("cans") }, true, Queries::Last),
    ]);
}
