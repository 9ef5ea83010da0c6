//! Moving whole rows: the queries of a batch are its rows, or the last row of each sequence.
//!
//! ```text
//! select:   out[q] = x[rows[q]]            out (Q,D), x (R,D), rows (Q) distinct
//! restore:  dx = 0, dx[rows[q]] = dout[q]
//! add:      y += scale * x                 same length
//! ```

use rayon::prelude::*;

use crate::device::{Buffer, Device, Real, no_kernel};
use crate::dispatch;
use crate::error::Result;
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
    }, _ => Err(no_kernel("rows")))
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
    }, _ => Err(no_kernel("rows")))
}

pub fn add(device: &Device, y: &mut Buffer, x: &Buffer, scale: f64) -> Result<()> {
    dispatch!(device, T => {
        let scale = T::from_f64(scale);
        T::of_mut(y)?.par_chunks_mut(TASK).zip(T::of(x)?.par_chunks(TASK)).for_each(|(y, x)| vector::fast(|| {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y += x * scale);
        }));
        Ok(())
    }, _ => Err(no_kernel("rows")))
}
