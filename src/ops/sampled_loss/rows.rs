//! One block of rows of a sampled loss: score, ask the loss, multiply back, write records.

use std::ops::Range;

use super::{Job, LossReal, RowFacts};
use crate::device::Real;
use crate::ids;
use crate::ops::negatives::Negatives;
use crate::ops::score::{ScoreKind, View, inverse_norm, pair};
use crate::ops::table_gradient::Block;
use crate::ops::tile::{Norms, Tile};
use crate::ops::vector;

/// Fewest rows of a group that are worth gathering its items for matrix products.
const SHARED: usize = 4;

/// The activation gradients of one block of rows.
pub struct Outputs<'a, T> {
    pub dp: &'a mut [T],
    pub dg: Option<&'a mut [T]>,
    pub dw: Option<&'a mut [T]>,
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
pub struct Work<T> {
    pub records: Block<T>,
    pub loss: f64,
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
    pub fn new(records: Block<T>) -> Work<T> {
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

    /// Rows `rows`, whose outputs begin at the first of them.
    pub fn rows(&mut self, job: &Job<T>, rows: Range<usize>, out: &mut Outputs<T>) {
        self.records.clear();
        self.loss = 0.0;
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
            self.finish_row(job, r, k);
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
        let mut drawn = 0;
        for (j, &id) in n.ids_of(group).iter().enumerate().filter(|(_, id)| **id != ids::NONE) {
            drawn += 1;
            if n.drop.is_empty() || !n.drop[r * n.n + j] {
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
        self.finish_row(job, r, drawn);
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
                    vector::add_rows(dp, ds, view.table, kept);
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

    /// Scores the positive and the wrong contexts, and asks the loss; `scores`, `log_q` and `weight` hold the negatives that count of
    /// those `drawn`.
    fn finish_row(&mut self, job: &Job<T>, r: usize, drawn: usize) {
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
        let toward = n.toward_positive.get(r).map_or(T::ZERO, |&a| T::from_f64(f64::from(a)));
        let stays = T::ONE - toward;
        if toward > T::ZERO {
            let pull = toward * self.singles[0].s;
            self.scores[..k].iter_mut().for_each(|s| *s = pull + stays * *s);
        }
        self.d_scores.resize(k + job.w, T::ZERO);
        let facts = RowFacts { drawn, log_q: &self.log_q, weight: &self.weight };
        let (loss, d_positive) = T::row(job.loss, self.singles[0].s, &self.scores, facts, &mut self.d_scores);
        let counts = n.row_weight.get(r).map_or(T::ONE, |&w| T::from_f64(f64::from(w)));
        let scale = job.scale * counts;
        self.loss += (loss * counts).f64();
        self.d_scores.iter_mut().for_each(|d| *d *= scale);
        self.singles[0].ds = d_positive * scale;
        if toward > T::ZERO {
            self.singles[0].ds += toward * vector::sum(&self.d_scores[..k]);
            self.d_scores[..k].iter_mut().for_each(|d| *d *= stays);
        }
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
