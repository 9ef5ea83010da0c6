//! Samplers that meet in a limit: what two methods share must be the same. Limits of a selection alone are in `select.rs` and
//! `ranked.rs`, of weights and interpolation in `weight.rs`, of a memory in `memory.rs`, of losses in `src/loss/tests.rs`.

use super::select::{KINDS, Model, gappy};
use super::*;
use crate::sampling::propose::Place;

fn select(scope: &str, n: u32, propose: Kind, select: Kind, log_q: bool) -> config::Sampler {
    config::Sampler { select: Some(select), ..config(scope, n, "history", vec![propose], log_q) }
}

/// All items of `gappy(40)` that are trained, each once: a list that is the catalogue.
fn everything() -> (Kind, (&'static str, Value)) {
    (kind("uniform", &[("distinct", Value::Flag(true))]), ("candidates", number(34.0)))
}

#[test]
fn cans_with_one_cluster_is_log_popularity_item_by_item() {
    let world = World::new(50, &[(0..47).flat_map(|i| vec![i; 1 + i as usize * i as usize % 31]).collect()], 1, |_, _| 0);
    let of = |kind: Kind| Sampler::new(&config("position", 1, "none", vec![kind], true), &world.knowledge(), 1).unwrap();
    let (cans, log) = (of(kind("cluster", &[])), of(kind("popularity", &[("form", word("log1p"))])));
    let place = Place { cluster: 0, batch: None, target: 1, user: 0, event: 0, epoch: 0, visited: None };
    for item in 0..50 {
        let [a, b] = [&cans, &log].map(|sampler| sampler.proposals[0].at(0).unwrap().prob(&place, item));
        assert!((a - b).abs() <= 1e-12 * b, "item {item}: {a} and {b}");
    }
}

/// Contexts of one cluster cannot be chosen among: any training event, of whatever item.
#[test]
fn hard_wrong_contexts_of_one_cluster_are_any_event() {
    let history: Vec<u32> = (0..9).flat_map(|i| vec![i; 1 + 3 * i as usize]).collect();
    let world = World::new(9, &[history[..40].to_vec(), history[40..].to_vec()], 1, |_, _| 0);
    let hard = config::Sampler {
        mix: Some(kind("wrong_context", &[("choice", word("hard"))])),
        ..config("position", 1, "target", vec![kind("uniform", &[])], false)
    };
    let sampler = Sampler::new(&hard, &world.knowledge(), 4).unwrap();
    let drawn = drawn(&sampler, &batch(2, 10_000, 8, 0, &[]));
    // Two users, each with one held-out event at the end.
    let trained =
        |event: usize| world.train_end.iter().zip(&world.offsets).any(|(&end, &from)| (from..end).contains(&(event as u64)));
    let events = world.event_items.len();
    let weights: Vec<f64> = (0..events).map(|e| f64::from(u8::from(trained(e)))).collect();
    assert!(weights.contains(&0.0));
    assert_law("events", &count(events, drawn.wrong_context.iter().map(|&e| e as u32)), &law(&weights, &[]));
}

/// GenNi from a list of its own for every position: of all items at beta 0 the uniform sampler, at any beta the whole catalogue's law.
#[test]
fn genni_per_query_over_everything_is_genni_over_the_catalogue() {
    let world = gappy(40);
    let (all, candidates) = everything();
    for (score, beta) in [(KINDS[0], 0.0), (KINDS[0], 1.0), (KINDS[1], 1.3)] {
        let model = Model::new(score, 2000, 40, true, true);
        let beta_of = ("beta", number(beta));
        let listed = kind("softmax_draw", &[beta_of.clone(), candidates.clone()]);
        let whole = kind("softmax_draw", &[beta_of]);
        let batch = batch(2, 1000, 8, 0, &[]);
        let weights: Vec<f64> =
            (0..40).map(|i| if world.counts[i] == 0 { 0.0 } else { (beta * model.score(0, i)).exp() }).collect();
        let expected = law(&weights, &[8]);
        for (propose, select) in [(all.clone(), listed), (kind("catalogue", &[]), whole)] {
            let config = self::select("position", 20, propose.clone(), select, true);
            let sampler = Sampler::new(&config, &world.knowledge(), 3).unwrap();
            let negatives = model.draw(&Device::HOST, &sampler, &batch, START);
            faults(&negatives, &expected).unwrap_or_else(|fault| panic!("{propose:?}, beta {beta}: {fault}"));
        }
    }
}

/// DNS over everything is the arg-max of the catalogue, and a cold GenNi of a list is the DNS of that list.
#[test]
fn dns_over_everything_is_the_arg_max_and_a_cold_genni_is_dns() {
    let world = gappy(40);
    let (all, candidates) = everything();
    let model = Model::new(KINDS[0], 300, 40, false, false);
    let batch = batch(3, 100, 8, 0, &[1, 2, 30]);
    let ids = |propose: &Kind, select: Kind| {
        let sampler = Sampler::new(&self::select("position", 1, propose.clone(), select, false), &world.knowledge(), 3).unwrap();
        model.draw(&Device::ORACLE, &sampler, &batch, START).ids
    };
    let arg_max = ids(&kind("catalogue", &[]), kind("top_k", &[]));
    assert_eq!(ids(&all, kind("top_k", std::slice::from_ref(&candidates))), arg_max);
    for propose in [kind("uniform", &[]), all] {
        let of =
            |name: &str, more: &[(&str, Value)]| ids(&propose, kind(name, &[&[("candidates", number(20.0))], more].concat()));
        let (dns, cold) = (of("top_k", &[]), of("softmax_draw", &[("beta", number(1e4))]));
        // Scores nearer than some ten thousandths are told apart by no difficulty there is.
        let differ = dns.iter().zip(&cold).enumerate().filter(|(_, (a, b))| a != b);
        differ.for_each(|(r, (&a, &b))| {
            let [a, b] = [a, b].map(|i| model.score(r, i as usize));
            assert!(a - b < 5e-3, "row {r}: {a} and {b}");
        });
        assert_ne!(dns, of("softmax_draw", &[("beta", number(0.0))]));
    }
}
