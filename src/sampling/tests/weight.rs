//! Weights and mixing: by definition in f64, their limits, and what of them reaches the loss.

use super::select::{DEVICES, KINDS, Model, gappy};
use super::*;
use crate::ops::score::ScoreKind;

const ITEMS: usize = 40;

/// What the sampler draws with `weight`, and the same draws with their log-probabilities and without weights.
fn both(device: &Device, model: &Model, scope: &str, proposal: Kind, weight: Kind, mix: Option<Kind>) -> (Negatives, Negatives) {
    let world = gappy(ITEMS);
    let batch = batch(7, 9, 8, 0, &[1, 2, 30]);
    let draw = |weight: Kind| {
        let own = config(scope, 6, "history", vec![proposal.clone()], false);
        let config = config::Sampler { weight: Some(weight), mix: mix.clone(), ..own };
        model.draw(device, &Sampler::new(&config, &world.knowledge(), 3).unwrap(), &batch, START)
    };
    (draw(weight), draw(kind("log_q", &[])))
}

/// Weights of row `r` from the logarithms of unnormalised ones: mean one over the filled slots.
fn normalised(logs: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let most = logs.iter().map(|(_, l)| *l).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logs.iter().map(|(_, l)| (l - most).exp()).sum();
    logs.iter().map(|&(j, l)| (j, (l - most).exp() / total * logs.len() as f64)).collect()
}

type LogWeight = fn(positive: f64, scores: &[f64], n: usize) -> f64;

fn attention(_: f64, scores: &[f64], n: usize) -> f64 {
    scores[n] / 0.7
}

fn divergence(positive: f64, scores: &[f64], n: usize) -> f64 {
    let z: Vec<f64> = scores.iter().map(|s| -(1.0 / (1.0 + (s - positive).exp())).ln()).collect();
    let mean = z.iter().sum::<f64>() / z.len() as f64;
    let variance = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / z.len() as f64;
    if variance == 0.0 { 0.0 } else { z[n] / (variance / (2.0 * 0.3)).sqrt() }
}

#[test]
fn importance_weights_are_their_definition() {
    let popularity = || kind("popularity", &[("alpha", number(1.0))]);
    let kinds: [(Kind, LogWeight); 2] = [
        (kind("attention", &[("temperature", number(0.7))]), attention),
        (kind("divergence", &[("rho", number(0.3))]), divergence),
    ];
    for (weight, log_weight) in kinds {
        for device in DEVICES {
            for (score, scope, mixed) in [
                (KINDS[0], "position", false),
                (KINDS[1], "sequence", false),
                (KINDS[0], "batch", true),
                (KINDS[0], "position", true),
            ] {
                let model = Model::new(score, 63, ITEMS, true, false);
                let mix = mixed.then(|| kind("interpolate", &[]));
                let (own, plain) = both(&device, &model, scope, popularity(), weight.clone(), mix);
                assert_eq!((&own.ids, &own.drop, &own.toward_positive), (&plain.ids, &plain.drop, &plain.toward_positive));
                assert!(own.log_q.is_empty() && !plain.log_q.is_empty(), "the loss would correct a second time");
                for g in 0..own.groups() {
                    for r in own.range(g) {
                        let toward = own.toward_positive.get(r).map_or(0.0, |&a| f64::from(a));
                        let filled: Vec<usize> = (0..6)
                            .filter(|&j| own.ids[g * 6 + j] != NONE && !own.drop.get(r * 6 + j).copied().unwrap_or(false))
                            .collect();
                        let positive = model.score(r, 8);
                        let score = |&j: &usize| toward * positive + (1.0 - toward) * model.score(r, own.ids[g * 6 + j] as usize);
                        let scores: Vec<f64> = filled.iter().map(score).collect();
                        let log =
                            |(n, &j): (usize, &usize)| (j, log_weight(positive, &scores, n) - f64::from(plain.log_q[g * 6 + j]));
                        let logs: Vec<(usize, f64)> = filled.iter().enumerate().map(log).collect();
                        for (j, want) in normalised(&logs) {
                            let got = f64::from(own.weight[r * 6 + j]);
                            assert!((got - want).abs() < 2e-5 * want.max(1.0), "{weight:?} {scope}: {got} for {want}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn without_heat_or_divergence_every_negative_counts_alike() {
    let model = Model::new(ScoreKind::Dot, 63, ITEMS, false, false);
    let weights = |weight: Kind| both(&Device::HOST, &model, "position", kind("uniform", &[]), weight, None).0.weight;
    let far = |weights: Vec<f32>| weights.iter().map(|w| (w - 1.0).abs()).fold(0.0, f32::max);
    assert!(far(weights(kind("divergence", &[("rho", number(0.0))]))) < 1e-6);
    assert!(far(weights(kind("attention", &[("temperature", number(1e6))]))) < 1e-4);
    assert!(far(weights(kind("attention", &[("temperature", number(1.0))]))) > 0.5, "otherwise nothing is tested");
}

#[test]
fn a_weight_that_needs_a_probability_refuses_an_arg_max() {
    let top = |weight: &str| config::Sampler {
        select: Some(kind("top_k", &[])),
        weight: Some(kind(weight, &[])),
        ..config("position", 1, "history", vec![kind("uniform", &[])], false)
    };
    for weight in ["attention", "divergence", "log_q"] {
        assert_eq!(Plan::new(&top(weight)).err().unwrap().code(), Code::C0205, "{weight}");
    }
    assert!(Plan::new(&top("propensity")).is_ok());
}

#[test]
fn rows_count_by_their_target() {
    let world = gappy(ITEMS);
    let weigh = |weight: Kind| {
        let own = config::Sampler { weight: Some(weight), ..config("position", 4, "history", vec![kind("uniform", &[])], false) };
        let sampler = Sampler::new(&own, &world.knowledge(), 3).unwrap();
        assert!(!sampler.needs_scores());
        let mut batch = batch(1, ITEMS, 0, 0, &[]);
        batch.targets = (0..ITEMS as u32).collect();
        drawn(&sampler, &batch)
    };
    for weight in [kind("propensity", &[]), kind("category_balance", &[("b", number(0.9))])] {
        let got = weigh(weight).row_weight;
        let events: f64 = world.counts.iter().map(|&f| f64::from(f)).sum();
        let mean: f64 = got.iter().zip(&world.counts).map(|(&w, &f)| f64::from(w) * f64::from(f)).sum::<f64>() / events;
        assert!((mean - 1.0).abs() < 1e-5 && got.iter().any(|w| (w - 1.0).abs() > 0.05), "{mean}");
    }
    let negatives = weigh(kind("category_balance", &[("of", word("negative")), ("b", number(0.9))]));
    assert!(negatives.row_weight.is_empty());
    for row in negatives.weight.chunks(4) {
        assert!((row.iter().sum::<f32>() - 4.0).abs() < 1e-4);
    }
    assert!(negatives.weight.iter().any(|w| (w - 1.0).abs() > 0.01));
}

#[test]
fn attributes_are_asked_for_before_training() {
    let world = gappy(ITEMS);
    let own = config::Sampler { weight: Some(kind("category_balance", &[])), ..config::Sampler::default() };
    let error = Sampler::new(&own, &Knowledge { attributes: None, ..world.knowledge() }, 3).err().unwrap();
    assert_eq!(error.code(), Code::D0303);
}

/// The share of the way is uniform up to `most`, is the row's own, and 0 leaves DNS as it is.
#[test]
fn interpolation_moves_by_a_uniform_share() {
    let world = gappy(ITEMS);
    let model = Model::new(ScoreKind::Dot, 20_000, ITEMS, false, true);
    let draw = |most: Option<f64>| {
        let own = config::Sampler {
            select: Some(kind("top_k", &[("candidates", number(8.0))])),
            mix: most.map(|most| kind("interpolate", &[("most", number(most))])),
            ..config("position", 1, "history", vec![kind("uniform", &[])], false)
        };
        let sampler = Sampler::new(&own, &world.knowledge(), 3).unwrap();
        assert_eq!(sampler.needs_dot(), most.is_some());
        model.draw(&Device::HOST, &sampler, &batch(2, 10_000, 8, 0, &[]), START)
    };
    let (dns, still, moved) = (draw(None), draw(Some(0.0)), draw(Some(0.5)));
    assert!(dns.ids == still.ids && dns.ids == moved.ids && dns.toward_positive.is_empty());
    assert!(still.toward_positive.iter().all(|&a| a == 0.0));
    let tenths = moved.toward_positive.iter().map(|&a| (a * 20.0) as u32);
    assert_law("share of the way", &count(10, tenths), &[0.1; 10]);
}
