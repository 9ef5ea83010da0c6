//! The k best-scored candidates of every row.
//!
//! ```text
//! out[r] = the first k by (s[r,i] falling, i rising) of the row's candidates without what it excludes, each item once
//! ```
//!
//! `s` is the score of `ops/score.rs`, context included. Ties go to the lower item, so the result is defined to the last bit
//! of the scores. A running threshold (the k-th best so far) turns nearly all candidates away with one comparison; the rest
//! are cut back to k whenever twice as many have gathered. Scores that are not numbers are never chosen; a row with fewer than
//! k candidates gets `ids::NONE` in its last slots. Source of the selection: dynamic negative sampling (Zhang et al., SIGIR
//! 2013).

use std::cmp::Ordering;

use crate::device::{Device, Real, no_kernel};
use crate::dispatch;
use crate::error::Result;
use crate::ids::NONE;
use crate::ops::candidates::{self, Hidden};
use crate::ops::negatives::Negatives;
use crate::ops::score::Scoring;

/// (R,k) best of the lists of each row's group.
pub fn of_lists(device: &Device, scoring: &Scoring, lists: &Negatives, k: usize) -> Result<Vec<u32>> {
    let rows = lists.group_offsets.last().map_or(0, |&r| r as usize);
    let mut best = vec![NONE; rows * k];
    dispatch!(device, T => {
        let out = best.chunks_exact_mut(k.max(1)).collect();
        candidates::listed(&scoring.view::<T>()?, lists, out, |_, _, ids, s, out: &mut [u32]| {
            let mut kept = Best::new(k);
            ids.iter().zip(&*s).for_each(|(&i, &s)| kept.offer(s, i));
            kept.write(out);
        })?;
    }, _ => return Err(no_kernel("score_topk")));
    Ok(best)
}

/// (R,k) best of the whole catalogue.
pub fn of_catalogue(device: &Device, scoring: &Scoring, hidden: &Hidden, k: usize) -> Result<Vec<u32>> {
    let mut best = vec![NONE; hidden.batch.rows() * k];
    dispatch!(device, T => {
        let out = best.chunks_exact_mut(k.max(1)).collect();
        let take = |kept: &mut Best<T>, first: usize, s: &mut [T]| {
            s.iter().zip(first as u32..).for_each(|(&s, i)| kept.offer(s, i));
        };
        let finish = |_, mut kept: Best<T>, out: &mut [u32]| kept.write(out);
        candidates::scanned(&scoring.view::<T>()?, hidden, T::ONE, out, || Best::new(k), take, finish)?;
    }, _ => return Err(no_kernel("score_topk")));
    Ok(best)
}

/// The best k of a stream.
struct Best<T> {
    k: usize,
    kept: Vec<(T, u32)>,
    /// Nothing below this can be among the k best.
    floor: T,
}

impl<T: Real> Best<T> {
    fn new(k: usize) -> Best<T> {
        Best { k, kept: Vec::with_capacity(2 * k + 32), floor: T::NEG_INFINITY }
    }
    #[inline]
    fn offer(&mut self, score: T, item: u32) {
        // Also turns away NaN and hidden items, which score minus infinity.
        if score >= self.floor && score > T::NEG_INFINITY {
            self.kept.push((score, item));
            if self.kept.len() >= 2 * self.k + 32 {
                self.cut();
            }
        }
    }
    fn cut(&mut self) {
        let falling = |a: &(T, u32), b: &(T, u32)| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1));
        self.kept.sort_unstable_by(falling);
        // The same item scores the same, so its copies are neighbours.
        self.kept.dedup_by_key(|entry| entry.1);
        self.kept.truncate(self.k);
        if self.kept.len() == self.k {
            self.floor = self.kept.last().map_or(self.floor, |entry| entry.0);
        }
    }
    fn write(&mut self, out: &mut [u32]) {
        self.cut();
        out.iter_mut().zip(&self.kept).for_each(|(out, entry)| *out = entry.1);
    }
}
