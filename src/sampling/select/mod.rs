//! The select stage: which of the proposed items does the current model find informative?
//!
//! A selection that scores chooses for each row by itself, whoever shared the proposal: its result always has one group per
//! row. A new kind is one file and one line in [`KINDS`].

mod adaptive;
mod all;
pub(super) mod buckets;
pub(super) mod fair;
pub(super) mod gates;
pub(super) mod generator;
pub(super) mod learned;
pub(super) mod memory;
mod metropolis;
pub(super) mod policy;
pub(super) mod pool;
mod posterior;
mod rank_band;
mod softmax_draw;
mod top_k;

use rayon::prelude::*;

use crate::data::batch::Batch;
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::candidates::Hidden;
use crate::ops::embedding::{self, Into};
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::score::{self, Scoring};
use crate::sampling::State;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Form, Param, Params};

/// What there is to choose from; one of it lives per step, so its size does not matter.
#[allow(clippy::large_enum_variant)]
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
    /// (V) training events of an item per user, below 1; empty unless asked for.
    pub priors: &'a [f32],
    pub exclude: Exclude,
    pub negatives: usize,
    pub log_q: bool,
    pub seed: u64,
    pub epoch: f64,
    pub epoch_index: u64,
    pub batch_index: u64,
}

pub trait Select: Send + Sync {
    /// Its parameters, if `candidates` is one of them; a selection without it keeps all that is proposed.
    fn params(&self) -> Option<&Params>;
    /// Candidates per group it wants from the propose stage at `epoch`, to keep `negatives`.
    fn candidates(&self, negatives: usize, epoch: f64) -> usize {
        self.params().map_or(negatives, |params| params.count("candidates", epoch))
    }
    /// The fewest from which it may have to keep `negatives`, and the most it will ever want.
    fn fewest_candidates(&self, negatives: usize) -> usize {
        self.params().map_or(negatives, |params| params.least("candidates") as usize)
    }
    fn most_candidates(&self, negatives: usize) -> usize {
        self.params().map_or(negatives, |params| params.most("candidates") as usize)
    }
    /// Draws of its own that it numbers for a group.
    fn most_draws(&self, negatives: usize) -> usize {
        negatives
    }
    /// What it needs of the log, once, before the first draw. D0303: the log has no such thing.
    fn learn_about(&mut self, _knowledge: &Knowledge, _catalogue: &Catalogue) -> Result<()> {
        Ok(())
    }
    /// Whether it can choose from the whole catalogue.
    fn takes_catalogue(&self) -> bool {
        false
    }
    /// Whether it can choose from lists that lie in a machine's memory; others decide on the host.
    fn takes_resident(&self) -> bool {
        false
    }
    /// Whether the current model's scores are needed.
    fn needs_scores(&self) -> bool {
        true
    }
    /// Whether it needs the candidates' log-probabilities.
    fn needs_proposal_log_q(&self) -> bool {
        false
    }
    /// Whether it needs the popularity of items.
    fn needs_priors(&self) -> bool {
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
    Entry { declared: &rank_band::DECLARED, build: rank_band::build },
    Entry { declared: &adaptive::DECLARED, build: adaptive::build },
    Entry { declared: &posterior::DECLARED, build: posterior::build },
    Entry { declared: &memory::DECLARED, build: memory::build },
    Entry { declared: &metropolis::DECLARED, build: metropolis::build },
    Entry { declared: &generator::DECLARED, build: generator::build },
    Entry { declared: &fair::DECLARED, build: fair::build },
    Entry { declared: &pool::DECLARED, build: pool::build },
    Entry { declared: &buckets::DECLARED, build: buckets::build },
    Entry { declared: &gates::DECLARED, build: gates::build },
    Entry { declared: &policy::DECLARED, build: policy::build },
];

/// How many items the propose stage draws for a selection to choose from.
const CANDIDATES: Param = Param {
    name: "candidates",
    form: Form::Count { default: 64.0, low: 1.0, high: 1048576.0, curve: true },
    only_with: None,
    help: "items proposed per group (M), from which `sampler.negatives` are kept",
};

impl Choice<'_> {
    pub(super) fn scoring(&self) -> Result<&Scoring<'_>> {
        self.scoring.ok_or_else(|| Error::internal("a selection that scores was given no scores"))
    }
}

/// One row's candidates as a selection that decides on the host sees them.
struct RowChoice<'a> {
    row: usize,
    /// Score of the row's target.
    positive: f64,
    /// See [`ranked`].
    ranked: &'a [(u32, f64)],
}

/// (R,1+N) for every row its target and what it may take of its group's list, `NONE` for the rest; and 1+N.
pub(super) fn beside_targets(batch: &Batch, lists: &Negatives) -> (Vec<u32>, usize) {
    let width = lists.n + 1;
    let mut ids = vec![NONE; batch.rows() * width];
    for g in 0..lists.groups() {
        for r in lists.range(g) {
            let row = &mut ids[r * width..(r + 1) * width];
            row[0] = batch.targets[r];
            for (j, (slot, &item)) in row[1..].iter_mut().zip(lists.ids_of(g)).enumerate() {
                let dropped = lists.drop.get(r * lists.n + j).copied().unwrap_or(false);
                *slot = if dropped { NONE } else { item };
            }
        }
    }
    (ids, width)
}

/// The same with the scores (R,1+N), computed where the model is.
pub(super) fn scored_beside_targets(choice: &Choice, lists: &Negatives) -> Result<(Vec<u32>, Vec<f64>, usize)> {
    let (ids, width) = beside_targets(choice.batch, lists);
    let mut scores = Buffer::empty(choice.device);
    score::gather(choice.device, &mut scores, choice.scoring()?, &ids)?;
    Ok((ids, scores.to_f64(choice.device)?, width))
}

/// The different items of `ids`, ascending, and their vectors (K,D) without context, copied from where the model is.
pub(super) fn vectors_of(choice: &Choice, ids: &[u32]) -> Result<(Vec<u32>, Vec<f64>)> {
    let mut items = ids.to_vec();
    items.sort_unstable();
    items.dedup();
    items.retain(|&item| item != NONE);
    let (scoring, mut vectors) = (choice.scoring()?, Buffer::empty(choice.device));
    embedding::forward(choice.device, &mut vectors, Into::Set, scoring.table, &items, scoring.dim, 1.0)?;
    Ok((items, vectors.to_f64(choice.device)?))
}

/// (item, score) of what a row may choose, each item once, the highest score first, ties to the lower item. Scores that are no
/// numbers come last.
fn ranked(ids: &[u32], scores: &[f64]) -> Vec<(u32, f64)> {
    let pairs = ids.iter().copied().zip(scores.iter().copied());
    let mut ranked: Vec<(u32, f64)> = pairs.filter(|(item, _)| *item != NONE).collect();
    let key = |s: f64| if s.is_nan() { f64::NEG_INFINITY } else { s };
    ranked.sort_by(|a, b| key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0)));
    // Equal items have equal scores, so they stand together.
    ranked.dedup_by_key(|pair| pair.0);
    ranked
}

/// Scores the listed candidates of every row on the device, and lets `choose` pick up to `negatives` places of each ranking. What it
/// does not fill stays empty.
fn choose_ranked(choice: &Choice, candidates: Candidates, choose: impl Fn(&RowChoice) -> Vec<usize> + Sync) -> Result<Negatives> {
    let Candidates::Listed(lists) = candidates else {
        return Err(Error::internal("this selection chooses from proposed items only"));
    };
    let (rows, n) = (choice.batch.rows(), choice.negatives);
    let (ids, scores, width) = scored_beside_targets(choice, &lists)?;
    let mut taken = vec![NONE; rows * n];
    taken.par_chunks_mut(n.max(1)).enumerate().for_each(|(row, taken)| {
        let own = row * width + 1..(row + 1) * width;
        let ranked = ranked(&ids[own.clone()], &scores[own]);
        let places = choose(&RowChoice { row, positive: scores[row * width], ranked: &ranked });
        taken.iter_mut().zip(places).for_each(|(slot, place)| *slot = ranked[place].0);
    });
    Ok(one_group_per_row(choice, taken, Vec::new()))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The `n` places with the largest key, the largest first; ties to the place that comes first.
fn places_by_key(keys: &[f64], n: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..keys.len()).collect();
    let key = |i: usize| if keys[i].is_nan() { f64::NEG_INFINITY } else { keys[i] };
    places.sort_by(|&i, &j| key(j).total_cmp(&key(i)));
    places.truncate(n);
    places
}

/// Runs `scan` with what the rows may not choose from the catalogue.
fn hidden<R>(choice: &Choice, scan: impl FnOnce(&Hidden) -> Result<R>) -> Result<R> {
    let sequences = choice.batch.sequence_of_rows();
    let untrained = choice.catalogue.untrained();
    scan(&Hidden { untrained: &untrained, exclude: choice.exclude, batch: choice.batch, sequences: &sequences })
}

fn one_group_per_row(choice: &Choice, ids: Vec<u32>, log_q: Vec<f32>) -> Negatives {
    Negatives::of_rows(choice.negatives, choice.batch.rows(), ids, log_q)
}
