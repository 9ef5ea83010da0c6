//! How a query scores items: dot product or cosine, under the context of the event to be predicted.
//!
//! With `p (R,D)` the query, `a (V,D)` the item table and `g (R,D)` the row's context vector (zero without context):
//!
//! ```text
//! dot:     s[r,i] = p[r] . (a[i] + g[r])
//! cosine:  s[r,i] = p[r] . (a[i] + g[r]) / (|p[r]| |a[i] + g[r]| temperature)
//! ```
//!
//! Because the item-in-context encoder is affine, `e(i,c) = a[i] + g(c)`, no encoder runs per (query, item) pair, and a
//! block of rows against a block of items is two matrix products: `p.a`, and for the cosine under a context `g.a`, from
//! which `|a+g|^2 = |a|^2 + 2 g.a + |g|^2`. The gradient of a score `s` with incoming `ds`, `e = a + g`:
//!
//! ```text
//! alpha = ds / (|p| |e| temperature)      beta = -ds s / |e|^2        (dot: alpha = ds, beta = 0)
//! de = alpha p + beta e                   dp = alpha e - (ds s / |p|^2) p
//! ```
//!
//! and since `da = de = dg`, a table gradient is two scalars per (row, item), never a vector.
//! A vector of norm zero has cosine zero and no gradient.
//! Source: CaNS (Seol and Choi, IEEE Access 2025, doi 10.1109/ACCESS.2025.3576124), encoder and cosine scoring.

use std::ops::Range;

use rayon::prelude::*;

use crate::device::{Buffer, Device, Mat, Real};
use crate::dispatch;
use crate::error::{Code, Error, Result};
use crate::ids;
use crate::ops::{matmul, vector};

/// The form of the score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScoreKind {
    Dot,
    Cosine { temperature: f64 },
}

/// Everything needed to score any item for any row.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    pub kind: ScoreKind,
    /// D
    pub dim: usize,
    /// V
    pub items: usize,
    /// p (R,D)
    pub query: &'a Buffer,
    /// g (R,D), the context vector of the event to be predicted.
    pub context: Option<&'a Buffer>,
    /// a (V,D)
    pub table: &'a Buffer,
}

/// s (R,V) = the score of every item for every row.
pub fn all(device: &Device, s: &mut Buffer, scoring: &Scoring) -> Result<()> {
    s.resize(device, scoring.rows() * scoring.items)?;
    dispatch!(device, T => { scoring.view::<T>()?.all(T::of_mut(s)?); Ok(()) }, _ => Err(no_kernel()))
}

/// s (R,M) = scores of each row's own list of items `ids (R,M)`; minus infinity where an id is `ids::NONE`.
pub fn gather(device: &Device, s: &mut Buffer, scoring: &Scoring, ids: &[u32]) -> Result<()> {
    let rows = scoring.rows();
    if rows == 0 || ids.is_empty() {
        return s.resize(device, 0);
    }
    if !ids.len().is_multiple_of(rows) || ids.iter().any(|&i| i as usize >= scoring.items && i != ids::NONE) {
        return Err(Error::internal("score: the candidate list does not fit the rows or the table"));
    }
    s.resize(device, ids.len())?;
    dispatch!(device, T => {
        let view = scoring.view::<T>()?;
        let m = ids.len() / rows;
        T::of_mut(s)?.par_chunks_mut(m).zip(ids.par_chunks(m)).enumerate().for_each(|(r, (s, ids))| view.row(r, ids, s));
        Ok(())
    }, _ => Err(no_kernel()))
}

/// Machines run none of this floor's operations in this version.
pub(crate) fn no_kernel() -> Error {
    Error::new(Code::G0502, "scoring and losses have no kernel on this device").help("use `--device host`")
}

impl<'a> Scoring<'a> {
    /// R
    pub fn rows(&self) -> usize {
        self.query.len().checked_div(self.dim).unwrap_or(0)
    }
    /// The same as slices of the plain path; fails when a shape does not fit.
    pub fn view<T: Real>(&self) -> Result<View<'a, T>> {
        let rows = self.rows();
        let fits = self.dim > 0
            && self.query.len() == rows * self.dim
            && self.table.len() == self.items * self.dim
            && self.context.is_none_or(|g| g.len() == rows * self.dim);
        if !fits {
            return Err(Error::internal("score: query, context or table has the wrong length"));
        }
        let context = self.context.map(T::of).transpose()?;
        Ok(View {
            kind: self.kind,
            dim: self.dim,
            items: self.items,
            query: T::of(self.query)?,
            context,
            table: T::of(self.table)?,
        })
    }
}

/// A [`Scoring`] on the host.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    pub kind: ScoreKind,
    pub dim: usize,
    pub items: usize,
    /// p (R,D)
    pub query: &'a [T],
    /// g (R,D)
    pub context: Option<&'a [T]>,
    /// a (V,D)
    pub table: &'a [T],
}

/// 1 / sqrt(square), and zero for a vector that is zero but for rounding.
#[inline(always)]
pub fn inverse_norm<T: Real>(square: T) -> T {
    if square > T::from_f64(1e-30) { T::ONE / square.sqrt() } else { T::ZERO }
}

/// (p.(a+g), |a+g|^2) in one pass; `g` may be empty. To be called inside `vector::fast`.
#[inline(always)]
pub fn pair<T: Real>(p: &[T], g: &[T], a: &[T]) -> (T, T) {
    const LANES: usize = 16;
    let n = p.len();
    let (a, g) = (&a[..n], if g.is_empty() { g } else { &g[..n] });
    let (mut product, mut square) = ([T::ZERO; LANES], [T::ZERO; LANES]);
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        let (p, a) = (&p[i..i + LANES], &a[i..i + LANES]);
        if g.is_empty() {
            for j in 0..LANES {
                product[j] += p[j] * a[j];
                square[j] += a[j] * a[j];
            }
        } else {
            let g = &g[i..i + LANES];
            for j in 0..LANES {
                let e = a[j] + g[j];
                product[j] += p[j] * e;
                square[j] += e * e;
            }
        }
        i += LANES;
    }
    for i in whole..n {
        let e = if g.is_empty() { a[i] } else { a[i] + g[i] };
        product[i - whole] += p[i] * e;
        square[i - whole] += e * e;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for j in 0..width {
            product[j] += product[j + width];
            square[j] += square[j + width];
        }
        width /= 2;
    }
    (product[0], square[0])
}

impl<'a, T: Real> View<'a, T> {
    /// p[r] (D)
    #[inline(always)]
    pub fn query_of(&self, r: usize) -> &'a [T] {
        &self.query[r * self.dim..(r + 1) * self.dim]
    }
    /// g[r] (D), empty without context.
    #[inline(always)]
    pub fn context_of(&self, r: usize) -> &'a [T] {
        self.context.map_or(&[], |g| &g[r * self.dim..(r + 1) * self.dim])
    }
    /// a[i] (D)
    #[inline(always)]
    pub fn item(&self, i: u32) -> &'a [T] {
        &self.table[i as usize * self.dim..(i as usize + 1) * self.dim]
    }
    /// s (M) = scores of row `r` for the listed items, by gathered dot products; minus infinity for `ids::NONE`.
    pub fn row(&self, r: usize, ids: &[u32], s: &mut [T]) {
        let (p, g) = (self.query_of(r), self.context_of(r));
        match self.kind {
            ScoreKind::Dot => vector::fast(
                #[inline(always)]
                || {
                    let base = vector::dot(p, g);
                    for (s, &i) in s.iter_mut().zip(ids) {
                        *s = if i == ids::NONE { T::NEG_INFINITY } else { vector::dot(p, self.item(i)) + base };
                    }
                },
            ),
            ScoreKind::Cosine { temperature } => vector::fast(
                #[inline(always)]
                || {
                    let c = inverse_norm(vector::dot(p, p)) / T::from_f64(temperature);
                    for (s, &i) in s.iter_mut().zip(ids) {
                        if i == ids::NONE {
                            *s = T::NEG_INFINITY;
                        } else {
                            let (product, square) = pair(p, g, self.item(i));
                            *s = product * c * inverse_norm(square);
                        }
                    }
                },
            ),
        }
    }
    /// The rows `rows` against the items `items`.
    pub fn tile(&self, rows: Range<usize>, items: Range<usize>) -> Tile<'a, T> {
        let d = self.dim;
        Tile {
            kind: self.kind,
            dim: d,
            p: &self.query[rows.start * d..rows.end * d],
            g: self.context.map(|g| &g[rows.start * d..rows.end * d]),
            a: &self.table[items.start * d..items.end * d],
        }
    }
    /// s (R,V), in blocks of rows that bound the working memory of the cosine.
    pub fn all(&self, s: &mut [T]) {
        if self.items == 0 {
            return;
        }
        let rows = self.query.len() / self.dim;
        let block = ((1 << 22) / self.items).clamp(96, 1024);
        let mut norms = Norms::default();
        for (i, s) in s[..rows * self.items].chunks_mut(block * self.items).enumerate() {
            let first = i * block;
            self.tile(first..first + s.len() / self.items, 0..self.items).scores(s, &mut norms);
        }
    }
}

/// A block of `m` rows scored against a block of `n` items by matrix products.
#[derive(Clone, Copy)]
pub struct Tile<'a, T> {
    pub kind: ScoreKind,
    pub dim: usize,
    /// p (m,D)
    pub p: &'a [T],
    /// g (m,D)
    pub g: Option<&'a [T]>,
    /// a (n,D)
    pub a: &'a [T],
}

/// What the cosine's backward needs from its forward; reusable.
#[derive(Default)]
pub struct Norms<T> {
    /// (m) 1/|p|
    query: Vec<T>,
    /// (n) |a|^2, without context 1/|a|
    item: Vec<T>,
    /// (m,n) 1/|a+g|, empty without context
    pair: Vec<T>,
}

impl<T: Real> Tile<'_, T> {
    fn rows(&self) -> usize {
        self.p.len() / self.dim
    }
    fn items(&self) -> usize {
        self.a.len() / self.dim
    }
    /// Rows handled by one task of an elementwise loop over (m,n).
    fn rows_per_task(&self) -> usize {
        ((1 << 14) / self.items().max(1)).clamp(1, 64)
    }

    /// s (m,n) = scores.
    pub fn scores(&self, s: &mut [T], norms: &mut Norms<T>) {
        let (m, n, d) = (self.rows(), self.items(), self.dim);
        if m == 0 || n == 0 {
            return;
        }
        let items = Mat::new(self.a, d).t();
        matmul::rows(s, Mat::new(self.p, d), items, [m, n, d], false);
        let task = self.rows_per_task();
        match self.kind {
            ScoreKind::Dot => {
                let Some(g) = self.g else { return };
                s.par_chunks_mut(task * n).zip(self.p.par_chunks(task * d)).zip(g.par_chunks(task * d)).for_each(
                    |((s, p), g)| {
                        vector::fast(
                            #[inline(always)]
                            || {
                                for ((s, p), g) in s.chunks_exact_mut(n).zip(p.chunks_exact(d)).zip(g.chunks_exact(d)) {
                                    let base = vector::dot(p, g);
                                    s.iter_mut().for_each(|s| *s += base);
                                }
                            },
                        )
                    },
                );
            }
            ScoreKind::Cosine { temperature } => self.cosines(s, norms, temperature),
        }
    }

    /// Turns p.a in `s` into cosines over the temperature.
    fn cosines(&self, s: &mut [T], norms: &mut Norms<T>, temperature: f64) {
        let (m, n, d) = (self.rows(), self.items(), self.dim);
        let task = self.rows_per_task();
        let heat = T::ONE / T::from_f64(temperature);
        norms.query.resize(m, T::ZERO);
        norms.item.resize(n, T::ZERO);
        let squares = |to: &mut [T], of: &[T]| {
            to.par_chunks_mut(256).zip(of.par_chunks(256 * d)).for_each(|(to, of)| {
                vector::fast(
                    #[inline(always)]
                    || to.iter_mut().zip(of.chunks_exact(d)).for_each(|(t, x)| *t = vector::dot(x, x)),
                )
            });
        };
        squares(&mut norms.query, self.p);
        norms.query.iter_mut().for_each(|q| *q = inverse_norm(*q));
        squares(&mut norms.item, self.a);
        let Some(g) = self.g else {
            norms.pair.clear();
            norms.item.iter_mut().for_each(|a| *a = inverse_norm(*a));
            let (query, item) = (&norms.query, &norms.item);
            s.par_chunks_mut(task * n).zip(query.par_chunks(task)).for_each(|(s, query)| {
                vector::fast(
                    #[inline(always)]
                    || {
                        for (s, &q) in s.chunks_exact_mut(n).zip(query) {
                            let c = q * heat;
                            s.iter_mut().zip(item).for_each(|(s, &a)| *s *= c * a);
                        }
                    },
                )
            });
            return;
        };
        norms.pair.resize(m * n, T::ZERO);
        matmul::rows(&mut norms.pair, Mat::new(g, d), Mat::new(self.a, d).t(), [m, n, d], false);
        let (query, item) = (&norms.query, &norms.item);
        // |a|^2 + 2 g.a + |g|^2 cancels where a is nearly -g; below this share of the sum it is rounding, not a norm.
        let floor = T::from_f64(1e-6);
        s.par_chunks_mut(task * n)
            .zip(norms.pair.par_chunks_mut(task * n))
            .zip(query.par_chunks(task))
            .zip(self.p.par_chunks(task * d))
            .zip(g.par_chunks(task * d))
            .for_each(|((((s, pair), query), p), g)| {
                vector::fast(
                    #[inline(always)]
                    || {
                        for (r, (s, pair)) in s.chunks_exact_mut(n).zip(pair.chunks_exact_mut(n)).enumerate() {
                            let (p, g) = (&p[r * d..(r + 1) * d], &g[r * d..(r + 1) * d]);
                            let (base, square) = (vector::dot(p, g), vector::dot(g, g));
                            let c = query[r] * heat;
                            for ((s, w), &a) in s.iter_mut().zip(pair).zip(item) {
                                let sum = a + square;
                                let e = sum + *w + *w;
                                let e = if e > floor * sum { e } else { floor * sum };
                                *w = inverse_norm(e);
                                *s = (*s + base) * c * *w;
                            }
                        }
                    },
                )
            });
    }

    /// Gradients of the block. On entry `d (m,n)` holds ds and, for the cosine, `s (m,n)` the scores (unused and possibly
    /// empty for the dot product); both are overwritten. dp (m,D) and dg (m,D) are overwritten, da (n,D) added to.
    pub fn backward(&self, dp: &mut [T], dg: Option<&mut [T]>, da: &mut [T], d: &mut [T], s: &mut [T], norms: &Norms<T>) {
        let (m, n, dim) = (self.rows(), self.items(), self.dim);
        if m == 0 || n == 0 {
            dp.fill(T::ZERO);
            dg.into_iter().for_each(|dg| dg.fill(T::ZERO));
            return;
        }
        // Per row: sums of alpha and beta, and the coefficient of p in dp.
        let sums = self.coefficients(d, s, norms);
        let table = Mat::new(self.a, dim);
        matmul::rows(dp, Mat::new(d, n), table, [m, dim, n], false);
        matmul::rows(da, Mat::new(d, n).t(), Mat::new(self.p, dim), [n, dim, m], true);
        let cosine = self.kind != ScoreKind::Dot;
        let mut dg = dg;
        if let Some(dg) = &mut dg {
            if cosine {
                matmul::rows(dg, Mat::new(s, n), table, [m, dim, n], false);
            } else {
                dg.fill(T::ZERO);
            }
        }
        if let Some(g) = self.g.filter(|_| cosine) {
            matmul::rows(da, Mat::new(s, n).t(), Mat::new(g, dim), [n, dim, m], true);
        }
        for (r, &[alpha, beta, gamma]) in sums.iter().enumerate() {
            let row = r * dim..(r + 1) * dim;
            let p = &self.p[row.clone()];
            vector::fast(
                #[inline(always)]
                || {
                    vector::axpy(&mut dp[row.clone()], gamma, p);
                    if let Some(g) = self.g {
                        vector::axpy(&mut dp[row.clone()], alpha, &g[row.clone()]);
                        if let Some(dg) = &mut dg {
                            vector::axpy2(&mut dg[row.clone()], alpha, p, beta, &g[row.clone()]);
                        }
                    }
                },
            );
        }
        if cosine {
            self.add_item_terms(da, s);
        }
    }

    /// Replaces ds in `d` by alpha and the scores in `s` by beta; per row returns `[sum alpha, sum beta, coefficient of p]`.
    fn coefficients(&self, d: &mut [T], s: &mut [T], norms: &Norms<T>) -> Vec<[T; 3]> {
        let (m, n) = (self.rows(), self.items());
        let task = self.rows_per_task();
        let mut sums = vec![[T::ZERO; 3]; m];
        let ScoreKind::Cosine { temperature } = self.kind else {
            if self.g.is_some() {
                sums.par_chunks_mut(task).zip(d.par_chunks(task * n)).for_each(|(sums, d)| {
                    vector::fast(
                        #[inline(always)]
                        || sums.iter_mut().zip(d.chunks_exact(n)).for_each(|(s, d)| s[0] = vector::sum(d)),
                    )
                });
            }
            return sums;
        };
        let heat = T::ONE / T::from_f64(temperature);
        let s = &mut s[..m * n];
        sums.par_chunks_mut(task).zip(d.par_chunks_mut(task * n)).zip(s.par_chunks_mut(task * n)).enumerate().for_each(
            |(i, ((sums, d), s))| {
                vector::fast(
                    #[inline(always)]
                    || {
                        for (r, ((sums, d), s)) in
                            sums.iter_mut().zip(d.chunks_exact_mut(n)).zip(s.chunks_exact_mut(n)).enumerate()
                        {
                            let r = i * task + r;
                            let q = norms.query[r];
                            let inverse = if norms.pair.is_empty() { &norms.item[..] } else { &norms.pair[r * n..(r + 1) * n] };
                            let gamma = -vector::dot(d, s) * q * q;
                            let c = q * heat;
                            for ((d, s), &e) in d.iter_mut().zip(s.iter_mut()).zip(inverse) {
                                *s = -*d * *s * e * e;
                                *d *= c * e;
                            }
                            *sums = [vector::sum(d), vector::sum(s), gamma];
                        }
                    },
                )
            },
        );
        sums
    }

    /// da += (sum over rows of beta) a
    fn add_item_terms(&self, da: &mut [T], beta: &[T]) {
        const ITEMS: usize = 512;
        let (n, dim) = (self.items(), self.dim);
        da.par_chunks_mut(ITEMS * dim).zip(self.a.par_chunks(ITEMS * dim)).enumerate().for_each(|(i, (da, a))| {
            vector::fast(
                #[inline(always)]
                || {
                    let (first, count) = (i * ITEMS, a.len() / dim);
                    let mut sums = [T::ZERO; ITEMS];
                    for row in beta.chunks_exact(n) {
                        vector::add(&mut sums[..count], &row[first..first + count]);
                    }
                    for ((da, a), &sum) in da.chunks_exact_mut(dim).zip(a.chunks_exact(dim)).zip(&sums) {
                        vector::axpy(da, sum, a);
                    }
                },
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draws, Stream, normal2};

    fn noise(lane: u8, n: usize) -> Vec<f64> {
        let draws = Draws::new(11, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect()
    }

    const KINDS: [ScoreKind; 2] = [ScoreKind::Dot, ScoreKind::Cosine { temperature: 0.3 }];
    /// (R, V, D)
    const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [3, 17, 16], [33, 5, 31], [7, 130, 65], [101, 600, 8]];

    /// The formula, one pair at a time.
    fn naive(kind: ScoreKind, p: &[f64], g: &[f64], a: &[f64]) -> f64 {
        let e: Vec<f64> = a.iter().enumerate().map(|(j, &a)| a + g.get(j).copied().unwrap_or(0.0)).collect();
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        match kind {
            ScoreKind::Dot => dot(p, &e),
            ScoreKind::Cosine { temperature } => dot(p, &e) / (dot(p, p).sqrt() * dot(&e, &e).sqrt() * temperature),
        }
    }

    #[test]
    fn tiles_and_lists_agree_with_the_formula() {
        for kind in KINDS {
            for [r, v, d] in SHAPES {
                for with_context in [false, true] {
                    let (p, g, a) = (noise(0, r * d), noise(1, r * d), noise(2, v * d));
                    let view =
                        View { kind, dim: d, items: v, query: &p[..], context: with_context.then_some(&g[..]), table: &a[..] };
                    let mut s = vec![0.0; r * v];
                    view.all(&mut s);
                    let ids: Vec<u32> = (0..v as u32).chain([ids::NONE]).collect();
                    let mut list = vec![0.0; v + 1];
                    for row in 0..r {
                        view.row(row, &ids, &mut list);
                        assert_eq!(list[v], f64::NEG_INFINITY);
                        for i in 0..v {
                            let want = naive(kind, view.query_of(row), view.context_of(row), view.item(i as u32));
                            // The tile's |a+g|^2 cancels; nothing here is closer to opposite than one part in 1e4.
                            assert!((s[row * v + i] - want).abs() < 1e-9, "{kind:?} {r} {v} {d}");
                            assert!((list[i] - want).abs() < 1e-12 * (1.0 + d as f64));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_gradient_of_a_tile_is_the_derivative_of_its_scores() {
        for kind in KINDS {
            for [r, v, d] in [[1, 1, 2], [3, 17, 16], [6, 5, 31]] {
                for with_context in [false, true] {
                    let (p, g, a, weight) = (noise(0, r * d), noise(1, r * d), noise(2, v * d), noise(3, r * v));
                    let loss = |p: &[f64], g: &[f64], a: &[f64]| -> f64 {
                        (0..r * v)
                            .map(|x| {
                                let (row, i) = (x / v * d, x % v * d);
                                let g = if with_context { &g[row..row + d] } else { &[] };
                                weight[x] * naive(kind, &p[row..row + d], g, &a[i..i + d])
                            })
                            .sum()
                    };
                    let tile = Tile { kind, dim: d, p: &p[..], g: with_context.then_some(&g[..]), a: &a[..] };
                    let (mut s, mut norms) = (vec![0.0; r * v], Norms::default());
                    tile.scores(&mut s, &mut norms);
                    let (mut dp, mut dg, mut da) = (vec![7.0; r * d], vec![7.0; r * d], vec![1.0; v * d]);
                    tile.backward(&mut dp, with_context.then_some(&mut dg[..]), &mut da, &mut weight.clone(), &mut s, &norms);
                    let h = 1e-5;
                    let check = |got: &[f64], offset: f64, at: &dyn Fn(usize, f64) -> f64| {
                        for (j, &got) in got.iter().enumerate() {
                            let want = (at(j, h) - at(j, -h)) / (2.0 * h);
                            assert!((got - offset - want).abs() < 1e-6 * (1.0 + want.abs()), "{kind:?} {j}: {got} {want}");
                        }
                    };
                    let moved = |x: &[f64], j: usize, h: f64| {
                        let mut x = x.to_vec();
                        x[j] += h;
                        x
                    };
                    check(&dp, 0.0, &|j, h| loss(&moved(&p, j, h), &g, &a));
                    check(&da, 1.0, &|j, h| loss(&p, &g, &moved(&a, j, h)));
                    if with_context {
                        check(&dg, 0.0, &|j, h| loss(&p, &moved(&g, j, h), &a));
                    }
                }
            }
        }
    }

    #[test]
    fn a_zero_vector_scores_zero_and_pulls_nothing() {
        let (p, a) = ([0f32; 4], [1f32, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let kind = ScoreKind::Cosine { temperature: 0.1 };
        let tile = Tile { kind, dim: 4, p: &p[..], g: None, a: &a[..] };
        let (mut s, mut norms) = ([9f32; 2], Norms::default());
        tile.scores(&mut s, &mut norms);
        assert_eq!(s, [0.0, 0.0]);
        let (mut dp, mut da) = ([9f32; 4], [0f32; 8]);
        tile.backward(&mut dp, None, &mut da, &mut [1.0, 1.0], &mut s, &norms);
        assert!(dp == [0.0; 4] && da == [0.0; 8]);
    }
}
