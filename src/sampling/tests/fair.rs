//! FairNeg: the law of both parts, what an epoch changes, and that it survives a checkpoint.

use super::select::{DEVICES, KINDS, Model, gappy, goes_on_after_a_checkpoint};
use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;

const ITEMS: usize = 30;
const TARGET: u32 = 1;

fn sampler(world: &World, n: u32, params: &[(&str, Value)]) -> Sampler {
    let select = Some(kind("fair", params));
    let config = config::Sampler { select, ..config("batch", n, "history", vec![kind("uniform", &[])], true) };
    Sampler::new(&config, &world.knowledge(), 5).unwrap()
}

fn moment(epoch: u64) -> Moment {
    Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 }
}

/// All items trained but 11 and 22; item i has the score `scores[i]` for every row.
fn world() -> World {
    World::new(ITEMS, &[(0..ITEMS as u32).filter(|i| ![11, 22].contains(i)).collect()], 1, |_, _| 0)
}

fn draw(sampler: &Sampler, batch: &Batch, scores: &[f64], epoch: u64) -> Negatives {
    let device = Device::HOST;
    let (query, table): (Buffer, Buffer) = (device.reals(&vec![1.0; batch.rows()]).unwrap(), device.reals(scores).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: scores.len(), query: &query, context: None, table: &table };
    sampler.draw(&device, batch, Some(&scoring), moment(epoch)).unwrap()
}

/// The world's first attribute: i mod 3, and a group of their own for every fifth item, which has none.
fn group(item: u32) -> usize {
    if item.is_multiple_of(5) { 3 } else { item as usize % 3 }
}

fn state(sampler: &Sampler, name: &str) -> Vec<f32> {
    sampler.state().into_iter().find(|s| s.name == name).unwrap().values
}

#[test]
fn draws_follow_the_mixture_and_report_it() {
    let world = world();
    let scores: Vec<f64> = (0..ITEMS).map(|i| (i as f64 * 1.7).sin()).collect();
    let seen = [0u32, 1, 4, 9, 15];
    let batch = batch(40, 50, TARGET, 0, &seen);
    // The candidates that all rows share.
    let all = config("batch", 7, "history", vec![kind("uniform", &[])], false);
    let listed = draw(&Sampler::new(&all, &world.knowledge(), 5).unwrap(), &batch, &scores, 0);
    let mut listed: Vec<u32> = (0..7)
        .map(|slot| (slot, listed.ids[slot]))
        .filter(|(slot, _)| !listed.drop.get(*slot).copied().unwrap_or(false))
        .map(|(_, id)| id)
        .collect();
    listed.sort_unstable();
    listed.dedup();
    assert!(listed.len() > 2 && listed.iter().all(|i| !seen.contains(i)));
    let allowed: Vec<u32> = (0..ITEMS as u32).filter(|i| world.counts[*i as usize] > 0 && !seen.contains(i)).collect();
    let trained = |z: usize| (0..ITEMS as u32).filter(|&i| world.counts[i as usize] > 0 && group(i) == z).count() as f64;
    for hard in [0.0, 0.3, 1.0] {
        let params = [("hard", number(hard)), ("temperature", number(0.5)), ("candidates", number(7.0))];
        let sampler = sampler(&world, 8, &params);
        let of_scores = listed.iter().map(|&i| (scores[i as usize] / 0.5).exp()).sum::<f64>();
        let law: Vec<f64> = (0..ITEMS as u32)
            .map(|i| {
                let by_score = if listed.contains(&i) { (scores[i as usize] / 0.5).exp() / of_scores } else { 0.0 };
                let left = allowed.iter().filter(|&&j| group(j) == group(i)).count() as f64;
                let total: f64 = (0..4).filter(|&z| allowed.iter().any(|&j| group(j) == z)).map(trained).sum();
                let by_group = if allowed.contains(&i) { trained(group(i)) / total / left } else { 0.0 };
                hard * by_score + (1.0 - hard) * by_group
            })
            .collect();
        assert!((law.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let drawn = draw(&sampler, &batch, &scores, 0);
        verdict(&count(ITEMS, drawn.ids.iter().copied()), &law).unwrap_or_else(|fault| panic!("hard {hard}: {fault}"));
        for (&id, &log_q) in drawn.ids.iter().zip(&drawn.log_q) {
            assert!((f64::from(log_q) - law[id as usize].ln()).abs() < 1e-5, "hard {hard}, item {id}");
        }
    }
}

/// With hard = 1 the law is that of `softmax_draw` at beta = 1 / temperature over the same candidates, each once.
#[test]
fn the_hard_part_alone_is_a_draw_by_scores() {
    let world = world();
    let scores: Vec<f64> = (0..ITEMS).map(|i| (i as f64 * 1.7).sin()).collect();
    let batch = batch(20, 30, TARGET, 0, &[0, 1, 4, 9, 15]);
    let log_q_of = |select: Kind| {
        let propose = kind("uniform", &[("distinct", Value::Flag(true))]);
        let config = config::Sampler { select: Some(select), ..config("batch", 6, "history", vec![propose], true) };
        let drawn = draw(&Sampler::new(&config, &world.knowledge(), 5).unwrap(), &batch, &scores, 0);
        let mut log_q = [f64::NAN; ITEMS];
        drawn.ids.iter().zip(&drawn.log_q).for_each(|(&id, &q)| log_q[id as usize] = f64::from(q));
        log_q
    };
    let candidates = ("candidates", number(9.0));
    let fair = log_q_of(kind("fair", &[("hard", number(1.0)), ("temperature", number(0.5)), candidates.clone()]));
    let by_scores = log_q_of(kind("softmax_draw", &[("beta", number(2.0)), candidates]));
    assert!(fair.iter().filter(|q| q.is_finite()).count() > 4);
    for item in 0..ITEMS {
        let (a, b) = (fair[item], by_scores[item]);
        assert!(a.is_nan() && b.is_nan() || (a - b).abs() < 1e-5, "item {item}: {a} and {b}");
    }
}

/// No group with a share above 0: groups are drawn by their items, so every item left is drawn alike.
#[test]
fn groups_without_any_share_are_drawn_by_their_items() {
    let world = world();
    let seen = [0u32, 1, 4, 9, 15];
    let sampler = sampler(&world, 8, &[("hard", number(0.0)), ("candidates", number(5.0)), ("rate", number(0.0))]);
    let batch = batch(40, 50, TARGET, 0, &seen);
    draw(&sampler, &batch, &[0.0; ITEMS], 0);
    let restored = |share: f32| {
        let state = sampler.state();
        let values = |s: &State| if s.name == "fair.share" { vec![share; s.values.len()] } else { s.values.clone() };
        let changed: Vec<(String, Vec<f32>)> = state.iter().map(|s| (s.name.clone(), values(s))).collect();
        sampler.restore(&|name| changed.iter().find(|s| s.0 == name).map(|s| &s.1[..]))
    };
    restored(0.0).unwrap();
    let drawn = draw(&sampler, &batch, &[0.0; ITEMS], 1);
    let allowed = |i: usize| world.counts[i] > 0 && !seen.contains(&(i as u32));
    let left = (0..ITEMS).filter(|&i| allowed(i)).count() as f64;
    let law: Vec<f64> = (0..ITEMS).map(|i| if allowed(i) { 1.0 / left } else { 0.0 }).collect();
    verdict(&count(ITEMS, drawn.ids.iter().copied()), &law).unwrap();
    assert!(drawn.log_q.iter().all(|&q| (f64::from(q) + left.ln()).abs() < 1e-5));
    for share in [-0.1, 1.5] {
        assert_eq!(restored(share).unwrap_err().code(), Code::M0402, "a share of {share}");
    }
}

#[test]
fn an_epoch_moves_the_groups_by_the_losses_of_its_targets() {
    let world = world();
    let scores: Vec<f64> = (0..ITEMS).map(|i| i as f64 / 10.0 - 1.0).collect();
    let sampler = sampler(&world, 1, &[("candidates", number(5.0)), ("momentum", number(0.5)), ("rate", number(0.4))]);
    let mut batch = batch(4, 6, TARGET, 0, &[]);
    batch.targets = (0..batch.rows()).map(|r| [1, 2, 3, 5, 7, 8][r % 6]).collect();
    draw(&sampler, &batch, &scores, 0);
    let before = state(&sampler, "fair.share");
    draw(&sampler, &batch, &scores, 0);
    assert_eq!(state(&sampler, "fair.share"), before, "within an epoch nothing moves");
    draw(&sampler, &batch, &scores, 1);
    let mean = |z: usize| {
        let own: Vec<f64> =
            batch.targets.iter().filter(|&&t| group(t) == z).map(|&t| (1.0 + (-scores[t as usize]).exp()).ln()).collect();
        own.iter().sum::<f64>() / own.len() as f64
    };
    // The code of the attributes of this world that no item has are groups without items; 10 is the group without any.
    let code = |z: usize| if z == 3 { before.len() - 1 } else { z };
    let overall = (0..4).map(mean).sum::<f64>() / 4.0;
    for z in 0..4 {
        let want = (f64::from(before[code(z)]) - 0.4 * 0.5 * (mean(z) - overall)).clamp(0.0, 1.0);
        let got = f64::from(state(&sampler, "fair.share")[code(z)]);
        assert!((got - want).abs() < 1e-6, "group {z}: {got} for {want}");
    }
}

#[test]
fn what_is_restored_goes_on_for_any_number_of_threads() {
    let world = gappy(40);
    let batch = batch(30, 3, TARGET, 0, &[0, 1, 5]);
    for (score, device) in KINDS.into_iter().zip(DEVICES) {
        let model = Model::new(score, batch.rows(), 40, false, false);
        let make = || sampler(&world, 2, &[("candidates", number(9.0)), ("rate", number(0.5))]);
        let (state, a, _) = goes_on_after_a_checkpoint(&model, &device, &batch, &make, &[0, 0, 1, 1, 2, 3].map(moment));
        assert!(a.ids.iter().all(|&i| world.counts[i as usize] > 0 && ![0, 1, 5].contains(&i)));
        let short = |name: &str| state.iter().find(|s| s.name == name).map(|s| &s.values[..s.values.len().min(2)]);
        assert_eq!(make().restore(&short).unwrap_err().code(), Code::M0402);
    }
}

#[test]
fn a_log_without_attributes_is_refused_and_nothing_left_is_left_empty() {
    let world = world();
    let config =
        config::Sampler { select: Some(kind("fair", &[])), ..config("batch", 1, "history", vec![kind("uniform", &[])], false) };
    let error = Sampler::new(&config, &Knowledge { attributes: None, ..world.knowledge() }, 5).err().unwrap();
    assert!(error.code() == Code::D0303 && error.to_string().contains("`data.items_path`"), "{error}");
    let sampler = sampler(&world, 3, &[("candidates", number(5.0))]);
    let broken = draw(&sampler, &batch(2, 2, TARGET, 0, &[]), &[f64::NAN; ITEMS], 0);
    assert!(broken.ids.iter().all(|&i| (i as usize) < ITEMS));
    // Everything but item 29 is seen by these users.
    let seen: Vec<u32> = (0..29).collect();
    let last = draw(&sampler, &batch(2, 2, TARGET, 0, &seen), &[0.0; ITEMS], 0);
    assert!(last.ids.iter().all(|&i| i == 29) && last.log_q.iter().all(|q| q.abs() < 1e-6));
}
