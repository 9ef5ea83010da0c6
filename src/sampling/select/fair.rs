//! Hard negatives for half of the draws, negatives from groups that the model serves well for the other half: FairNeg.
//!
//! Groups `z` are the items' first attributes. With `M` candidates, `C_r` those of row `r`, `A_z` the items of a group that the row
//! may be given, and `L_z` the mean of `-ln sigma(s+)` over the epoch's rows whose target is of `z`,
//!
//! ```text
//! P(i)  = hard exp(s_i / temperature) / sum over C_r  +  (1 - hard) q_z / |A_z|,   z the group of i
//! q_z   = p_z / sum of p over groups with items left;  by their items where that sum is 0
//! at the start of an epoch:   g_z = L_z - mean of L over the groups seen,   m_z <- momentum m_z + (1 - momentum) g_z,
//!                             p_z <- p_z - rate m_z, kept in 0 .. 1;        at first p_z is the group's share of the catalogue
//! ```
//!
//! so a group whose positives the model scores low is drawn less often as a negative. What is reported is the probability of the
//! mixture, given the candidates. Where one part has nothing to draw from, the other is drawn from alone. An item without an
//! attribute belongs to a group of its own kind. Moments, probabilities and the running means are part of a checkpoint.
//! Source: FairNeg (Chen et al., WWW 2023). There an item is weighed against all unobserved ones, here against the candidates; its
//! released program takes the softmax of `sigma(s)`, which is flatter than that of `s`, a share of 0.4 for the hard part, and a
//! moment made of the last two directions.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::{CANDIDATES, Candidates, Choice, Select, one_group_per_row, scored_beside_targets};
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::vector;
use crate::rng::{Draws, Stream, below, open01, slot_index};
use crate::sampling::State;
use crate::sampling::knowledge::{Catalogue, Groups, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lanes of the words that choose the part and the group, and the item.
const PART: u8 = 230;
const ITEM: u8 = 231;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "fair",
    help: "a hard candidate, or an item of a group the model serves well: groups with a larger loss are drawn less",
    source: "FairNeg (Chen et al., WWW 2023), its hard part over the candidates",
    params: &[
        Param {
            name: "hard",
            form: Form::Number { default: 0.5, low: 0.0, high: 1.0, curve: true },
            only_with: None,
            help: "share of the draws that come from the candidates by their scores",
        },
        Param {
            name: "temperature",
            form: Form::Number { default: 0.4, low: 1e-3, high: 1e3, curve: true },
            only_with: None,
            help: "scores of the candidates are divided by it",
        },
        Param {
            name: "momentum",
            form: Form::Number { default: 0.9, low: 0.0, high: 1.0, curve: true },
            only_with: None,
            help: "how much of the last epoch's direction a group keeps",
        },
        Param {
            name: "rate",
            form: Form::Number { default: 0.2, low: 0.0, high: 10.0, curve: true },
            only_with: None,
            help: "how far a group's probability moves per epoch and unit of loss",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores, Need::Attributes],
    cost: "2RMD flops; R(M+Z) for the law, Z groups",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Fair { params: params.clone(), groups: ItemGroups::default(), learned: Mutex::default() })
}

/// Bytes of the groups of `items` V, `trained` of them, by attributes below `codes`, and of what is learned of them.
pub(in crate::sampling) fn bytes(items: usize, trained: usize, codes: usize) -> usize {
    4 * (items + trained) + (size_of::<Vec<u32>>() + 16) * (codes + 1)
}

/// Bytes while it draws `n` negatives of each of `rows` from lists of `m`, with attributes below `codes`: the candidates beside the
/// targets, and the law of a row for each thread.
pub(in crate::sampling) fn drawing(rows: usize, n: usize, m: usize, codes: usize, threads: usize) -> usize {
    let (beside, law) = (rows * (m + 1), 24 * m + (size_of::<Vec<usize>>() + 8) * (codes + 1));
    (16 * beside).max(12 * beside + 8 * rows * n + threads * law + 16 * (codes + 1)) + 4 * rows
}

struct Fair {
    params: Params,
    groups: ItemGroups,
    learned: Mutex<Learned>,
}

/// Which group an item is of, and the trained items of each.
#[derive(Default)]
struct ItemGroups {
    /// (V)
    of_item: Vec<u32>,
    /// (Z) ascending
    members: Vec<Vec<u32>>,
}

/// What changes with training; f32, as a checkpoint stores it.
#[derive(Clone, Default, Debug, PartialEq)]
struct Learned {
    epoch: f32,
    /// (Z)
    share: Vec<f32>,
    moment: Vec<f32>,
    /// (Z) sum of losses and number of rows in this epoch.
    losses: Vec<f32>,
    rows: Vec<f32>,
}

impl Learned {
    /// What an epoch's end changes.
    fn turn(&mut self, momentum: f64, rate: f64) {
        let seen: Vec<usize> = (0..self.rows.len()).filter(|&z| self.rows[z] > 0.0).collect();
        let mean = |z: usize| f64::from(self.losses[z]) / f64::from(self.rows[z]);
        let overall = seen.iter().map(|&z| mean(z)).sum::<f64>() / seen.len().max(1) as f64;
        let ahead: Vec<(usize, f64)> = seen.iter().map(|&z| (z, mean(z) - overall)).filter(|(_, g)| g.is_finite()).collect();
        for (z, g) in ahead {
            let moment = momentum * f64::from(self.moment[z]) + (1.0 - momentum) * g;
            self.moment[z] = moment as f32;
            self.share[z] = (f64::from(self.share[z]) - rate * moment).clamp(0.0, 1.0) as f32;
        }
        self.losses.fill(0.0);
        self.rows.fill(0.0);
    }
}

/// P of one row.
struct Law<'a> {
    /// C_r ascending, each once, and their probabilities.
    candidates: Vec<(u32, f64)>,
    /// q (Z)
    groups: Vec<f64>,
    members: &'a [Vec<u32>],
    /// The row's excluded items as places in the members of their groups: per group, ascending.
    gone: Vec<Vec<usize>>,
    /// Share of the hard part: 0 or 1 where one part is empty.
    hard: f64,
}

impl Law<'_> {
    fn left(&self, z: usize) -> usize {
        self.members[z].len() - self.gone[z].len()
    }
    fn draw(&self, part: [u64; 2], item: u64) -> Option<u32> {
        let mut left = open01(part[1]);
        let mut pass = |p: f64| {
            left -= p;
            left < 0.0
        };
        if open01(part[0]) < self.hard {
            let found = self.candidates.iter().find(|c| pass(c.1));
            return found.or_else(|| self.candidates.iter().rfind(|c| c.1 > 0.0)).map(|c| c.0);
        }
        let found = self.groups.iter().position(|&q| pass(q));
        let z = found.or_else(|| self.groups.iter().rposition(|&q| q > 0.0))?;
        // The n-th item that is not excluded.
        let mut place = below(item, self.left(z) as u64) as usize;
        self.gone[z].iter().for_each(|&gone| place += usize::from(gone <= place));
        Some(self.members[z][place])
    }
    fn prob(&self, item: u32, z: usize) -> f64 {
        let hard = self.candidates.binary_search_by_key(&item, |c| c.0).map_or(0.0, |at| self.candidates[at].1);
        self.hard * hard + (1.0 - self.hard) * self.groups[z] / self.left(z).max(1) as f64
    }
}

impl Fair {
    /// P of row `r`, whose candidates with their scores are `listed`.
    fn law(&self, learned: &Learned, choice: &Choice, r: usize, sequence: u32, listed: (&[u32], &[f64])) -> Law<'_> {
        let temperature = self.params.number("temperature", choice.epoch);
        let mut candidates: Vec<(u32, f64)> =
            listed.0.iter().zip(listed.1).filter(|(i, _)| **i != NONE).map(|(&i, &s)| (i, s / temperature)).collect();
        candidates.sort_by_key(|c| c.0);
        candidates.dedup_by_key(|c| c.0);
        let mut p: Vec<f64> = candidates.iter().map(|c| c.1).collect();
        if !vector::softmax_in_place(&mut p).is_finite() {
            p = vec![1.0 / p.len().max(1) as f64; p.len()];
        }
        candidates.iter_mut().zip(p).for_each(|(c, p)| c.1 = p);

        let members = &self.groups.members;
        let seen = choice.exclude.of_sequence(choice.batch, sequence as usize);
        let target = choice.batch.targets[r];
        let further = (choice.exclude != Exclude::None && seen.binary_search(&target).is_err()).then_some(target);
        let mut gone = vec![Vec::new(); members.len()];
        for &item in seen.iter().chain(&further) {
            let z = self.groups.of_item[item as usize] as usize;
            if let Ok(place) = members[z].binary_search(&item) {
                gone[z].push(place);
            }
        }
        gone.iter_mut().for_each(|places| places.sort_unstable());
        let left = |z: usize| (members[z].len() - gone[z].len()) as f64;
        let of = |weight: &dyn Fn(usize) -> f64| (0..members.len()).map(weight).collect::<Vec<f64>>();
        let mut groups = of(&|z| if left(z) > 0.0 { f64::from(learned.share[z]) } else { 0.0 });
        if groups.iter().sum::<f64>() <= 0.0 {
            groups = of(&left);
        }
        let total: f64 = groups.iter().sum();
        groups.iter_mut().for_each(|q| *q /= total.max(f64::MIN_POSITIVE));
        let hard = match (candidates.is_empty(), total > 0.0) {
            (true, _) => 0.0,
            (false, false) => 1.0,
            _ => self.params.number("hard", choice.epoch),
        };
        Law { candidates, groups, members, gone, hard }
    }

    fn begin(&self) -> Learned {
        let zeros = vec![0.0; self.groups.members.len()];
        let total: usize = self.groups.members.iter().map(Vec::len).sum();
        let share = self.groups.members.iter().map(|members| members.len() as f32 / total.max(1) as f32).collect();
        Learned { epoch: -1.0, share, moment: zeros.clone(), losses: zeros.clone(), rows: zeros }
    }
}

impl Select for Fair {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn fewest_candidates(&self, negatives: usize) -> usize {
        // With replacement any number can be drawn from any list.
        negatives
    }
    fn learn_about(&mut self, knowledge: &Knowledge, catalogue: &Catalogue) -> Result<()> {
        let attributes = Groups::by_attribute(knowledge, catalogue, "the selection `fair`")?;
        let nothing = attributes.width() as u32;
        let of_item: Vec<u32> =
            (0..catalogue.items() as u32).map(|i| attributes.of_item(i).first().copied().unwrap_or(nothing)).collect();
        let mut counts = vec![0; nothing as usize + 1];
        catalogue.iter().for_each(|i| counts[of_item[i as usize] as usize] += 1);
        let mut members: Vec<Vec<u32>> = counts.into_iter().map(Vec::with_capacity).collect();
        catalogue.iter().for_each(|i| members[of_item[i as usize] as usize].push(i));
        self.groups = ItemGroups { of_item, members };
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = self.begin();
        Ok(())
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let Candidates::Listed(lists) = candidates else {
            return Err(Error::internal("a fair choice is among proposed items and groups"));
        };
        let (batch, n) = (choice.batch, choice.negatives);
        let (ids, scores, width) = scored_beside_targets(choice, &lists)?;
        let sequences = batch.sequence_of_rows();
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = choice.epoch_index as f32;
        if learned.epoch != epoch {
            let of = |name| self.params.number(name, choice.epoch_index as f64);
            learned.turn(of("momentum"), of("rate"));
            learned.epoch = epoch;
        }

        let lane = |lane| Draws::new(choice.seed, Stream::Select, lane, choice.epoch_index);
        let (of_part, of_item) = (lane(PART), lane(ITEM));
        let (mut taken, mut log_q) = (vec![NONE; batch.rows() * n], vec![0.0; batch.rows() * n]);
        let state = &*learned;
        let slots = taken.par_chunks_mut(n.max(1)).zip(log_q.par_chunks_mut(n.max(1)));
        slots.enumerate().for_each(|(r, (taken, log_q))| {
            let own = r * width + 1..(r + 1) * width;
            let law = self.law(state, choice, r, sequences[r], (&ids[own.clone()], &scores[own]));
            for (slot, (taken, log_q)) in taken.iter_mut().zip(log_q).enumerate() {
                let index = slot_index(batch.row_keys[r], slot);
                let Some(item) = law.draw(of_part.words64(index), of_item.words64(index)[0]) else { continue };
                let prob = law.prob(item, self.groups.of_item[item as usize] as usize);
                (*taken, *log_q) = (item, prob.ln() as f32);
            }
        });

        let groups = self.groups.members.len();
        let (mut losses, mut rows) = (vec![0.0f64; groups], vec![0.0f64; groups]);
        for (scores, &target) in scores.chunks_exact(width).zip(&batch.targets) {
            // -ln sigma(s)
            let loss = (-scores[0].abs()).exp().ln_1p() + (-scores[0]).max(0.0);
            if loss.is_finite() {
                let z = self.groups.of_item[target as usize] as usize;
                losses[z] += loss;
                rows[z] += 1.0;
            }
        }
        for z in 0..groups {
            learned.losses[z] = (f64::from(learned.losses[z]) + losses[z]) as f32;
            learned.rows[z] = (f64::from(learned.rows[z]) + rows[z]) as f32;
        }
        Ok(one_group_per_row(choice, taken, if choice.log_q { log_q } else { Vec::new() }))
    }

    fn state(&self) -> Vec<State> {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.epoch < 0.0 {
            return Vec::new();
        }
        let state = |name: &str, values: &[f32]| State {
            name: format!("fair.{name}"),
            shape: vec![values.len()],
            values: values.to_vec(),
        };
        vec![
            state("epoch", &[learned.epoch]),
            state("share", &learned.share),
            state("moment", &learned.moment),
            state("losses", &learned.losses),
            state("rows", &learned.rows),
        ]
    }

    fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        let mut learned = self.begin();
        if let Some(epoch) = find("fair.epoch") {
            let part = |name: &str| find(&format!("fair.{name}")).unwrap_or(&[]).to_vec();
            let [share, moment, losses, rows] = ["share", "moment", "losses", "rows"].map(part);
            let parts = [&share, &moment, &losses, &rows];
            if epoch.len() != 1 || parts.iter().any(|x| x.len() != learned.share.len() || x.iter().any(|x| !x.is_finite())) {
                return Err(Error::new(Code::M0402, "the groups of the sampler in the checkpoint are not those of this log"));
            }
            if !share.iter().all(|p| (0.0..=1.0).contains(p)) {
                return Err(Error::new(
                    Code::M0402,
                    "a group's probability in the sampler of the checkpoint is not between 0 and 1",
                ));
            }
            learned = Learned { epoch: epoch[0], share, moment, losses, rows };
        }
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = learned;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three epochs of three groups by hand.
    #[test]
    fn a_group_with_a_larger_loss_is_drawn_less() {
        let mut learned = Learned {
            epoch: 0.0,
            share: vec![0.5, 0.3, 0.2, 0.0],
            moment: vec![0.0; 4],
            losses: vec![0.0; 4],
            rows: vec![0.0; 4],
        };
        let (mut share, mut moment) = ([0.5f64, 0.3, 0.2], [0.0f64; 3]);
        for losses in [[2.0, 6.0, 4.0], [3.0, 3.0, 9.0], [30.0, 1.0, 1.0]] {
            // Two rows each; the fourth group is never seen.
            learned.losses = losses.iter().map(|x| *x as f32).chain([0.0]).collect();
            learned.rows = vec![2.0, 2.0, 2.0, 0.0];
            learned.turn(0.9, 0.2);
            let mean = losses.iter().sum::<f64>() / 6.0;
            for z in 0..3 {
                moment[z] = 0.9 * moment[z] + 0.1 * (losses[z] / 2.0 - mean);
                share[z] = (share[z] - 0.2 * moment[z]).clamp(0.0, 1.0);
                assert!((f64::from(learned.share[z]) - share[z]).abs() < 1e-6, "{z}: {learned:?}");
            }
            assert!(learned.rows.iter().all(|&n| n == 0.0) && learned.share[3] == 0.0);
        }
        assert!(share[0] < 0.5 && share[1] > 0.3);
    }
}
