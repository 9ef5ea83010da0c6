//! The law of two steps through groups of items: one of the target's groups, then one of the group's other items.
//!
//! With `G_t` the groups of the target that have some other trained item, and `f` a weight of items,
//!
//! ```text
//! P(j | t) = 1/|G_t|  sum over g in G_t that hold j of  f_j / sum over j' != t in g of f_j'      for trained j != t
//! ```
//!
//! An item that shares several groups is reached through each, and its probability is the sum. A target without such a group
//! gets the uniform law over the catalogue; one whose relatives are all excluded leaves its slots empty. Groups are attributes
//! (`same_attribute.rs`) or entities of a graph (`graph_walk.rs`). Everything is counted in integers, so what is reported is
//! what is drawn.

use std::sync::Arc;

use super::uniform::Uniform;
use super::{Place, Propose};
use crate::rng::below;
use crate::sampling::knowledge::{Catalogue, Codes, Groups};

pub struct OneOfGroup {
    uniform: Uniform,
    groups: Groups,
    /// Per code, running sums of `f` over its items.
    reached: Vec<Vec<u64>>,
}

/// A usable group of a target.
struct Group<'a> {
    items: &'a [u32],
    reached: &'a [u64],
    /// What the target itself takes of the running sums: (before it, its own).
    own: (u64, u64),
    /// Sum of `f` without the target, not 0.
    others: u64,
}

impl Group<'_> {
    fn item(&self, word: u64) -> u32 {
        let mark = below(word, self.others);
        let mark = if mark >= self.own.0 { mark + self.own.1 } else { mark };
        self.items[self.reached.partition_point(|&r| r <= mark)]
    }
    /// `f` of `item`; 0 where it is not in the group or is the target.
    fn mass(&self, target: u32, item: u32) -> u64 {
        match self.items.binary_search(&item) {
            Ok(at) if item != target => self.reached[at] - if at == 0 { 0 } else { self.reached[at - 1] },
            _ => 0,
        }
    }
}

impl OneOfGroup {
    /// The law over `groups`; `weight` is `f`.
    pub fn new(catalogue: &Arc<Catalogue>, groups: Groups, weight: impl Fn(u32) -> u64) -> OneOfGroup {
        let sums = |code: u32| {
            let mut sum = 0;
            let step = |&item: &u32| {
                sum += weight(item);
                sum
            };
            groups.of_code(code).iter().map(step).collect()
        };
        let reached = (0..groups.width() as u32).map(sums).collect();
        OneOfGroup { uniform: Uniform::new(catalogue), groups, reached }
    }
    /// Bytes of the law over the groups of `items` V.
    pub fn bytes(items: usize, of: &Codes) -> usize {
        Groups::bytes(items, of) + size_of::<Vec<u64>>() * of.codes + 8 * of.members
    }
    fn group(&self, target: u32, code: u32) -> Option<Group<'_>> {
        let (items, reached) = (self.groups.of_code(code), &self.reached[code as usize][..]);
        let total = reached.last().copied().unwrap_or(0);
        let own = match items.binary_search(&target) {
            Ok(at) => {
                let before = if at == 0 { 0 } else { reached[at - 1] };
                (before, reached[at] - before)
            }
            Err(_) => (total, 0),
        };
        (total > own.1).then_some(Group { items, reached, own, others: total - own.1 })
    }
    /// A_t
    fn groups<'a>(&'a self, place: &Place) -> Vec<Group<'a>> {
        let target = place.target;
        self.groups.of_item(target).iter().filter_map(|&code| self.group(target, code)).collect()
    }
    fn of_groups(groups: &[Group], words: &[u64]) -> u32 {
        groups[below(words[0], groups.len() as u64) as usize].item(words[1])
    }
}

impl Propose for OneOfGroup {
    fn words(&self) -> usize {
        2
    }
    fn draw(&self, place: &Place, words: &[u64]) -> u32 {
        let groups = self.groups(place);
        if groups.is_empty() { self.uniform.draw(place, words) } else { Self::of_groups(&groups, words) }
    }
    fn draw_many(&self, place: &Place, words: &[u64], items: &mut [u32]) {
        let groups = self.groups(place);
        for (item, words) in items.iter_mut().zip(words.chunks_exact(2)) {
            *item = if groups.is_empty() { self.uniform.draw(place, words) } else { Self::of_groups(&groups, words) };
        }
    }
    fn prob(&self, place: &Place, item: u32) -> f64 {
        let mut prob = [0.0];
        self.prob_many(place, &[item], &mut prob);
        prob[0]
    }
    fn prob_many(&self, place: &Place, items: &[u32], probs: &mut [f64]) {
        let groups = self.groups(place);
        for (prob, &item) in probs.iter_mut().zip(items) {
            let of_group = |g: &Group| g.mass(place.target, item) as f64 / g.others as f64;
            *prob = match groups.is_empty() {
                true => self.uniform.prob(place, item),
                false => groups.iter().map(of_group).sum::<f64>() / groups.len() as f64,
            };
        }
    }
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64 {
        let groups = self.groups(place);
        if groups.is_empty() {
            return self.uniform.remaining(place, excluded);
        }
        let of_group = |g: &Group| {
            let gone: u64 = excluded.iter().map(|&i| g.mass(place.target, i)).sum();
            (g.others - gone) as f64 / g.others as f64
        };
        groups.iter().map(of_group).sum::<f64>() / groups.len() as f64
    }
    fn needs_target(&self) -> bool {
        true
    }
    fn may_run_dry(&self) -> bool {
        true
    }
    fn support(&self, place: &Place) -> Option<Vec<u32>> {
        let groups = self.groups(place);
        if groups.is_empty() {
            return None;
        }
        let mut items: Vec<u32> = groups.iter().flat_map(|g| g.items).copied().filter(|&i| i != place.target).collect();
        items.sort_unstable();
        items.dedup();
        Some(items)
    }
}
