//! Sums over rows: the gradient of whatever is added to each row of a batch, such as a bias.
//!
//! ```text
//! out += sum over r of x[r]            out (N), x (R,N)
//! ```

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::vector;

/// Rows per parallel task, whose sums are added in order.
const TASK: usize = 512;
/// Rows that one block of the kernel adds, `CHUNK` there.
const CHUNK: usize = 256;

/// `n` N; the rows are all of `x`.
pub fn add(device: &Device, out: &mut Buffer, x: &Buffer, n: usize) -> Result<()> {
    dispatch!(device, T => { reference::<T>(T::of_mut(out)?, T::of(x)?, n); Ok(()) }, runtime => launch(&**runtime, out, x, n))
}

fn reference<T: Real>(out: &mut [T], x: &[T], n: usize) {
    let partial: Vec<Vec<T>> = x
        .par_chunks(TASK * n)
        .map(|x| {
            let mut sum = vec![T::ZERO; n];
            vector::fast(
                #[inline(always)]
                || x.chunks_exact(n).for_each(|x| sum.iter_mut().zip(x).for_each(|(s, &x)| *s += x)),
            );
            sum
        })
        .collect();
    for sum in &partial {
        out.iter_mut().zip(sum).for_each(|(o, &s)| *o += s);
    }
}

/// Chunk by chunk into scratch, then the chunks' sums in the same way, until one chunk is left for `out`.
pub fn launch(runtime: &dyn Runtime, out: &mut Buffer, x: &Buffer, n: usize) -> Result<()> {
    if n == 0 || x.is_empty() {
        return Ok(());
    }
    let rows = x.len() / n;
    let chunks = rows.div_ceil(CHUNK);
    let grid = Grid { blocks: [chunks as u32, n.div_ceil(32) as u32, 1], threads: 256, shared_bytes: 0 };
    let kernel = |add| Kernel::new("column_sum", "column_sum", &[("ADD", add)]);
    let [r, columns] = [rows, n].map(|x| Arg::U32(x as u32));
    if chunks == 1 {
        return runtime.launch(&kernel(1), grid, &mut [Arg::Out(out), Arg::In(x), r, columns]);
    }
    let mut sums = Buffer::machine(runtime.alloc(chunks * n * 4)?, chunks * n);
    runtime.launch(&kernel(0), grid, &mut [Arg::Out(&mut sums), Arg::In(x), r, columns])?;
    launch(runtime, out, &sums, n)
}

pub fn cases() -> Vec<Case> {
    let case = |(r, n): (usize, usize)| {
        Case::new("column_sum", format!("R {r}, N {n}"), move |device| {
            let (mut out, x) = (device.reals(&case::noise(1, n))?, device.reals(&case::noise(2, r * n))?);
            add(device, &mut out, &x, n)?;
            Ok(vec![Output::reals("out", device, &out)?])
        })
    };
    // One below and above a chunk, more than a chunk of chunks, and columns around a tile of 32.
    [(0, 5), (1, 1), (255, 31), (257, 33), (700, 64), (65_800, 2)].map(case).into()
}
