//! The weight stage: how much does a negative count, how much a row, and is the loss told the probability of each draw?
//!
//! `one` hands over the items alone. `log_q` also hands over the natural logarithm of the probability with which each slot was
//! drawn; the loss subtracts it from the score (sampled softmax, in the variant chosen there), so that its sum estimates that over all
//! items which could have been drawn, whatever the sampler prefers: the whole catalogue, or the list of candidates that a select stage
//! (`softmax_draw`, `pool`, `generator`, `fair`) drew from. Where no probability exists (an arg-max), `log_q` is refused.
//!
//! The other kinds hand over weights without a gradient. Weights of a row's negatives have mean one over its filled slots, so that
//! a loss that counts negatives still counts as many; weights of rows have mean one over the training events. `attention` and
//! `divergence` divide by the probability themselves, and no loss corrects for it again. A new kind is one file and one line in
//! [`KINDS`].

mod attention;
mod category_balance;
mod divergence;
mod propensity;

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Result;
use crate::ids::NONE;
use crate::ops::cost::{Cost, product};
use crate::ops::negatives::Negatives;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::per_epoch::PerEpoch;
use crate::sampling::registry::{Declared, Need, Params, Stage};
use crate::sampling::select::{Choice, scored_beside_targets};

/// Decides weights once the negatives are chosen and mixed.
pub trait Weigh: Send + Sync {
    fn weigh(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()>;
    /// Whether the current model's scores are needed.
    fn needs_scores(&self) -> bool {
        false
    }
}

/// A kind; `one` and `log_q` build nothing.
pub struct Entry {
    pub declared: &'static Declared,
    pub build: fn(&Params, &Knowledge, &Catalogue) -> Result<Option<Box<dyn Weigh>>>,
}

/// The registry.
pub const KINDS: &[Entry] = &[
    Entry { declared: &ONE, build: |_, _, _| Ok(None) },
    Entry { declared: &LOG_Q, build: |_, _, _| Ok(None) },
    Entry { declared: &attention::DECLARED, build: attention::build },
    Entry { declared: &divergence::DECLARED, build: divergence::build },
    Entry { declared: &category_balance::DECLARED, build: category_balance::build },
    Entry { declared: &propensity::DECLARED, build: propensity::build },
];

pub static ONE: Declared = Declared {
    stage: Stage::Weight,
    name: "one",
    help: "every negative counts the same",
    source: "BPR (Rendle et al., UAI 2009)",
    params: &[],
    needs: &[],
    cost: "none",
};

pub static LOG_Q: Declared = Declared {
    stage: Stage::Weight,
    name: "log_q",
    help: "hand the log-probability of each draw to the loss, which corrects for it if it is told to (`loss.log_q`)",
    source: "Bengio and Senecal (2008); Yi et al. (RecSys 2019); Khrylchenko et al. (RecSys 2025)",
    params: &[],
    needs: &[Need::Probability],
    cost: "RN probabilities",
};

/// Of R `rows` and their `n` negatives, `dim` D, by a kind that weighs: those that look at scores make them anew, of negatives and
/// targets, which takes so many `products`.
pub(super) fn cost(name: &str, params: &Params, rows: usize, n: usize, dim: usize, products: u64) -> Cost {
    match name {
        "attention" | "divergence" => Cost::new(products * product([rows, n + 1, dim]), rows * (n + 1) * (dim + 1) + rows * n),
        "category_balance" if params.word("of") == "negative" => Cost::moved(3 * rows * n),
        // A target's weight for the row's.
        "category_balance" | "propensity" => Cost::moved(3 * rows),
        _ => Cost::default(),
    }
}

/// A row's filled slots.
struct Row<'a> {
    positive: f64,
    /// As the loss sees them, on their way to the positive if they are mixed.
    scores: &'a [f64],
    /// Empty where the sampler gives none.
    log_q: &'a [f64],
}

/// Gives every row's negatives weights in proportion to `exp(log_weights)`, one number per filled slot, with mean one.
fn weigh_by_score(choice: &Choice, negatives: &mut Negatives, log_weights: impl Fn(&Row) -> Vec<f64> + Sync) -> Result<()> {
    let n = negatives.n;
    let (ids, s, width) = scored_beside_targets(choice, negatives)?;
    let groups = negatives.groups_of_rows();
    let mut weight = vec![1.0f32; groups.len() * n];
    weight.par_chunks_mut(n.max(1)).enumerate().for_each(|(r, weight)| {
        let (own, ids) = (&s[r * width..(r + 1) * width], &ids[r * width + 1..(r + 1) * width]);
        let toward = negatives.toward_positive.get(r).map_or(0.0, |&a| f64::from(a));
        let slots: Vec<usize> = (0..n).filter(|&j| ids[j] != NONE).collect();
        let scores: Vec<f64> = slots.iter().map(|&j| toward * own[0] + (1.0 - toward) * own[1 + j]).collect();
        let of_slot = |&j: &usize| f64::from(negatives.log_q[groups[r] as usize * n + j]);
        let log_q: Vec<f64> = if negatives.log_q.is_empty() { vec![] } else { slots.iter().map(of_slot).collect() };
        let logs = log_weights(&Row { positive: own[0], scores: &scores, log_q: &log_q });
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = logs.iter().map(|&l| (l - most).exp()).collect();
        let factor = slots.len() as f64 / shares.iter().sum::<f64>();
        // A score that is no number leaves the row as it is; the loss will report it.
        if factor.is_finite() {
            slots.iter().zip(shares).for_each(|(&j, share)| weight[j] = (share * factor) as f32);
        }
    });
    negatives.weight = weight;
    Ok(())
}

/// Divides a weight of each item by its mean over the training events, of which every item has `counts`.
fn mean_one(weights: &[f64], counts: &[u32]) -> Arc<[f32]> {
    let events = |(&w, &f): (&f64, &u32)| w * f64::from(f);
    let total: f64 = weights.iter().zip(counts).map(events).sum();
    let mean = total / counts.iter().map(|&f| f64::from(f)).sum::<f64>().max(1.0);
    weights.iter().map(|&w| (w / mean) as f32).collect()
}

/// (V) a weight of every item.
type OfItems = PerEpoch<[f32]>;

/// Rows count by their target.
struct ByTarget {
    weights: OfItems,
}

impl Weigh for ByTarget {
    fn weigh(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()> {
        let of_items = self.weights.at(choice.epoch_index)?;
        // On top of what the selection made of the row.
        let so_far = |row: usize| negatives.row_weight.get(row).copied().unwrap_or(1.0);
        let weights = choice.batch.targets.iter().enumerate().map(|(row, &target)| so_far(row) * of_items[target as usize]);
        negatives.row_weight = weights.collect();
        Ok(())
    }
}
