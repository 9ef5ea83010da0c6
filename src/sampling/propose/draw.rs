//! Drawing: keys of randomness, exclusion, repetition, and the log-probability of what was drawn.
//!
//! **Keys.** Slot `s` of a group with key `g` (row: the CSR position of its target event; sequence: its user; batch: its
//! number) uses Philox index `g << 20 | s` of stream Propose at step = epoch, lane = attempt; laws of one word share an index
//! between two neighbouring slots, laws of three take the third from lane `64 + attempt`. Ids are therefore a function of
//! (stream version, seed, epoch, key, slot, law) alone: the same for any batch split, order or number of threads.
//!
//! **Exclusion.** A draw that hits an excluded item is repeated, at most [`ATTEMPTS`] times, then the rest of the catalogue is
//! enumerated and drawn from by its cumulative law. Both give `q(i) / (1 - q(excluded))`, so the mixture of both does. If
//! nothing is left the user has seen everything (D0302), or a law that draws from the batch or from neighbours found nothing
//! there and the slot stays empty (`ids::NONE`).
//!
//! **Without repetition** (`distinct`), items already drawn count as excluded: successive sampling, the same law as racing
//! exponential keys `-ln(u)/w` over the catalogue and keeping the N smallest (Efraimidis and Spirakis 2006), at a cost that
//! does not grow with V. The reported probability stays that of a first draw: `N q` is close to an item's inclusion
//! probability while it is small, and equal to it for the uniform law.
//!
//! **Shared groups.** A sequence's draw excludes what the sequence excludes; what only some rows exclude is marked in `drop`.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Frequencies, Place, Propose};
use crate::data::batch::Batch;
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::ops::exclusion::{Bits, Exclude};
use crate::ops::negatives::Negatives;
use crate::rng::{Draws, SLOT_BITS, Stream, open01, slot_index};
use crate::sampling::Scope;
use crate::sampling::knowledge::Catalogue;

/// Rejections before the rest is enumerated.
const ATTEMPTS: u8 = 32;
/// Lane of the word that draws from the enumerated rest.
const ENUMERATED: u8 = 128;
/// Slots per block of random words: the words of a block stay in the first-level cache.
const BLOCK: usize = 64;

/// Everything that governs a draw but its law.
pub struct Rules<'a> {
    pub catalogue: &'a Catalogue,
    pub scope: Scope,
    pub exclude: Exclude,
    pub distinct: bool,
    pub log_q: bool,
    /// Slots per group.
    pub n: usize,
    pub seed: u64,
    pub epoch_index: u64,
    pub batch_index: u64,
}

impl Rules<'_> {
    /// (G+1) first row of each group of rows that share a draw.
    pub fn group_offsets(&self, batch: &Batch) -> Vec<u32> {
        match self.scope {
            Scope::Position => (0..=batch.rows() as u32).collect(),
            Scope::Sequence => batch.offsets.to_vec(),
            Scope::Batch => vec![0, batch.rows() as u32],
        }
    }
}

/// Draws `n` items for every group of the batch.
pub fn propose(law: &dyn Propose, rules: &Rules, batch: &Batch) -> Result<Negatives> {
    let frequencies = law.needs_batch().then(|| Frequencies::new(&batch.targets));
    let clusters = law.clusters();
    if clusters > 0
        && (batch.target_clusters.len() != batch.rows() || batch.target_clusters.iter().any(|&k| k as usize >= clusters))
    {
        return Err(Error::internal("the batch carries no valid time clusters of its targets"));
    }
    let group_offsets = rules.group_offsets(batch);
    let slots = (group_offsets.len() - 1) * rules.n;
    let mut ids = vec![NONE; slots];
    let mut log_q = vec![0f32; if rules.log_q { slots } else { 0 }];
    let draw = Draw { law, rules, batch, frequencies: frequencies.as_ref(), words: law.words() };
    draw.all(&mut ids, &mut log_q)?;
    let mut negatives = Negatives { n: rules.n, group_offsets, ids, log_q, ..Negatives::default() };
    if rules.scope != Scope::Position {
        negatives.drop = dropped(rules, batch, &negatives);
    }
    Ok(negatives)
}

/// The share of the draws that hit what was excluded, or nothing, and were made again, over the first sequences that have `groups`
/// groups. `rules.log_q` is false.
pub fn rejected(law: &dyn Propose, rules: &Rules, batch: &Batch, groups: usize) -> Result<f64> {
    let frequencies = law.needs_batch().then(|| Frequencies::new(&batch.targets));
    let draw = Draw { law, rules, batch, frequencies: frequencies.as_ref(), words: law.words() };
    let (mut worker, mut ids, mut slots) = (draw.worker(), vec![NONE; rules.n], 0);
    let mut one = |worker: &mut Worker, group: &Group| {
        slots += rules.n;
        draw.group(worker, group, &mut ids, &mut [])
    };
    let mut left = groups;
    match rules.scope {
        Scope::Batch => one(&mut worker, &draw.whole())?,
        _ => (0..batch.sequences()).try_for_each(|b| match left {
            0 => Ok(()),
            _ => draw.groups(&mut worker, b, |worker, group, _| {
                left = left.saturating_sub(1);
                one(worker, group)
            }),
        })?,
    }
    Ok(worker.rejected as f64 / (slots as u64 + worker.rejected).max(1) as f64)
}

struct Draw<'a> {
    law: &'a dyn Propose,
    rules: &'a Rules<'a>,
    batch: &'a Batch,
    frequencies: Option<&'a Frequencies<'a>>,
    words: usize,
}

/// What one thread keeps between sequences.
struct Worker {
    excluded: Bits,
    /// The rest of the catalogue under the current exclusion: items and running sums of their probabilities.
    rest: Option<Rest>,
    /// The probability that is left, for the current sequence.
    remaining: Vec<(Key, f64)>,
    /// The law's `visits` for the current sequence, once they were asked for.
    visited: Option<Option<Visited>>,
    /// Draws so far that were made again.
    rejected: u64,
}

type Visited = Arc<[(u32, f64)]>;

/// What a group's conditional law depends on within a sequence: its time cluster, its target and its event where the law looks
/// at them, and the item it excludes besides the sequence's.
type Key = (u32, u32, u64, Option<u32>);

struct Rest {
    of: Key,
    items: Vec<u32>,
    reached: Vec<f64>,
}

/// One group: its key, what its law depends on, and what it excludes.
struct Group<'a> {
    key: u64,
    place: Place<'a>,
    user: u32,
    sequence: &'a [u32],
    extra: Option<u32>,
}

impl Draw<'_> {
    fn worker(&self) -> Worker {
        let excluded = Bits::new(self.rules.catalogue.items());
        Worker { excluded, rest: None, remaining: Vec::new(), visited: None, rejected: 0 }
    }

    fn place(&self, cluster: u32, target: u32, user: u32, event: u64) -> Place<'_> {
        Place { cluster, batch: self.frequencies, target, user, event, epoch: self.rules.epoch_index, visited: None }
    }

    /// The one group of a batch that shares its draw.
    fn whole(&self) -> Group<'_> {
        let place = self.place(0, NONE, NONE, u64::MAX);
        Group { key: self.rules.batch_index, place, user: NONE, sequence: &[], extra: None }
    }

    /// Visits the groups of sequence `b` in their order, with what each excludes marked for it.
    fn groups(
        &self,
        worker: &mut Worker,
        b: usize,
        mut visit: impl FnMut(&mut Worker, &Group, usize) -> Result<()>,
    ) -> Result<()> {
        let (rules, batch) = (self.rules, self.batch);
        let (user, sequence) = (batch.users[b], rules.exclude.of_sequence(batch, b));
        sequence.iter().for_each(|&i| worker.excluded.insert(i));
        let result = match rules.scope {
            Scope::Sequence => {
                let place = self.place(0, NONE, user, u64::MAX);
                visit(worker, &Group { key: u64::from(user), place, user, sequence, extra: None }, 0)
            }
            _ => batch.range(b).enumerate().try_for_each(|(t, r)| {
                let extra = rules.exclude.of_row(batch, r, &worker.excluded);
                let cluster = batch.target_clusters.get(r).copied().unwrap_or(0);
                let place = self.place(cluster, batch.targets[r], user, batch.row_keys[r]);
                extra.iter().for_each(|&i| worker.excluded.insert(i));
                let result = visit(worker, &Group { key: batch.row_keys[r], place, user, sequence, extra }, t);
                extra.iter().for_each(|&i| worker.excluded.remove(i));
                result
            }),
        };
        sequence.iter().for_each(|&i| worker.excluded.remove(i));
        worker.rest = None;
        worker.remaining.clear();
        worker.visited = None;
        result
    }

    fn all(&self, ids: &mut [u32], log_q: &mut [f32]) -> Result<()> {
        let (rules, batch) = (self.rules, self.batch);
        if rules.scope == Scope::Batch {
            return self.group(&mut self.worker(), &self.whole(), ids, log_q);
        }
        // One piece of the output per sequence; sequences are independent, so the pieces may be filled in any order.
        let mut pieces = Vec::with_capacity(batch.sequences());
        let (mut ids, mut log_q) = (ids, log_q);
        for b in 0..batch.sequences() {
            let groups = if rules.scope == Scope::Position { batch.range(b).len() } else { 1 };
            let (head, tail) = std::mem::take(&mut ids).split_at_mut(groups * rules.n);
            let (head_q, tail_q) = std::mem::take(&mut log_q).split_at_mut(if rules.log_q { groups * rules.n } else { 0 });
            (ids, log_q) = (tail, tail_q);
            pieces.push((b, head, head_q));
        }
        let results: Vec<Result<()>> = pieces
            .into_par_iter()
            .map_init(
                || self.worker(),
                |worker, (b, ids, log_q)| {
                    self.groups(worker, b, |worker, group, t| {
                        let slots = t * rules.n..(t + 1) * rules.n;
                        let log_q = if rules.log_q { &mut log_q[slots.clone()] } else { &mut [][..] };
                        self.group(worker, group, &mut ids[slots], log_q)
                    })
                },
            )
            .collect();
        results.into_iter().collect()
    }

    /// Fills the slots of one group. On return `worker.excluded` is as before.
    fn group(&self, worker: &mut Worker, group: &Group, ids: &mut [u32], log_q: &mut [f32]) -> Result<()> {
        let first = Draws::new(self.rules.seed, Stream::Propose, 0, self.rules.epoch_index);
        let third = Draws::new(self.rules.seed, Stream::Propose, 64, self.rules.epoch_index);
        let base = slot_index(group.key, 0);
        let mut words = [0u64; 3 * BLOCK];
        let mut filled = 0;
        let mut result = Ok(());
        'blocks: for block in ids.chunks_mut(BLOCK) {
            let start = filled as u64;
            match self.words {
                1 => {
                    for (pair, out) in words[..BLOCK].chunks_exact_mut(2).take(block.len().div_ceil(2)).enumerate() {
                        out.copy_from_slice(&first.words64(base | (start / 2 + pair as u64)));
                    }
                }
                2 => {
                    for (slot, out) in words.chunks_exact_mut(2).take(block.len()).enumerate() {
                        out.copy_from_slice(&first.words64(base | (start + slot as u64)));
                    }
                }
                _ => {
                    for (slot, out) in words.chunks_exact_mut(3).take(block.len()).enumerate() {
                        let index = base | (start + slot as u64);
                        out[..2].copy_from_slice(&first.words64(index));
                        out[2] = third.words64(index)[0];
                    }
                }
            }
            self.law.draw_many(&group.place, &words, block);
            for (slot, id) in block.iter_mut().enumerate() {
                if *id == NONE || worker.excluded.contains(*id) {
                    match self.again(worker, group, base | (start + slot as u64)) {
                        Ok(item) => *id = item,
                        Err(error) => {
                            result = Err(error);
                            break 'blocks;
                        }
                    }
                }
                filled += 1;
                if self.rules.distinct && *id != NONE {
                    worker.excluded.insert(*id);
                }
            }
        }
        if self.rules.distinct {
            ids[..filled].iter().filter(|&&i| i != NONE).for_each(|&i| worker.excluded.remove(i));
        }
        result?;
        if self.rules.log_q {
            self.log_q(worker, group, ids, log_q);
        }
        Ok(())
    }

    /// A slot whose first draw was excluded.
    fn again(&self, worker: &mut Worker, group: &Group, index: u64) -> Result<u32> {
        let (seed, step) = (self.rules.seed, self.rules.epoch_index);
        for attempt in 1..ATTEMPTS {
            worker.rejected += 1;
            let draws = Draws::new(seed, Stream::Propose, attempt, step);
            let item = match self.words {
                1 => {
                    let pair = index & !((1 << SLOT_BITS) - 1) | (index & ((1 << SLOT_BITS) - 1)) >> 1;
                    self.law.draw(&group.place, &draws.words64(pair)[(index & 1) as usize..])
                }
                2 => self.law.draw(&group.place, &draws.words64(index)),
                _ => {
                    let [a, b] = draws.words64(index);
                    let c = Draws::new(seed, Stream::Propose, 64 + attempt, step).words64(index)[0];
                    self.law.draw(&group.place, &[a, b, c])
                }
            };
            if item != NONE && !worker.excluded.contains(item) {
                return Ok(item);
            }
        }
        worker.rejected += 1;
        let of = self.key(group);
        if self.rules.distinct || worker.rest.as_ref().is_none_or(|rest| rest.of != of) {
            let visited = self.visited(worker, group);
            let place = Place { visited: visited.as_deref(), ..group.place };
            let allowed = |i: &u32| !worker.excluded.contains(*i);
            let candidates: Vec<u32> = match self.law.support(&place) {
                Some(support) => support.into_iter().filter(allowed).collect(),
                None => self.rules.catalogue.iter().filter(allowed).collect(),
            };
            let mut probs = vec![0.0; candidates.len()];
            self.law.prob_many(&place, &candidates, &mut probs);
            let (mut items, mut reached, mut sum) = (Vec::new(), Vec::new(), 0.0);
            for (item, prob) in candidates.into_iter().zip(probs) {
                if prob > 0.0 {
                    sum += prob;
                    items.push(item);
                    reached.push(sum);
                }
            }
            worker.rest = Some(Rest { of, items, reached });
        }
        let Some(rest) = worker.rest.as_ref() else { return Ok(NONE) };
        let Some(&total) = rest.reached.last() else {
            let first_slot = index & ((1 << SLOT_BITS) - 1) == 0;
            return match self.law.may_run_dry() || (self.rules.distinct && !first_slot) {
                true => Ok(NONE),
                false => Err(exhausted(group, self.rules)),
            };
        };
        let mark = total * open01(Draws::new(seed, Stream::Propose, ENUMERATED, step).words64(index)[0]);
        let at = rest.reached.partition_point(|&reached| reached <= mark).min(rest.items.len() - 1);
        Ok(rest.items[at])
    }

    /// The probability that `law` leaves to a group, `1 - q(excluded)`.
    fn left(&self, law: &dyn Propose, worker: &mut Worker, group: &Group, place: &Place) -> f64 {
        let of = self.key(group);
        let known = worker.remaining.iter().find(|(key, _)| *key == of).map(|r| r.1);
        known.unwrap_or_else(|| {
            let left = match group.extra {
                None => law.remaining(place, group.sequence),
                Some(extra) => {
                    let all: Vec<u32> = group.sequence.iter().copied().chain([extra]).collect();
                    law.remaining(place, &all)
                }
            };
            if group.extra.is_none() {
                worker.remaining.push((of, left));
            }
            left
        })
    }

    /// `ln q(i) - ln(1 - q(excluded))` of every slot, by the law that is reported; 0 for an empty one, which no loss reads.
    fn log_q(&self, worker: &mut Worker, group: &Group, ids: &[u32], log_q: &mut [f32]) {
        let visited = self.visited(worker, group);
        let place = Place { visited: visited.as_deref(), ..group.place };
        let law = self.law.reported().unwrap_or(self.law);
        let left = self.left(law, worker, group, &place);
        let drawn: Vec<u32> = ids.iter().copied().filter(|&id| id != NONE).collect();
        let mut probs = vec![0.0; drawn.len()];
        law.prob_many(&place, &drawn, &mut probs);
        for (log_q, prob) in ids.iter().zip(log_q).filter(|(id, _)| **id != NONE).map(|(_, log_q)| log_q).zip(probs) {
            *log_q = (prob.ln() - left.ln()) as f32;
        }
    }

    fn visited(&self, worker: &mut Worker, group: &Group) -> Option<Visited> {
        worker.visited.get_or_insert_with(|| self.law.visits(group.place.user).map(Arc::from)).clone()
    }

    fn key(&self, group: &Group) -> Key {
        let (law, place) = (self.law, &group.place);
        let target = if law.needs_target() { place.target } else { NONE };
        (place.cluster, target, if law.needs_event() { place.event } else { u64::MAX }, group.extra)
    }
}

fn exhausted(group: &Group, rules: &Rules) -> Error {
    let what = match group.user {
        NONE => "the training catalogue is empty".to_string(),
        user => format!("no item is left to draw for user number {user}"),
    };
    Error::new(Code::D0302, what)
        .note(format!(
            "{} items are excluded, the training catalogue has {}",
            group.sequence.len() + usize::from(group.extra.is_some()),
            rules.catalogue.len()
        ))
        .help("use `sampler.exclude = \"target\"`, or leave such users out (`data.min_item`, `data.min_user`)")
}

/// (R,N) which shared negatives a row must not count; empty when none is.
fn dropped(rules: &Rules, batch: &Batch, negatives: &Negatives) -> Vec<bool> {
    let n = rules.n;
    let mut drop = vec![false; batch.rows() * n];
    if rules.exclude == Exclude::None {
        return Vec::new();
    }
    let mut pieces = Vec::with_capacity(batch.sequences());
    let mut tail = &mut drop[..];
    for b in 0..batch.sequences() {
        let (head, rest) = std::mem::take(&mut tail).split_at_mut(batch.range(b).len() * n);
        tail = rest;
        pieces.push((b, head));
    }
    pieces.into_par_iter().for_each_init(
        || Bits::new(rules.catalogue.items()),
        |bits, (b, drop)| {
            let seen = rules.exclude.of_sequence(batch, b);
            seen.iter().for_each(|&i| bits.insert(i));
            let ids = negatives.ids_of(if rules.scope == Scope::Sequence { b } else { 0 });
            let of_sequence: Vec<bool> = ids.iter().map(|&i| i != NONE && bits.contains(i)).collect();
            for (r, drop) in batch.range(b).zip(drop.chunks_exact_mut(n.max(1))) {
                let target = batch.targets[r];
                for ((drop, &id), &seen) in drop.iter_mut().zip(ids).zip(&of_sequence) {
                    *drop = seen | (id == target);
                }
            }
            seen.iter().for_each(|&i| bits.remove(i));
        },
    );
    if drop.iter().any(|&d| d) { drop } else { Vec::new() }
}
