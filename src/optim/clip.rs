//! Clipping by the global norm: the gradient keeps its direction and is never longer than asked.
//!
//! ```text
//! norm = sqrt(sum over all parameters of g^2),   factor = min(1, clip / norm)        Pascanu et al., ICML 2013
//! ```
//!
//! Squares are added in f64, block after block of fixed size, so the norm does not depend on the number of threads and does
//! not overflow while a gradient is finite. A machine sums what all blocks of all parameters left in one array and keeps norm
//! and factor where the update reads them: the host does not wait for either. Once a norm is not finite the factor stays NaN,
//! which updates take as a halt.

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime, Scalar};
use crate::error::Result;
use crate::ops::param::Param;
use crate::ops::touched::{Rows, RowsThere};
use crate::ops::vector;

const BLOCK: usize = 1 << 14;

/// Sum of squares of all gradients on the plain path, over the given rows of each or all.
pub fn square<T: Real>(params: &[Param], rows: &[Option<Rows>]) -> Result<f64> {
    let squares = params.iter().zip(rows).map(|(param, rows)| {
        let grad = T::of(&param.grad)?;
        let Some(Rows::Here(rows)) = rows else { return Ok(of(grad)) };
        let width = row_width(param);
        let parts: Vec<f64> = rows
            .par_chunks(256)
            .map(|rows| rows.iter().map(|&r| of_block(&grad[r as usize * width..(r as usize + 1) * width])).sum())
            .collect();
        Ok(parts.iter().sum())
    });
    squares.sum()
}

fn row_width(param: &Param) -> usize {
    param.len() / param.shape[0].max(1)
}

/// Rows of one block of the kernel, `ROWS` there; `BLOCK` is its elements' too.
const ROWS: usize = 64;

/// What a launch adds the squares of, in a machine's memory.
pub enum Squares<'a> {
    /// Gradients side by side.
    All(Buffer),
    Rows(&'a Param, RowsThere<'a>),
}

impl Squares<'_> {
    fn blocks(&self) -> usize {
        match self {
            Squares::All(grad) => grad.len().div_ceil(BLOCK),
            Squares::Rows(_, rows) => rows.most.div_ceil(ROWS),
        }
    }
}

/// The norm, on a machine; `factor (1)` becomes what gradients are multiplied by, or stays NaN.
pub fn launch(device: &Device, runtime: &dyn Runtime, factor: &mut Buffer, all: &[Squares], clip: f64) -> Result<Scalar> {
    let total: usize = all.iter().map(Squares::blocks).sum();
    let mut partial = Buffer::machine(runtime.alloc(total * 8)?, total * 2);
    let mut first = 0;
    for squares in all.iter().filter(|squares| squares.blocks() > 0) {
        let (grid, at) = (Grid::row(squares.blocks(), 256), Arg::U32(first as u32));
        first += squares.blocks();
        match squares {
            Squares::All(grad) => {
                let args = &mut [Arg::Out(&mut partial), Arg::In(grad), Arg::U64(grad.len() as u64), at];
                runtime.launch(&Kernel::new("clip", "clip_square", &[]), grid, args)?;
            }
            Squares::Rows(param, rows) => {
                let (ids, count, width) = (Arg::In(rows.ids), Arg::In(rows.count), Arg::U32(row_width(param) as u32));
                let args = &mut [Arg::Out(&mut partial), Arg::In(&param.grad), ids, count, width, at];
                runtime.launch(&Kernel::new("clip", "clip_square_rows", &[]), grid, args)?;
            }
        }
    }
    let mut norm = Buffer::sized(device, 2)?;
    let out = [Arg::Out(&mut norm), Arg::Out(factor)];
    let args = out.into_iter().chain([Arg::In(&partial), Arg::U32(total as u32), Arg::U64(clip.to_bits())]);
    runtime.launch(&Kernel::new("clip", "clip_factor", &[]), Grid::row(1, 256), &mut args.collect::<Vec<_>>())?;
    Ok(Scalar::There { at: norm, factor: 1.0 })
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
