//! What a unit of each operation takes where training runs, measured at the model's own width: from floors to a prediction.
//!
//! ```text
//! predicted time of a part = sum over operations of (its units in the part) x (seconds of a unit)
//! ```
//!
//! The units are those of `ops/cost.rs`. A unit's price is that of the operation itself, the one training calls, on a problem of
//! the same width and of about as many rows: at most `NUMBERS` in an array, so that all of them take a fraction of a second.
//! A sampler is built as the settings say and draws for a log made for the purpose. Of several runs the fastest counts, so that
//! what else the machine does raises no price: a prediction is of a machine left alone, and a busy one is slower by as much as it
//! is busy. It rests on two assumptions, and is wrong where they are: that a price does not change with the number of rows, and
//! that arrays are found in the last cache level when they are wanted again. The tables of an update are not: they are wanted once a
//! step, and between two runs of it as many other bytes are walked through as the step moves elsewhere.
//!
//! On a GPU or the emulator a price is the machine's own time between two marks ([`Runtime::mark`](crate::device::Runtime::mark)), as the
//! stages of a step are timed there (`train/step.rs`), and not the wall clock around a wait: in a step the host has enqueued an operation
//! long before the machine comes to it, while around a wait every launch would be waited for. So that it is the same here, the machine is
//! given other work first, long enough for the host to get ahead. Its problems are as large as the step's own, as far as
//! `THERE` reaches, since a part of one leaves most of its processors idle. A sampler that decides on the host waits for the
//! machine itself, so that one is timed by the wall clock from an idle machine to the end of its work. How near such a prediction comes has
//! been measured on the plain path only.

use std::time::Instant;

use crate::config::{self, Config};
use crate::data::batch::Batch;
use crate::data::clusters::{ClusterCounts, ClusterEvents};
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::loss::{self, Loss};
use crate::model::Hyper;
use crate::model::cost::Lengths;
use crate::ops::column_sum::Sums;
use crate::ops::cost::{Cost, Operation};
use crate::ops::dropout::Dropout;
use crate::ops::embedding::{self, Into};
use crate::ops::negatives::Negatives;
use crate::ops::param::{Param, Role};
use crate::ops::sampled_loss::{self, Gradients};
use crate::ops::score::{self, Scoring};
use crate::ops::touched::Rows;
use crate::ops::{activation, attention, dropout, full_softmax, layer_norm, linear, rows};
use crate::optim::Optimizer;
use crate::rng::{Draws, Stream, below};
use crate::sampling::cost::Draw;
use crate::sampling::{Clusters, Knowledge, Moment, Sampler};
use crate::train::cost::StepCost;
use crate::train::plan::{Counts, Shape};

/// Numbers in an array of rows, 1 MiB, and in a table, 16 MiB: as far as a step's own sizes reach.
const NUMBERS: usize = 1 << 18;
const TABLE: usize = 1 << 22;
/// Negatives or candidates of all rows together.
const DRAWN: usize = 1 << 17;
/// The same three on a machine: 64 MiB in arrays of rows and in a table.
const THERE: [usize; 3] = [1 << 24; 3];
/// Numbers in either of the arrays that are walked through between two runs, 4 MiB each; before an update at most 64 MiB each, more than
/// a last cache level holds.
const OTHERS: usize = 1 << 20;
const MOST_OTHERS: usize = 1 << 24;
/// Numbers in either of the arrays that a machine is kept busy with, the fewest with which that takes so many seconds: some forty
/// launches of the host.
const AHEAD: [usize; 4] = [1 << 20, 1 << 22, 1 << 24, 1 << 26];
const BUSY: f64 = 2e-4;
/// Measurements of each after one that allocates; fewer once they have taken so many seconds, and fewer than three after so many.
const REPEATS: usize = 15;
const ENOUGH: f64 = 0.08;
const TOO_LONG: f64 = 0.5;

/// Seconds of a unit of every operation that a step has, and the parts of a step that could not be measured.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    /// In the order of [`Operation::ALL`].
    seconds: [f64; Operation::ALL.len()],
    /// Parts of a step that are left out of a prediction.
    pub missing: Vec<&'static str>,
}

/// What is measured: a configuration, cut to a size that takes little time.
struct Scene<'a> {
    device: &'a Device,
    config: &'a Config,
    hyper: &'a Hyper,
    /// R, and rows of a sequence: those in which a row sees as many keys on average as it does in training.
    rows: usize,
    length: usize,
    /// V
    items: usize,
    clusters: usize,
    /// Items with an event in a cluster.
    per_cluster: usize,
    /// Negatives or candidates of all rows together, at most.
    drawn: usize,
    /// Numbers a machine is kept busy with; 0 on the plain path.
    ahead: usize,
}

/// Arrays of a number each, two of a kind.
pub(super) type Pair = (Buffer, Buffer);

/// Adds one array to the other, which walks through both.
pub(super) fn walk(device: &Device, pair: &mut Pair) -> Result<()> {
    rows::add(device, &mut pair.0, &pair.1, 0.5)
}

/// Arrays of `n` numbers, written once, so that they are memory of their own and not the system's page of zeros.
pub(super) fn pair(device: &Device, n: usize) -> Result<Pair> {
    let mut pair = (device.zeros(n)?, device.zeros(n)?);
    rows::add(device, &mut pair.1, &pair.0, 1.0)?;
    Ok(pair)
}

/// Seconds of `run`: the host's, or those of a machine between two marks.
pub(super) fn seconds(device: &Device, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    match device {
        Device::Host(_) => {
            let started = Instant::now();
            run()?;
            Ok(started.elapsed().as_secs_f64())
        }
        Device::Machine(runtime) => {
            let from = runtime.mark()?;
            run()?;
            runtime.elapsed(&from, &runtime.mark()?)
        }
    }
}

/// Numbers to keep `device` busy with; 0 on the plain path.
pub(super) fn ahead(device: &Device) -> Result<usize> {
    if let Device::Host(_) = device {
        return Ok(0);
    }
    for n in AHEAD {
        let mut pair = pair(device, n)?;
        walk(device, &mut pair)?;
        if n == AHEAD[AHEAD.len() - 1] || seconds(device, &mut || walk(device, &mut pair))? >= BUSY {
            return Ok(n);
        }
    }
    Ok(0)
}

impl Prices {
    /// Of the operations in `cost` on `device`, a step of these `lengths`; errors are those of training.
    pub fn measure(config: &Config, counts: &Counts, lengths: Lengths, cost: &StepCost, device: &Device) -> Result<Prices> {
        let Shape { hyper, .. } = Shape::new(config, counts)?;
        let d = hyper.dim;
        let length = (lengths.squares as f64 / lengths.rows.max(1) as f64).round().max(1.0) as usize;
        let clusters = config.data.clusters as usize;
        let [numbers, table, drawn] = if let Device::Host(_) = device { [NUMBERS, TABLE, DRAWN] } else { THERE };
        let items = counts.items.min(table / d).max(1);
        let scene = Scene {
            device,
            config,
            hyper: &hyper,
            rows: lengths.rows.min(numbers / d).max(length),
            length,
            items,
            clusters,
            per_cluster: counts.cluster_pairs.div_ceil(clusters.max(1)).clamp(1, items),
            drawn,
            ahead: ahead(device)?,
        };
        let all: Cost = cost.parts.into_iter().sum();
        let [.., update] = cost.parts;
        let mut prices = Prices::default();
        for (i, operation) in Operation::ALL.into_iter().enumerate().filter(|&(i, _)| all.units[i] > 0) {
            prices.seconds[i] = match operation {
                Operation::Pass => scene.pass(),
                Operation::Layer => scene.layer(),
                Operation::Attention => scene.attention(),
                Operation::Norm => scene.norm(),
                Operation::Dropout => scene.dropout(),
                Operation::Activation => scene.activation(),
                Operation::Group => scene.group(counts.items),
                Operation::Update => scene.update(all.bytes - update.bytes, counts.items, cost.met),
                Operation::Pairs => cost.draw.as_ref().map_or(Ok(0.0), |draw| scene.pairs(draw)),
                Operation::Catalogue => scene.catalogue(),
                // Both at once, below.
                Operation::Propose | Operation::Select => continue,
            }?;
        }
        if let Some(draw) = &cost.draw {
            match scene.sampler(draw)? {
                Some(drawn) => [prices.seconds[Operation::Propose as usize], prices.seconds[Operation::Select as usize]] = drawn,
                None => prices.missing.push("a sampler that cannot be built without its log"),
            }
        }
        Ok(prices)
    }

    /// Of several measurements, at least one: the least of each price.
    pub fn least(all: &[Prices]) -> Prices {
        let seconds = std::array::from_fn(|i| least(all.iter().map(|prices| prices.seconds[i])));
        Prices { seconds, missing: all.first().map_or(vec![], |prices| prices.missing.clone()) }
    }

    /// Seconds that `cost` is predicted to take.
    pub fn predicted(&self, cost: Cost) -> f64 {
        cost.units.iter().zip(self.seconds).map(|(&units, seconds)| units as f64 * seconds).sum()
    }
}

/// Whether another measurement is worth it after so many since `began`.
fn goes_on(made: usize, began: Instant) -> bool {
    let most = if made < 3 { TOO_LONG } else { ENOUGH };
    made == 0 || made < REPEATS && began.elapsed().as_secs_f64() < most
}

/// The smallest of some seconds.
pub fn least(seconds: impl IntoIterator<Item = f64>) -> f64 {
    seconds.into_iter().fold(f64::INFINITY, f64::min)
}

/// Units of `operation` in a cost.
fn units(cost: Cost, operation: Operation) -> u64 {
    cost.units[operation as usize]
}

impl Scene<'_> {
    /// Seconds of a unit where `run` does `units` of them. Before each run other arrays are walked through, so that its own are found
    /// where a step finds them: beyond the caches of a core, within the one that all share.
    fn unit(&self, units: u64, run: impl FnMut() -> Result<()>) -> Result<f64> {
        self.unit_after(OTHERS, units, run)
    }
    /// The same where so many numbers are walked through in either of the other arrays.
    fn unit_after(&self, others: usize, units: u64, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        run()?;
        let (mut busy, mut others) = (pair(self.device, self.ahead)?, pair(self.device, others)?);
        let (mut times, began) = (vec![], Instant::now());
        while goes_on(times.len(), began) {
            if self.ahead > 0 {
                // What it was kept busy with has emptied its cache, which a run before the measured one fills as a step does.
                walk(self.device, &mut busy)?;
                run()?;
            }
            walk(self.device, &mut others)?;
            times.push(seconds(self.device, &mut run)?);
        }
        Ok(least(times) / units.max(1) as f64)
    }
    /// `n` numbers around zero.
    fn reals(&self, n: usize) -> Result<Buffer> {
        self.device.reals(&(0..n).map(|i| (i as f64 * 0.618).fract() - 0.5).collect::<Vec<f64>>())
    }
    /// `n` of V items.
    fn ids(&self, lane: u8, n: usize) -> Vec<u32> {
        let draws = Draws::new(self.config.train.seed, Stream::Synthetic, lane, 0);
        (0..n as u64).map(|i| below(draws.words64(i)[0], self.items as u64) as u32).collect()
    }
    /// First rows of the sequences of `rows` R.
    fn offsets(&self, rows: usize) -> Vec<u32> {
        (0..rows).step_by(self.length).chain([rows]).map(|row| row as u32).collect()
    }
    fn masks(&self) -> Option<Dropout> {
        (self.hyper.dropout > 0.0).then(|| Dropout::new(self.hyper.dropout, self.config.train.seed, 0, 0))
    }

    fn pass(&self) -> Result<f64> {
        let n = self.rows * self.hyper.dim;
        let (mut y, x) = (self.device.zeros(n)?, self.reals(n)?);
        self.unit(rows::add_cost(n).bytes, || rows::add(self.device, &mut y, &x, 0.5))
    }

    /// Forward and backward of the widest layer of attention, D to 3 D.
    fn layer(&self) -> Result<f64> {
        let (device, r, k, n) = (self.device, self.rows, self.hyper.dim, 3 * self.hyper.dim);
        let (x, w, b, dy) = (self.reals(r * k)?, self.reals(k * n)?, self.reals(n)?, self.reals(r * n)?);
        let (mut y, mut dx) = (Buffer::empty(device), Buffer::empty(device));
        let (mut dw, mut db) = (device.zeros(k * n)?, device.zeros(n)?);
        let cost = linear::cost(r, k, n, true);
        self.unit(units(cost.forward + cost.backward, Operation::Layer), || {
            linear::forward(device, &mut y, &x, &w, Some(&b), r, k, n)?;
            linear::backward(device, Some(&mut dx), &mut dw, Some(&mut db), &dy, &x, &w, r, k, n)
        })
    }

    fn attention(&self) -> Result<f64> {
        let (device, d, r) = (self.device, self.hyper.dim, self.rows);
        let shape = attention::Shape { dim: d, heads: self.hyper.heads, causal: self.hyper.causal };
        let (qkv, dout, offsets, drop) = (self.reals(3 * r * d)?, self.reals(r * d)?, self.offsets(r), self.masks());
        let (mut out, mut lse, mut dqkv) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
        let lengths = Lengths::of(offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize));
        let cost = attention::cost(r, shape.pairs(r, lengths.squares), shape);
        self.unit(units(cost.forward + cost.backward, Operation::Attention), || {
            attention::forward(device, &mut out, &mut lse, &qkv, &offsets, shape, drop.as_ref())?;
            attention::backward(device, &mut dqkv, &dout, &out, &lse, &qkv, &offsets, shape, drop.as_ref())
        })
    }

    fn norm(&self) -> Result<f64> {
        let (device, d, n) = (self.device, self.hyper.dim, self.rows * self.hyper.dim);
        let (x, dy, gain, bias) = (self.reals(n)?, self.reals(n)?, self.reals(d)?, self.reals(d)?);
        let (mut y, mut stats, mut dx) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
        let (mut dgain, mut dbias) = (device.zeros(d)?, device.zeros(d)?);
        let cost = layer_norm::cost(self.rows, d);
        self.unit(units(cost.forward + cost.backward, Operation::Norm), || {
            layer_norm::forward(device, &mut y, &mut stats, &x, &gain, &bias)?;
            layer_norm::backward(device, &mut Sums::default(), Into::Set, &mut dx, &mut dgain, &mut dbias, &dy, &stats, &x, &gain)
        })
    }

    /// A residual connection and its gradient.
    fn dropout(&self) -> Result<f64> {
        let (device, n, drop) = (self.device, self.rows * self.hyper.dim, self.masks());
        let (x, branch, mut y, mut dx) = (self.reals(n)?, self.reals(n)?, Buffer::empty(device), Buffer::empty(device));
        let cost = dropout::residual_cost(n);
        self.unit(units(cost.forward + cost.backward, Operation::Dropout), || {
            dropout::residual(device, &mut y, &x, &branch, drop.as_ref())?;
            dropout::forward(device, &mut dx, &y, drop.as_ref())
        })
    }

    fn activation(&self) -> Result<f64> {
        let (device, n, kind) = (self.device, self.rows * self.hyper.ffn, self.hyper.activation);
        let (x, mut dy, mut y) = (self.reals(n)?, self.reals(n)?, Buffer::empty(device));
        let cost = activation::cost(n);
        self.unit(units(cost.forward + cost.backward, Operation::Activation), || {
            activation::forward(device, &mut y, &x, kind)?;
            activation::backward(device, &mut dy, &x, kind)
        })
    }

    /// Rows of one number, so that sorting them is all there is to do.
    fn group(&self, items: usize) -> Result<f64> {
        let items = items.clamp(self.items, TABLE);
        let (ids, dout, mut dtable) = (self.ids(1, self.rows), self.reals(self.rows)?, self.device.zeros(items)?);
        let cost = embedding::cost(self.rows, items, 1, embedding::Into::Set).backward;
        self.unit(units(cost, Operation::Group), || embedding::backward(self.device, &mut dtable, &dout, &ids, 1, 1.0))
    }

    /// Once a step has moved so many bytes elsewhere: a walk moves 12 for a number of both arrays. Where a table of `items` V is updated
    /// by row, of so many rows that a step meets, other ones in every run: they lie scattered, and are as old as they are in training.
    fn update(&self, elsewhere: u64, items: usize, met: Option<usize>) -> Result<f64> {
        let others = ((elsewhere / 12) as usize).clamp(1, MOST_OTHERS);
        let (optim, shape) = (&self.config.optim, [self.items, self.hyper.dim]);
        let met = met.filter(|_| Optimizer::goes_by_row(optim, &[items, self.hyper.dim], true));
        let tables = match &*optim.tables {
            _ if met.is_none() => "dense",
            "adagrad" => "adagrad",
            _ => "lazy",
        };
        let config = config::Optim { tables: tables.into(), ..optim.clone() };
        let set_of = |lane: u8| {
            let mut rows = self.ids(lane, met.unwrap_or(0).min(self.items));
            rows.sort_unstable();
            rows.dedup();
            rows
        };
        let sets: Vec<Vec<u32>> = (5..9).map(set_of).collect();
        // The sets are equally long but for chance.
        let touched = met.map(|_| sets.iter().map(Vec::len).sum::<usize>() / sets.len());
        let n = self.items * self.hyper.dim;
        let (value, grad) = (self.reals(n)?, self.device.zeros(n)?);
        let mut params = [Param { name: "items".into(), shape: shape.to_vec(), role: Role::Table, value, grad }];
        let mut optimizer = Optimizer::new(self.device, &config, &params)?;
        let (cost, mut step) = (Optimizer::cost(&config, &shape, true, touched), 0);
        self.unit_after(others, units(cost, Operation::Update), || {
            step += 1;
            let rows = met.map(|_| Rows::Here(&sets[step as usize % sets.len()]));
            optimizer.step(self.device, &mut params, &[rows], step, 1e-3).map(|_| ())
        })
    }

    /// The loss against as many negatives, shared by as many rows.
    fn pairs(&self, draw: &Draw) -> Result<f64> {
        let (device, d, w) = (self.device, self.hyper.dim, draw.wrong);
        let r = (self.drawn / (draw.negatives + 1)).clamp(128.min(self.rows), self.rows);
        let group_offsets: Vec<u32> = match draw.groups {
            1 => vec![0, r as u32],
            _ if draw.shared => self.offsets(r),
            _ => (0..=r as u32).collect(),
        };
        let slots = (group_offsets.len() - 1) * draw.negatives;
        let of = loss::build(&self.config.loss, self.items, draw.negatives + w, self.hyper.score)?;
        let Loss::Sampled(of) = of else { return Ok(0.0) };
        let log_q = if of.needs_log_q() { vec![-3.0; slots] } else { vec![] };
        let negatives = Negatives { n: draw.negatives, group_offsets, ids: self.ids(2, slots), log_q, ..Negatives::default() };
        let (targets, wrong) = (self.ids(3, r), self.reals(r * w * d)?);
        let (query, context, table) = (self.reals(r * d)?, self.reals(r * d)?, self.reals(self.items * d)?);
        let context = self.hyper.context.then_some(&context);
        let scoring = Scoring { kind: self.hyper.score, dim: d, items: self.items, query: &query, context, table: &table };
        let mut to = [Buffer::empty(device), Buffer::empty(device), Buffer::empty(device), device.zeros(self.items * d)?];
        let of_step = sampled_loss::cost(r, 1, draw.negatives, w, self.items, d, self.hyper.context, 1);
        self.unit(units(of_step, Operation::Pairs), || {
            let [query, of_context, of_wrong, table] = &mut to;
            let (of_context, of_wrong) = (context.is_some().then_some(of_context), (w > 0).then_some(of_wrong));
            let grads = Gradients { query, context: of_context, wrong: of_wrong, table };
            let wrong = (w > 0).then_some(&wrong);
            sampled_loss::forward_backward(device, grads, &scoring, &targets, &negatives, wrong, &*of, 1e-3).map(|_| ())
        })
    }

    fn catalogue(&self) -> Result<f64> {
        let (device, d) = (self.device, self.hyper.dim);
        let r = if let Device::Host(_) = device { self.rows.min(256) } else { self.rows };
        let (query, context, table, targets) =
            (self.reals(r * d)?, self.reals(r * d)?, self.reals(self.items * d)?, self.ids(3, r));
        let context = self.hyper.context.then_some(&context);
        let scoring = Scoring { kind: self.hyper.score, dim: d, items: self.items, query: &query, context, table: &table };
        let mut to = [Buffer::empty(device), Buffer::empty(device), device.zeros(self.items * d)?];
        let products = score::products(self.hyper.score, self.hyper.context);
        let cost = full_softmax::cost(r, self.items, d, self.hyper.context, products);
        self.unit(units(cost, Operation::Catalogue), || {
            let [query, of_context, table] = &mut to;
            let grads = Gradients { query, context: context.is_some().then_some(of_context), wrong: None, table };
            full_softmax::forward_backward(device, grads, &scoring, &targets, 1e-3).map(|_| ())
        })
    }

    /// Seconds of an id proposed and of a score behind it; none where the sampler wants more of its log than is made up here.
    fn sampler(&self, draw: &Draw) -> Result<Option<[f64; 2]>> {
        let (d, l) = (self.hyper.dim, self.length);
        let most = self.rows.min((self.drawn / draw.candidates.max(1)).max(4 * l));
        let users = (most / l).max(1);
        let r = users * l;
        // A history of each user: its rows, the last target, and two events held out.
        let of_user = l + 3;
        let event_items = self.ids(4, users * of_user);
        let offsets: Vec<u64> = (0..=users).map(|user| (user * of_user) as u64).collect();
        let train_end: Vec<u64> = offsets[1..].iter().map(|end| end - 2).collect();
        let mut train_counts = vec![1u32; self.items];
        event_items.iter().for_each(|&item| train_counts[item as usize] += 1);
        // Clusters of neighbouring items that share some.
        let (mut counts, mut events) = (ClusterCounts { offsets: vec![0], items: vec![], counts: vec![] }, vec![]);
        let mut of_events = vec![0];
        for k in 0..self.clusters.max(1) {
            let first = k * (self.items - self.per_cluster) / self.clusters.max(1);
            counts.items.extend((first..first + self.per_cluster).map(|item| item as u32));
            counts.counts.extend((0..self.per_cluster).map(|i| 1 + i as u32 % 7));
            counts.offsets.push(counts.items.len() as u64);
            events.extend((0..event_items.len() as u32).filter(|&event| event as usize % self.clusters.max(1) == k));
            of_events.push(events.len() as u64);
        }
        let events = ClusterEvents { offsets: of_events, events };
        let knowledge = Knowledge {
            train_counts: &train_counts,
            event_items: &event_items,
            offsets: &offsets,
            train_end: &train_end,
            clusters: Some(Clusters { counts: &counts, events: &events }),
            ..Knowledge::default()
        };
        let Ok(sampler) = Sampler::new(&self.config.sampler, &knowledge, self.config.train.seed) else { return Ok(None) };
        let events = |first: usize| (0..users).flat_map(move |user| user * of_user + first..user * of_user + first + l);
        let seen = |user: usize| {
            let mut seen = event_items[user * of_user..user * of_user + l + 1].to_vec();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        let batch = Batch {
            users: (0..users as u32).collect(),
            offsets: (0..=users).map(|user| (user * l) as u32).collect(),
            items: events(0).map(|event| event_items[event]).collect(),
            targets: events(1).map(|event| event_items[event]).collect(),
            row_keys: events(1).map(|event| event as u64).collect(),
            target_clusters: (0..r).map(|row| (row % self.clusters.max(1)) as u32).collect(),
            ..Batch::default()
        }
        .with_seen(&(0..users).map(seen).collect::<Vec<_>>());
        let (query, context, table) = (self.reals(r * d)?, self.reals(r * d)?, self.reals(self.items * d)?);
        let context = self.hyper.context.then_some(&context);
        let scoring = Scoring { kind: self.hyper.score, dim: d, items: self.items, query: &query, context, table: &table };
        let of = crate::sampling::memory::Extent { items: self.items, rows: r, sequences: users, dim: d, ..Default::default() };
        let cost = crate::sampling::cost::draw(&self.config.sampler, &of, 1)?;
        let moment = Moment { epoch: 1.0, epoch_index: 1, batch_index: 0 };
        // Seconds of both halves of the draw of a batch, waited for at their ends unless the machine does all of it.
        let draw = |number: u64, there: bool| -> Result<([f64; 2], bool)> {
            let moment = Moment { batch_index: number, ..moment };
            let mark =
                || if let Device::Machine(runtime) = self.device { Ok(Some((runtime, runtime.mark()?))) } else { Ok(None) };
            let ends = || match self.device {
                Device::Machine(runtime) if !there => runtime.sync().and_then(|()| mark()),
                _ => mark(),
            };
            let (from, began) = (ends()?, Instant::now());
            let (mut told, mut at) = (Ok(None), 0.0);
            let mut tell = || (told, at) = (ends(), began.elapsed().as_secs_f64());
            let negatives = sampler.draw_telling(self.device, &batch, Some(&scoring), moment, &mut tell)?;
            let (told, to) = (told?, ends()?);
            let host = [at, began.elapsed().as_secs_f64() - at];
            let seconds = match (from, told, to) {
                (Some((runtime, from)), Some((_, told)), Some((_, to))) if there => {
                    // Whichever took longer proposed, as `train/step.rs` has it.
                    [runtime.elapsed(&from, &told)?.max(host[0]), runtime.elapsed(&told, &to)?]
                }
                _ => host,
            };
            Ok((seconds, negatives.resident.is_some()))
        };
        let (mut proposed, mut behind) = (f64::INFINITY, f64::INFINITY);
        let (mut busy, mut others) = (pair(self.device, self.ahead)?, pair(self.device, OTHERS)?);
        let (_, there) = draw(0, false)?;
        let (mut number, began) = (0, Instant::now());
        while goes_on(number, began) {
            if there {
                walk(self.device, &mut busy)?;
            }
            walk(self.device, &mut others)?;
            number += 1;
            let ([first, rest], _) = draw(number as u64, there)?;
            (proposed, behind) = (first.min(proposed), rest.min(behind));
        }
        let each = |seconds: f64, cost: Cost, operation| match units(cost, operation) {
            0 => 0.0,
            units => seconds / units as f64,
        };
        Ok(Some([each(proposed, cost.propose, Operation::Propose), each(behind, cost.select, Operation::Select)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_adds_units_at_their_prices() {
        let prices = |layer: f64, pass: f64| {
            let mut prices = Prices::default();
            prices.seconds[Operation::Layer as usize] = layer;
            prices.seconds[Operation::Pass as usize] = pass;
            prices
        };
        let cost = Cost::new(10, 3).of(Operation::Layer, 10) + Cost::moved(5);
        assert_eq!(prices(2.0, 0.5).predicted(cost), 2.0 * 10.0 + 0.5 * 20.0);
        assert_eq!(prices(2.0, 0.5).predicted(Cost::default()), 0.0);
        let of_three = Prices::least(&[prices(9.0, 1.0), prices(2.0, 0.5), prices(1.0, 7.0)]);
        assert_eq!((of_three.predicted(cost), of_three.missing.len()), (10.0 + 0.5 * 20.0, 0));
    }

    /// A configuration of a small model, and the operations it has on `device`.
    fn priced(device: &Device, settings: impl Fn(&mut Config)) -> (Prices, Cost) {
        let mut config = Config::default();
        config.model = config::Model { dim: 8, heads: 2, layers: 1, max_len: 10, ..config.model };
        config.train.batch_size = 4;
        settings(&mut config);
        let counts = Counts::assumed(300, 50, Some(600), &config).unwrap();
        let lengths = counts.lengths.mean(13);
        let cost = StepCost::new(&config, &counts, lengths).unwrap();
        let prices = Prices::measure(&config, &counts, lengths, &cost, device).unwrap();
        (prices, cost.parts.into_iter().sum())
    }

    fn every_operation_has_a_price_and_no_other(device: &Device) {
        let sampler = |config: &mut Config, preset: &str, loss: &str| {
            config.sampler.preset = preset.into();
            config.loss.kind = loss.into();
        };
        let all: [&dyn Fn(&mut Config); 10] = [
            &|_| {},
            &|config| {
                sampler(config, "uniform", "bce");
                config.optim.tables = "lazy".into();
            },
            &|config| config.loss.kind = "whole_data".into(),
            &|config| sampler(config, "uniform", "bce"),
            &|config| {
                sampler(config, "uniform", "sampled_softmax");
                config.sampler.scope = Some("batch".into());
                config.model.dropout = 0.0;
                config.model.activation = "gelu".into();
            },
            &|config| {
                sampler(config, "uniform", "bce");
                config.sampler.scope = Some("sequence".into());
                config.model.score = "cosine".into();
            },
            &|config| sampler(config, "popularity", "sampled_softmax"),
            &|config| {
                sampler(config, "cans", "sampled_softmax");
                config.model.kind = "cans".into();
                config.sampler.negatives = Some(5.into());
            },
            &|config| sampler(config, "genni-full", "bce"),
            &|config| sampler(config, "srns", "bce"),
        ];
        for (i, settings) in all.into_iter().enumerate() {
            let (prices, cost) = priced(device, settings);
            for operation in Operation::ALL {
                let (units, seconds) = (units(cost, operation), prices.seconds[operation as usize]);
                assert_eq!(units > 0, seconds > 0.0, "configuration {i}, {operation:?}: {units} units of {seconds} s");
            }
            assert!(prices.missing.is_empty() && prices.predicted(cost).is_finite(), "configuration {i}: {:?}", prices.missing);
        }
    }

    #[test]
    fn every_operation_of_a_step_has_a_price_and_no_other() {
        every_operation_has_a_price_and_no_other(&Device::HOST);
    }

    /// Its times mean nothing; that every operation is found, run and timed there does.
    #[cfg(feature = "emulator")]
    #[test]
    fn the_same_on_a_machine() {
        use crate::device::emulator::{self, Options};
        use crate::error::Code;
        match emulator::open(&Options::new(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels"))) {
            Err(error) if error.code() == Code::G0507 => println!("SKIPPED: no C++ compiler"),
            machine => every_operation_has_a_price_and_no_other(&machine.unwrap()),
        }
    }

    #[test]
    fn a_sampler_that_needs_more_of_its_log_is_left_out_and_named() {
        let (prices, cost) = priced(&Device::HOST, |config| {
            config.sampler.preset = "same-attribute".into();
            config.loss.kind = "bce".into();
        });
        assert_eq!(prices.missing.len(), 1);
        assert!(prices.predicted(cost) > 0.0 && prices.seconds[Operation::Propose as usize] == 0.0);
    }
}
