//! Whether a machine's graphs do what its calls do: a small step that a training is made of, recorded, changed and replayed.
//!
//! A driver that makes graphs wrongly, rather than not at all, would train a wrong model without a word.

use std::sync::Arc;

use crate::device::recorded::Recorded;
use crate::device::{Arg, Buffer, Grid, Kernel, Mark, MatIn, MatOut, Plus, Runtime, download, upload};
use crate::error::{Error, Result};

/// What lasts from step to step: a sum (4,4), a factor (4,4) and a row (4).
pub struct Lasting {
    pub sum: Buffer,
    factor: Buffer,
    row: Buffer,
}

impl Lasting {
    pub fn new(runtime: &dyn Runtime) -> Result<Lasting> {
        let factor: Vec<f32> = (0..16).map(|i| (i % 5) as f32 - 1.5).collect();
        let row = [0.5f32, -1.0, 2.0, 0.25];
        Ok(Lasting { sum: upload(runtime, &[0f32; 16])?, factor: upload(runtime, &factor)?, row: upload(runtime, &row)? })
    }
}

/// sum += x factor / 2 + (factor x + row) / turn + 2 factor for an x (4,4) that the host brings, after `extra` other numbers; gives
/// the marks around it.
pub fn step(runtime: &dyn Runtime, lasting: &mut Lasting, turn: usize, extra: usize) -> Result<[Mark; 2]> {
    let before = runtime.mark()?;
    let zeros = |n: usize| -> Result<Buffer> {
        let mut memory = runtime.alloc(4 * n)?;
        runtime.fill(&mut memory, 0)?;
        Ok(Buffer::machine(memory, n))
    };
    let add = |to: &mut Buffer, from: &Buffer, scale: f32| {
        let n = from.len();
        let args = &mut [Arg::Out(to), Arg::In(from), Arg::U64(n as u64), Arg::F32(scale)];
        runtime.launch(&Kernel::new("rows", "rows_add", &[]), Grid::row(n.div_ceil(1024), 256), args)
    };
    let other = upload(runtime, &vec![7f32; extra])?;
    let mut longer = zeros(16 + extra)?;
    add(&mut longer, &other, turn as f32)?;
    drop(other);
    let x: Vec<f32> = (0..16).map(|i| (i * turn) as f32 - 3.0).collect();
    let x = upload(runtime, &x)?;
    let mut product = Buffer::machine(runtime.alloc(64)?, 16);
    let shape = [4, 4, 4];
    let of = |data| MatIn::new(data, 4);
    let Lasting { sum, factor, row } = lasting;
    runtime.matmul(MatOut::new(sum, 4), of(&x), of(factor), shape, 0.5, Plus::Before)?;
    runtime.matmul(MatOut::new(&mut product, 4), of(factor), of(&x), shape, 1.0, Plus::Row(row))?;
    add(sum, &product, 1.0 / turn as f32)?;
    let mut first = zeros(16)?;
    add(&mut first, factor, 2.0)?;
    add(sum, &first, 1.0)?;
    Ok([before, runtime.mark()?])
}

/// Numbers the host brings beside in each step: alike, fewer, more, and so many that what is behind them comes to lie elsewhere.
const TURNS: [usize; 8] = [8, 8, 20, 3, 2000, 8, 2000, 2000];

/// Why `machine` shall be given no graphs; None where they are right.
pub fn fails(machine: &Arc<dyn Runtime>) -> Result<Option<String>> {
    let sums = |runtime: &dyn Runtime| -> Result<Vec<u32>> {
        let mut lasting = Lasting::new(runtime)?;
        runtime.step()?;
        let mut marks = None;
        for (turn, extra) in TURNS.into_iter().enumerate() {
            marks = Some(step(runtime, &mut lasting, turn + 1, extra)?);
            runtime.step()?;
        }
        let sums = download(runtime, &lasting.sum, 16)?;
        // A training asks a replayed step for its time.
        marks.map_or(Ok(0.0), |[from, to]| runtime.elapsed(&from, &to))?;
        Ok(sums)
    };
    let prove = || -> Result<()> {
        let recorded = Recorded::unproven(machine.clone());
        let (replayed, called) = (sums(&recorded)?, sums(&**machine)?);
        let steps = recorded.locked().steps.clone();
        match steps.failed {
            Some(why) => Err(Error::internal(why)),
            None if steps.replayed == 0 => Err(Error::internal("steps that are alike were not told to be")),
            None if replayed != called => Err(Error::internal("a replayed step gives other numbers than its calls")),
            None => Ok(()),
        }
    };
    let Err(error) = prove() else { return Ok(None) };
    match machine.sync() {
        Ok(()) => Ok(Some(error.what().to_string())),
        Err(_) => Err(error
            .note("this was a small step recorded as a graph and replayed, before anything else")
            .help("give steps call by call: `--set train.graph=no`")),
    }
}
