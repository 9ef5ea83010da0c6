//! A walk over users: an item of the user, another user of it, an item of theirs.
//!
//! With `u` the row's user, `H_u` their training events, `H_i` the training events of item `i`, each step uniform over events
//! (who met an item twice is taken twice as often),
//!
//! ```text
//! W_u(w) = sum over i in H_u of  1/|H_u|  n_wi/|H_i|          the user the walk comes to, u included
//! P(j|u) = sum over w of  W_u(w)  n_wj/|H_w|                  n_wj: training events of w with j
//! ```
//!
//! so users who share much with `u` are visited often, and what they like is hard to tell from what `u` would. Source:
//! SamWalker (Chen et al., WWW 2019; SamWalker++, TKDE 2021), whose walks are learned; this one is not. A user without
//! training events gets the uniform law; if everybody within reach likes only what is excluded, slots stay empty.
//!
//! **Cost.** A draw is three dependent reads. The exact probability is asked for only with log-Q or when the rest is
//! enumerated: `W_u` visits every event of every item of `u` (`sum over i in H_u of |H_i|`, large where `u` has met popular
//! items), once for all rows of a sequence, and each item then costs a search per event of its own.

use std::borrow::Cow;
use std::sync::Arc;

use super::uniform::Uniform;
use super::{Place, Proposal, Propose};
use crate::error::Result;
use crate::rng::{below, below_and_rest};
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Need, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "user_walk",
    help: "items of users who share items with the user: user, item, user, item",
    source: "SamWalker (Chen et al., WWW 2019) without its learned steps; SamWalker++ (TKDE 2021)",
    params: &[],
    needs: &[Need::User],
    cost: "RN walks of three dependent reads, 8 bytes per training event; log-Q visits all events of all items of the user",
};

pub fn build(_: &Params, knowledge: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    let mut users = Lists::with_capacity(knowledge.users(), knowledge.train_counts.iter().map(|&n| n as usize).sum());
    let mut counts = vec![0usize; catalogue.items()];
    for user in 0..knowledge.users() as u32 {
        let history = knowledge.history(user);
        users.ids.extend_from_slice(history);
        users.offsets.push(users.ids.len());
        history.iter().for_each(|&i| counts[i as usize] += 1);
    }
    let mut items = Lists { ids: vec![0; users.ids.len()], ..Lists::with_capacity(counts.len(), 0) };
    let mut next = Vec::with_capacity(counts.len());
    for count in counts {
        let start = items.offsets[items.offsets.len() - 1];
        next.push(start);
        items.offsets.push(start + count);
    }
    for user in 0..knowledge.users() as u32 {
        for &item in users.of(user) {
            items.ids[next[item as usize]] = user;
            next[item as usize] += 1;
        }
    }
    Ok(Proposal::fixed(Arc::new(UserWalk { uniform: Uniform::new(catalogue), users, items })))
}

/// Bytes for `users` U, `items` V and so many training events.
pub(in crate::sampling) fn bytes(users: usize, items: usize, events: usize) -> usize {
    8 * (users + items + 2) + 8 * events
}

/// Lists one after the other.
struct Lists {
    offsets: Vec<usize>,
    ids: Vec<u32>,
}

impl Lists {
    fn with_capacity(lists: usize, ids: usize) -> Lists {
        let mut offsets = Vec::with_capacity(lists + 1);
        offsets.push(0);
        Lists { offsets, ids: Vec::with_capacity(ids) }
    }
    fn of(&self, list: u32) -> &[u32] {
        let list = list as usize;
        if list + 1 < self.offsets.len() { &self.ids[self.offsets[list]..self.offsets[list + 1]] } else { &[] }
    }
}

struct UserWalk {
    uniform: Uniform,
    /// H_u: items.
    users: Lists,
    /// H_i: users, ascending.
    items: Lists,
}

/// Below this, what is left is summed anew and not by difference.
const CANCELS: f64 = 1e-3;

impl UserWalk {
    /// W_u as (user, weight), by user; every user once.
    fn visited(&self, user: u32) -> Vec<(u32, f64)> {
        let history = self.users.of(user);
        let mut steps: Vec<(u32, f64)> = Vec::new();
        for &item in history {
            let others = self.items.of(item);
            let weight = 1.0 / history.len() as f64 / others.len() as f64;
            steps.extend(others.iter().map(|&w| (w, weight)));
        }
        // Stable, so that the weights of a user are added in the order of the history.
        steps.sort_by_key(|step| step.0);
        steps.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1 += later.1;
            }
            same
        });
        steps
    }
    fn at<'a>(&self, place: &Place<'a>) -> Cow<'a, [(u32, f64)]> {
        place.visited.map_or_else(|| self.visited(place.user).into(), Cow::Borrowed)
    }
    fn arrives(&self, visited: &[(u32, f64)], item: u32) -> f64 {
        let steps = self.items.of(item).iter().filter_map(|w| visited.binary_search_by_key(w, |v| v.0).ok());
        steps.map(|at| visited[at].1 / self.users.of(visited[at].0).len() as f64).sum()
    }
}

impl Propose for UserWalk {
    fn words(&self) -> usize {
        2
    }
    fn draw(&self, place: &Place, words: &[u64]) -> u32 {
        let history = self.users.of(place.user);
        if history.is_empty() {
            return self.uniform.draw(place, words);
        }
        let (at, rest) = below_and_rest(words[0], history.len() as u64);
        let others = self.items.of(history[at as usize]);
        let theirs = self.users.of(others[below(rest, others.len() as u64) as usize]);
        theirs[below(words[1], theirs.len() as u64) as usize]
    }
    fn prob(&self, place: &Place, item: u32) -> f64 {
        let mut prob = [0.0];
        self.prob_many(place, &[item], &mut prob);
        prob[0]
    }
    fn prob_many(&self, place: &Place, items: &[u32], probs: &mut [f64]) {
        if self.users.of(place.user).is_empty() {
            return self.uniform.prob_many(place, items, probs);
        }
        let visited = self.at(place);
        for (prob, &item) in probs.iter_mut().zip(items) {
            *prob = self.arrives(&visited, item);
        }
    }
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64 {
        if self.users.of(place.user).is_empty() {
            return self.uniform.remaining(place, excluded);
        }
        let visited = self.at(place);
        let left = 1.0 - excluded.iter().map(|&i| self.arrives(&visited, i)).sum::<f64>();
        if left > CANCELS {
            return left;
        }
        let mut excluded = excluded.to_vec();
        excluded.sort_unstable();
        let of_user = |&(w, weight): &(u32, f64)| {
            let theirs = self.users.of(w);
            let kept = theirs.iter().filter(|i| excluded.binary_search(i).is_err()).count();
            weight * kept as f64 / theirs.len() as f64
        };
        visited.iter().map(of_user).sum()
    }
    fn visits(&self, user: u32) -> Option<Vec<(u32, f64)>> {
        Some(self.visited(user))
    }
    fn may_run_dry(&self) -> bool {
        true
    }
}
