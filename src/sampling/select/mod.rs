//! The select stage: which of the proposed items does the current model find informative?
//!
//! A selection that scores chooses for each row by itself, whoever shared the proposal: its result always has one group per
//! row. A new kind is one file and one line in [`KINDS`].

mod all;

use crate::data::batch::Batch;
use crate::device::Device;
use crate::error::Result;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::score::Scoring;
use crate::sampling::knowledge::Catalogue;
use crate::sampling::registry::{Declared, Params};

/// What there is to choose from.
pub enum Candidates {
    /// Drawn by the propose stage; `Negatives::n` of them per group.
    Listed(Negatives),
    /// Every item of the training catalogue that the row does not exclude.
    Catalogue,
}

/// One choice: for every row of the batch, `negatives` of its candidates.
pub struct Choice<'a> {
    pub device: &'a Device,
    pub batch: &'a Batch,
    pub scoring: Option<&'a Scoring<'a>>,
    pub catalogue: &'a Catalogue,
    pub exclude: Exclude,
    pub negatives: usize,
    pub log_q: bool,
    pub seed: u64,
    pub epoch: f64,
    pub epoch_index: u64,
}

pub trait Select: Send + Sync {
    /// Candidates per group it wants from the propose stage at `epoch`, to keep `negatives`.
    fn candidates(&self, negatives: usize, epoch: f64) -> usize;
    /// The fewest and the most it will ever want.
    fn fewest_candidates(&self, negatives: usize) -> usize {
        negatives
    }
    fn most_candidates(&self, negatives: usize) -> usize {
        negatives
    }
    /// Whether the current model's scores are needed.
    fn needs_scores(&self) -> bool {
        true
    }
    /// Whether it needs the candidates' log-probabilities.
    fn needs_proposal_log_q(&self) -> bool {
        false
    }
    /// Whether what it keeps has a probability.
    fn gives_log_q(&self) -> bool {
        true
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives>;
}

/// A kind and how it is built.
pub struct Entry {
    pub declared: &'static Declared,
    pub build: fn(&Params) -> Box<dyn Select>,
}

/// The registry.
pub const KINDS: &[Entry] = &[Entry { declared: &all::DECLARED, build: all::build }];
