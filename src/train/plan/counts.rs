//! What a plan of memory and a price depend on besides the settings: numbers of a log, counted in it or assumed.
//!
//! ```text
//! of        of a log that is trained on: its sizes, its largest batch, what samplers and baselines keep of it
//! of_use    of a log that a trained model is used on: its sizes and its largest tile of requests
//! assumed   of a log of which only items, users and events are known
//! ```

use crate::config::Config;
use crate::data::context::{TEMPORAL, uses_context};
use crate::data::order::Order;
use crate::data::split::Target;
use crate::data::training::TrainingSet;
use crate::error::{Code, Error, Result};
use crate::eval::{self, ItemToItem};
use crate::loss;
use crate::model::cost::Lengths;
use crate::sampling::memory as sampler;
use crate::train::step::sizes;

/// Sequences whose lengths are looked at for the largest batch: all epochs of a small log, some of a large one.
const LOOKED_AT: u64 = 5_000_000;

/// What a plan depends on besides the settings.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub items: usize,
    pub users: usize,
    pub events: usize,
    /// S, and distinct (sequence, item) pairs.
    pub sequences: usize,
    pub seen: usize,
    /// Targets of both parts, and of the larger one.
    pub targets: usize,
    pub targets_of_part: usize,
    /// Rows and seen items of the largest batch.
    pub rows: usize,
    pub seen_of_batch: usize,
    /// Rows of the largest tile of requests of an evaluation.
    pub rows_of_requests: usize,
    /// The step whose batch that is; none without a log.
    pub largest: Option<u64>,
    /// All sequences of an epoch.
    pub lengths: Lengths,
    pub numeric: usize,
    pub categories: Vec<u32>,
    /// Attributes and (item, attribute) pairs.
    pub attributes: usize,
    pub attribute_pairs: usize,
    pub trained: usize,
    pub training_events: usize,
    /// (cluster, item) pairs with a training event.
    pub cluster_pairs: usize,
    /// What the sampler's tables and the rules of the item-to-item baseline hold; none without a log.
    pub known: Option<sampler::Known>,
    pub rules: Option<usize>,
}

impl Counts {
    /// Of a log. The largest batch is looked for in the order of the epochs, in as many of them as are five million sequences. Errors of
    /// the settings are those of training.
    pub fn of(set: &TrainingSet, config: &Config) -> Result<Counts> {
        let (log, split) = (set.data(), set.split());
        let (n, batch) = (set.len() as u64, u64::from(config.train.batch_size.max(1)));
        let max_len = config.model.max_len as usize;
        let (mut rows, mut seen_of_batch, mut largest) = (0, 0, None);
        let per_epoch = n.div_ceil(batch);
        let last = crate::train::step::total_steps(&config.train, set.len());
        let epochs = (LOOKED_AT / n).clamp(1, u64::from(config.train.epochs.max(1)));
        for step in 0..(epochs * per_epoch).min(last.max(1)) {
            let order = Order::new(config.train.seed, step / per_epoch, n);
            let within = step % per_epoch * batch;
            let of = set.extent((within..(within + batch).min(n)).map(|i| order.at(i) as u32), max_len);
            seen_of_batch = seen_of_batch.max(of.1);
            if of.0 > rows {
                (rows, largest) = (of.0, Some(step));
            }
        }
        let lengths = Lengths::of((0..n as u32).map(|index| set.extent([index], max_len).0));
        let pairs = |clusters: &crate::data::clusters::TimeClusters| clusters.counts(log, split).items.len();
        let sampled = loss::find(&config.loss.kind)?.sampled;
        let known = sampled.then(|| sampler::Known::of(&config.sampler, &crate::train::step::knowledge(set))).transpose()?;
        Ok(Counts {
            sequences: set.len(),
            seen: set.seen_pairs(),
            rows,
            seen_of_batch,
            largest,
            lengths,
            trained: split.train_items.iter().filter(|&&n| n > 0).count(),
            cluster_pairs: set.clusters().map_or(0, pairs),
            known,
            ..Counts::of_use(set, config)
        })
    }

    /// Of a log that a trained model is used on: what a use depends on alone.
    pub fn of_use(set: &TrainingSet, config: &Config) -> Counts {
        let (log, split) = (set.data(), set.split());
        let from = sizes(set);
        let histories = (0..log.users() as u32).map(|user| split.training(log, user));
        let rules = (config.eval.baselines && !split.test.is_empty())
            .then(|| ItemToItem::rules(log.event_items(), histories, log.items()));
        Counts {
            items: log.items(),
            users: log.users(),
            events: log.events(),
            targets: split.valid.len() + split.test.len(),
            targets_of_part: split.valid.len().max(split.test.len()),
            rows_of_requests: rows_of_requests(set, config),
            numeric: from.numeric,
            categories: from.categories,
            attributes: from.attributes.as_ref().map_or(0, |a| a.count),
            attribute_pairs: log.attributes().map_or(0, |a| a.codes.len()),
            training_events: split.training_events() as usize,
            rules,
            ..Counts::default()
        }
    }

    /// Of a log of which only these numbers are known: `leave-one-out`, every item trained, every batch as long as it may be or,
    /// with `events`, as the mean history; a log with times where the model or the sampler wants them. C0202: numbers that hold no
    /// log.
    pub fn assumed(items: usize, users: usize, events: Option<usize>, config: &Config) -> Result<Counts> {
        let bad = |what: String| Error::new(Code::C0202, what).help("give `--items`, `--users` and `--events` of 1 or more");
        if items == 0 || users == 0 || events.is_some_and(|e| e < users) {
            return Err(bad(format!("{items} items, {users} users and {} events are no log", events.unwrap_or(0))));
        }
        let max_len = config.model.max_len as usize;
        // The mean of lengths cut to `max_len` is at most the mean length cut to it.
        let mean = events.map_or(max_len + 3, |events| events.div_ceil(users));
        let row_count = mean.saturating_sub(3).clamp(1, max_len);
        let batch = (config.train.batch_size as usize).min(users);
        let events = events.unwrap_or(users.saturating_mul(mean));
        let held_out = if mean >= 3 { 2 * users } else { 0 };
        let training_events = events.saturating_sub(held_out);
        let temporal = uses_context(config, !config.data.context.is_empty()) && config.data.temporal != "no";
        Ok(Counts {
            items,
            users,
            events,
            sequences: users,
            seen: training_events,
            targets: held_out,
            targets_of_part: held_out / 2,
            rows: batch * row_count,
            seen_of_batch: batch * mean.saturating_sub(2),
            rows_of_requests: eval::tile_rows(items).min(held_out / 2) * mean.min(max_len),
            largest: None,
            lengths: Lengths { sequences: users, rows: users * row_count, squares: (users * row_count * row_count) as u64 },
            numeric: if temporal { TEMPORAL } else { 0 },
            trained: items,
            training_events,
            cluster_pairs: training_events.min(items.saturating_mul(config.data.clusters as usize)),
            ..Counts::default()
        })
    }
}

/// Rows of the largest tile of requests of an evaluation.
fn rows_of_requests(set: &TrainingSet, config: &Config) -> usize {
    let (log, split) = (set.data(), set.split());
    let length = |t: &Target| ((t.history_end - log.range(t.user).start as u64) as usize).min(config.model.max_len as usize);
    let tile = eval::tile_rows(log.items());
    let tiles = split.valid.chunks(tile).chain(split.test.chunks(tile));
    tiles.map(|tile| tile.iter().map(length).sum()).max().unwrap_or(0)
}
