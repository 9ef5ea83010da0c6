//! The gradient of an item table from scalar records: many rows pull at the same item, in any order, from any thread.
//!
//! ```text
//! da[item] += alpha p[row] + beta (a[item] + g[row])        one record (item, row, alpha, beta) per scored pair
//! ```
//!
//! Blocks of rows write their records in parallel, each into one list per range of items; then every range is summed by
//! one task, block after block, record after record. The order of additions is therefore fixed by the shapes, no thread
//! shares a row of `da`, and the rows of `da` in a range stay in a cache while `p` streams by. Price: 12 to 16 bytes per
//! pair instead of the `4 D` of a materialised gradient. Negatives shared by a block of rows arrive already multiplied, as
//! one vector per item.

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime};
use crate::error::Result;
use crate::ops::group::Grouped;
use crate::ops::scan;
use crate::ops::score::{ScoreKind, Scoring, View};
use crate::ops::vector;

/// Which of a block's lists an item belongs to: ranges of `1 << shift` consecutive items.
#[derive(Clone, Copy)]
pub struct Ranges {
    shift: u32,
    count: usize,
}

impl Ranges {
    /// Ranges of about 256 items (64 kB at D = 64), but at least 32 ranges to share out and no more than `records` can fill.
    pub fn new(items: usize, records: usize) -> Ranges {
        let most = (records / 2048).clamp(32, 512);
        let width = (items / 32).min(256).max(items / most).max(1).next_power_of_two();
        Ranges { shift: width.trailing_zeros(), count: items.div_ceil(width) }
    }
    /// Lists of a block, and items of each but the last.
    pub fn shape(self) -> (usize, usize) {
        (self.count, 1 << self.shift)
    }
}

#[derive(Clone, Copy)]
struct Record<T> {
    item: u32,
    /// A row, or [`VECTOR`] plus the number of a vector of the block.
    source: u32,
    alpha: T,
    beta: T,
}

const VECTOR: u32 = 1 << 31;

/// The records of one block of rows.
pub struct Block<T> {
    shift: u32,
    dim: usize,
    lists: Vec<Vec<Record<T>>>,
    /// (n,D)
    vectors: Vec<T>,
}

impl<T: Real> Block<T> {
    pub fn new(ranges: Ranges, dim: usize) -> Block<T> {
        Block { shift: ranges.shift, dim, lists: (0..ranges.count).map(|_| Vec::new()).collect(), vectors: Vec::new() }
    }
    /// Forgets the records and keeps their memory.
    pub fn clear(&mut self) {
        self.lists.iter_mut().for_each(Vec::clear);
        self.vectors.clear();
    }
    /// `da[item] += alpha p[row] + beta (a[item] + g[row])`; `beta` is unused by the dot product. `row` below 2^31.
    #[inline(always)]
    pub fn push(&mut self, item: u32, row: usize, alpha: T, beta: T) {
        self.lists[(item >> self.shift) as usize].push(Record { item, source: row as u32, alpha, beta });
    }
    /// `da[item] += x` (D)
    pub fn push_vector(&mut self, item: u32, x: &[T]) {
        let source = VECTOR | (self.vectors.len() / self.dim) as u32;
        self.vectors.extend_from_slice(x);
        self.lists[(item >> self.shift) as usize].push(Record { item, source, alpha: T::ONE, beta: T::ZERO });
    }
}

/// da (V,D) += all records of `blocks`, in their order.
pub fn accumulate<'b, T: Real>(
    da: &mut [T],
    view: &View<T>,
    ranges: Ranges,
    blocks: impl Iterator<Item = &'b Block<T>> + Clone + Sync,
) {
    let d = view.dim;
    let width = 1usize << ranges.shift;
    da.par_chunks_mut(width * d).enumerate().for_each(|(range, da)| {
        let first = range * width;
        for block in blocks.clone() {
            vector::fast(
                #[inline(always)]
                || {
                    for record in &block.lists[range] {
                        let at = (record.item as usize - first) * d;
                        let da = &mut da[at..at + d];
                        if record.source & VECTOR != 0 {
                            let from = (record.source & !VECTOR) as usize * d;
                            vector::add(da, &block.vectors[from..from + d]);
                            continue;
                        }
                        let row = record.source as usize;
                        if view.kind == ScoreKind::Dot {
                            vector::axpy(da, record.alpha, view.query_of(row));
                        } else {
                            vector::axpy2(da, record.alpha, view.query_of(row), record.beta, view.item(record.item));
                            vector::axpy(da, record.beta, view.context_of(row));
                        }
                    }
                },
            );
        }
    });
}

/// Records in a machine's memory, one per row and slot.
pub struct Records<'a> {
    /// p (R,D) as bf16, where it may be rounded; otherwise the scoring's query is read.
    pub rounded: Option<&'a Buffer>,
    /// (R,slots)
    pub alpha: &'a Buffer,
    /// (R,slots), with the cosine only
    pub beta: Option<&'a Buffer>,
    pub slots: usize,
    /// g~ (R,W,D): the contexts of the last W slots
    pub wrong: Option<&'a Buffer>,
    pub w: usize,
}

/// Records a warp sums before it hands over a part, as in the kernel: short enough that a popular item is shared out, long
/// enough that its parts are few against its records.
const PIECE: usize = 128;

/// Numbers that the two ends of every piece of `records` leave, for vectors of `dim`.
pub fn parts(records: usize, dim: usize) -> usize {
    2 * (records / PIECE + 1) * dim
}

/// da += the records, grouped by their items, by the kernels of `table_gradient.cu`.
pub fn of_records(
    device: &Device,
    runtime: &dyn Runtime,
    da: &mut Buffer,
    scoring: &Scoring,
    records: &Records,
    grouped: &Grouped,
) -> Result<()> {
    let inputs = vec![
        Arg::In(records.alpha),
        records.beta.map_or(Arg::None, Arg::In),
        Arg::In(records.rounded.unwrap_or(scoring.query)),
        scan::context(scoring),
        Arg::In(scoring.table),
        records.wrong.map_or(Arg::None, Arg::In),
    ];
    let slots = [records.slots, records.w];
    let defines = scan::gathered(scoring, records.rounded.is_some())?;
    launch(device, runtime, da, inputs, grouped, defines, scoring.dim, slots, 1.0)
}

/// `da[id] += scale x[row]` for every row of x (n,D), grouped by the ids of the rows: the gradient of an embedding.
pub fn of_rows(
    device: &Device,
    runtime: &dyn Runtime,
    da: &mut Buffer,
    x: &Buffer,
    grouped: &Grouped,
    dim: usize,
    scale: f32,
) -> Result<()> {
    let inputs = vec![Arg::None, Arg::None, Arg::In(x), Arg::None, Arg::None, Arg::None];
    launch(device, runtime, da, inputs, grouped, scan::gathered_rows(dim)?, dim, [1, 0], scale)
}

/// Both launches; `inputs` alpha to wrong, `slots` K and W.
fn launch(
    device: &Device,
    runtime: &dyn Runtime,
    da: &mut Buffer,
    inputs: Vec<Arg>,
    grouped: &Grouped,
    defines: Vec<(&'static str, i64)>,
    dim: usize,
    slots: [usize; 2],
    scale: f32,
) -> Result<()> {
    if grouped.len == 0 {
        return Ok(());
    }
    let mut parts = Buffer::sized(device, parts(grouped.len, dim))?;
    let kernel = |entry| Kernel::new("table_gradient", entry, &defines);
    let grid = Grid::row(grouped.len.div_ceil(4 * 32), 128);
    let sizes = || [grouped.len, grouped.below].map(|size| Arg::U32(size as u32));
    let mut args = vec![Arg::Out(&mut *da), Arg::Out(&mut parts)];
    args.extend(inputs);
    args.extend([&grouped.keys, &grouped.places, &grouped.extents].map(Arg::In));
    args.extend(sizes());
    args.extend(slots.map(|size| Arg::U32(size as u32)));
    args.push(Arg::F32(scale));
    runtime.launch(&kernel("table_gradient_pieces"), grid, &mut args)?;
    if grouped.len > PIECE {
        let mut args = vec![Arg::Out(da), Arg::In(&parts), Arg::In(&grouped.keys), Arg::In(&grouped.extents)];
        args.extend(sizes());
        runtime.launch(&kernel("table_gradient_merge"), grid, &mut args)?;
    }
    Ok(())
}
