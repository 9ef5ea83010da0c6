//! The select stage: which of the proposed items does the current model find informative?
//!
//! A selection that scores chooses for each row by itself, whoever shared the proposal: its result always has one group per
//! row. A new kind is one file and one line in [`KINDS`].

mod all;
mod memory;
mod softmax_draw;
mod top_k;

use crate::data::batch::Batch;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::candidates::Hidden;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::score::Scoring;
use crate::sampling::State;
use crate::sampling::knowledge::Catalogue;
use crate::sampling::registry::{Declared, Form, Param, Params};

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
    /// What it remembers from draw to draw, for a checkpoint.
    fn state(&self) -> Vec<State> {
        Vec::new()
    }
    /// Takes back what `state` gave; nothing found means nothing remembered.
    fn restore<'t>(&self, _find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        Ok(())
    }
}

/// A kind and how it is built.
pub struct Entry {
    pub declared: &'static Declared,
    pub build: fn(&Params) -> Box<dyn Select>,
}

/// The registry.
pub const KINDS: &[Entry] = &[
    Entry { declared: &all::DECLARED, build: all::build },
    Entry { declared: &top_k::DECLARED, build: top_k::build },
    Entry { declared: &softmax_draw::DECLARED, build: softmax_draw::build },
    Entry { declared: &memory::DECLARED, build: memory::build },
];

/// How many items the propose stage draws for a selection to choose from.
const CANDIDATES: Param = Param {
    name: "candidates",
    form: Form::Count { default: 64.0, low: 1.0, high: 1048576.0, curve: true },
    only_with: None,
    help: "items proposed per group (M), from which `sampler.negatives` are kept",
};

impl Choice<'_> {
    fn scoring(&self) -> Result<&Scoring<'_>> {
        self.scoring.ok_or_else(|| Error::internal("a selection that scores was given no scores"))
    }
}

/// Runs `scan` with what the rows may not choose from the catalogue.
fn hidden<R>(choice: &Choice, scan: impl FnOnce(&Hidden) -> Result<R>) -> Result<R> {
    let sequences = choice.batch.sequence_of_rows();
    let untrained = choice.catalogue.untrained();
    scan(&Hidden { untrained: &untrained, exclude: choice.exclude, batch: choice.batch, sequences: &sequences })
}

fn one_group_per_row(choice: &Choice, ids: Vec<u32>, log_q: Vec<f32>) -> Negatives {
    let group_offsets = (0..=choice.batch.rows() as u32).collect();
    Negatives { n: choice.negatives, group_offsets, ids, log_q, ..Negatives::default() }
}
