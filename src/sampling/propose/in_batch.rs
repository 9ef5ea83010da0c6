//! The targets of the batch, as often as they occur there: `P(i) = n_i / R`.
//!
//! With exclusion (which this kind demands: a row's own target is always in its batch) the law of row `r` is
//! `n_i / (R - n_excluded)`, exactly, so a log-Q correction does not overlook that the positive is present with certainty.
//! The law depends on the batch, so these negatives, unlike all others, change with the batch size.

use std::sync::Arc;

use super::{Place, Proposal, Propose};
use crate::error::Result;
use crate::ids::NONE;
use crate::ops::propose::Law;
use crate::rng::below;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Need, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "in_batch",
    help: "the targets of the other rows of the batch",
    source: "GRU4Rec (Hidasi et al., ICLR 2016); mixed negative sampling (Yang et al., WWW 2020)",
    params: &[],
    needs: &[Need::Batch],
    cost: "RN integer draws, one sort of the batch's targets",
};

pub fn build(_: &Params, _: &Knowledge, _: &Arc<Catalogue>) -> Result<Proposal> {
    Ok(Proposal::fixed(Arc::new(InBatch)))
}

/// How often each target occurs in a batch.
pub struct Frequencies<'a> {
    /// (R)
    targets: &'a [u32],
    /// (distinct targets) ascending
    items: Vec<u32>,
    counts: Vec<u32>,
}

impl<'a> Frequencies<'a> {
    pub fn new(targets: &'a [u32]) -> Frequencies<'a> {
        let mut sorted = targets.to_vec();
        sorted.sort_unstable();
        let (mut items, mut counts): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for item in sorted {
            match counts.last_mut() {
                Some(count) if items.last() == Some(&item) => *count += 1,
                _ => {
                    items.push(item);
                    counts.push(1);
                }
            }
        }
        Frequencies { targets, items, counts }
    }
    /// The targets, and the distinct ones ascending with how often they occur.
    pub fn lists(&self) -> (&[u32], &[u32], &[u32]) {
        (self.targets, &self.items, &self.counts)
    }
    pub fn count(&self, item: u32) -> u32 {
        self.items.binary_search(&item).map_or(0, |at| self.counts[at])
    }
}

struct InBatch;

impl Propose for InBatch {
    fn words(&self) -> usize {
        1
    }
    #[inline]
    fn draw(&self, place: &Place, words: &[u64]) -> u32 {
        match place.batch {
            Some(batch) if !batch.targets.is_empty() => batch.targets[below(words[0], batch.targets.len() as u64) as usize],
            _ => NONE,
        }
    }
    fn twin(&self) -> Option<Law<'_>> {
        Some(Law::Batch)
    }
    fn prob(&self, place: &Place, item: u32) -> f64 {
        place.batch.map_or(0.0, |b| f64::from(b.count(item)) / b.targets.len() as f64)
    }
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64 {
        place.batch.map_or(0.0, |b| {
            let gone: usize = excluded.iter().map(|&i| b.count(i) as usize).sum();
            (b.targets.len() - gone) as f64 / b.targets.len() as f64
        })
    }
    fn needs_batch(&self) -> bool {
        true
    }
    fn may_run_dry(&self) -> bool {
        true
    }
}
