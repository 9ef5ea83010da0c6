//! Catalogues from three items to fifty million: every item can be drawn, as often as its law says.

use rayon::prelude::*;

use super::*;
use crate::sampling::propose::Place;

const SIZES: [usize; 5] = [3, 1000, 1_000_000, (1 << 24) + 1, 50_000_000];
const PLACE: Place = Place { cluster: 0, batch: None, target: 0, user: 0, event: 0, epoch: 0, visited: None };

fn of_counts(counts: &[u32], propose: Kind, n: u32) -> Sampler {
    Sampler::new(&config("position", n, "none", vec![propose], false), &Knowledge::of_counts(counts), 1).unwrap()
}

/// The words from `ceil(i 2^64 / n)` up to that of the next item draw item `i`: both ends are tried, item by item, so that the law
/// is known exactly and no item is out of reach.
#[test]
fn as_many_words_draw_every_item_of_any_catalogue() {
    for n in SIZES {
        let counts = vec![1; n];
        let sampler = of_counts(&counts, kind("uniform", &[]), 1);
        let law = sampler.proposals[0].at(0).unwrap();
        let first = |i: usize| ((i as u128) << 64).div_ceil(n as u128) as u64;
        (0..n).into_par_iter().for_each(|i| {
            // The first word after the last item is 2^64, which is 0.
            let (low, high) = (first(i), first(i + 1).wrapping_sub(1));
            assert_eq!([law.draw(&PLACE, &[low]), law.draw(&PLACE, &[high])], [i as u32; 2], "of {n}");
            let share = ((high - low) as f64 + 1.0) / 2f64.powi(64);
            assert!((share * n as f64 - 1.0).abs() < 1e-6 && (law.prob(&PLACE, i as u32) * n as f64 - 1.0).abs() < 1e-6);
        });
    }
}

/// Of a log in which few items are met a million times and most once or twice; fifty million items are in `alias.rs`, which also
/// has what the columns draw.
#[test]
fn popular_and_rare_items_of_large_catalogues_have_their_f64_probability() {
    type Weight = fn(f64) -> f64;
    let laws: [(Kind, Weight); 3] = [
        (kind("popularity", &[]), |f| f.powf(0.75)),
        (kind("popularity", &[("alpha", number(1.0))]), |f| f),
        (kind("popularity", &[("form", word("log"))]), |f| (1.0 + f).ln()),
    ];
    for n in &SIZES[..4] {
        let counts: Vec<u32> = (0..*n).map(|i| (1_000_000 / (1 + i * 7919 % n)) as u32 + 1).collect();
        for (kind, weight) in laws.iter().take(if *n > 1_000_000 { 1 } else { 3 }) {
            let sampler = of_counts(&counts, kind.clone(), 1);
            let law = sampler.proposals[0].at(0).unwrap();
            let total: f64 = counts.iter().map(|&f| weight(f64::from(f))).sum();
            (0..*n).into_par_iter().for_each(|i| {
                let (got, want) = (law.prob(&PLACE, i as u32), weight(f64::from(counts[i])) / total);
                assert!((got / want - 1.0).abs() < 1e-6, "item {i} of {n}: {got} for {want}");
            });
        }
    }
}

/// Draws of `propose` from `counts.len()` items, by item: `draws` of them at least.
fn many(counts: &[u32], propose: Kind, draws: u64) -> Vec<u64> {
    let sampler = of_counts(counts, propose, 4096);
    let batch = batch(16, 64, 0, 0, &[]);
    let mut met = vec![0; counts.len()];
    for epoch_index in 0..draws.div_ceil(16 * 64 * 4096) {
        let drawn = sampler.draw(&Device::HOST, &batch, None, Moment { epoch_index, ..START }).unwrap();
        drawn.ids.iter().for_each(|&i| met[i as usize] += 1);
    }
    met
}

/// As many draws as it takes to find, with a probability of 99.9 %, that every second item is drawn by one percent too often and
/// the others too rarely: it is found, and the sound laws pass.
fn one_percent_is_found(items: usize, draws: u64) {
    let (even, tilted) = (vec![1; items], (0..items).map(|i| 99 + 2 * (i % 2) as u32).collect::<Vec<u32>>());
    let uniform = vec![1.0 / items as f64; items];
    let events: f64 = tilted.iter().map(|&f| f64::from(f)).sum();
    let popular = || kind("popularity", &[("alpha", number(1.0))]);
    assert_law("uniform", &many(&even, kind("uniform", &[]), draws), &uniform);
    let biased = many(&tilted, popular(), draws);
    assert_law("popularity", &biased, &tilted.iter().map(|&f| f64::from(f) / events).collect::<Vec<f64>>());
    assert!(verdict(&biased, &uniform).is_err(), "a bias of one percent among {items} items is not found in {draws} draws");
}

#[test]
fn a_bias_of_one_percent_is_found_among_a_thousand_items() {
    one_percent_is_found(1000, 4_100_000);
}

#[test]
fn a_bias_of_one_percent_is_found_among_a_hundred_thousand_items() {
    one_percent_is_found(100_000, 37_000_000);
}

#[test]
fn a_bias_of_one_percent_is_found_among_a_million_items() {
    one_percent_is_found(1_000_000, 115_000_000);
}

#[test]
fn every_item_of_a_large_catalogue_can_be_drawn() {
    // 2^24 + 1 is where f32 stops counting; fifty million is where f32 scaling misses two thirds.
    for n in SIZES {
        let counts = vec![1; n];
        let config = config("position", 4096, "none", vec![kind("uniform", &[])], false);
        let sampler = Sampler::new(&config, &Knowledge::of_counts(&counts), 1).unwrap();
        let ids = drawn(&sampler, &batch(1, 50, 0, 0, &[])).ids;
        assert!(ids.iter().all(|&i| (i as usize) < n));
        // Halves, odd items and the last part are met as often as they should: 204,800 draws.
        let odd = ids.iter().filter(|&&i| i % 2 == 1).count() as f64 / ids.len() as f64;
        let upper = ids.iter().filter(|&&i| i as usize >= n - n / 3).count() as f64 / ids.len() as f64;
        assert!((odd - (n / 2) as f64 / n as f64).abs() < 0.006, "{n}: {odd}");
        assert!((upper - (n / 3) as f64 / n as f64).abs() < 0.006, "{n}: {upper}");
    }
}
