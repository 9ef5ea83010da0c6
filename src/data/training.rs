//! Batches: packed sequences of a split, for training, evaluation and recommendation.
//!
//! A training sequence is a user with at least two training events; its rows are the last `max_len` pairs (event, next
//! event). Rows are assembled straight from the memory map; the only state beyond it is each user's set of seen items
//! (4 bytes per distinct pair). Context is encoded once per event: a row's target context is the next row's context.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::batch::{Batch, ContextRows, Contexts};
use super::clusters::TimeClusters;
use super::column::Column;
use super::context::{ContextEncoder, Request};
use super::interactions::Interactions;
use super::split::{Split, Target};
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::rng::{Draws, Stream, below};

/// Users whose seen items are collected together; fixed, so results never depend on threads.
const CHUNK: usize = 256;

/// What batches are made from.
pub struct TrainingSet {
    data: Arc<Interactions>,
    split: Arc<Split>,
    context: Option<Arc<ContextEncoder>>,
    clusters: Option<Arc<TimeClusters>>,
    max_len: usize,
    random_prefix: bool,
    /// (S) the user of each sequence.
    sequences: Vec<u32>,
    /// (S+1), and each sequence's distinct training items, ascending.
    seen_offsets: Vec<u64>,
    seen: Column<u32>,
}

/// A history from outside the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Items in time order.
    pub items: Vec<u32>,
    /// Microseconds since 1970 UTC of each item.
    pub times: Option<Vec<i64>>,
}

/// Input rows of one sequence, and the event after the last one.
struct Piece {
    user: u32,
    events: Range<usize>,
    target: usize,
}

impl TrainingSet {
    /// `context` makes batches carry context, `clusters` makes them carry the time clusters of targets. Reads
    /// `model.max_len` and `train.random_prefix`. An error if no user has two training events.
    pub fn new(
        data: Arc<Interactions>,
        split: Arc<Split>,
        config: &Config,
        context: Option<ContextEncoder>,
        clusters: Option<TimeClusters>,
    ) -> Result<TrainingSet> {
        if config.model.max_len == 0 {
            return Err(Error::new(Code::C0202, "`model.max_len` is at least 1"));
        }
        let mut sequences: Vec<u32> = (0..data.users() as u32).filter(|&u| split.training(&data, u).len() >= 2).collect();
        sequences.shrink_to_fit();
        if sequences.is_empty() {
            return Err(Error::new(Code::D0407, "no user has two training events")
                .note(format!("{} users, {} events, split {}", data.users(), data.events(), split.name))
                .help("longer histories are needed: the split keeps up to two events of each user for validation and test"));
        }
        let parts: Vec<(Vec<u64>, Vec<u32>)> = sequences
            .par_chunks(CHUNK)
            .map(|users| {
                let (mut lengths, mut seen) = (vec![], vec![]);
                for &user in users {
                    let start = seen.len();
                    distinct(&data.event_items()[split.training(&data, user)], &mut seen);
                    lengths.push((seen.len() - start) as u64);
                }
                (lengths, seen)
            })
            .collect();
        let (mut seen_offsets, mut seen) = (vec![0], Vec::with_capacity(parts.iter().map(|p| p.1.len()).sum()));
        seen_offsets.reserve_exact(sequences.len());
        let mut end = 0;
        for (lengths, items) in parts {
            seen.extend_from_slice(&items);
            seen_offsets.extend(lengths.into_iter().map(|n| {
                end += n;
                end
            }));
        }
        let (max_len, random_prefix) = (config.model.max_len as usize, config.train.random_prefix);
        let (context, clusters, seen) = (context.map(Arc::new), clusters.map(Arc::new), seen.into());
        Ok(TrainingSet { data, split, context, clusters, max_len, random_prefix, sequences, seen_offsets, seen })
    }

    /// Training sequences S.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }
    /// Never: a set without sequences is not made.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }
    /// (S) the user of each sequence.
    pub fn sequences(&self) -> &[u32] {
        &self.sequences
    }
    /// Rows of one epoch when no prefixes are cut.
    pub fn rows(&self) -> u64 {
        self.sequences.iter().map(|&u| (self.split.training(&self.data, u).len() - 1).min(self.max_len) as u64).sum()
    }
    /// The most rows, and the seen items, of a batch of the sequences `indexes` when sequences hold at most `max_len` rows; the
    /// length of this set's own batches where that is its `model.max_len`.
    pub fn extent(&self, indexes: impl IntoIterator<Item = u32>, max_len: usize) -> (usize, usize) {
        indexes.into_iter().map(|index| index as usize).fold((0, 0), |(rows, seen), index| {
            let user = self.sequences[index];
            let of = (self.split.training(&self.data, user).len() - 1).min(max_len);
            (rows + of, seen + (self.seen_offsets[index + 1] - self.seen_offsets[index]) as usize)
        })
    }
    /// Distinct (sequence, item) pairs of all training histories.
    pub fn seen_pairs(&self) -> usize {
        self.seen.len()
    }
    /// Bytes of a set and its split for `sequences` S, `seen` distinct pairs, `users` U, `items` V and `targets` of both parts.
    pub fn bytes(sequences: usize, seen: usize, users: usize, items: usize, targets: usize) -> u64 {
        (4 * sequences + 8 * (sequences + 1) + 4 * seen + 8 * users + 4 * items + size_of::<Target>() * targets) as u64
    }
    pub fn data(&self) -> &Arc<Interactions> {
        &self.data
    }
    pub fn split(&self) -> &Arc<Split> {
        &self.split
    }
    pub fn context(&self) -> Option<&ContextEncoder> {
        self.context.as_deref()
    }
    pub fn clusters(&self) -> Option<&TimeClusters> {
        self.clusters.as_deref()
    }

    /// (S) first training event and number of training events of each sequence.
    pub fn extents(&self) -> (Vec<u64>, Vec<u32>) {
        let training = |&user: &u32| self.split.training(&self.data, user);
        self.sequences.iter().map(training).map(|events| (events.start as u64, events.len() as u32)).unzip()
    }
    /// (S+1) and the distinct training items of every sequence, ascending.
    pub fn seen(&self) -> (&[u64], &[u32]) {
        (&self.seen_offsets, &self.seen)
    }
    /// (E) the time cluster of every event; empty without clusters.
    pub fn clusters_of_events(&self) -> Vec<u32> {
        match (&self.clusters, self.data.times()) {
            (Some(clusters), Some(times)) => times.par_iter().map(|&time| clusters.of(time)).collect(),
            _ => Vec::new(),
        }
    }
    /// The draws by which histories are cut in `epoch`; none where they are not.
    pub fn cuts(&self, seed: u64, epoch: u64) -> Option<Draws> {
        self.random_prefix.then(|| Draws::new(seed, Stream::Augment, 0, epoch))
    }
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// A training batch of the sequences `indexes` (below [`TrainingSet::len`]). With random prefixes each sequence is cut
    /// to a length uniform in `2..=len`, drawn from (seed, epoch, user) alone.
    pub fn gather(&self, indexes: &[u32], epoch: u64, seed: u64) -> Batch {
        let cuts = self.cuts(seed, epoch);
        let pieces: Arc<[Piece]> = indexes
            .iter()
            .map(|&index| {
                let user = self.sequences[index as usize];
                let mut training = self.split.training(&self.data, user);
                if let Some(cuts) = cuts {
                    let cut = 2 + below(cuts.words64(u64::from(user))[0], training.len() as u64 - 1) as usize;
                    training.end = training.start + cut;
                }
                let target = training.end - 1;
                Piece { user, events: target.saturating_sub(self.max_len).max(training.start)..target, target }
            })
            .collect();
        let mut batch = self.assemble(&pieces);
        let extent = |&index: &u32| [self.seen_offsets[index as usize], self.seen_offsets[index as usize + 1]];
        batch.seen_extents = indexes.iter().map(extent).collect();
        batch.seen = self.seen.clone();
        batch
    }

    /// One sequence per target: the last `max_len` events of its visible history. The last row's target, context and key
    /// are those of the event to be predicted; seen items are those of the whole visible history.
    pub fn requests(&self, targets: &[Target]) -> Batch {
        let start = |t: &Target| self.data.range(t.user).start;
        let pieces: Arc<[Piece]> = targets
            .iter()
            .map(|t| {
                let end = t.history_end as usize;
                Piece { user: t.user, events: end.saturating_sub(self.max_len).max(start(t))..end, target: t.at as usize }
            })
            .collect();
        let histories: Vec<&[u32]> = targets.iter().map(|t| &self.data.event_items()[start(t)..t.history_end as usize]).collect();
        add_seen(self.assemble(&pieces), &histories)
    }

    /// What comes after the whole history of `users`. There is no target: it is [`NONE`] in the last row. `requests` is
    /// one for all, one per user, or empty where nothing is known of the situation.
    pub fn requests_now(&self, users: &[u32], requests: &[Request]) -> Result<Batch> {
        if let Some(user) = users.iter().find(|&&u| u as usize >= self.data.users()) {
            return Err(Error::new(Code::D0406, format!("there is no user number {user}")));
        }
        let last = self.situations(users.len(), requests)?;
        let (mut pieces, mut histories) = (vec![], vec![]);
        for &user in users {
            let range = self.data.range(user);
            histories.push(self.data.history(user));
            let events = range.end.saturating_sub(self.max_len).max(range.start)..range.end;
            pieces.push(Piece { user, events, target: range.end });
        }
        let pieces: Arc<[Piece]> = pieces.into();
        let mut batch = self.rows_of(&pieces, false);
        if let (Some(encoder), Some(last)) = (&self.context, last) {
            let events: Vec<u64> = pieces.iter().flat_map(|p| p.events.clone()).map(|e| e as u64).collect();
            batch.context = encoder.rows(&self.data, &events).into();
            batch.target_context = following(&batch.context, &batch.offsets, encoder, &last).into();
        }
        Ok(add_seen(batch, &histories))
    }

    /// As [`TrainingSet::requests_now`] for histories from outside the log; users are [`NONE`], row keys count from 0.
    pub fn adhoc(&self, histories: &[History], requests: &[Request]) -> Result<Batch> {
        let last = self.situations(histories.len(), requests)?;
        let (mut items, mut offsets, mut targets) = (vec![], vec![0], vec![]);
        let mut situations = ContextRows::default();
        for history in histories {
            if let Some(item) = history.items.iter().find(|&&i| i as usize >= self.data.items()) {
                return Err(Error::new(Code::D0406, format!("there is no item number {item}")));
            }
            if history.times.as_ref().is_some_and(|t| t.len() != history.items.len()) {
                return Err(Error::new(Code::D0406, "a history has a different number of times than of items"));
            }
            let from = history.items.len().saturating_sub(self.max_len);
            items.extend_from_slice(&history.items[from..]);
            targets.extend(history.items.iter().skip(from + 1).copied().chain((from < history.items.len()).then_some(NONE)));
            offsets.push(items.len() as u32);
            if let Some(encoder) = &self.context {
                for at in from..history.items.len() {
                    let time = history.times.as_ref().map(|t| t[at]);
                    append(&mut situations, &encoder.request(&Request { time, ..Request::default() })?);
                }
            }
        }
        let (users, row_keys) = (vec![NONE; histories.len()], (0..items.len() as u64).collect());
        let (items, offsets, targets) = (items.into(), offsets.into(), targets.into());
        let mut batch = Batch { users, offsets, items, targets, row_keys, ..Batch::default() };
        if let (Some(encoder), Some(last)) = (&self.context, last) {
            batch.context = situations.into();
            batch.target_context = following(&batch.context, &batch.offsets, encoder, &last).into();
        }
        let histories: Vec<&[u32]> = histories.iter().map(|h| &h.items[..]).collect();
        Ok(add_seen(batch, &histories))
    }

    /// Rows, keys and clusters, all targets being events of the log; with context.
    fn assemble(&self, pieces: &Arc<[Piece]>) -> Batch {
        let mut batch = self.rows_of(pieces, true);
        if let Some(clusters) = self.clusters.as_ref().filter(|_| self.data.times().is_some()) {
            let (clusters, data, keys) = (clusters.clone(), self.data.clone(), batch.row_keys.clone());
            batch.target_clusters = Column::promised(batch.rows(), move || {
                let times = data.times().unwrap_or_default();
                keys.iter().map(|&at| clusters.of(times[at as usize])).collect()
            });
        }
        if let Some(encoder) = &self.context {
            let (of, data, with) = (pieces.clone(), self.data.clone(), encoder.clone());
            batch.context = Contexts::promised(move || {
                let events: Vec<u64> = of.iter().flat_map(|piece| piece.events.clone()).map(|event| event as u64).collect();
                with.rows(&data, &events)
            });
            let (of, data, with) = (pieces.clone(), self.data.clone(), encoder.clone());
            let (own, offsets) = (batch.context.clone(), batch.offsets.clone());
            batch.target_context = Contexts::promised(move || {
                let targets: Vec<u64> = of.iter().map(|piece| piece.target as u64).collect();
                following(&own, &offsets, &with, &with.rows(&data, &targets))
            });
        }
        batch
    }

    /// Users, offsets, items, targets (the last [`NONE`] unless it is `known`) and row keys; what is as long as the rows is read from
    /// the log when somebody asks for it.
    fn rows_of(&self, pieces: &Arc<[Piece]>, known: bool) -> Batch {
        let mut offsets = Vec::with_capacity(pieces.len() + 1);
        offsets.push(0);
        let mut rows = 0;
        for piece in pieces.iter() {
            rows += piece.events.len();
            offsets.push(rows as u32);
        }
        let (of, data) = (pieces.clone(), self.data.clone());
        let items = Column::promised(rows, move || {
            let mut items = Vec::with_capacity(rows);
            of.iter().for_each(|piece| items.extend_from_slice(&data.event_items()[piece.events.clone()]));
            items
        });
        let (of, data) = (pieces.clone(), self.data.clone());
        let targets = Column::promised(rows, move || {
            let (log, mut targets) = (data.event_items(), Vec::with_capacity(rows));
            for Piece { events, target, .. } in of.iter().filter(|piece| !piece.events.is_empty()) {
                targets.extend_from_slice(&log[events.start + 1..events.end]);
                targets.push(if known { log[*target] } else { NONE });
            }
            targets
        });
        let of = pieces.clone();
        let row_keys = Column::promised(rows, move || {
            let mut keys = Vec::with_capacity(rows);
            for Piece { events, target, .. } in of.iter().filter(|piece| !piece.events.is_empty()) {
                keys.extend((events.start + 1..events.end).map(|event| event as u64));
                keys.push(*target as u64);
            }
            keys
        });
        let users = pieces.iter().map(|piece| piece.user).collect();
        // Every item of a log was looked at when it was opened.
        let all = self.data.items() as u32;
        let (items, targets) = (items.below(all), if known { targets.below(all) } else { targets });
        Batch { users, offsets: offsets.into(), items, targets, row_keys, ..Batch::default() }
    }

    /// (B) encoded requests; none without a context encoder.
    fn situations(&self, sequences: usize, requests: &[Request]) -> Result<Option<ContextRows>> {
        if !(requests.len() <= 1 || requests.len() == sequences) {
            let what = format!("{} request contexts were given for {sequences} histories", requests.len());
            return Err(Error::new(Code::D0406, what).help("give one for all of them, or one for each"));
        }
        let Some(encoder) = &self.context else {
            return match requests.iter().find_map(|r| r.columns.keys().next()) {
                Some(name) => Err(Error::new(Code::D0406, format!("the model takes no context, so `{name}` has no effect"))),
                None => Ok(None),
            };
        };
        let mut rows = ContextRows::default();
        let unknown = Request::default();
        for b in 0..sequences {
            let request = if requests.len() == 1 { &requests[0] } else { requests.get(b).unwrap_or(&unknown) };
            append(&mut rows, &encoder.request(request)?);
        }
        Ok(Some(rows))
    }
}

fn append(to: &mut ContextRows, rows: &ContextRows) {
    to.numeric.extend_from_slice(&rows.numeric);
    to.categories.extend_from_slice(&rows.categories);
}

/// Contexts of the targets: the next row's context, and `last` (B) for the last row of each sequence.
fn following(own: &ContextRows, offsets: &[u32], encoder: &ContextEncoder, last: &ContextRows) -> ContextRows {
    let (width, many) = (encoder.numeric_width(), encoder.category_sizes().len());
    let mut rows =
        ContextRows { numeric: Vec::with_capacity(own.numeric.len()), categories: Vec::with_capacity(own.categories.len()) };
    for (b, ends) in offsets.windows(2).enumerate().filter(|(_, ends)| ends[0] < ends[1]) {
        let (next, end) = (ends[0] as usize + 1, ends[1] as usize);
        rows.numeric.extend_from_slice(&own.numeric[next * width..end * width]);
        rows.numeric.extend_from_slice(&last.numeric[b * width..(b + 1) * width]);
        rows.categories.extend_from_slice(&own.categories[next * many..end * many]);
        rows.categories.extend_from_slice(&last.categories[b * many..(b + 1) * many]);
    }
    rows
}

/// Appends the distinct items of `history`, ascending.
fn distinct(history: &[u32], to: &mut Vec<u32>) {
    let start = to.len();
    to.extend_from_slice(history);
    to[start..].sort_unstable();
    let mut kept = start;
    for at in start..to.len() {
        if kept == start || to[kept - 1] != to[at] {
            to[kept] = to[at];
            kept += 1;
        }
    }
    to.truncate(kept);
}

fn add_seen(batch: Batch, histories: &[&[u32]]) -> Batch {
    let sets: Vec<Vec<u32>> = histories
        .par_iter()
        .with_min_len(32)
        .map(|history| {
            let mut set = Vec::with_capacity(history.len());
            distinct(history, &mut set);
            set
        })
        .collect();
    batch.with_seen(&sets)
}

#[cfg(test)]
mod tests {
    use super::super::clusters::Method;
    use super::super::prepare::in_memory;
    use super::super::raw::{Ids, RawColumn, RawLog, RawValues, Sides};
    use super::super::synthetic;
    use super::*;
    use crate::config;

    /// Four users; item names are the letters. User d has one event. Times are the input position in hours.
    fn small(config: &Config) -> Arc<Interactions> {
        let rows = [("a", "pqrpst"), ("b", "qrs"), ("c", "ppqp"), ("d", "t")];
        let mut raw = RawLog::default();
        let (mut times, mut numbers, mut codes, mut ids) = (vec![], vec![], vec![], Ids::new());
        for (user, items) in rows {
            for item in items.chars() {
                raw.users.push(raw.user_ids.intern(user.as_bytes()));
                raw.items.push(raw.item_ids.intern(item.to_string().as_bytes()));
                times.push(times.len() as i64 * 3_600_000_000);
                numbers.push(times.len() as f32);
                codes.push(ids.intern(if times.len() % 2 == 0 { b"even" } else { b"odd" }));
            }
        }
        raw.times = Some(times);
        raw.context = vec![
            RawColumn { name: "number".into(), values: RawValues::Numeric(numbers) },
            RawColumn { name: "parity".into(), values: RawValues::Categorical { codes, ids } },
        ];
        Arc::new(in_memory(raw, &config.data, Sides::default()).unwrap())
    }

    fn set(config: &Config, context: bool) -> TrainingSet {
        let data = small(config);
        let split = Arc::new(Split::new(&data, &config.data, 1).unwrap());
        let encoder = if context { ContextEncoder::fit(&data, &split, config).unwrap() } else { None };
        let clusters = TimeClusters::fit(&data, &split, 2, Method::Interval).unwrap();
        TrainingSet::new(data, split, config, encoder, Some(clusters)).unwrap()
    }

    fn names(set: &TrainingSet, items: &[u32]) -> String {
        items.iter().map(|&i| if i == NONE { '-' } else { set.data().item_name(i)[0] as char }).collect()
    }

    #[test]
    fn a_batch_holds_the_pairs_of_each_sequence() {
        let mut config = Config::default();
        let all = set(&config, false);
        // a trains on pqrp, b on q, c on pp, d on t: only a and c have a pair.
        assert_eq!(all.sequences(), &[0, 2]);
        assert_eq!(all.rows(), 4);
        let batch = all.gather(&[1, 0], 0, 7);
        assert_eq!(batch.users, [2, 0]);
        assert_eq!(batch.offsets, [0, 1, 4]);
        assert_eq!(names(&all, &batch.items), "ppqr");
        assert_eq!(names(&all, &batch.targets), "pqrp");
        assert_eq!(batch.row_keys, [10, 1, 2, 3]);
        assert_eq!(names(&all, batch.seen_of(0)), "p");
        let mut seen: Vec<char> = names(&all, batch.seen_of(1)).chars().collect();
        seen.sort_unstable();
        assert_eq!(seen, ['p', 'q', 'r']);
        assert!(batch.seen_of(1).is_sorted());
        // Training runs from hour 0 to hour 13 (user d's only event); the halves meet at 6.5.
        assert_eq!(batch.target_clusters, [1, 0, 0, 0]);
        assert!(batch.context.numeric.is_empty());

        config.model.max_len = 2;
        let short = set(&config, false);
        assert_eq!(short.rows(), 3);
        let batch = short.gather(&[0], 0, 7);
        assert_eq!((names(&short, &batch.items), names(&short, &batch.targets)), ("qr".into(), "rp".into()));
        assert_eq!(batch.row_keys, [2, 3]);
        assert_eq!(batch.seen_of(0).len(), 3, "seen items are those of the whole training history");
    }

    #[test]
    fn requests_end_in_the_event_to_be_predicted() {
        let mut config = Config::default();
        config.model.max_len = 3;
        let all = set(&config, false);
        let split = all.split().clone();
        let valid = all.requests(&split.valid);
        assert_eq!(valid.users, [0, 1, 2]);
        assert_eq!(valid.offsets, [0, 3, 4, 6]);
        assert_eq!(names(&all, &valid.items), "qrpqpp");
        assert_eq!(names(&all, &valid.targets), "rpsrpq");
        assert_eq!(valid.row_keys, [2, 3, 4, 7, 10, 11]);
        let test = all.requests(&split.test);
        assert_eq!(names(&all, &test.items), "rpsqrppq");
        assert_eq!(names(&all, &test.targets), "pstrspqp");
        assert_eq!(test.seen_of(0).len(), 4);
        let now = all.requests_now(&[3, 0], &[]).unwrap();
        assert_eq!((names(&all, &now.items), names(&all, &now.targets)), ("tpst".into(), "-st-".into()));
        assert_eq!(now.row_keys, [14, 4, 5, 6]);
        assert_eq!(all.requests_now(&[4], &[]).unwrap_err().code(), Code::D0406);
    }

    #[test]
    fn context_of_a_row_is_its_own_and_of_its_target_the_next() {
        let mut config = Config::default();
        config.data.context = vec!["number:num".into(), "parity:cat".into()];
        config.model.max_len = 3;
        let all = set(&config, true);
        let encoder = all.context().unwrap();
        let (width, data) = (encoder.numeric_width(), all.data().clone());
        assert_eq!((width, encoder.category_sizes()), (24, &[3u32][..]));
        for batch in [all.gather(&[0, 1], 3, 7), all.requests(&all.split().test)] {
            let own: Vec<u64> = (0..batch.sequences())
                .flat_map(|b| {
                    let range = batch.range(b);
                    let first = batch.row_keys[range.start] - 1;
                    first..first + range.len() as u64
                })
                .collect();
            let (own, target) = (encoder.rows(&data, &own), encoder.rows(&data, &batch.row_keys));
            assert_eq!(*batch.context, own);
            assert_eq!(*batch.target_context, target);
        }
        let time = Some(5 * 3_600_000_000);
        let columns = [("number".to_string(), "6".to_string()), ("parity".into(), "even".into())].into();
        let request = Request { time, columns };
        let now = all.requests_now(&[0, 1], std::slice::from_ref(&request)).unwrap();
        // Event 5 of the log has exactly this context.
        let event = encoder.rows(&data, &[5]);
        for row in [2, 5] {
            assert_eq!(now.target_context.numeric[row * width..][..width], event.numeric);
            assert_eq!(now.target_context.categories[row], event.categories[0]);
        }
        let history = History { items: vec![0, 1], times: Some(vec![3_600_000_000, 7_200_000_000]) };
        let adhoc = all.adhoc(&[History::default(), history], &[request]).unwrap();
        assert_eq!((&adhoc.offsets[..], &adhoc.targets[..]), (&[0, 0, 2][..], &[1, NONE][..]));
        assert_eq!(adhoc.seen, [0, 1]);
        assert_eq!(adhoc.context.numeric[width..], adhoc.target_context.numeric[..width]);
        assert_eq!(adhoc.target_context.numeric[width..], event.numeric);
        assert_eq!(adhoc.context.categories, [0, 0], "the category of an event from outside is unknown");
    }

    #[test]
    fn bad_requests_are_refused() {
        let all = set(&Config::default(), false);
        let column = Request { columns: [("x".to_string(), "1".to_string())].into(), ..Request::default() };
        assert_eq!(all.requests_now(&[0], &[column]).unwrap_err().code(), Code::D0406);
        assert!(all.requests_now(&[0, 1, 2], &[Request::default(), Request::default()]).is_err());
        assert!(all.adhoc(&[History { items: vec![99], times: None }], &[]).is_err());
        assert!(all.adhoc(&[History { items: vec![0, 1], times: Some(vec![1]) }], &[]).is_err());
    }

    #[test]
    fn prefixes_are_uniform_and_do_not_depend_on_the_batch() {
        let mut config = Config::default();
        config.train.random_prefix = true;
        let all = set(&config, false);
        // User a has four training events: prefixes of 2, 3 or 4 events, so 1, 2 or 3 rows.
        let mut counts = [0u32; 3];
        for epoch in 0..3000 {
            let alone = all.gather(&[0], epoch, 7);
            let both = all.gather(&[1, 0], epoch, 7);
            assert_eq!(alone.items, both.items[both.range(1)]);
            assert_eq!(alone.row_keys.last(), Some(&(alone.rows() as u64)));
            counts[alone.rows() - 1] += 1;
        }
        // 1000 each with standard deviation 26.
        assert!(counts.iter().all(|c| (870..1130).contains(c)), "{counts:?}");
    }

    #[test]
    fn the_same_rows_come_from_any_batching_and_any_number_of_threads() {
        let config = Config {
            data: config::Data { synthetic: config::Synthetic { users: 700, ..Default::default() }, ..Default::default() },
            ..Default::default()
        };
        let (raw, sides) = synthetic::generate(&config.data.synthetic).unwrap();
        let data = Arc::new(in_memory(raw, &config.data, sides).unwrap());
        let split = Arc::new(Split::new(&data, &config.data, 1).unwrap());
        let make = || {
            let mut config = config.clone();
            config.model.kind = "cans".into();
            let encoder = ContextEncoder::fit(&data, &split, &config).unwrap();
            TrainingSet::new(data.clone(), split.clone(), &config, encoder, None).unwrap()
        };
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let indexes: Vec<u32> = (0..make().len() as u32).filter(|i| i % 3 != 1).collect();
        let a = one.install(|| make().gather(&indexes, 2, 5));
        let b = three.install(|| make().gather(&indexes, 2, 5));
        assert_eq!((&a.items, &a.seen, &a.context.numeric), (&b.items, &b.seen, &b.context.numeric));
        let set = make();
        let parts: Vec<Batch> = indexes.chunks(97).map(|part| set.gather(part, 2, 5)).collect();
        assert_eq!(a.items, parts.iter().flat_map(|p| p.items.to_vec()).collect::<Vec<_>>());
        assert_eq!(a.row_keys, parts.iter().flat_map(|p| p.row_keys.to_vec()).collect::<Vec<_>>());
        assert_eq!(a.target_context.numeric, parts.iter().flat_map(|p| p.target_context.numeric.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn a_log_without_pairs_is_refused() {
        let mut raw = RawLog::default();
        raw.users.push(raw.user_ids.intern(b"u"));
        raw.items.push(raw.item_ids.intern(b"i"));
        let config = Config::default();
        let data = Arc::new(in_memory(raw, &config.data, Sides::default()).unwrap());
        let split = Arc::new(Split::new(&data, &config.data, 1).unwrap());
        let refused = TrainingSet::new(data, split, &config, None, None).err().unwrap();
        assert_eq!(refused.code(), Code::D0407);
    }
}
