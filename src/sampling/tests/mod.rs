//! Statistical tests of the stages: what is drawn is the law, and the law is what is reported.

use std::collections::BTreeMap;

use super::*;
use crate::config::{Kind, Value};
use crate::data::clusters::{ClusterCounts, ClusterEvents};
use crate::ids::NONE;
use statistics::{assert_law, count, verdict};

mod buckets;
mod explicit;
mod fair;
mod gates;
mod generated;
mod generator;
mod laws;
mod memory;
mod mutants;
mod policy;
mod pool;
mod ranked;
mod select;
#[path = "../../../tests/it/statistics.rs"]
mod statistics;
mod weight;

/// A small world: counts per item, one user per sequence.
struct World {
    counts: Vec<u32>,
    event_items: Vec<u32>,
    offsets: Vec<u64>,
    train_end: Vec<u64>,
    cluster_counts: ClusterCounts,
    cluster_events: ClusterEvents,
    /// Item i carries i mod 3 and 3 + i mod 7; every fifth item nothing.
    attribute_offsets: Vec<u64>,
    attribute_codes: Vec<u32>,
    /// Item i is joined to entities i mod 4, 4 + i / 6 and 60 + i / 2; every seventh item to none.
    graph_offsets: Vec<u64>,
    graph_entities: Vec<u32>,
    /// User u said of (3 u + 5 (j mod 6)) mod V, just before the j-th event, that it is not wanted: eight times.
    explicit_offsets: Vec<u64>,
    explicit_items: Vec<u32>,
    explicit_times: Vec<i64>,
    /// (E)
    times: Vec<i64>,
}

impl World {
    /// Users' training histories, each followed by a held-out event nobody may look at; `cluster` of (event, item).
    fn new(items: usize, users: &[Vec<u32>], clusters: usize, cluster: impl Fn(usize, u32) -> usize) -> World {
        let (mut counts, mut event_items, mut offsets, mut train_end) = (vec![0; items], vec![], vec![0], vec![]);
        let mut by_cluster = vec![Vec::new(); clusters];
        for user in users {
            for &item in user {
                counts[item as usize] += 1;
                by_cluster[cluster(event_items.len(), item)].push(event_items.len() as u32);
                event_items.push(item);
            }
            train_end.push(event_items.len() as u64);
            event_items.push(items as u32 - 1);
            offsets.push(event_items.len() as u64);
        }
        let mut cluster_counts = ClusterCounts { offsets: vec![0], items: vec![], counts: vec![] };
        let mut cluster_events = ClusterEvents { offsets: vec![0], events: vec![] };
        for events in by_cluster {
            let of_item: BTreeMap<u32, u32> = events.iter().fold(BTreeMap::new(), |mut map, &e| {
                *map.entry(event_items[e as usize]).or_default() += 1;
                map
            });
            cluster_counts.items.extend(of_item.keys());
            cluster_counts.counts.extend(of_item.values());
            cluster_counts.offsets.push(cluster_counts.items.len() as u64);
            cluster_events.events.extend(events);
            cluster_events.offsets.push(cluster_events.events.len() as u64);
        }
        let (mut attribute_offsets, mut attribute_codes) = (vec![0], vec![]);
        for item in 0..items as u32 {
            if item % 5 > 0 {
                attribute_codes.extend([item % 3, 3 + item % 7]);
            }
            attribute_offsets.push(attribute_codes.len() as u64);
        }
        let (mut graph_offsets, mut graph_entities) = (vec![0], vec![]);
        for item in 0..items as u32 {
            if item % 7 > 0 {
                graph_entities.extend([item % 4, 4 + item / 6, 60 + item / 2]);
            }
            graph_offsets.push(graph_entities.len() as u64);
        }
        let (mut explicit_offsets, mut explicit_items, mut explicit_times) = (vec![0], vec![], vec![]);
        for user in 0..users.len() {
            explicit_items.extend((0..8).map(|j| ((3 * user + 5 * (j % 6)) % items) as u32));
            explicit_times.extend((0..8).map(|j| 2 * (offsets[user] as i64 + j) - 1));
            explicit_offsets.push(explicit_items.len() as u64);
        }
        let times = (0..event_items.len() as i64).map(|e| 2 * e).collect();
        World {
            counts,
            event_items,
            offsets,
            train_end,
            cluster_counts,
            cluster_events,
            attribute_offsets,
            attribute_codes,
            graph_offsets,
            graph_entities,
            explicit_offsets,
            explicit_items,
            explicit_times,
            times,
        }
    }
    fn knowledge(&self) -> Knowledge<'_> {
        let clusters = Clusters { counts: &self.cluster_counts, events: &self.cluster_events };
        Knowledge {
            train_counts: &self.counts,
            event_items: &self.event_items,
            offsets: &self.offsets,
            train_end: &self.train_end,
            clusters: (!clusters.is_empty()).then_some(clusters),
            attributes: Some(Attributes { offsets: &self.attribute_offsets, codes: &self.attribute_codes }),
            graph: Some(Attributes { offsets: &self.graph_offsets, codes: &self.graph_entities }),
            explicit: Some(Explicit {
                offsets: &self.explicit_offsets,
                items: &self.explicit_items,
                times: Some((&self.times, &self.explicit_times)),
            }),
        }
    }
}

fn kind(name: &str, params: &[(&str, Value)]) -> Kind {
    Kind { kind: name.into(), params: params.iter().map(|(k, v)| (k.to_string(), v.clone())).collect::<BTreeMap<_, _>>() }
}

fn number(x: f64) -> Value {
    Value::Number(x)
}

fn word(w: &str) -> Value {
    Value::Word(w.into())
}

/// A configuration from its parts.
fn config(scope: &str, n: u32, exclude: &str, propose: Vec<Kind>, log_q: bool) -> config::Sampler {
    config::Sampler {
        preset: String::new(),
        scope: Some(scope.into()),
        negatives: Some(n),
        exclude: Some(exclude.into()),
        propose: Some(propose),
        weight: log_q.then(|| kind("log_q", &[])),
        ..config::Sampler::default()
    }
}

/// Sequences of `rows` rows each, one per user, all with the same target, time cluster and seen items.
fn batch(sequences: usize, rows: usize, target: u32, cluster: u32, seen: &[u32]) -> Batch {
    let r = sequences * rows;
    Batch {
        users: (0..sequences as u32).collect(),
        offsets: (0..=sequences).map(|b| (b * rows) as u32).collect(),
        items: vec![0; r],
        targets: vec![target; r],
        row_keys: (0..r as u64).map(|k| 1000 + k).collect(),
        target_clusters: vec![cluster; r],
        seen_offsets: (0..=sequences).map(|b| (b * seen.len()) as u32).collect(),
        seen: (0..sequences).flat_map(|_| seen.iter().copied()).collect(),
        ..Batch::default()
    }
}

const START: Moment = Moment { epoch: 0.0, epoch_index: 0, batch_index: 0 };

fn drawn(sampler: &Sampler, batch: &Batch) -> Negatives {
    sampler.draw(&Device::HOST, batch, None, START).unwrap()
}

/// `weights` without `excluded`, normalised: the law every test compares with, computed the slow and obvious way.
fn law(weights: &[f64], excluded: &[u32]) -> Vec<f64> {
    let kept = |i: usize| if excluded.contains(&(i as u32)) { 0.0 } else { weights[i] };
    let total: f64 = (0..weights.len()).map(kept).sum();
    (0..weights.len()).map(|i| kept(i) / total).collect()
}

/// Draws from every row of `batch`; the ids must follow `law` and the reported log-probabilities must be its logarithms, which
/// implies `E[f(i) / q(i)] = sum f` over the support (checked too, on one random f).
fn check_law(what: &str, sampler: &Sampler, batch: &Batch, law: &[f64]) {
    faults(&drawn(sampler, batch), law).unwrap_or_else(|fault| panic!("{what}: {fault}"));
}

/// What is wrong with draws that should follow `law` and report it.
fn faults(negatives: &Negatives, law: &[f64]) -> std::result::Result<(), String> {
    verdict(&count(law.len(), negatives.ids.iter().copied()), law)?;
    if negatives.log_q.len() != negatives.ids.len() {
        return Err("log q is missing".into());
    }
    let f = |i: u32| 1.0 + (f64::from(i) * 0.7).sin();
    let (mut mean, mut square) = (0.0, 0.0);
    for (&id, &log_q) in negatives.ids.iter().zip(&negatives.log_q) {
        let truth = law[id as usize].ln();
        if (f64::from(log_q) - truth).abs() > 1e-5 {
            return Err(format!("log q of {id} is {log_q} for {truth}"));
        }
        let ratio = f(id) / f64::from(log_q).exp();
        mean += ratio;
        square += ratio * ratio;
    }
    let draws = negatives.ids.len() as f64;
    mean /= draws;
    let spread = ((square / draws - mean * mean).max(0.0) / draws).sqrt();
    let sum: f64 = (0..law.len() as u32).filter(|&i| law[i as usize] > 0.0).map(f).sum();
    if (mean - sum).abs() > 5.0 * spread + 1e-4 * sum {
        return Err(format!("E[f/q] = {mean} for {sum}"));
    }
    Ok(())
}

/// 61 items, of which 7, 20 and 33 occur in no training event; counts follow a steep law.
fn steep() -> World {
    let history: Vec<u32> = (0..61u32)
        .filter(|i| ![7, 20, 33].contains(i))
        .flat_map(|i| std::iter::repeat_n(i, 1 + 600 / (1 + i as usize)))
        .collect();
    World::new(61, &[history], 3, |event, item| (event + item as usize % 7 * (event % 2)) % 3)
}

fn popularity_weights(world: &World, weight: impl Fn(f64) -> f64) -> Vec<f64> {
    world.counts.iter().map(|&f| if f == 0 { 0.0 } else { weight(f64::from(f)) }).collect()
}

fn cluster_weights(world: &World, k: usize) -> Vec<f64> {
    let mut n = vec![0f64; world.counts.len()];
    for &event in world.cluster_events.of(k as u32) {
        n[world.event_items[event as usize] as usize] += 1.0;
    }
    n.iter().zip(&world.counts).map(|(&n, &f)| if f == 0 { 0.0 } else { 1.0 + (1.0 + n).ln() }).collect()
}

/// Seen lists from nothing to all but three items.
fn seen_lists() -> Vec<Vec<u32>> {
    let trained: Vec<u32> = (0..61).filter(|i| ![7, 20, 33].contains(i)).collect();
    vec![vec![], vec![0, 5], (0..30).collect(), trained.iter().copied().filter(|i| ![3, 40, 58].contains(i)).collect()]
}

#[test]
fn fixed_laws_are_drawn_and_reported_under_every_exclusion() {
    let world = steep();
    let laws: Vec<(Kind, Vec<f64>)> = vec![
        (kind("uniform", &[]), popularity_weights(&world, |_| 1.0)),
        (kind("popularity", &[("alpha", number(1.0))]), popularity_weights(&world, |f| f)),
        (kind("popularity", &[]), popularity_weights(&world, |f| f.powf(0.75))),
        (kind("popularity", &[("alpha", number(0.0))]), popularity_weights(&world, |_| 1.0)),
        (kind("popularity", &[("form", word("log"))]), popularity_weights(&world, |f| (1.0 + f).ln())),
        (kind("popularity", &[("form", word("log1p"))]), popularity_weights(&world, |f| 1.0 + (1.0 + f).ln())),
        (kind("cluster", &[]), cluster_weights(&world, 2)),
    ];
    for (proposal, weights) in laws {
        for exclude in ["none", "target", "history"] {
            for seen in seen_lists() {
                let excluded = match exclude {
                    "none" => vec![],
                    "target" => vec![1],
                    _ => seen.iter().copied().chain([1]).collect(),
                };
                let sampler =
                    Sampler::new(&config("position", 37, exclude, vec![proposal.clone()], true), &world.knowledge(), 7).unwrap();
                let what = format!("{proposal:?} excluding {exclude} with {} seen", seen.len());
                check_law(&what, &sampler, &batch(3, 500, 1, 2, &seen), &law(&weights, &excluded));
            }
        }
    }
}

#[test]
fn one_cluster_is_context_free_log_popularity() {
    let world = World::new(20, &[(0..20).flat_map(|i| vec![i; 1 + i as usize * i as usize]).collect()], 1, |_, _| 0);
    let batch = batch(2, 300, 1, 0, &[3]);
    let sampler =
        Sampler::new(&config("position", 33, "history", vec![kind("cluster", &[])], true), &world.knowledge(), 1).unwrap();
    check_law("K = 1", &sampler, &batch, &law(&popularity_weights(&world, |f| 1.0 + (1.0 + f).ln()), &[1, 3]));
}

#[test]
fn mixtures_report_the_mixture_whichever_component_drew() {
    let world = steep();
    let uniform = law(&popularity_weights(&world, |_| 1.0), &[]);
    let popular = law(&popularity_weights(&world, |f| f), &[]);
    let cluster = law(&cluster_weights(&world, 1), &[]);
    let share = |s: f64| ("share", number(s));
    let mixture = vec![
        kind("uniform", &[share(1.0)]),
        kind("popularity", &[share(2.0), ("alpha", number(1.0))]),
        kind("cluster", &[share(5.0)]),
        kind("uniform", &[share(0.0)]),
    ];
    let weights: Vec<f64> = (0..61).map(|i| (uniform[i] + 2.0 * popular[i] + 5.0 * cluster[i]) / 8.0).collect();
    for seen in seen_lists() {
        let sampler = Sampler::new(&config("position", 40, "history", mixture.clone(), true), &world.knowledge(), 3).unwrap();
        let excluded: Vec<u32> = seen.iter().copied().chain([1]).collect();
        check_law("mixture", &sampler, &batch(2, 600, 1, 1, &seen), &law(&weights, &excluded));
    }
}

#[test]
fn in_batch_and_mixed_negatives_follow_the_batch() {
    let world = steep();
    let mut batch = batch(1, 900, 1, 0, &[0, 1, 2]);
    let mut frequency = vec![0.0; 61];
    for (r, target) in batch.targets.iter_mut().enumerate() {
        *target = if r % 3 == 0 { 1 } else { (r % 11) as u32 };
        frequency[*target as usize] += 1.0 / 900.0;
    }
    let uniform = law(&popularity_weights(&world, |_| 1.0), &[]);
    let mixed: Vec<f64> = (0..61).map(|i| 0.5 * uniform[i] + 0.5 * frequency[i]).collect();
    let halves = vec![kind("in_batch", &[("share", number(0.5))]), kind("uniform", &[("share", number(0.5))])];
    for (proposals, weights) in [(vec![kind("in_batch", &[])], frequency), (halves, mixed)] {
        let sampler = Sampler::new(&config("position", 16, "target", proposals, true), &world.knowledge(), 5).unwrap();
        let negatives = drawn(&sampler, &batch);
        // Rows of one target share a law; take the most frequent.
        let rows: Vec<usize> = (0..900).filter(|&r| batch.targets[r] == 1).collect();
        let expected = law(&weights, &[1]);
        assert_law("in batch", &count(61, rows.iter().flat_map(|&r| negatives.ids_of(r).iter().copied())), &expected);
        for &r in &rows {
            for (slot, &id) in negatives.ids_of(r).iter().enumerate() {
                assert!((f64::from(negatives.log_q[r * 16 + slot]) - expected[id as usize].ln()).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn a_batch_without_other_targets_leaves_in_batch_slots_empty() {
    let world = steep();
    let batch = batch(2, 3, 1, 0, &[]);
    let sampler =
        Sampler::new(&config("position", 4, "target", vec![kind("in_batch", &[])], false), &world.knowledge(), 5).unwrap();
    assert_eq!(drawn(&sampler, &batch).ids, vec![NONE; 24]);
}

#[test]
fn a_user_who_has_seen_everything_is_an_error_and_never_a_loop() {
    let world = World::new(3, &[vec![0, 1, 2]], 1, |_, _| 0);
    for proposal in ["uniform", "popularity", "cluster"] {
        let sampler = |exclude| {
            Sampler::new(&config("position", 2, exclude, vec![kind(proposal, &[])], true), &world.knowledge(), 1).unwrap()
        };
        let batch = batch(1, 1, 1, 0, &[0, 1, 2]);
        let error = sampler("history").draw(&Device::HOST, &batch, None, START).err().unwrap();
        assert_eq!(error.code(), Code::D0302);
        assert!(drawn(&sampler("target"), &batch).ids.iter().all(|&i| i == 0 || i == 2));
    }
}

/// Exact law of drawing two of `weights` one after the other without repetition.
fn pairs(weights: &[f64]) -> Vec<f64> {
    let n = weights.len();
    let total: f64 = weights.iter().sum();
    let mut law = vec![0.0; n * n];
    for i in 0..n {
        for j in (0..n).filter(|&j| j != i) {
            law[i * n + j] = weights[i] / total * weights[j] / (total - weights[i]);
        }
    }
    law
}

#[test]
fn without_repetition_the_order_and_the_inclusion_follow_the_exponential_race() {
    let world = World::new(9, &[(0..9).flat_map(|i| vec![i; 1 + 40 / (1 + i as usize)]).collect()], 1, |_, _| 0);
    let weights = cluster_weights(&world, 0);
    let distinct = |n| config("position", n, "target", vec![kind("cluster", &[("distinct", Value::Flag(true))])], true);
    let sampler = Sampler::new(&distinct(5), &world.knowledge(), 11).unwrap();
    let batch = batch(4, 5000, 8, 0, &[]);
    let negatives = drawn(&sampler, &batch);
    let expected = pairs(&weights[..8]);
    let ordered = (0..batch.rows()).map(|r| negatives.ids_of(r)[0] * 8 + negatives.ids_of(r)[1]);
    assert_law("first two", &count(64, ordered), &expected);

    // The race itself, over the whole catalogue: keys -ln(u)/w, the five smallest.
    let mut raced = [0u64; 8];
    for row in 0..batch.rows() as u64 {
        let mut keys: Vec<(f64, u32)> = (0..8u32)
            .map(|i| {
                let word = crate::rng::Draws::new(99, crate::rng::Stream::Test, 0, row).words64(u64::from(i))[0];
                (-crate::rng::open01(word).ln() / weights[i as usize], i)
            })
            .collect();
        keys.sort_by(|a, b| a.0.total_cmp(&b.0));
        keys[..5].iter().for_each(|&(_, i)| raced[i as usize] += 1);
    }
    let included = count(8, negatives.ids.iter().copied());
    for i in 0..8 {
        let p = raced[i] as f64 / batch.rows() as f64;
        let spread = (2.0 * p * (1.0 - p) * batch.rows() as f64).sqrt();
        let difference = included[i] as f64 - raced[i] as f64;
        assert!(difference.abs() < 5.0 * spread, "item {i}: included {} times, raced {}", included[i], raced[i]);
    }
    for r in 0..batch.rows() {
        let total: f64 = weights[..8].iter().sum();
        for (slot, &id) in negatives.ids_of(r).iter().enumerate() {
            assert!(!negatives.ids_of(r)[..slot].contains(&id), "a repetition in row {r}");
            let expected = (weights[id as usize] / total).ln();
            assert!((f64::from(negatives.log_q[r * 5 + slot]) - expected).abs() < 1e-5);
        }
    }
    // All there is, and not more than there is.
    let all = Sampler::new(&distinct(9), &world.knowledge(), 11).unwrap();
    let negatives = drawn(&all, &batch);
    for r in 0..50 {
        let mut ids = negatives.ids_of(r).to_vec();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, NONE]);
    }
    assert_eq!(Sampler::new(&distinct(10), &world.knowledge(), 11).err().unwrap().code(), Code::C0205);
}

#[test]
fn ids_do_not_depend_on_batching_order_or_threads() {
    let world = steep();
    let whole = Batch {
        users: vec![4, 9, 2],
        offsets: vec![0, 5, 6, 13],
        items: vec![0; 13],
        targets: (0..13).map(|r| (r * 3 % 6) as u32).collect(),
        row_keys: (0..13).map(|r| 77 + 13 * r as u64).collect(),
        target_clusters: (0..13).map(|r| r % 3).collect(),
        seen_offsets: vec![0, 4, 6, 36],
        seen: vec![0, 1, 2, 3, 4, 5].into_iter().chain(0..30).collect(),
        ..Batch::default()
    };
    let pick = |b: usize| {
        let (rows, seen) = (whole.range(b), whole.seen_of(b).to_vec());
        Batch {
            users: vec![whole.users[b]],
            offsets: vec![0, rows.len() as u32],
            items: vec![0; rows.len()],
            targets: whole.targets[rows.clone()].to_vec(),
            row_keys: whole.row_keys[rows.clone()].to_vec(),
            target_clusters: whole.target_clusters[rows].to_vec(),
            seen_offsets: vec![0, seen.len() as u32],
            seen,
            ..Batch::default()
        }
    };
    for scope in ["position", "sequence"] {
        for proposals in [
            vec![kind("uniform", &[])],
            vec![kind("popularity", &[])],
            vec![kind("uniform", &[("distinct", Value::Flag(true))])],
            vec![kind("uniform", &[]), kind("popularity", &[])],
            vec![kind("cluster", &[])],
        ] {
            if scope == "sequence" && proposals[0].kind == "cluster" {
                continue;
            }
            let sampler = Sampler::new(&config(scope, 29, "history", proposals.clone(), false), &world.knowledge(), 21).unwrap();
            let together = drawn(&sampler, &whole);
            for threads in [1, 4] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert_eq!(pool.install(|| drawn(&sampler, &whole)).ids, together.ids, "{threads} threads");
            }
            let apart: Vec<Vec<u32>> = [2, 0, 1].iter().map(|&b| drawn(&sampler, &pick(b)).ids).collect();
            let joined: Vec<u32> = apart[1].iter().chain(&apart[2]).chain(&apart[0]).copied().collect();
            assert_eq!(joined, together.ids, "{scope} {proposals:?}");
            let later = sampler.draw(&Device::HOST, &whole, None, Moment { epoch_index: 1, ..START }).unwrap();
            assert_ne!(later.ids, together.ids, "another epoch draws anew");
        }
    }
}

#[test]
fn shared_draws_mark_what_a_row_must_not_count() {
    let world = steep();
    for scope in ["sequence", "batch"] {
        for exclude in ["none", "target", "history"] {
            let mut batch = batch(3, 7, 1, 0, &[0, 4, 9]);
            for (r, target) in batch.targets.iter_mut().enumerate() {
                *target = [1, 4, 2, 50][r % 4];
            }
            let sampler =
                Sampler::new(&config(scope, 200, exclude, vec![kind("popularity", &[])], true), &world.knowledge(), 2).unwrap();
            let negatives = drawn(&sampler, &batch);
            assert_eq!(negatives.groups(), if scope == "batch" { 1 } else { 3 });
            if exclude == "none" {
                assert!(negatives.drop.is_empty());
                continue;
            }
            for g in 0..negatives.groups() {
                for r in negatives.range(g) {
                    for (slot, id) in negatives.ids_of(g).iter().enumerate() {
                        let seen = exclude == "history" && batch.seen_of(0).contains(id);
                        assert!(!(seen && scope == "sequence"), "a sequence draws around what it has seen");
                        assert_eq!(negatives.drop[r * 200 + slot], seen || *id == batch.targets[r]);
                    }
                }
            }
        }
    }
}

#[test]
fn every_item_of_a_large_catalogue_can_be_drawn() {
    // 2^24 + 1 is where f32 stops counting; fifty million is where f32 scaling misses two thirds.
    for n in [3usize, 1000, 1_000_000, (1 << 24) + 1, 50_000_000] {
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

#[test]
fn wrong_options_are_refused_with_the_right_code() {
    let world = steep();
    let refused = |config: config::Sampler, code: Code, words: &str| {
        let error = Sampler::new(&config, &world.knowledge(), 1).err().unwrap_or_else(|| panic!("accepted: {config:?}"));
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "`{error}` lacks `{words}`");
    };
    let single = |k| config("position", 4, "history", vec![k], false);
    refused(single(kind("unifrom", &[])), Code::C0202, "did you mean `uniform`?");
    refused(single(kind("uniform", &[("alpha", number(1.0))])), Code::C0203, "use `kind = \"popularity\"`");
    refused(single(kind("popularity", &[("alhpa", number(1.0))])), Code::C0201, "did you mean `alpha`?");
    refused(single(kind("popularity", &[("alpha", number(9.0))])), Code::C0202, "0 .. 4");
    refused(single(kind("popularity", &[("alpha", word("much"))])), Code::C0202, "0 .. 4");
    refused(single(kind("popularity", &[("form", word("log")), ("alpha", number(0.5))])), Code::C0203, "no effect");
    refused(single(kind("uniform", &[("share", number(0.5))])), Code::C0203, "single proposal");
    refused(config("position", 4, "none", vec![kind("in_batch", &[])], false), Code::C0205, "own target");
    refused(config("sequence", 4, "target", vec![kind("cluster", &[])], false), Code::C0205, "scope = \"position\"");
    refused(config("sequence", 4, "target", vec![kind("same_attribute", &[])], false), Code::C0205, "scope = \"position\"");
    refused(config("batch", 4, "target", vec![kind("graph_walk", &[])], false), Code::C0205, "scope = \"position\"");
    refused(config("batch", 4, "target", vec![kind("user_walk", &[])], false), Code::C0205, "users cannot share");
    refused(config("positoin", 4, "target", vec![kind("uniform", &[])], false), Code::C0202, "did you mean `position`?");
    refused(config("position", 0, "target", vec![kind("uniform", &[])], false), Code::C0202, "range");
    refused(config("position", 4, "target", vec![], false), Code::C0205, "empty list");
    refused(config("position", 4, "target", vec![kind("catalogue", &[])], false), Code::C0205, "select");
    refused(config::Sampler { preset: "unifrm".into(), ..Default::default() }, Code::C0202, "did you mean `uniform`?");
    let distinct = kind("uniform", &[("distinct", Value::Flag(true))]);
    refused(config("position", 4, "target", vec![distinct, kind("popularity", &[])], false), Code::C0205, "agree");
    let no_clusters = Knowledge { clusters: None, ..world.knowledge() };
    let error = Sampler::new(&single(kind("cluster", &[])), &no_clusters, 1).err().unwrap();
    assert_eq!(error.code(), Code::D0303);
    let no_attributes = Knowledge { attributes: None, ..world.knowledge() };
    for name in ["same_attribute", "attribute_neighbours"] {
        let error = Sampler::new(&single(kind(name, &[])), &no_attributes, 1).err().unwrap();
        assert_eq!(error.code(), Code::D0303);
        assert!(error.to_string().contains("`data.items_path`"), "{error}");
    }
    let nowhere = Attributes { offsets: &vec![0; world.counts.len() + 1], codes: &[] };
    for graph in [None, Some(nowhere)] {
        let no_graph = Knowledge { graph, ..world.knowledge() };
        let error = Sampler::new(&single(kind("graph_walk", &[])), &no_graph, 1).err().unwrap();
        assert_eq!(error.code(), Code::D0303);
        assert!(error.to_string().contains("`data.graph_path`"), "{error}");
    }
    let empty = Knowledge { train_counts: &[0, 0], ..world.knowledge() };
    assert_eq!(Sampler::new(&single(kind("uniform", &[])), &empty, 1).err().unwrap().code(), Code::D0302);
}

#[test]
fn presets_resolve_to_what_resolves_to_itself() {
    let world = World::new(300, &[(0..300).collect()], 2, |event, _| event % 2);
    for preset in presets().unwrap() {
        let config = config::Sampler { preset: preset.name.clone(), ..config::Sampler::default() };
        let resolved = Sampler::new(&config, &world.knowledge(), 1).unwrap().resolved();
        let again = Sampler::new(&resolved, &world.knowledge(), 1).unwrap();
        assert_eq!(again.resolved(), resolved, "{}", preset.name);
        let text = toml::to_string(&resolved).unwrap();
        assert_eq!(toml::from_str::<config::Sampler>(&text).unwrap(), resolved, "{}", preset.name);
        let unnamed = config::Sampler { preset: String::new(), ..resolved.clone() };
        assert_eq!(config::Sampler { preset: preset.name.clone(), ..Plan::new(&unnamed).unwrap().spelled_out() }, resolved);
        assert!(matches!(show(&preset.name).unwrap(), Shown::Preset { .. }));
    }
    for declared in kinds() {
        assert!(declared.help.len() > 10 && declared.source.len() > 10);
        assert!(show(declared.name).is_ok());
    }
    assert!(show("canz").err().unwrap().to_string().contains("did you mean `cans`?"));
}

#[test]
fn the_users_keys_override_the_presets() {
    let own = config::Sampler {
        preset: "cans".into(),
        negatives: Some(5),
        mix: Some(kind("wrong_context", &[("count", number(3.0))])),
        ..Default::default()
    };
    let resolved = Plan::new(&own).unwrap().spelled_out();
    assert_eq!(resolved.negatives, Some(5));
    assert_eq!(resolved.mix, Some(kind("wrong_context", &[("choice", word("hard")), ("count", number(3.0))])));
    assert_eq!(resolved.propose.unwrap()[0].kind, "cluster");
}

#[test]
fn hard_wrong_contexts_prefer_clusters_where_the_target_is_rare() {
    // Item 0 occurs 0, 1, 20 and 300 times in four clusters; cluster 4 has no events at all.
    let mut history = vec![0u32; 321];
    history.extend([1, 2, 3, 4].iter().flat_map(|&i| vec![i; 50]));
    let cluster = |event: usize, item: u32| match item {
        0 if event == 0 => 1,
        0 if event <= 20 => 2,
        0 => 3,
        i => i as usize - 1,
    };
    let world = World::new(5, &[history], 5, cluster);
    let setting = |choice: &str| config::Sampler {
        mix: Some(kind("wrong_context", &[("choice", word(choice)), ("count", number(2.0))])),
        ..config("position", 1, "target", vec![kind("uniform", &[])], false)
    };
    let batch = batch(2, 4000, 0, 0, &[]);
    let hard = Sampler::new(&setting("hard"), &world.knowledge(), 4).unwrap();
    let negatives = drawn(&hard, &batch);
    assert_eq!((negatives.wrong_contexts(), hard.wrong_contexts()), (2, 2));
    let inverse: Vec<f64> = [0.0, 1.0, 20.0, 300.0].iter().map(|n: &f64| 1.0 / (1.0 + n.ln_1p())).collect();
    let of: BTreeMap<u64, u32> =
        (0..4u32).flat_map(|k| world.cluster_events.of(k).iter().map(move |&e| (u64::from(e), k)).collect::<Vec<_>>()).collect();
    assert_law("clusters", &count(4, negatives.wrong_context.iter().map(|e| of[e])), &law(&inverse, &[]));
    let events: Vec<f64> = (0..521u64).map(|e| inverse[of[&e] as usize] / world.cluster_events.of(of[&e]).len() as f64).collect();
    assert_law("events", &count(521, negatives.wrong_context.iter().map(|&e| e as u32)), &law(&events, &[]));

    let random = Sampler::new(&setting("random"), &world.knowledge(), 4).unwrap();
    let drawn = drawn(&random, &batch).wrong_context;
    let others: Vec<f64> = (0..521).map(|e| if world.event_items[e] == 0 { 0.0 } else { 1.0 }).collect();
    assert_law("random", &count(521, drawn.iter().map(|&e| e as u32)), &law(&others, &[]));
}
