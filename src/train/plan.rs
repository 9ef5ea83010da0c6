//! How many bytes a run takes, before it takes them: every part by name, from the settings and the sizes of the log alone.
//!
//! ```text
//! moment       what is held in it
//! drawing      everything that lasts, the batch, the draw of its negatives
//! loss         everything that lasts, the batch, its negatives, the scratch of the loss
//! backward     everything that lasts, the batch, its negatives, rows grouped by item
//! evaluation   everything that lasts, scores of a tile of requests
//! baselines    everything that lasts, what the model's evaluation leaves, popularity and the item-to-item model
//! checkpoint   everything that lasts, a copy of every value
//! ```
//!
//! The largest moment is what the run needs. The owners of the memory say what theirs takes (`model::memory`,
//! `sampling::memory`, `Optimizer::bytes`, `full_softmax::bytes`, ...); `hardneg plan --measure` holds the sum to what an
//! allocator counts. On a GPU the lines marked so lie in its memory, what the loss and the choice of negatives take for a moment
//! among them; the little that other kernels take for a moment is not counted, nor what is taken while tables are built and given back
//! before the first step. The log itself is mapped from its file and can be dropped by the system at any time, so it is a line of its
//! own and no part of the sum. What only the log says of a sampler's tables and of the baselines' rules is counted in it beforehand
//! ([`Counts::of`]); a plan from sizes alone names them.

use serde::Serialize;

use crate::config::Config;
use crate::data::batch::Batch;
use crate::data::training::TrainingSet;
use crate::device::{TABLE, kept_per_thread};
use crate::error::Result;
use crate::eval::{self, ItemToItem, Outcome};
use crate::loss;
use crate::model::memory::{self, Extent};
use crate::model::{Hyper, Queries, Sizes};
use crate::ops::attributes::AttributeLists;
use crate::ops::score::ScoreKind;
use crate::ops::{
    attention, batch as gathered, column_sum, contexts, embedding, full_softmax, rank, sampled_loss, score_topk, softmax_draw,
    touched,
};
use crate::optim::Optimizer;
use crate::sampling::memory as sampler;
use crate::sampling::{Need, Plan as Stages};

mod counts;

pub use counts::Counts;

/// What arrays are rounded up to where steps are recorded, as a part, and the most that is of them: an eighth, and an eighth of that.
const ROUND: &str = "round sizes for recorded steps";
const ROUNDED: (u64, u64) = (17, 64);
/// Parts that lie in a piece for every table.
const TABLES: &str = "tables of items and categories";
const GRADIENTS: &str = "gradients";
const STATE: &str = "state of the optimizer";

/// When a part is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    Drawing,
    Loss,
    Backward,
    Evaluation,
    Baselines,
    Checkpoint,
}

impl Moment {
    /// In the order in which they come.
    pub const ALL: [Moment; 6] =
        [Moment::Drawing, Moment::Loss, Moment::Backward, Moment::Evaluation, Moment::Baselines, Moment::Checkpoint];
    /// Those of a training step.
    pub const STEP: [Moment; 3] = [Moment::Drawing, Moment::Loss, Moment::Backward];
    /// As tables print it.
    pub fn name(self) -> &'static str {
        match self {
            Moment::Drawing => "drawing",
            Moment::Loss => "loss",
            Moment::Backward => "backward",
            Moment::Evaluation => "evaluation",
            Moment::Baselines => "baselines",
            Moment::Checkpoint => "checkpoint",
        }
    }
}

/// One part of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    pub part: String,
    pub bytes: u64,
    /// The moments that hold it.
    pub during: Vec<Moment>,
    /// Whether it lies in a GPU's memory where one is used.
    pub on_gpu: bool,
}

/// What is trained, as a price depends on it.
pub struct Shape {
    pub hyper: Hyper,
    pub sizes: Sizes,
    pub asked: Queries,
    /// Whether the loss sees sampled negatives.
    pub sampled: bool,
}

impl Shape {
    /// Errors of the settings are those of training.
    pub fn new(config: &Config, counts: &Counts) -> Result<Shape> {
        let hyper = Hyper::resolve(&config.model, counts.numeric + counts.categories.len() > 0)?;
        let sizes = Sizes {
            items: counts.items,
            numeric: counts.numeric,
            categories: counts.categories.clone(),
            attributes: (counts.attributes > 0).then(|| AttributeLists::new(&[0], &[], counts.attributes)),
        };
        let asked = if config.train.targets == "last" { Queries::Last } else { Queries::All };
        Ok(Shape { hyper, sizes, asked, sampled: loss::find(&config.loss.kind)?.sampled })
    }
}

/// Whether negatives are drawn from what was popular at the time.
fn by_time(config: &Config, sampled: bool) -> Result<bool> {
    let needs = |stages: Stages| stages.declared().iter().any(|kind| kind.needs.contains(&Need::Clusters));
    Ok(sampled && needs(Stages::new(&config.sampler)?))
}

/// The arrays of a step that an evaluation finds: rows and queries of the largest batch, and bytes of its activations.
#[derive(Clone, Copy, Default)]
struct Step {
    rows: usize,
    queries: usize,
    kept: u64,
}

/// Bytes of everything, part by part.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryPlan {
    pub lines: Vec<Line>,
    /// The log, mapped from its file: not part of any sum.
    pub mapped: u64,
    /// Parts that are not counted.
    pub uncounted: Vec<String>,
}

impl MemoryPlan {
    /// Plans `config` for a log of `counts` with so many threads, on the plain path or, with `gpu`, where a GPU computes. Errors of the
    /// settings are those of training.
    pub fn new(config: &Config, counts: &Counts, threads: usize, gpu: bool) -> Result<MemoryPlan> {
        let c = counts;
        let Shape { hyper, sizes: model, asked, sampled } = Shape::new(config, counts)?;
        let sequences = (config.train.batch_size as usize).min(c.sequences).max(1);
        let (rows, d) = (c.rows, hyper.dim);
        let queries = if asked == Queries::Last { sequences } else { rows };
        if gpu {
            attention::width_there(hyper.dim, hyper.heads)?;
        }
        let mut plan = MemoryPlan { lines: vec![], mapped: 0, uncounted: vec![] };

        let params = memory::parameters(&hyper, &model);
        plan.model(config, c, &hyper, &model, true, gpu);
        let kept = memory::forward(&hyper, rows, queries, asked);
        plan.push("activations", kept, &Moment::ALL, true);
        plan.push("contexts of a batch", memory::contexts(&hyper, &model, rows, queries), &Moment::STEP, true);
        let of = sampler::Extent {
            items: c.items,
            trained: c.trained,
            training_events: c.training_events,
            cluster_pairs: c.cluster_pairs,
            clusters: config.data.clusters as usize,
            users: c.sequences.min(c.users),
            all_users: c.users,
            events: c.events,
            known: c.known.as_ref(),
            rows: queries,
            sequences,
            dim: d,
            threads,
        };
        let drawn = if sampled { Some(sampler::needs(&config.sampler, &of)?) } else { None };
        let wrong = drawn.as_ref().map_or(0, |n| n.wrong);
        plan.push("gradients of activations", memory::backward(&hyper, rows, queries, wrong, asked), &Moment::ALL, true);

        let by_row = Optimizer::goes_by_row(&config.optim, &params[0].shape, true);
        let listed = !params[0].is_empty() && drawn.is_some() && c.attributes == 0 && by_row;
        // Which tenth of the catalogue each item is in, and the trained items, a list that grew by doubling.
        let bookkeeping = c.items + 4 * c.trained.next_power_of_two() + if listed && !gpu { 4 * c.items } else { 0 };
        plan.push("bookkeeping of items", bookkeeping as u64, &Moment::ALL, false);
        let log = TrainingSet::bytes(c.sequences, c.seen, c.users, c.items, c.targets);
        plan.push("split and seen items", log, &Moment::ALL, false);
        plan.mapped = (8 * (c.users + 1) + 12 * c.events) as u64;

        // The last rows that meet the whole catalogue may be few enough for one task, which the calling thread does itself.
        let multiply = threads as u64 + u64::from(!sampled);
        plan.push("kept by matrix products", multiply * kept_per_thread(), &Moment::ALL, false);
        let clusters = by_time(config, sampled)?;
        let batch = Batch::bytes(rows, sequences, c.seen_of_batch, c.numeric, c.categories.len(), clusters);
        plan.push("batch", batch, &Moment::STEP, false);
        if gpu {
            let seen = drawn.as_ref().filter(|n| n.excludes_history).map(|_| c.seen);
            plan.push("training sequences", gathered::resident_bytes(c.sequences, c.events, clusters, seen), &Moment::ALL, true);
            if hyper.context {
                let contexts = contexts::resident_bytes(c.events, c.numeric, c.categories.len());
                plan.push("contexts of all events", contexts, &Moment::ALL, true);
            }
            plan.push("batch gathered there", gathered::bytes_there(rows, sequences, clusters), &Moment::STEP, true);
        }
        if let Some(n) = &drawn {
            plan.push("tables of the sampler", n.tables, &Moment::ALL, false);
            if gpu {
                plan.push("laws of the sampler there", n.laws_there, &Moment::ALL, true);
                plan.push("touched items", if listed { touched::bytes_there(c.items) } else { 0 }, &Moment::ALL, true);
            }
            let scan = match n.scan.filter(|_| gpu) {
                None => 0,
                Some(sampler::Scan::Draw { replace }) => {
                    softmax_draw::catalogue_bytes_there(queries, c.items, n.per_row, replace)
                }
                Some(sampler::Scan::Best) => {
                    let (rounding, shape) = (config.train.rounding.parse()?, [queries, c.items, n.per_row]);
                    score_topk::catalogue_bytes_there(hyper.score, d, hyper.context, rounding, shape)?
                }
            };
            plan.push("drawing negatives", if gpu { n.drawing_there + scan } else { n.drawing }, &[Moment::Drawing], true);
            plan.push("negatives", if gpu { n.negatives_there } else { n.negatives }, &[Moment::Loss, Moment::Backward], true);
            let mut scratch = match gpu {
                true => {
                    let (cosine, rounding) = (hyper.score != ScoreKind::Dot, config.train.rounding.parse()?);
                    sampled_loss::machine::bytes(c.items, d, queries, n.per_row, wrong, cosine, rounding)
                }
                false => sampled_loss::bytes(c.items, d, queries, n.per_row, wrong, n.shared.then_some(n.groups), n.even),
            };
            // The wrong contexts: their vectors, and the numbers they are made of.
            scratch += (4 * queries * wrong * (d + c.numeric + c.categories.len())) as u64;
            plan.push("scratch of the loss", scratch, &[Moment::Loss], true);
            plan.uncounted.extend(n.uncounted.iter().map(|kind| format!("tables of `{kind}`")));
        } else {
            let cosine = hyper.score != ScoreKind::Dot;
            let scratch = match gpu {
                true => {
                    full_softmax::bytes_there(c.items, d, queries, hyper.score, hyper.context, config.train.rounding.parse()?)?
                }
                false => full_softmax::bytes(c.items, d, queries, cosine, hyper.context),
            };
            plan.push("scratch of the loss", scratch, &[Moment::Loss], true);
        }
        match gpu {
            true => {
                // The sums of columns are finished before rows are grouped.
                let vectors =
                    params.iter().filter(|p| !p.table && p.shape.len() == 1).map(|p| p.len().next_multiple_of(64)).sum();
                let bytes = embedding::bytes_there(rows, c.items, d).max(column_sum::bytes_there(rows, vectors));
                plan.push("grouping of rows", bytes, &[Moment::Backward], true);
            }
            false => plan.push("grouping of rows", memory::grouping(&hyper, c.items, rows), &[Moment::Backward], false),
        }

        if config.train.eval_every > 0 && c.targets > 0 {
            plan.evaluation(config, c, Step { rows, queries, kept }, threads, gpu)?;
        }
        if gpu && config.train.graph != "no" {
            plan.round_up(params.iter().map(|p| p.len() as u64).max().unwrap_or(0));
        }
        let all: u64 = params.iter().map(|p| p.len() as u64).sum();
        // Values and the optimizer's state as f32, and the largest of them once more as f64.
        let largest = params.iter().map(|p| p.len() as u64).max().unwrap_or(0);
        let saved: u64 = params.iter().map(|p| Optimizer::saved(&config.optim, &p.shape, p.table)).sum();
        plan.push("copy for a checkpoint", 4 * all + saved + 8 * largest, &[Moment::Checkpoint], false);
        Ok(plan)
    }

    /// What evaluating or recommending with a trained model of `config` holds at the least.
    pub fn of_use(config: &Config, counts: &Counts, threads: usize, gpu: bool) -> Result<MemoryPlan> {
        let Shape { hyper, sizes, .. } = Shape::new(config, counts)?;
        let mut plan = MemoryPlan { lines: vec![], mapped: 0, uncounted: vec![] };
        plan.model(config, counts, &hyper, &sizes, false, gpu);
        plan.evaluation(config, counts, Step::default(), threads, gpu)?;
        Ok(plan)
    }

    /// The same where steps are not recorded.
    pub fn of_calls(mut self) -> MemoryPlan {
        self.lines.retain(|line| line.part != ROUND);
        self
    }
    /// The same of steps alone: no evaluation, no baselines, no checkpoint.
    pub fn of_steps(mut self) -> MemoryPlan {
        self.lines.iter_mut().for_each(|line| line.during.retain(|moment| Moment::STEP.contains(moment)));
        self.lines.retain(|line| !line.during.is_empty());
        self
    }

    /// What lasts of a model, with the optimizer's state if it is trained.
    fn model(&mut self, config: &Config, c: &Counts, hyper: &Hyper, sizes: &Sizes, trained: bool, gpu: bool) {
        let params = memory::parameters(hyper, sizes);
        let elements = |of: &dyn Fn(&Extent) -> bool| params.iter().filter(|p| of(p)).map(|p| p.len() as u64).sum::<u64>();
        let tables = elements(&|p| p.table && p.name != "positions");
        let all = elements(&|_| true);
        self.push(TABLES, 4 * tables, &Moment::ALL, true);
        self.push("positions, blocks, norms", 4 * (all - tables), &Moment::ALL, true);
        self.push(GRADIENTS, 4 * all, &Moment::ALL, true);
        if trained {
            let state: u64 = params.iter().map(|p| Optimizer::bytes(&config.optim, &p.shape, p.table)).sum();
            self.push(STATE, state, &Moment::ALL, true);
        }
        if c.attributes > 0 {
            let item_parts = c.items * hyper.dim * if hyper.tied { 1 } else { 2 };
            self.push("item parts with attributes", 4 * item_parts as u64, &Moment::ALL, true);
            // Both ways, and the offsets of both.
            let lists = match gpu {
                true => AttributeLists::bytes_there(c.items, c.attributes, c.attribute_pairs),
                false => 8 * c.attribute_pairs + 8 * (c.items + c.attributes + 2),
            };
            self.push("lists of attributes", lists as u64, &Moment::ALL, true);
        }
    }

    /// What an evaluation holds beside that, and beside the arrays of a step.
    fn evaluation(&mut self, config: &Config, c: &Counts, step: Step, threads: usize, gpu: bool) -> Result<()> {
        let Shape { hyper, sizes: model, asked, sampled } = Shape::new(config, c)?;
        let clusters = by_time(config, sampled)?;
        let Step { rows, queries, kept } = step;
        let d = hyper.dim;
        let tile = eval::tile_rows(c.items).min(c.targets_of_part);
        // A tile of requests may hold more rows than a batch.
        let of_tile = if asked == Queries::All { memory::asking(&hyper, tile) } else { 0 };
        let most = rows.max(c.rows_of_requests);
        // On a machine the input of the first block is made in one pass, without the scratch of a backward pass.
        let unused = if gpu && hyper.positions && !hyper.context { 4 * (most - rows) * d } else { 0 };
        let longer = memory::forward(&hyper, most, queries.max(tile), asked) + of_tile - kept - unused as u64
            + memory::contexts(&hyper, &model, c.rows_of_requests, tile);
        let requests = Batch::bytes(c.rows_of_requests, tile, c.rows_of_requests, c.numeric, c.categories.len(), clusters);
        let outcomes = size_of::<Outcome>() * c.targets_of_part.next_power_of_two();
        let counted = 8 * c.items * config.eval.at.len() + outcomes;
        // Scores are lent to and fro between two buffers.
        // For a moment: a norm beside every score of a tile (the cosine under a context), or before that the numbers of the
        // contexts in two precisions beside those of the tile before.
        let norms = if hyper.score != ScoreKind::Dot && hyper.context { 4 * tile * c.items } else { 0 };
        let moment = norms.max(12 * c.rows_of_requests * if hyper.context { c.numeric } else { 0 });
        let scores = 2 * 4 * tile * c.items + moment;
        if gpu {
            let k = config.eval.at.iter().copied().max().unwrap_or(0) as usize;
            let shape = [tile, c.items, k];
            let there = match config.eval.candidates.as_str() {
                "full" => rank::bytes_there(hyper.score, d, hyper.context, shape, c.rows_of_requests)?,
                _ => 4 * (tile * c.items) as u64,
            };
            self.push("ranking of an evaluation", longer + there, &[Moment::Evaluation], true);
            self.push("requests of an evaluation", requests + counted as u64, &[Moment::Evaluation], false);
        } else {
            self.push("scores of an evaluation", longer + requests + (scores + counted) as u64, &[Moment::Evaluation], true);
        }
        match c.rules {
            Some(rules) if config.eval.baselines => {
                // What the model's evaluation leaves: longer activations, a tile of its scores, its outcomes.
                let left = outcomes as u64 + if gpu { 0 } else { longer + 4 * (tile * c.items) as u64 };
                let [fit, table] = ItemToItem::bytes(c.items, c.training_events, rules, threads);
                // One after the other: popularity's scores and a tile that grew by doubling; a tile beside the outcomes of it.
                let popularity = 4 * c.items * (1 + tile.next_power_of_two());
                let judged = table + popularity.max(4 * c.items * tile + outcomes) + counted + requests as usize;
                self.push("baselines beside the model", left + fit.max(judged) as u64, &[Moment::Baselines], false);
            }
            // A rule per pair of items that follow each other in some history, which only counting them tells.
            None if config.eval.baselines => {
                self.uncounted.push("baselines beside the model (`eval.baselines`)".into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds what arrays take more where their places are kept for recorded steps: at most, for they may be of any size. Only tables, of
    /// `elements` the largest, are known to be so large that none is added.
    fn round_up(&mut self, elements: u64) {
        let mut more: Vec<(Vec<Moment>, u64)> = Vec::new();
        let exact = |line: &Line| 4 * elements >= TABLE as u64 && [TABLES, GRADIENTS, STATE].contains(&line.part.as_str());
        for line in self.lines.iter().filter(|line| line.on_gpu && !exact(line)) {
            let bytes = line.bytes * ROUNDED.0 / ROUNDED.1;
            match more.iter_mut().find(|(during, _)| *during == line.during) {
                Some((_, all)) => *all += bytes,
                None => more.push((line.during.clone(), bytes)),
            }
        }
        more.into_iter().for_each(|(during, bytes)| self.push(ROUND, bytes, &during, true));
    }

    fn push(&mut self, part: &str, bytes: u64, during: &[Moment], on_gpu: bool) {
        if bytes > 0 {
            self.lines.push(Line { part: part.into(), bytes, during: during.to_vec(), on_gpu });
        }
    }

    /// Bytes held in a moment, on the host or, with `gpu`, in a GPU's memory alone.
    pub fn at(&self, moment: Moment, gpu: bool) -> u64 {
        let held = |line: &&Line| line.during.contains(&moment) && (!gpu || line.on_gpu);
        self.lines.iter().filter(held).map(|line| line.bytes).sum()
    }
    /// The moment that holds most, and how much that is.
    pub fn peak(&self, gpu: bool) -> (Moment, u64) {
        let all = Moment::ALL.map(|moment| (moment, self.at(moment, gpu)));
        all.into_iter().fold((Moment::Loss, 0), |most, next| if next.1 > most.1 { next } else { most })
    }
    /// The most a training step holds.
    pub fn step(&self, gpu: bool) -> u64 {
        Moment::STEP.into_iter().map(|moment| self.at(moment, gpu)).max().unwrap_or(0)
    }
}

/// A single change of the settings with which a run fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// As `--set` takes it.
    pub set: String,
    /// What the run needs then.
    pub bytes: u64,
}

/// For each of a few settings, the largest smaller value with which a plan needs at most `memory` bytes; each is planned anew.
/// Settings that cannot do it alone are left out.
pub fn changes(
    config: &Config,
    memory: u64,
    gpu: bool,
    threads: usize,
    counts: &dyn Fn(&Config) -> Result<Counts>,
) -> Result<Vec<Change>> {
    type Put = fn(&mut Config, u32);
    let negatives = Stages::new(&config.sampler).map_or(0, |stages| stages.negatives.most() as u32);
    let sampled = loss::find(&config.loss.kind)?.sampled;
    let settings: [(&str, u32, Put); 5] = [
        ("train.batch_size", config.train.batch_size, |c, x| c.train.batch_size = x),
        ("sampler.negatives", if sampled { negatives } else { 0 }, |c, x| c.sampler.negatives = Some(x.into())),
        ("model.max_len", config.model.max_len, |c, x| c.model.max_len = x),
        ("model.layers", config.model.layers, |c, x| c.model.layers = x),
        ("model.dim", config.model.dim, |c, x| c.model.dim = x),
    ];
    let mut found = vec![];
    for (key, now, put) in settings {
        let mut value = now / 2;
        while value >= 1 {
            let mut changed = config.clone();
            put(&mut changed, value);
            // Heads that no longer divide the width, or too few candidates, are no cure.
            let planned = counts(&changed).and_then(|c| MemoryPlan::new(&changed, &c, threads, gpu));
            if let Some(bytes) = planned.ok().map(|plan| plan.peak(gpu).1).filter(|&bytes| bytes <= memory) {
                found.push(Change { set: format!("{key}={value}"), bytes });
                break;
            }
            value /= 2;
        }
    }
    if gpu && config.train.graph != "no" {
        let mut changed = config.clone();
        changed.train.graph = "no".into();
        let bytes = MemoryPlan::new(&changed, &counts(&changed)?, threads, gpu)?.peak(gpu).1;
        if bytes <= memory {
            found.push(Change { set: "train.graph=no".into(), bytes });
        }
    }
    if !config.model.tied {
        let mut changed = config.clone();
        changed.model.tied = true;
        let bytes = MemoryPlan::new(&changed, &counts(&changed)?, threads, gpu)?.peak(gpu).1;
        if bytes <= memory {
            found.push(Change { set: "model.tied=true".into(), bytes });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::split::Target;
    use crate::error::Code;

    #[test]
    fn fifty_million_items_are_planned_without_a_log() {
        let config = Config::default();
        let counts = Counts::assumed(50_000_000, 1_000_000, Some(100_000_000), &config).unwrap();
        let plan = MemoryPlan::new(&config, &counts, 2, false).unwrap();
        let line = |part: &str| plan.lines.iter().find(|l| l.part == part).unwrap().bytes;
        assert_eq!(line("tables of items and categories"), 4 * 64 * 50_000_000);
        // Dense moments, and for the table, larger than 2^22 elements, a step of 8 bytes per row.
        assert!(line("state of the optimizer") > (8 * 64 + 8) * 50_000_000);
        assert!(plan.peak(false).1 > 16 * 64 * 50_000_000);
        assert_eq!(plan.peak(false).0, Moment::Checkpoint);
    }

    #[test]
    fn a_change_is_one_with_which_it_fits() {
        let mut config = Config::default();
        config.loss.kind = "bce".into();
        // An evaluation is as large whatever the batch is.
        config.train.eval_every = 0;
        let counts = |config: &Config| Counts::assumed(10_000, 5_000, None, config);
        let needs = |config: &Config| MemoryPlan::new(config, &counts(config).unwrap(), 2, false).unwrap().peak(false).1;
        let memory = needs(&config) / 2;
        let found = changes(&config, memory, false, 2, &counts).unwrap();
        assert!(found.iter().any(|change| change.set.starts_with("train.batch_size=")), "{found:?}");
        assert!(found.iter().all(|change| change.bytes <= memory), "{found:?}");
        assert_eq!(changes(&config, 10, false, 2, &counts).unwrap(), []);
    }

    #[test]
    fn numbers_that_hold_no_log_are_refused() {
        for (items, users, events) in [(0, 1, None), (1, 0, None), (5, 5, Some(4))] {
            assert_eq!(Counts::assumed(items, users, events, &Config::default()).unwrap_err().code(), Code::C0202);
        }
    }

    #[test]
    fn targets_are_as_large_as_counted() {
        assert_eq!(TrainingSet::bytes(0, 0, 0, 0, 3) - TrainingSet::bytes(0, 0, 0, 0, 0), 3 * size_of::<Target>() as u64);
    }
}
