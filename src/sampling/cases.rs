//! The propose stage as cases: every law that a machine draws from, alone and mixed, each scope, with and without repetition.
//!
//! The first user has seen all but two items, so that draws are given up and the rest is enumerated; the second has seen none.

use std::collections::BTreeMap;

use super::{Clusters, Knowledge, Moment, Sampler};
use crate::config::{self, Kind, Value};
use crate::data::batch::Batch;
use crate::data::clusters::{ClusterCounts, ClusterEvents};
use crate::error::Result;
use crate::ops::case::{self, Case, Output, Values};

/// Time clusters of the log.
const CLUSTERS: usize = 3;

/// One way to draw.
#[derive(Clone, Copy)]
struct Way {
    /// Kind and share.
    laws: &'static [(&'static str, f64)],
    scope: &'static str,
    exclude: &'static str,
    distinct: bool,
    log_q: bool,
    rows: usize,
    items: usize,
    n: usize,
}

const WAYS: [Way; 16] = {
    const ONE: Way = Way {
        laws: &[("uniform", 1.0)],
        scope: "position",
        exclude: "history",
        distinct: false,
        log_q: false,
        rows: 41,
        items: 23,
        n: 7,
    };
    [
        ONE,
        Way { log_q: true, items: 1009, n: 130, rows: 9, ..ONE },
        Way { exclude: "target", rows: 1, n: 1, ..ONE },
        Way { exclude: "none", scope: "batch", n: 65, log_q: true, ..ONE },
        Way { scope: "sequence", n: 33, ..ONE },
        Way { scope: "batch", exclude: "target", n: 300, ..ONE },
        Way { distinct: true, n: 9, items: 61, log_q: true, ..ONE },
        Way { laws: &[("popularity", 1.0)], log_q: true, ..ONE },
        Way { laws: &[("popularity", 1.0)], items: 4099, rows: 6, n: 64, exclude: "target", ..ONE },
        Way { laws: &[("popularity", 1.0)], distinct: true, scope: "sequence", n: 15, items: 61, ..ONE },
        Way { laws: &[("in_batch", 1.0)], log_q: true, ..ONE },
        Way { laws: &[("cluster", 1.0)], log_q: true, n: 12, ..ONE },
        Way { laws: &[("cluster", 1.0)], distinct: true, items: 61, n: 40, ..ONE },
        Way { laws: &[("in_batch", 0.3), ("cluster", 0.5), ("uniform", 0.2), ("popularity", 0.0)], log_q: true, n: 20, ..ONE },
        // Items above all of the batch's.
        Way { laws: &[("in_batch", 0.3), ("uniform", 0.7)], log_q: true, items: 214, rows: 9, n: 20, ..ONE },
        // Draws enough that some would succeed in one attempt more.
        Way { items: 61, rows: 2, n: 700, ..ONE },
    ]
};

/// A log of `items` items, every seventh of which is in no training event.
struct World {
    counts: Vec<u32>,
    of_clusters: ClusterCounts,
    events: ClusterEvents,
}

impl World {
    fn new(items: usize) -> World {
        let counts: Vec<u32> =
            case::ids(1, items, 9).iter().enumerate().map(|(i, &f)| if i % 7 == 3 { 0 } else { 1 + f * f }).collect();
        let mut of_clusters = ClusterCounts { offsets: vec![0], items: vec![], counts: vec![] };
        for k in 0..CLUSTERS {
            for item in (0..items).filter(|&i| counts[i] > 0 && i % CLUSTERS == k) {
                of_clusters.items.push(item as u32);
                of_clusters.counts.push(counts[item]);
            }
            of_clusters.offsets.push(of_clusters.items.len() as u64);
        }
        World { counts, of_clusters, events: ClusterEvents { offsets: vec![0; CLUSTERS + 1], events: vec![] } }
    }
    fn knowledge(&self) -> Knowledge<'_> {
        let clusters = Some(Clusters { counts: &self.of_clusters, events: &self.events });
        Knowledge { train_counts: &self.counts, clusters, ..Knowledge::default() }
    }
    fn batch(&self, rows: usize) -> Batch {
        let trained: Vec<u32> = (0..self.counts.len() as u32).filter(|&i| self.counts[i as usize] > 0).collect();
        let mut batch = case::batch(rows, self.counts.len());
        batch.targets = batch.targets.iter().map(|&target| trained[target as usize % trained.len()]).collect();
        batch.target_clusters = case::ids(2, rows, CLUSTERS).into();
        // The last user has seen low items only, and in a long batch the highest trained one follows; in a short one some are above
        // all targets. The user before has seen the highest of all.
        let (sequences, highest) = (batch.sequences() as u32, self.counts.len() as u32 - 1);
        if rows > 9 {
            batch.targets = batch.targets[..rows - 1].iter().copied().chain(trained.last().copied()).collect();
        }
        let seen = |b: u32| match b {
            0 => trained[1..trained.len() - 1].to_vec(),
            1 => vec![],
            b if b + 1 == sequences => trained.iter().copied().filter(|i| 2 * i < highest && (i + b).is_multiple_of(3)).collect(),
            b if b + 2 == sequences => (0..highest).filter(|i| i % 7 == 1).chain([highest]).collect(),
            b => trained.iter().copied().filter(|i| (i * 7 + b).is_multiple_of(3)).collect(),
        };
        let lists: Vec<Vec<u32>> = (0..sequences).map(seen).collect();
        batch.with_seen(&lists)
    }
}

impl Way {
    fn sampler(&self, world: &World) -> Result<Sampler> {
        let law = |&(kind, share): &(&str, f64)| {
            let mut params = BTreeMap::from([("distinct".to_string(), Value::Flag(self.distinct))]);
            if self.laws.len() > 1 {
                params.insert("share".into(), Value::Number(share));
            }
            Kind { kind: kind.into(), params }
        };
        let weight = |kind: &str| Kind { kind: kind.into(), params: BTreeMap::new() };
        let config = config::Sampler {
            scope: Some(self.scope.into()),
            negatives: Some((self.n as u32).into()),
            exclude: Some(self.exclude.into()),
            propose: Some(self.laws.iter().map(law).collect()),
            weight: self.log_q.then(|| weight("log_q")),
            ..config::Sampler::default()
        };
        Sampler::new(&config, &world.knowledge(), 5)
    }
    fn name(&self) -> String {
        let laws: Vec<&str> = self.laws.iter().map(|(kind, _)| *kind).collect();
        let Way { scope, exclude, distinct, log_q, rows, items, n, .. } = self;
        let laws = laws.join(" + ");
        format!("{laws}, scope {scope}, {exclude} excluded, distinct {distinct}, log_q {log_q}, R {rows}, V {items}, N {n}")
    }
}

pub fn cases() -> Vec<Case> {
    let case = |way: Way| {
        Case::new("propose", way.name(), move |device| {
            let world = World::new(way.items);
            let moment = Moment { epoch: 2.5, epoch_index: 2, batch_index: 7 };
            let mut drawn = way.sampler(&world)?.propose(device, &world.batch(way.rows), moment)?;
            drawn.fetch(device)?;
            let log_q = drawn.log_q.iter().map(|&x| f64::from(x)).collect();
            let drop = drawn.drop.iter().map(|&d| u32::from(d)).collect();
            let log_q = Output { name: "log_q", values: Values::Reals(log_q) };
            Ok(vec![Output::ids("ids", drawn.ids), log_q, Output::ids("drop", drop)])
        })
    };
    WAYS.map(case).into()
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::case::emulated::in_every_way;

    #[test]
    fn kernels_draw_what_the_plain_path_draws() {
        in_every_way(&cases());
    }

    #[test]
    fn the_cases_are_drawn_on_the_machine() {
        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        let device = match crate::device::emulator::open(&crate::device::emulator::Options::new(cache)) {
            Err(error) if error.code() == crate::error::Code::G0507 => return println!("SKIPPED: no C++ compiler"),
            device => device.unwrap(),
        };
        assert!(matches!(device, Device::Machine(_)));
        for way in WAYS {
            let world = World::new(way.items);
            let moment = Moment { epoch: 0.0, epoch_index: 0, batch_index: 0 };
            let drawn = way.sampler(&world).unwrap().propose(&device, &world.batch(way.rows), moment).unwrap();
            assert!(drawn.resident.is_some() && drawn.ids.is_empty(), "{}", way.name());
        }
    }
}
