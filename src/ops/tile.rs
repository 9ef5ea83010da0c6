//! A block of rows scored against a block of items by matrix products, and the gradient of that (`ops/score.rs` has the
//! formulas).
//!
//! ```text
//! forward    s = P A^T;   cosine under a context also w = G A^T, for |a+g|^2 = |a|^2 + 2 w + |g|^2
//! backward   dP = alpha A + (sum_i alpha) g - (sum_i ds s / |p|^2) p
//!            dG = beta A + (sum_i alpha) p + (sum_i beta) g
//!            dA += alpha^T P + beta^T G + (sum_r beta) a
//! ```
//!
//! Cost for an (m,n) block: three products of `2 m n D` flops, six for the cosine under a context. Loops inside are split
//! over threads by fixed sizes, so a tile may be the only work or one of many.

use rayon::prelude::*;

use crate::device::{Mat, Real};
use crate::ops::score::{ScoreKind, inverse_norm};
use crate::ops::{matmul, vector};

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

/// [`matmul::rows`] or [`matmul::rows_alike`].
type Product<T> = fn(&mut [T], Mat<T>, Mat<T>, [usize; 3], bool);

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
        self.scores_by(matmul::rows, s, norms);
    }
    /// The same, and the bits of a row's scores do not depend on the other rows.
    pub fn scores_alike(&self, s: &mut [T], norms: &mut Norms<T>) {
        self.scores_by(matmul::rows_alike, s, norms);
    }

    fn scores_by(&self, product: Product<T>, s: &mut [T], norms: &mut Norms<T>) {
        let (m, n, d) = (self.rows(), self.items(), self.dim);
        if m == 0 || n == 0 {
            return;
        }
        let items = Mat::new(self.a, d).t();
        product(s, Mat::new(self.p, d), items, [m, n, d], false);
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
            ScoreKind::Cosine { temperature } => self.cosines(product, s, norms, temperature),
        }
    }

    /// Turns p.a in `s` into cosines over the temperature.
    fn cosines(&self, product: Product<T>, s: &mut [T], norms: &mut Norms<T>, temperature: f64) {
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
        product(&mut norms.pair, Mat::new(g, d), Mat::new(self.a, d).t(), [m, n, d], false);
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
    use crate::ops::central::{check, noise};
    use crate::ops::score::tests::{KINDS, naive};

    #[test]
    fn the_gradient_of_a_tile_is_the_derivative_of_its_scores() {
        for kind in KINDS {
            for [r, v, d] in [[1, 1, 2], [3, 17, 16], [6, 5, 31]] {
                for with_context in [false, true] {
                    let context = if with_context { r * d } else { 0 };
                    let inputs = [noise(0, r * d), noise(1, context), noise(2, v * d)];
                    let weight = noise(3, r * v);
                    let [p, g, a] = &inputs;
                    let tile = Tile { kind, dim: d, p, g: with_context.then_some(&g[..]), a };
                    let (mut s, mut norms) = (vec![0.0; r * v], Norms::default());
                    tile.scores(&mut s, &mut norms);
                    let (mut dp, mut dg, mut da) = (vec![7.0; r * d], vec![7.0; context], vec![1.0; v * d]);
                    let dg_out = with_context.then_some(&mut dg[..]);
                    tile.backward(&mut dp, dg_out, &mut da, &mut weight.clone(), &mut s, &norms);
                    da.iter_mut().for_each(|da| *da -= 1.0);
                    check(&inputs, &[dp, dg, da], |inputs| {
                        let pairs = (0..r * v).map(|x| (x, x / v * d, x % v * d));
                        let score = |row: usize, i: usize| {
                            let g = if with_context { &inputs[1][row..row + d] } else { &[] };
                            naive(kind, &inputs[0][row..row + d], g, &inputs[2][i..i + d])
                        };
                        pairs.map(|(x, row, i)| weight[x] * score(row, i)).sum()
                    });
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
