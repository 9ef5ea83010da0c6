//! DENS's gates: what they keep, what they learn, and that they survive a checkpoint.

use super::select::{DEVICES, KINDS, Model, gappy, goes_on_after_a_checkpoint};
use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;
use crate::rng::{Draws, Stream, normal2};

const TARGET: u32 = 8;

fn sampler(world: &World, n: u32, scope: &str, params: &[(&str, Value)]) -> Sampler {
    let config =
        config::Sampler { select: Some(kind("gates", params)), ..config(scope, n, "history", vec![kind("uniform", &[])], false) };
    Sampler::new(&config, &world.knowledge(), 5).unwrap()
}

fn moment(epoch: u64) -> Moment {
    Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 }
}

/// Gives the gates their weights, as a checkpoint would.
fn teach(sampler: &Sampler, weights: &[f32]) {
    let squares = vec![0.0f32; weights.len()];
    let find = |name: &str| (name == "gates.weights").then_some(weights).or((name == "gates.squares").then_some(&squares[..]));
    sampler.restore(&find).unwrap();
}

fn weights(sampler: &Sampler) -> Vec<f32> {
    sampler.state()[0].values.clone()
}

/// What the formulas say is kept of an item's `score`: (1 - alpha) h . e - h . (e * g_n); with a fault if asked for.
fn key(w: &[f32], [h, p, e]: [&[f64]; 3], alpha: f64, fault: &str) -> f64 {
    let (dim, wide) = (h.len(), 2 * h.len() + 1);
    let gate = |gate: usize, d: usize, a: &[f64], b: &[f64]| {
        let w: Vec<f64> = w[(gate * dim + d) * wide..][..wide].iter().map(|&w| f64::from(w)).collect();
        1.0 / (1.0 + (-w[2 * dim] - (0..dim).map(|j| w[j] * a[j] + w[dim + j] * b[j]).sum::<f64>()).exp())
    };
    let kept: Vec<f64> = (0..dim).map(|d| p[d] * gate(0, d, p, h)).collect();
    let seen = if fault == "the whole positive" { p } else { &kept[..] };
    let share = |d: usize| if fault == "no gates" { 0.5 } else { gate(1, d, e, seen) };
    let sign = if fault == "most relevant" { -1.0 } else { 1.0 };
    (0..dim).map(|d| h[d] * e[d] * ((1.0 - alpha) - sign * share(d))).sum()
}

#[test]
fn what_is_kept_is_what_the_gates_say_and_faults_are_seen() {
    const ITEMS: usize = 60;
    let (world, batch) = (gappy(ITEMS), batch(4, 8, TARGET, 0, &[1, 2, 30]));
    let noise = Draws::new(9, Stream::Test, 0, 0);
    let mut faults = vec!["the whole positive", "no gates", "most relevant"];
    for (score, device, scope) in
        [(KINDS[0], 1, "position"), (KINDS[1], 1, "sequence"), (KINDS[0], 0, "batch"), (KINDS[0], 1, "batch")]
    {
        let model = Model::new(score, batch.rows(), ITEMS, false, false);
        let dim = model.table.len() / ITEMS;
        let taught: Vec<f32> = (0..2 * dim * (2 * dim + 1)).map(|i| normal2(noise.words64(i as u64))[0] as f32).collect();
        let lists = config(scope, 20, "history", vec![kind("uniform", &[])], false);
        let lists = drawn(&Sampler::new(&lists, &world.knowledge(), 5).unwrap(), &batch);
        let groups = lists.groups_of_rows();
        for alpha in [0.0, 0.3, 1.0] {
            let params = [("alpha", number(alpha)), ("rate", number(0.0)), ("candidates", number(20.0))];
            let sampler = sampler(&world, 3, scope, &params);
            teach(&sampler, &taught);
            let got = model.draw(&DEVICES[device], &sampler, &batch, START);
            let item = |i: u32| &model.table[i as usize * dim..(i as usize + 1) * dim];
            let expected = |fault: &str| -> Vec<u32> {
                let of_row = |r: usize| {
                    let mut own = lists.ids_of(groups[r] as usize).to_vec();
                    own.retain(|i| ![TARGET, 1, 2, 30].contains(i));
                    own.sort_unstable();
                    own.dedup();
                    let h = &model.query[r * dim..(r + 1) * dim];
                    let key = |i: u32| key(&taught, [h, item(TARGET), item(i)], alpha, fault);
                    own.sort_by(|&i, &j| key(j).total_cmp(&key(i)));
                    own.resize(3.max(own.len()), NONE);
                    own[..3].to_vec()
                };
                (0..batch.rows()).flat_map(of_row).collect()
            };
            assert_eq!(got.ids, expected(""), "{score:?} {scope} {alpha}");
            assert!(got.log_q.is_empty() && weights(&sampler) == taught);
            faults.retain(|fault| expected(fault) == got.ids);
        }
    }
    assert!(faults.is_empty(), "not caught: {faults:?}");
}

/// The gates learn to keep what the positive scores by, and little of what the negatives score by.
#[test]
fn the_gates_learn_which_part_is_relevant() {
    let device = Device::HOST;
    let world = World::new(9, &[(0..9).collect()], 1, |_, _| 0);
    let batch = batch(20, 3, TARGET, 0, &[]);
    // The target is (2, 0); items 0 to 3 are (1, 0), 4 to 7 are (0, 1): the same score under the query (1, 1).
    let table: Vec<f64> = (0..9).flat_map(|i| [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]][i / 4]).collect();
    let (query, table): (Buffer, Buffer) = (device.reals(&[1.0; 120]).unwrap(), device.reals(&table).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 2, items: 9, query: &query, context: None, table: &table };
    let params = [("alpha", number(1.0)), ("candidates", number(8.0)), ("rate", number(0.05))];
    let sampler = sampler(&world, 2, "position", &params);
    let draw = |epoch| sampler.draw(&device, &batch, Some(&scoring), moment(epoch)).unwrap();
    let before = draw(0);
    (1..200).for_each(|epoch| drop(draw(epoch)));
    let w = weights(&sampler);
    let (h, p) = ([1.0, 1.0], [2.0, 0.0]);
    let kept = |e: [f64; 2]| -key(&w, [&h, &p, &e], 1.0, "") / e.iter().sum::<f64>();
    let of_target = {
        let pre: f64 = f64::from(w[4]) + 2.0 * f64::from(w[0]) + f64::from(w[2]) + f64::from(w[3]);
        1.0 / (1.0 + (-pre).exp())
    };
    assert!(before.ids.iter().all(|&i| i < 8));
    assert!(of_target > 0.8, "the positive's relevant number: {of_target}");
    let (alike, other) = (kept([1.0, 0.0]), kept([0.0, 1.0]));
    assert!(alike.min(other) < 0.2, "of a negative little is relevant: {alike} and {other}");
}

#[test]
fn what_is_restored_goes_on_for_any_number_of_threads() {
    let world = gappy(40);
    let batch = batch(30, 3, 1, 0, &[0, 1, 5]);
    for (score, device) in KINDS.into_iter().zip(DEVICES) {
        let model = Model::new(score, batch.rows(), 40, true, false);
        let make = || sampler(&world, 2, "sequence", &[("rate", number(0.3)), ("candidates", number(11.0))]);
        let (state, a, new) = goes_on_after_a_checkpoint(&model, &device, &batch, &make, &[0, 1, 2, 3, 4].map(moment));
        assert_eq!(state.iter().map(|s| s.values.len()).collect::<Vec<_>>(), [110, 110]);
        assert!(a.ids.iter().all(|&i| world.counts[i as usize] > 0 && ![0, 1, 5].contains(&i)));
        assert_ne!(new.ids, a.ids, "what was learned matters");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = gappy(40);
    let make = || sampler(&world, 1, "position", &[]);
    for (weights, squares) in
        [(vec![0.0; 110], vec![0.0; 10]), (vec![f32::NAN; 110], vec![0.0; 110]), (vec![0.0; 110], vec![-1.0; 110])]
    {
        let find = |name: &str| Some(if name == "gates.weights" { &weights[..] } else { &squares[..] });
        assert_eq!(make().restore(&find).unwrap_err().code(), Code::M0402);
    }
    // Sound, but of another model.
    let (other, batch) = (make(), batch(2, 2, TARGET, 0, &[]));
    teach(&other, &[0.0; 36]);
    let model = Model::new(KINDS[0], 4, 40, false, false);
    let buffer = |x: &[f64]| -> Buffer { Device::HOST.reals(x).unwrap() };
    let (query, table) = (buffer(&model.query), buffer(&model.table));
    let scoring =
        Scoring { kind: ScoreKind::Dot, dim: model.table.len() / 40, items: 40, query: &query, context: None, table: &table };
    assert_eq!(other.draw(&Device::HOST, &batch, Some(&scoring), START).err().map(|e| e.code()), Some(Code::M0402));

    let code = |propose: &str, n: u32, weight: Option<Kind>, params: &[(&str, Value)]| {
        let select = Some(kind("gates", params));
        let config = config::Sampler { select, weight, ..config("position", n, "target", vec![kind(propose, &[])], false) };
        Sampler::new(&config, &world.knowledge(), 1).err().map(|e| e.code())
    };
    assert_eq!(code("uniform", 1, None, &[]), None);
    assert_eq!(code("uniform", 1, None, &[("alpha", number(1.5))]), Some(Code::C0202));
    assert_eq!(code("uniform", 1, None, &[("rate", number(f64::NAN))]), Some(Code::C0202));
    assert_eq!(code("uniform", 9, None, &[("candidates", number(8.0))]), Some(Code::C0205));
    assert_eq!(code("uniform", 1, Some(kind("log_q", &[])), &[]), Some(Code::C0205), "there is no probability");
    assert_eq!(code("catalogue", 1, None, &[]), Some(Code::C0205));
}

#[test]
fn scores_that_are_no_numbers_teach_nothing() {
    let world = gappy(40);
    let (sampler, batch) = (sampler(&world, 2, "position", &[("candidates", number(9.0))]), batch(2, 2, TARGET, 0, &[]));
    let mut model = Model::new(KINDS[0], 4, 40, false, false);
    let none = vec![f64::NAN; model.table.len()];
    let sound = std::mem::replace(&mut model.table, none);
    let got = model.draw(&Device::HOST, &sampler, &batch, START);
    assert!(got.ids.iter().all(|&i| (i as usize) < 40));
    model.table = sound;
    model.draw(&Device::HOST, &sampler, &batch, moment(1));
    assert!(weights(&sampler).iter().all(|w| w.is_finite()) && weights(&sampler).iter().any(|w| *w != 0.0));
}
