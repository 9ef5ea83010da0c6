//! The linear item-to-item model: what followed the items of a history before, follows again.
//!
//! With `n (V)` the training counts, `W` the window and `H` the history looked at:
//!
//! ```text
//! t[i,j] = sum over training sequences and their positions p < q <= p + W, s[p] = i, s[q] = j, of 1 / (q - p)
//! w[i,j] = t[i,j] / sum_j t[i,j]
//! score_j = sum_{a < H} decay^a w[h_a, j] + backoff n_j / max n      h_0 the latest item of the history
//! ```
//!
//! Sequential rules with a linear window (Ludewig and Jannach 2018) summed over the recent history. It has no learned
//! parameter and takes seconds, and many published transformers do not beat it.
//!
//! H is its own: a request cut to the `max_len` of an encoder is shorter or longer, and [`ItemToItem::asked`] makes it anew from the log,
//! so that the baseline is the same bar for every encoder.
//!
//! Memory: 8 bytes per kept rule, at most `RULES` per item. Each row is counted by one thread over the occurrences of
//! its item in log order, so the result has the same bits for any number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::data::batch::Batch;
use crate::data::interactions::Interactions;
use crate::data::nearby::{self, Near};
use crate::data::split::Target;
use crate::error::{Error, Result};
use crate::eval::Ranker;

/// W, in events.
const WINDOW: usize = 10;
/// H, in events.
const HISTORY: usize = 20;
/// Weight of an item of the history against its successor's.
const DECAY: f32 = 0.8;
/// Strongest rules kept per item.
const RULES: usize = 1000;
/// Popularity's weight: below every rule, so that it only orders what no rule reaches.
const BACKOFF: f32 = 1e-7;

/// Rules `i -> j` as CSR.
pub struct ItemToItem {
    /// (V+1)
    offsets: Vec<u64>,
    /// (rules) (j, w[i,j]), per i by rising j.
    rules: Vec<(u32, f32)>,
    /// (V) the backoff.
    base: Vec<f32>,
}

impl ItemToItem {
    /// Rules that `fit` will keep for the training sequences `items[range]` over a catalogue of V items; of a large log about so many.
    pub fn rules(items: &[u32], sequences: impl Iterator<Item = Range<usize>> + Clone, catalogue: usize) -> usize {
        nearby::count(items, sequences, catalogue, Near { back: 0, ahead: WINDOW, itself: true, most: RULES })
    }
    /// Bytes that `fit` takes at its largest for `items` V, so many training events and rules, and what it leaves.
    pub fn bytes(items: usize, events: usize, rules: usize, threads: usize) -> [usize; 2] {
        let left = 8 * (items + 1).next_power_of_two() + 8 * rules + 4 * items;
        // Where each item occurs, and the rows of rules; then a row of sums for each thread, or the rules once more in one piece.
        let rows = 16 * (items + 1) + 16 * events + size_of::<Vec<(u32, f32)>>() * items + 8 * rules;
        let summing = threads * (8 * items + 4 * items.next_power_of_two());
        [rows + summing.max(left - 4 * items), left]
    }
    /// From the training sequences `items[starts[u]..ends[u]]` over a catalogue of `train_counts.len()` items.
    pub fn fit(items: &[u32], starts: &[u64], ends: &[u64], train_counts: &[u32]) -> Result<ItemToItem> {
        let catalogue = train_counts.len();
        let inside = |(&a, &b): (&u64, &u64)| a <= b && b as usize <= items.len();
        if starts.len() != ends.len() || !starts.iter().zip(ends).all(inside) || items.iter().any(|&i| i as usize >= catalogue) {
            return Err(Error::internal("training sequences do not fit the log"));
        }
        // Occurrences of each item, in log order: (first position after it, end of its window).
        let mut begin = vec![0u64; catalogue + 1];
        let sequences = || starts.iter().zip(ends).map(|(&a, &b)| a as usize..b as usize);
        for position in sequences().flatten() {
            begin[items[position] as usize + 1] += 1;
        }
        for i in 0..catalogue {
            begin[i + 1] += begin[i];
        }
        let mut next = begin.clone();
        let mut occurrences = vec![(0u64, 0u64); begin[catalogue] as usize];
        for sequence in sequences() {
            for position in sequence.clone() {
                let slot = &mut next[items[position] as usize];
                occurrences[*slot as usize] = (position as u64 + 1, sequence.end.min(position + 1 + WINDOW) as u64);
                *slot += 1;
            }
        }
        let rows: Vec<Vec<(u32, f32)>> = (0..catalogue)
            .into_par_iter()
            .map_init(
                || (vec![0f64; catalogue], Vec::new()),
                |(sum, touched): &mut (Vec<f64>, Vec<u32>), i| {
                    for &(from, to) in &occurrences[begin[i] as usize..begin[i + 1] as usize] {
                        for (gap, &j) in (1..).zip(&items[from as usize..to as usize]) {
                            if sum[j as usize] == 0.0 {
                                touched.push(j);
                            }
                            sum[j as usize] += 1.0 / f64::from(gap);
                        }
                    }
                    strongest(sum, touched)
                },
            )
            .collect();
        let mut offsets = vec![0u64];
        let mut rules = Vec::with_capacity(rows.iter().map(Vec::len).sum());
        for row in rows {
            rules.extend(row);
            offsets.push(rules.len() as u64);
        }
        let most = train_counts.iter().copied().max().unwrap_or(0).max(1) as f32;
        Ok(ItemToItem { offsets, rules, base: train_counts.iter().map(|&c| BACKOFF * c as f32 / most).collect() })
    }
    /// `requests` for `targets`, with the last H events of each visible history in `log` instead of as many as an encoder takes.
    pub fn asked(requests: Batch, targets: &[Target], log: &Interactions) -> Batch {
        let items = log.event_items();
        let (mut histories, mut wanted, mut offsets) = (vec![], vec![], vec![0]);
        for target in targets {
            let end = target.history_end as usize;
            let history = &items[end.saturating_sub(HISTORY).max(log.range(target.user).start)..end];
            histories.extend_from_slice(history);
            if !history.is_empty() {
                wanted.extend_from_slice(&history[1..]);
                wanted.push(items[target.at as usize]);
            }
            offsets.push(histories.len() as u32);
        }
        let Batch { users, seen_extents, seen, .. } = requests;
        let (offsets, items, targets) = (offsets.into(), histories.into(), wanted.into());
        Batch { users, offsets, items, targets, seen_extents, seen, ..Batch::default() }
    }
}

/// The normalised strongest rules of one row; leaves `sum` zero and `touched` empty for the next.
fn strongest(sum: &mut [f64], touched: &mut Vec<u32>) -> Vec<(u32, f32)> {
    touched.sort_unstable();
    let total: f64 = touched.iter().map(|&j| sum[j as usize]).sum();
    if touched.len() > RULES {
        touched.select_nth_unstable_by(RULES, |&a, &b| sum[b as usize].total_cmp(&sum[a as usize]).then(a.cmp(&b)));
        touched.drain(RULES..).for_each(|j| sum[j as usize] = 0.0);
        touched.sort_unstable();
    }
    touched.drain(..).map(|j| (j, (std::mem::take(&mut sum[j as usize]) / total) as f32)).collect()
}

impl Ranker for ItemToItem {
    fn items(&self) -> usize {
        self.base.len()
    }
    fn score(&mut self, requests: &Batch, out: &mut Vec<f32>) -> Result<()> {
        let items = self.items();
        out.clear();
        out.resize(requests.sequences() * items, 0.0);
        out.par_chunks_mut(items.max(1)).enumerate().for_each(|(b, row)| {
            row.copy_from_slice(&self.base);
            let mut weight = 1.0;
            for &i in requests.items[requests.range(b)].iter().rev().take(HISTORY) {
                let range = self.offsets[i as usize] as usize..self.offsets[i as usize + 1] as usize;
                for &(j, w) in &self.rules[range] {
                    row[j as usize] += weight * w;
                }
                weight *= DECAY;
            }
        });
        Ok(())
    }
    fn name(&self) -> &str {
        "item-to-item"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(history: &[u32]) -> Batch {
        let rows = history.len() as u32;
        Batch { users: vec![0], offsets: vec![0, rows].into(), items: history.to_vec().into(), ..Batch::default() }
    }

    /// Sequences 0 1 2 and 0 2, with a held-out event between them that must not be learned from.
    #[test]
    fn hand_computed() {
        let items = [0, 1, 2, 3, 0, 2];
        let mut model = ItemToItem::fit(&items, &[0, 4], &[3, 6], &[2, 1, 2, 0]).unwrap();
        // t[0,1] = 1, t[0,2] = 1/2 + 1, t[1,2] = 1.
        assert_eq!(model.offsets, [0, 2, 3, 3, 3]);
        assert_eq!(model.rules, [(1, 0.4), (2, 0.6), (2, 1.0)]);
        let mut scores = vec![];
        model.score(&request(&[0, 1]), &mut scores).unwrap();
        let expected = [1e-7, 0.5e-7 + DECAY * 0.4, 1e-7 + 1.0 + DECAY * 0.6, 0.0];
        for (score, expected) in scores.iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6 * expected.max(1e-3), "{score} against {expected}");
        }
    }

    #[test]
    fn long_rows_keep_their_strongest_rules() {
        // Item 0 is followed by 1200 others, item j by twice as often if it is even.
        let mut items = vec![];
        let (mut starts, mut ends) = (vec![], vec![]);
        for j in 1..=1200u32 {
            for _ in 0..=(j + 1) % 2 {
                starts.push(items.len() as u64);
                items.extend([0, j]);
                ends.push(items.len() as u64);
            }
        }
        let model = ItemToItem::fit(&items, &starts, &ends, &vec![1; 1201]).unwrap();
        let kept: Vec<u32> = model.rules.iter().map(|&(j, _)| j).collect();
        let expected: Vec<u32> = (1..=1200).filter(|j| j % 2 == 0 || *j < 800).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn sequences_that_do_not_fit_are_refused() {
        assert!(ItemToItem::fit(&[0, 1], &[0], &[3], &[1, 1]).is_err());
        assert!(ItemToItem::fit(&[0, 2], &[0], &[2], &[1, 1]).is_err());
    }
}
