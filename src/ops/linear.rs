//! A linear layer.
//!
//! ```text
//! y = x w + b          x (R,K), w (K,N), b (N) or empty, y (R,N)
//! dx = dy w^T          dw += x^T dy          db += sum_r dy
//! ```

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, MatIn, MatOut, Real, Runtime};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::column_sum;
use crate::ops::cost::{Cost, Operation, Pass, product};
use crate::ops::matmul::{self, Mat};
use crate::ops::vector;

/// Rows per parallel task of the bias.
const TASK: usize = 512;

/// `rows` R, `k` and `n` as above. `b` of length 0 means no bias.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    device: &Device,
    y: &mut Buffer,
    x: &Buffer,
    w: &Buffer,
    b: Option<&Buffer>,
    rows: usize,
    k: usize,
    n: usize,
) -> Result<()> {
    y.resize(device, rows * n)?;
    dispatch!(device, T => {
        let y = T::of_mut(y)?;
        matmul::rows(y, Mat::new(T::of(x)?, k), Mat::new(T::of(w)?, n), [rows, n, k], false);
        if let Some(b) = b {
            let b = T::of(b)?;
            y.par_chunks_mut(TASK * n).for_each(|y| vector::fast(#[inline(always)] || {
                for y in y.chunks_exact_mut(n) {
                    y.iter_mut().zip(b).for_each(|(y, &b)| *y += b);
                }
            }));
        }
        Ok(())
    }, runtime => launch(&**runtime, y, x, w, b, rows, k, n))
}

/// Gradients of [`forward`]; `dx` overwritten (skipped when `None`), `dw` and `db` accumulated.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    device: &Device,
    dx: Option<&mut Buffer>,
    dw: &mut Buffer,
    db: Option<&mut Buffer>,
    dy: &Buffer,
    x: &Buffer,
    w: &Buffer,
    rows: usize,
    k: usize,
    n: usize,
) -> Result<()> {
    dispatch!(device, T => {
        let dy = T::of(dy)?;
        if let Some(dx) = dx {
            dx.resize(device, rows * k)?;
            matmul::rows(T::of_mut(dx)?, Mat::new(dy, n), Mat::new(T::of(w)?, n).t(), [rows, k, n], false);
        }
        matmul::reduce(T::of_mut(dw)?, Mat::new(T::of(x)?, k).t(), Mat::new(dy, n), [k, n, rows]);
    }, runtime => {
        if let Some(dx) = dx {
            dx.resize(device, rows * k)?;
            if !dx.is_empty() {
                runtime.matmul(MatOut::new(dx, k), MatIn::new(dy, n), MatIn::new(w, n).t(), [rows, k, n], 1.0, false)?;
            }
        }
        if rows * k > 0 {
            runtime.matmul(MatOut::new(dw, n), MatIn::new(x, k).t(), MatIn::new(dy, n), [k, n, rows], 1.0, true)?;
        }
    });
    match db {
        Some(db) => column_sum::add(device, db, dy, n),
        None => Ok(()),
    }
}

/// Of R `rows`; `dx`: whether the gradient of x is wanted.
pub fn cost(rows: usize, k: usize, n: usize, dx: bool) -> Pass {
    let (x, w, y) = (rows * k, k * n, rows * n);
    let flops = product([rows, n, k]);
    let (times, more) = if dx { (2, w + x) } else { (1, 0) };
    let backward = Cost::new(times * flops, y + x + more + 2 * (w + n)).of(Operation::Layer, times * flops);
    Pass { forward: Cost::new(flops, x + w + n + y).of(Operation::Layer, flops), backward }
}

fn launch(
    runtime: &dyn Runtime,
    y: &mut Buffer,
    x: &Buffer,
    w: &Buffer,
    b: Option<&Buffer>,
    rows: usize,
    k: usize,
    n: usize,
) -> Result<()> {
    if rows * n == 0 {
        return Ok(());
    }
    match k {
        // A context of categories alone has no numeric columns.
        0 => runtime.fill(y.memory_mut()?, 0)?,
        _ => runtime.matmul(MatOut::new(y, n), MatIn::new(x, k), MatIn::new(w, n), [rows, n, k], 1.0, false)?,
    }
    let Some(b) = b else { return Ok(()) };
    let kernel = Kernel::new("linear", "linear_bias", &[("WIDTH", n as i64)]);
    let args = &mut [Arg::Out(y), Arg::In(b), Arg::U64((rows * n) as u64)];
    runtime.launch(&kernel, Grid::row((rows * n).div_ceil(1024), 256), args)
}

pub fn cases() -> Vec<Case> {
    let case = |(r, k, n): (usize, usize, usize)| {
        Case::new("linear", format!("R {r}, K {k}, N {n}"), move |device| {
            let inputs = [(1, r * k), (2, k * n), (3, n), (4, r * n)].map(|(lane, len)| device.reals(&case::noise(lane, len)));
            let [x, w, b, dy] = inputs;
            let (x, w, b, dy) = (x?, w?, b?, dy?);
            let (mut y, mut bare, mut dx) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
            let (mut dw, mut db) = (device.reals(&case::noise(5, k * n))?, device.zeros(n)?);
            forward(device, &mut y, &x, &w, Some(&b), r, k, n)?;
            forward(device, &mut bare, &x, &w, None, r, k, n)?;
            backward(device, Some(&mut dx), &mut dw, Some(&mut db), &dy, &x, &w, r, k, n)?;
            let outputs = [("y", &y), ("y without b", &bare), ("dx", &dx), ("dw", &dw), ("db", &db)];
            outputs.into_iter().map(|(name, buffer)| Output::reals(name, device, buffer)).collect()
        })
    };
    [(0, 4, 3), (1, 1, 1), (6, 0, 5), (5, 3, 7), (257, 33, 65)].map(case).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::central::{check, noise};

    #[test]
    fn gradients_agree_with_central_differences_at_odd_sizes() {
        let device = Device::ORACLE;
        for (r, k, n) in [(1, 1, 1), (5, 3, 7), (TASK + 1, 2, 1)] {
            let weight = noise(4, r * n);
            let run = |inputs: &[Vec<f64>]| {
                let [x, w, b] = [0, 1, 2].map(|i| device.reals(&inputs[i]).unwrap());
                let mut y = Buffer::empty(&device);
                forward(&device, &mut y, &x, &w, Some(&b), r, k, n).unwrap();
                (x, w, y)
            };
            let loss = |inputs: &[Vec<f64>]| f64::of(&run(inputs).2).unwrap().iter().zip(&weight).map(|(y, w)| y * w).sum();
            let inputs = [noise(1, r * k), noise(2, k * n), noise(3, n)];
            let (x, w, _) = run(&inputs);
            let (mut dx, mut dw, mut db) = (Buffer::empty(&device), device.zeros(k * n).unwrap(), device.zeros(n).unwrap());
            let dy = device.reals(&weight).unwrap();
            backward(&device, Some(&mut dx), &mut dw, Some(&mut db), &dy, &x, &w, r, k, n).unwrap();
            check(&inputs, &[&dx, &dw, &db].map(|b| f64::of(b).unwrap().to_vec()), loss);
        }
    }
}
