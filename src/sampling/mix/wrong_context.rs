//! The positive in a wrong context: CaNS's negative context sampling.
//!
//! Besides its item negatives, a row gets `W` negatives that are *its own target* under the context of another training event:
//! the right item at the wrong time. How the event is chosen:
//!
//! ```text
//! random  uniformly among the training events of other items
//! hard    a cluster with P(k) = (1/w_k) / sum_j (1/w_j),  w_k = 1 + ln(1 + n[k, target]),
//!         then uniformly a training event of that cluster
//! ```
//!
//! A cosine alone sees the item here: of dot products, `p.(a + g) - p.(a + g~) = p.(g - g~)` holds for any item, so they are refused
//! before training.
//!
//! Source: CaNS (Seol and Choi, IEEE Access 2025, doi 10.1109/ACCESS.2025.3576124) and its released code, which takes the
//! arg-max over clusters of `u_k^{w_k}`. Since `-w_k ln u_k` is exponential with rate `1/w_k`, the arg-max is `k` with exactly
//! the probability above: contexts in which the target is *un*popular are chosen more often. `hard` does not look at the
//! event's item, like the source. Clusters without a training event are left out.
//!
//! Draws: stream Mix, index = row key `<< 20 |` slot, lane = attempt.

use rayon::prelude::*;

use super::Mix;
use crate::data::batch::Batch;
use crate::data::clusters::{ClusterCounts, ClusterEvents};
use crate::error::{Code, Error, Result};
use crate::ops::negatives::Negatives;
use crate::rng::{Draws, Stream, below, open01, slot_index};
use crate::sampling::knowledge::Knowledge;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};
use crate::sampling::select;

pub static DECLARED: Declared = Declared {
    stage: Stage::Mix,
    name: "wrong_context",
    help: "besides the items, the row's target under the context of another training event (CaNS)",
    source: "CaNS (Seol and Choi, IEEE Access 2025, doi 10.1109/ACCESS.2025.3576124)",
    params: &[
        Param {
            name: "choice",
            form: Form::Word { words: &["hard", "random"] },
            only_with: None,
            help: "hard: prefers time clusters in which the target is unpopular; random: any event of another item",
        },
        Param {
            name: "count",
            form: Form::Count { default: 1.0, low: 1.0, high: 1024.0, curve: true },
            only_with: None,
            help: "wrong contexts per row",
        },
    ],
    needs: &[Need::Context],
    cost: "R W draws; `hard` looks up K counts per row",
};

/// Rejections of events of the target before the events are searched.
const ATTEMPTS: u8 = 32;

pub struct WrongContext {
    params: Params,
    choice: Choice,
}

enum Choice {
    Random {
        /// (U+1) training events of the users before.
        before: Vec<u64>,
        /// (U) first event of each user.
        starts: Vec<u64>,
        /// (training events, in CSR order) item of each.
        items: Vec<u32>,
    },
    Hard {
        counts: ClusterCounts,
        events: ClusterEvents,
    },
}

pub fn build(params: &Params, knowledge: &Knowledge) -> Result<Option<Box<dyn Mix>>> {
    Ok(Some(Box::new(WrongContext::new(params, knowledge)?)))
}

impl Mix for WrongContext {
    fn mix(&self, choice: &select::Choice, negatives: &mut Negatives) -> Result<()> {
        negatives.wrong_context = self.draw(choice.batch, self.wrong_contexts(choice.epoch), choice.seed, choice.epoch_index)?;
        Ok(())
    }
    fn wrong_contexts(&self, epoch: f64) -> usize {
        self.params.count("count", epoch)
    }
}

impl WrongContext {
    fn new(params: &Params, knowledge: &Knowledge) -> Result<WrongContext> {
        let choice = if params.word("choice") == "hard" {
            let clusters = knowledge.clusters.filter(|c| !c.events.events.is_empty()).ok_or_else(|| {
                Error::new(Code::D0303, "`wrong_context` with `choice = \"hard\"` needs time clusters, and this log has none")
                    .help("name the time column (`--time-col`), set `data.clusters` to 1 or more, or use `choice = \"random\"`")
            })?;
            Choice::Hard { counts: clusters.counts.clone(), events: clusters.events.clone() }
        } else {
            let (mut before, mut items) = (vec![0], Vec::new());
            for (&start, &end) in knowledge.offsets.iter().zip(knowledge.train_end) {
                let events = knowledge.event_items.get(start as usize..end as usize);
                items.extend_from_slice(events.ok_or_else(|| Error::internal("training events beyond the log"))?);
                before.push(items.len() as u64);
            }
            if items.is_empty() {
                return Err(Error::new(Code::D0303, "`wrong_context` needs training events, and there are none"));
            }
            Choice::Random { before, starts: knowledge.offsets[..knowledge.train_end.len()].to_vec(), items }
        };
        Ok(WrongContext { params: params.clone(), choice })
    }

    /// (R,W) CSR positions of the events whose context is wrong.
    fn draw(&self, batch: &Batch, count: usize, seed: u64, epoch_index: u64) -> Result<Vec<u64>> {
        let mut events = vec![0u64; batch.rows() * count];
        let results: Vec<Result<()>> = events
            .par_chunks_mut(count)
            .enumerate()
            .with_min_len(256)
            .map_init(Vec::new, |reached, (r, events)| {
                self.prepare(reached, batch.targets[r]);
                events.iter_mut().enumerate().try_for_each(|(slot, event)| {
                    let index = slot_index(batch.row_keys[r], slot);
                    *event = self.event(reached, batch.targets[r], |attempt| {
                        Draws::new(seed, Stream::Mix, attempt, epoch_index).words64(index)
                    })?;
                    Ok(())
                })
            })
            .collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(events)
    }

    /// Running sums of `1/w_k`; nothing for `random`.
    fn prepare(&self, reached: &mut Vec<f64>, target: u32) {
        reached.clear();
        if let Choice::Hard { counts, events } = &self.choice {
            let mut sum = 0.0;
            for k in 0..counts.offsets.len() as u32 - 1 {
                if !events.of(k).is_empty() {
                    sum += 1.0 / (1.0 + f64::from(counts.count(k, target)).ln_1p());
                }
                reached.push(sum);
            }
        }
    }

    fn event(&self, reached: &[f64], target: u32, words: impl Fn(u8) -> [u64; 2]) -> Result<u64> {
        match &self.choice {
            Choice::Hard { events, .. } => {
                let [of_cluster, of_event] = words(0);
                let mark = open01(of_cluster) * reached.last().copied().unwrap_or(0.0);
                // A cluster without events adds nothing to the sums, so it is never the first one above the mark.
                let k = reached.partition_point(|&sum| sum <= mark).min(reached.len() - 1);
                let events = events.of(k as u32);
                Ok(u64::from(events[below(of_event, events.len() as u64) as usize]))
            }
            Choice::Random { before, starts, items } => {
                let position = |event: u64| {
                    let user = before.partition_point(|&b| b <= event) - 1;
                    starts[user] + (event - before[user])
                };
                for attempt in 0..ATTEMPTS {
                    let event = below(words(attempt)[0], items.len() as u64);
                    if items[event as usize] != target {
                        return Ok(position(event));
                    }
                }
                let others = items.iter().filter(|&&i| i != target).count() as u64;
                if others == 0 {
                    return Err(Error::new(Code::D0302, "every training event is of the same item, so no other context exists"));
                }
                let nth = below(words(ATTEMPTS)[0], others) as usize;
                let found = items.iter().enumerate().filter(|(_, i)| **i != target).nth(nth);
                found.map(|(event, _)| position(event as u64)).ok_or_else(|| Error::internal("events changed while counted"))
            }
        }
    }
}
