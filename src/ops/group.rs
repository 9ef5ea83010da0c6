//! Places grouped by key in a machine's memory, without the host: what [`segments`](crate::ops::segments) does, for lists
//! that are made there and far too long to bring back (the records of a sampled loss: millions a step).
//!
//! ```text
//! keys     [7, 2, 7, 9, 2, 7]       below 9; 9 itself stands for no key
//! sorted   [2, 2, 7, 7, 7, 9]
//! places   [1, 4, 0, 2, 5, 3]       a stable sort
//! extents  2 -> (0, 2), 7 -> (2, 5), any other (0, 0)
//! ```
//!
//! Price: one pass of counting and one of scattering per eight bits of the largest key (20 bytes a key each), and 8 bytes per
//! possible key for the extents, cleared every time.

use std::sync::Arc;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Runtime, download, upload};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::case::{self, Case, Output};

/// Keys a block counts and scatters, as in the kernel.
const TILE: usize = 4096;
const DIGITS: usize = 256;

/// Where each key's places stand.
pub struct Grouped {
    /// (n) ascending; `below` where there is no key.
    pub keys: Arc<Buffer>,
    /// (n) where each of the sorted keys stood.
    pub places: Buffer,
    /// (below,2) first and end of each key's places; equal for a key that does not occur.
    pub extents: Buffer,
    pub len: usize,
    pub below: usize,
}

/// 4-byte numbers that are held at most while `n` keys are grouped, and those that stay, both with the keys.
pub fn numbers(n: usize, below: usize) -> [usize; 2] {
    let stay = 2 * n + 2 * below;
    [stay + if n > 0 { 2 * n + DIGITS * (n.div_ceil(TILE) + 1) } else { 0 }, stay]
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("group", entry, &[])
}

/// Groups the places of `keys (n)`, numbers up to and including `below`.
pub fn by_key(device: &Device, runtime: &dyn Runtime, keys: Arc<Buffer>, below: usize) -> Result<Grouped> {
    let n = keys.len();
    if n >= NONE as usize || below >= NONE as usize {
        return Err(Error::internal("more than 2^32 places or keys to group"));
    }
    let mut extents = Buffer::sized(device, 2 * below)?;
    if below > 0 {
        runtime.fill(extents.memory_mut()?, 0)?;
    }
    let (mut keys, mut places) = (keys, Buffer::sized(device, n)?);
    if n == 0 {
        return Ok(Grouped { keys, places, extents, len: 0, below });
    }
    let blocks = n.div_ceil(TILE);
    // What the keys lay in is written to again, unless somebody else reads it.
    let (mut spare, mut other_places) = (None, Buffer::sized(device, n)?);
    let (mut counts, mut totals) = (Buffer::sized(device, DIGITS * blocks)?, Buffer::sized(device, DIGITS)?);
    // One pass even for a single key: it writes the places.
    let bits = (usize::BITS - below.leading_zeros()).max(1);
    for shift in (0..bits).step_by(8) {
        let mut other_keys = spare.take().map_or_else(|| Buffer::sized(device, n), Ok)?;
        let size = Arg::U32(n as u32);
        let args = &mut [Arg::Out(&mut counts), Arg::In(&keys), size, Arg::U32(shift)];
        runtime.launch(&kernel("group_count"), Grid::row(blocks, 256), args)?;
        let args = &mut [Arg::Out(&mut counts), Arg::Out(&mut totals), Arg::U32(blocks as u32)];
        runtime.launch(&kernel("group_scan"), Grid::row(DIGITS, 256), args)?;
        let args = &mut [
            Arg::Out(&mut other_keys),
            Arg::Out(&mut other_places),
            Arg::In(&keys),
            if shift == 0 { Arg::None } else { Arg::In(&places) },
            Arg::In(&counts),
            Arg::In(&totals),
            Arg::U32(n as u32),
            Arg::U32(shift),
        ];
        runtime.launch(&kernel("group_scatter"), Grid::row(blocks, 256), args)?;
        spare = Arc::into_inner(std::mem::replace(&mut keys, Arc::new(other_keys)));
        std::mem::swap(&mut places, &mut other_places);
    }
    if below > 0 {
        let args = &mut [Arg::Out(&mut extents), Arg::In(&keys), Arg::U32(n as u32), Arg::U32(below as u32)];
        runtime.launch(&kernel("group_extents"), Grid::row(n.div_ceil(1024), 256), args)?;
    }
    Ok(Grouped { keys, places, extents, len: n, below })
}

/// What the records of a sampled loss are made of, in a machine's memory.
pub struct Slots<'a> {
    /// (R)
    pub targets: &'a Buffer,
    /// (R) the list of each row; absent where each has its own
    pub groups: Option<&'a Buffer>,
    /// (G,N) item ids or `NONE`
    pub ids: &'a Buffer,
    /// (R,N) bytes, 1 where the negative is not the row's
    pub drop: Option<&'a Buffer>,
    pub rows: usize,
    pub n: usize,
    /// Wrong contexts, whose item is the target.
    pub w: usize,
}

/// (R,1+N+W) the item of every record; `items` for an empty slot and a dropped one, which pull at nothing.
pub fn items(device: &Device, runtime: &dyn Runtime, slots: &Slots, items: usize) -> Result<Buffer> {
    let n = slots.rows * (1 + slots.n + slots.w);
    if n >= NONE as usize {
        return Err(Error::internal("more than 2^32 gradient records in one step"));
    }
    let mut keys = Buffer::sized(device, n)?;
    if n > 0 {
        let mut args = vec![Arg::Out(&mut keys), Arg::In(slots.targets), slots.groups.map_or(Arg::None, Arg::In)];
        args.extend([Arg::In(slots.ids), slots.drop.map_or(Arg::None, Arg::In)]);
        args.extend([n, slots.n, slots.w, items].map(|size| Arg::U32(size as u32)));
        runtime.launch(&kernel("group_items"), Grid::row(n.div_ceil(1024), 256), &mut args)?;
    }
    Ok(keys)
}

/// Records of rows that share lists by threes, some slots empty or dropped, grouped by a plain sort on the host.
pub fn cases() -> Vec<Case> {
    let case = |(rows, n, w, below, drops): (usize, usize, usize, usize, bool)| {
        let targets = case::ids(1, rows, below);
        let lists = case::lists(rows, n, below, 3);
        let drop: Vec<u8> = if drops { case::ids(2, rows * n, 2).iter().map(|&x| x as u8).collect() } else { vec![] };
        Case::new("group", format!("R {rows}, N {n}, W {w}, V {below}, drops {drops}"), move |device| {
            let of_rows = lists.groups_of_rows();
            let records = rows * (1 + n + w);
            let [keys, places, extents] = match device {
                Device::Host(_) => {
                    let item = |at: usize| {
                        let (row, slot) = (at / (1 + n + w), at % (1 + n + w));
                        match slot {
                            slot if slot == 0 || slot > n => targets[row],
                            slot if drops && drop[row * n + slot - 1] == 1 => below as u32,
                            slot => lists.ids[of_rows[row] as usize * n + slot - 1].min(below as u32),
                        }
                    };
                    let mut sorted: Vec<(u32, u32)> = (0..records).map(|at| (item(at), at as u32)).collect();
                    sorted.sort();
                    let mut extents = vec![0; 2 * below];
                    for (at, &(key, _)) in sorted.iter().enumerate().filter(|(_, pair)| (pair.0 as usize) < below) {
                        let [first, end] = &mut extents[2 * key as usize..][..2] else { unreachable!() };
                        *first = if *end == 0 { at as u32 } else { *first };
                        *end = at as u32 + 1;
                    }
                    let (keys, places) = sorted.into_iter().unzip();
                    [keys, places, extents]
                }
                Device::Machine(runtime) => {
                    let runtime = &**runtime;
                    let there = |values: &[u32]| upload(runtime, values);
                    let (targets, groups, ids) = (there(&targets)?, there(&of_rows)?, there(&lists.ids)?);
                    let mut bytes = drop.clone();
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                    let drop = upload(runtime, &bytes)?;
                    let drop = drops.then_some(&drop);
                    let slots = Slots { targets: &targets, groups: Some(&groups), ids: &ids, drop, rows, n, w };
                    let grouped = by_key(device, runtime, Arc::new(items(device, runtime, &slots, below)?), below)?;
                    let read = |list: &Buffer, len: usize| download::<u32>(runtime, list, len);
                    [read(&grouped.keys, records)?, read(&grouped.places, records)?, read(&grouped.extents, 2 * below)?]
                }
            };
            Ok(vec![Output::ids("keys", keys), Output::ids("places", places), Output::ids("extents", extents)])
        })
    };
    // R, N, W, V: nothing; one record; a tile less one, whole, and one more; one, two and three passes of eight bits; one item
    // everywhere; more blocks than are scanned at a time.
    [
        (0, 3, 1, 5, false),
        (1, 0, 0, 1, false),
        (1365, 2, 0, 255, false),
        (1024, 3, 0, 256, true),
        (241, 15, 1, 70_000, true),
        (700, 12, 2, 1, false),
        (263, 4000, 0, 300, false),
    ]
    .map(case)
    .into()
}
