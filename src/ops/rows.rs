//! Moving whole rows: the queries of a batch are its rows, or the last row of each sequence.
//!
//! ```text
//! select:   out[q] = x[rows[q]]            out (Q,D), x (R,D), rows (Q) distinct
//! restore:  dx = 0, dx[rows[q]] = dout[q]
//! add:      y += scale * x                 same length
//! rounded:  y = x as bf16                  for kernels that gather rows where a machine may round
//! ```

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime, download, upload};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::{Cost, Pass};
use crate::ops::embedding::{self, Into};
use crate::ops::vector;

const TASK: usize = 16 * 1024;

pub fn select(device: &Device, out: &mut Buffer, x: &Buffer, rows: &[u32], dim: usize) -> Result<()> {
    out.resize(device, rows.len() * dim)?;
    dispatch!(device, T => {
        let x = T::of(x)?;
        for (out, &r) in T::of_mut(out)?.chunks_exact_mut(dim).zip(rows) {
            out.copy_from_slice(&x[r as usize * dim..][..dim]);
        }
        Ok(())
    }, runtime => embedding::launch(&**runtime, out, Into::Set, x, rows.into(), dim, 1.0))
}

/// `total` is R, the rows of `dx`.
pub fn restore(device: &Device, dx: &mut Buffer, dout: &Buffer, rows: &[u32], total: usize, dim: usize) -> Result<()> {
    dx.resize(device, total * dim)?;
    dispatch!(device, T => {
        let dx = T::of_mut(dx)?;
        dx.fill(T::ZERO);
        for (dout, &r) in T::of(dout)?.chunks_exact(dim).zip(rows) {
            dx[r as usize * dim..][..dim].copy_from_slice(dout);
        }
        Ok(())
    }, runtime => {
        runtime.fill(dx.memory_mut()?, 0)?;
        launch_restore(&**runtime, dx, dout, rows, dim)
    })
}

pub fn add(device: &Device, y: &mut Buffer, x: &Buffer, scale: f64) -> Result<()> {
    dispatch!(device, T => {
        let scale = T::from_f64(scale);
        T::of_mut(y)?.par_chunks_mut(TASK).zip(T::of(x)?.par_chunks(TASK)).for_each(|(y, x)| vector::fast(#[inline(always)] || {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y += x * scale);
        }));
        Ok(())
    }, runtime => launch_add(&**runtime, y, x, scale))
}

/// [`select`] of Q rows, and [`restore`] to R of D numbers.
pub fn select_cost(queries: usize, rows: usize, dim: usize) -> Pass {
    Pass { forward: Cost::moved(2 * queries * dim + queries), backward: Cost::moved((queries + rows) * dim + queries) }
}

/// [`add`] of n `elements`.
pub fn add_cost(elements: usize) -> Cost {
    Cost::moved(3 * elements)
}

fn launch_restore(runtime: &dyn Runtime, dx: &mut Buffer, dout: &Buffer, rows: &[u32], dim: usize) -> Result<()> {
    let n = rows.len() * dim;
    if n == 0 {
        return Ok(());
    }
    let rows = upload(runtime, rows)?;
    let kernel = Kernel::new("rows", "rows_restore", &[("D", dim as i64)]);
    let args = &mut [Arg::Out(dx), Arg::In(dout), Arg::In(&rows), Arg::U64(n as u64)];
    runtime.launch(&kernel, Grid::row(n.div_ceil(1024), 256), args)
}

fn launch_add(runtime: &dyn Runtime, y: &mut Buffer, x: &Buffer, scale: f64) -> Result<()> {
    let n = x.len();
    if n == 0 {
        return Ok(());
    }
    let args = &mut [Arg::Out(y), Arg::In(x), Arg::U64(n as u64), Arg::F32(scale as f32)];
    runtime.launch(&Kernel::new("rows", "rows_add", &[]), Grid::row(n.div_ceil(1024), 256), args)
}

/// `x (n)`, n a multiple of 4, as bf16 in a machine's memory: two numbers in a word, the first in its lower half.
pub fn rounded(device: &Device, runtime: &dyn Runtime, x: &Buffer) -> Result<Buffer> {
    let fours = x.len() / 4;
    let mut y = Buffer::sized(device, 2 * fours)?;
    if fours > 0 {
        let args = &mut [Arg::Out(&mut y), Arg::In(x), Arg::U64(fours as u64)];
        runtime.launch(&Kernel::new("rows", "rows_round", &[]), Grid::row(fours.div_ceil(1024), 256), args)?;
    }
    Ok(y)
}

/// All of `y` is `x`, by the kernel that fills where steps are recorded.
fn fill(device: &Device, y: &mut Buffer, x: f64) -> Result<()> {
    dispatch!(device, T => {
        T::of_mut(y)?.fill(T::from_f64(x));
        Ok(())
    }, runtime => {
        let n = y.len();
        if n == 0 {
            return Ok(());
        }
        let (kernel, grid) = Kernel::filling(n);
        let args = &mut [Arg::Out(y), Arg::U64(n as u64), Arg::U32((x as f32).to_bits())];
        runtime.launch(&kernel, grid, args)
    })
}

/// Numbers rounded to the nearest, and halfway to the even one of two.
pub fn rounded_cases() -> Vec<Case> {
    let case = |n: usize| {
        Case::rounded("rows", format!("{n} numbers as bf16"), &[0.0], move |device| {
            let halfway = (0..n).map(|i| 1.0 + (2 * i + 1) as f64 / 256.0);
            let x: Vec<f64> =
                case::noise(3, n).into_iter().zip(halfway).map(|(x, half)| if x > 1.0 { half } else { x }).collect();
            let words = match device {
                Device::Host(_) => {
                    let bits = |x: f64| u32::from(half::bf16::from_f32(x as f32).to_bits());
                    x.chunks_exact(2).map(|two| bits(two[0]) | bits(two[1]) << 16).collect()
                }
                Device::Machine(runtime) => {
                    let rounded = rounded(device, &**runtime, &device.reals(&x)?)?;
                    download(&**runtime, &rounded, n / 2)?
                }
            };
            Ok(vec![Output::ids("words", words)])
        })
    };
    [4, 132, 4096, 4100].map(case).into()
}

pub fn cases() -> Vec<Case> {
    let case = |(r, step, d): (usize, usize, usize)| {
        let rows: Vec<u32> = (0..r as u32).rev().step_by(step).collect();
        Case::new("rows", format!("Q {} of R {r}, D {d}", rows.len()), move |device| {
            let [x, y] = [1, 2].map(|lane| device.reals(&case::noise(lane, r * d)));
            let (x, mut y) = (x?, y?);
            let (mut out, mut dx, mut filled) = (Buffer::empty(device), Buffer::empty(device), Buffer::sized(device, r * d)?);
            fill(device, &mut filled, -1.5)?;
            select(device, &mut out, &x, &rows, d)?;
            restore(device, &mut dx, &out, &rows, r, d)?;
            add(device, &mut y, &x, -0.25)?;
            let outputs = [("out", &out), ("dx", &dx), ("y", &y), ("filled", &filled)];
            outputs.into_iter().map(|(name, buffer)| Output::reals(name, device, buffer)).collect()
        })
    };
    [(0, 1, 33), (1, 1, 1), (40, 3, 33), (33, 1, 64), (101, 7, 130)].map(case).into()
}
