//! Sums over rows: the gradient of whatever is added to each row of a batch, such as a bias.
//!
//! ```text
//! out += sum over r of x[r]            out (N), x (R,N)
//! ```
//!
//! A machine adds chunks of rows first, and then the chunks' sums. In a backward pass the second part of all such gradients is one
//! launch ([`Sums`]): their parameters lie side by side, and so do the sums that wait for them.

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Memory, Real, Runtime, round};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::vector;

/// Rows per parallel task, whose sums are added in order.
const TASK: usize = 512;
/// Rows of a batch that one block adds: enough blocks for a large machine. Also `CHUNK` of the kernels that leave such sums behind
/// (`layer_norm.cu`, `activation.cu`, `dropout.cu`).
pub const CHUNK: usize = 64;
/// The same of chunks' sums: mostly all of them.
const CHUNKS: usize = 1024;

/// `n` N; the rows are all of `x`.
pub fn add(device: &Device, out: &mut Buffer, x: &Buffer, n: usize) -> Result<()> {
    dispatch!(device, T => { reference::<T>(T::of_mut(out)?, T::of(x)?, n); Ok(()) }, runtime => launch(&**runtime, out, x, n))
}

/// The sums of a backward pass, which are complete once it has finished them.
#[derive(Default)]
pub struct Sums(Option<Waiting>);

/// Sums of chunks in a machine's memory, each in the columns of the gradient it is for.
struct Waiting {
    /// (chunks, columns)
    partial: Buffer,
    chunks: usize,
    /// All gradients side by side, without owning them: as many elements as there are columns.
    gradients: Buffer,
    /// Columns that are used: the first, and how many.
    taken: Vec<(usize, usize)>,
}

impl Sums {
    /// For `gradients` side by side in a machine's memory, that is from the first to the last, `gaps`: with zeros between them; and
    /// batches of `rows`. Where there are none, or for other rows or gradients, a sum is complete at once.
    pub fn new(device: &Device, gradients: Option<Buffer>, gaps: bool, rows: usize) -> Result<Sums> {
        let (Device::Machine(runtime), Some(gradients), true) = (device, gradients, rows > CHUNK) else { return Ok(Sums(None)) };
        let chunks = rows.div_ceil(CHUNK);
        let mut partial = Buffer::of_rows(device, chunks, gradients.len())?;
        if gaps {
            runtime.fill(partial.memory_mut()?, 0)?;
        }
        Ok(Sums(Some(Waiting { partial, chunks, gradients, taken: Vec::new() })))
    }

    /// [`add`], complete after [`Sums::finish`].
    pub fn add(&mut self, device: &Device, out: &mut Buffer, x: &Buffer, n: usize) -> Result<()> {
        let rows = x.len() / n.max(1);
        match (device, self.places([&*out], rows.div_ceil(CHUNK), n)) {
            (Device::Machine(runtime), Some(([mut to], stride))) => {
                level(&**runtime, false, CHUNK, [Arg::Out(&mut to), Arg::In(x)], [rows, n], [stride, n])
            }
            _ => add(device, out, x, n),
        }
    }

    /// Where the sums of `chunks` for each gradient of `n` elements may wait, and the elements from one chunk's to the next; none or all.
    pub fn places<const K: usize>(&mut self, of: [&Buffer; K], chunks: usize, n: usize) -> Option<([Buffer; K], usize)> {
        let waiting = self.0.as_mut().filter(|waiting| waiting.chunks == chunks)?;
        let start = waiting.gradients.memory().ok()?.address;
        let column = |gradient: &Buffer| Some(gradient.memory().ok()?.address.checked_sub(start)? as usize / 4);
        let free = |&at: &usize| {
            at + n <= waiting.gradients.len()
                && waiting.taken.iter().all(|&(first, count)| at + n <= first || first + count <= at)
        };
        let columns: Vec<usize> = of.into_iter().filter_map(column).filter(free).collect();
        let columns: [usize; K] = columns.try_into().ok()?;
        waiting.taken.extend(columns.map(|at| (at, n)));
        let (address, len) = (waiting.partial.memory().ok()?.address, waiting.partial.len());
        let place = |at: usize| {
            let memory = Memory { address: address + 4 * at as u64, bytes: 4 * (len - at), owner: Box::new(()) };
            Buffer::machine(memory, len - at)
        };
        Some((columns.map(place), waiting.gradients.len()))
    }

    /// Adds what waits to the gradients.
    pub fn finish(self, device: &Device) -> Result<()> {
        let (Device::Machine(runtime), Some(mut waiting)) = (device, self.0) else { return Ok(()) };
        waiting.taken.sort_unstable();
        // Parameters lie 64 elements apart or a multiple of it; what is between them is zero.
        let mut stretches: Vec<(usize, usize)> = Vec::new();
        for &(first, count) in &waiting.taken {
            match stretches.last_mut().filter(|(_, end)| end.next_multiple_of(64) == first) {
                Some((_, end)) => *end = first + count,
                None => stretches.push((first, first + count)),
            }
        }
        let stride = waiting.gradients.len();
        for (first, end) in stretches {
            let (to, from) = (Arg::OutFrom(&mut waiting.gradients, 4 * first), Arg::InFrom(&waiting.partial, 4 * first));
            add_chunks(&**runtime, to, from, [waiting.chunks, end - first], stride)?;
        }
        Ok(())
    }
}

/// Bytes of a machine's memory that [`Sums`] of `rows` hold until they are finished, for `columns` gradients and the gaps between them.
pub fn bytes_there(rows: usize, columns: usize) -> u64 {
    if rows > CHUNK { (4 * round(rows.div_ceil(CHUNK)) * columns) as u64 } else { 0 }
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

/// Chunk by chunk into scratch, and that into `out`.
pub fn launch(runtime: &dyn Runtime, out: &mut Buffer, x: &Buffer, n: usize) -> Result<()> {
    if n == 0 || x.is_empty() {
        return Ok(());
    }
    let rows = x.len() / n;
    let chunks = rows.div_ceil(CHUNK);
    if chunks == 1 {
        return level(runtime, true, CHUNK, [Arg::Out(out), Arg::In(x)], [rows, n], [n, n]);
    }
    let mut sums = Buffer::machine(runtime.alloc(chunks * n * 4)?, chunks * n);
    level(runtime, false, CHUNK, [Arg::Out(&mut sums), Arg::In(x)], [rows, n], [n, n])?;
    add_chunks(runtime, Arg::Out(out), Arg::In(&sums), [chunks, n], n)
}

/// Adds the sums of chunks, `stride` elements from one to the next, to the n of `out`.
pub fn add_chunks(runtime: &dyn Runtime, out: Arg, x: Arg, [chunks, n]: [usize; 2], stride: usize) -> Result<()> {
    if chunks <= CHUNKS {
        return level(runtime, true, CHUNKS, [out, x], [chunks, n], [n, stride]);
    }
    let fewer = chunks.div_ceil(CHUNKS);
    let mut sums = Buffer::machine(runtime.alloc(fewer * n * 4)?, fewer * n);
    level(runtime, false, CHUNKS, [Arg::Out(&mut sums), x], [chunks, n], [n, stride])?;
    add_chunks(runtime, out, Arg::In(&sums), [fewer, n], n)
}

/// One launch: `args` out and x, `shape` R and N, and the elements `between` rows of out and of x.
fn level(runtime: &dyn Runtime, add: bool, chunk: usize, args: [Arg; 2], shape: [usize; 2], between: [usize; 2]) -> Result<()> {
    let [rows, n] = shape;
    let grid = Grid { blocks: [rows.div_ceil(chunk) as u32, n.div_ceil(32) as u32, 1], threads: 256, shared_bytes: 0 };
    let kernel = Kernel::new("column_sum", "column_sum", &[("ADD", i64::from(add)), ("CHUNK", chunk as i64)]);
    let numbers = [shape, between].concat().into_iter().map(|x| Arg::U32(x as u32));
    runtime.launch(&kernel, grid, &mut args.into_iter().chain(numbers).collect::<Vec<_>>())
}

/// A gradient (n) of a case, which `add` adds the sums of `rows` to; on a machine where a backward pass has it.
pub fn gathered(
    device: &Device,
    rows: usize,
    n: usize,
    add: impl FnOnce(&mut Sums, &mut Buffer) -> Result<()>,
) -> Result<Buffer> {
    let mut all = Buffer::side_by_side(device, &[n, 1])?;
    all[0].set(device, &case::noise(9, n))?;
    let whole = device.is_machine().then(|| all[0].through(&all[1])).transpose()?;
    let mut sums = Sums::new(device, whole, true, rows)?;
    add(&mut sums, &mut all[0])?;
    sums.finish(device)?;
    Ok(all.swap_remove(0))
}

pub fn cases() -> Vec<Case> {
    let case = |(r, n): (usize, usize)| {
        Case::new("column_sum", format!("R {r}, N {n}"), move |device| {
            let (mut out, x) = (device.reals(&case::noise(1, n))?, device.reals(&case::noise(2, r * n))?);
            add(device, &mut out, &x, n)?;
            Ok(vec![Output::reals("out", device, &out)?])
        })
    };
    let waiting = |(r, sizes, gaps): (usize, &'static [usize], bool)| {
        Case::new("column_sum", format!("R {r}, N {sizes:?} together"), move |device| {
            let mut all = Buffer::side_by_side(device, sizes)?;
            for (i, out) in all.iter_mut().enumerate() {
                out.set(device, &case::noise(i as u8, sizes[i]))?;
            }
            let whole = device.is_machine().then(|| all[0].through(&all[sizes.len() - 1])).transpose()?;
            let mut sums = Sums::new(device, whole, gaps, r)?;
            // The second is left out, and the first comes twice and once with fewer rows.
            let given = [(0, r), (2, r), (3, r), (0, r), (0, r / 2)];
            for (lane, (i, rows)) in given.into_iter().enumerate() {
                let x = device.reals(&case::noise(10 + lane as u8, rows * sizes[i]))?;
                sums.add(device, &mut all[i], &x, sizes[i])?;
            }
            sums.finish(device)?;
            let names = ["first", "second", "third", "fourth"];
            names.into_iter().zip(&all).map(|(name, out)| Output::reals(name, device, out)).collect()
        })
    };
    let together = [
        (40, &[5, 64, 1, 64][..], true),
        (65, &[5, 64, 1, 64], true),
        (130, &[64, 128, 64, 192], false),
        (66_000, &[2, 1, 2, 3], true),
    ];
    // One below and above a chunk, more than a chunk of chunks, and columns around a tile of 32.
    let alone = [(0, 5), (1, 1), (63, 31), (65, 33), (700, 64), (65_800, 2)];
    alone.map(case).into_iter().chain(together.map(waiting)).collect()
}
