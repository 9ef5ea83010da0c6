//! Clipping by the global norm: the gradient keeps its direction and is never longer than asked.
//!
//! ```text
//! norm = sqrt(sum over all parameters of g^2),   factor = min(1, clip / norm)        Pascanu et al., ICML 2013
//! ```
//!
//! Squares are added in f64, block after block of fixed size, so the norm does not depend on the number of threads and does
//! not overflow while a gradient is finite.

use rayon::prelude::*;

use crate::device::{Device, Real, no_kernel};
use crate::dispatch;
use crate::error::Result;
use crate::ops::param::Param;
use crate::ops::vector;

const BLOCK: usize = 1 << 14;

/// Sum of squares of a parameter's gradient, over the given rows or all.
pub fn square(device: &Device, param: &Param, rows: Option<&[u32]>) -> Result<f64> {
    dispatch!(device, T => {
        let grad = T::of(&param.grad)?;
        let Some(rows) = rows else { return Ok(of(grad)) };
        let width = param.len() / param.shape[0].max(1);
        let parts: Vec<f64> = rows
            .par_chunks(256)
            .map(|rows| rows.iter().map(|&r| of_block(&grad[r as usize * width..(r as usize + 1) * width])).sum())
            .collect();
        Ok(parts.iter().sum())
    }, _ => Err(no_kernel("optimizer")))
}

fn of<T: Real>(grad: &[T]) -> f64 {
    let parts: Vec<f64> = grad.par_chunks(BLOCK).map(of_block).collect();
    parts.iter().sum()
}

fn of_block<T: Real>(grad: &[T]) -> f64 {
    const LANES: usize = 16;
    vector::fast(
        #[inline(always)]
        || {
            let mut lanes = [0.0; LANES];
            let chunks = grad.chunks_exact(LANES);
            let tail: f64 = chunks.remainder().iter().map(|g| g.f64() * g.f64()).sum();
            for g in chunks {
                for j in 0..LANES {
                    lanes[j] += g[j].f64() * g[j].f64();
                }
            }
            lanes.iter().sum::<f64>() + tail
        },
    )
}

/// What every gradient is multiplied by; `clip` 0 means no limit.
pub fn factor(norm: f64, clip: f64) -> f64 {
    if clip > 0.0 && norm > clip { clip / norm } else { 1.0 }
}
