//! Draws from a learned generator that plays against the model: KBGAN over a few candidates, IRGAN over the whole catalogue.
//!
//! The generator has a vector `g_i (D)` of its own for every item, zero before training, and reads the model's query `h_r`:
//!
//! ```text
//! a_i   = g_i . h_r / (sqrt(D) temperature)
//! P(i)  = exp a_i / sum over the row's candidates, each counted once         N draws with replacement
//! R_n   = sigma(s_n), or sigma(s_n - s+) as a margin                         what the model thinks of draw n
//! G_i   = sum over rows of  1/N sum over n of (R_n - b) d ln P(x_n)/d g_i  +  entropy d H(P)/d g_i
//! ```
//!
//! `g` and the baseline `b` follow as `learned.rs` says. The generator climbs by REINFORCE towards what the model takes for
//! positive, the model learns to tell that from what was, and the entropy keeps the draws from falling on one item: at rest `P` is
//! proportional to `exp(R / entropy)`. Everything is decided on the host, whatever the device: `R D` numbers are copied back, and
//! the catalogue as proposal costs `6 R V D` flops, which suits the small ones it was published on.
//! Sources: KBGAN (Cai and Wang, NAACL 2018), IRGAN (Wang et al., SIGIR 2017). They train the generator in turns of its own; here
//! it learns from the very draws the model learns from.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::learned::{Learned, WINDOW};
use super::{CANDIDATES, Candidates, Choice, Select, beside_targets, one_group_per_row, sigmoid};
use crate::device::Buffer;
use crate::error::Result;
use crate::ids::NONE;
use crate::ops::cost::{Cost, product};
use crate::ops::exclusion::Exclude;
use crate::ops::matmul::{self, Mat};
use crate::ops::negatives::Negatives;
use crate::ops::segments::Segments;
use crate::ops::{score, vector};
use crate::rng::{Draws, Stream, open01, slot_index};
use crate::sampling::State;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lane of the words that draw.
const DRAW: u8 = 210;
/// Before the names of what it keeps in a checkpoint.
const OWNER: &str = "generator";
/// Candidates whose part of the gradient is held at once.
pub(in crate::sampling) const BLOCK: usize = 1 << 22;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "generator",
    help: "draw from a generator that learns which items the model takes for positive",
    source: "KBGAN (Cai and Wang, NAACL 2018); IRGAN (Wang et al., SIGIR 2017); a reconstruction in which both learn from the same draws",
    params: &[
        Param {
            name: "reward",
            form: Form::Word { words: &["score", "margin"] },
            only_with: None,
            help: "what the generator is paid for a draw: sigma(score), or sigma(score - the positive's)",
        },
        Param {
            name: "rate",
            form: Form::Number { default: 0.05, low: 0.0, high: 10.0, curve: true },
            only_with: None,
            help: "learning rate of the generator (Adagrad by row)",
        },
        Param {
            name: "entropy",
            form: Form::Number { default: 0.1, low: 0.0, high: 100.0, curve: true },
            only_with: None,
            help: "what a nat of the generator's entropy is worth beside the reward",
        },
        Param {
            name: "temperature",
            form: Form::Number { default: 1.0, low: 1e-3, high: 1e3, curve: true },
            only_with: None,
            help: "the generator's logits are divided by it",
        },
        WINDOW,
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "4RMD flops on the host; 4V(D+1) bytes",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Generator { params: params.clone(), learned: Mutex::default() })
}

/// Of R `rows` that each keep `n` of `m` candidates, or of the whole catalogue where that is `items` V, with `different` items among
/// all candidates and `dim` D: their laws to draw from and to learn from, the gradient, and the rewards, whose scores take so many
/// `products`.
pub(in crate::sampling) fn cost(rows: usize, m: usize, n: usize, different: usize, dim: usize, products: u64) -> Cost {
    let flops = 3 * product([rows, m, dim]) + products * product([rows, n + 1, dim]);
    // The vectors and squares of what was met are read and written, and the model's of what was drawn are read.
    Cost::new(flops, 2 * different * (dim + 1) + 2 * rows * dim + rows * n * (dim + 1))
}

struct Generator {
    params: Params,
    learned: Mutex<Learned>,
}

/// How the rows of one draw see the generator.
struct View<'a> {
    choice: &'a Choice<'a>,
    /// The listed candidates (R,M) from the second column on, and the width `1+M`; nothing for the catalogue.
    listed: Option<(Vec<u32>, usize)>,
    /// (R) the sequence of each row.
    sequences: Vec<u32>,
    /// h (R,D)
    query: Vec<f32>,
    dim: usize,
    /// V
    items: usize,
    /// 1 / (sqrt(D) temperature)
    scale: f64,
}

/// P of one row.
struct Law {
    /// What it may be given, ascending, each item once; nothing where it is every item, of which some have no probability.
    candidates: Option<Vec<u32>>,
    p: Vec<f64>,
}

impl Law {
    fn item(&self, place: usize) -> u32 {
        self.candidates.as_ref().map_or(place as u32, |candidates| candidates[place])
    }
    fn place(&self, item: u32) -> Option<usize> {
        self.candidates.as_ref().map_or(Some(item as usize), |candidates| candidates.binary_search(&item).ok())
    }
}

impl View<'_> {
    /// The rows in blocks of a size that depends on the shapes alone.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let (rows, most) = (self.sequences.len(), self.listed.as_ref().map_or(self.items, |(_, width)| width - 1));
        let size = (BLOCK / most.max(1)).max(1);
        (0..rows).step_by(size).map(move |start| start..(start + size).min(rows))
    }
    fn query(&self, rows: Range<usize>) -> &[f32] {
        &self.query[rows.start * self.dim..rows.end * self.dim]
    }
    /// P of each of `rows`.
    fn laws(&self, table: &[f32], rows: Range<usize>) -> Vec<Law> {
        let dim = self.dim;
        if let Some((ids, width)) = &self.listed {
            let law = |r: usize| {
                let query = self.query(r..r + 1);
                let mut own = Vec::with_capacity(width - 1);
                own.extend(ids[r * width + 1..(r + 1) * width].iter().copied().filter(|&i| i != NONE));
                own.sort_unstable();
                own.dedup();
                let logit = |&i: &u32| f64::from(vector::dot(&table[i as usize * dim..(i as usize + 1) * dim], query));
                let p = own.iter().map(|i| logit(i) * self.scale).collect();
                Law { candidates: Some(own), p: softmax(p) }
            };
            return rows.into_par_iter().map(law).collect();
        }
        let (batch, exclude) = (self.choice.batch, self.choice.exclude);
        let mut logits = vec![0.0f32; rows.len() * self.items];
        let shape = [rows.len(), self.items, dim];
        matmul::rows(&mut logits, Mat::new(self.query(rows.clone()), dim), Mat::new(table, dim).t(), shape, false);
        let law = |(logits, r): (&[f32], usize)| {
            let mut p = vec![f64::NEG_INFINITY; self.items];
            self.choice.catalogue.iter().for_each(|i| p[i as usize] = f64::from(logits[i as usize]) * self.scale);
            let seen = exclude.of_sequence(batch, self.sequences[r] as usize);
            let target = (exclude != Exclude::None).then_some(batch.targets[r]);
            seen.iter().chain(&target).for_each(|&i| p[i as usize] = f64::NEG_INFINITY);
            Law { candidates: None, p: softmax(p) }
        };
        logits.par_chunks(self.items).zip(rows).map(law).collect()
    }
}

/// Probabilities from logits: uniform over what is not minus infinity where logits are no numbers, nothing where nothing is left.
pub(super) fn softmax(mut logits: Vec<f64>) -> Vec<f64> {
    let allowed: Vec<bool> = logits.iter().map(|&a| a != f64::NEG_INFINITY).collect();
    let left = allowed.iter().filter(|&&allowed| allowed).count();
    if left == 0 {
        return vec![0.0; logits.len()];
    }
    if !vector::softmax_in_place(&mut logits).is_finite() {
        return allowed.iter().map(|&allowed| if allowed { 1.0 / left as f64 } else { 0.0 }).collect();
    }
    logits
}

/// d/da_m of `1/N sum over n of advantage_n ln P(taken_n) + entropy H(P)` (M), by the places that were taken.
fn slope(p: &[f64], taken: &[usize], advantages: &[f64], entropy: f64) -> Vec<f64> {
    let n = taken.len().max(1) as f64;
    let total = advantages.iter().sum::<f64>() / n;
    let nats = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    let spread: f64 = p.iter().map(|&p| nats(p)).sum();
    let mut slope: Vec<f64> = p.iter().map(|&p| entropy * (nats(p) - p * spread) - total * p).collect();
    taken.iter().zip(advantages).for_each(|(&place, advantage)| slope[place] += advantage / n);
    slope
}

/// Where the cumulated `p` passes `u` of its sum; nowhere when nothing has a probability.
pub(super) fn place(p: &[f64], u: f64) -> Option<usize> {
    let mut left = u * p.iter().sum::<f64>();
    let passed = p.iter().position(|p| {
        left -= p;
        left < 0.0
    });
    // Rounding may leave the end unpassed.
    passed.or_else(|| p.iter().rposition(|&p| p > 0.0))
}

impl Generator {
    /// One step of `learned` up the gradient from the `taken (R,N)` and their advantages (R,N).
    fn learn(&self, learned: &mut Learned, view: &View, taken: &[u32], advantages: &[f64]) {
        let number = |name: &str| self.params.number(name, view.choice.epoch);
        let (entropy, rate) = (number("entropy"), number("rate"));
        let (dim, n) = (view.dim, view.choice.negatives);
        let items: Vec<u32> = match &view.listed {
            Some((ids, width)) => {
                let mut items = Vec::with_capacity(ids.len());
                ids.chunks_exact(*width).for_each(|ids| items.extend_from_slice(&ids[1..]));
                items.sort_unstable();
                items.dedup();
                items.retain(|&i| i != NONE);
                items
            }
            None => (0..view.items as u32).collect(),
        };
        let mut gradient = vec![0.0f32; items.len() * dim];
        // Blocks of a fixed size, each added in the order of its rows: the same sums for any number of threads.
        for rows in view.blocks() {
            let laws = view.laws(&learned.table, rows.clone());
            let slopes: Vec<Vec<f64>> = laws
                .par_iter()
                .zip(rows.clone())
                .map(|(law, r)| {
                    let own = (r * n..(r + 1) * n).filter(|&slot| taken[slot] != NONE);
                    let places = own.filter_map(|slot| Some((law.place(taken[slot])?, advantages[slot])));
                    let (places, advantages): (Vec<usize>, Vec<f64>) = places.unzip();
                    slope(&law.p, &places, &advantages, entropy)
                })
                .collect();
            let count = slopes.iter().map(Vec::len).sum();
            let mut narrow = Vec::with_capacity(count);
            slopes.into_iter().for_each(|of_row| narrow.extend(of_row.into_iter().map(|slope| (slope * view.scale) as f32)));
            let slopes: Vec<f32> = narrow;
            let query = view.query(rows.clone());
            if view.listed.is_none() {
                let shape = [view.items, dim, rows.len()];
                matmul::rows(&mut gradient, Mat::new(&slopes, view.items).t(), Mat::new(query, dim), shape, true);
                continue;
            }
            let (mut ids, mut of_row) = (Vec::with_capacity(count), Vec::with_capacity(count));
            for (r, law) in (0u32..).zip(laws) {
                of_row.extend(std::iter::repeat_n(r, law.p.len()));
                ids.extend(law.candidates.into_iter().flatten());
            }
            let segments = Segments::of(&ids);
            gradient.par_chunks_mut(dim).zip(&items).for_each(|(gradient, item)| {
                let Ok(s) = segments.rows.binary_search(item) else { return };
                for &at in &segments.positions[segments.offsets[s] as usize..segments.offsets[s + 1] as usize] {
                    let r = of_row[at as usize] as usize;
                    vector::axpy(gradient, slopes[at as usize], &query[r * dim..(r + 1) * dim]);
                }
            });
        }
        for (gradient, &item) in gradient.chunks_exact(dim).zip(&items) {
            learned.climb(item as usize, gradient, rate);
        }
    }
}

impl Select for Generator {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn fewest_candidates(&self, negatives: usize) -> usize {
        // With replacement any number can be drawn from any list.
        negatives
    }
    fn takes_catalogue(&self) -> bool {
        true
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let (batch, scoring, n) = (choice.batch, choice.scoring()?, choice.negatives);
        let number = |name: &str| self.params.number(name, choice.epoch);
        let view = View {
            choice,
            listed: match &candidates {
                Candidates::Listed(lists) => Some(beside_targets(batch, lists)),
                Candidates::Catalogue => None,
            },
            sequences: batch.sequence_of_rows(),
            query: scoring.query.to_f64(choice.device)?.into_iter().map(|x| x as f32).collect(),
            dim: scoring.dim,
            items: scoring.items,
            scale: 1.0 / ((scoring.dim as f64).sqrt() * number("temperature")),
        };
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.fit(scoring.items, scoring.dim, OWNER)?;

        let draws = Draws::new(choice.seed, Stream::Select, DRAW, choice.epoch_index);
        let (mut taken, mut log_q) = (vec![NONE; batch.rows() * n], vec![0.0; batch.rows() * n]);
        for rows in view.blocks() {
            let slots = rows.start * n..rows.end * n;
            let laws = view.laws(&learned.table, rows.clone());
            let slots = taken[slots.clone()].par_chunks_mut(n.max(1)).zip(log_q[slots].par_chunks_mut(n.max(1)));
            slots.zip(&laws).zip(rows).for_each(|(((taken, log_q), law), r)| {
                for (slot, (taken, log_q)) in taken.iter_mut().zip(log_q).enumerate() {
                    let word = draws.words64(slot_index(batch.row_keys[r], slot))[0];
                    let Some(at) = place(&law.p, open01(word)) else { continue };
                    (*taken, *log_q) = (law.item(at), law.p[at].ln() as f32);
                }
            });
        }

        // The targets' scores beside those of what was drawn.
        let drawn = one_group_per_row(choice, taken, if choice.log_q { log_q } else { Vec::new() });
        let (ids, width) = beside_targets(batch, &drawn);
        let mut scores = Buffer::empty(choice.device);
        score::gather(choice.device, &mut scores, scoring, &ids)?;
        let scores = scores.to_f64(choice.device)?;
        let margin = self.params.word("reward") == "margin";
        // As many digits as the baseline has, so that what is the same for all is nothing.
        let reward = |s: f64, positive: f64| f64::from(sigmoid(if margin { s - positive } else { s }) as f32);
        let paid = scores.chunks_exact(width).flat_map(|s| s[1..].iter().map(move |&x| reward(x, s[0])));
        let rewards: Vec<f64> = paid.zip(&drawn.ids).map(|(reward, &id)| if id == NONE { f64::NAN } else { reward }).collect();
        if let Some((advantages, baseline)) = learned.advantages(&rewards, number("window")) {
            self.learn(&mut learned, &view, &drawn.ids, &advantages);
            learned.baseline = Some(baseline);
        }
        Ok(drawn)
    }

    fn state(&self) -> Vec<State> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).state(OWNER)
    }

    fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Learned::restored(OWNER, find)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of the slope over all draws is the gradient of the expected reward and the entropy, by central differences.
    #[test]
    fn reinforce_is_unbiased() {
        let (logits, rewards) = ([0.3, -1.0, 0.8, 0.0], [0.9, 0.2, 0.4, 0.7]);
        let (baseline, entropy) = (0.35, 0.6);
        let law = |a: &[f64]| {
            let mut p = a.to_vec();
            vector::softmax_in_place(&mut p);
            p
        };
        let value = |a: &[f64]| -> f64 { law(a).iter().zip(rewards).map(|(p, r)| p * r - entropy * p * p.ln()).sum() };
        let p = law(&logits);
        // Two draws: all pairs, each with its probability.
        let mut mean = [0.0; 4];
        for (i, j) in (0..4).flat_map(|i| (0..4).map(move |j| (i, j))) {
            let slope = slope(&p, &[i, j], &[rewards[i] - baseline, rewards[j] - baseline], entropy);
            mean.iter_mut().zip(slope).for_each(|(mean, s)| *mean += p[i] * p[j] * s);
        }
        for m in 0..4 {
            let nudged = |h: f64| {
                let mut a = logits;
                a[m] += h;
                value(&a)
            };
            let central = (nudged(1e-5) - nudged(-1e-5)) / 2e-5;
            assert!((mean[m] - central).abs() < 1e-9, "{m}: {} against {central}", mean[m]);
        }
    }

    #[test]
    fn a_place_is_where_the_law_passes_the_word() {
        let p = [0.25, 0.0, 0.5, 0.25];
        for (u, at) in [(0.0, 0), (0.2499, 0), (0.25, 2), (0.7499, 2), (0.75, 3), (0.999_999, 3), (1.0, 3)] {
            assert_eq!(place(&p, u), Some(at), "{u}");
        }
        assert_eq!(place(&[0.5, 0.5, 0.0], 1.0), Some(1), "what has no probability is never taken");
        assert_eq!(place(&[0.0, 0.0], 0.5), None);
    }
}
