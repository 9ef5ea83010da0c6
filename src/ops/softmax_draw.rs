//! Draws from the current model's own preference over a row's candidates.
//!
//! ```text
//! P(i | r) = exp(beta s[r,i] - ln q[i]) / Z[r]      over the row's candidates without what it excludes
//! ```
//!
//! `s` is the score of `ops/score.rs`; `q` the probability with which a listed candidate was proposed (left out for the whole
//! catalogue), so that a list stands for `exp(beta s)` over the catalogue whatever the proposal prefers. beta = 0 is uniform,
//! 1 the model's softmax, infinity the arg-max. The result carries `ln P` of each drawn item, given the list; copies of an
//! item count together.
//!
//! The catalogue is drawn from in two steps, exact and without a (R,V) matrix: a scan in tiles keeps `ln sum exp` of each
//! tile; a tile is drawn from those, scored again, and an item is drawn inside. Two words per draw.
//!
//! Without replacement, a drawn item's weight is removed before the next draw; `ln P` remains that of a first draw. A row
//! left without candidates gets `ids::NONE`. Source: GenNi (Chen et al., arXiv 2208.03645); subset form: ELECRec (Chen et
//! al., SIGIR 2022, and its public program).

use std::ops::Range;

use crate::device::{Device, Real, no_kernel};
use crate::dispatch;
use crate::error::Result;
use crate::ids::NONE;
use crate::ops::candidates::{self, Hidden, ITEMS};
use crate::ops::negatives::Negatives;
use crate::ops::score::{Scoring, View};
use crate::ops::vector;
use crate::rng::{Draws, open01, slot_index};

/// How to draw.
pub struct Rule<'a> {
    pub beta: f64,
    /// Draws per row, n.
    pub n: usize,
    pub replace: bool,
    pub draws: Draws,
    /// (R) key of each row's random words.
    pub row_keys: &'a [u64],
}

/// ids (R,n) and the log-probability of each.
pub struct Drawn {
    pub ids: Vec<u32>,
    pub log_q: Vec<f32>,
}

impl Drawn {
    fn empty(rows: usize, n: usize) -> Drawn {
        Drawn { ids: vec![NONE; rows * n], log_q: vec![0.0; rows * n] }
    }
    fn rows(&mut self, n: usize) -> Vec<(&mut [u32], &mut [f32])> {
        self.ids.chunks_exact_mut(n.max(1)).zip(self.log_q.chunks_exact_mut(n.max(1))).collect()
    }
}

/// From the lists of each row's group; `lists.log_q`, where present, holds `ln q`.
pub fn of_lists(device: &Device, scoring: &Scoring, lists: &Negatives, rule: &Rule) -> Result<Drawn> {
    let mut drawn = Drawn::empty(rule.row_keys.len(), rule.n);
    dispatch!(device, T => {
        let out = drawn.rows(rule.n);
        candidates::listed(&scoring.view::<T>()?, lists, out, |r, g, ids, s, (to, log_q): (&mut [u32], &mut [f32])| {
            let proposed = if lists.log_q.is_empty() { &[][..] } else { &lists.log_q[g * lists.n..(g + 1) * lists.n] };
            let mut weights = Weights::of_list(s, proposed, rule.beta);
            let total = weights.total;
            for (slot, (to, log_q)) in to.iter_mut().zip(log_q).enumerate() {
                let word = rule.draws.words64(slot_index(rule.row_keys[r], slot))[0];
                let Some(at) = weights.draw(word) else { break };
                *to = ids[at];
                let same = || (0..ids.len()).filter(|&j| ids[j] == ids[at]);
                *log_q = (same().map(|j| weights.of[j]).sum::<f64>() / total).ln() as f32;
                if !rule.replace {
                    same().for_each(|j| weights.of[j] = 0.0);
                    weights.sum();
                }
            }
        })?;
    }, _ => return Err(no_kernel("softmax_draw")));
    Ok(drawn)
}

/// From the whole catalogue.
pub fn of_catalogue(device: &Device, scoring: &Scoring, hidden: &Hidden, rule: &Rule) -> Result<Drawn> {
    let mut drawn = Drawn::empty(hidden.batch.rows(), rule.n);
    dispatch!(device, T => {
        let view = scoring.view::<T>()?;
        let take = |tiles: &mut Vec<f64>, _: usize, s: &mut [T]| tiles.push(log_sum_exp(s));
        let finish = |r, tiles: Vec<f64>, (to, log_q): (&mut [u32], &mut [f32])| two_steps(&view, hidden, rule, r, tiles, to, log_q);
        candidates::scanned(&view, hidden, T::from_f64(rule.beta), drawn.rows(rule.n), Vec::new, take, finish)?;
    }, _ => return Err(no_kernel("softmax_draw")));
    Ok(drawn)
}

/// `tiles` holds ln sum exp of each tile of row `r`.
fn two_steps<T: Real>(
    view: &View<T>,
    hidden: &Hidden,
    rule: &Rule,
    r: usize,
    tiles: Vec<f64>,
    to: &mut [u32],
    log_q: &mut [f32],
) {
    let shift = tiles.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights = Weights::new(tiles.iter().map(|&lse| (lse - shift).exp()).collect());
    let inside = |tile: usize| tile * ITEMS..view.items.min((tile + 1) * ITEMS);
    let rescored = |tile: Range<usize>, drawn: &[u32]| {
        let ids: Vec<u32> = (tile.start as u32..tile.end as u32).collect();
        let mut s = vec![T::ZERO; ids.len()];
        view.row(r, &ids, &mut s);
        s.iter_mut().for_each(|s| *s *= T::from_f64(rule.beta));
        hidden.hide(r, tile.clone(), &mut s);
        for &i in drawn.iter().filter(|&&i| tile.contains(&(i as usize))) {
            s[i as usize - tile.start] = T::NEG_INFINITY;
        }
        s.iter().map(|s| (s.f64() - shift).exp()).map(|w| if w.is_nan() { 0.0 } else { w }).collect::<Vec<f64>>()
    };
    let total = weights.total;
    let words = |slot: usize| rule.draws.words64(slot_index(rule.row_keys[r], slot));
    // With replacement the tiles are known beforehand, so that each is scored once for all its draws.
    let mut order: Vec<(usize, Option<usize>)> = (0..to.len()).map(|slot| (slot, None)).collect();
    if rule.replace {
        order.iter_mut().for_each(|(slot, tile)| *tile = weights.draw(words(*slot)[0]));
        order.sort_by_key(|(_, tile)| *tile);
    }
    let mut current: Option<(usize, Weights)> = None;
    for (slot, tile) in order {
        let [of_tile, of_item] = words(slot);
        let Some(tile) = tile.or_else(|| weights.draw(of_tile)) else { return };
        if current.as_ref().is_none_or(|(t, _)| *t != tile) {
            let drawn = if rule.replace { &[][..] } else { &to[..slot] };
            current = Some((tile, Weights::new(rescored(inside(tile), drawn))));
        }
        let Some((_, items)) = &mut current else { return };
        let Some(at) = items.draw(of_item) else { return };
        to[slot] = (inside(tile).start + at) as u32;
        log_q[slot] = (items.of[at].ln() - total.ln()) as f32;
        if !rule.replace {
            items.of[at] = 0.0;
            items.sum();
            weights.of[tile] = items.total;
            weights.sum();
        }
    }
}

/// ln sum exp of scores; minus infinity when nothing is left. Overwrites them.
fn log_sum_exp<T: Real>(s: &mut [T]) -> f64 {
    vector::fast(
        #[inline(always)]
        || {
            let shift = vector::max(s);
            if shift > T::NEG_INFINITY { shift.f64() + vector::exp_sum(s, shift).f64().ln() } else { f64::NEG_INFINITY }
        },
    )
}

/// Unnormalised weights and their running sums.
struct Weights {
    of: Vec<f64>,
    reached: Vec<f64>,
    total: f64,
}

impl Weights {
    fn new(of: Vec<f64>) -> Weights {
        let mut weights = Weights { reached: Vec::with_capacity(of.len()), of, total: 0.0 };
        weights.sum();
        weights
    }
    /// `exp(beta s - ln q)`, scaled by the largest; 0 where `s` is minus infinity or not a number.
    fn of_list<T: Real>(s: &[T], proposed: &[f32], beta: f64) -> Weights {
        let logit = |j: usize| match s[j].f64() {
            s if s > f64::NEG_INFINITY => beta * s - proposed.get(j).map_or(0.0, |&q| f64::from(q)),
            _ => f64::NEG_INFINITY,
        };
        let shift = (0..s.len()).map(logit).fold(f64::NEG_INFINITY, f64::max);
        let weight = |j: usize| if shift > f64::NEG_INFINITY { (logit(j) - shift).exp() } else { 0.0 };
        Weights::new((0..s.len()).map(weight).collect())
    }
    fn sum(&mut self) {
        self.total = 0.0;
        self.reached.clear();
        for w in &self.of {
            self.total += w;
            self.reached.push(self.total);
        }
    }
    /// An index with probability proportional to its weight; none when all weights are zero.
    fn draw(&self, word: u64) -> Option<usize> {
        if !(self.total > 0.0 && self.total.is_finite()) {
            return None;
        }
        let mark = open01(word) * self.total;
        // An index of weight zero adds nothing to the sums, so it is never the first one above the mark.
        let at = self.reached.partition_point(|&reached| reached <= mark);
        if at < self.of.len() { Some(at) } else { self.of.iter().rposition(|&w| w > 0.0) }
    }
}
