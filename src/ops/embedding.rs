//! Rows of a table by id, and back.
//!
//! ```text
//! forward:   out[r] = scale * table[ids[r]]                 out (R,D), table (V,D), ids (R)
//!            out[r] += scale * table[ids[r]]                `accumulate`
//! input:     out[r] = dropout(scale * table[ids[r]] + positions[places[r]])
//! backward:  dtable[i] += scale * sum over rows r with ids[r] = i of dout[r], in row order
//! ```
//!
//! The backward sum sorts rows by id (a counting sort), so each table row is owned by one task and summed in row order:
//! the same bits for any number of threads. On a machine many rows are sorted there ([`group`]), few on the host, whose sort then
//! takes less than the launches of one there (`benches/host.rs`).

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Real, Runtime};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::{Cost, Operation, Pass, distinct};
use crate::ops::dropout::{self, Dropout};
use crate::ops::group;
use crate::ops::scan::WIDEST;
use crate::ops::segments::{self, Segments};
use crate::ops::table_gradient;
use crate::ops::vector;

/// Rows per parallel task.
const TASK: usize = 512;
/// From so many rows on a machine sorts them: the host takes some 6 ns each, a machine a dozen launches.
const MANY: usize = 4096;

/// Whether an operation overwrites its result or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    Set,
    Add,
}

pub fn forward<'a>(
    device: &Device,
    out: &mut Buffer,
    mode: Into,
    table: &Buffer,
    ids: impl std::convert::Into<Numbers<'a>>,
    dim: usize,
    scale: f64,
) -> Result<()> {
    let ids = ids.into();
    check(table.len(), ids, dim)?;
    if mode == Into::Set {
        out.resize(device, ids.len() * dim)?;
    }
    dispatch!(device, T => { gather::<T>(T::of_mut(out)?, mode, T::of(table)?, ids.here(), dim, scale); Ok(()) },
        runtime => launch(&**runtime, out, mode, table, ids, dim, scale))
}

/// `out = dropout(scale * table[ids] + positions[places])`, what a sequence is to the first block; `work` is scratch of the plain path.
#[allow(clippy::too_many_arguments)]
pub fn input(
    device: &Device,
    out: &mut Buffer,
    work: &mut Buffer,
    [table, positions]: [&Buffer; 2],
    [ids, places]: [Numbers; 2],
    dim: usize,
    scale: f64,
    dropout: Option<&Dropout>,
) -> Result<()> {
    let Device::Machine(runtime) = device else {
        forward(device, work, Into::Set, table, ids, dim, scale)?;
        forward(device, work, Into::Add, positions, places, dim, 1.0)?;
        return dropout::forward(device, out, work, dropout);
    };
    check(table.len(), ids, dim)?;
    check(positions.len(), places, dim)?;
    if ids.len() != places.len() {
        return Err(Error::internal(format!("{} places for {} rows", places.len(), ids.len())));
    }
    let n = ids.len() * dim;
    out.resize(device, n)?;
    if n == 0 {
        return Ok(());
    }
    let (ids, places) = (ids.on(&**runtime)?, places.on(&**runtime)?);
    let mut args = vec![Arg::Out(out), Arg::In(table), Arg::In(&ids), Arg::In(positions), Arg::In(&places)];
    args.extend([Arg::U64(n as u64), Arg::F32(scale as f32)]);
    args.extend(Dropout::arguments(dropout));
    let defines = [("D", dim as i64), ("DROP", i64::from(dropout.is_some()))];
    runtime.launch(&Kernel::new("embedding", "input_fwd", &defines), Grid::row(n.div_ceil(8 * 256), 256), &mut args)
}

pub fn backward<'a>(
    device: &Device,
    dtable: &mut Buffer,
    dout: &Buffer,
    ids: impl std::convert::Into<Numbers<'a>>,
    dim: usize,
    scale: f64,
) -> Result<()> {
    let ids = ids.into();
    check(dtable.len(), ids, dim)?;
    dispatch!(device, T => { scatter::<T>(T::of_mut(dtable)?, T::of(dout)?, ids.here(), dim, scale); Ok(()) },
    runtime => {
        let runtime = &**runtime;
        if ids.len() < MANY || dim > WIDEST {
            return segments::sum(runtime, dtable, None, dout, None, &Segments::of(ids.here()), dim, scale);
        }
        let grouped = group::by_key(device, runtime, ids.on(runtime)?, dtable.len() / dim)?;
        table_gradient::of_rows(device, runtime, dtable, dout, &grouped, dim, scale as f32)
    })
}

/// Bytes of a machine's memory that [`backward`] of R `rows` into a table of V (`of`) rows takes for a moment.
pub fn bytes_there(rows: usize, of: usize, dim: usize) -> u64 {
    if rows < MANY || dim > WIDEST {
        return 4 * (2 * rows + 2 * rows.min(of)) as u64;
    }
    let [grouping, grouped] = group::numbers(rows, of);
    4 * grouping.max(grouped + table_gradient::parts(rows, dim)) as u64
}

/// Of R `rows` from a table of V items (`of`); [`Into::Add`] reads what it adds to.
pub fn cost(rows: usize, of: usize, dim: usize, mode: Into) -> Pass {
    let (out, table) = (rows * dim, distinct(rows, of) * dim);
    let written = if mode == Into::Add { 2 * out } else { out };
    let backward = Cost::moved(rows + out + 2 * table).and(Operation::Group, (rows + of) as u64);
    Pass { forward: Cost::moved(rows + table + written), backward }
}

/// An id beyond the table would read foreign memory on a machine; it is refused once, here.
fn check(table_len: usize, ids: Numbers, dim: usize) -> Result<()> {
    let rows = table_len / dim;
    match ids.all_below(u32::try_from(rows).unwrap_or(u32::MAX)) {
        true => Ok(()),
        false => Err(Error::internal(format!("an id is not a row of a table of {rows}"))),
    }
}

fn gather<T: Real>(out: &mut [T], mode: Into, table: &[T], ids: &[u32], dim: usize, scale: f64) {
    let scale = T::from_f64(scale);
    out.par_chunks_mut(TASK * dim).zip(ids.par_chunks(TASK)).for_each(|(out, ids)| {
        vector::fast(
            #[inline(always)]
            || {
                for (out, &id) in out.chunks_exact_mut(dim).zip(ids) {
                    let row = &table[id as usize * dim..][..dim];
                    match mode {
                        Into::Set => out.iter_mut().zip(row).for_each(|(o, &t)| *o = t * scale),
                        Into::Add => out.iter_mut().zip(row).for_each(|(o, &t)| *o += t * scale),
                    }
                }
            },
        );
    });
}

fn scatter<T: Real>(dtable: &mut [T], dout: &[T], ids: &[u32], dim: usize, scale: f64) {
    let scale = T::from_f64(scale);
    let (starts, order) = rows_by_id(ids, dtable.len() / dim);
    dtable.par_chunks_mut(TASK * dim).enumerate().for_each(|(task, dtable)| {
        vector::fast(
            #[inline(always)]
            || {
                for (i, drow) in dtable.chunks_exact_mut(dim).enumerate() {
                    let id = task * TASK + i;
                    for &r in &order[starts[id] as usize..starts[id + 1] as usize] {
                        let d = &dout[r as usize * dim..][..dim];
                        drow.iter_mut().zip(d).for_each(|(o, &d)| *o += d * scale);
                    }
                }
            },
        );
    });
}

/// Counting sort of rows by id: `(starts (V+1), rows (R))`, rows of an id ascending.
fn rows_by_id(ids: &[u32], n: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0u32; n + 1];
    for &id in ids {
        starts[id as usize + 1] += 1;
    }
    for i in 0..n {
        starts[i + 1] += starts[i];
    }
    let mut next = starts.clone();
    let mut order = vec![0u32; ids.len()];
    for (r, &id) in ids.iter().enumerate() {
        order[next[id as usize] as usize] = r as u32;
        next[id as usize] += 1;
    }
    (starts, order)
}

/// The rows of a machine's table; also how `rows` selects.
pub fn launch(
    runtime: &dyn Runtime,
    out: &mut Buffer,
    mode: Into,
    table: &Buffer,
    ids: Numbers,
    dim: usize,
    scale: f64,
) -> Result<()> {
    let n = ids.len() * dim;
    if n == 0 {
        return Ok(());
    }
    let ids = ids.on(runtime)?;
    let kernel = Kernel::new("embedding", "embedding_fwd", &[("D", dim as i64), ("ADD", i64::from(mode == Into::Add))]);
    let args = &mut [Arg::Out(out), Arg::In(table), Arg::In(&ids), Arg::U64(n as u64), Arg::F32(scale as f32)];
    runtime.launch(&kernel, Grid::row(n.div_ceil(1024), 256), args)
}

pub fn cases() -> Vec<Case> {
    // Rows, items, width: nothing, one of each, one column more than a warp, segments long enough to be shared out
    // between warps, and a width of more than one sweep, of long segments and of short ones.
    // As many as a machine sorts itself: narrow rows of many items, wide ones of a few.
    let shapes = [
        (0, 3, 33),
        (1, 1, 1),
        (7, 3, 33),
        (40, 300, 64),
        (700, 5, 64),
        (150, 2, 130),
        (9, 4, 130),
        (MANY, 9001, 6),
        (MANY + 33, 3, 33),
    ];
    let case = |(r, v, d): (usize, usize, usize)| {
        Case::new("embedding", format!("R {r}, V {v}, D {d}"), move |device| {
            let ids = case::ids(1, r, v);
            let (table, dout) = (device.reals(&case::noise(2, v * d))?, device.reals(&case::noise(3, r * d))?);
            let (mut out, mut dtable) = (Buffer::empty(device), device.reals(&case::noise(4, v * d))?);
            forward(device, &mut out, Into::Set, &table, &ids, d, 1.5)?;
            let mut sum = device.reals(&case::noise(5, r * d))?;
            forward(device, &mut sum, Into::Add, &table, &ids, d, 1.0)?;
            backward(device, &mut dtable, &dout, &ids, d, 1.5)?;
            let (mut dropped, mut work) = (Buffer::empty(device), Buffer::empty(device));
            let (positions, places) = (device.reals(&case::noise(6, 5 * d))?, case::ids(7, r, 5));
            let mask = (v % 2 == 1).then(|| Dropout::new(0.4, 3, 0, 1));
            let numbers = [(&ids).into(), (&places).into()];
            input(device, &mut dropped, &mut work, [&table, &positions], numbers, d, 1.5, mask.as_ref())?;
            Ok(vec![
                Output::reals("out", device, &out)?,
                Output::reals("sum", device, &sum)?,
                Output::reals("dtable", device, &dtable)?,
                Output::reals("input", device, &dropped)?,
            ])
        })
    };
    shapes.map(case).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_scales_adds_and_scatters_back() {
        let device = Device::ORACLE;
        let table = device.reals(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let ids = [2, 0, 2];
        let mut out = Buffer::empty(&device);
        forward(&device, &mut out, Into::Set, &table, &ids, 2, 2.0).unwrap();
        assert_eq!(f64::of(&out).unwrap(), [10.0, 12.0, 2.0, 4.0, 10.0, 12.0]);
        forward(&device, &mut out, Into::Add, &table, &[1, 1, 1], 2, 1.0).unwrap();
        assert_eq!(f64::of(&out).unwrap(), [13.0, 16.0, 5.0, 8.0, 13.0, 16.0]);
        let dout = device.reals(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]).unwrap();
        let mut dtable = device.reals(&[0.5; 6]).unwrap();
        backward(&device, &mut dtable, &dout, &ids, 2, 2.0).unwrap();
        assert_eq!(f64::of(&dtable).unwrap(), [4.5, 40.5, 0.5, 0.5, 8.5, 80.5]);
    }

    #[test]
    fn an_id_beyond_the_table_is_refused() {
        let device = Device::HOST;
        let table = device.zeros(6).unwrap();
        assert!(forward(&device, &mut Buffer::empty(&device), Into::Set, &table, &[3], 2, 1.0).is_err());
    }
}
