//! AdaSIR's pools: what fills them, what renews them, what is drawn and reported, and that they survive a checkpoint.

use super::select::{DEVICES, KINDS, Model, gappy, goes_on_after_a_checkpoint};
use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;

const ITEMS: usize = 30;
const TARGET: u32 = 1;
const SEEN: [u32; 5] = [0, 1, 4, 9, 15];

/// All items trained but 11 and 22.
fn world() -> World {
    World::new(ITEMS, &[(0..ITEMS as u32).filter(|i| ![11, 22].contains(i)).collect()], 1, |_, _| 0)
}

fn scores() -> Vec<f64> {
    (0..ITEMS).map(|i| (i as f64 * 1.7).sin()).collect()
}

fn configured(scope: &str, n: u32, exclude: &str, propose: Kind, params: &[(&str, Value)]) -> config::Sampler {
    config::Sampler { select: Some(kind("pool", params)), ..config(scope, n, exclude, vec![propose], true) }
}

/// Pools of `size` from all the items that may be drawn, each proposed once.
fn whole(size: usize, exclude: &str, items: usize) -> Sampler {
    let propose = kind("uniform", &[("distinct", Value::Flag(true))]);
    let params = [("size", number(size as f64)), ("candidates", number(items as f64))];
    Sampler::new(&configured("sequence", 1, exclude, propose, &params), &world().knowledge(), 5).unwrap()
}

fn draw(sampler: &Sampler, batch: &Batch, scores: &[f64], epoch: u64) -> Negatives {
    let device = Device::HOST;
    let (query, table): (Buffer, Buffer) = (device.reals(&vec![1.0; batch.rows()]).unwrap(), device.reals(scores).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: scores.len(), query: &query, context: None, table: &table };
    sampler.draw(&device, batch, Some(&scoring), moment(epoch)).unwrap()
}

fn moment(epoch: u64) -> Moment {
    Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 }
}

/// The pools in the order of their users.
fn pools(sampler: &Sampler, size: usize) -> Vec<Vec<u32>> {
    let slots = sampler.state().into_iter().find(|s| s.name == "pool.slots").unwrap().values;
    let ids: Vec<u32> = slots.chunks_exact(2).map(|x| (x[0] as u32) << 16 | x[1] as u32).collect();
    ids.chunks_exact(size).map(<[u32]>::to_vec).collect()
}

/// exp(s) over what may be drawn.
fn preference(scores: &[f64], excluded: &[u32]) -> Vec<f64> {
    let weights: Vec<f64> = scores.iter().enumerate().map(|(i, s)| if [11, 22].contains(&i) { 0.0 } else { s.exp() }).collect();
    law(&weights, excluded)
}

fn of_slots(pool: &[u32]) -> Vec<f64> {
    let mut copies = vec![0.0; ITEMS];
    pool.iter().for_each(|&i| copies[i as usize] += 1.0 / pool.len() as f64);
    copies
}

#[test]
fn a_first_pool_is_resampled_by_the_models_preference() {
    let batch = batch(2000, 1, TARGET, 0, &SEEN);
    let flat = vec![0.25; ITEMS];
    // Equal scores: every allowed item has as many copies as any other.
    for scores in [scores(), flat] {
        let sampler = whole(500, "history", 23);
        draw(&sampler, &batch, &scores, 0);
        let counts = count(ITEMS, pools(&sampler, 500).into_iter().flatten());
        assert_eq!(counts.iter().sum::<u64>(), 1_000_000);
        assert_law("first pools", &counts, &preference(&scores, &SEEN));
        // Faults that these counts must see.
        let steeper: Vec<f64> = scores.iter().map(|s| 1.03 * s).collect();
        for (fault, law) in [
            ("nothing excluded", preference(&scores, &[])),
            ("only the target excluded", preference(&scores, &[TARGET])),
            ("a score off by three percent", preference(&steeper, &SEEN)),
            ("untrained items", law(&scores.iter().map(|s| s.exp()).collect::<Vec<_>>(), &SEEN)),
        ] {
            // Equal scores stay equal.
            let hidden = scores[0] == scores[1] && fault.contains("percent");
            assert_eq!(verdict(&counts, &law).is_ok(), hidden, "not caught: {fault}");
        }
    }
}

#[test]
fn candidates_stand_for_the_catalogue_whatever_proposed_them() {
    // Item i has 1 + i mod 4 events.
    let world = gappy(ITEMS);
    let (scores, batch) = (scores(), batch(2000, 1, 8, 0, &SEEN));
    let proposal = kind("popularity", &[("alpha", number(1.0))]);
    let list = Sampler::new(&config("batch", 23, "history", vec![proposal.clone()], true), &world.knowledge(), 5).unwrap();
    let list = drawn(&list, &batch);
    let params = [("size", number(500.0)), ("candidates", number(23.0))];
    let sampler = Sampler::new(&configured("batch", 1, "history", proposal, &params), &world.knowledge(), 5).unwrap();
    draw(&sampler, &batch, &scores, 0);
    let counts = count(ITEMS, pools(&sampler, 500).into_iter().flatten());
    let weights = |correct: f64| {
        let mut weights = vec![0.0; ITEMS];
        for (&id, &log_q) in list.ids.iter().zip(&list.log_q) {
            weights[id as usize] += (scores[id as usize] - correct * f64::from(log_q)).exp();
        }
        law(&weights, &SEEN)
    };
    assert_law("the list", &counts, &weights(1.0));
    assert!(verdict(&counts, &weights(0.0)).is_err(), "not caught: no division by q");
    assert!(verdict(&counts, &weights(-1.0)).is_err(), "not caught: times q");
}

#[test]
fn rows_draw_the_slots_they_may_be_given_and_report_it() {
    let world = world();
    for exclude in ["history", "target", "none"] {
        let params = [("size", number(40.0)), ("candidates", number(60.0))];
        let config = configured("sequence", 500, exclude, kind("uniform", &[]), &params);
        let sampler = Sampler::new(&config, &world.knowledge(), 5).unwrap();
        let drawn = draw(&sampler, &batch(1, 2000, 7, 0, &SEEN), &scores(), 0);
        let pool = &pools(&sampler, 40)[0];
        assert_eq!(pool.iter().any(|i| SEEN.contains(i)), exclude != "history", "{exclude}: {pool:?}");
        let excluded: &[u32] = if exclude == "none" { &[] } else { &[7] };
        let expected = law(&of_slots(pool), excluded);
        faults(&drawn, &expected).unwrap_or_else(|fault| panic!("{exclude}: {fault}"));
        // The program the method was published with.
        let one_of_size = Negatives { log_q: vec![-(40f32.ln()); drawn.ids.len()], ..drawn.clone() };
        assert!(faults(&one_of_size, &expected).is_err(), "not caught: copies not counted");
    }
}

#[test]
fn half_of_a_pool_is_renewed_once_an_epoch() {
    const SIZE: usize = 4;
    let (scores, batch) = (scores(), batch(25_000, 1, TARGET, 0, &SEEN));
    let sampler = whole(SIZE, "history", 23);
    let old = [3u32, 3, 8, 27];
    // One slot of each pool: slots of one pool share the fresh draws, so they are not independent.
    let mut counts = vec![0; ITEMS];
    let users: Vec<f32> = (0..25_000).flat_map(|u| [0.0, u as f32]).collect();
    let slots: Vec<f32> = (0..25_000).flat_map(|_| old.iter().flat_map(|&i| [0.0, i as f32])).collect();
    let sizes = vec![SIZE as f32; 25_000];
    let parts = [("pool.users", users), ("pool.epochs", vec![0.0; 25_000]), ("pool.sizes", sizes), ("pool.slots", slots)];
    let find = |name: &str| parts.iter().find(|p| p.0 == name).map(|p| &p.1[..]);
    for epoch in 1..=40 {
        sampler.restore(&find).unwrap();
        draw(&sampler, &batch, &scores, epoch);
        let renewed = pools(&sampler, SIZE);
        renewed.iter().for_each(|pool| counts[pool[epoch as usize % SIZE] as usize] += 1);
    }
    assert_eq!(counts.iter().sum::<u64>(), 1_000_000);
    let (was, fresh) = (of_slots(&old), preference(&scores, &SEEN));
    let mixed = |share: f64| -> Vec<f64> { was.iter().zip(&fresh).map(|(a, b)| share * a + (1.0 - share) * b).collect() };
    assert_law("renewed pools", &counts, &mixed(0.5));
    for (fault, share) in [("never renewed", 1.0), ("all new", 0.0), ("a percent too old", 0.51), ("a percent too new", 0.49)] {
        assert!(verdict(&counts, &mixed(share)).is_err(), "not caught: {fault}");
    }
}

#[test]
fn within_an_epoch_and_a_user_the_pool_is_one() {
    let sampler = whole(20, "history", 23);
    let (scores, mut two) = (scores(), batch(2, 3, TARGET, 0, &SEEN));
    // Two sequences of one user.
    two.users = vec![6, 6];
    draw(&sampler, &two, &scores, 0);
    let first = pools(&sampler, 20);
    assert_eq!(first.len(), 1);
    let drawn = draw(&sampler, &two, &scores.iter().map(|s| -s).collect::<Vec<_>>(), 0);
    assert_eq!(pools(&sampler, 20), first, "within an epoch nothing moves");
    assert!(drawn.ids.iter().all(|i| first[0].contains(i)));
    draw(&sampler, &two, &scores, 1);
    assert_ne!(pools(&sampler, 20), first);
    // The second sequence alone does what it did beside the first.
    let (again, second) = (whole(20, "history", 23), batch(1, 3, TARGET, 0, &SEEN));
    let second = Batch { users: vec![6], row_keys: two.row_keys[3..].to_vec().into(), ..second };
    draw(&again, &two, &scores, 0);
    assert_eq!(draw(&again, &second, &scores, 0).ids, draw(&again, &two, &scores, 0).ids[3..]);
}

#[test]
fn what_is_restored_goes_on_for_any_number_of_threads() {
    let world = gappy(40);
    let batch = batch(30, 3, TARGET, 0, &[0, 1, 5]);
    for (score, device) in KINDS.into_iter().zip(DEVICES) {
        let model = Model::new(score, batch.rows(), 40, false, false);
        let params = [("size", number(7.0)), ("candidates", number(11.0))];
        let make = || {
            let config = configured("sequence", 2, "history", kind("uniform", &[]), &params);
            Sampler::new(&config, &world.knowledge(), 5).unwrap()
        };
        let (_, a, new) = goes_on_after_a_checkpoint(&model, &device, &batch, &make, &[0, 0, 1, 1, 2, 3].map(moment));
        assert_ne!(new.ids, a.ids, "the pools matter");
        assert!(a.ids.iter().all(|&i| world.counts[i as usize] > 0 && ![0, 1, 5].contains(&i)));
    }
}

#[test]
fn pools_that_do_not_fit_are_refused() {
    let sampler = whole(2, "history", 23);
    let code = |users: &[f32], epochs: &[f32], sizes: &[f32], slots: &[f32]| {
        let parts = [("pool.users", users), ("pool.epochs", epochs), ("pool.sizes", sizes), ("pool.slots", slots)];
        let find = |name: &str| parts.iter().find(|p| p.0 == name).map(|p| p.1);
        sampler.restore(&find).err().map(|e| e.code())
    };
    let refused = Some(Code::M0402);
    assert_eq!(code(&[0.0, 3.0], &[1.0], &[2.0], &[0.0, 5.0, 0.0, 6.0]), None);
    assert_eq!(pools(&sampler, 2), [[5, 6]]);
    assert_eq!(code(&[0.0, 3.0], &[1.0], &[2.0], &[0.0, 5.0]), refused, "fewer than its size");
    assert_eq!(code(&[0.0, 3.0], &[1.0], &[2.0], &[0.0, 5.0, 0.0, 30.0]), refused, "an item the catalogue does not have");
    assert_eq!(code(&[0.0, 3.5], &[1.0], &[2.0], &[0.0, 5.0, 0.0, 6.0]), refused, "half a user");
    assert_eq!(code(&[0.0, 3.0], &[], &[2.0], &[0.0, 5.0, 0.0, 6.0]), refused, "no epoch");
    for bad in [f32::NAN, f32::INFINITY, -1.0, 0.5] {
        assert_eq!(code(&[0.0, 3.0], &[bad], &[2.0], &[0.0, 5.0, 0.0, 6.0]), refused, "epoch {bad}");
        assert_eq!(code(&[0.0, 3.0], &[1.0], &[2.0], &[0.0, 5.0, bad, 6.0]), refused, "slot {bad}");
        assert_eq!(code(&[0.0, 3.0], &[1.0], &[bad], &[0.0, 5.0, 0.0, 6.0]), refused, "size {bad}");
    }
    assert_eq!(code(&[], &[], &[], &[]), None);
    assert!(sampler.state().is_empty());
}

#[test]
fn settings_that_cannot_be_met_are_refused_and_what_is_left_over_is_left_empty() {
    let world = world();
    let code = |propose: Kind, params: &[(&str, Value)]| {
        let config = configured("sequence", 3, "history", propose, params);
        Sampler::new(&config, &world.knowledge(), 5).err().map(|e| e.code())
    };
    let uniform = || kind("uniform", &[]);
    assert_eq!(code(uniform(), &[]), None);
    for size in [0.0, -1.0, 1.5, 4097.0, f64::NAN] {
        assert_eq!(code(uniform(), &[("size", number(size))]), Some(Code::C0202), "size {size}");
    }
    assert_eq!(code(uniform(), &[("candidates", number(0.0))]), Some(Code::C0202));
    let distinct = kind("uniform", &[("distinct", Value::Flag(true))]);
    assert_eq!(code(distinct, &[("candidates", number(29.0))]), Some(Code::C0205), "more than the items");
    assert_eq!(code(kind("catalogue", &[]), &[]), Some(Code::C0205));
    assert_eq!(code(uniform(), &[("sise", number(3.0))]), Some(Code::C0201));
    assert_eq!(code(uniform(), &[("alpha", number(3.0))]), Some(Code::C0203), "a parameter of another kind");

    // Scores that are no numbers fill a pool evenly; a slot without an item is one no loss reads.
    let broken = draw(&whole(50, "history", 23), &batch(2, 2, TARGET, 0, &SEEN), &[f64::NAN; ITEMS], 0);
    assert!(broken.ids.iter().all(|&i| (i as usize) < ITEMS && !SEEN.contains(&i)));
    let steep: Vec<f64> = (0..ITEMS).map(|i| if i == 7 { 1e4 } else { 0.0 }).collect();
    let only_the_target = draw(&whole(5, "target", 27), &batch(1, 4, 7, 0, &[]), &steep, 0);
    assert!(only_the_target.ids.iter().all(|&i| i == NONE));
}
