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

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Runtime};
use crate::error::{Error, Result};
use crate::ids::NONE;

/// Keys a block counts and scatters, as in the kernel.
const TILE: usize = 4096;
const DIGITS: usize = 256;

/// Where each key's places stand.
pub struct Grouped {
    /// (n) ascending; `below` where there is no key.
    pub keys: Buffer,
    /// (n) where each of the sorted keys stood.
    pub places: Buffer,
    /// (below,2) first and end of each key's places; equal for a key that does not occur.
    pub extents: Buffer,
    pub len: usize,
    pub below: usize,
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("group", entry, &[])
}

fn sized(device: &Device, n: usize) -> Result<Buffer> {
    let mut buffer = Buffer::empty(device);
    buffer.resize(device, n)?;
    Ok(buffer)
}

/// Groups the places of `keys (n)`, numbers up to and including `below`.
pub fn by_key(device: &Device, runtime: &dyn Runtime, keys: Buffer, below: usize) -> Result<Grouped> {
    let n = keys.len();
    if n >= NONE as usize || below >= NONE as usize {
        return Err(Error::internal("more than 2^32 places or keys to group"));
    }
    let mut extents = sized(device, 2 * below)?;
    if below > 0 {
        runtime.fill(extents.memory_mut()?, 0)?;
    }
    let (mut keys, mut places) = (keys, sized(device, n)?);
    if n == 0 {
        return Ok(Grouped { keys, places, extents, len: 0, below });
    }
    let blocks = n.div_ceil(TILE);
    let (mut other_keys, mut other_places) = (sized(device, n)?, sized(device, n)?);
    let (mut counts, mut totals) = (sized(device, DIGITS * blocks)?, sized(device, DIGITS)?);
    // One pass even for a single key: it writes the places.
    let bits = (usize::BITS - below.leading_zeros()).max(1);
    for shift in (0..bits).step_by(8) {
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
        std::mem::swap(&mut keys, &mut other_keys);
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
    /// (R) the list of each row
    pub groups: &'a Buffer,
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
    let mut keys = sized(device, n)?;
    if n > 0 {
        let mut args = vec![Arg::Out(&mut keys), Arg::In(slots.targets), Arg::In(slots.groups), Arg::In(slots.ids)];
        args.push(slots.drop.map_or(Arg::None, Arg::In));
        args.extend([n, slots.n, slots.w, items].map(|size| Arg::U32(size as u32)));
        runtime.launch(&kernel("group_items"), Grid::row(n.div_ceil(1024), 256), &mut args)?;
    }
    Ok(keys)
}

#[cfg(test)]
#[cfg(feature = "emulator")]
mod tests {
    use super::*;
    use crate::device::emulator::{Options, Schedule, open};
    use crate::device::{download, upload};
    use crate::ops::case;
    use crate::ops::segments::Segments;

    /// Runs `test` on the emulator: in reverse with every access verified, and in a random order.
    fn on_emulator(test: impl Fn(&Device, &dyn Runtime)) {
        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        for (checked, schedule) in [(true, Schedule::Reverse), (false, Schedule::Random(3))] {
            match open(&Options { checked, schedule, ..Options::new(&cache) }) {
                Ok(device) => {
                    let Device::Machine(runtime) = &device else { unreachable!() };
                    test(&device, &**runtime);
                }
                Err(error) if error.code() == crate::error::Code::G0507 => {
                    println!("SKIPPED: no C++ compiler, so no kernel was run");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    #[test]
    fn groups_are_those_of_the_host() {
        on_emulator(|device, runtime| {
            // Nothing, one place, a tile less one, a tile and one; one, two and three passes; one key everywhere.
            for (n, below) in [(0, 5), (1, 1), (4095, 1), (4097, 3), (300, 255), (9001, 256), (5003, 70_000), (64, 1 << 24)] {
                let mut keys = case::ids(1, n, below);
                keys.iter_mut().skip(3).step_by(5).for_each(|key| *key = below as u32);
                let grouped = by_key(device, runtime, upload(runtime, &keys).unwrap(), below).unwrap();
                let mut want: Vec<(u32, u32)> = keys.iter().copied().zip(0..).collect();
                want.sort();
                let (sorted, places): (Vec<u32>, Vec<u32>) = want.into_iter().unzip();
                assert_eq!(download::<u32>(runtime, &grouped.keys, n).unwrap(), sorted, "{n} keys below {below}");
                assert_eq!(download::<u32>(runtime, &grouped.places, n).unwrap(), places, "{n} keys below {below}");

                let kept: Vec<u32> = keys.iter().map(|&key| if key == below as u32 { NONE } else { key }).collect();
                let segments = Segments::of(&kept);
                let mut extents = vec![0; 2 * below];
                for (&row, pair) in segments.rows.iter().zip(segments.offsets.windows(2)) {
                    extents[2 * row as usize..][..2].copy_from_slice(pair);
                }
                assert!(download::<u32>(runtime, &grouped.extents, 2 * below).unwrap() == extents, "{n} keys below {below}");
            }
        });
    }

    #[test]
    fn records_name_the_target_the_negatives_and_the_target_again() {
        on_emulator(|device, runtime| {
            let there = |values: &[u32]| upload(runtime, values).unwrap();
            let (targets, groups, ids) = (there(&[3, 4, 5]), there(&[0, 0, 1]), there(&[7, NONE, 8, 9]));
            let drop = upload(runtime, &[0u8, 0, 1, 0, 0, 1, 0, 0]).unwrap();
            let mut slots = Slots { targets: &targets, groups: &groups, ids: &ids, drop: Some(&drop), rows: 3, n: 2, w: 1 };
            let read = |slots: &Slots| download::<u32>(runtime, &items(device, runtime, slots, 10).unwrap(), 12).unwrap();
            assert_eq!(read(&slots), [3, 7, 10, 3, 4, 10, 10, 4, 5, 8, 10, 5]);
            slots.drop = None;
            assert_eq!(read(&slots), [3, 7, 10, 3, 4, 7, 10, 4, 5, 8, 9, 5]);
        });
    }
}
