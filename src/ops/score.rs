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
//! block of rows is scored against a block of items by matrix products (`ops/tile.rs`). The gradient of a score `s` with incoming `ds`, `e = a + g`:
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

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime, upload};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ids;
use crate::ops::case::{self, Case, Output};
use crate::ops::scan::{self, Tiles};
use crate::ops::tile::{Norms, Tile};
use crate::ops::vector;

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

/// Products in a score of many rows and items: the cosine under a context also needs `|a + g|`, of other pairs.
pub fn products(kind: ScoreKind, context: bool) -> u64 {
    if kind != ScoreKind::Dot && context { 2 } else { 1 }
}

/// s (R,V) = the score of every item for every row.
pub fn all(device: &Device, s: &mut Buffer, scoring: &Scoring) -> Result<()> {
    s.resize(device, scoring.rows() * scoring.items)?;
    dispatch!(device, T => { scoring.view::<T>()?.all(T::of_mut(s)?); Ok(()) }, runtime => all_on(&**runtime, s, scoring))
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
    }, runtime => gather_on(&**runtime, s, scoring, &upload(&**runtime, ids)?, ids.len() / rows))
}

fn all_on(runtime: &dyn Runtime, s: &mut Buffer, scoring: &Scoring) -> Result<()> {
    scoring.check()?;
    let (rows, items) = (scoring.rows(), scoring.items);
    if rows == 0 || items == 0 {
        return Ok(());
    }
    let tiles = Tiles::scores(scoring, 0)?;
    let blocks = [items.div_ceil(tiles.stream) as u32, rows.div_ceil(tiles.own) as u32, 1];
    let args = &mut [
        Arg::Out(s),
        Arg::In(scoring.query),
        scan::context(scoring),
        Arg::In(scoring.table),
        Arg::U32(rows as u32),
        Arg::U32(items as u32),
        Arg::F32(scan::heat(scoring)),
    ];
    let grid = Grid { blocks, threads: 128, shared_bytes: tiles.shared_bytes };
    runtime.launch(&Kernel::new("score", "score_all", &tiles.defines), grid, args)
}

/// s (R,M) of ids (R,M) that are on the machine already and within the table.
pub(crate) fn gather_on(runtime: &dyn Runtime, s: &mut Buffer, scoring: &Scoring, ids: &Buffer, m: usize) -> Result<()> {
    gather_rows_on(runtime, s, scoring, Arg::In(ids), m, 0..scoring.rows())
}

/// The same of some rows, whose `ids (rows,M)` and scores these are.
pub(crate) fn gather_rows_on(
    runtime: &dyn Runtime,
    s: &mut Buffer,
    scoring: &Scoring,
    ids: Arg,
    m: usize,
    rows: Range<usize>,
) -> Result<()> {
    /// Entries of a list that a warp takes.
    const RUN: usize = 64;
    scoring.check()?;
    let (from, rows) = (4 * rows.start * scoring.dim, rows.len());
    let args = &mut [
        Arg::Out(s),
        Arg::InFrom(scoring.query, from),
        scoring.context.map_or(Arg::None, |context| Arg::InFrom(context, from)),
        Arg::In(scoring.table),
        ids,
        Arg::U32(rows as u32),
        Arg::U32(m as u32),
        Arg::F32(scan::heat(scoring)),
    ];
    let kernel = Kernel::new("score", "score_gather", &scan::gathered(scoring, false)?);
    runtime.launch(&kernel, Grid::row((rows * m.div_ceil(RUN)).div_ceil(4), 128), args)
}

/// Each form of the score: name, kind, whether a context is given.
pub(crate) const FORMS: [(&str, ScoreKind, bool); 4] = [
    ("dot", ScoreKind::Dot, false),
    ("dot, context", ScoreKind::Dot, true),
    ("cosine", ScoreKind::Cosine { temperature: 0.3 }, false),
    ("cosine, context", ScoreKind::Cosine { temperature: 0.3 }, true),
];

/// Every other form: a shape meets a dot product and a cosine, a form half of the shapes. All pairs would only compile longer.
pub(crate) fn forms(turn: usize) -> impl Iterator<Item = (&'static str, ScoreKind, bool)> {
    [[0, 3], [1, 2]][turn % 2].into_iter().map(|form| FORMS[form])
}

/// The buffers of a case.
pub(crate) struct Inputs {
    pub query: Buffer,
    pub context: Option<Buffer>,
    pub table: Buffer,
    pub dim: usize,
    pub items: usize,
    pub kind: ScoreKind,
}

impl Inputs {
    /// Normal numbers of shape `[R, V, D]`, smaller where D is large so that a softmax of the scores is not a point; with
    /// `exact` they are rounded to eighths, whose dot products have no rounding: ties are then decided by the rule alone.
    pub fn new(device: &Device, [r, v, d]: [usize; 3], kind: ScoreKind, with_context: bool, exact: bool) -> Result<Inputs> {
        let size = (d as f64).powf(-0.25);
        let noise = |lane, n| {
            let mut x = case::noise(lane, n);
            x.iter_mut().for_each(|x| *x = if exact { (*x * 8.0).round() / 8.0 } else { *x * size });
            device.reals(&x)
        };
        let context = with_context.then(|| noise(1, r * d)).transpose()?;
        Ok(Inputs { query: noise(0, r * d)?, context, table: noise(2, v * d)?, dim: d, items: v, kind })
    }
    /// The same, rounded to bf16.
    pub fn in_bf16(mut self, device: &Device) -> Result<Inputs> {
        for buffer in [&mut self.query, &mut self.table].into_iter().chain(&mut self.context) {
            let rounded = |x: f64| f64::from(half::bf16::from_f32(x as f32).to_f32());
            *buffer = device.reals(&buffer.to_f64(device)?.into_iter().map(rounded).collect::<Vec<f64>>())?;
        }
        Ok(self)
    }
    pub fn scoring(&self) -> Scoring<'_> {
        Scoring {
            kind: self.kind,
            dim: self.dim,
            items: self.items,
            query: &self.query,
            context: self.context.as_ref(),
            table: &self.table,
        }
    }
}

pub fn cases() -> Vec<Case> {
    /// (R, V, D)
    const SHAPES: [[usize; 3]; 6] = [[1, 1, 1], [3, 63, 16], [33, 5, 31], [65, 131, 64], [63, 65, 128], [5, 33, 512]];
    /// (R, V, D) and M
    const LISTS: [([usize; 3], usize); 5] =
        [([1, 1, 1], 1), ([3, 40, 31], 65), ([5, 17, 64], 1), ([2, 9, 200], 63), ([3, 9, 512], 7)];
    let mut cases = Vec::new();
    for (turn, shape) in SHAPES.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            cases.push(Case::new("score", format!("all, {form}, R {r}, V {v}, D {d}"), move |device| {
                let inputs = Inputs::new(device, shape, kind, with_context, false)?;
                let mut s = Buffer::empty(device);
                all(device, &mut s, &inputs.scoring())?;
                Ok(vec![Output::reals("s", device, &s)?])
            }));
        }
    }
    for (turn, (shape, m)) in LISTS.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            cases.push(Case::new("score", format!("lists of {m}, {form}, R {r}, V {v}, D {d}"), move |device| {
                let inputs = Inputs::new(device, shape, kind, with_context, false)?;
                let mut ids = case::ids(3, r * m, v);
                ids.iter_mut().step_by(7).for_each(|i| *i = ids::NONE);
                let mut s = Buffer::empty(device);
                gather(device, &mut s, &inputs.scoring(), &ids)?;
                Ok(vec![Output::reals("s", device, &s)?])
            }));
        }
    }
    cases
}

impl<'a> Scoring<'a> {
    /// R
    pub fn rows(&self) -> usize {
        self.query.len().checked_div(self.dim).unwrap_or(0)
    }
    /// Fails when a shape does not fit.
    pub(crate) fn check(&self) -> Result<()> {
        let rows = self.rows();
        let fits = self.dim > 0
            && self.query.len() == rows * self.dim
            && self.table.len() == self.items * self.dim
            && self.context.is_none_or(|g| g.len() == rows * self.dim);
        if !fits {
            return Err(Error::internal("score: query, context or table has the wrong length"));
        }
        Ok(())
    }
    /// The same as slices of the plain path; fails when a shape does not fit.
    pub fn view<T: Real>(&self) -> Result<View<'a, T>> {
        self.check()?;
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
    if g.is_empty() { (vector::dot(p, a), vector::dot(a, a)) } else { T::encoded_of(p, g, a) }
}

impl<'a, T: Real> View<'a, T> {
    /// `p[r]` (D)
    #[inline(always)]
    pub fn query_of(&self, r: usize) -> &'a [T] {
        &self.query[r * self.dim..(r + 1) * self.dim]
    }
    /// `g[r]` (D), empty without context.
    #[inline(always)]
    pub fn context_of(&self, r: usize) -> &'a [T] {
        self.context.map_or(&[], |g| &g[r * self.dim..(r + 1) * self.dim])
    }
    /// `a[i]` (D)
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
    /// s (R,V), in blocks of rows that bound the working memory of the cosine. The bits of a row's scores do not depend on the other
    /// rows: nobody's list or rank depends on who else is asked for.
    pub fn all(&self, s: &mut [T]) {
        if self.items == 0 {
            return;
        }
        let rows = self.query.len() / self.dim;
        let block = ((1 << 22) / self.items).clamp(96, 1024);
        let mut norms = Norms::default();
        for (i, s) in s[..rows * self.items].chunks_mut(block * self.items).enumerate() {
            let first = i * block;
            self.tile(first..first + s.len() / self.items, 0..self.items).scores_alike(s, &mut norms);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ops::central::noise;

    pub const KINDS: [ScoreKind; 2] = [ScoreKind::Dot, ScoreKind::Cosine { temperature: 0.3 }];
    /// (R, V, D)
    const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [3, 17, 16], [33, 5, 31], [7, 130, 65], [101, 600, 8]];

    /// The formula, one pair at a time.
    pub fn naive(kind: ScoreKind, p: &[f64], g: &[f64], a: &[f64]) -> f64 {
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
}
