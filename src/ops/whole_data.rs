//! Squared error over every item, in time that grows with `R + V` and not with `R V`: the whole-data loss of ENMF.
//!
//! ```text
//! loss = scale sum over rows r of ( (s[r, target[r]] - 1)^2 + c sum over the other items i of s[r,i]^2 )
//!      = scale ( sum over r of ((1 - c) s+[r]^2 - 2 s+[r] + 1) + c <A^T A, P^T P> )         P (R,D) queries, A (V,D) items
//! w[r] = scale (2 (1 - c) s+[r] - 2)
//! dp   = 2 c scale P (A^T A) + w[r] a[target[r]]
//! da  += 2 c scale A (P^T P) + sum over the rows r of the target of w[r] p[r]
//! ```
//!
//! because the sum over all pairs of `(p . a)^2` is the product of two (D,D) matrices. Only dot products without context
//! have this form. Cost: `4 (R + V) D^2` flops; every row of the table gets a gradient. On a machine the products go to its
//! library and two sums to `kernels/segments.cu`; `R + 2 D^2` numbers are copied back, for the loss and for `w`.
//! Source: ENMF (Chen et al., TOIS 2020), its loss for constant weights of what was not seen, without the prediction vector
//! and the dropout of its model.

use rayon::prelude::*;

use crate::device::{Buffer, Device, MatIn, MatOut, Numbers, Plus, Real, Runtime, Scalar};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ops::case::{self, Case, Output, Values};
use crate::ops::cost::{Cost, Operation, product};
use crate::ops::matmul::{self, Mat};
use crate::ops::sampled_loss::Gradients;
use crate::ops::score::{self, Inputs, ScoreKind, Scoring};
use crate::ops::segments::{self, Segments};
use crate::ops::vector;

/// Sum over the rows times `scale` (1/R), where an item that was not the row's target weighs `unseen` (c); gradients by the rules
/// of [`Gradients`].
pub fn forward_backward<'a>(
    device: &Device,
    mut grads: Gradients,
    scoring: &Scoring,
    targets: impl Into<Numbers<'a>>,
    unseen: f64,
    scale: f64,
) -> Result<Scalar> {
    let targets = targets.into();
    grads.prepare(device, scoring, 0)?;
    if scoring.kind != ScoreKind::Dot || scoring.context.is_some() {
        return Err(Error::internal("whole data: only dot products without context have this form"));
    }
    if targets.len() != scoring.rows() || !targets.all_below(scoring.items as u32) {
        return Err(Error::internal("whole data: the targets do not fit the rows or the table"));
    }
    if targets.is_empty() {
        return Ok(Scalar::Here(0.0));
    }
    let value = dispatch!(device, T => reference::<T>(grads, scoring, targets.here(), unseen, scale), runtime => {
        on_machine(device, &**runtime, grads, scoring, targets, unseen, scale)
    });
    value.map(Scalar::Here)
}

/// Of R `rows` and V `items` of D numbers.
pub fn cost(rows: usize, items: usize, dim: usize) -> Cost {
    let flops = 2 * product([rows + items, dim, dim]);
    Cost::new(flops, 2 * rows * dim + 3 * items * dim + rows).of(Operation::Layer, flops)
}

/// w[r] of a target's score, and what its row adds to the loss beside the product of the squares.
fn pull(s: f64, unseen: f64, scale: f64) -> (f64, f64) {
    (scale * (2.0 * (1.0 - unseen) * s - 2.0), scale * ((1.0 - unseen) * s * s - 2.0 * s + 1.0))
}

fn reference<T: Real>(grads: Gradients, scoring: &Scoring, targets: &[u32], unseen: f64, scale: f64) -> Result<f64> {
    let view = scoring.view::<T>()?;
    let (d, v, r) = (view.dim, view.items, targets.len());
    let (dp, da) = (T::of_mut(grads.query)?, T::of_mut(grads.table)?);
    let square = |x: &[T], n: usize| {
        let mut product = vec![T::ZERO; d * d];
        matmul::reduce(&mut product, Mat::new(x, d).t(), Mat::new(x, d), [d, d, n]);
        product
    };
    let (mut of_items, mut of_rows) = (square(view.table, v), square(view.query, r));
    let pairs: f64 = of_items.iter().zip(&of_rows).map(|(a, p)| a.f64() * p.f64()).sum();
    let factor = T::from_f64(2.0 * unseen * scale);
    vector::scale(&mut of_items, factor);
    vector::scale(&mut of_rows, factor);
    matmul::rows(dp, Mat::new(view.query, d), Mat::new(&of_items, d), [r, d, d], false);
    matmul::rows(da, Mat::new(view.table, d), Mat::new(&of_rows, d), [v, d, d], true);

    let pulls: Vec<(f64, f64)> = (view.query.par_chunks_exact(d).zip(targets))
        .map(|(p, &target)| vector::dot(p, &view.table[target as usize * d..(target as usize + 1) * d]))
        .map(|s| pull(s.f64(), unseen, scale))
        .collect();
    for (i, (&target, &(w, _))) in targets.iter().zip(&pulls).enumerate() {
        let (w, target) = (T::from_f64(w), target as usize);
        vector::axpy(&mut dp[i * d..(i + 1) * d], w, &view.table[target * d..(target + 1) * d]);
        vector::axpy(&mut da[target * d..(target + 1) * d], w, &view.query[i * d..(i + 1) * d]);
    }
    Ok(unseen * scale * pairs + pulls.iter().map(|p| p.1).sum::<f64>())
}

fn on_machine(
    device: &Device,
    runtime: &dyn Runtime,
    grads: Gradients,
    scoring: &Scoring,
    targets: Numbers,
    unseen: f64,
    scale: f64,
) -> Result<f64> {
    let (d, v, r) = (scoring.dim, scoring.items, targets.len());
    let square = |x: &Buffer, n: usize| -> Result<Buffer> {
        let mut product = Buffer::empty(device);
        product.resize(device, d * d)?;
        runtime.matmul(MatOut::new(&mut product, d), MatIn::new(x, d).t(), MatIn::new(x, d), [d, d, n], 1.0, Plus::Nothing)?;
        Ok(product)
    };
    let (of_items, of_rows) = (square(scoring.table, v)?, square(scoring.query, r)?);
    let factor = (2.0 * unseen * scale) as f32;
    let by = |of: &Buffer, to: MatOut, x: &Buffer, n: usize, plus: Plus| {
        runtime.matmul(to, MatIn::new(x, d), MatIn::new(of, d), [n, d, d], factor, plus)
    };
    by(&of_items, MatOut::new(grads.query, d), scoring.query, r, Plus::Nothing)?;
    by(&of_rows, MatOut::new(grads.table, d), scoring.table, v, Plus::Before)?;

    let mut s = Buffer::empty(device);
    s.resize(device, r)?;
    score::gather_on(runtime, &mut s, scoring, &*targets.on(runtime)?, 1)?;
    let pulls: Vec<(f64, f64)> = s.to_f64(device)?.into_iter().map(|s| pull(s, unseen, scale)).collect();
    let w: Vec<f32> = pulls.iter().map(|p| p.0 as f32).collect();
    // Each row has one item, each item its rows.
    let each: Vec<u32> = (0..r as u32).collect();
    let of_row = Segments { rows: each, offsets: (0..=r as u32).collect(), positions: targets.here().to_vec() };
    segments::sum(runtime, grads.query, None, scoring.table, Some(&w), &of_row, d, 1.0)?;
    let of_item = Segments::of(targets.here());
    let by_position: Vec<f32> = of_item.positions.iter().map(|&r| w[r as usize]).collect();
    segments::sum(runtime, grads.table, None, scoring.query, Some(&by_position), &of_item, d, 1.0)?;

    let (of_items, of_rows) = (of_items.to_f64(device)?, of_rows.to_f64(device)?);
    let pairs: f64 = of_items.iter().zip(&of_rows).map(|(a, p)| a * p).sum();
    Ok(unseen * scale * pairs + pulls.iter().map(|p| p.1).sum::<f64>())
}

pub fn cases() -> Vec<Case> {
    /// (R, V, D)
    const SHAPES: [[usize; 3]; 6] = [[0, 3, 5], [1, 1, 1], [3, 63, 16], [65, 31, 64], [523, 7, 8], [33, 130, 65]];
    let case = |shape: [usize; 3]| {
        let [r, v, d] = shape;
        Case::new("whole_data", format!("R {r}, V {v}, D {d}"), move |device| {
            let inputs = Inputs::new(device, shape, ScoreKind::Dot, false, false)?;
            let (mut dp, mut da) = (Buffer::empty(device), device.zeros(v * d)?);
            let grads = Gradients { query: &mut dp, context: None, wrong: None, table: &mut da };
            let scale = 1.0 / r.max(1) as f64;
            let loss = forward_backward(device, grads, &inputs.scoring(), &case::ids(3, r, v), 0.1, scale)?.read(device)?;
            let loss = Output { name: "loss", values: Values::Reals(vec![loss]) };
            Ok(vec![loss, Output::reals("dp", device, &dp)?, Output::reals("da", device, &da)?])
        })
    };
    SHAPES.map(case).into()
}
