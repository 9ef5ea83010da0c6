//! The generator of KBGAN and IRGAN: what it draws, what it learns, and that it survives a checkpoint.

use super::select::{DEVICES, KINDS, Model, gappy, goes_on_after_a_checkpoint};
use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;

const ITEMS: usize = 12;

/// `negatives` of the catalogue, or of listed `candidates`, without item 1 (the target of every batch here).
fn sampler(world: &World, negatives: u32, candidates: Option<f64>, params: &[(&str, Value)]) -> Sampler {
    let mut params = params.to_vec();
    params.extend(candidates.map(|m| ("candidates", number(m))));
    let propose = kind(if candidates.is_some() { "uniform" } else { "catalogue" }, &[]);
    let select = Some(kind("generator", &params));
    let config = config::Sampler { select, ..config("position", negatives, "target", vec![propose], true) };
    Sampler::new(&config, &world.knowledge(), 5).unwrap()
}

fn moment(epoch: u64) -> Moment {
    Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 }
}

/// A world whose items are all trained.
fn world() -> World {
    World::new(ITEMS, &[(0..ITEMS as u32).collect()], 1, |_, _| 0)
}

/// One number per item and row: the query is 1, item `i` has the score `scores[i]`.
fn draw(sampler: &Sampler, batch: &Batch, scores: &[f64], epoch: u64) -> Negatives {
    let device = Device::HOST;
    let buffer = |x: &[f64]| -> Buffer { device.reals(x).unwrap() };
    let (query, table) = (buffer(&vec![1.0; batch.rows()]), buffer(scores));
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: scores.len(), query: &query, context: None, table: &table };
    sampler.draw(&device, batch, Some(&scoring), moment(epoch)).unwrap()
}

/// Gives the generator the table `g (V,1)`, as a checkpoint would.
fn teach(sampler: &Sampler, g: &[f32]) {
    let (squares, baseline) = ([0.0f32; ITEMS], [0.5f32]);
    let find = |name: &str| -> Option<&[f32]> {
        match name {
            "generator.table" => Some(g),
            "generator.squares" => Some(&squares),
            "generator.baseline" => Some(&baseline),
            _ => None,
        }
    };
    sampler.restore(&find).unwrap();
}

/// g of a sampler with one number per item.
fn table(sampler: &Sampler) -> Vec<f32> {
    sampler.state()[0].values.clone()
}

#[test]
fn draws_follow_the_law_of_the_table_and_report_it() {
    let (world, batch) = (world(), batch(40, 50, 1, 0, &[]));
    let g: Vec<f32> = (0..ITEMS).map(|i| (i % 5) as f32 * 0.7 - 1.0).collect();
    for temperature in [1.0, 0.5] {
        let params = [("temperature", number(temperature)), ("rate", number(0.0))];
        let sampler = sampler(&world, 8, None, &params);
        teach(&sampler, &g);
        let mut law: Vec<f64> = (0..ITEMS).map(|i| if i == 1 { 0.0 } else { (f64::from(g[i]) / temperature).exp() }).collect();
        let total: f64 = law.iter().sum();
        law.iter_mut().for_each(|p| *p /= total);
        let drawn = draw(&sampler, &batch, &[0.0; ITEMS], 0);
        verdict(&count(ITEMS, drawn.ids.iter().copied()), &law).unwrap();
        for (&id, &log_q) in drawn.ids.iter().zip(&drawn.log_q) {
            assert!((f64::from(log_q) - law[id as usize].ln()).abs() < 1e-6, "item {id}: {log_q}");
        }
    }
}

#[test]
fn of_a_list_it_draws_among_what_is_listed_each_item_once() {
    let (world, batch) = (world(), batch(30, 10, 1, 0, &[]));
    let sampler = sampler(&world, 3, Some(6.0), &[("rate", number(0.0))]);
    // Untaught, every different candidate is as likely; `all` draws the same lists.
    let all = config("position", 6, "target", vec![kind("uniform", &[])], false);
    let lists = draw(&Sampler::new(&all, &world.knowledge(), 5).unwrap(), &batch, &[0.0; ITEMS], 3);
    let drawn = draw(&sampler, &batch, &[0.0; ITEMS], 3);
    for r in 0..300 {
        let mut own = lists.ids_of(r).to_vec();
        own.sort_unstable();
        own.dedup();
        for (id, log_q) in drawn.ids_of(r).iter().zip(&drawn.log_q[r * 3..]) {
            assert!(own.contains(id) && (f64::from(*log_q) + (own.len() as f64).ln()).abs() < 1e-6);
        }
    }
}

/// With the target's margin as reward and a fixed opponent, the generator finds what the opponent takes for positive, and its
/// draws are harder than those it began with; the larger the price of certainty, the less sure it becomes.
#[test]
fn it_learns_what_the_model_takes_for_positive() {
    let (world, batch) = (world(), batch(20, 5, 1, 0, &[]));
    let scores: Vec<f64> = (0..ITEMS).map(|i| if i == 7 { 2.0 } else { -1.0 }).collect();
    let share = |entropy: f64, candidates: Option<f64>| {
        let sampler = sampler(&world, 2, candidates, &[("entropy", number(entropy)), ("reward", word("margin"))]);
        (0..400).for_each(|step| drop(draw(&sampler, &batch, &scores, step)));
        let drawn = draw(&sampler, &batch, &scores, 400);
        drawn.ids.iter().filter(|&&i| i == 7).count() as f64 / drawn.ids.len() as f64
    };
    let (catalogue, listed, wary) = (share(0.01, None), share(0.01, Some(6.0)), share(10.0, None));
    // Untaught: 1 of 11 of the catalogue, and as much of lists, which hold it in about four of ten rows.
    assert!(catalogue > 0.5, "catalogue {catalogue}");
    assert!(listed > 0.25, "listed {listed}");
    assert!(wary < 0.2, "wary {wary}");
}

/// A reward that is the same for all items teaches nothing: the baseline takes all of it away.
#[test]
fn a_constant_reward_teaches_nothing() {
    let (world, batch) = (world(), batch(10, 5, 1, 0, &[]));
    let sampler = sampler(&world, 2, None, &[("entropy", number(0.0))]);
    (0..10).for_each(|step| drop(draw(&sampler, &batch, &[0.4; ITEMS], step)));
    assert!(table(&sampler).iter().all(|&g| g.abs() < 1e-3), "{:?}", table(&sampler));
    // And one that is not does.
    let other: Vec<f64> = (0..ITEMS).map(|i| i as f64 / 3.0).collect();
    draw(&sampler, &batch, &other, 10);
    assert!(table(&sampler).iter().any(|&g| g.abs() > 1e-2));
}

#[test]
fn what_is_restored_goes_on_for_any_number_of_threads() {
    let world = gappy(40);
    let batch = batch(30, 3, 1, 0, &[0, 1, 5]);
    for (score, device) in KINDS.into_iter().zip(DEVICES) {
        let model = Model::new(score, batch.rows(), 40, false, false);
        let make = || sampler(&world, 2, Some(9.0), &[("rate", number(0.3))]);
        let (state, a, new) = goes_on_after_a_checkpoint(&model, &device, &batch, &make, &[0, 1, 2, 3, 4].map(moment));
        assert_eq!(state.iter().map(|s| s.shape.iter().product::<usize>()).collect::<Vec<_>>(), [200, 40, 1]);
        // Never an item without a training event, whatever was learned.
        assert!(a.ids.iter().all(|&i| world.counts[i as usize] > 0 && i != 1));
        assert_ne!(new.ids, a.ids, "what was learned matters");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = world();
    let sampler = sampler(&world, 1, Some(6.0), &[]);
    for (table, squares, baseline) in [
        (vec![0.0; 5], vec![0.0; 2], vec![0.1]),
        (vec![f32::NAN; 4], vec![0.0; 2], vec![0.1]),
        (vec![0.0; 4], vec![0.0; 2], vec![]),
    ] {
        let find = |name: &str| match name {
            "generator.table" => Some(&table[..]),
            "generator.squares" => Some(&squares[..]),
            _ => Some(&baseline[..]),
        };
        assert_eq!(sampler.restore(&find).unwrap_err().code(), Code::M0402);
    }
    // Sound, but of another model.
    let (table, squares, baseline) = (vec![0.0; ITEMS * 2], vec![0.0; ITEMS], vec![0.1]);
    let find = |name: &str| match name {
        "generator.table" => Some(&table[..]),
        "generator.squares" => Some(&squares[..]),
        _ => Some(&baseline[..]),
    };
    sampler.restore(&find).unwrap();
    let device = Device::HOST;
    let (query, scores) = (device.reals(&[1.0]).unwrap(), device.reals(&[0.0; ITEMS]).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: ITEMS, query: &query, context: None, table: &scores };
    let error = sampler.draw(&device, &batch(1, 1, 1, 0, &[]), Some(&scoring), moment(0)).err().unwrap();
    assert_eq!(error.code(), Code::M0402);
}

#[test]
fn scores_that_are_no_numbers_choose_something_and_teach_nothing() {
    let world = world();
    let sampler = sampler(&world, 3, Some(6.0), &[]);
    let batch = batch(2, 2, 1, 0, &[]);
    let drawn = draw(&sampler, &batch, &[f64::NAN; ITEMS], 0);
    assert!(drawn.ids.iter().all(|&i| (i as usize) < ITEMS));
    draw(&sampler, &batch, &[1.0; ITEMS], 1);
    assert!(table(&sampler).iter().all(|g| g.is_finite()));
}
