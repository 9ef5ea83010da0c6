//! What a negative sampler costs: the same training step with it, with its negatives already drawn, and with the uniform
//! sampler in its place.
//!
//! Two trainers of the same model on the same batches take turns, so that a busy machine slows all of them alike. In every
//! round each trains one step that draws and an earlier one again on the negatives drawn then: earlier, because the rows of a
//! large table that a step has just brought to the caches would make the same step look cheap.
//!
//! ```text
//! cost  = (step that draws) - (step on kept negatives)                     of one sampler: ablation replay
//! extra = cost of the sampler - cost of as many uniform negatives          what choosing the sampler adds
//! ```
//!
//! Every figure is a median over rounds with an interval that holds the true median with at least 95 % probability whatever
//! the distribution (order statistics, binomial with p = 1/2). The log is made for the purpose: every item occurs, users are
//! equally long, so a catalogue of any size can be asked about.
//!
//! Beside the time of a stage stands what it does and the least time that can take (`train/cost.rs`): a stage at 100 % of its floor
//! works as fast as this machine multiplies or moves memory; one above it keeps its arrays in a cache. And what it was predicted to
//! take (`train/prices.rs`), from prices measured three times among the rounds, so that they meet the same machine: the fastest of
//! each, beside the fastest round.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
use crate::data::order::Order;
use crate::data::raw::RawLog;
use crate::data::training::TrainingSet;
use crate::device::Device;
use crate::error::{Code, Error, Result};
use crate::ids::LIMIT;
use crate::model::cost::Lengths;
use crate::ops::cost::Cost;
use crate::rng::{Draws, Stream, below};
use crate::train::ceilings::Ceilings;
use crate::train::cost::StepCost;
use crate::train::fit::{Stages, Training};
use crate::train::plan::Counts;
use crate::train::prices::{Prices, least};
use crate::train::step::Trainer;

/// Lane of the generator's words that choose an item: apart from those of `data/synthetic.rs`.
const ITEM: u8 = 64;
/// Rounds between a step and its repetition: four steps each, whose rows are more than a cache holds.
const LATER: usize = 4;
/// Times the prices of operations are measured, spread over the rounds.
const PRICED: u32 = 3;
/// Times a prediction is measured anew while it is held to real steps, and steps of each turn.
const TURNS: usize = 4;
const STEPS: usize = 9;
/// Seconds after which there are no more of either, though one of each.
const LONG: f64 = 10.0;
/// Seconds between a user's events, and 2021-01-01 UTC in microseconds.
const GAP: i64 = 61_200;
const BEGIN: i64 = 1_609_459_200_000_000;

/// A median over rounds and the interval around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Median {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Median {
    /// Of at least one value. With fewer than six values the interval spans all of them and holds less than 95 %.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Median {
        let mut x: Vec<f64> = values.into_iter().collect();
        x.sort_by(f64::total_cmp);
        let n = x.len();
        let Some(last) = n.checked_sub(1) else { return Median::default() };
        // The largest k with 2 P(Binomial(n, 1/2) < k) <= 0.05: the interval runs from the k-th smallest to the k-th largest.
        let (mut k, mut below, mut term) = (0, 0.0, 0.5f64.powi(n as i32));
        while k < n && 2.0 * (below + term) <= 0.05 {
            below += term;
            term *= (n - k) as f64 / (k + 1) as f64;
            k += 1;
        }
        let k = k.saturating_sub(1);
        Median { low: x[k], median: (x[last / 2] + x[n / 2]) / 2.0, high: x[last - k] }
    }
}

/// One sampler at one size, beside the uniform sampler with as many negatives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    pub sampler: String,
    /// Per group, and who shares them.
    pub negatives: usize,
    pub scope: String,
    pub items: u32,
    /// Rows and negatives drawn in a step.
    pub rows: u64,
    pub drawn: u64,
    /// Seconds of a step that draws, and medians of its stages.
    pub step: Median,
    pub stages: BTreeMap<String, f64>,
    /// Of the parts of [`StepCost::PARTS`] that do anything.
    pub work: BTreeMap<String, Work>,
    /// Parts of the sampler that do more than is counted, and what its prediction leaves out.
    pub uncounted: Vec<String>,
    pub unpredicted: Vec<String>,
    /// Of the step.
    pub sampling_share: f64,
    /// Of the sampling stage, per negative drawn.
    pub ns_per_negative: Median,
    /// Seconds by ablation replay.
    pub cost: Median,
    /// Seconds over the uniform sampler; absent for the uniform sampler itself.
    pub extra: Option<Median>,
}

/// What a part of a step does, and how fast.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Work {
    /// Median, and the fastest of the rounds.
    pub seconds: f64,
    pub fastest: f64,
    #[serde(flatten)]
    pub cost: Cost,
    pub flops_per_second: f64,
    pub bytes_per_second: f64,
    /// Seconds it takes at the least, and their share of those it took.
    pub floor: f64,
    pub floor_share: f64,
    /// Seconds it is predicted to take on a machine left alone (`train/prices.rs`), and their ratio to the fastest.
    pub predicted: f64,
    pub predicted_share: f64,
}

impl Work {
    /// Of `cost` done in so many seconds in the median and at the fastest, above zero.
    fn new(cost: Cost, seconds: f64, fastest: f64, ceilings: &Ceilings, prices: &Prices) -> Work {
        let (rate, floor) = (|amount: u64| amount as f64 / seconds, ceilings.floor(cost));
        let (flops_per_second, bytes_per_second) = (rate(cost.flops), rate(cost.bytes));
        let predicted = prices.predicted(cost);
        let predicted_share = predicted / fastest;
        let floor_share = floor / seconds;
        Work { seconds, fastest, cost, flops_per_second, bytes_per_second, floor, floor_share, predicted, predicted_share }
    }
}

/// A stretch of time for a trace: a stage of a step of a line.
pub struct Span {
    pub line: usize,
    pub name: &'static str,
    /// Seconds since the line's first measured step.
    pub begin: f64,
    pub seconds: f64,
}

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Rounds {
    pub warmup: u32,
    pub measured: u32,
}

/// A log of `items` items, all of which occur, for `batch` or more users of `length` events each.
pub fn log(items: u32, batch: u32, length: u32, seed: u64) -> Result<RawLog> {
    let length = u64::from(length.max(4));
    // A twentieth more events than items leaves room for popular ones.
    let users = (u64::from(items) * 21 / 20).div_ceil(length).max(4 * u64::from(batch));
    let events = users * length;
    if items < 2 || events >= LIMIT as u64 {
        return Err(Error::new(Code::C0202, format!("a profile of {items} items")).help("choose between 2 and 4e9 items"));
    }
    let order = Order::new(seed, 0, events);
    let mut log = RawLog { layout: serde_json::json!({ "format": "profile", "items": items }), ..RawLog::default() };
    (0..items).for_each(|item| {
        log.item_ids.intern(format!("item{item}").as_bytes());
    });
    let draws = Draws::new(seed, Stream::Synthetic, ITEM, 0);
    let mut times = Vec::with_capacity(events as usize);
    for user in 0..users {
        let code = log.user_ids.intern(format!("user{user}").as_bytes());
        for t in 0..length {
            let event = user * length + t;
            let place = order.at(event);
            // The rest falls on low numbers more often: density 1 / (2 sqrt(x)).
            let popular = || below(draws.words64(event)[0], u64::from(items)).max(1);
            let item = if place < u64::from(items) { place } else { popular() * popular() / u64::from(items) };
            log.users.push(code);
            log.items.push(item as u32);
            times.push(BEGIN + (t as i64 * GAP + user as i64 * 977) * 1_000_000);
        }
    }
    log.times = Some(times);
    Ok(log)
}

/// The configuration of a line: `base` with the sampler and, for wrong contexts, a model that sees context and scores by cosines, as they
/// need it.
pub fn with_sampler(base: &Config, preset: &str, negatives: Option<u32>, context: bool) -> Config {
    let mut config = base.clone();
    config.sampler =
        config::Sampler { preset: preset.into(), negatives: negatives.map(Into::into), ..config::Sampler::default() };
    if context {
        config.model.context = "yes".into();
        if config.model.score == "auto" {
            config.model.score = "cosine".into();
        }
    }
    config
}

/// Measures `sampled` against `uniform`, two trainers that differ in the sampler alone.
pub fn measure(
    name: &str,
    sampled: &mut Trainer,
    uniform: &mut Trainer,
    items: u32,
    rounds: Rounds,
    ceilings: &Ceilings,
    device: &Device,
    line: usize,
    spans: &mut Vec<Span>,
) -> Result<Line> {
    let Some(sampler) = sampled.sampler() else {
        return Err(Error::new(Code::C0205, "the loss sees the whole catalogue, so there is no sampler to profile")
            .help("use `--set loss=bce`, or another sampled loss"));
    };
    let (negatives, scope) = (sampler.negatives(0.0), sampler.resolved().scope.unwrap_or_default());
    let (mut steps, mut costs, mut extras, mut stages, mut per_negative) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut rows, mut drawn, mut clock) = (0, 0, 0.0);
    let (config, set) = (sampled.config().clone(), sampled.data().clone());
    // Users are equally long.
    let rows_of_each = set.extent([0], config.model.max_len as usize).0;
    let lengths = Lengths::of(std::iter::repeat_n(rows_of_each, (config.train.batch_size as usize).min(set.len())));
    let counts = Counts::of(&set, &config)?;
    let cost = StepCost::new(&config, &counts, lengths)?;
    let mut prices = vec![];
    let mut kept = VecDeque::new();
    let warmup = rounds.warmup.max(LATER as u32);
    for round in 0..u64::from(warmup + rounds.measured) {
        let every = rounds.measured.div_ceil(PRICED).max(1);
        if round >= u64::from(warmup) && (round - u64::from(warmup)).is_multiple_of(u64::from(every)) {
            prices.push(Prices::measure(&config, &counts, lengths, &cost, device)?);
        }
        let step = round % sampled.steps_per_epoch();
        let (fresh, drawn_now) = sampled.step_on(step, None)?;
        let (plain, drawn_plain) = uniform.step_on(step, None)?;
        let slots = drawn_now.as_ref().map_or(0, |n| n.groups() * n.n + n.wrong_context.len());
        kept.push_back((step, drawn_now, drawn_plain));
        if kept.len() <= LATER {
            continue;
        }
        let Some((earlier, given, given_plain)) = kept.pop_front() else { continue };
        let (cached, _) = sampled.step_on(earlier, given)?;
        let (plain_cached, _) = uniform.step_on(earlier, given_plain)?;
        if round < u64::from(warmup) {
            continue;
        }
        let cost = fresh.seconds - cached.seconds;
        steps.push(fresh.seconds);
        costs.push(cost);
        extras.push(cost - (plain.seconds - plain_cached.seconds));
        per_negative.push(fresh.stages.sample * 1e9 / slots.max(1) as f64);
        stages.push(fresh.stages);
        (rows, drawn) = (fresh.rows, slots as u64);
        for (name, seconds) in Stages::NAMES.iter().zip(fresh.stages.seconds()) {
            spans.push(Span { line, name, begin: clock, seconds });
            clock += seconds;
        }
    }
    let stage = |i: usize| Median::of(stages.iter().map(|s: &Stages| s.seconds()[i])).median;
    let step = Median::of(steps);
    let prices = Prices::least(&prices);
    let seconds = |i: usize| Median::of(stages.iter().map(|s: &Stages| s.parts()[i])).median;
    let fastest = |i: usize| least(stages.iter().map(|s: &Stages| s.parts()[i]));
    let counted = StepCost::PARTS.iter().zip(cost.parts).enumerate().filter(|(_, (_, cost))| *cost != Cost::default());
    let work =
        counted.map(|(i, (part, cost))| (part.to_string(), Work::new(cost, seconds(i), fastest(i), ceilings, &prices))).collect();
    let sampling = Median::of(stages.iter().map(|s| s.sample)).median;
    Ok(Line {
        sampler: name.into(),
        negatives,
        scope,
        items,
        rows,
        drawn,
        step,
        work,
        uncounted: cost.uncounted.iter().map(|name| name.to_string()).collect(),
        unpredicted: prices.missing.iter().map(|name| name.to_string()).collect(),
        stages: Stages::NAMES.iter().enumerate().map(|(i, name)| (name.to_string(), stage(i))).collect(),
        sampling_share: sampling / step.median,
        ns_per_negative: Median::of(per_negative),
        cost: Median::of(costs),
        extra: (name != "uniform").then(|| Median::of(extras)),
    })
}

/// What the parts of a step took, beside what they were predicted to take in the same minute.
pub struct Held {
    pub prices: Prices,
    /// Seconds of [`StepCost::PARTS`] in a step of the mean number of rows, the fastest and the median.
    pub parts: [(f64, f64); 6],
}

/// Trains some steps of `config` on `device`, in turns with measurements of the prices of their operations.
pub fn hold(
    config: &Config,
    set: &Arc<TrainingSet>,
    counts: &Counts,
    lengths: Lengths,
    cost: &StepCost,
    device: &Device,
) -> Result<Held> {
    let mut trainer = Trainer::new(config, set.clone(), device)?;
    write_all(&mut trainer, device)?;
    let (mut prices, mut seconds) = (vec![], [const { vec![] }; 6]);
    let rows = if config.train.targets == "last" { lengths.sequences } else { lengths.rows } as f64;
    let steps = trainer.steps_per_epoch();
    let (mut step, began) = (0, Instant::now());
    let late = || began.elapsed().as_secs_f64() > LONG;
    for turn in 0..TURNS {
        if turn > 0 && late() {
            break;
        }
        prices.push(Prices::measure(config, counts, lengths, cost, device)?);
        for turn in 0..STEPS {
            if turn > 1 && late() {
                break;
            }
            let (report, _) = trainer.step_on(step % steps, None)?;
            step += 1;
            // The first after a measurement finds its arrays out of the cache.
            if turn == 0 {
                continue;
            }
            let to_mean = rows / report.rows.max(1) as f64;
            for (part, (all, took)) in seconds.iter_mut().zip(report.stages.parts()).enumerate() {
                // An update does not depend on the rows.
                all.push(took * if part == 5 { 1.0 } else { to_mean });
            }
        }
    }
    let both = |all: Vec<f64>| (least(all.iter().copied()), Median::of(all).median);
    Ok(Held { prices: Prices::least(&prices), parts: seconds.map(both) })
}

/// Trainers of `config` and of the same with as many uniform negatives.
pub fn pair(config: &Config, set: &Arc<TrainingSet>, device: &Device) -> Result<(Trainer, Trainer)> {
    let mut sampled = Trainer::new(config, set.clone(), device)?;
    let negatives = sampled.sampler().map(|s| s.negatives(0.0) as u32);
    let plain = with_sampler(config, "uniform", negatives, false);
    let mut uniform = Trainer::new(&plain, set.clone(), device)?;
    write_all(&mut sampled, device)?;
    write_all(&mut uniform, device)?;
    Ok((sampled, uniform))
}

/// Writes all that a trainer keeps. Zeroed memory is given its pages at the first write, and the first steps on a large table would
/// be measured by that.
pub(super) fn write_all(trainer: &mut Trainer, device: &Device) -> Result<()> {
    let state = trainer.tensors()?;
    trainer.restore(0, &state)?;
    trainer.model.params_mut().iter_mut().try_for_each(|param| param.grad.clear(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sign-test intervals as tables print them: of 6 values the extremes, of 15 the 4th, of 30 the 10th.
    #[test]
    fn the_interval_of_a_median() {
        let of = |n: usize| Median::of((1..=n).rev().map(|x| x as f64));
        assert_eq!((of(1).low, of(1).median, of(1).high), (1.0, 1.0, 1.0));
        assert_eq!((of(6).low, of(6).median, of(6).high), (1.0, 3.5, 6.0));
        assert_eq!((of(15).low, of(15).median, of(15).high), (4.0, 8.0, 12.0));
        assert_eq!((of(30).low, of(30).median, of(30).high), (10.0, 15.5, 21.0));
        assert_eq!(Median::of([]), Median::default());
    }

    #[test]
    fn every_item_occurs_and_users_are_equally_long() {
        let log = log(1000, 8, 20, 3).unwrap();
        let mut seen = vec![0u32; 1000];
        log.items.iter().for_each(|&i| seen[i as usize] += 1);
        assert!(seen.iter().all(|&n| n > 0));
        assert_eq!(log.items.len(), log.user_ids.len() * 20);
        assert_eq!(log.user_ids.len(), 53);
        assert!(super::log(1, 8, 20, 3).is_err());
    }

    /// A replayed step computes what the step that drew computed.
    #[test]
    fn a_step_on_cached_negatives_is_the_same_step() {
        let mut config = Config::default();
        config.model = config::Model { dim: 8, layers: 1, max_len: 10, ..config.model };
        config.train.batch_size = 4;
        config.loss.kind = "bce".into();
        config.sampler.preset = "dns".into();
        let raw = log(60, 4, 12, 1).unwrap();
        let data = Arc::new(crate::data::prepare::in_memory(raw, &config.data, Default::default()).unwrap());
        let split = Arc::new(crate::data::split::Split::new(&data, &config.data, 1).unwrap());
        let set = crate::data::training::TrainingSet::new(data, split, &config, None, None).unwrap();
        let set = Arc::new(set);
        let (mut a, mut uniform) = pair(&config, &set, &Device::HOST).unwrap();
        let mut b = Trainer::new(&config, set.clone(), &Device::HOST).unwrap();
        let (first, given) = a.step_on(0, None).unwrap();
        let (second, _) = b.step_on(0, given).unwrap();
        assert_eq!(first.loss.to_bits(), second.loss.to_bits());
        assert_eq!(a.tensors().unwrap(), b.tensors().unwrap());
        let rounds = Rounds { warmup: 1, measured: 6 };
        let mut spans = vec![];
        let one = Median { low: 1.0, median: 1.0, high: 1.0 };
        let ceilings = Ceilings { flops: one, bytes: one };
        let line = measure("dns", &mut a, &mut uniform, 60, rounds, &ceilings, &Device::HOST, 0, &mut spans).unwrap();
        assert_eq!((line.rows, line.drawn, line.negatives), (36, 36, 1));
        assert_eq!(spans.len(), 6 * Stages::NAMES.len());
        // At one byte a second a part takes as many seconds as it moves bytes.
        assert_eq!(line.work.len(), StepCost::PARTS.len());
        assert!(line.uncounted.is_empty() && line.work.values().all(|w| w.floor == w.cost.flops.max(w.cost.bytes) as f64));
        assert!(line.extra.is_some() && line.step.low <= line.step.median && line.step.median <= line.step.high);
    }
}
