//! Measuring and using a ranker: full ranking in tiles, sampled protocols for comparison with old papers, baselines,
//! and recommendation lists.
//!
//! ```text
//! targets ─requests→ Batch ─Ranker→ scores (B,V) ─mask, rank, top-k (ops/rank)→ ranks, lists ─metrics→ Evaluation
//! ```
//!
//! The whole score matrix never exists: requests go through in tiles of a few MB. Every row is ranked on its own and all
//! sums run in request order, so no figure depends on the tile size or the number of threads.
//!
//! What can be ranked. `exclude_seen` masks the visible history of each request, as a recommendation list does; a target
//! that repeats an event of its own history is then a miss, because no list could show it. The report counts such targets
//! (`targets_in_history`) and says so. `items = "trained"` leaves out items without a training event; a target among those is a miss and is counted
//! (`cold_targets`).
//!
//! Ties count against the model unless another rule is asked for. A recommendation list cannot know the target, so it
//! orders equal scores by item index; the rule `listed` ranks a target the same way. The figures of a report therefore
//! follow from the recommendation file under every rule when `tied_targets` is 0, and always under `listed`.

pub mod encoder;
pub mod item_to_item;
pub mod lists;
#[cfg(feature = "parquet")]
pub mod parquet_lists;
pub mod per_user;
pub mod popularity;
pub mod protocol;
pub mod recommend;
pub mod report;

use rayon::prelude::*;

use crate::config;
use crate::data::batch::Batch;
use crate::data::interactions::Interactions;
use crate::data::split::{Split, Target};
use crate::error::{Code, Error, Result};
use crate::metrics::beyond::{self, Attributes, Segment};
use crate::metrics::ranking::ACCURACY;
use crate::metrics::significance::Mean;
use crate::ops::rank::{self, Entry, Excluded, Mask, Standing};
use crate::rng::{Draws, Stream};

pub use encoder::Encoder;
pub use item_to_item::ItemToItem;
pub use lists::{Format, ListWriter};
pub use popularity::Popularity;
pub use protocol::{Candidates, Rules};
pub use recommend::{Limits, recommend};
pub use report::{Evaluation, Outcome, table};

/// Scores the whole catalogue for a batch of requests; the last row of each sequence is the request.
pub trait Ranker {
    /// V
    fn items(&self) -> usize;
    /// `out` becomes (B,V).
    fn score(&mut self, requests: &Batch, out: &mut Vec<f32>) -> Result<()>;
    /// Standings of the `wanted` items, one per request, and lists of `k`. A machine ranks without writing its scores.
    fn rank(&mut self, requests: &Batch, mask: &Mask<'_>, wanted: Option<&[u32]>, k: usize, to: &mut Ranked) -> Result<()> {
        self.rank_by_scores(requests, mask, wanted, k, to)
    }
    /// The plain form of [`Ranker::rank`].
    fn rank_by_scores(
        &mut self,
        requests: &Batch,
        mask: &Mask<'_>,
        wanted: Option<&[u32]>,
        k: usize,
        to: &mut Ranked,
    ) -> Result<()> {
        let mut scores = std::mem::take(&mut to.scores);
        self.score(requests, &mut scores)?;
        let (expected, name) = (requests.sequences() * self.items(), self.name());
        if scores.len() != expected {
            return Err(Error::internal(format!("{name} gave {} scores for {} requests", scores.len(), requests.sequences())));
        }
        rank::forward(&mut to.standings, &mut to.lists, &mut scores, mask, wanted, k)?;
        to.scores = scores;
        Ok(())
    }
    fn name(&self) -> &str;
}

/// What ranking a batch of requests gives; kept from tile to tile for its memory.
#[derive(Default)]
pub struct Ranked {
    /// (B): none where the wanted item is masked; empty where none is wanted.
    pub standings: Vec<Option<Standing>>,
    /// (B,k)
    pub lists: Vec<Entry>,
    scores: Vec<f32>,
}

/// What evaluation needs to know about the data besides the requests.
pub struct Facts<'a> {
    /// (V) training events of each item.
    pub train_counts: &'a [u32],
    /// Item attributes, for the distance within a list.
    pub attributes: Option<Attributes<'a>>,
    /// The whole log by user, past and future, offsets (U+1) and items (E): what a sampled candidate must not be.
    pub offsets: &'a [u64],
    pub event_items: &'a [u32],
    /// Protocol of the split and which part is evaluated, e.g. `loo test`.
    pub split: String,
    /// Fingerprint of the prepared data.
    pub data_hash: String,
    /// Users without a request, by reason.
    pub left_out: Vec<(String, u64)>,
}

/// Which targets of a split are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Valid,
    Test,
}

impl<'a> Facts<'a> {
    /// The facts about one part of a split.
    pub fn new(data: &'a Interactions, split: &'a Split, part: Part) -> Facts<'a> {
        let (targets, part) = match part {
            Part::Valid => (&split.valid, "valid"),
            Part::Test => (&split.test, "test"),
        };
        let mut served = vec![false; data.users()];
        targets.iter().for_each(|t| served[t.user as usize] = true);
        let (mut short, mut other) = (0, 0);
        for user in (0..data.users()).filter(|&u| !served[u]) {
            match data.range(user as u32).len() {
                // Fewer events than leave-one-out can hold out two of.
                0..=2 if split.name.starts_with("loo") => short += 1,
                _ => other += 1,
            }
        }
        let left_out = [("with fewer than 3 events", short), ("without a target in this part", other)];
        Facts {
            train_counts: &split.train_items,
            attributes: data.attributes().map(|a| Attributes { offsets: a.offsets, codes: a.codes }),
            offsets: data.offsets(),
            event_items: data.event_items(),
            split: format!("{} {part}", split.name),
            data_hash: data.content_hash().iter().map(|byte| format!("{byte:02x}")).collect(),
            left_out: left_out.into_iter().filter(|&(_, n)| n > 0).map(|(why, n)| (why.to_string(), n)).collect(),
        }
    }

    /// All items of a user, in time order.
    fn interacted(&self, user: u32) -> &'a [u32] {
        &self.event_items[self.offsets[user as usize] as usize..self.offsets[user as usize + 1] as usize]
    }
}

/// Requests per tile: enough that a product with the item table is not bound by reading the table, few enough that the
/// tile stays in the last-level cache for small catalogues and in 256 MB for the largest.
pub fn tile_rows(items: usize) -> usize {
    let row = 4 * items.max(1);
    let in_cache = (6 << 20) / row;
    let at_most = ((256 << 20) / row).max(1);
    in_cache.clamp(32.min(at_most), 256)
}

/// Evaluates `ranker` on `targets`; `requests` gathers the batch of some of them, in order. `progress` gets (done, all).
///
/// # Errors
/// T0702 on a NaN score, C0202 on a setting that has no meaning, D0301 without targets.
pub fn evaluate(
    ranker: &mut dyn Ranker,
    requests: &mut dyn FnMut(&[Target]) -> Result<Batch>,
    targets: &[Target],
    facts: &Facts<'_>,
    config: &config::Eval,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation> {
    let rows = tile_rows(ranker.items());
    evaluate_in_tiles(ranker, requests, targets, facts, config, rows, progress)
}

fn evaluate_in_tiles(
    ranker: &mut dyn Ranker,
    requests: &mut dyn FnMut(&[Target]) -> Result<Batch>,
    targets: &[Target],
    facts: &Facts<'_>,
    config: &config::Eval,
    rows: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation> {
    let rules = Rules::read(config)?;
    let items = ranker.items();
    if facts.train_counts.len() != items {
        return Err(Error::internal(format!("{items} items are ranked, {} are counted", facts.train_counts.len())));
    }
    if targets.is_empty() {
        return Err(Error::new(Code::D0301, "the split left no event to predict")
            .help("users need at least three events for leave-one-out; another split or a longer log helps"));
    }
    let excluded = Excluded::new(items, |i| rules.trained_only && facts.train_counts[i as usize] == 0);
    let mut tally = Tally::new(&rules, items, facts);
    let mut ranking = Ranking::new(&rules, items, facts);
    let mut done = 0;
    for tile in targets.chunks(rows.max(1)) {
        let batch = requests(tile)?;
        let wanted = targets_of(&batch)?;
        if wanted.len() != tile.len() {
            return Err(Error::internal(format!("{} requests became a batch of {}", tile.len(), wanted.len())));
        }
        ranking.tile(ranker, &batch, tile, &wanted, &excluded)?;
        tally.add(&batch, tile, &wanted, &ranking);
        done += tile.len();
        progress(done, targets.len());
    }
    Ok(tally.finish(ranker.name(), &excluded))
}

/// (B) the item each request asks for: the target of its last row.
fn targets_of(batch: &Batch) -> Result<Vec<u32>> {
    (0..batch.sequences())
        .map(|b| batch.range(b).last().map(|row| batch.targets[row]))
        .collect::<Option<Vec<u32>>>()
        .ok_or_else(|| Error::internal("a request has no visible history"))
}

/// Standings and lists of the current tile.
struct Ranking<'a> {
    rules: &'a Rules,
    candidates: protocol::Drawer<'a>,
    /// Longest list.
    k: usize,
    ranked: Ranked,
    /// Requests with fewer candidates than the protocol asks for.
    short: u64,
}

impl<'a> Ranking<'a> {
    fn new(rules: &'a Rules, items: usize, facts: &'a Facts<'a>) -> Ranking<'a> {
        Ranking {
            rules,
            candidates: protocol::Drawer::new(rules.candidates, facts, items),
            k: rules.longest(),
            ranked: Ranked::default(),
            short: 0,
        }
    }

    fn tile(
        &mut self,
        ranker: &mut dyn Ranker,
        batch: &Batch,
        tile: &[Target],
        wanted: &[u32],
        excluded: &Excluded,
    ) -> Result<()> {
        if self.rules.candidates == Candidates::Full {
            let seen = self.rules.exclude_seen.then_some((&batch.seen_extents[..], &batch.seen[..]));
            return ranker.rank(batch, &Mask { excluded, seen }, Some(wanted), self.k, &mut self.ranked);
        }
        let items = ranker.items();
        let scores = &mut self.ranked.scores;
        ranker.score(batch, scores)?;
        if scores.len() != tile.len() * items {
            return Err(Error::internal(format!("{} gave {} scores for {} requests", ranker.name(), scores.len(), tile.len())));
        }
        let (mut standings, mut lists) = (vec![], vec![Entry::EMPTY; tile.len() * self.k]);
        let (mut few, mut scratch) = (Vec::new(), rank::Scratch::default());
        for (b, row) in scores.chunks_exact(items).enumerate() {
            let among = self.candidates.of(tile[b], wanted[b]);
            self.short += u64::from(among.short);
            few.clear();
            few.extend(among.items.iter().map(|&i| row[i as usize]));
            standings.push(rank::stand(&few, 0, Some(among.place))?);
            let list = &mut lists[b * self.k..(b + 1) * self.k];
            rank::best(list, &mut scratch, &few);
            list.iter_mut().filter(|e| **e != Entry::EMPTY).for_each(|e| e.item = among.items[e.item as usize]);
        }
        (self.ranked.standings, self.ranked.lists) = (standings, lists);
        Ok(())
    }
}

/// Everything summed over requests, in request order.
struct Tally<'a> {
    rules: &'a Rules,
    facts: &'a Facts<'a>,
    items: usize,
    segments: Vec<Segment>,
    outcomes: Vec<Outcome>,
    /// Per k: (V) lists that show the item.
    exposure: Vec<Vec<u64>>,
    /// Per k: distance within lists.
    distance: Vec<Mean>,
    short: u64,
}

impl<'a> Tally<'a> {
    fn new(rules: &'a Rules, items: usize, facts: &'a Facts<'a>) -> Tally<'a> {
        Tally {
            rules,
            facts,
            items,
            segments: beyond::segments(facts.train_counts),
            outcomes: vec![],
            exposure: vec![vec![0; items]; rules.at.len()],
            distance: vec![Mean::default(); rules.at.len()],
            short: 0,
        }
    }

    fn add(&mut self, batch: &Batch, tile: &[Target], wanted: &[u32], ranking: &Ranking<'_>) {
        let ties = Draws::new(protocol::SEED, Stream::Ties, 0, 0);
        for (b, (target, &item)) in tile.iter().zip(wanted).enumerate() {
            let standing = ranking.ranked.standings[b];
            let rank = match standing {
                Some(s) => s.rank(self.rules.ties, ties.words64(target.at)[0]),
                // A masked target is behind everything that can be ranked.
                None => f64::INFINITY,
            };
            self.outcomes.push(Outcome {
                user: target.user,
                item,
                rank,
                tied: standing.map_or(0, |s| s.tied),
                in_history: batch.seen_of(b).binary_search(&item).is_ok(),
            });
        }
        for (n, &k) in self.rules.at.iter().enumerate() {
            for list in ranking.ranked.lists.chunks_exact(ranking.k) {
                for entry in list[..k as usize].iter().take_while(|e| **e != Entry::EMPTY) {
                    self.exposure[n][entry.item as usize] += 1;
                }
            }
            if let Some(attributes) = self.facts.attributes {
                let distances: Vec<Option<f64>> = ranking
                    .ranked
                    .lists
                    .par_chunks_exact(ranking.k)
                    .map(|list| {
                        let shown = list[..k as usize].iter().take_while(|e| **e != Entry::EMPTY);
                        beyond::intra_list_distance(&shown.map(|e| e.item).collect::<Vec<_>>(), attributes)
                    })
                    .collect();
                distances.into_iter().flatten().for_each(|d| self.distance[n].add(d));
            }
        }
        self.short = ranking.short;
    }

    fn finish(self, model: &str, excluded: &Excluded) -> Evaluation {
        let mut values: Vec<(String, f64)> = vec![];
        let mut errors: Vec<(String, f64)> = vec![];
        let events: u64 = self.facts.train_counts.iter().map(|&c| u64::from(c)).sum();
        let mean = |metric: fn(f64, u32) -> f64, k: u32, only: Option<Segment>| -> Mean {
            let chosen = self.outcomes.iter().filter(|o| only.is_none_or(|s| self.segments[o.item as usize] == s));
            chosen.map(|o| metric(o.rank, k)).collect()
        };
        for (n, &k) in self.rules.at.iter().enumerate() {
            let mut put = |name: String, value: Option<f64>| values.extend(value.map(|v| (name, v)));
            for &(name, metric) in ACCURACY {
                let over_all = mean(metric, k, None);
                put(format!("{name}@{k}"), over_all.mean());
                errors.extend(over_all.error().map(|e| (format!("{name}@{k}_se"), e)));
            }
            let shown: Vec<u64> =
                (0..self.items as u32).filter(|&i| !excluded.contains(i)).map(|i| self.exposure[n][i as usize]).collect();
            put(format!("coverage@{k}"), Some(beyond::coverage(&shown)));
            put(format!("gini@{k}"), Some(beyond::gini(&shown)));
            put(format!("entropy@{k}"), Some(beyond::entropy(&shown)));
            let novelty = |i: usize| beyond::self_information(self.facts.train_counts[i].into(), events);
            put(format!("novelty@{k}"), beyond::mean_over_exposure(&self.exposure[n], novelty));
            put(format!("ild@{k}"), self.distance[n].mean());
            let in_tail = |i: usize| if self.segments[i] == Segment::Tail { 1.0 } else { 0.0 };
            put(format!("tail_share@{k}"), beyond::mean_over_exposure(&self.exposure[n], in_tail));
            for (segment, part) in Segment::ALL {
                for &(name, metric) in &ACCURACY[..2] {
                    put(format!("{name}_{part}@{k}"), mean(metric, k, Some(segment)).mean());
                }
            }
        }
        values.extend(errors);
        let count = |f: &dyn Fn(&Outcome) -> bool| self.outcomes.iter().filter(|o| f(o)).count() as u64;
        let mut users: Vec<u32> = self.outcomes.iter().map(|o| o.user).collect();
        users.sort_unstable();
        users.dedup();
        let protocol = protocol::Protocol {
            split: self.facts.split.clone(),
            candidates: self.rules.candidates.name(),
            ties: self.rules.ties_name().to_string(),
            exclude_seen: self.rules.exclude_seen,
            items: if self.rules.trained_only { "trained" } else { "all" }.to_string(),
            items_ranked: excluded.remaining() as u64,
            requests: self.outcomes.len() as u64,
            users: users.len() as u64,
            left_out: self.facts.left_out.to_vec(),
            targets: Segment::ALL
                .map(|(segment, part)| (part.to_string(), count(&|o| self.segments[o.item as usize] == segment)))
                .to_vec(),
            cold_targets: count(&|o| self.facts.train_counts[o.item as usize] == 0),
            tied_targets: count(&|o| o.tied > 0),
            targets_in_history: count(&|o| o.in_history),
            short_lists: self.short,
            seed: protocol::SEED,
            data_hash: self.facts.data_hash.clone(),
        };
        Evaluation { model: model.to_string(), at: self.rules.at.clone(), values, protocol, outcomes: self.outcomes }
    }
}

#[cfg(test)]
mod tests;
