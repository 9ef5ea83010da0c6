//! Rows grouped by id: what turns a scattered sum into one that needs no atomics.
//!
//! ```text
//! sum:  out[rows[s]] = base[rows[s]] + scale * sum over p in segment s of w[p] x[positions[p]]     on a machine
//!
//! ids        [7, 2, 7, NONE, 2, 7]
//! rows       [2, 7]                 the distinct ids, ascending
//! offsets    [0, 2, 5]              segment s is positions[offsets[s] .. offsets[s + 1]]
//! positions  [1, 4, 0, 2, 5]        where each id stands in `ids`, ascending within a segment
//! ```
//!
//! A gradient that many rows pull at then has one owner per table row, which adds in a fixed order: the same bits in every
//! run, and no queue of atomics behind a popular item. Price: one stable radix sort of the ids, 11 bits a pass, so two
//! passes up to four million items and three for every `u32`.

use crate::device::{Arg, Buffer, Grid, Kernel, Runtime, place, upload};
use crate::error::Result;
use crate::ids::NONE;

/// Bits of an id that one pass of the sort looks at: the counts of a pass (8 kB) stay in the nearest cache.
const BITS: u32 = 11;
const BINS: usize = 1 << BITS;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// (U) distinct ids, ascending.
    pub rows: Vec<u32>,
    /// (U+1)
    pub offsets: Vec<u32>,
    /// (n) positions in the list of ids, segment after segment.
    pub positions: Vec<u32>,
}

impl Segments {
    /// Groups the positions of `ids`; [`NONE`] belongs to no segment.
    pub fn of(ids: &[u32]) -> Segments {
        let mut pairs: Vec<(u32, u32)> = (0..).zip(ids).filter(|(_, id)| **id != NONE).map(|(at, &id)| (id, at)).collect();
        sort(&mut pairs);
        let mut segments = Segments { rows: Vec::new(), offsets: vec![0], positions: pairs.iter().map(|&(_, at)| at).collect() };
        for same in pairs.chunk_by(|a, b| a.0 == b.0) {
            segments.rows.push(same[0].0);
            segments.offsets.push(segments.offsets[segments.offsets.len() - 1] + same.len() as u32);
        }
        segments
    }
    /// U, the number of segments.
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The sums of the formula above in a machine's memory. Without `base` they are added to `out`; without `weights` they are
/// plain sums. The plain path sums in place, where each operation's formula stands.
pub fn sum(
    runtime: &dyn Runtime,
    out: &mut Buffer,
    base: Option<&Buffer>,
    x: &Buffer,
    weights: Option<&[f32]>,
    segments: &Segments,
    dim: usize,
    scale: f64,
) -> Result<()> {
    if segments.is_empty() || dim == 0 {
        return Ok(());
    }
    There::made(runtime, segments, weights, upload)?.sum(runtime, out, base, x, dim, scale)
}

/// Segments in a machine's memory, with a weight of each position or none.
pub struct There {
    count: usize,
    rows: Buffer,
    offsets: Buffer,
    positions: Buffer,
    weights: Option<Buffer>,
}

impl There {
    /// For as long as a run.
    pub fn new(runtime: &dyn Runtime, segments: &Segments, weights: Option<&[f32]>) -> Result<There> {
        There::made(runtime, segments, weights, place)
    }
    fn made(
        runtime: &dyn Runtime,
        segments: &Segments,
        weights: Option<&[f32]>,
        copy: fn(&dyn Runtime, &[u8]) -> Result<Buffer>,
    ) -> Result<There> {
        let there = |list: &[u32]| copy(runtime, bytemuck::cast_slice(list));
        Ok(There {
            count: segments.len(),
            rows: there(&segments.rows)?,
            offsets: there(&segments.offsets)?,
            positions: there(&segments.positions)?,
            weights: weights.map(|w| copy(runtime, bytemuck::cast_slice(w))).transpose()?,
        })
    }
    /// [`sum`]
    pub fn sum(
        &self,
        runtime: &dyn Runtime,
        out: &mut Buffer,
        base: Option<&Buffer>,
        x: &Buffer,
        dim: usize,
        scale: f64,
    ) -> Result<()> {
        if self.count == 0 || dim == 0 {
            return Ok(());
        }
        let kernel = Kernel::new("segments", "segments_sum", &[("D", dim as i64)]);
        let args = &mut [
            Arg::Out(out),
            base.map_or(Arg::None, Arg::In),
            Arg::In(x),
            self.weights.as_ref().map_or(Arg::None, Arg::In),
            Arg::In(&self.rows),
            Arg::In(&self.offsets),
            Arg::In(&self.positions),
            Arg::U32(self.count as u32),
            Arg::F32(scale as f32),
        ];
        runtime.launch(&kernel, Grid::row(self.count.div_ceil(8), 256), args)
    }
}

/// Stable sort by the first of each pair: a counting sort per digit, lowest digit first, up to the largest id's top bit.
fn sort(pairs: &mut Vec<(u32, u32)>) {
    let largest = pairs.iter().map(|&(id, _)| id).max().unwrap_or(0);
    let mut other = vec![(0, 0); pairs.len()];
    for shift in (0..u32::BITS - largest.leading_zeros()).step_by(BITS as usize) {
        let digit = |id: u32| (id >> shift) as usize % BINS;
        let mut next = [0u32; BINS];
        pairs.iter().for_each(|&(id, _)| next[digit(id)] += 1);
        let mut start = 0;
        next.iter_mut().for_each(|count| start += std::mem::replace(count, start));
        for &pair in pairs.iter() {
            let slot = &mut next[digit(pair.0)];
            other[*slot as usize] = pair;
            *slot += 1;
        }
        std::mem::swap(pairs, &mut other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::case;

    #[test]
    fn the_example_above() {
        let segments = Segments::of(&[7, 2, 7, NONE, 2, 7]);
        assert_eq!(segments.rows, [2, 7]);
        assert_eq!(segments.offsets, [0, 2, 5]);
        assert_eq!(segments.positions, [1, 4, 0, 2, 5]);
    }

    #[test]
    fn nothing_has_no_segments() {
        for ids in [&[][..], &[NONE, NONE]] {
            let segments = Segments::of(ids);
            assert!(segments.is_empty() && segments.positions.is_empty());
            assert_eq!(segments.offsets, [0]);
        }
    }

    #[test]
    fn a_stable_sort_by_id_in_one_two_and_three_passes() {
        for below in [1, 2, BINS, BINS + 1, 1 << 22, u32::MAX as usize] {
            let ids = case::ids(1, 5003, below);
            let segments = Segments::of(&ids);
            let mut want: Vec<(u32, u32)> = ids.iter().copied().zip(0..).collect();
            want.sort();
            assert_eq!(segments.positions, want.iter().map(|p| p.1).collect::<Vec<_>>(), "ids below {below}");
            want.dedup_by_key(|p| p.0);
            assert_eq!(segments.rows, want.iter().map(|p| p.0).collect::<Vec<_>>());
            for (s, pair) in segments.offsets.windows(2).enumerate() {
                let own = &segments.positions[pair[0] as usize..pair[1] as usize];
                assert!(!own.is_empty() && own.iter().all(|&at| ids[at as usize] == segments.rows[s]));
            }
        }
    }
}
