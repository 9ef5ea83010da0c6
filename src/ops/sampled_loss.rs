//! A loss over one positive and a few negatives per row, forward and backward in one pass.
//!
//! ```text
//! row r sees   s+ = score(p[r], a[target[r]] + g[r])
//!              s- = score(p[r], a[i] + g[r])          for its N negatives i
//!              s~ = score(p[r], a[target[r]] + g~)    for W wrong contexts g~ of its target (CaNS)
//! loss = scale sum over r of f(s+, s- and s~)         f: one row's loss, implemented in loss/
//! ```
//!
//! The gradient of a score is in `ops/score.rs`. Rows that share their negatives (a group of four or more) are scored by
//! matrix products; others gather item rows. Either way scores live only as long as their block of rows, and the table
//! gradient leaves as records (`ops/table_gradient.rs`). Empty slots (`ids::NONE`) and dropped ones never reach `f`.
//!
//! Cost: `6 R N D` flops; `R N` gathered rows (twice) and `16 R N` bytes of records where negatives are not shared.

use std::ops::Range;

use rayon::prelude::*;

use crate::device::{Buffer, Device, Real};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ids;
use crate::ops::negatives::Negatives;
use crate::ops::score::{Norms, ScoreKind, Scoring, Tile, View, inverse_norm, no_kernel, pair};
use crate::ops::table_gradient::{Block, Ranges, accumulate};
use crate::ops::vector;

/// What a row's loss may know besides the K scores of its negatives.
#[derive(Clone, Copy, Default)]
pub struct RowFacts<'a> {
    /// How many of the K were drawn from the items; wrong contexts follow them.
    pub drawn: usize,
    /// (drawn) natural log of the probability with which each was drawn, or empty.
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
    /// Whether the sampler has to hand over `log_q`.
    fn needs_log_q(&self) -> bool {
        false
    }
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
pub fn forward_backward(
    device: &Device,
    mut grads: Gradients,
    scoring: &Scoring,
    targets: &[u32],
    negatives: &Negatives,
    wrong: Option<&Buffer>,
    loss: &dyn RowLoss,
    scale: f64,
) -> Result<f64> {
    let rows = scoring.rows();
    let w = wrong.map_or(0, |g| g.len().checked_div(scoring.query.len()).unwrap_or(0));
    grads.prepare(device, scoring, w)?;
    check(scoring, targets, negatives, wrong, w, loss)?;
    if rows == 0 {
        return Ok(0.0);
    }
    dispatch!(device, T => {
        let job = Job {
            view: scoring.view::<T>()?,
            targets,
            negatives,
            wrong: wrong.map(T::of).transpose()?.unwrap_or(&[]),
            w,
            loss,
            scale: T::from_f64(scale),
        };
        let dg = grads.context.map(T::of_mut).transpose()?;
        let dw = grads.wrong.map(T::of_mut).transpose()?;
        Ok(scale * reference(&job, T::of_mut(grads.query)?, dg, dw, T::of_mut(grads.table)?))
    }, _ => Err(no_kernel()))
}

fn check(s: &Scoring, targets: &[u32], n: &Negatives, wrong: Option<&Buffer>, w: usize, loss: &dyn RowLoss) -> Result<()> {
    let rows = s.rows();
    let in_table = |i: &u32| (*i as usize) < s.items;
    let groups_fit = n.group_offsets.first().is_none_or(|&o| o == 0)
        && n.group_offsets.is_sorted()
        && n.group_offsets.last().map_or(0, |&o| o as usize) == rows;
    let lengths_fit = n.ids.len() == n.groups() * n.n
        && (n.log_q.is_empty() || n.log_q.len() == n.ids.len())
        && (n.drop.is_empty() || n.drop.len() == rows * n.n)
        && (n.weight.is_empty() || n.weight.len() == rows * n.n)
        && wrong.is_none_or(|g| g.len() == rows * w * s.dim);
    let ids_fit = targets.len() == rows && targets.iter().all(in_table);
    if !groups_fit || !lengths_fit || !ids_fit || !n.ids.iter().all(|i| in_table(i) || *i == ids::NONE) {
        return Err(Error::internal("loss: the negatives do not fit the rows or the table"));
    }
    if loss.needs_log_q() && n.log_q.is_empty() && !n.ids.is_empty() {
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

/// Fewest rows of a group that are worth gathering its items for matrix products.
const SHARED: usize = 4;

/// The activation gradients of one block of rows.
struct Outputs<'a, T> {
    dp: &'a mut [T],
    dg: Option<&'a mut [T]>,
    dw: Option<&'a mut [T]>,
}

fn reference<T: LossReal>(job: &Job<T>, dp: &mut [T], dg: Option<&mut [T]>, dw: Option<&mut [T]>, da: &mut [T]) -> f64 {
    let (d, per_row) = (job.view.dim, job.negatives.n + 1 + job.w);
    let rows = job.targets.len();
    let block = ((1 << 15) / per_row).clamp(128, 1024);
    let blocks_per_pass = (RECORDS / (per_row * block)).max(1);
    let ranges = Ranges::new(job.view.items, (blocks_per_pass * block).min(rows) * per_row);
    let mut outputs: Vec<Outputs<T>> = dp.chunks_mut(block * d).map(|dp| Outputs { dp, dg: None, dw: None }).collect();
    if let Some(dg) = dg {
        outputs.iter_mut().zip(dg.chunks_mut(block * d)).for_each(|(o, dg)| o.dg = Some(dg));
    }
    if let Some(dw) = dw.filter(|_| job.w > 0) {
        outputs.iter_mut().zip(dw.chunks_mut(block * job.w * d)).for_each(|(o, dw)| o.dw = Some(dw));
    }
    let mut total = 0.0;
    for (pass, outputs) in outputs.chunks_mut(blocks_per_pass).enumerate() {
        let done: Vec<(Block<T>, f64)> = outputs
            .par_iter_mut()
            .enumerate()
            .map(|(b, outputs)| {
                let first = (pass * blocks_per_pass + b) * block;
                let mut work = Work::new(Block::new(ranges, d));
                work.rows(job, first..(first + block).min(rows), outputs);
                (work.records, work.loss)
            })
            .collect();
        let (records, losses): (Vec<Block<T>>, Vec<f64>) = done.into_iter().unzip();
        total += losses.iter().sum::<f64>();
        accumulate(da, &job.view, ranges, &records);
    }
    total
}

/// A score with what its gradient needs.
#[derive(Clone, Copy, Default)]
struct Scored<T> {
    s: T,
    /// 1/|e|; unused by the dot product
    inverse: T,
    ds: T,
}

/// What one block of rows writes and reuses.
struct Work<T> {
    records: Block<T>,
    loss: f64,
    /// (K) kept negatives of the row: ids, scores (then W wrong contexts), 1/|e|, and the loss's gradient
    kept: Vec<u32>,
    scores: Vec<T>,
    inverse: Vec<T>,
    d_scores: Vec<T>,
    log_q: Vec<f32>,
    weight: Vec<f32>,
    /// (1+W) the positive, then the wrong contexts
    singles: Vec<Scored<T>>,
    /// (D) the gradient of the target's row
    target: Vec<T>,
}

impl<T: LossReal> Work<T> {
    fn new(records: Block<T>) -> Work<T> {
        Work {
            records,
            loss: 0.0,
            kept: vec![],
            scores: vec![],
            inverse: vec![],
            d_scores: vec![],
            log_q: vec![],
            weight: vec![],
            singles: vec![],
            target: vec![],
        }
    }

    fn rows(&mut self, job: &Job<T>, rows: Range<usize>, out: &mut Outputs<T>) {
        let offsets = &job.negatives.group_offsets;
        let mut group = offsets.partition_point(|&o| o as usize <= rows.start) - 1;
        let mut r = rows.start;
        while r < rows.end {
            while offsets[group + 1] as usize <= r {
                group += 1;
            }
            let end = (offsets[group + 1] as usize).min(rows.end);
            if end - r >= SHARED && job.negatives.n > 0 {
                self.shared(job, group, r..end, rows.start, out);
            } else {
                for r in r..end {
                    self.single(job, group, r, rows.start, out);
                }
            }
            r = end;
        }
    }

    /// Rows that share their negatives: tiles of matrix products.
    fn shared(&mut self, job: &Job<T>, group: usize, rows: Range<usize>, first: usize, out: &mut Outputs<T>) {
        let (view, n, d) = (&job.view, job.negatives, job.view.dim);
        let slots: Vec<usize> = (0..n.n).filter(|&j| n.ids_of(group)[j] != ids::NONE).collect();
        let (m, k) = (rows.len(), slots.len());
        let mut items = Vec::with_capacity(k * d);
        slots.iter().for_each(|&j| items.extend_from_slice(view.item(n.ids_of(group)[j])));
        let tile = Tile { a: &items, ..view.tile(rows.clone(), 0..0) };
        let (mut s, mut norms) = (vec![T::ZERO; m * k], Norms::default());
        tile.scores(&mut s, &mut norms);
        let mut ds = vec![T::ZERO; m * k];
        let mut singles = Vec::with_capacity(m * (1 + job.w));
        for (row, r) in rows.clone().enumerate() {
            let keeps = |j: usize| n.drop.is_empty() || !n.drop[r * n.n + j];
            self.begin_row();
            for (x, &j) in slots.iter().enumerate().filter(|&(_, &j)| keeps(j)) {
                self.kept.push(x as u32);
                self.scores.push(s[row * k + x]);
                self.push_facts(n, group, r, j);
            }
            self.finish_row(job, r);
            for (&x, &d) in self.kept.iter().zip(&self.d_scores) {
                ds[row * k + x as usize] = d;
            }
            singles.extend_from_slice(&self.singles);
        }
        let local = (rows.start - first) * d..(rows.end - first) * d;
        let mut d_items = vec![T::ZERO; k * d];
        let dg = out.dg.as_deref_mut().map(|dg| &mut dg[local.clone()]);
        tile.backward(&mut out.dp[local], dg, &mut d_items, &mut ds, &mut s, &norms);
        for (&j, d_item) in slots.iter().zip(d_items.chunks_exact(d)) {
            self.records.push_vector(n.ids_of(group)[j], d_item);
        }
        for (r, singles) in rows.zip(singles.chunks_exact(1 + job.w)) {
            self.apply_singles(job, r, first, singles, out);
        }
    }

    /// One row with its own negatives: gathered item rows.
    fn single(&mut self, job: &Job<T>, group: usize, r: usize, first: usize, out: &mut Outputs<T>) {
        let (view, n, d) = (&job.view, job.negatives, job.view.dim);
        let (p, g) = (view.query_of(r), view.context_of(r));
        self.begin_row();
        for (j, &id) in n.ids_of(group).iter().enumerate() {
            if id != ids::NONE && (n.drop.is_empty() || !n.drop[r * n.n + j]) {
                self.kept.push(id);
                self.push_facts(n, group, r, j);
            }
        }
        let k = self.kept.len();
        self.scores.resize(k, T::ZERO);
        self.inverse.clear();
        if view.kind == ScoreKind::Dot {
            view.row(r, &self.kept, &mut self.scores);
        } else {
            self.inverse.resize(k, T::ZERO);
            let c = row_factor(view, p);
            let (kept, scores, inverse) = (&self.kept, &mut self.scores, &mut self.inverse);
            vector::fast(
                #[inline(always)]
                || {
                    for ((&id, s), inverse) in kept.iter().zip(scores).zip(inverse) {
                        let (product, square) = pair(p, g, view.item(id));
                        *inverse = inverse_norm(square);
                        *s = product * c * *inverse;
                    }
                },
            );
        }
        self.finish_row(job, r);
        let local = (r - first) * d..(r - first + 1) * d;
        let dp = &mut out.dp[local.clone()];
        let mut dg = out.dg.as_deref_mut().map(|dg| &mut dg[local]);
        let (kept, records) = (&self.kept, &mut self.records);
        let (ds, s, inverse) = (&self.d_scores, &self.scores, &self.inverse);
        vector::fast(
            #[inline(always)]
            || {
                dp.fill(T::ZERO);
                let (mut alphas, mut betas, mut gamma) = (T::ZERO, T::ZERO, T::ZERO);
                if view.kind == ScoreKind::Dot {
                    combine(dp, view, kept, ds);
                    for (&id, &ds) in kept.iter().zip(ds) {
                        records.push(id, r, ds, T::ZERO);
                    }
                    alphas = vector::sum(&ds[..kept.len()]);
                    if let Some(dg) = &mut dg {
                        dg.fill(T::ZERO);
                    }
                } else {
                    if let Some(dg) = &mut dg {
                        dg.fill(T::ZERO);
                    }
                    let q = inverse_norm(vector::dot(p, p));
                    let c = row_factor(view, p);
                    for (x, &id) in kept.iter().enumerate() {
                        let (alpha, beta) = (ds[x] * c * inverse[x], -ds[x] * s[x] * inverse[x] * inverse[x]);
                        gamma -= ds[x] * s[x] * q * q;
                        alphas += alpha;
                        betas += beta;
                        vector::axpy(dp, alpha, view.item(id));
                        if let Some(dg) = &mut dg {
                            vector::axpy(dg, beta, view.item(id));
                        }
                        records.push(id, r, alpha, beta);
                    }
                }
                vector::axpy(dp, gamma, p);
                vector::axpy(dp, alphas, g);
                if let Some(dg) = &mut dg {
                    vector::axpy2(dg, alphas, p, betas, g);
                }
            },
        );
        let singles = std::mem::take(&mut self.singles);
        self.apply_singles(job, r, first, &singles, out);
        self.singles = singles;
    }

    fn begin_row(&mut self) {
        self.kept.clear();
        self.scores.clear();
        self.log_q.clear();
        self.weight.clear();
    }

    fn push_facts(&mut self, n: &Negatives, group: usize, r: usize, slot: usize) {
        if !n.log_q.is_empty() {
            self.log_q.push(n.log_q[group * n.n + slot]);
        }
        if !n.weight.is_empty() {
            self.weight.push(n.weight[r * n.n + slot]);
        }
    }

    /// Scores the positive and the wrong contexts, and asks the loss; `scores`, `log_q` and `weight` hold the negatives.
    fn finish_row(&mut self, job: &Job<T>, r: usize) {
        let (view, n) = (&job.view, job.negatives);
        let (p, a) = (view.query_of(r), view.item(job.targets[r]));
        let k = self.scores.len();
        self.singles.clear();
        self.singles.push(score_one(view, p, view.context_of(r), a));
        for g in wrong_of(job, r) {
            let one = score_one(view, p, g, a);
            self.singles.push(one);
            self.scores.push(one.s);
        }
        if !n.weight.is_empty() {
            self.weight.resize(k + job.w, 1.0);
        }
        self.d_scores.resize(k + job.w, T::ZERO);
        let facts = RowFacts { drawn: k, log_q: &self.log_q, weight: &self.weight };
        let (loss, d_positive) = T::row(job.loss, self.singles[0].s, &self.scores, facts, &mut self.d_scores);
        self.loss += loss.f64();
        self.d_scores.iter_mut().for_each(|d| *d *= job.scale);
        self.singles[0].ds = d_positive * job.scale;
        for (one, &d) in self.singles[1..].iter_mut().zip(&self.d_scores[k..]) {
            one.ds = d;
        }
    }

    /// Adds the gradients of the positive and the wrong contexts to those of the negatives.
    fn apply_singles(&mut self, job: &Job<T>, r: usize, first: usize, singles: &[Scored<T>], out: &mut Outputs<T>) {
        let (view, d) = (&job.view, job.view.dim);
        let (p, g, target) = (view.query_of(r), view.context_of(r), job.targets[r]);
        let a = view.item(target);
        let local = (r - first) * d..(r - first + 1) * d;
        let dp = &mut out.dp[local.clone()];
        let (alpha, beta) = apply_one(view, dp, p, g, a, singles[0]);
        if let Some(dg) = &mut out.dg {
            add_encoded(&mut dg[local], alpha, p, beta, a, g);
        }
        if job.w == 0 {
            return self.records.push(target, r, alpha, beta);
        }
        self.target.clear();
        self.target.resize(d, T::ZERO);
        add_encoded(&mut self.target, alpha, p, beta, a, g);
        for (x, (wrong, &one)) in wrong_of(job, r).zip(&singles[1..]).enumerate() {
            let (alpha, beta) = apply_one(view, dp, p, wrong, a, one);
            add_encoded(&mut self.target, alpha, p, beta, a, wrong);
            if let Some(dw) = &mut out.dw {
                let at = ((r - first) * job.w + x) * d;
                let dw = &mut dw[at..at + d];
                dw.fill(T::ZERO);
                add_encoded(dw, alpha, p, beta, a, wrong);
            }
        }
        self.records.push_vector(target, &self.target);
    }
}

/// The W wrong context vectors (D) of row `r`.
fn wrong_of<'a, T>(job: &Job<'a, T>, r: usize) -> impl Iterator<Item = &'a [T]> {
    let (w, d) = (job.w, job.view.dim);
    job.wrong[r * w * d..(r + 1) * w * d].chunks_exact(d)
}

/// 1 / (|p| temperature)
#[inline(always)]
fn row_factor<T: Real>(view: &View<T>, p: &[T]) -> T {
    match view.kind {
        ScoreKind::Dot => T::ONE,
        ScoreKind::Cosine { temperature } => inverse_norm(vector::dot(p, p)) / T::from_f64(temperature),
    }
}

fn score_one<T: Real>(view: &View<T>, p: &[T], g: &[T], a: &[T]) -> Scored<T> {
    vector::fast(
        #[inline(always)]
        || {
            let (product, square) = pair(p, g, a);
            let inverse = if view.kind == ScoreKind::Dot { T::ONE } else { inverse_norm(square) };
            Scored { s: product * row_factor(view, p) * inverse, inverse, ds: T::ZERO }
        },
    )
}

/// Adds one score's share to `dp`; returns its alpha and beta.
fn apply_one<T: Real>(view: &View<T>, dp: &mut [T], p: &[T], g: &[T], a: &[T], one: Scored<T>) -> (T, T) {
    vector::fast(
        #[inline(always)]
        || {
            let (mut alpha, mut beta) = (one.ds, T::ZERO);
            if view.kind != ScoreKind::Dot {
                alpha = one.ds * row_factor(view, p) * one.inverse;
                beta = -one.ds * one.s * one.inverse * one.inverse;
                let q = inverse_norm(vector::dot(p, p));
                vector::axpy(dp, -one.ds * one.s * q * q, p);
            }
            vector::axpy(dp, alpha, a);
            vector::axpy(dp, alpha, g);
            (alpha, beta)
        },
    )
}

/// y += alpha p + beta (a + g); `g` may be empty.
fn add_encoded<T: Real>(y: &mut [T], alpha: T, p: &[T], beta: T, a: &[T], g: &[T]) {
    vector::fast(
        #[inline(always)]
        || {
            vector::axpy2(y, alpha, p, beta, a);
            vector::axpy(y, beta, g);
        },
    )
}

/// dp += sum over k of ds[k] a[ids[k]], four items to one pass over dp.
#[inline(always)]
fn combine<T: Real>(dp: &mut [T], view: &View<T>, ids: &[u32], ds: &[T]) {
    let whole = ids.len() - ids.len() % 4;
    for (id, c) in ids[..whole].chunks_exact(4).zip(ds.chunks_exact(4)) {
        let n = dp.len();
        let (a0, a1) = (&view.item(id[0])[..n], &view.item(id[1])[..n]);
        let (a2, a3) = (&view.item(id[2])[..n], &view.item(id[3])[..n]);
        for j in 0..n {
            dp[j] += (c[0] * a0[j] + c[1] * a1[j]) + (c[2] * a2[j] + c[3] * a3[j]);
        }
    }
    for (&id, &c) in ids[whole..].iter().zip(&ds[whole..]) {
        vector::axpy(dp, c, view.item(id));
    }
}
