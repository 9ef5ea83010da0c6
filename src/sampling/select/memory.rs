//! Keeps a memory of hard items for every user and takes those that score high and whose score varies over training: SRNS.
//!
//! A false negative scores high and stays there; a true hard negative scores high now and varied before. For the memory `M_u`
//! of `size` items of user `u` and a row with positive `p`
//!
//! ```text
//! take       argmax over k in M_u of   sigma(s_k - s_p) + alpha sd_k           the N highest, ties to the lower item
//! remember   sd_k over the user's last visits of x_k = mean over its rows of sigma(s_k - s_p):
//!            a = 1 / min(visits, window),  mean += a (x - mean),  var = (1 - a)(var + a (x - mean)^2)
//! renew      M_u <- `size` items of M_u and the candidates, without replacement, P ~ exp(mean over rows of s_k / temperature)
//! ```
//!
//! The choice of a visit looks at the deviations before it. A user's first memory is renewed from the candidates alone. The memory
//! is part of a checkpoint. Source: SRNS (Ding et al., NeurIPS 2020); there the deviation is that of a stored matrix of five
//! epochs, here it is a running one of the items in memory, which needs three numbers an item.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::{CANDIDATES, Candidates, Choice, Select, one_group_per_row, sigmoid};
use crate::device::Buffer;
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::ops::cost::Cost;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::score;
use crate::rng::{Draws, Stream, open01, slot_index};
use crate::sampling::State;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lane of the words that renew a memory.
const RENEW: u8 = 200;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "memory",
    help: "keep a memory of hard items per user and take those whose score is high and has varied",
    source: "SRNS (Ding et al., NeurIPS 2020)",
    params: &[
        Param {
            name: "size",
            form: Form::Count { default: 8.0, low: 1.0, high: 4096.0, curve: true },
            only_with: None,
            help: "items remembered per user (S)",
        },
        Param {
            name: "alpha",
            form: Form::Number { default: 5.0, low: -1e4, high: 1e4, curve: true },
            only_with: None,
            help: "what a standard deviation of the score is worth; 0 looks at the score alone",
        },
        Param {
            name: "temperature",
            form: Form::Number { default: 10.0, low: 1e-3, high: 1e6, curve: true },
            only_with: None,
            help: "how softly a memory is renewed: high is uniform, low keeps the highest scores",
        },
        Param {
            name: "window",
            form: Form::Count { default: 5.0, low: 1.0, high: 1e6, curve: true },
            only_with: None,
            help: "visits over which the deviation looks back",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "2R(S+M)D flops; 16 bytes per remembered item",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Memory { params: params.clone(), users: Mutex::default() })
}

struct Memory {
    params: Params,
    /// By user, so that their order in a checkpoint is fixed.
    users: Mutex<BTreeMap<u32, Vec<Entry>>>,
}

/// Bytes once every one of `users` has been met: the items of each, and its place in a node that is half full or more.
pub(in crate::sampling) fn bytes(params: &Params, users: usize) -> usize {
    let most = params.most("size").round() as usize;
    users * (size_of::<Entry>() * most + (size_of::<(u32, Vec<Entry>)>() * 3).div_ceil(2))
}

/// What one more renewal of so many `sequences` moves: the items of each, read and written.
pub(in crate::sampling) fn renewed(params: &Params, sequences: usize) -> Cost {
    Cost::moved(2 * sequences * params.count("size", 0.0) * size_of::<Entry>() / 4)
}

/// A remembered item; f32, as a checkpoint stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Entry {
    item: u32,
    visits: f32,
    mean: f32,
    variance: f32,
}

impl Entry {
    fn saw(&mut self, x: f64, window: f64) {
        let visits = f64::from(self.visits) + 1.0;
        let a = 1.0 / visits.min(window);
        let off = x - f64::from(self.mean);
        self.visits = visits.min(window) as f32;
        self.mean = (f64::from(self.mean) + a * off) as f32;
        self.variance = ((1.0 - a) * (f64::from(self.variance) + a * off * off)) as f32;
    }
}

/// Positions of the `n` largest keys, the largest first, ties to the lower item; NaN counts as the smallest.
fn largest(keys: &[(f64, u32)], n: usize) -> Vec<usize> {
    let key = |i: usize| if keys[i].0.is_nan() { f64::NEG_INFINITY } else { keys[i].0 };
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|&i, &j| key(j).total_cmp(&key(i)).then(keys[i].1.cmp(&keys[j].1)));
    order.truncate(n);
    order
}

/// What a sequence brings: its rows, memory, and scores (rows, 1 + S + M) of positive, memory and candidates.
struct Visit<'a> {
    user: u32,
    /// S, the longest memory of the batch
    slots: usize,
    targets: &'a [u32],
    memory: &'a [Entry],
    candidates: &'a [u32],
    scores: &'a [f64],
}

impl Memory {
    /// The (rows, N) items taken, and the memory from here on.
    fn visit(&self, choice: &Choice, visit: &Visit) -> (Vec<u32>, Vec<Entry>) {
        let size = self.params.count("size", choice.epoch);
        let (alpha, window) = (self.params.number("alpha", choice.epoch), self.params.number("window", choice.epoch));
        let temperature = self.params.number("temperature", choice.epoch);
        let (rows, slots) = (visit.targets.len(), visit.slots);
        let width = 1 + slots + visit.candidates.len();
        let mean = |of: &dyn Fn(&[f64]) -> f64| visit.scores.chunks_exact(width).map(of).sum::<f64>() / rows.max(1) as f64;

        // Everything that may be remembered, with its column of scores: what is remembered, then new candidates.
        let mut pool: Vec<(Entry, usize)> = visit.memory.iter().enumerate().map(|(k, e)| (*e, 1 + k)).collect();
        for (j, &item) in visit.candidates.iter().enumerate() {
            if item != NONE && pool.iter().all(|(e, _)| e.item != item) {
                pool.push((Entry { item, ..Entry::default() }, 1 + slots + j));
            }
        }
        let draws = Draws::new(choice.seed, Stream::Select, RENEW, choice.epoch_index);
        let keys: Vec<(f64, u32)> = pool
            .iter()
            .enumerate()
            .map(|(j, (entry, column))| {
                let word = draws.words64(slot_index(u64::from(visit.user), j))[0];
                (mean(&|s| s[*column]) / temperature - (-open01(word).ln()).ln(), entry.item)
            })
            .collect();
        let kept: Vec<(Entry, usize)> = largest(&keys, size).into_iter().map(|i| pool[i]).collect();

        let known: Vec<(Entry, usize)> = match visit.memory.is_empty() {
            true => kept.clone(),
            false => pool[..visit.memory.len()].to_vec(),
        };
        let mut taken = Vec::with_capacity(rows * choice.negatives);
        for (s, &target) in visit.scores.chunks_exact(width).zip(visit.targets) {
            let free = known.iter().filter(|(e, _)| choice.exclude == Exclude::None || e.item != target);
            let worth: Vec<(f64, u32)> =
                free.map(|(e, column)| (sigmoid(s[*column] - s[0]) + alpha * f64::from(e.variance).sqrt(), e.item)).collect();
            let best = largest(&worth, choice.negatives);
            taken.extend(best.iter().map(|&i| worth[i].1));
            taken.extend(std::iter::repeat_n(NONE, choice.negatives - best.len()));
        }
        let renewed = kept.into_iter().map(|(mut entry, column)| {
            entry.saw(mean(&|s| sigmoid(s[column] - s[0])), window);
            entry
        });
        (taken, renewed.collect())
    }
}

impl Select for Memory {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn fewest_candidates(&self, _: usize) -> usize {
        (self.params.least("candidates")).min(self.params.least("size")) as usize
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let Candidates::Listed(lists) = candidates else {
            return Err(Error::internal("a memory is renewed from proposed items only"));
        };
        let (batch, scoring) = (choice.batch, choice.scoring()?);
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = batch.users.iter().filter_map(|user| users.get(user)).map(Vec::len).max();
        let (slots, m) = (longest.unwrap_or(0), lists.n);
        let width = 1 + slots + m;
        let empty = Vec::new();

        // A sequence's candidates are those of its first row.
        let mut ids = vec![NONE; batch.rows() * width];
        let mut offered = vec![NONE; batch.sequences() * m];
        for b in 0..batch.sequences() {
            let range = batch.range(b);
            if range.is_empty() {
                continue;
            }
            let group = lists.group_offsets.partition_point(|&o| o as usize <= range.start) - 1;
            let drops = |j: usize| lists.drop.get(range.start * m + j).copied().unwrap_or(false);
            let offered = &mut offered[b * m..(b + 1) * m];
            for (j, (slot, &item)) in offered.iter_mut().zip(lists.ids_of(group)).enumerate() {
                *slot = if drops(j) { NONE } else { item };
            }
            let memory = users.get(&batch.users[b]).unwrap_or(&empty);
            for r in range {
                let row = &mut ids[r * width..(r + 1) * width];
                row[0] = batch.targets[r];
                row[1..].iter_mut().zip(memory).for_each(|(slot, entry)| *slot = entry.item);
                row[1 + slots..].copy_from_slice(offered);
            }
        }
        let mut scores = Buffer::empty(choice.device);
        score::gather(choice.device, &mut scores, scoring, &ids)?;
        let scores = scores.to_f64(choice.device)?;
        let visits: Vec<(Vec<u32>, Vec<Entry>)> = (0..batch.sequences())
            .into_par_iter()
            .map(|b| {
                let range = batch.range(b);
                let visit = Visit {
                    user: batch.users[b],
                    slots,
                    targets: &batch.targets[range.clone()],
                    memory: users.get(&batch.users[b]).unwrap_or(&empty),
                    candidates: &offered[b * m..(b + 1) * m],
                    scores: &scores[range.start * width..range.end * width],
                };
                self.visit(choice, &visit)
            })
            .collect();
        let mut taken = Vec::with_capacity(batch.rows() * choice.negatives);
        for ((ids, memory), &user) in visits.into_iter().zip(&batch.users) {
            if !ids.is_empty() {
                taken.extend(ids);
                users.insert(user, memory);
            }
        }
        Ok(one_group_per_row(choice, taken, Vec::new()))
    }

    fn state(&self) -> Vec<State> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids as two numbers of 16 bits: an f32 holds no more than 24.
        let halves = |id: u32| [(id >> 16) as f32, (id & 0xFFFF) as f32];
        let (mut of_users, mut entries) = (vec![], vec![]);
        for (&user, memory) in users.iter() {
            for entry in memory {
                of_users.extend(halves(user));
                entries.extend(halves(entry.item));
                entries.extend([entry.visits, entry.mean, entry.variance]);
            }
        }
        let n = of_users.len() / 2;
        if n == 0 {
            return vec![];
        }
        vec![
            State { name: "memory.users".into(), shape: vec![n, 2], values: of_users },
            State { name: "memory.entries".into(), shape: vec![n, 5], values: entries },
        ]
    }

    fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.clear();
        let (of_users, entries) = (find("memory.users").unwrap_or(&[]), find("memory.entries").unwrap_or(&[]));
        let whole = |x: &f32| (0.0..65536.0).contains(x) && x.fract() == 0.0;
        let fits = of_users.len() % 2 == 0
            && entries.len() == of_users.len() / 2 * 5
            && of_users.iter().all(whole)
            && entries.chunks_exact(5).all(|e| e[..2].iter().all(whole));
        if !fits {
            return Err(Error::new(Code::M0402, "the sampler's memory in the checkpoint does not fit together"));
        }
        let id = |halves: &[f32]| (halves[0] as u32) << 16 | halves[1] as u32;
        for (user, e) in of_users.chunks_exact(2).zip(entries.chunks_exact(5)) {
            let entry = Entry { item: id(e), visits: e[2], mean: e[3], variance: e[4] };
            users.entry(id(user)).or_default().push(entry);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The deviation of the visits within the window, by the definition of a mean and a variance while it fills.
    #[test]
    fn statistics_of_a_filling_window_are_exact() {
        let mut entry = Entry::default();
        let x = [0.2, 0.5, 0.9, 0.4];
        x.iter().for_each(|&x| entry.saw(x, 5.0));
        let mean = x.iter().sum::<f64>() / 4.0;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4.0;
        assert!((f64::from(entry.mean) - mean).abs() < 1e-6 && (f64::from(entry.variance) - variance).abs() < 1e-6);
        assert_eq!(entry.visits, 4.0);
        let mut still = Entry::default();
        (0..20).for_each(|_| still.saw(0.25, 5.0));
        assert_eq!((still.mean, still.variance, still.visits), (0.25, 0.0, 5.0));
    }

    #[test]
    fn the_largest_come_first_and_ties_go_to_the_lower_item() {
        let keys = [(1.0, 7), (f64::NAN, 1), (2.0, 9), (1.0, 3)];
        assert_eq!(largest(&keys, 3), [2, 3, 0]);
        assert_eq!(largest(&keys, 9).len(), 4);
        assert_eq!(largest(&keys, 4)[3], 1);
    }
}
