//! The targets of the batch, as often as they occur there: `P(i) = n_i / R`; of row `r`, which excludes (as this kind demands: a row's own
//! target is always in its batch), `n_i / (R - n_excluded)`.
//!
//! **Reported** is another probability: that over all batches, an item's share of the training events, conditioned on the exclusion.
//! Corrected by its law within the batch a sum of exponentials would estimate the sum over the items *of the batch*, in which popular ones
//! are much oftener; by the law over batches it estimates that over the catalogue (Yi et al., RecSys 2019). In a mixture with a law that
//! reaches every item (`mns`) the probability within the batch is right, and is what the mixture reports. Training events stand for
//! targets, which all but the first of a user are with `train.targets = "all"`; where only the last of each trains it is an approximation.
//!
//! The draws depend on the batch, so these negatives, unlike all others, change with the batch size.

use std::sync::Arc;

use super::{Place, Proposal, Propose, popularity};
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
    cost: "RN integer draws, one sort of the batch's targets; 16 V bytes",
};

pub fn build(_: &Params, knowledge: &Knowledge, _: &Arc<Catalogue>) -> Result<Proposal> {
    Ok(Proposal::fixed(Arc::new(InBatch { over_batches: popularity::by_count(knowledge.train_counts)? })))
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

struct InBatch {
    over_batches: Arc<dyn Propose>,
}

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
    fn reported(&self) -> Option<&dyn Propose> {
        Some(self.over_batches.as_ref())
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
