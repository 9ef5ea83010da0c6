//! Keeps a pool of items for every user, resampled once per epoch by what the model then prefers, and draws from it: AdaSIR.
//!
//! At the user's first visit of an epoch, with `c_1 .. c_M` the candidates, `s` the scores of the sequence's last row, and `P_u` the
//! pool of `size` slots, in which an item may stand more than once,
//!
//! ```text
//! fresh      `size` draws from c_1 .. c_M with replacement,   P(m) ~ exp(s_m - ln q_m)
//! renew      P_u <- `size` uniform draws with replacement from the 2 `size` slots of P_u and fresh;   at first P_u <- fresh
//! draw       N uniform draws with replacement from the slots of P_u that the row may be given:   q(i) = copies of i / slots allowed
//! ```
//!
//! so half of a pool is new, on average, and what a row sees was scored at most an epoch ago. A candidate that was proposed twice
//! counts twice. What is reported is the probability of the last line, given the pool. Pools are part of a checkpoint.
//!
//! Source: AdaSIR (Chen et al., WWW 2022), for users with a vector of their own. A reconstruction here: the vector of a user is
//! the query of the last row, no item that the user has seen is in a pool, and copies in a pool are counted in `q`, where the
//! released program, as published, takes every slot as one of `size`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::generator::{place, softmax};
use super::{CANDIDATES, Candidates, Choice, Select, one_group_per_row};
use crate::device::Buffer;
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::ops::cost::Cost;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::score;
use crate::rng::{Draws, Stream, below, open01, slot_index};
use crate::sampling::State;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lanes of the words that resample the candidates, that choose between old and new, and that draw for a row.
const FRESH: u8 = 240;
const RENEW: u8 = 241;
const DRAW: u8 = 242;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "pool",
    help: "draw from a pool of items per user, half of it renewed every epoch by importance resampling of the candidates",
    source: "AdaSIR (Chen et al., WWW 2022), reconstructed for sequences",
    params: &[
        Param {
            name: "size",
            form: Form::Count { default: 50.0, low: 1.0, high: 4096.0, curve: true },
            only_with: None,
            help: "slots of a user's pool (S)",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "2MD flops per user and epoch; R(S+NS) for the draws; 4S bytes per user",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Pools { params: params.clone(), items: 0, users: Mutex::default() })
}

struct Pools {
    params: Params,
    /// V
    items: usize,
    /// By user, so that their order in a checkpoint is fixed.
    users: Mutex<BTreeMap<u32, Pool>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Pool {
    /// Number of the epoch of the last renewal; f32, as a checkpoint stores it.
    epoch: f32,
    /// (S)
    slots: Vec<u32>,
}

/// Bytes once every one of `users` has been met: the slots of each, and its place in a node that is half full or more.
pub(in crate::sampling) fn bytes(params: &Params, users: usize) -> usize {
    let most = params.most("size").round() as usize;
    users * (4 * most + (size_of::<(u32, Pool)>() * 3).div_ceil(2))
}

/// Of R `rows` of so many `sequences` that each renew a pool from `m` candidates and draw `n` for every row; `scores` of the candidates
/// against a row of each.
pub(in crate::sampling) fn cost(params: &Params, scores: Cost, rows: usize, sequences: usize, m: usize, n: usize) -> Cost {
    let slots = 2 * sequences * params.count("size", 0.0);
    scores + Cost::moved(2 * sequences * m + slots + 2 * rows * n)
}

/// A user's first visit of the epoch: the candidates with `s - ln q` of each.
struct Visit {
    user: u32,
    row: usize,
    candidates: Vec<(u32, f64)>,
}

impl Pools {
    /// Slots of a pool that is renewed in this epoch.
    fn size(&self, choice: &Choice) -> usize {
        self.params.count("size", choice.epoch_index as f64)
    }

    /// The visits that renew a pool, with minus ln q in place of the scores.
    fn visits(&self, choice: &Choice, lists: &Negatives, users: &BTreeMap<u32, Pool>) -> Vec<Visit> {
        let (batch, m, epoch) = (choice.batch, lists.n, choice.epoch_index as f32);
        let mut met = BTreeSet::new();
        let mut visits = Vec::new();
        for b in 0..batch.sequences() {
            let (user, range) = (batch.users[b], batch.range(b));
            // A further sequence of the user finds the pool renewed.
            if range.is_empty() || users.get(&user).is_some_and(|pool| pool.epoch == epoch) || !met.insert(user) {
                continue;
            }
            let row = range.end - 1;
            let group = lists.group_offsets.partition_point(|&o| o as usize <= row) - 1;
            let slots = group * m..(group + 1) * m;
            // Rows differ in their targets, which stay in a pool and are left out row by row.
            let seen = choice.exclude.of_sequence(batch, b);
            let pairs = lists.ids[slots.clone()].iter().zip(&lists.log_q[slots]);
            let free = pairs.filter(|(item, _)| **item != NONE && seen.binary_search(item).is_err());
            visits.push(Visit { user, row, candidates: free.map(|(&item, &log_q)| (item, -f64::from(log_q))).collect() });
        }
        visits
    }

    /// Adds the scores of the visits' rows.
    fn score(&self, choice: &Choice, m: usize, visits: &mut [Visit]) -> Result<()> {
        let mut ids = vec![NONE; choice.batch.rows() * m];
        for visit in visits.iter() {
            let row = &mut ids[visit.row * m..(visit.row + 1) * m];
            row.iter_mut().zip(&visit.candidates).for_each(|(slot, (item, _))| *slot = *item);
        }
        let mut scores = Buffer::empty(choice.device);
        score::gather(choice.device, &mut scores, choice.scoring()?, &ids)?;
        let scores = scores.to_f64(choice.device)?;
        for visit in visits {
            visit.candidates.iter_mut().zip(&scores[visit.row * m..]).for_each(|((_, logit), s)| *logit += s);
        }
        Ok(())
    }

    /// The slots from here on; what they were where there is nothing to resample.
    fn renewed(&self, choice: &Choice, visit: &Visit, old: &[u32]) -> Vec<u32> {
        let lane = |lane| Draws::new(choice.seed, Stream::Select, lane, choice.epoch_index);
        let (of_fresh, of_renewal) = (lane(FRESH), lane(RENEW));
        let index = |slot| slot_index(u64::from(visit.user), slot);
        let law = softmax(visit.candidates.iter().map(|c| c.1).collect());
        let draw = |slot| Some(visit.candidates[place(&law, open01(of_fresh.words64(index(slot))[0]))?].0);
        let fresh: Vec<u32> = (0..self.size(choice)).map_while(draw).collect();
        if old.is_empty() || fresh.is_empty() {
            return if fresh.is_empty() { old.to_vec() } else { fresh };
        }
        let both = [old, &fresh].concat();
        (0..self.size(choice)).map(|slot| both[below(of_renewal.words64(index(slot))[0], both.len() as u64) as usize]).collect()
    }
}

impl Select for Pools {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn fewest_candidates(&self, negatives: usize) -> usize {
        // With replacement any number can be drawn from any pool.
        negatives
    }
    fn needs_proposal_log_q(&self) -> bool {
        true
    }
    fn learn_about(&mut self, _: &Knowledge, catalogue: &Catalogue) -> Result<()> {
        self.items = catalogue.items();
        Ok(())
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let Candidates::Listed(lists) = candidates else {
            return Err(Error::internal("a pool is renewed from proposed items only"));
        };
        let (batch, n) = (choice.batch, choice.negatives);
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let mut visits = self.visits(choice, &lists, &users);
        if !visits.is_empty() {
            self.score(choice, lists.n, &mut visits)?;
        }
        let old = |user: u32| users.get(&user).map_or(&[][..], |pool| &pool.slots);
        let renewed: Vec<Vec<u32>> = visits.par_iter().map(|visit| self.renewed(choice, visit, old(visit.user))).collect();
        for (visit, slots) in visits.iter().zip(renewed).filter(|(_, slots)| !slots.is_empty()) {
            users.insert(visit.user, Pool { epoch: choice.epoch_index as f32, slots });
        }

        let draws = Draws::new(choice.seed, Stream::Select, DRAW, choice.epoch_index);
        let sequences = batch.sequence_of_rows();
        let (mut taken, mut log_q) = (vec![NONE; batch.rows() * n], vec![0.0; batch.rows() * n]);
        let pools = &*users;
        let rows = taken.par_chunks_mut(n.max(1)).zip(log_q.par_chunks_mut(n.max(1)));
        rows.enumerate().for_each(|(r, (taken, log_q))| {
            let b = sequences[r] as usize;
            let Some(pool) = pools.get(&batch.users[b]) else { return };
            let (seen, target) = (choice.exclude.of_sequence(batch, b), batch.targets[r]);
            let free = |item: &u32| choice.exclude == Exclude::None || (*item != target && seen.binary_search(item).is_err());
            let allowed: Vec<u32> = pool.slots.iter().copied().filter(free).collect();
            if allowed.is_empty() {
                return;
            }
            for (slot, (taken, log_q)) in taken.iter_mut().zip(log_q).enumerate() {
                let word = draws.words64(slot_index(batch.row_keys[r], slot))[0];
                *taken = allowed[below(word, allowed.len() as u64) as usize];
                let copies = allowed.iter().filter(|&item| item == taken).count();
                *log_q = (copies as f64 / allowed.len() as f64).ln() as f32;
            }
        });
        Ok(one_group_per_row(choice, taken, if choice.log_q { log_q } else { Vec::new() }))
    }

    fn state(&self) -> Vec<State> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids as two numbers of 16 bits: an f32 holds no more than 24.
        let halves = |id: u32| [(id >> 16) as f32, (id & 0xFFFF) as f32];
        let n = users.len();
        if n == 0 {
            return Vec::new();
        }
        let of_users = users.keys().flat_map(|&user| halves(user)).collect();
        let epochs = users.values().map(|pool| pool.epoch).collect();
        let sizes = users.values().map(|pool| pool.slots.len() as f32).collect();
        let slots: Vec<f32> = users.values().flat_map(|pool| &pool.slots).flat_map(|&item| halves(item)).collect();
        vec![
            State { name: "pool.users".into(), shape: vec![n, 2], values: of_users },
            State { name: "pool.epochs".into(), shape: vec![n], values: epochs },
            State { name: "pool.sizes".into(), shape: vec![n], values: sizes },
            State { name: "pool.slots".into(), shape: vec![slots.len() / 2, 2], values: slots },
        ]
    }

    fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        let [of_users, epochs, sizes, slots] =
            ["users", "epochs", "sizes", "slots"].map(|name| find(&format!("pool.{name}")).unwrap_or(&[]));
        let half = |x: &f32| (0.0..65536.0).contains(x) && x.fract() == 0.0;
        let id = |halves: &[f32]| (halves[0] as u32) << 16 | halves[1] as u32;
        let fits = of_users.len() == 2 * epochs.len()
            && sizes.len() == epochs.len()
            && sizes.iter().all(half)
            && slots.len() == 2 * sizes.iter().map(|&size| size as usize).sum::<usize>()
            && of_users.iter().chain(slots).all(half)
            && epochs.iter().all(|epoch| *epoch >= 0.0 && epoch.fract() == 0.0)
            && slots.chunks_exact(2).all(|slot| (id(slot) as usize) < self.items);
        if !fits {
            return Err(Error::new(Code::M0402, "the sampler's pools in the checkpoint are not of this catalogue and size"));
        }
        let mut items = slots.chunks_exact(2).map(id);
        let pools = of_users.chunks_exact(2).zip(epochs).zip(sizes);
        let pool = |((user, &epoch), &size): ((&[f32], &f32), &f32)| {
            (id(user), Pool { epoch, slots: items.by_ref().take(size as usize).collect() })
        };
        *self.users.lock().unwrap_or_else(PoisonError::into_inner) = pools.map(pool).collect();
        Ok(())
    }
}
