//! The k best-scored candidates of every row.
//!
//! ```text
//! out[r] = the first k by (s[r,i] falling, i rising) of the row's candidates without what it excludes, each item once
//! ```
//!
//! `s` is the score of `ops/score.rs`, context included. Ties go to the lower item, so the result is defined to the last bit
//! of the scores. A running threshold (the k-th best so far) turns nearly all candidates away with one comparison; the rest
//! are cut back to k whenever twice as many have gathered. Scores that are not numbers are never chosen; a row with fewer than
//! k candidates gets `ids::NONE` in its last slots. Source of the selection: dynamic negative sampling (Zhang et al., SIGIR
//! 2013).

use std::cmp::Ordering;

use crate::device::places::Rounding;
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime};
use crate::dispatch;
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::ops::candidates::{self, Hidden};
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::Cost;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::propose;
use crate::ops::scan::{self, Tiles, Veil};
use crate::ops::score::{self, Inputs, ScoreKind, Scoring, forms};
use crate::ops::score_topk_wgmma as tensor_cores;

/// k of each row: the best of its group's list. On a machine they stay there.
pub fn of_lists(device: &Device, scoring: &Scoring, lists: &Negatives, k: usize) -> Result<Negatives> {
    let rows = lists.rows();
    dispatch!(device, T => {
        let mut best = vec![NONE; rows * k];
        let out = best.chunks_exact_mut(k.max(1)).collect();
        candidates::listed(&scoring.view::<T>()?, lists, out, |_, _, ids, s, out: &mut [u32]| {
            let mut kept = Best::new(k);
            ids.iter().zip(&*s).for_each(|(&i, &s)| kept.offer(s, i));
            kept.write(out);
        })?;
        Ok(Negatives::of_rows(k, rows, best, Vec::new()))
    }, runtime => {
        let ids = lists_on(device, &**runtime, scoring, lists, k)?;
        Ok(Negatives::of_rows_there(k, rows, ids, None))
    })
}

/// k of each row: the best of the whole catalogue. On a machine they stay there.
pub fn of_catalogue(device: &Device, scoring: &Scoring, hidden: &Hidden, k: usize) -> Result<Negatives> {
    let rows = hidden.batch.rows();
    dispatch!(device, T => {
        let mut best = vec![NONE; rows * k];
        let out = best.chunks_exact_mut(k.max(1)).collect();
        let take = |kept: &mut Best<T>, first: usize, s: &mut [T]| {
            s.iter().zip(first as u32..).for_each(|(&s, i)| kept.offer(s, i));
        };
        let finish = |_, mut kept: Best<T>, out: &mut [u32]| kept.write(out);
        candidates::scanned(&scoring.view::<T>()?, hidden, T::ONE, out, || Best::new(k), take, finish)?;
        Ok(Negatives::of_rows(k, rows, best, Vec::new()))
    }, runtime => {
        let ids = match rows * k {
            0 => Buffer::empty(device),
            _ => catalogue_on(device, &**runtime, scoring, &Veil::of_batch(&**runtime, hidden, scoring.items)?, k)?,
        };
        Ok(Negatives::of_rows_there(k, rows, ids, None))
    })
}

/// `scores` ([`candidates::cost`]), and the k ids of R `rows`.
pub fn cost(scores: Cost, rows: usize, k: usize) -> Cost {
    scores + Cost::moved(rows * k)
}

/// Longest list the kernels select in the shared memory of a block.
const LONGEST: usize = 1024;

/// SORT of `best.cuh`: a power of two with room for twice k and what arrives between two looks.
pub(super) fn room(k: usize, arriving: usize) -> Result<usize> {
    if k > LONGEST {
        let what = format!("the kernels select at most {LONGEST} items per row, {k} were asked for");
        return Err(Error::new(Code::G0502, what).help("use `--device host`, or ask for fewer"));
    }
    Ok((2 * k + arriving).next_power_of_two())
}

/// Bytes a candidate of a list takes in a machine's memory while it is chosen from: itself, its score, its log-probability.
const PER_CANDIDATE: usize = 12;

/// Bytes of a machine's memory taken for a moment to choose from lists of `m` for R `rows`; `written_out`: whether the lists are,
/// because rows share them.
pub fn bytes_there(rows: usize, m: usize, written_out: bool) -> u64 {
    let each = PER_CANDIDATE - if written_out { 0 } else { propose::WRITTEN_OUT };
    (scan::block(rows, PER_CANDIDATE * m) * each * m) as u64
}

/// Candidates live in global memory for as many rows at a time as [`scan::block`] says.
fn lists_on(device: &Device, runtime: &dyn Runtime, scoring: &Scoring, lists: &Negatives, k: usize) -> Result<Buffer> {
    lists_by(scan::block(scoring.rows(), PER_CANDIDATE * lists.n), device, runtime, scoring, lists, k)
}

/// The same, `block` rows at a time, which decides nothing.
fn lists_by(
    block: usize,
    device: &Device,
    runtime: &dyn Runtime,
    scoring: &Scoring,
    lists: &Negatives,
    k: usize,
) -> Result<Buffer> {
    let (rows, m) = (scoring.rows(), lists.n);
    if lists.rows() != rows || !lists.fit_table(scoring.items) {
        return Err(Error::internal("the candidates do not fit the rows or the table"));
    }
    let mut ids = Buffer::sized(device, rows * k)?;
    if rows * k == 0 {
        return Ok(ids);
    }
    if m == 0 {
        // Every byte of NONE.
        runtime.fill(ids.memory_mut()?, 0xff)?;
        return Ok(ids);
    }
    let spread = propose::Spread::new(runtime, lists)?;
    let mut s = Buffer::sized(device, block * m)?;
    let sort = room(k, 128)?;
    let kernel = Kernel::new("score_topk", "topk_lists", &[("SORT", sort as i64)]);
    for first in (0..rows).step_by(block) {
        let some = first..rows.min(first + block);
        let candidates = spread.of(device, runtime, some.clone())?;
        score::gather_rows_on(runtime, &mut s, scoring, candidates.ids(), m, some.clone())?;
        let args =
            &mut [Arg::OutFrom(&mut ids, 4 * first * k), Arg::In(&s), candidates.ids(), Arg::U32(m as u32), Arg::U32(k as u32)];
        runtime.launch(&kernel, Grid { shared_bytes: 8 * sort as u32, ..Grid::row(some.len(), 128) }, args)?;
    }
    Ok(ids)
}

/// Of a scan of the catalogue for k: the buffer of every block, the tiles, into how many parts the catalogue is cut.
fn scan_of(kind: ScoreKind, dim: usize, context: bool, [rows, items, k]: [usize; 3]) -> Result<(usize, Tiles, usize)> {
    /// Fewest tiles worth a share of the catalogue: a share hands over k items whatever its length.
    const SHARE: usize = 8;
    // The most a tile can bring is 64 items a row.
    let sort = room(k, 64)?;
    let tiles = Tiles::scores_of(kind, dim, context, 8 * sort)?;
    let splits = tiles.splits(rows, items, SHARE);
    Ok((sort, tiles, splits))
}

/// Bytes of a machine's memory that [`catalogue_on`] takes at most; its result is made when what it is chosen from is gone.
pub(crate) fn catalogue_bytes_there(
    kind: ScoreKind,
    dim: usize,
    context: bool,
    rounding: Rounding,
    shape: [usize; 3],
) -> Result<u64> {
    let ([rows, _, k], (sort, tiles, splits)) = (shape, scan_of(kind, dim, context, shape)?);
    let here = 8 * (rows.div_ceil(tiles.own) * splits * tiles.own * sort + rows * splits * k) as u64;
    let there = if tensor_cores::fit(rounding, kind, context, dim) { tensor_cores::bytes_there(dim, shape)? } else { 0 };
    Ok(here.max(there))
}

/// ids (R,k) of the best items the rows may see, by scores that may be rounded as products are; left on the machine.
pub(crate) fn catalogue_on(device: &Device, runtime: &dyn Runtime, scoring: &Scoring, veil: &Veil, k: usize) -> Result<Buffer> {
    scoring.check()?;
    let (best, splits) = match tensor_cores::chosen(device, runtime, scoring)? {
        true => tensor_cores::best_on(device, runtime, scoring, veil, k)?,
        false => best_on(device, runtime, scoring, veil, k)?,
    };
    Ok(merged_on(device, runtime, best, [scoring.rows(), splits, k], false)?.0)
}

/// ids (R,k) and scores (R,k) of the best items the rows may see, by f32 scores whatever products are rounded to: a ranking is
/// compared with others. Memory as of [`catalogue_bytes_there`] in f32.
pub(crate) fn ranked_on(
    device: &Device,
    runtime: &dyn Runtime,
    scoring: &Scoring,
    veil: &Veil,
    k: usize,
) -> Result<(Buffer, Buffer)> {
    scoring.check()?;
    let (best, splits) = best_on(device, runtime, scoring, veil, k)?;
    merged_on(device, runtime, best, [scoring.rows(), splits, k], true)
}

/// Keys (R,splits,k) of the best items, and into how many parts the catalogue was cut.
fn best_on(device: &Device, runtime: &dyn Runtime, scoring: &Scoring, veil: &Veil, k: usize) -> Result<(Buffer, usize)> {
    let (rows, items) = (scoring.rows(), scoring.items);
    let (sort, tiles, splits) = scan_of(scoring.kind, scoring.dim, scoring.context.is_some(), [rows, items, k])?;
    let blocks = rows.div_ceil(tiles.own);
    let mut kept = Buffer::sized(device, 2 * blocks * splits * tiles.own * sort)?;
    let mut best = Buffer::sized(device, 2 * rows * splits * k)?;
    let mut args = vec![Arg::Out(&mut best), Arg::Out(&mut kept), Arg::In(scoring.query), scan::context(scoring)];
    args.push(Arg::In(scoring.table));
    args.extend(veil.args());
    args.extend([rows, items, k].map(|size| Arg::U32(size as u32)));
    args.push(Arg::F32(scan::heat(scoring)));
    let mut defines = tiles.defines.clone();
    defines.push(("SORT", sort as i64));
    let grid = Grid { blocks: [blocks as u32, splits as u32, 1], threads: 128, shared_bytes: tiles.shared_bytes };
    runtime.launch(&Kernel::new("score_topk", "topk_scan", &defines), grid, &mut args)?;
    Ok((best, splits))
}

/// ids (R,k) and, if asked for, scores (R,k) of the keys `best (R,splits,k)`.
pub(super) fn merged_on(
    device: &Device,
    runtime: &dyn Runtime,
    best: Buffer,
    [rows, splits, k]: [usize; 3],
    with_scores: bool,
) -> Result<(Buffer, Buffer)> {
    let sort = room(k, 128)?;
    let (mut ids, mut scores) =
        (Buffer::sized(device, rows * k)?, Buffer::sized(device, if with_scores { rows * k } else { 0 })?);
    let of_scores = if with_scores { Arg::Out(&mut scores) } else { Arg::None };
    let args = &mut [Arg::Out(&mut ids), of_scores, Arg::In(&best), Arg::U32((splits * k) as u32), Arg::U32(k as u32)];
    let kernel = Kernel::new("score_topk", "topk_merge", &[("SORT", sort as i64)]);
    runtime.launch(&kernel, Grid { shared_bytes: 8 * sort as u32, ..Grid::row(rows, 128) }, args)?;
    Ok((ids, scores))
}

pub fn cases() -> Vec<Case> {
    /// (R, V, D), M and k
    const LISTS: [([usize; 3], usize, usize); 4] =
        [([1, 1, 1], 1, 1), ([3, 40, 31], 65, 3), ([9, 17, 64], 64, 40), ([2, 700, 5], 1500, 100)];
    /// (R, V, D) and k; 88 takes little less than the shared memory a GPU grants unasked.
    const SCANS: [([usize; 3], usize); 6] =
        [([1, 1, 1], 3), ([33, 63, 16], 1), ([65, 131, 31], 70), ([7, 1300, 8], 10), ([3, 33, 512], 5), ([2, 33, 88], 5)];
    // Eighths make dot products exact; the cosine's rounding cannot tie two different items by chance.
    let inputs =
        |device: &Device, shape, kind, with_context| Inputs::new(device, shape, kind, with_context, kind == ScoreKind::Dot);
    let mut cases = Vec::new();
    for (turn, (shape, m, k)) in LISTS.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            cases.push(Case::new("score_topk", format!("lists of {m}, {form}, R {r}, V {v}, D {d}, k {k}"), move |device| {
                let inputs = inputs(device, shape, kind, with_context)?;
                let mut lists = case::lists(r, m, v, 2);
                lists.drop = case::ids(6, r * m, 4).iter().map(|&x| x == 0).collect();
                let mut best = of_lists(device, &inputs.scoring(), &lists, k)?;
                best.fetch(device)?;
                Ok(vec![Output::ids("ids", best.ids)])
            }));
        }
        // A machine takes many rows in blocks; shared lists and rows' own are written out in two ways.
        for sharers in [1, 2] {
            cases.push(Case::new(
                "score_topk",
                format!("lists of {m}, of {sharers} rows, by 2 rows, R {r}, k {k}"),
                move |device| {
                    let inputs = inputs(device, shape, ScoreKind::Dot, true)?;
                    let (scoring, lists) = (inputs.scoring(), case::lists(r, m, v, sharers));
                    let mut best = match device {
                        Device::Host(_) => of_lists(device, &scoring, &lists, k)?,
                        Device::Machine(runtime) => {
                            Negatives::of_rows_there(k, r, lists_by(2, device, &**runtime, &scoring, &lists, k)?, None)
                        }
                    };
                    best.fetch(device)?;
                    Ok(vec![Output::ids("ids", best.ids)])
                },
            ));
        }
    }
    for (turn, (shape, k)) in SCANS.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            for exclude in [Exclude::None, Exclude::Target, Exclude::History] {
                let name = format!("catalogue, {form}, {exclude:?} excluded, R {r}, V {v}, D {d}, k {k}");
                cases.push(Case::new("score_topk", name, move |device| {
                    let inputs = inputs(device, shape, kind, with_context)?;
                    let batch = case::batch(r, v);
                    let sequences = batch.sequence_of_rows();
                    let untrained: Vec<u32> = (0..v as u32).filter(|i| i % 5 == 3).collect();
                    let hidden = Hidden { untrained: &untrained, exclude, batch: &batch, sequences: &sequences };
                    let mut best = of_catalogue(device, &inputs.scoring(), &hidden, k)?;
                    best.fetch(device)?;
                    Ok(vec![Output::ids("ids", best.ids)])
                }));
            }
        }
    }
    cases
}

/// The best k of a stream.
struct Best<T> {
    k: usize,
    kept: Vec<(T, u32)>,
    /// Nothing below this can be among the k best.
    floor: T,
}

impl<T: Real> Best<T> {
    fn new(k: usize) -> Best<T> {
        Best { k, kept: Vec::with_capacity(2 * k + 32), floor: T::NEG_INFINITY }
    }
    #[inline]
    fn offer(&mut self, score: T, item: u32) {
        // Also turns away NaN and hidden items, which score minus infinity.
        if score >= self.floor && score > T::NEG_INFINITY {
            self.kept.push((score, item));
            if self.kept.len() >= 2 * self.k + 32 {
                self.cut();
            }
        }
    }
    fn cut(&mut self) {
        let falling = |a: &(T, u32), b: &(T, u32)| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1));
        self.kept.sort_unstable_by(falling);
        // The same item scores the same, so its copies are neighbours.
        self.kept.dedup_by_key(|entry| entry.1);
        self.kept.truncate(self.k);
        if self.kept.len() == self.k {
            self.floor = self.kept.last().map_or(self.floor, |entry| entry.0);
        }
    }
    fn write(&mut self, out: &mut [u32]) {
        self.cut();
        out.iter_mut().zip(&self.kept).for_each(|(out, entry)| *out = entry.1);
    }
}
