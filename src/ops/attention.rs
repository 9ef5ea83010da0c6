//! Fused multi-head self-attention over packed sequences, forward and backward.
//!
//! For each sequence of L rows and each head of width E, with q, k, v columns of `qkv (R,3D)`:
//!
//! ```text
//! S = q k^T / sqrt(E)  (L,L),  causal: S[i,j] = -inf for j > i
//! P = softmax(S),  O = (P * M) v          M the dropout factors, 0 or 1/(1-p)      out (R,D)
//! backward, with W = P * M and delta_i = dO_i . O_i = sum_j P_ij dP_ij:
//! dv = W^T dO,  dP = (dO v^T) * M,  dS = P * (dP - delta),  dq = dS k / sqrt(E),  dk = dS^T q / sqrt(E)
//! ```
//!
//! S and P exist for one tile of rows at a time; the backward pass recomputes P from the stored log-sum-exp `lse (R,H)`.
//! A sequence is owned by one task, so there are no shared writes and the result does not depend on thread count. Rows are
//! cut into tiles of `TILE` and keys beyond a tile's last row are never touched, which halves the work of causal
//! attention. Source: Vaswani et al. 2017; recomputation as in FlashAttention (Dao et al., arXiv 2205.14135).

use std::sync::Arc;

use rayon::prelude::*;

use crate::device::places::Rounding;
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Real, Runtime, upload};
use crate::dispatch;
use crate::error::{Code, Error, Result};
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::{Cost, Operation, Pass};
use crate::ops::dropout::Dropout;
use crate::ops::matmul::{self, Mat};
use crate::ops::vector;

/// Rows of one tile of scores.
const TILE: usize = 32;

/// The fixed shape of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// D = heads * head width
    pub dim: usize,
    pub heads: usize,
    pub causal: bool,
}

/// `out (R,D)`, `lse (R,H)` from `qkv (R,3D)`; `offsets (B+1)` are the first rows of the sequences.
pub fn forward<'a>(
    device: &Device,
    out: &mut Buffer,
    lse: &mut Buffer,
    qkv: &Buffer,
    offsets: impl Into<Numbers<'a>>,
    shape: Shape,
    dropout: Option<&Dropout>,
) -> Result<()> {
    let offsets = offsets.into();
    let rows = qkv.len() / (3 * shape.dim);
    out.resize(device, rows * shape.dim)?;
    lse.resize(device, rows * shape.heads)?;
    dispatch!(device, T => {
        let out = by_sequence(T::of_mut(out)?, offsets.here(), shape.dim);
        let lse = by_sequence(T::of_mut(lse)?, offsets.here(), shape.heads);
        let qkv = T::of(qkv)?;
        out.into_par_iter().zip(lse).enumerate().for_each_init(Vec::new, |tile, (b, (out, lse))| {
            let first = offsets.here()[b] as usize;
            vector::fast(#[inline(always)] || attend::<T>(out, lse, &qkv[first * 3 * shape.dim..], first, shape, dropout, tile));
        });
        Ok(())
    }, runtime => launch_forward(&**runtime, out, lse, qkv, offsets, shape, dropout))
}

/// `dqkv (R,3D)` from `dout (R,D)` and what [`forward`] saved.
#[allow(clippy::too_many_arguments)]
pub fn backward<'a>(
    device: &Device,
    dqkv: &mut Buffer,
    dout: &Buffer,
    out: &Buffer,
    lse: &Buffer,
    qkv: &Buffer,
    offsets: impl Into<Numbers<'a>>,
    shape: Shape,
    dropout: Option<&Dropout>,
) -> Result<()> {
    let offsets = offsets.into();
    dqkv.resize(device, qkv.len())?;
    dispatch!(device, T => {
        let dqkv = by_sequence(T::of_mut(dqkv)?, offsets.here(), 3 * shape.dim);
        let (dout, out, lse, qkv) = (T::of(dout)?, T::of(out)?, T::of(lse)?, T::of(qkv)?);
        dqkv.into_par_iter().enumerate().for_each_init(|| (Vec::new(), Vec::new()), |(p, dp), (b, dqkv)| {
            let first = offsets.here()[b] as usize;
            let d = first * shape.dim;
            vector::fast(#[inline(always)] || {
                differentiate::<T>(dqkv, &dout[d..], &out[d..], &lse[first * shape.heads..], &qkv[3 * d..], first, shape, dropout, p, dp);
            });
        });
        Ok(())
    }, runtime => launch_backward(&**runtime, dqkv, dout, out, lse, qkv, offsets, shape, dropout))
}

/// Of R `rows` in which `pairs` of a row and a key it sees are scored ([`Shape::pairs`]).
pub fn cost(rows: usize, pairs: u64, shape: Shape) -> Pass {
    let (n, lse, pair) = (rows * shape.dim, rows * shape.heads, 2 * pairs * shape.dim as u64);
    let of = |products: u64, numbers: usize| Cost::new(products * pair, numbers).of(Operation::Attention, products * pair);
    Pass { forward: of(2, 4 * n + lse), backward: of(5, 8 * n + lse) }
}

impl Shape {
    /// Pairs in sequences of R `rows` whose squared lengths add up to `squares`.
    pub fn pairs(&self, rows: usize, squares: u64) -> u64 {
        if self.causal { (squares + rows as u64) / 2 } else { squares }
    }
}

/// Cuts rows of `width` into one slice per sequence.
fn by_sequence<'a, T>(mut rest: &'a mut [T], offsets: &[u32], width: usize) -> Vec<&'a mut [T]> {
    let mut parts = Vec::with_capacity(offsets.len());
    for pair in offsets.windows(2) {
        let (part, tail) = rest.split_at_mut((pair[1] - pair[0]) as usize * width);
        parts.push(part);
        rest = tail;
    }
    parts
}

/// Multiplies row `row` (a row of the packed batch) of head `head`, keys `0..p.len()`, by its dropout factors.
#[inline(always)]
fn drop_row<T: Real>(p: &mut [T], dropout: &Dropout, row: usize, head: usize, heads: usize) {
    // 2^10 blocks of 64 keys bound the length at 65,536, far above any `max_len`.
    let first = ((row * heads + head) as u64) << 10;
    for (block, p) in p.chunks_mut(64).enumerate() {
        let factors = dropout.factors::<T>(first + block as u64);
        p.iter_mut().zip(&factors).for_each(|(p, &f)| *p *= f);
    }
}

/// One sequence; `qkv` starts at its first row, `first` is that row's number in the batch.
#[inline(always)]
fn attend<T: Real>(
    out: &mut [T],
    lse: &mut [T],
    qkv: &[T],
    first: usize,
    shape: Shape,
    dropout: Option<&Dropout>,
    tile: &mut Vec<T>,
) {
    let (d, heads, e) = (shape.dim, shape.heads, shape.dim / shape.heads);
    let length = out.len() / d;
    if length == 0 {
        return;
    }
    let scale = T::from_f64(1.0 / (e as f64).sqrt());
    tile.resize(TILE * length, T::ZERO);
    for head in 0..heads {
        let (q, k, v) = (&qkv[head * e..], &qkv[d + head * e..], &qkv[2 * d + head * e..]);
        for start in (0..length).step_by(TILE) {
            let rows = TILE.min(length - start);
            let keys = if shape.causal { start + rows } else { length };
            let s = &mut tile[..rows * keys];
            matmul::serial(s, keys, Mat::new(&q[start * 3 * d..], 3 * d), Mat::new(k, 3 * d).t(), [rows, keys, e], scale, false);
            for (i, s) in s.chunks_exact_mut(keys).enumerate() {
                let visible = if shape.causal { start + i + 1 } else { keys };
                let (seen, unseen) = s.split_at_mut(visible);
                let top = vector::max(seen);
                let sum = vector::exp_sum(seen, top);
                let inverse = T::ONE / sum;
                seen.iter_mut().for_each(|p| *p *= inverse);
                unseen.fill(T::ZERO);
                lse[(start + i) * heads + head] = top + sum.ln();
                if let Some(dropout) = dropout {
                    drop_row(seen, dropout, first + start + i, head, heads);
                }
            }
            let o = &mut out[start * d + head * e..];
            matmul::serial(o, d, Mat::new(s, keys), Mat::new(v, 3 * d), [rows, e, keys], T::ONE, false);
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn differentiate<T: Real>(
    dqkv: &mut [T],
    dout: &[T],
    out: &[T],
    lse: &[T],
    qkv: &[T],
    first: usize,
    shape: Shape,
    dropout: Option<&Dropout>,
    p: &mut Vec<T>,
    dp: &mut Vec<T>,
) {
    let (d, heads, e) = (shape.dim, shape.heads, shape.dim / shape.heads);
    let length = dqkv.len() / (3 * d);
    if length == 0 {
        return;
    }
    let scale = T::from_f64(1.0 / (e as f64).sqrt());
    p.resize(TILE * length, T::ZERO);
    dp.resize(TILE * length, T::ZERO);
    dqkv.fill(T::ZERO);
    for head in 0..heads {
        let (q, k, v) = (&qkv[head * e..], &qkv[d + head * e..], &qkv[2 * d + head * e..]);
        for start in (0..length).step_by(TILE) {
            let rows = TILE.min(length - start);
            let keys = if shape.causal { start + rows } else { length };
            let (p, dp) = (&mut p[..rows * keys], &mut dp[..rows * keys]);
            let q_tile = Mat::new(&q[start * 3 * d..], 3 * d);
            let dout_tile = Mat::new(&dout[start * d + head * e..], d);
            matmul::serial(p, keys, q_tile, Mat::new(k, 3 * d).t(), [rows, keys, e], scale, false);
            matmul::serial(dp, keys, dout_tile, Mat::new(v, 3 * d).t(), [rows, keys, e], T::ONE, false);
            for (i, (p, dp)) in p.chunks_exact_mut(keys).zip(dp.chunks_exact_mut(keys)).enumerate() {
                let row = start + i;
                let visible = if shape.causal { row + 1 } else { keys };
                let (seen, unseen) = p.split_at_mut(visible);
                vector::exp_sum(seen, lse[row * heads + head]);
                unseen.fill(T::ZERO);
                dp[visible..].fill(T::ZERO);
                let dp = &mut dp[..visible];
                let head_columns = row * d + head * e;
                let delta = vector::dot(&dout[head_columns..head_columns + e], &out[head_columns..head_columns + e]);
                // dp becomes dS and p becomes W = P * M, which is all that the three products below need.
                match dropout {
                    None => dp.iter_mut().zip(&*seen).for_each(|(dp, &p)| *dp = p * (*dp - delta)),
                    Some(dropout) => {
                        let block0 = (((first + row) * heads + head) as u64) << 10;
                        for (block, (dp, p)) in dp.chunks_mut(64).zip(seen.chunks_mut(64)).enumerate() {
                            let factors = dropout.factors::<T>(block0 + block as u64);
                            for ((dp, p), &f) in dp.iter_mut().zip(p).zip(&factors) {
                                *dp = *p * (*dp * f - delta);
                                *p *= f;
                            }
                        }
                    }
                }
            }
            let (ds, w) = (Mat::new(dp, keys), Mat::new(p, keys));
            matmul::serial(&mut dqkv[start * 3 * d + head * e..], 3 * d, ds, Mat::new(k, 3 * d), [rows, e, keys], scale, false);
            matmul::serial(&mut dqkv[d + head * e..], 3 * d, ds.t(), q_tile, [keys, e, rows], scale, true);
            matmul::serial(&mut dqkv[2 * d + head * e..], 3 * d, w.t(), dout_tile, [keys, e, rows], T::ONE, true);
        }
    }
}

/// E of heads that the kernels know. G0502: they are too wide for any.
pub fn width_there(dim: usize, heads: usize) -> Result<usize> {
    let width = dim / heads;
    if width > 128 {
        return Err(Error::new(Code::G0502, format!("attention has no kernel for heads {width} wide"))
            .help(format!("use {} heads or more (`--set model.heads`), or `--device host`", dim.div_ceil(128))));
    }
    Ok(width)
}

/// A launch of the attention kernels: what both passes share.
struct Launch {
    shape: Shape,
    /// E
    width: usize,
    drop: bool,
    /// (B+1) and the sequences that have rows, longest first, so that the last blocks to start are short ones.
    offsets: Arc<Buffer>,
    order: Buffer,
    /// Sequences times heads, and the rows of the longest sequence.
    blocks: usize,
    longest: usize,
    /// Whether operands may be rounded to bf16 and heads are narrow enough: `attention_mma` instead of `attention`.
    tensor_cores: bool,
}

impl Launch {
    fn new(runtime: &dyn Runtime, offsets: Numbers, shape: Shape, drop: bool) -> Result<Launch> {
        let width = width_there(shape.dim, shape.heads)?;
        let rows = offsets.here();
        let length = |b: u32| rows[b as usize + 1] - rows[b as usize];
        let mut order: Vec<u32> = (0..rows.len().saturating_sub(1) as u32).filter(|&b| length(b) > 0).collect();
        order.sort_by_key(|&b| std::cmp::Reverse(length(b)));
        Ok(Launch {
            shape,
            width,
            drop,
            blocks: order.len() * shape.heads,
            longest: order.first().map_or(0, |&b| length(b) as usize),
            offsets: offsets.on(runtime)?,
            order: upload(runtime, &order)?,
            tensor_cores: runtime.facts().rounding == Rounding::Bf16 && width <= 64,
        })
    }
    fn defines(&self) -> Vec<(&'static str, i64)> {
        let Shape { heads, causal, .. } = self.shape;
        let numbers = [heads as i64, self.width as i64, i64::from(causal), i64::from(self.drop)];
        ["H", "E", "CAUSAL", "DROP"].into_iter().zip(numbers).collect()
    }
    /// The same grid with a block for every `rows` of a sequence: forward no result has more than one part.
    fn by_rows(&self, grid: Grid, rows: usize) -> Grid {
        Grid { blocks: [grid.blocks[0], self.longest.div_ceil(rows) as u32, 1], ..grid }
    }
    /// On tensor cores: tiles are fixed.
    fn rounded(&self, entry: &'static str) -> (Kernel, Grid) {
        (Kernel { file: "attention_mma", entry, defines: self.defines() }, Grid::row(self.blocks, 256))
    }
    /// In f32 with tiles of `rows` and `keys`, and the shared memory of so many tiles of rows, of keys and of scores
    /// (kernels/attention.cu, strides `SE` and `SK`). Tiles are as large as 99 kB, which every processor since sm_80 has,
    /// and the registers allow.
    fn exact(&self, entry: &'static str, [rows, keys]: [usize; 2], tiles: [usize; 3]) -> (Kernel, Grid) {
        let mut defines = self.defines();
        defines.extend([("TQ", rows as i64), ("TK", keys as i64)]);
        let padded = if self.width <= 8 { 8 } else { self.width.next_multiple_of(16) };
        let floats = (tiles[0] * rows + tiles[1] * keys) * (padded + 4) + tiles[2] * rows * (keys + 8);
        let grid = Grid { shared_bytes: 4 * floats as u32, ..Grid::row(self.blocks, 128) };
        (Kernel { file: "attention", entry, defines }, grid)
    }
    /// Where the sequences lie, and the scale of the scores.
    fn tail(&self) -> [Arg<'_>; 3] {
        [Arg::In(&self.offsets), Arg::In(&self.order), Arg::F32((1.0 / (self.width as f64).sqrt()) as f32)]
    }
}

fn launch_forward(
    runtime: &dyn Runtime,
    out: &mut Buffer,
    lse: &mut Buffer,
    qkv: &Buffer,
    offsets: Numbers,
    shape: Shape,
    dropout: Option<&Dropout>,
) -> Result<()> {
    let launch = Launch::new(runtime, offsets, shape, dropout.is_some())?;
    if launch.blocks == 0 {
        return Ok(());
    }
    let ((kernel, grid), rows) = match launch.width {
        _ if launch.tensor_cores => (launch.rounded("attention_mma_fwd"), 128),
        0..=64 => (launch.exact("attention_fwd", [64, 64], [1, 2, 1]), 64),
        _ => (launch.exact("attention_fwd", [64, 32], [1, 2, 1]), 64),
    };
    let grid = launch.by_rows(grid, rows);
    let mut args = vec![Arg::Out(out), Arg::Out(lse), Arg::In(qkv)];
    args.extend(launch.tail());
    args.extend(Dropout::arguments(dropout));
    runtime.launch(&kernel, grid, &mut args)
}

fn launch_backward(
    runtime: &dyn Runtime,
    dqkv: &mut Buffer,
    dout: &Buffer,
    out: &Buffer,
    lse: &Buffer,
    qkv: &Buffer,
    offsets: Numbers,
    shape: Shape,
    dropout: Option<&Dropout>,
) -> Result<()> {
    let launch = Launch::new(runtime, offsets, shape, dropout.is_some())?;
    if launch.blocks == 0 {
        return Ok(());
    }
    let (kernel, grid) = match launch.width {
        _ if launch.tensor_cores => launch.rounded("attention_mma_bwd"),
        0..=32 => launch.exact("attention_bwd", [64, 64], [2, 2, 2]),
        33..=64 => launch.exact("attention_bwd", [32, 64], [2, 2, 2]),
        _ => launch.exact("attention_bwd", [32, 32], [2, 2, 2]),
    };
    let mut delta = Buffer::machine(runtime.alloc(lse.len() * 4)?, lse.len());
    let mut args = vec![Arg::Out(dqkv), Arg::Out(&mut delta), Arg::In(dout), Arg::In(out), Arg::In(lse), Arg::In(qkv)];
    args.extend(launch.tail());
    args.extend(Dropout::arguments(dropout));
    runtime.launch(&kernel, grid, &mut args)
}

/// (R,3D) noise; with `low` every score is so far below zero that a weight is beyond f32 where a key that is none scores zero.
fn noisy(rows: usize, dim: usize, low: bool) -> Vec<f64> {
    let mut qkv = case::noise(1, rows * 3 * dim);
    if low {
        for row in qkv.chunks_exact_mut(3 * dim) {
            row[..dim].iter_mut().for_each(|q| *q += 8.0);
            row[dim..2 * dim].iter_mut().for_each(|k| *k -= 8.0);
        }
    }
    qkv
}

pub fn cases() -> Vec<Case> {
    // Lengths around the tiles of 32 and 64 and the groups of 16, an empty sequence, one row, and two long ones.
    let all: &[u32] = &[1, 0, 15, 16, 17, 31, 33, 63, 64, 65, 130];
    let few: &[u32] = &[3, 0, 70];
    let shapes: [(&[u32], usize, usize, bool, Option<f64>, bool); 14] = [
        (&[0, 0], 2, 16, true, None, false),
        (all, 2, 16, true, None, false),
        (all, 2, 16, true, Some(0.2), false),
        (few, 1, 1, true, None, false),
        (few, 3, 5, false, Some(0.2), false),
        (few, 2, 6, true, None, false),
        (few, 1, 7, false, None, false),
        (&[1, 100, 33], 2, 32, true, Some(0.2), false),
        (few, 1, 64, true, Some(0.2), false),
        (few, 1, 100, false, None, false),
        (few, 1, 128, true, Some(0.2), false),
        (few, 3, 5, false, Some(0.2), true),
        (&[1, 300], 1, 8, true, Some(0.2), false),
        (&[200, 1], 1, 8, false, None, false),
    ];
    let case = |(lengths, heads, width, causal, probability, low): (&'static [u32], usize, usize, bool, Option<f64>, bool)| {
        let seen = if causal { "causal" } else { "full" };
        let scores = if low { ", low scores" } else { "" };
        let text = format!("lengths {lengths:?}, H {heads}, E {width}, {seen}, p {}{scores}", probability.unwrap_or(0.0));
        Case::new("attention", text, move |device| {
            let mut offsets = vec![0];
            lengths.iter().for_each(|l| offsets.push(offsets[offsets.len() - 1] + l));
            let (shape, rows) = (Shape { dim: heads * width, heads, causal }, offsets[offsets.len() - 1] as usize);
            let dropout = probability.map(|p| Dropout::new(p, 9, 4, 1 << 33));
            let qkv = device.reals(&noisy(rows, shape.dim, low))?;
            let dout = device.reals(&case::noise(2, rows * shape.dim))?;
            let (mut out, mut lse, mut dqkv) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
            forward(device, &mut out, &mut lse, &qkv, &offsets, shape, dropout.as_ref())?;
            backward(device, &mut dqkv, &dout, &out, &lse, &qkv, &offsets, shape, dropout.as_ref())?;
            let outputs = [("out", &out), ("lse", &lse), ("dqkv", &dqkv)];
            outputs.into_iter().map(|(name, buffer)| Output::reals(name, device, buffer)).collect()
        })
    };
    shapes.map(case).into()
}

/// The tensor cores' variant, with inputs that bf16 holds exactly: scores are then exact products summed in f32, so the
/// log-sum-exp must agree as in f32. P and dS are rounded once, by 2^-9 at most and 2^-9 / sqrt(3) on average, and the
/// output's rounding enters delta: three roundings bound every result.
pub fn rounded_cases() -> Vec<Case> {
    /// Lengths 1, 0, a prime, one below, at and above the tile, and more than two tiles.
    const OFFSETS: [u32; 8] = [0, 1, 1, 8, 39, 71, 104, 170];
    let bf16 = |x: f64| f64::from(f32::from_bits((x as f32).to_bits() & 0xffff_0000));
    let case = |(heads, width, causal, drops, low): (usize, usize, bool, bool, bool)| {
        let shape = Shape { dim: heads * width, heads, causal };
        let name = format!("H {heads}, E {width}, causal {causal}, dropout {drops}, low scores {low}, bf16");
        Case::rounded("attention", name, &[1e-6, 2e-3, 6e-3], move |device| {
            let dropout = drops.then(|| Dropout::new(0.3, 5, 2, 9));
            let rows = OFFSETS[7] as usize;
            let inputs = [noisy(rows, shape.dim, low), case::noise(2, rows * shape.dim)];
            let [qkv, dout] = inputs.map(|x| device.reals(&x.into_iter().map(bf16).collect::<Vec<f64>>()));
            let (qkv, dout) = (qkv?, dout?);
            let (mut out, mut lse, mut dqkv) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
            forward(device, &mut out, &mut lse, &qkv, &OFFSETS, shape, dropout.as_ref())?;
            backward(device, &mut dqkv, &dout, &out, &lse, &qkv, &OFFSETS, shape, dropout.as_ref())?;
            let reals = |name, buffer| Output::reals(name, device, buffer);
            Ok(vec![reals("lse", &lse)?, reals("out", &out)?, reals("dqkv", &dqkv)?])
        })
    };
    [(2, 16, true, true, false), (1, 64, true, false, false), (3, 5, false, true, false), (3, 5, false, true, true)]
        .map(case)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::central::{check, noise};

    /// The formula, three loops, no tiles, no dropout.
    fn naive(qkv: &[f64], offsets: &[u32], shape: Shape) -> Vec<f64> {
        let (d, e) = (shape.dim, shape.dim / shape.heads);
        let mut out = vec![0.0; qkv.len() / 3];
        for pair in offsets.windows(2) {
            let (first, last) = (pair[0] as usize, pair[1] as usize);
            for i in first..last {
                for head in 0..shape.heads {
                    let keys = first..if shape.causal { i + 1 } else { last };
                    let part = |row: usize, which: usize| &qkv[row * 3 * d + which * d + head * e..][..e];
                    let score = |j: usize| part(i, 0).iter().zip(part(j, 1)).map(|(q, k)| q * k).sum::<f64>() / (e as f64).sqrt();
                    let weights: Vec<f64> = keys.clone().map(|j| score(j).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for (j, w) in keys.zip(&weights) {
                        for c in 0..e {
                            out[i * d + head * e + c] += w / total * part(j, 2)[c];
                        }
                    }
                }
            }
        }
        out
    }

    fn run(device: &Device, qkv: &[f64], offsets: &[u32], shape: Shape, dropout: Option<&Dropout>) -> [Buffer; 3] {
        let qkv = device.reals(qkv).unwrap();
        let (mut out, mut lse) = (Buffer::empty(device), Buffer::empty(device));
        forward(device, &mut out, &mut lse, &qkv, offsets, shape, dropout).unwrap();
        [qkv, out, lse]
    }

    /// Lengths 1, 0, a prime, one below, at and above the tile, and more than two tiles.
    const OFFSETS: [u32; 8] = [0, 1, 1, 8, 39, 71, 104, 170];

    #[test]
    fn forward_is_the_formula_in_both_precisions() {
        for (heads, causal) in [(1, true), (2, true), (3, false)] {
            let shape = Shape { dim: 6 * heads, heads, causal };
            let qkv = noise(1, OFFSETS[7] as usize * 3 * shape.dim);
            let want = naive(&qkv, &OFFSETS, shape);
            let [_, out, _] = run(&Device::ORACLE, &qkv, &OFFSETS, shape, None);
            assert!(f64::of(&out).unwrap().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12));
            let [_, out, _] = run(&Device::HOST, &qkv, &OFFSETS, shape, None);
            // f32: weights and values of order 1, sums of at most 66 terms.
            assert!(out.f32s().unwrap().iter().zip(&want).all(|(&a, b)| (f64::from(a) - b).abs() < 2e-6 * (1.0 + b.abs())));
        }
    }

    #[test]
    fn gradients_agree_with_central_differences_with_and_without_dropout() {
        let offsets = [0, 1, 1, 4, 38];
        let drop = Dropout::new(0.3, 5, 2, 9);
        for (heads, causal, dropout) in [(2, true, None), (1, true, Some(&drop)), (2, false, Some(&drop))] {
            let shape = Shape { dim: 4, heads, causal };
            let rows = offsets[4] as usize;
            let (qkv, weight) = (noise(1, rows * 12), noise(2, rows * 4));
            let device = Device::ORACLE;
            let loss = |x: &[Vec<f64>]| {
                let [_, out, _] = run(&device, &x[0], &offsets, shape, dropout);
                f64::of(&out).unwrap().iter().zip(&weight).map(|(o, w)| o * w).sum()
            };
            let [q, out, lse] = run(&device, &qkv, &offsets, shape, dropout);
            let mut dqkv = Buffer::empty(&device);
            let dout = device.reals(&weight).unwrap();
            backward(&device, &mut dqkv, &dout, &out, &lse, &q, &offsets, shape, dropout).unwrap();
            check(&[qkv], &[f64::of(&dqkv).unwrap().to_vec()], loss);
        }
    }

    #[test]
    fn the_future_cannot_be_seen() {
        let shape = Shape { dim: 8, heads: 2, causal: true };
        let rows = 50;
        let mut qkv = noise(1, rows * 24);
        let [_, before, _] = run(&Device::HOST, &qkv, &[0, rows as u32], shape, None);
        qkv[40 * 24..].iter_mut().for_each(|v| *v = -*v);
        let [_, after, _] = run(&Device::HOST, &qkv, &[0, rows as u32], shape, None);
        let (before, after) = (before.f32s().unwrap(), after.f32s().unwrap());
        assert_eq!(before[..40 * 8], after[..40 * 8]);
        assert_ne!(before[40 * 8..], after[40 * 8..]);
    }
}
