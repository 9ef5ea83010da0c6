//! A linear layer.
//!
//! ```text
//! y = x w + b          x (R,K), w (K,N), b (N) or empty, y (R,N)
//! dx = dy w^T          dw += x^T dy          db += sum_r dy
//! ```

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Kernel, MatIn, MatOut, Plus, Real, Runtime};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::column_sum;
use crate::ops::cost::{Cost, Operation, Pass, product};
use crate::ops::matmul::{self, Mat};
use crate::ops::rows;
use crate::ops::vector;

/// The `count` columns from `first` on of y, w and dy, all of which are `of` wide: two inputs can then share a layer's weights and its
/// output.
#[derive(Clone, Copy)]
pub struct Columns {
    pub first: usize,
    pub count: usize,
    pub of: usize,
}

impl Columns {
    pub fn all(n: usize) -> Columns {
        Columns { first: 0, count: n, of: n }
    }
}

/// Rows per parallel task of the bias.
const TASK: usize = 512;

/// `rows` R, `k` and `n` as above.
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
    if let (Device::Machine(runtime), Some(b), true) = (device, b, rows * k * n > 0) {
        // In one pass over y.
        return runtime.matmul(MatOut::new(y, n), MatIn::new(x, k), MatIn::new(w, n), [rows, n, k], 1.0, Plus::Row(b));
    }
    multiply(device, y, x, w, Columns::all(n), rows, k)?;
    b.map_or(Ok(()), |b| add_bias(device, y, b))
}

/// The product alone, into some columns of `y`, which has its size already.
pub fn multiply(device: &Device, y: &mut Buffer, x: &Buffer, w: &Buffer, of: Columns, rows: usize, k: usize) -> Result<()> {
    dispatch!(device, T => {
        let (x, w) = (Mat::new(T::of(x)?, k), Mat::new(T::of(w)?, of.of).from_column(of.first));
        matmul::rows_of(T::of_mut(y)?, [of.first, of.of], x, w, [rows, of.count, k], false);
        Ok(())
    }, runtime => match (rows * of.count, k) {
        (0, _) => Ok(()),
        // A context of categories alone has no numeric columns.
        (_, 0) => runtime.fill(y.memory_mut()?, 0),
        _ => {
            let w = MatIn { first: of.first, ..MatIn::new(w, of.of) };
            let y = MatOut { first: of.first, ..MatOut::new(y, of.of) };
            runtime.matmul(y, MatIn::new(x, k), w, [rows, of.count, k], 1.0, Plus::Nothing)
        }
    })
}

/// `y += b`, for every row of y.
pub fn add_bias(device: &Device, y: &mut Buffer, b: &Buffer) -> Result<()> {
    let n = b.len();
    if y.is_empty() || n == 0 {
        return Ok(());
    }
    dispatch!(device, T => {
        let (y, b) = (T::of_mut(y)?, T::of(b)?);
        y.par_chunks_mut(TASK * n).for_each(|y| vector::fast(#[inline(always)] || {
            for y in y.chunks_exact_mut(n) {
                y.iter_mut().zip(b).for_each(|(y, &b)| *y += b);
            }
        }));
        Ok(())
    }, runtime => {
        let total = y.len();
        let (kernel, grid) = Kernel::adding_a_row(total / n, n);
        runtime.launch(&kernel, grid, &mut [Arg::Out(y), Arg::In(b), Arg::U64(total as u64)])
    })
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
    multiply_backward(device, dx, dw, dy, x, w, Columns::all(n), rows, k)?;
    match db {
        Some(db) => column_sum::add(device, db, dy, n),
        None => Ok(()),
    }
}

/// Gradients of [`multiply`] from some columns of `dy`.
#[allow(clippy::too_many_arguments)]
pub fn multiply_backward(
    device: &Device,
    dx: Option<&mut Buffer>,
    dw: &mut Buffer,
    dy: &Buffer,
    x: &Buffer,
    w: &Buffer,
    of: Columns,
    rows: usize,
    k: usize,
) -> Result<()> {
    dispatch!(device, T => {
        let dy = Mat::new(T::of(dy)?, of.of).from_column(of.first);
        if let Some(dx) = dx {
            dx.resize(device, rows * k)?;
            let w = Mat::new(T::of(w)?, of.of).from_column(of.first).t();
            matmul::rows(T::of_mut(dx)?, dy, w, [rows, k, of.count], false);
        }
        matmul::reduce_of(T::of_mut(dw)?, [of.first, of.of], Mat::new(T::of(x)?, k).t(), dy, [k, of.count, rows]);
    }, runtime => {
        let dx = dx.map(|dx| dx.resize(device, rows * k).map(|()| (dx, Plus::Nothing))).transpose()?;
        launch_backward(&**runtime, dx, dw, dy, x, w, of, rows, k)?;
    });
    Ok(())
}

/// [`multiply_backward`] with dx added to, which costs a machine no pass of its own; `scratch` is the plain path's.
#[allow(clippy::too_many_arguments)]
pub fn multiply_backward_onto(
    device: &Device,
    dx: &mut Buffer,
    scratch: &mut Buffer,
    dw: &mut Buffer,
    dy: &Buffer,
    x: &Buffer,
    w: &Buffer,
    of: Columns,
    rows: usize,
    k: usize,
) -> Result<()> {
    let Device::Machine(runtime) = device else {
        multiply_backward(device, Some(scratch), dw, dy, x, w, of, rows, k)?;
        return rows::add(device, dx, scratch, 1.0);
    };
    launch_backward(&**runtime, Some((dx, Plus::Before)), dw, dy, x, w, of, rows, k)
}

/// Both products in a machine's memory; `dx` with what it is added to.
#[allow(clippy::too_many_arguments)]
fn launch_backward(
    runtime: &dyn Runtime,
    dx: Option<(&mut Buffer, Plus)>,
    dw: &mut Buffer,
    dy: &Buffer,
    x: &Buffer,
    w: &Buffer,
    of: Columns,
    rows: usize,
    k: usize,
) -> Result<()> {
    if rows * k == 0 {
        return Ok(());
    }
    let part = |data| MatIn { first: of.first, ..MatIn::new(data, of.of) };
    if let Some((dx, plus)) = dx {
        runtime.matmul(MatOut::new(dx, k), part(dy), part(w).t(), [rows, k, of.count], 1.0, plus)?;
    }
    let dw = MatOut { first: of.first, ..MatOut::new(dw, of.of) };
    runtime.matmul(dw, MatIn::new(x, k).t(), part(dy), [k, of.count, rows], 1.0, Plus::Before)
}

/// Of R `rows`; `dx`: whether the gradient of x is wanted.
pub fn cost(rows: usize, k: usize, n: usize, dx: bool) -> Pass {
    let (x, w, y) = (rows * k, k * n, rows * n);
    let flops = product([rows, n, k]);
    let (times, more) = if dx { (2, w + x) } else { (1, 0) };
    let backward = Cost::new(times * flops, y + x + more + 2 * (w + n)).of(Operation::Layer, times * flops);
    Pass { forward: Cost::new(flops, x + w + n + y).of(Operation::Layer, flops), backward }
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
            let (mut more, mut scratch) = (device.reals(&case::noise(6, r * k))?, Buffer::empty(device));
            multiply_backward_onto(device, &mut more, &mut scratch, &mut dw, &dy, &x, &w, Columns::all(n), r, k)?;
            let outputs = [("y", &y), ("y without b", &bare), ("dx", &dx), ("dx added", &more), ("dw", &dw), ("db", &db)];
            outputs.into_iter().map(|(name, buffer)| Output::reals(name, device, buffer)).collect()
        })
    };
    [(0, 4, 3), (1, 1, 1), (6, 0, 5), (5, 3, 7), (257, 33, 65), (257, 0, 65)].map(case).into()
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
