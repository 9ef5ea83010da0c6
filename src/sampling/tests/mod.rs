//! Tests of the stages by subject, and what they share: a small world, laws computed the slow way, and what is wrong with draws.

use std::collections::BTreeMap;

use super::*;
use crate::config::{Kind, Value};
use crate::data::clusters::{ClusterCounts, ClusterEvents};
use crate::ids::NONE;
use statistics::{assert_law, count, verdict};

mod buckets;
mod contexts;
mod explicit;
mod fair;
mod fixed;
mod gates;
mod generated;
mod generator;
mod keys;
mod large;
mod laws;
mod limits;
mod memory;
mod mutants;
mod policy;
mod pool;
mod presets;
mod ranked;
mod refusals;
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
        negatives: Some(n.into()),
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
        items: vec![0; r].into(),
        targets: vec![target; r].into(),
        row_keys: (0..r as u64).map(|k| 1000 + k).collect(),
        target_clusters: vec![cluster; r].into(),
        seen_extents: (0..sequences).map(|b| [b, b + 1].map(|end| (end * seen.len()) as u64)).collect(),
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
