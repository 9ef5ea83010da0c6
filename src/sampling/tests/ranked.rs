//! Selections that decide on a ranking of the candidates: their limits, against `top_k` and `all`, and the law of a band.

use super::*;
use crate::device::Buffer;
use crate::ops::score::ScoreKind;

const ITEMS: usize = 60;

/// Score of an item: a fixed pattern without ties, `sin(1.7 i)`.
fn pattern(i: usize) -> f64 {
    (i as f64 * 1.7).sin()
}

fn sampler(select: Kind, n: u32, scope: &str) -> Sampler {
    let history: Vec<u32> = (0..ITEMS as u32).flat_map(|i| vec![i; 1 + i as usize % 5]).collect();
    let world = World::new(ITEMS, &[history, vec![3, 4]], 1, |_, _| 0);
    let config = config::Sampler { select: Some(select), ..config(scope, n, "history", vec![kind("uniform", &[])], false) };
    Sampler::new(&config, &world.knowledge(), 5).unwrap()
}

fn draw(device: &Device, sampler: &Sampler, batch: &Batch, score: impl Fn(usize) -> f64) -> Negatives {
    let buffer = |x: Vec<f64>| -> Buffer { device.reals(&x).unwrap() };
    let (query, table) = (buffer(vec![1.0; batch.rows()]), buffer((0..ITEMS).map(score).collect()));
    let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: ITEMS, query: &query, context: None, table: &table };
    sampler.draw(device, batch, Some(&scoring), START).unwrap()
}

fn of(name: &str, params: &[(&str, f64)]) -> Kind {
    kind(name, &params.iter().map(|(name, x)| (*name, number(*x))).collect::<Vec<_>>())
}

/// The band of the first N is the arg-max, and nearest to a score nobody reaches is the arg-max: for lists of a row, of a sequence
/// and of a batch. The posterior is held to its definition below.
#[test]
fn the_hardest_limits_are_top_k() {
    let batch = batch(6, 40, 8, 0, &[1, 2, 8, 30]);
    for scope in ["position", "sequence", "batch"] {
        let top = draw(&Device::HOST, &sampler(of("top_k", &[("candidates", 20.0)]), 3, scope), &batch, pattern);
        let sorted = |negatives: &Negatives| -> Vec<Vec<u32>> {
            let set = |g: usize| {
                let mut ids = negatives.ids_of(g).to_vec();
                ids.sort_unstable();
                ids
            };
            (0..negatives.groups()).map(set).collect()
        };
        let band = of("rank_band", &[("from", 1.0), ("to", 3.0), ("candidates", 20.0)]);
        let adaptive = of("adaptive", &[("alpha", 2.0), ("beta", 1e4), ("power", -1.0), ("candidates", 20.0)]);
        for (name, select) in [("band", band), ("adaptive", adaptive)] {
            let own = draw(&Device::HOST, &sampler(select, 3, scope), &batch, pattern);
            assert_eq!(sorted(&own), sorted(&top), "{name}, {scope}");
        }
    }
}

/// Among the same 20 candidates every place of the band is taken equally often, and no other; 1 .. M are all of them.
#[test]
fn a_band_is_drawn_from_uniformly() {
    let batch = batch(1, 6000, 8, 0, &[]);
    let shared = drawn(&sampler(kind("all", &[]), 20, "batch"), &batch);
    let mut ranked: Vec<u32> = shared.ids.iter().copied().filter(|&i| i != 8).collect();
    ranked.sort_by(|&a, &b| pattern(b as usize).total_cmp(&pattern(a as usize)));
    ranked.dedup();
    for (from, to) in [(4, 9), (1, 20)] {
        let band = of("rank_band", &[("from", from as f64), ("to", to as f64), ("candidates", 20.0)]);
        let places = &ranked[from - 1..to.min(ranked.len())];
        let mut law = vec![0.0; ITEMS];
        places.iter().for_each(|&i| law[i as usize] = 1.0 / places.len() as f64);
        let negatives = draw(&Device::HOST, &sampler(band, 1, "batch"), &batch, pattern);
        verdict(&count(ITEMS, negatives.ids.iter().copied()), &law).unwrap_or_else(|fault| panic!("{from} .. {to}: {fault}"));
    }
    // Without replacement: all of the band when as many are wanted.
    let band = of("rank_band", &[("from", 4.0), ("to", 9.0), ("candidates", 20.0)]);
    let negatives = draw(&Device::HOST, &sampler(band, 6, "batch"), &batch, pattern);
    for r in 0..50 {
        let mut ids = negatives.ids_of(r).to_vec();
        ids.sort_by(|&a, &b| pattern(b as usize).total_cmp(&pattern(a as usize)));
        assert_eq!(ids, &ranked[3..9]);
    }
}

/// The criterion of each, computed the slow way over the candidates of each row.
#[test]
fn criteria_by_definition() {
    let batch = batch(2, 200, 8, 0, &[5]);
    let positive = pattern(8);
    let lists = drawn(&sampler(kind("all", &[]), 16, "position"), &batch);
    let mut counts = vec![0.0; ITEMS];
    (0..ITEMS).for_each(|i| counts[i] = (1 + i % 5) as f64);
    counts[3] += 1.0;
    counts[4] += 1.0;
    let best = |r: usize, worth: &dyn Fn(u32, &[u32]) -> f64| -> u32 {
        let mut own = lists.ids_of(r).to_vec();
        own.sort_unstable();
        own.dedup();
        *own.iter().max_by(|a, b| worth(**a, &own).total_cmp(&worth(**b, &own))).unwrap()
    };
    let adaptive = of("adaptive", &[("alpha", 1.5), ("beta", 0.4), ("power", -2.0), ("candidates", 16.0)]);
    for device in [Device::HOST, Device::ORACLE] {
        let nearest = draw(&device, &sampler(adaptive.clone(), 1, "position"), &batch, pattern);
        for r in 0..400 {
            let worth = |i: u32, _: &[u32]| -(pattern(i as usize) - 0.4 / (positive + 1.5)).abs();
            assert_eq!(nearest.ids_of(r), [best(r, &worth)]);
        }
        // 0: the least of info (1 - unbias); large: the most of info unbias.
        for lambda in [0.0, 2.0, 1e4] {
            let posterior = of("posterior", &[("lambda", lambda), ("candidates", 16.0)]);
            let kept = draw(&device, &sampler(posterior, 1, "position"), &batch, pattern);
            for r in 0..400 {
                let worth = |i: u32, own: &[u32]| {
                    let s = pattern(i as usize);
                    let below = own.iter().filter(|&&j| pattern(j as usize) < s).count() as f64 + 0.5;
                    let (f, prior) = (below / own.len() as f64, (counts[i as usize] / 2.0f64).min(0.999));
                    let unbias = (1.0 - f) * (1.0 - prior) / ((1.0 - f) * (1.0 - prior) + f * prior);
                    let info = 1.0 - 1.0 / (1.0 + (s - positive).exp());
                    -(info * (1.0 - (1.0 + lambda) * unbias))
                };
                assert_eq!(kept.ids_of(r), [best(r, &worth)], "lambda {lambda}, row {r}");
            }
        }
    }
}

#[test]
fn what_cannot_be_chosen_is_refused_or_left_empty() {
    let world = World::new(ITEMS, &[(0..ITEMS as u32).collect()], 1, |_, _| 0);
    let code = |select: Kind, n: u32, propose: &str| {
        let config =
            config::Sampler { select: Some(select), ..config("position", n, "history", vec![kind(propose, &[])], false) };
        Sampler::new(&config, &world.knowledge(), 5).err().map(|e| e.code())
    };
    let band = |from: f64, to: f64| of("rank_band", &[("from", from), ("to", to), ("candidates", 20.0)]);
    assert_eq!(code(band(3.0, 5.0), 4, "uniform"), Some(Code::C0205), "four of a band of three");
    assert_eq!(code(band(9.0, 2.0), 1, "uniform"), Some(Code::C0205), "a band that ends before it begins");
    for name in ["rank_band", "adaptive", "posterior", "memory"] {
        assert_eq!(code(kind(name, &[]), 1, "catalogue"), Some(Code::C0205), "{name}");
        let broken = draw(&Device::HOST, &sampler(kind(name, &[]), 2, "position"), &batch(1, 3, 8, 0, &[]), |_| f64::NAN);
        assert!(broken.ids.iter().all(|&i| i == NONE || (i as usize) < ITEMS), "{name}");
    }
}
