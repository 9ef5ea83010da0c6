//! Items the log says the user does not want: disliked, shown and not taken, skipped.
//!
//! With `L_r` the user's explicit negatives up to the time of the row's target, each as often as the log has it, among the trained
//! items,
//!
//! ```text
//! P(j | r) = |{entries of L_r that are j}| / |L_r|
//! ```
//!
//! Nothing the user said after the target is looked at; without times in the log all of it counts as known. A row without
//! such a list gets the uniform law over the catalogue, so `explicit` mixed with `uniform` draws from the list with its share
//! where there is one; a list that is excluded whole (disliked first and taken later) leaves its slots empty. Which rows of a log
//! are explicit negatives: those `data.min_weight` leaves out, of users and items that stay (`data/prepare.rs`). Source:
//! the predefined negatives of the survey (Ma et al., arXiv 2409.07237), with DRN (Zheng et al., WWW 2018) among others.

use std::sync::Arc;

use super::uniform::Uniform;
use super::{Place, Proposal, Propose};
use crate::error::{Code, Error, Result};
use crate::rng::below;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Need, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "explicit",
    help: "items the user is known not to want by then: disliked, shown and not taken, skipped",
    source: "predefined negatives (Ma et al., arXiv 2409.07237); DRN (Zheng et al., WWW 2018)",
    params: &[],
    needs: &[Need::Explicit, Need::Target],
    cost: "RN integer draws; 4 bytes per explicit negative and per event; log-Q reads the row's list",
};

pub fn build(_: &Params, knowledge: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    let missing = || {
        Error::new(Code::D0303, "the proposal `explicit` needs explicit negatives of users, and this log has none").help(
            "rows below `data.min_weight` are taken for them: such as `--set data.min_weight=4` for ratings, or 1 where what was \
             shown and not taken has weight 0",
        )
    };
    let explicit = knowledge.explicit.ok_or_else(missing)?;
    let (mut offsets, mut items) = (Vec::with_capacity(knowledge.users() + 1), Vec::with_capacity(explicit.items.len()));
    offsets.push(0);
    let mut known = vec![0; knowledge.event_items.len()];
    for user in 0..knowledge.users() {
        let own = explicit.offsets[user] as usize..explicit.offsets[user + 1] as usize;
        let start = items.len();
        let (events, end) = (knowledge.offsets[user] as usize, knowledge.train_end[user] as usize);
        let mut next = own.clone();
        for event in events..end {
            // Both are in the order of time.
            while next.start < own.end && explicit.times.is_none_or(|(of_event, of_item)| of_item[next.start] <= of_event[event])
            {
                let item = explicit.items[next.start];
                items.extend(catalogue.contains(item).then_some(item));
                next.start += 1;
            }
            known[event] = (items.len() - start) as u32;
        }
        offsets.push(items.len());
    }
    if items.is_empty() {
        return Err(missing());
    }
    Ok(Proposal::fixed(Arc::new(Explicit { uniform: Uniform::new(catalogue), offsets, items, known })))
}

/// Bytes for `users` U, `events` E and so many explicit negatives of the log.
pub(in crate::sampling) fn bytes(users: usize, events: usize, explicit: usize) -> usize {
    8 * (users + 1) + 4 * (events + explicit)
}

struct Explicit {
    uniform: Uniform,
    /// (U+1)
    offsets: Vec<usize>,
    /// Trained items, in the order of time; only what some training event of the user knows.
    items: Vec<u32>,
    /// (E) how many of its user's are known at each training event.
    known: Vec<u32>,
}

impl Explicit {
    /// L_r
    fn list(&self, place: &Place) -> &[u32] {
        let known = self.known.get(place.event as usize).map_or(0, |&known| known as usize);
        match self.offsets.get(place.user as usize) {
            Some(&start) if known > 0 => &self.items[start..start + known],
            _ => &[],
        }
    }
}

impl Propose for Explicit {
    fn words(&self) -> usize {
        1
    }
    fn draw(&self, place: &Place, words: &[u64]) -> u32 {
        let list = self.list(place);
        if list.is_empty() { self.uniform.draw(place, words) } else { list[below(words[0], list.len() as u64) as usize] }
    }
    fn prob(&self, place: &Place, item: u32) -> f64 {
        let list = self.list(place);
        match list.is_empty() {
            true => self.uniform.prob(place, item),
            false => list.iter().filter(|&&i| i == item).count() as f64 / list.len() as f64,
        }
    }
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64 {
        let list = self.list(place);
        if list.is_empty() {
            return self.uniform.remaining(place, excluded);
        }
        let mut excluded = excluded.to_vec();
        excluded.sort_unstable();
        list.iter().filter(|&i| excluded.binary_search(i).is_err()).count() as f64 / list.len() as f64
    }
    fn needs_target(&self) -> bool {
        true
    }
    fn needs_event(&self) -> bool {
        true
    }
    fn may_run_dry(&self) -> bool {
        true
    }
    fn support(&self, place: &Place) -> Option<Vec<u32>> {
        let mut items = self.list(place).to_vec();
        if items.is_empty() {
            return None;
        }
        items.sort_unstable();
        items.dedup();
        Some(items)
    }
}
