//! Neighbours of the target: a short weighted list per item, drawn from in proportion to the weights.
//!
//! ```text
//! P(j | t) = w[t,j] / sum over j' in N'(t) of w[t,j']     for j in N'(t),     N'(t) = { j in N(t) : level[t,j] <= bound }
//! ```
//!
//! What the lists hold is the business of the kinds (`attribute_neighbours`, `transition_neighbours`). A list is kept by
//! rising level, so the neighbours under a bound, which may follow a curve, are a prefix of it, and the running sums of the
//! weights serve every bound. A target without neighbours under the bound gets the uniform law over the catalogue. If the
//! exclusion takes all neighbours of a target, its slots stay empty: a neighbour law has nothing to say about other items.

use super::uniform::Uniform;
use super::{Place, Propose};
use crate::rng::open01;
use crate::sampling::registry::Params;

/// Lists of neighbours, and the law above.
pub struct Neighbours {
    uniform: Uniform,
    /// (V+1)
    offsets: Vec<usize>,
    /// By rising level, then by id.
    items: Vec<u32>,
    levels: Vec<f64>,
    /// Running sums of the weights within each list.
    reached: Vec<f64>,
    weight: fn(f64) -> f64,
    /// Holds the bound by its name; absent when there is none.
    bound: Option<(Params, &'static str)>,
}

impl Neighbours {
    /// `lists[t]` are the neighbours of `t` as (level, item); `weight` gives w of a level and is positive.
    pub fn new(
        uniform: Uniform,
        lists: Vec<Vec<(f64, u32)>>,
        weight: fn(f64) -> f64,
        bound: Option<(Params, &'static str)>,
    ) -> Neighbours {
        // Room for all of them at once: growing would leave up to as much again unused.
        let all: usize = lists.iter().map(Vec::len).sum();
        let mut offsets = Vec::with_capacity(lists.len() + 1);
        offsets.push(0);
        let (items, levels, reached) = (Vec::with_capacity(all), Vec::with_capacity(all), Vec::with_capacity(all));
        let mut table = Neighbours { uniform, offsets, items, levels, reached, weight, bound };
        for mut list in lists {
            list.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let mut sum = 0.0;
            for (level, item) in list {
                sum += weight(level);
                table.items.push(item);
                table.levels.push(level);
                table.reached.push(sum);
            }
            table.offsets.push(table.items.len());
        }
        table
    }
    /// Bytes of the lists of `items` V that hold so many neighbours together.
    pub fn bytes(items: usize, neighbours: usize) -> usize {
        8 * (items + 1) + 20 * neighbours
    }
    /// Where the neighbours of the target under the bound stand; empty: the uniform law.
    fn range(&self, place: &Place) -> std::ops::Range<usize> {
        let target = place.target as usize;
        if target + 1 >= self.offsets.len() {
            return 0..0;
        }
        let all = self.offsets[target]..self.offsets[target + 1];
        match &self.bound {
            None => all,
            Some((params, name)) => {
                let bound = params.number(name, place.epoch as f64);
                all.start..all.start + self.levels[all].partition_point(|&level| level <= bound)
            }
        }
    }
    fn of_range(&self, range: &std::ops::Range<usize>, word: u64) -> u32 {
        let reached = &self.reached[range.clone()];
        let mark = reached[reached.len() - 1] * open01(word);
        self.items[range.start + reached.partition_point(|&r| r <= mark).min(reached.len() - 1)]
    }
}

impl Propose for Neighbours {
    fn words(&self) -> usize {
        1
    }
    fn draw(&self, place: &Place, words: &[u64]) -> u32 {
        let range = self.range(place);
        if range.is_empty() { self.uniform.draw(place, words) } else { self.of_range(&range, words[0]) }
    }
    fn draw_many(&self, place: &Place, words: &[u64], items: &mut [u32]) {
        let range = self.range(place);
        if range.is_empty() {
            return self.uniform.draw_many(place, words, items);
        }
        for (item, &word) in items.iter_mut().zip(words) {
            *item = self.of_range(&range, word);
        }
    }
    fn prob(&self, place: &Place, item: u32) -> f64 {
        let range = self.range(place);
        if range.is_empty() {
            return self.uniform.prob(place, item);
        }
        let total = self.reached[range.end - 1];
        let at = range.clone().find(|&at| self.items[at] == item);
        at.map_or(0.0, |at| (self.weight)(self.levels[at]) / total)
    }
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64 {
        let range = self.range(place);
        if range.is_empty() {
            return self.uniform.remaining(place, excluded);
        }
        let mut excluded = excluded.to_vec();
        excluded.sort_unstable();
        let total = self.reached[range.end - 1];
        let left = range.filter(|&at| excluded.binary_search(&self.items[at]).is_err());
        left.map(|at| (self.weight)(self.levels[at])).sum::<f64>() / total
    }
    fn needs_target(&self) -> bool {
        true
    }
    fn may_run_dry(&self) -> bool {
        true
    }
    fn support(&self, place: &Place) -> Option<Vec<u32>> {
        let range = self.range(place);
        if range.is_empty() {
            return None;
        }
        let mut items = self.items[range].to_vec();
        items.sort_unstable();
        Some(items)
    }
}

/// The `n` items of highest score, ties by id: every choice is the same on every machine.
pub fn highest(mut scored: Vec<(f64, u32)>, n: usize) -> Vec<(f64, u32)> {
    let order = |a: &(f64, u32), b: &(f64, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if scored.len() > n {
        scored.select_nth_unstable_by(n, order);
        scored.truncate(n);
        // Of a popular attribute it holds most of the catalogue, for every item.
        scored.shrink_to_fit();
    }
    scored.sort_unstable_by(order);
    scored
}
