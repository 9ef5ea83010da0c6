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

use crate::device::{Device, Real, no_kernel};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ops::sampled_loss::Gradients;
use crate::ops::score::{ScoreKind, Scoring};
use crate::ops::tile::Norms;
use crate::ops::vector;

/// Scores of one tile: 4 MB of f32, a share of the last cache level.
const TILE: usize = 1 << 20;

/// Rows of a tile: at least 32, since each tile reads and writes the whole table gradient once.
fn tile_rows(items: usize) -> usize {
    (TILE / items.max(1)).clamp(32, 512)
}

/// Mean (times `scale`, 1/R) cross-entropy of `targets (R)`; gradients by the rules of [`Gradients`].
pub fn forward_backward(device: &Device, mut grads: Gradients, scoring: &Scoring, targets: &[u32], scale: f64) -> Result<f64> {
    grads.prepare(device, scoring, 0)?;
    if targets.len() != scoring.rows() || targets.iter().any(|&t| t as usize >= scoring.items) {
        return Err(Error::internal("softmax: the targets do not fit the rows or the table"));
    }
    dispatch!(device, T => reference::<T>(grads, scoring, targets, scale), _ => Err(no_kernel("full_softmax")))
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
