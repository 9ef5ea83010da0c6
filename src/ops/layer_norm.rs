//! Layer normalisation over the last dimension.
//!
//! ```text
//! y = (x - mean) * rstd * gain + bias,   rstd = 1 / sqrt(variance + eps)      x, y (R,D), gain, bias (D)
//! with n = (x - mean) * rstd and u = dy * gain:
//! dx = rstd * (u - mean(u) - n * mean(u n))     dgain += sum_r dy n     dbias += sum_r dy
//! ```
//!
//! Before most norms a sub-layer's branch meets the path around it, `x = past + dropout(branch)`; both are one operation then, so that
//! a machine takes one pass for them. The gradient of x may be added to what another path has left there.
//!
//! `stats (R,2)` keeps mean and rstd for the backward pass. Source: Ba, Kiros, Hinton, arXiv 1607.06450.

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::column_sum::{self, CHUNK, Sums};
use crate::ops::cost::{Cost, Operation, Pass};
use crate::ops::dropout::{self, Dropout, KEPT};
use crate::ops::embedding::Into;
use crate::ops::vector;

/// Rows per parallel task; sums over rows add the tasks' partial sums in task order.
const TASK: usize = 256;

pub const EPS: f64 = 1e-5;

pub fn forward(device: &Device, y: &mut Buffer, stats: &mut Buffer, x: &Buffer, gain: &Buffer, bias: &Buffer) -> Result<()> {
    let dim = gain.len();
    y.resize(device, x.len())?;
    stats.resize(device, x.len() / dim * 2)?;
    dispatch!(device,
        T => { normalise::<T>(T::of_mut(y)?, T::of_mut(stats)?, T::of(x)?, T::of(gain)?, T::of(bias)?); Ok(()) },
        runtime => launch_forward(&**runtime, y, stats, x, gain, bias))
}

/// `x = past + dropout(branch)`, and [`forward`] of it.
#[allow(clippy::too_many_arguments)]
pub fn forward_of_sum(
    device: &Device,
    x: &mut Buffer,
    y: &mut Buffer,
    stats: &mut Buffer,
    past: &Buffer,
    branch: &Buffer,
    dropout: Option<&Dropout>,
    gain: &Buffer,
    bias: &Buffer,
) -> Result<()> {
    let dim = gain.len();
    if let (Device::Machine(runtime), true) = (device, KEPT.contains(&dim)) {
        for (buffer, n) in [(&mut *x, past.len()), (&mut *y, past.len()), (&mut *stats, past.len() / dim * 2)] {
            buffer.resize(device, n)?;
        }
        return launch_forward_of_sum(&**runtime, x, y, stats, [past, branch, gain, bias], dropout);
    }
    dropout::residual(device, x, past, branch, dropout)?;
    forward(device, y, stats, x, gain, bias)
}

/// `mode`: whether dx is overwritten or added to; dgain and dbias are added to, once `sums` are finished.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    device: &Device,
    sums: &mut Sums,
    mode: Into,
    dx: &mut Buffer,
    dgain: &mut Buffer,
    dbias: &mut Buffer,
    dy: &Buffer,
    stats: &Buffer,
    x: &Buffer,
    gain: &Buffer,
) -> Result<()> {
    dx.resize(device, x.len())?;
    dispatch!(device, T => {
        gradient::<T>(mode, T::of_mut(dx)?, T::of_mut(dgain)?, T::of_mut(dbias)?, T::of(dy)?, T::of(stats)?, T::of(x)?, T::of(gain)?);
        Ok(())
    }, runtime => launch_backward(&**runtime, sums, mode, dx, dgain, dbias, dy, stats, x, gain))
}

/// Of R `rows` of D numbers.
pub fn cost(rows: usize, dim: usize) -> Pass {
    let n = rows * dim;
    let of = |numbers: usize| Cost::moved(numbers).of(Operation::Norm, 4 * numbers as u64);
    Pass { forward: of(2 * n + 2 * rows + 2 * dim), backward: of(3 * n + 2 * rows + 5 * dim) }
}

fn normalise<T: Real>(y: &mut [T], stats: &mut [T], x: &[T], gain: &[T], bias: &[T]) {
    let dim = gain.len();
    let inverse = T::from_f64(1.0 / dim as f64);
    let tasks = y.par_chunks_mut(TASK * dim).zip(stats.par_chunks_mut(TASK * 2)).zip(x.par_chunks(TASK * dim));
    tasks.for_each(|((y, stats), x)| {
        vector::fast(
            #[inline(always)]
            || {
                for ((y, stats), x) in y.chunks_exact_mut(dim).zip(stats.chunks_exact_mut(2)).zip(x.chunks_exact(dim)) {
                    let mean = vector::sum(x) * inverse;
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = x - mean);
                    let rstd = T::ONE / (vector::dot(y, y) * inverse + T::from_f64(EPS)).sqrt();
                    stats.copy_from_slice(&[mean, rstd]);
                    for ((y, &g), &b) in y.iter_mut().zip(gain).zip(bias) {
                        *y = *y * rstd * g + b;
                    }
                }
            },
        );
    });
}

fn gradient<T: Real>(mode: Into, dx: &mut [T], dgain: &mut [T], dbias: &mut [T], dy: &[T], stats: &[T], x: &[T], gain: &[T]) {
    let dim = gain.len();
    let inverse = T::from_f64(1.0 / dim as f64);
    let tasks = dx
        .par_chunks_mut(TASK * dim)
        .zip(dy.par_chunks(TASK * dim))
        .zip(stats.par_chunks(TASK * 2))
        .zip(x.par_chunks(TASK * dim));
    let partial: Vec<(Vec<T>, Vec<T>)> = tasks
        .map(|(((dx, dy), stats), x)| {
            let (mut dgain, mut dbias, mut n) = (vec![T::ZERO; dim], vec![T::ZERO; dim], vec![T::ZERO; dim]);
            vector::fast(
                #[inline(always)]
                || {
                    let rows =
                        dx.chunks_exact_mut(dim).zip(dy.chunks_exact(dim)).zip(stats.chunks_exact(2)).zip(x.chunks_exact(dim));
                    for (((dx, dy), stats), x) in rows {
                        let (mean, rstd) = (stats[0], stats[1]);
                        for ((n, &x), (dg, (db, &dy))) in n.iter_mut().zip(x).zip(dgain.iter_mut().zip(dbias.iter_mut().zip(dy)))
                        {
                            *n = (x - mean) * rstd;
                            *dg += dy * *n;
                            *db += dy;
                        }
                        let u = vector::dot(dy, gain) * inverse;
                        let un = vector::dot3(dy, gain, &n) * inverse;
                        let d = n.iter().zip(dy).zip(gain).map(|((&n, &dy), &g)| rstd * (dy * g - u - n * un));
                        match mode {
                            Into::Set => dx.iter_mut().zip(d).for_each(|(dx, d)| *dx = d),
                            Into::Add => dx.iter_mut().zip(d).for_each(|(dx, d)| *dx += d),
                        }
                    }
                },
            );
            (dgain, dbias)
        })
        .collect();
    for (dg, db) in &partial {
        dgain.iter_mut().zip(dg).for_each(|(o, &d)| *o += d);
        dbias.iter_mut().zip(db).for_each(|(o, &d)| *o += d);
    }
}

/// A warp to a row, or to several short ones (`ROWS` in the kernel); at most 64 warps on each of 132 multiprocessors.
fn launch_forward(
    runtime: &dyn Runtime,
    y: &mut Buffer,
    stats: &mut Buffer,
    x: &Buffer,
    gain: &Buffer,
    bias: &Buffer,
) -> Result<()> {
    let dim = gain.len();
    let rows = x.len() / dim;
    if rows == 0 {
        return Ok(());
    }
    let at_once = (4 / dim.div_ceil(32)).max(1);
    let blocks = rows.div_ceil(8 * at_once).min(8 * runtime.facts().multiprocessors.max(1) as usize);
    let kernel = Kernel::new("layer_norm", "layer_norm_fwd", &[("D", dim as i64)]);
    let args = &mut [Arg::Out(y), Arg::Out(stats), Arg::In(x), Arg::In(gain), Arg::In(bias), Arg::U32(rows as u32)];
    runtime.launch(&kernel, Grid::row(blocks, 256), args)
}

fn launch_forward_of_sum(
    runtime: &dyn Runtime,
    x: &mut Buffer,
    y: &mut Buffer,
    stats: &mut Buffer,
    inputs: [&Buffer; 4],
    dropout: Option<&Dropout>,
) -> Result<()> {
    let (n, dim) = (x.len(), inputs[2].len());
    if n == 0 {
        return Ok(());
    }
    let defines = [("D", dim as i64), ("DROP", i64::from(dropout.is_some()))];
    let mut args = vec![Arg::Out(x), Arg::Out(y), Arg::Out(stats)];
    args.extend(inputs.map(Arg::In));
    args.push(Arg::U32((n / dim) as u32));
    args.extend(Dropout::arguments(dropout));
    runtime.launch(&Kernel::new("layer_norm", "residual_norm_fwd", &defines), Grid::row(n.div_ceil(8 * 256), 256), &mut args)
}

#[allow(clippy::too_many_arguments)]
fn launch_backward(
    runtime: &dyn Runtime,
    sums: &mut Sums,
    mode: Into,
    dx: &mut Buffer,
    dgain: &mut Buffer,
    dbias: &mut Buffer,
    dy: &Buffer,
    stats: &Buffer,
    x: &Buffer,
    gain: &Buffer,
) -> Result<()> {
    let dim = gain.len();
    let rows = x.len() / dim;
    if rows == 0 {
        return Ok(());
    }
    let chunks = rows.div_ceil(CHUNK);
    let places = sums.places([&*dgain, &*dbias], chunks, dim);
    let waits = places.is_some();
    let scratch = || Ok(Buffer::machine(runtime.alloc(chunks * dim * 4)?, chunks * dim));
    let ([mut gains, mut biases], stride) = match places {
        Some(places) => places,
        None => ([scratch()?, scratch()?], dim),
    };
    let kernel = Kernel::new("layer_norm", "layer_norm_bwd", &[("D", dim as i64), ("ADD", i64::from(mode == Into::Add))]);
    let args = &mut [
        Arg::Out(dx),
        Arg::Out(&mut gains),
        Arg::Out(&mut biases),
        Arg::In(dy),
        Arg::In(stats),
        Arg::In(x),
        Arg::In(gain),
        Arg::U32(rows as u32),
        Arg::U32(stride as u32),
    ];
    runtime.launch(&kernel, Grid::row(chunks, 256), args)?;
    if waits {
        return Ok(());
    }
    column_sum::add_chunks(runtime, Arg::Out(dgain), Arg::In(&gains), [chunks, dim], dim)?;
    column_sum::add_chunks(runtime, Arg::Out(dbias), Arg::In(&biases), [chunks, dim], dim)
}

pub fn cases() -> Vec<Case> {
    let case = |(r, d): (usize, usize)| {
        Case::new("layer_norm", format!("R {r}, D {d}"), move |device| {
            let inputs = [(1, r * d), (2, d), (3, d), (4, r * d)].map(|(lane, n)| device.reals(&case::noise(lane, n)));
            let [x, gain, bias, dy] = inputs;
            let (x, gain, bias, dy) = (x?, gain?, bias?, dy?);
            let (mut y, mut stats, mut dx) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
            let (mut dgain, mut dbias) = (device.reals(&case::noise(5, d))?, device.zeros(d)?);
            forward(device, &mut y, &mut stats, &x, &gain, &bias)?;
            backward(device, &mut Sums::default(), Into::Set, &mut dx, &mut dgain, &mut dbias, &dy, &stats, &x, &gain)?;
            let (mut more, branch) = (device.reals(&case::noise(6, r * d))?, device.reals(&case::noise(7, r * d))?);
            backward(device, &mut Sums::default(), Into::Add, &mut more, &mut dgain, &mut dbias, &dy, &stats, &x, &gain)?;
            let (mut sum, mut of_sum, mut its) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
            let dropout = (r % 2 == 1).then(|| Dropout::new(0.3, 5, 1, 9));
            forward_of_sum(device, &mut sum, &mut of_sum, &mut its, &x, &branch, dropout.as_ref(), &gain, &bias)?;
            let outputs = [("y", &y), ("stats", &stats), ("dx", &dx), ("dgain", &dgain), ("dbias", &dbias)];
            let outputs = outputs.into_iter().chain([("more", &more), ("sum", &sum), ("y of sum", &of_sum), ("its stats", &its)]);
            outputs.into_iter().map(|(name, buffer)| Output::reals(name, device, buffer)).collect()
        })
    };
    // Rows around a chunk, widths around a warp, and the widest.
    let shapes = [(0, 7), (1, 1), (3, 7), (63, 31), (65, 33), (150, 64), (5, 300), (2, 4096)];
    // Rows kept in registers, around a block of them.
    shapes.into_iter().chain([(0, 64), (33, 64), (16, 128), (21, 128), (1, 256), (12, 256)]).map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::central::{check, noise};

    #[test]
    fn gradients_agree_with_central_differences_at_odd_sizes() {
        let device = Device::ORACLE;
        // One row, one column, and more rows than a task holds.
        for (r, d) in [(1, 1), (3, 7), (TASK + 2, 3)] {
            let (x, gain, bias, weight) = (noise(1, r * d), noise(2, d), noise(3, d), noise(4, r * d));
            let run = |inputs: &[Vec<f64>]| {
                let [x, gain, bias] = [0, 1, 2].map(|i| device.reals(&inputs[i]).unwrap());
                let (mut y, mut stats) = (Buffer::empty(&device), Buffer::empty(&device));
                forward(&device, &mut y, &mut stats, &x, &gain, &bias).unwrap();
                (x, gain, y, stats)
            };
            let loss = |inputs: &[Vec<f64>]| f64::of(&run(inputs).2).unwrap().iter().zip(&weight).map(|(y, w)| y * w).sum();
            let inputs = [x, gain, bias];
            let (x, gain, _, stats) = run(&inputs);
            let (mut dx, mut dgain, mut dbias) = (Buffer::empty(&device), device.zeros(d).unwrap(), device.zeros(d).unwrap());
            let dy = device.reals(&weight).unwrap();
            backward(&device, &mut Sums::default(), Into::Set, &mut dx, &mut dgain, &mut dbias, &dy, &stats, &x, &gain).unwrap();
            check(&inputs, &[&dx, &dgain, &dbias].map(|b| f64::of(b).unwrap().to_vec()), loss);
        }
    }

    #[test]
    fn rows_have_mean_zero_and_variance_one() {
        let device = Device::HOST;
        let (r, d) = (5, 63);
        let x = device.reals(&noise(1, r * d).iter().map(|v| v * 3.0 + 100.0).collect::<Vec<_>>()).unwrap();
        let (gain, bias) = (device.reals(&vec![1.0; d]).unwrap(), device.zeros(d).unwrap());
        let (mut y, mut stats) = (Buffer::empty(&device), Buffer::empty(&device));
        forward(&device, &mut y, &mut stats, &x, &gain, &bias).unwrap();
        for row in y.f32s().unwrap().chunks(d) {
            let mean = row.iter().sum::<f32>() / d as f32;
            let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / d as f32;
            // x near 100 in f32 has steps of 8e-6, relative to a deviation of 3.
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
        }
    }
}
