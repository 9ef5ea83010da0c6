//! A loss over one positive and a few negatives per row, forward and backward in one pass.
//!
//! ```text
//! row r sees   s+ = score(p[r], a[target[r]] + g[r])
//!              s- = score(p[r], a[i] + g[r])          for its N negatives i
//!              s~ = score(p[r], a[target[r]] + g~)    for W wrong contexts g~ of its target (CaNS)
//! loss = scale sum over r of w_r f(s+, s- and s~)     f: one row's loss, implemented in loss/; w_r the row's weight, or one
//! ```
//!
//! Negatives that are moved towards the positive (`Negatives::toward_positive`) enter `f` as `a s+ + (1 - a) s-`.
//! The gradient of a score is in `ops/score.rs`. Rows that share their negatives (a group of four or more) are scored by
//! matrix products; others gather item rows. Either way scores live only as long as their block of rows, and the table
//! gradient leaves as records (`ops/table_gradient.rs`). Empty slots (`ids::NONE`) and dropped ones never reach `f`.
//!
//! Cost: `6 R N D` flops; `R N` gathered rows (twice) and `16 R N` bytes of records where negatives are not shared.

pub mod machine;
mod rows;

use rayon::prelude::*;

use crate::device::{Buffer, Device, Numbers, Real, Scalar};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ids;
use crate::ops::cost::{Cost, Operation, distinct, product};
use crate::ops::embedding;
use crate::ops::negatives::Negatives;
use crate::ops::score::{ScoreKind, Scoring, View};
use crate::ops::table_gradient::{Block, Ranges, accumulate};
use rows::{Outputs, Work};

/// What a row's loss may know besides the K scores of its negatives.
#[derive(Clone, Copy, Default)]
pub struct RowFacts<'a> {
    /// How many items were drawn, those included that the row must not count: their share of the draws is the share of the catalogue
    /// that is left out. At most K of them are among the scores; wrong contexts follow.
    pub drawn: usize,
    /// Natural log of the probability with which each drawn item among the scores was drawn, or empty.
    pub log_q: &'a [f32],
    /// (K) stop-gradient weights, 1 for a wrong context; or empty, which means one.
    pub weight: &'a [f32],
}

/// The mathematics of one row of a sampled loss; implemented in `loss/`, one file each.
pub trait RowLoss: Send + Sync {
    /// Loss and d/d positive of one row, d/d each of the K >= 0 negatives into `d_negatives (K)`.
    fn row_f32(&self, positive: f32, negatives: &[f32], facts: RowFacts, d_negatives: &mut [f32]) -> (f32, f32);
    /// The same in f64.
    fn row_f64(&self, positive: f64, negatives: &[f64], facts: RowFacts, d_negatives: &mut [f64]) -> (f64, f64);
    /// The same function in `kernels/sampled_loss.cu`.
    fn twin(&self) -> Twin;
    /// Whether the sampler has to hand over `log_q`.
    fn needs_log_q(&self) -> bool {
        false
    }
}

/// The row losses a kernel knows, with their parameters; the mathematics is in `loss/`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Twin {
    Bce,
    Gbce { beta: f64 },
    Bpr,
    SampledSoftmax { temperature: f64, correction: Correction },
    Contrastive { temperature: f64, tau_plus: f64, beta: f64, floor: f64 },
    BprMax { lambda: f64 },
    Hinge { margin: f64 },
    HardBpr { k: f64, b: f64, c: f64 },
    Pu { prior: f64 },
}

/// How a sampled softmax corrects for the probability of each draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Correction {
    None,
    Classic,
    Revised,
}

/// Where the gradients go.
pub struct Gradients<'a> {
    /// dp (R,D), overwritten.
    pub query: &'a mut Buffer,
    /// dg (R,D), overwritten.
    pub context: Option<&'a mut Buffer>,
    /// dg~ (R,W,D), overwritten.
    pub wrong: Option<&'a mut Buffer>,
    /// da (V,D), added to.
    pub table: &'a mut Buffer,
}

impl Gradients<'_> {
    /// Sizes what is overwritten and checks the rest.
    pub(crate) fn prepare(&mut self, device: &Device, scoring: &Scoring, wrong: usize) -> Result<()> {
        let n = scoring.query.len();
        let contexts_agree = self.context.is_none() || scoring.context.is_some();
        if self.table.len() != scoring.table.len() || !contexts_agree || scoring.rows() >= 1 << 31 {
            return Err(Error::internal("loss: the gradients do not fit what was scored"));
        }
        self.query.resize(device, n)?;
        if let Some(context) = &mut self.context {
            context.resize(device, n)?;
        }
        if let Some(of_wrong) = &mut self.wrong {
            of_wrong.resize(device, n * wrong)?;
        }
        Ok(())
    }
}

/// Number types a row loss is written for.
pub(crate) trait LossReal: Real {
    fn row(loss: &dyn RowLoss, positive: Self, negatives: &[Self], facts: RowFacts, d: &mut [Self]) -> (Self, Self);
}
impl LossReal for f32 {
    fn row(loss: &dyn RowLoss, positive: f32, negatives: &[f32], facts: RowFacts, d: &mut [f32]) -> (f32, f32) {
        loss.row_f32(positive, negatives, facts, d)
    }
}
impl LossReal for f64 {
    fn row(loss: &dyn RowLoss, positive: f64, negatives: &[f64], facts: RowFacts, d: &mut [f64]) -> (f64, f64) {
        loss.row_f64(positive, negatives, facts, d)
    }
}

/// Sum of row losses times `scale` (1/R); gradients by the rules of [`Gradients`]. `wrong (R,W,D)` are the context vectors
/// of the wrong contexts.
#[allow(clippy::too_many_arguments)]
pub fn forward_backward<'a>(
    device: &Device,
    grads: Gradients,
    scoring: &Scoring,
    targets: impl Into<Numbers<'a>>,
    negatives: &Negatives,
    wrong: Option<&Buffer>,
    loss: &dyn RowLoss,
    scale: f64,
) -> Result<Scalar> {
    let targets = targets.into();
    if negatives.generated.is_empty() {
        return of_items(device, grads, scoring, targets, negatives, wrong, loss, scale);
    }
    // A vector v that is no item is the row's target moved there, a[target] + (v - a[target]), which scores as the target in a
    // wrong context does. The target was not in it, so the gradient it is given is taken back.
    let (rows, dim) = (scoring.rows(), scoring.dim);
    let count = negatives.generated.len() / (rows * dim).max(1);
    let fits = wrong.is_none() && scoring.kind == ScoreKind::Dot && targets.len() == rows;
    if !fits || negatives.generated.len() != rows * count * dim {
        return Err(Error::internal("loss: the generated vectors do not fit the rows or the score"));
    }
    let own: Vec<u32> = targets.here().iter().flat_map(|&target| std::iter::repeat_n(target, count)).collect();
    let vectors: Vec<f64> = negatives.generated.iter().map(|&x| f64::from(x)).collect();
    let mut moved = device.reals(&vectors)?;
    embedding::forward(device, &mut moved, embedding::Into::Add, scoring.table, &own, dim, -1.0)?;
    let mut given = Buffer::empty(device);
    let Gradients { query, context, table, .. } = grads;
    let grads = Gradients { query, context, wrong: Some(&mut given), table: &mut *table };
    let value = of_items(device, grads, scoring, targets, negatives, Some(&moved), loss, scale)?;
    embedding::backward(device, table, &given, &own, dim, -1.0)?;
    Ok(value)
}

/// The same without generated vectors.
#[allow(clippy::too_many_arguments)]
fn of_items(
    device: &Device,
    mut grads: Gradients,
    scoring: &Scoring,
    targets: Numbers,
    negatives: &Negatives,
    wrong: Option<&Buffer>,
    loss: &dyn RowLoss,
    scale: f64,
) -> Result<Scalar> {
    let rows = scoring.rows();
    let w = wrong.map_or(0, |g| g.len().checked_div(scoring.query.len()).unwrap_or(0));
    grads.prepare(device, scoring, w)?;
    check(scoring, targets, negatives, wrong, w, loss)?;
    if rows == 0 {
        return Ok(Scalar::Here(0.0));
    }
    dispatch!(device, T => {
        let job = Job {
            view: scoring.view::<T>()?,
            targets: targets.here(),
            negatives,
            wrong: wrong.map(T::of).transpose()?.unwrap_or(&[]),
            w,
            loss,
            scale: T::from_f64(scale),
        };
        let dg = grads.context.map(T::of_mut).transpose()?;
        let dw = grads.wrong.map(T::of_mut).transpose()?;
        Ok(Scalar::Here(scale * reference(&job, T::of_mut(grads.query)?, dg, dw, T::of_mut(grads.table)?)))
    }, runtime => {
        let job = machine::Job { scoring, targets, negatives, wrong, w, twin: loss.twin(), scale: scale as f32 };
        job.run(device, &**runtime, grads, scale)
    })
}

fn check(s: &Scoring, targets: Numbers, n: &Negatives, wrong: Option<&Buffer>, w: usize, loss: &dyn RowLoss) -> Result<()> {
    let rows = s.rows();
    let in_table = |i: &u32| (*i as usize) < s.items;
    let groups_fit = n.group_offsets.first().is_none_or(|&o| o == 0)
        && n.group_offsets.is_sorted()
        && n.group_offsets.last().map_or(0, |&o| o as usize) == rows;
    let slots = n.groups() * n.n;
    let lists_fit = match &n.resident {
        None => {
            n.ids.len() == slots
                && (n.log_q.is_empty() || n.log_q.len() == slots)
                && (n.drop.is_empty() || n.drop.len() == rows * n.n)
        }
        Some(there) => {
            s.query.memory().is_ok()
                && there.ids.len() == slots
                && there.log_q.as_ref().is_none_or(|log_q| log_q.len() == slots)
                && there.drop.as_ref().is_none_or(|drop| drop.len() == (rows * n.n).div_ceil(4))
        }
    };
    let lengths_fit = lists_fit
        && (n.weight.is_empty() || n.weight.len() == rows * n.n)
        && (n.row_weight.is_empty() || n.row_weight.len() == rows)
        && (n.toward_positive.is_empty() || n.toward_positive.len() == rows)
        && wrong.is_none_or(|g| g.len() == rows * w * s.dim);
    let ids_fit = targets.len() == rows && targets.all_below(s.items as u32);
    if !groups_fit || !lengths_fit || !ids_fit || !n.ids.iter().all(|i| in_table(i) || *i == ids::NONE) {
        return Err(Error::internal("loss: the negatives do not fit the rows or the table"));
    }
    if !n.toward_positive.is_empty() && s.kind != ScoreKind::Dot {
        return Err(Error::internal("loss: only dot scores are linear in the negatives"));
    }
    if loss.needs_log_q() && !n.has_log_q() && slots > 0 {
        return Err(Error::internal("loss: the sampler did not hand over log-probabilities"));
    }
    Ok(())
}

/// Everything the rows read.
struct Job<'a, T> {
    view: View<'a, T>,
    targets: &'a [u32],
    negatives: &'a Negatives,
    /// g~ (R,W,D)
    wrong: &'a [T],
    w: usize,
    loss: &'a dyn RowLoss,
    scale: T,
}

/// Records written before they are summed: about 16 MB, so that they are still in a cache or near it.
const RECORDS: usize = 1 << 20;

/// Rows of a block, and blocks whose records are written before they are summed, for rows of `per_row` scores.
fn blocks(per_row: usize) -> (usize, usize) {
    let block = ((1 << 15) / per_row).clamp(128, 1024);
    (block, (RECORDS / (per_row * block)).max(1))
}

/// Bytes the plain path takes for a moment, for rows of `n` negatives of their own and `w` wrong contexts; where rows share those of
/// so many groups, records are fewer, and the scores of a block are what counts. `even`: every item is as likely a negative.
pub fn bytes(items: usize, dim: usize, rows: usize, n: usize, w: usize, groups: Option<usize>, even: bool) -> u64 {
    let per_row = n + 1 + w;
    let (block, blocks_per_pass) = blocks(per_row);
    // A record of f32 takes 16 bytes, and a list grows by doubling: lists of popular items hold half as much again as the mean,
    // others half of it.
    let (lists, width) = Ranges::new(items, (blocks_per_pass * block).min(rows) * per_row).shape();
    let works = blocks_per_pass.min(rows.div_ceil(block)) as u64;
    let block = block.min(rows);
    // Groups that a block meets, those it cuts included.
    let met = groups.map(|groups| (block * groups / rows.max(1) + 2).min(groups));
    let negatives = met.map_or(block * n, |met| met * n);
    let of_list = |records: usize, eighths: usize| records * width.min(items) * eighths / (8 * items.max(1));
    // Targets are as uneven as the log is. Even negatives stray from their mean by chance alone, and a list keeps the room of the
    // fullest block it served.
    let mean = of_list(negatives, 8) as f64;
    let fullest = if rows.div_ceil(block) > blocks_per_pass { 1.0 } else { 0.0 };
    let room = |eighths: usize| {
        let strayed = mean + ((eighths as f64 - 8.0) / 4.0 + fullest) * mean.sqrt();
        let negatives = if even { strayed as usize } else { of_list(negatives, eighths) };
        (negatives + of_list(block, eighths)).max(4).next_power_of_two()
    };
    let of_records = (lists * (24 + 16 * (4..=12).map(room).sum::<usize>() / 9)) as u64;
    let vectors = met.map_or(0, |met| met * n * dim) + if w > 0 { block * dim } else { 0 };
    let vectors = if vectors > 0 { 4 * vectors.next_power_of_two() as u64 } else { 0 };
    let products = if met.is_some() { 4 * rayon::current_num_threads() * (2 * block * n + 2 * n * dim) } else { 0 };
    works * (of_records + vectors) + products as u64
}

/// Of R `rows` against N negatives of each of so many `groups` and W wrong contexts, from V items (`of`) of D numbers; three
/// times the [`products`](crate::ops::score::products) of a score: itself, and the gradients of both sides.
pub fn cost(rows: usize, groups: usize, n: usize, w: usize, of: usize, dim: usize, context: bool, products: u64) -> Cost {
    let table = distinct(groups * n + rows, of) * dim;
    let vectors = rows * dim * (2 + if context { 2 } else { 0 } + 2 * w);
    let flops = 3 * products * product([rows, n + 1 + w, dim]);
    Cost::new(flops, vectors + 3 * table + groups * n + rows).of(Operation::Pairs, (rows * (n + 1 + w)) as u64)
}

fn reference<T: LossReal>(job: &Job<T>, dp: &mut [T], dg: Option<&mut [T]>, dw: Option<&mut [T]>, da: &mut [T]) -> f64 {
    let (d, per_row) = (job.view.dim, job.negatives.n + 1 + job.w);
    let rows = job.targets.len();
    let (block, blocks_per_pass) = blocks(per_row);
    let ranges = Ranges::new(job.view.items, (blocks_per_pass * block).min(rows) * per_row);
    let mut outputs: Vec<Outputs<T>> = dp.chunks_mut(block * d).map(|dp| Outputs { dp, dg: None, dw: None }).collect();
    if let Some(dg) = dg {
        outputs.iter_mut().zip(dg.chunks_mut(block * d)).for_each(|(o, dg)| o.dg = Some(dg));
    }
    if let Some(dw) = dw.filter(|_| job.w > 0) {
        outputs.iter_mut().zip(dw.chunks_mut(block * job.w * d)).for_each(|(o, dw)| o.dw = Some(dw));
    }
    // The memory of one pass serves all passes.
    let mut works: Vec<Work<T>> = (0..blocks_per_pass.min(outputs.len())).map(|_| Work::new(Block::new(ranges, d))).collect();
    let mut total = 0.0;
    for (pass, outputs) in outputs.chunks_mut(blocks_per_pass).enumerate() {
        works.par_iter_mut().zip(outputs.par_iter_mut()).enumerate().for_each(|(b, (work, outputs))| {
            let first = (pass * blocks_per_pass + b) * block;
            work.rows(job, first..(first + block).min(rows), outputs);
        });
        let done = &works[..outputs.len()];
        total += done.iter().map(|work| work.loss).sum::<f64>();
        accumulate(da, &job.view, ranges, done.iter().map(|work| &work.records));
    }
    total
}
