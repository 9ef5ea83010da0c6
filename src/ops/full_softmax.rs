//! Cross-entropy over the whole catalogue, without the (R,V) matrix of scores.
//!
//! ```text
//! loss = scale sum over rows r of ( ln sum over i of exp s[r,i]  -  s[r, target[r]] )
//! ds[r,i] = scale (softmax(s[r])[i] - [i = target[r]])
//! ```
//!
//! Rows are taken in tiles whose scores fit a cache; each tile is scored by a matrix product, turned into `ds` in place
//! and multiplied back into `dp`, `dg` and the table gradient (`ops/tile.rs`) before the next tile begins. Within a tile
//! every product is split over rows or items, so tiles add to the table gradient in order and no copy of it is needed.
//!
//! Cost: `6 R V D` flops (twice the products for the cosine under a context) and one exponential per score.

use rayon::prelude::*;

use crate::device::places::Rounding;
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Real, Runtime, Scalar};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::{Cost, Operation, product};
use crate::ops::sampled_loss::Gradients;
use crate::ops::scan::{self, Tiles};
use crate::ops::score::{Inputs, ScoreKind, Scoring, forms};
use crate::ops::tile::Norms;
use crate::ops::vector;
use crate::ops::{loss_total, matmul};

/// Scores of one tile: 4 MB of f32, a share of the last cache level.
const TILE: usize = 1 << 20;

/// Rows of a tile: at least 32, since each tile reads and writes the whole table gradient once.
fn tile_rows(items: usize) -> usize {
    (TILE / items.max(1)).clamp(32, 512)
}

/// Bytes the plain path takes for a moment: the scores of one tile and what the cosine keeps beside them.
pub fn bytes(items: usize, dim: usize, rows: usize, cosine: bool, context: bool) -> u64 {
    let rows = tile_rows(items).min(rows);
    let tiles = 1 + usize::from(cosine) + usize::from(cosine && context);
    let vectors = 4 * rows + if cosine { rows + items } else { 0 };
    let products = matmul::bytes(items, dim).max(matmul::bytes(dim, items));
    4 * (tiles * rows * items + vectors) as u64 + products
}

/// Of R `rows` and V `items` of D numbers; three times the [`products`](crate::ops::score::products) of a score.
pub fn cost(rows: usize, items: usize, dim: usize, context: bool, products: u64) -> Cost {
    let vectors = rows * dim * if context { 4 } else { 2 };
    let flops = 3 * products * product([rows, items, dim]);
    Cost::new(flops, vectors + 3 * items * dim + rows).of(Operation::Catalogue, flops)
}

/// Mean (times `scale`, 1/R) cross-entropy of `targets (R)`; gradients by the rules of [`Gradients`].
pub fn forward_backward<'a>(
    device: &Device,
    mut grads: Gradients,
    scoring: &Scoring,
    targets: impl Into<Numbers<'a>>,
    scale: f64,
) -> Result<Scalar> {
    let targets = targets.into();
    grads.prepare(device, scoring, 0)?;
    if targets.len() != scoring.rows() || !targets.all_below(scoring.items as u32) {
        return Err(Error::internal("softmax: the targets do not fit the rows or the table"));
    }
    dispatch!(device, T => reference::<T>(grads, scoring, targets.here(), scale).map(Scalar::Here), runtime => {
        on_machine(device, &**runtime, grads, scoring, targets, scale)
    })
}

fn is_rounded(rounding: Rounding, kind: ScoreKind, context: bool, dim: usize) -> bool {
    rounding == Rounding::Bf16 && (kind == ScoreKind::Dot || !context) && dim <= 128
}

/// Vectors a block of `full_softmax_mma.cu` owns, and those of a tile it streams past them.
const OWN: usize = 128;
const STREAM: usize = 64;

/// Bytes of a machine's memory taken for a moment: what both passes hand on of every row, and the parts of the table gradient where
/// few blocks own the table. G0502: the vectors are too wide for its kernels.
pub fn bytes_there(items: usize, dim: usize, rows: usize, kind: ScoreKind, context: bool, rounding: Rounding) -> Result<u64> {
    let rounded = is_rounded(rounding, kind, context, dim);
    let (splits, norms) = match rounded {
        true => (scan::splits(items.div_ceil(OWN), rows.div_ceil(STREAM), 4), rows + items),
        false => (Tiles::weighted(kind, dim, context)?.splits(items, rows, 4), 0),
    };
    let norms = if kind == ScoreKind::Dot { 0 } else { norms };
    let parts = if splits > 1 { splits * items * dim } else { 0 };
    Ok(4 * (4 * rows + norms + parts) as u64)
}

/// Tensor cores where operands may be rounded to bf16; they know no context and vectors of at most 128 numbers.
fn on_machine(
    device: &Device,
    runtime: &dyn Runtime,
    grads: Gradients,
    scoring: &Scoring,
    targets: Numbers,
    scale: f64,
) -> Result<Scalar> {
    let rounded = is_rounded(runtime.facts().rounding, scoring.kind, scoring.context.is_some(), scoring.dim);
    let run = if rounded { on_tensor_cores } else { in_f32 };
    run(device, runtime, grads, scoring, targets, scale)
}

/// `full_softmax_mma.cu`.
fn on_tensor_cores(
    device: &Device,
    runtime: &dyn Runtime,
    grads: Gradients,
    scoring: &Scoring,
    targets: Numbers,
    scale: f64,
) -> Result<Scalar> {
    scoring.check()?;
    let (rows, items) = (targets.len(), scoring.items);
    if rows == 0 {
        return Ok(Scalar::Here(0.0));
    }
    let cosine = scoring.kind != ScoreKind::Dot;
    if let Some(dg) = grads.context {
        dg.clear(device)?;
    }
    let kernel = |entry| {
        let defines = [("D", scoring.dim as i64), ("COSINE", i64::from(cosine))];
        Kernel::new("full_softmax_mma", entry, &defines)
    };
    let inverse_norms = |vectors: &Buffer, n: usize, factor: f32| -> Result<Option<Buffer>> {
        if !cosine {
            return Ok(None);
        }
        let mut inverse = Buffer::sized(device, n)?;
        let args = &mut [Arg::Out(&mut inverse), Arg::In(vectors), Arg::U32(n as u32), Arg::F32(factor)];
        runtime.launch(&kernel("full_softmax_mma_norms"), Grid::row(n.div_ceil(8), 256), args)?;
        Ok(Some(inverse))
    };
    let heat = scan::heat(scoring);
    let row_factor = inverse_norms(scoring.query, rows, heat)?;
    let item_inverse = inverse_norms(scoring.table, items, 1.0)?;
    let targets = targets.on(runtime)?;
    let (mut saved, mut losses) = (Buffer::sized(device, 2 * rows)?, Buffer::sized(device, rows)?);
    let inputs = || [Arg::In(scoring.query), Arg::In(scoring.table), Arg::In(&targets)];
    let norms = || [scan::maybe(&row_factor), scan::maybe(&item_inverse)];
    let sizes = || [Arg::U32(rows as u32), Arg::U32(items as u32)];

    let mut args = vec![Arg::Out(grads.query), Arg::Out(&mut saved), Arg::Out(&mut losses)];
    args.extend(inputs().into_iter().chain(norms()).chain(sizes()));
    args.extend([Arg::F32(heat), Arg::F32(scale as f32)]);
    runtime.launch(&kernel("full_softmax_mma_rows"), Grid::row(rows.div_ceil(OWN), 256), &mut args)?;

    let splits = scan::splits(items.div_ceil(OWN), rows.div_ceil(STREAM), 4);
    let mut parts = Buffer::sized(device, if splits > 1 { splits * grads.table.len() } else { 0 })?;
    let partial = if splits > 1 { Arg::Out(&mut parts) } else { Arg::None };
    let mut args = vec![Arg::Out(&mut *grads.table), partial, Arg::In(&saved)];
    args.extend(inputs().into_iter().chain(norms()).chain(sizes()));
    args.push(Arg::F32(scale as f32));
    let grid = Grid { blocks: [items.div_ceil(OWN) as u32, splits as u32, 1], threads: 256, shared_bytes: 0 };
    runtime.launch(&kernel("full_softmax_mma_items"), grid, &mut args)?;
    if splits > 1 {
        merge(runtime, grads.table, &parts, splits)?;
    }
    loss_total::of(device, runtime, &losses, rows, scale)
}

/// da (n) += its parts (splits,n), in order.
fn merge(runtime: &dyn Runtime, da: &mut Buffer, parts: &Buffer, splits: usize) -> Result<()> {
    let n = da.len();
    let args = &mut [Arg::Out(da), Arg::In(parts), Arg::U64(n as u64), Arg::U32(splits as u32)];
    runtime.launch(&Kernel::new("parts", "parts_add", &[]), Grid::row(n.div_ceil(256), 256), args)
}

/// Two passes, each owner of what it writes: rows (dp, dg, normalisers), then items (da).
fn in_f32(
    device: &Device,
    runtime: &dyn Runtime,
    mut grads: Gradients,
    scoring: &Scoring,
    targets: Numbers,
    scale: f64,
) -> Result<Scalar> {
    scoring.check()?;
    let (rows, items) = (targets.len(), scoring.items);
    if rows == 0 {
        return Ok(Scalar::Here(0.0));
    }
    let tiles = Tiles::weighted(scoring.kind, scoring.dim, scoring.context.is_some())?;
    // A context shifts all dot products of a row alike: no kernel sees it, and it gets no gradient.
    let dot = scoring.kind == ScoreKind::Dot;
    if let Some(dg) = grads.context.as_deref_mut().filter(|_| dot) {
        dg.clear(device)?;
    }
    let context = || if dot { Arg::None } else { scan::context(scoring) };
    let targets = targets.on(runtime)?;
    let (mut saved, mut losses, mut parts) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
    saved.resize(device, 2 * rows)?;
    losses.resize(device, rows)?;
    let grid = |owned: usize, splits: usize| Grid {
        blocks: [owned.div_ceil(tiles.own) as u32, splits as u32, 1],
        threads: 128,
        shared_bytes: tiles.shared_bytes,
    };
    let sizes = || [Arg::U32(rows as u32), Arg::U32(items as u32), Arg::F32(scan::heat(scoring)), Arg::F32(scale as f32)];
    let kernel = |entry| Kernel::new("full_softmax", entry, &tiles.defines);

    let dg = grads.context.filter(|_| !dot).map_or(Arg::None, Arg::Out);
    let mut args = vec![Arg::Out(grads.query), dg, Arg::Out(&mut saved), Arg::Out(&mut losses), Arg::In(scoring.query)];
    args.extend([context(), Arg::In(scoring.table), Arg::In(&targets)]);
    args.extend(sizes());
    runtime.launch(&kernel("full_softmax_rows"), grid(rows, 1), &mut args)?;

    let splits = tiles.splits(items, rows, 4);
    let split = splits > 1;
    parts.resize(device, if split { splits * grads.table.len() } else { 0 })?;
    let partial = if split { Arg::Out(&mut parts) } else { Arg::None };
    let mut args = vec![Arg::Out(&mut *grads.table), partial, Arg::In(&saved), Arg::In(scoring.query), context()];
    args.extend([Arg::In(scoring.table), Arg::In(&targets)]);
    args.extend(sizes());
    runtime.launch(&kernel("full_softmax_items"), grid(items, splits), &mut args)?;
    if split {
        merge(runtime, grads.table, &parts, splits)?;
    }
    loss_total::of(device, runtime, &losses, rows, scale)
}

pub fn cases() -> Vec<Case> {
    /// (R, V, D); the last but one is cut into parts. 56 takes little less than the shared memory a GPU grants unasked.
    const SHAPES: [[usize; 3]; 8] =
        [[1, 1, 1], [3, 63, 16], [33, 5, 31], [65, 131, 64], [2, 65, 56], [63, 65, 128], [523, 7, 8], [5, 33, 512]];
    let mut cases = Vec::new();
    for (turn, shape) in SHAPES.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            cases.push(Case::new("full_softmax", format!("{form}, R {r}, V {v}, D {d}"), move |device| {
                let inputs = Inputs::new(device, shape, kind, with_context, false)?;
                let (mut dp, mut dg, mut da) = (Buffer::empty(device), Buffer::empty(device), device.zeros(v * d)?);
                let grads = Gradients {
                    query: &mut dp,
                    // The dot product's softmax leaves nothing for the context but rounding.
                    context: (with_context && kind != ScoreKind::Dot).then_some(&mut dg),
                    wrong: None,
                    table: &mut da,
                };
                let loss =
                    forward_backward(device, grads, &inputs.scoring(), &case::ids(3, r, v), 1.0 / r as f64)?.read(device)?;
                let loss = Output { name: "loss", values: case::Values::Reals(vec![loss]) };
                let reals = |name, buffer| Output::reals(name, device, buffer);
                Ok(vec![loss, reals("dp", &dp)?, reals("dg", &dg)?, reals("da", &da)?])
            }));
        }
    }
    cases
}

/// With inputs that bf16 holds exactly (eighths), scores and the loss are as in f32; probabilities are rounded once, by 2^-9 at
/// most, which bounds both gradients.
pub fn rounded_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [r, v, d] in [[3, 63, 16], [33, 5, 31], [130, 131, 64], [65, 129, 128], [523, 70, 50]] {
        for (form, kind) in [("dot", ScoreKind::Dot), ("cosine", ScoreKind::Cosine { temperature: 0.3 })] {
            let name = format!("{form}, R {r}, V {v}, D {d}, bf16");
            cases.push(Case::rounded("full_softmax", name, &[1e-6, 4e-3, 4e-3], move |device| {
                let inputs = Inputs::new(device, [r, v, d], kind, false, true)?;
                let (mut dp, mut da) = (Buffer::empty(device), device.zeros(v * d)?);
                let grads = Gradients { query: &mut dp, context: None, wrong: None, table: &mut da };
                let loss =
                    forward_backward(device, grads, &inputs.scoring(), &case::ids(3, r, v), 1.0 / r as f64)?.read(device)?;
                let loss = Output { name: "loss", values: case::Values::Reals(vec![loss]) };
                Ok(vec![loss, Output::reals("dp", device, &dp)?, Output::reals("da", device, &da)?])
            }));
        }
    }
    cases
}

fn reference<T: Real>(grads: Gradients, scoring: &Scoring, targets: &[u32], scale: f64) -> Result<f64> {
    let view = scoring.view::<T>()?;
    let (d, v) = (view.dim, view.items);
    let dp = T::of_mut(grads.query)?;
    let mut dg = grads.context.map(T::of_mut).transpose()?;
    let da = T::of_mut(grads.table)?;
    let cosine = view.kind != ScoreKind::Dot;
    let rows = tile_rows(v).min(targets.len());
    let mut s = vec![T::ZERO; rows * v];
    let mut ds = if cosine { vec![T::ZERO; rows * v] } else { Vec::new() };
    let mut norms = Norms::default();
    let mut losses = vec![T::ZERO; rows];
    let mut total = 0.0;
    for (t, targets) in targets.chunks(rows.max(1)).enumerate() {
        let (first, m) = (t * rows, targets.len());
        let (s, losses) = (&mut s[..m * v], &mut losses[..m]);
        let range = first * d..(first + m) * d;
        let dp = &mut dp[range.clone()];
        let dg = dg.as_deref_mut().map(|dg| &mut dg[range]);
        let tile = view.tile(first..first + m, 0..v);
        tile.scores(s, &mut norms);
        if cosine {
            let ds = &mut ds[..m * v];
            ds.copy_from_slice(s);
            softmax_gradient(ds, losses, targets, T::from_f64(scale));
            tile.backward(dp, dg, da, ds, s, &norms);
        } else {
            softmax_gradient(s, losses, targets, T::from_f64(scale));
            tile.backward(dp, dg, da, s, &mut [], &norms);
        }
        total += losses.iter().map(|l| l.f64()).sum::<f64>();
    }
    Ok(total * scale)
}

/// Scores (m,V) become `scale (softmax - one-hot)`; `losses (m)` the negative log-probabilities of the targets.
fn softmax_gradient<T: Real>(s: &mut [T], losses: &mut [T], targets: &[u32], scale: T) {
    let v = s.len() / targets.len().max(1);
    let task = ((1 << 14) / v.max(1)).clamp(1, 64);
    s.par_chunks_mut(task * v).zip(losses.par_chunks_mut(task)).zip(targets.par_chunks(task)).for_each(
        |((s, losses), targets)| {
            vector::fast(
                #[inline(always)]
                || {
                    for ((s, loss), &target) in s.chunks_exact_mut(v).zip(losses).zip(targets) {
                        let score = s[target as usize];
                        let shift = vector::max(s);
                        let total = vector::exp_sum(s, shift);
                        *loss = shift + total.ln() - score;
                        vector::scale(s, scale / total);
                        s[target as usize] -= scale;
                    }
                },
            )
        },
    );
}
