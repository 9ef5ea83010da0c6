//! Where a target stands among the scores of a tile, and the best k of every row, exactly.
//!
//! Of row `s (V)`, masked items left out, with target `t`:
//!
//! ```text
//! above = #{i : s[i] > s[t]}     tied = #{i != t : s[i] = s[t]}     tied_before = #{i < t : s[i] = s[t]}
//! list  = the first k by (s falling, i rising)
//! ```
//!
//! A masked score becomes NaN, because no comparison with NaN is true: the passes below need no branch per item and no
//! sentinel that a real score could equal (-inf is a legal score). A NaN that was there before masking is an error.
//!
//! The best k come from two passes. The first takes the maximum of every block of scores; the k-th largest of these is a
//! lower bound of the k-th best score, and few scores reach it. The second looks only into the blocks that reach it. The
//! first pass is all vector work, and the second touches at most k blocks besides ties, in whatever order the scores
//! come. This is the first level of a tournament (Knuth, TAOCP 3, 5.3.3) cut to the width of a vector register.

use rayon::prelude::*;

use crate::data::batch;
use crate::device::places::Rounding;
use crate::device::{Arg, Device, Grid, Kernel, Real, Runtime, download, upload};
use crate::dispatch;
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::ops::case::{self, Case, Output, Values};
use crate::ops::scan::{self, Tiles, Veil};
use crate::ops::score::{Inputs, ScoreKind, Scoring, forms};
use crate::ops::{score_topk, vector};

/// Where a target with equals is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Behind all its equals: the worst case, so that a constant scorer earns nothing.
    Pessimistic,
    /// Before all its equals.
    Optimistic,
    /// In their middle; the rank may be half-integer.
    Average,
    /// At a random place among them.
    Random,
    /// Where a list ordered by (score, item index) has it: what anyone recomputes from a recommendation file.
    Listed,
}

/// Where a target stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub above: u32,
    pub tied: u32,
    pub tied_before: u32,
}

impl Standing {
    /// Rank from 1; `word` is a uniform 64-bit word of the request, used by random ties only.
    pub fn rank(&self, ties: Ties, word: u64) -> f64 {
        let first = f64::from(self.above) + 1.0;
        first
            + match ties {
                Ties::Pessimistic => f64::from(self.tied),
                Ties::Optimistic => 0.0,
                Ties::Average => f64::from(self.tied) / 2.0,
                Ties::Random => crate::rng::below(word, u64::from(self.tied) + 1) as f64,
                Ties::Listed => f64::from(self.tied_before),
            }
    }
}

/// An entry of a ranked list; `item` is [`NONE`] where fewer than k items could be ranked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub item: u32,
    pub score: f32,
}

impl Entry {
    pub const EMPTY: Entry = Entry { item: NONE, score: f32::NEG_INFINITY };
}

/// Items that no row may rank.
pub struct Excluded {
    items: Vec<u32>,
    /// (V)
    is: Vec<bool>,
}

impl Excluded {
    /// Of `items` V, those for which `out` is true.
    pub fn new(items: usize, out: impl Fn(u32) -> bool) -> Excluded {
        let is: Vec<bool> = (0..items as u32).map(out).collect();
        Excluded { items: (0..items as u32).filter(|&i| is[i as usize]).collect(), is }
    }
    pub fn contains(&self, item: u32) -> bool {
        self.is.get(item as usize).copied().unwrap_or(false)
    }
    /// Items that may be ranked.
    pub fn remaining(&self) -> usize {
        self.is.len() - self.items.len()
    }
}

/// What is masked in each row.
pub struct Mask<'a> {
    pub excluded: &'a Excluded,
    /// (B,2), and the list of which row b also loses the part between its two, ascending.
    pub seen: Option<(&'a [[u64; 2]], &'a [u32])>,
}

impl Mask<'_> {
    fn fits(&self, rows: usize) -> bool {
        let inside = |seen: &[u32], extent: &[u64; 2]| extent[0] <= extent[1] && extent[1] as usize <= seen.len();
        self.seen.is_none_or(|(extents, seen)| extents.len() == rows && extents.iter().all(|extent| inside(seen, extent)))
    }
    fn seen_of(&self, row: usize) -> &[u32] {
        self.seen.map_or(&[], |(extents, seen)| &seen[extents[row][0] as usize..extents[row][1] as usize])
    }
}

/// Ranks a tile of scores (B,V), which is used up. `standings` (B): none where the target is masked; empty without
/// `targets`. `lists` (B,k).
pub fn forward(
    standings: &mut Vec<Option<Standing>>,
    lists: &mut Vec<Entry>,
    scores: &mut [f32],
    mask: &Mask<'_>,
    targets: Option<&[u32]>,
    k: usize,
) -> Result<()> {
    let items = mask.excluded.is.len();
    let rows = scores.len().checked_div(items).unwrap_or(0);
    let shaped = rows * items == scores.len()
        && targets.is_none_or(|t| t.len() == rows && t.iter().all(|&t| (t as usize) < items))
        && mask.fits(rows);
    if !shaped {
        return Err(Error::internal(format!("a tile of {} scores does not fit {items} items and its mask", scores.len())));
    }
    lists.clear();
    lists.resize(rows * k, Entry::EMPTY);
    let one_row = |scratch: &mut Scratch, row: usize, scores: &mut [f32], list: &mut [Entry]| {
        let seen = mask.seen_of(row);
        let target = targets.map(|t| t[row]);
        let masked = hide(scores, mask.excluded, seen)?;
        let open = |t: &u32| !mask.excluded.contains(*t) && seen.binary_search(t).is_err();
        let standing = stand(scores, masked, target.filter(open))?;
        best(list, scratch, scores);
        Ok(standing)
    };
    // A zero-length list still needs its row, hence the two shapes of the loop.
    let found: Vec<Result<Option<Standing>>> = if k == 0 {
        scores
            .par_chunks_mut(items.max(1))
            .enumerate()
            .map(|(row, s)| one_row(&mut Scratch::default(), row, s, &mut []))
            .collect()
    } else {
        (scores.par_chunks_mut(items.max(1)), lists.par_chunks_mut(k))
            .into_par_iter()
            .enumerate()
            .map_init(Scratch::default, |scratch, (row, (s, list))| one_row(scratch, row, s, list))
            .collect()
    };
    standings.clear();
    for standing in found {
        standings.push(standing?);
    }
    if targets.is_none() {
        standings.clear();
    }
    Ok(())
}

/// Ranks the catalogue for the rows of `scoring` without their scores being written, on a machine; on the plain path the scores
/// of a tile are, which is why callers bound the rows. Outputs as in [`forward`]; a score of minus infinity is not listed here.
pub fn of_catalogue(
    device: &Device,
    standings: &mut Vec<Option<Standing>>,
    lists: &mut Vec<Entry>,
    scoring: &Scoring,
    mask: &Mask<'_>,
    targets: Option<&[u32]>,
    k: usize,
) -> Result<()> {
    dispatch!(device, T => {
        let mut scores = vec![T::ZERO; scoring.rows() * scoring.items];
        scoring.view::<T>()?.all(&mut scores);
        let mut scores: Vec<f32> = scores.iter().map(|s| s.f64() as f32).collect();
        forward(standings, lists, &mut scores, mask, targets, k)
    }, runtime => {
        let rows = scoring.rows();
        let shaped = mask.excluded.is.len() == scoring.items
            && targets.is_none_or(|t| t.len() == rows && t.iter().all(|&t| (t as usize) < scoring.items))
            && mask.fits(rows);
        if !shaped {
            return Err(Error::internal("the catalogue does not fit the mask or the targets"));
        }
        standings.clear();
        lists.clear();
        if rows == 0 {
            return Ok(());
        }
        let veil = Veil::of_mask(&**runtime, mask, scoring.items)?;
        if let Some(targets) = targets {
            standings_on(device, &**runtime, standings, scoring, mask, &veil, targets)?;
        }
        if k > 0 {
            let (ids, scores) = score_topk::ranked_on(device, &**runtime, scoring, &veil, k)?;
            let ids: Vec<u32> = download(&**runtime, &ids, rows * k)?;
            let scores: Vec<f32> = download(&**runtime, &scores, rows * k)?;
            lists.extend(ids.into_iter().zip(scores).map(|(item, score)| Entry { item, score }));
        }
        Ok(())
    })
}

/// Bytes of a machine's memory that [`of_catalogue`] takes for a moment, for `shape` R rows, V items and lists of k, where the rows
/// have `seen` items together. G0502: the vectors are too wide for its kernels.
pub fn bytes_there(kind: ScoreKind, dim: usize, context: bool, shape: [usize; 3], seen: usize) -> Result<u64> {
    let [rows, items, k] = shape;
    let veil = items.div_ceil(8) + 8 * rows + 4 * seen;
    let lists = if k > 0 { score_topk::catalogue_bytes_there(kind, dim, context, Rounding::F32, shape)? } else { 0 };
    Ok(veil as u64 + lists.max(20 * rows as u64))
}

fn standings_on(
    device: &Device,
    runtime: &dyn Runtime,
    standings: &mut Vec<Option<Standing>>,
    scoring: &Scoring,
    mask: &Mask,
    veil: &Veil,
    targets: &[u32],
) -> Result<()> {
    scoring.check()?;
    let (rows, items) = (scoring.rows(), scoring.items);
    let tiles = Tiles::scores(scoring, 0)?;
    let mut counts = device.zeros(4 * rows)?;
    let wanted = upload(runtime, targets)?;
    let [barred, extents, seen, _] = veil.args();
    let args = &mut [
        Arg::Out(&mut counts),
        Arg::In(scoring.query),
        scan::context(scoring),
        Arg::In(scoring.table),
        barred,
        extents,
        seen,
        Arg::In(&wanted),
        Arg::U32(rows as u32),
        Arg::U32(items as u32),
        Arg::F32(scan::heat(scoring)),
    ];
    let blocks = [rows.div_ceil(tiles.own) as u32, tiles.splits(rows, items, 8) as u32, 1];
    let grid = Grid { blocks, threads: 128, shared_bytes: tiles.shared_bytes };
    runtime.launch(&Kernel::new("rank", "rank_standings", &tiles.defines), grid, args)?;
    let counts: Vec<u32> = download(runtime, &counts, 4 * rows)?;
    for (row, (&target, count)) in targets.iter().zip(counts.chunks_exact(4)).enumerate() {
        let [above, equal, before, not_numbers] = [count[0], count[1], count[2], count[3]];
        if not_numbers > 0 {
            return Err(nan());
        }
        let own = mask.seen_of(row);
        let masked = mask.excluded.contains(target) || own.binary_search(&target).is_ok();
        // A masked target is not among its equals.
        let tied = equal.checked_sub(1).filter(|_| !masked);
        if tied.is_none() && !masked {
            return Err(Error::internal("a target is not among its own equals"));
        }
        standings.push(tied.map(|tied| Standing { above, tied, tied_before: before }));
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    /// (R, V, D) and k; 88 takes little less than the shared memory a GPU grants unasked.
    const SHAPES: [([usize; 3], usize); 6] =
        [([1, 1, 1], 1), ([33, 63, 16], 3), ([65, 131, 31], 10), ([7, 1300, 8], 0), ([3, 33, 512], 5), ([2, 33, 88], 5)];
    let mut cases = Vec::new();
    for (turn, (shape, k)) in SHAPES.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            for with_seen in [false, true] {
                cases.push(Case::new("rank", format!("{form}, R {r}, V {v}, D {d}, k {k}, seen {with_seen}"), move |device| {
                    // Few levels and many items: most targets have equals.
                    let inputs = Inputs::new(device, shape, kind, with_context, kind == ScoreKind::Dot)?;
                    let excluded = Excluded::new(v, |i| i % 11 == 7);
                    let seen: Vec<Vec<u32>> =
                        (0..r as u32).map(|r| (0..v as u32).filter(|i| (i + r) % 4 == 1 && r != 1).collect()).collect();
                    let extents = batch::extents(seen.iter().map(Vec::len));
                    let seen = seen.concat();
                    let mask = Mask { excluded: &excluded, seen: with_seen.then_some((&extents[..], &seen[..])) };
                    let (mut standings, mut lists) = (vec![], vec![]);
                    let targets = case::ids(3, r, v);
                    of_catalogue(device, &mut standings, &mut lists, &inputs.scoring(), &mask, Some(&targets), k)?;
                    let flat = |s: &Option<Standing>| s.map_or([NONE; 3], |s| [s.above, s.tied, s.tied_before]);
                    let scores = lists.iter().map(|e| f64::from(e.score)).collect();
                    Ok(vec![
                        Output::ids("standings", standings.iter().flat_map(flat).collect()),
                        Output::ids("items", lists.iter().map(|e| e.item).collect()),
                        Output { name: "scores", values: Values::Reals(scores) },
                    ])
                }));
            }
        }
    }
    cases
}

/// Where products are rounded, rankings are not: these inputs are no numbers of bf16.
pub fn rounded_cases() -> Vec<Case> {
    let case = |(r, v, d, k): (usize, usize, usize, usize)| {
        Case::rounded("rank", format!("dot, R {r}, V {v}, D {d}, k {k}, bf16"), &[0.0, 0.0, 1e-5], move |device| {
            let inputs = Inputs::new(device, [r, v, d], ScoreKind::Dot, false, false)?;
            let (excluded, targets) = (Excluded::new(v, |i| i % 11 == 7), case::ids(3, r, v));
            let mask = Mask { excluded: &excluded, seen: None };
            let (mut standings, mut lists) = (vec![], vec![]);
            of_catalogue(device, &mut standings, &mut lists, &inputs.scoring(), &mask, Some(&targets), k)?;
            let above = standings.iter().map(|s| s.as_ref().map_or(NONE, |s| s.above)).collect();
            let scores = lists.iter().map(|e| f64::from(e.score)).collect();
            Ok(vec![
                Output::ids("above", above),
                Output::ids("items", lists.iter().map(|e| e.item).collect()),
                Output { name: "scores", values: Values::Reals(scores) },
            ])
        })
    };
    [(3, 300, 65, 5), (65, 131, 31, 10)].map(case).into()
}

/// Overwrites the scores of masked items with NaN and returns how many there are. `seen` is ascending.
fn hide(scores: &mut [f32], excluded: &Excluded, seen: &[u32]) -> Result<usize> {
    let mut masked = excluded.items.len();
    for &i in &excluded.items {
        if scores[i as usize].is_nan() {
            return Err(nan());
        }
        scores[i as usize] = f32::NAN;
    }
    let mut last = None;
    for &i in seen {
        if Some(i) == last || excluded.contains(i) {
            continue;
        }
        last = Some(i);
        let Some(score) = scores.get_mut(i as usize) else {
            return Err(Error::internal(format!("seen item {i} is outside the catalogue")));
        };
        if score.is_nan() {
            return Err(nan());
        }
        *score = f32::NAN;
        masked += 1;
    }
    Ok(masked)
}

/// Counts the scores above and equal to the target's; an unmasked NaN is an error, with or without a target.
pub fn stand(scores: &[f32], masked: usize, target: Option<u32>) -> Result<Option<Standing>> {
    let own = target.map_or(f32::INFINITY, |t| scores[t as usize]);
    let (above, equal, numbers) = vector::fast(
        #[inline(always)]
        || {
            let (mut above, mut equal, mut numbers) = (0u32, 0u32, 0u32);
            for &x in scores {
                above += u32::from(x > own);
                equal += u32::from(x == own);
                numbers += u32::from(!x.is_nan());
            }
            (above, equal, numbers)
        },
    );
    if numbers as usize + masked != scores.len() {
        return Err(nan());
    }
    Ok(target.map(|t| {
        // Equals are rare with a trained model, so the second pass almost never runs.
        let before = if equal > 1 { scores[..t as usize].iter().filter(|&&x| x == own).count() as u32 } else { 0 };
        Standing { above, tied: equal - 1, tied_before: before }
    }))
}

fn nan() -> Error {
    Error::diverged(Code::T0702, "the model gave a NaN score").note("the weights have diverged")
}

/// Score falling, then item rising. Scores here are never NaN; -0 and 0 are equal, as for the standing.
fn order(a: &Entry, b: &Entry) -> std::cmp::Ordering {
    b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal).then(a.item.cmp(&b.item))
}

/// Scores per step of the maximum: one AVX-512 register or two of AVX2.
const STEP: usize = 16;
/// Blocks of a row from which on they grow instead of becoming more.
const BLOCKS: usize = 4096;

/// Memory of [`best`], reused from row to row.
#[derive(Default)]
pub struct Scratch {
    maxima: Vec<f32>,
    ordered: Vec<f32>,
    found: Vec<Entry>,
}

/// The first k = `list.len()` of `scores`, masked ones (NaN) left out, by `order`.
pub fn best(list: &mut [Entry], scratch: &mut Scratch, scores: &[f32]) {
    let k = list.len();
    list.fill(Entry::EMPTY);
    if k == 0 {
        return;
    }
    let Scratch { maxima, ordered, found } = scratch;
    let block = scores.len().div_ceil(BLOCKS).next_multiple_of(STEP).max(STEP);
    maxima.clear();
    found.clear();
    vector::fast(
        #[inline(always)]
        || maxima.extend(scores.chunks(block).map(largest)),
    );
    let mut floor = f32::NEG_INFINITY;
    if maxima.len() > k {
        ordered.clone_from(maxima);
        floor = *ordered.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
    }
    let mut equal = 0;
    for (n, part) in scores.chunks(block).enumerate().filter(|&(n, _)| maxima[n] >= floor) {
        for (i, &score) in part.iter().enumerate() {
            // Of the scores equal to the bound only the first k can be listed, because equals go by index.
            if score > floor || (score == floor && equal < k) {
                equal += usize::from(score == floor);
                found.push(Entry { item: (n * block + i) as u32, score });
            }
        }
    }
    if found.len() > k {
        found.select_nth_unstable_by(k - 1, order);
        found.truncate(k);
    }
    found.sort_unstable_by(order);
    list[..found.len()].copy_from_slice(found);
}

/// The largest score of a block, minus infinity where all are NaN.
#[inline(always)]
fn largest(block: &[f32]) -> f32 {
    // In this form a NaN `b` loses, and a compiler sees one instruction.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; STEP];
    let steps = block.chunks_exact(STEP);
    let rest = steps.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| larger(m, x));
    for step in steps {
        for (lane, &x) in lanes.iter_mut().zip(step) {
            *lane = larger(*lane, x);
        }
    }
    let mut width = STEP / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = larger(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    larger(rest, lanes[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draws, Stream};

    /// Scores with many ties: `levels` distinct values, some of them -inf.
    fn scores(n: usize, levels: u32, seed: u64) -> Vec<f32> {
        let draws = Draws::new(seed, Stream::Test, 0, 0);
        (0..n as u64)
            .map(|i| match draws.words(i)[0] % levels {
                0 => f32::NEG_INFINITY,
                level => level as f32 / 7.0 - 1.0,
            })
            .collect()
    }

    fn naive(scores: &[f32], k: usize) -> Vec<Entry> {
        let mut all: Vec<Entry> = (0..).zip(scores).map(|(item, &score)| Entry { item, score }).collect();
        all.retain(|e| !e.score.is_nan());
        all.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.item.cmp(&b.item)));
        all.resize(k.max(all.len()), Entry::EMPTY);
        all.truncate(k);
        all
    }

    #[test]
    fn the_best_k_equal_a_full_sort() {
        for n in [0usize, 1, 2, 63, 64, 65, 97, 104, 105, 257, 1025, 5003, 70_001] {
            for k in [1usize, 3, 10, 20, 101] {
                for levels in [2, 3, 50, u32::MAX] {
                    let mut s = scores(n, levels, (n * k) as u64);
                    s.iter_mut().step_by(7).for_each(|x| *x = f32::NAN);
                    let (mut list, mut scratch) = (vec![Entry::EMPTY; k], Scratch::default());
                    best(&mut list, &mut scratch, &s);
                    assert_eq!(list, naive(&s, k), "{n} scores, {levels} levels, k {k}");
                }
                // The best scores all in one block, at either end.
                for sign in [1.0, -1.0] {
                    let s: Vec<f32> = (0..n).map(|i| sign * i as f32).collect();
                    let (mut list, mut scratch) = (vec![Entry::EMPTY; k], Scratch::default());
                    best(&mut list, &mut scratch, &s);
                    assert_eq!(list, naive(&s, k));
                }
            }
        }
    }

    #[test]
    fn standings_equal_their_definition_and_the_listed_rank_is_the_place_in_the_list() {
        for n in [1usize, 2, 65, 303] {
            for levels in [2, 9, u32::MAX] {
                let excluded = Excluded::new(n, |i| i % 11 == 3);
                let seen: Vec<u32> = (0..n as u32).filter(|i| i % 5 == 1).collect();
                let open: Vec<u32> = (0..n as u32).filter(|&i| !(excluded.contains(i) || seen.contains(&i))).collect();
                for &target in &open {
                    let s = scores(n, levels, 9);
                    let own = s[target as usize];
                    let count = |f: &dyn Fn(u32) -> bool| open.iter().filter(|&&i| f(i)).count() as u32;
                    let expected = Standing {
                        above: count(&|i| s[i as usize] > own),
                        tied: count(&|i| i != target && s[i as usize] == own),
                        tied_before: count(&|i| i < target && s[i as usize] == own),
                    };
                    let (mut standings, mut lists) = (vec![], vec![]);
                    let mask = Mask { excluded: &excluded, seen: Some((&[[0, seen.len() as u64]], &seen)) };
                    forward(&mut standings, &mut lists, &mut s.clone(), &mask, Some(&[target]), n).unwrap();
                    assert_eq!(standings, [Some(expected)]);
                    let place = lists.iter().position(|e| e.item == target).unwrap() + 1;
                    assert_eq!(expected.rank(Ties::Listed, 0), place as f64);
                    assert_eq!(lists.iter().filter(|e| e.item != NONE).count(), open.len());
                }
            }
        }
    }

    #[test]
    fn tie_rules_bracket_each_other() {
        let standing = Standing { above: 4, tied: 7, tied_before: 2 };
        let (best, worst) = (standing.rank(Ties::Optimistic, 0), standing.rank(Ties::Pessimistic, 0));
        assert_eq!((best, worst), (5.0, 12.0));
        assert_eq!(standing.rank(Ties::Average, 0), 8.5);
        let mut reached = [false; 8];
        for i in 0..200 {
            let word = Draws::new(3, Stream::Ties, 0, 0).words64(i)[0];
            let rank = standing.rank(Ties::Random, word);
            assert!((best..=worst).contains(&rank));
            reached[rank as usize - 5] = true;
        }
        assert!(reached.iter().all(|&r| r), "every place among the equals is reachable");
    }

    #[test]
    fn nan_is_an_error_wherever_it_stands_and_infinities_are_scores() {
        let excluded = Excluded::new(5, |i| i == 4);
        let mask = Mask { excluded: &excluded, seen: Some((&[[0, 1]], &[3])) };
        let run = |s: [f32; 5], target| forward(&mut vec![], &mut vec![], &mut s.clone(), &mask, target, 2);
        for at in 0..5 {
            let mut s = [0.5, 0.25, 0.125, 2.0, 3.0];
            s[at] = f32::NAN;
            for target in [None, Some(&[0u32][..])] {
                let error = run(s, target).unwrap_err();
                assert_eq!(error.code(), Code::T0702, "NaN at {at}");
                assert!(error.to_string().contains("optim.lr"), "{error}");
            }
        }
        for edge in [f32::NEG_INFINITY, f32::INFINITY] {
            let (mut standings, mut lists) = (vec![], vec![]);
            forward(&mut standings, &mut lists, &mut [edge; 5], &mask, Some(&[1]), 4).unwrap();
            assert_eq!(standings, [Some(Standing { above: 0, tied: 2, tied_before: 1 })], "masked items never tie");
            assert_eq!(lists.iter().map(|e| e.item).collect::<Vec<_>>(), [0, 1, 2, NONE]);
        }
        // A masked target cannot be ranked, and is in no list.
        for target in [3, 4] {
            let (mut standings, mut lists) = (vec![], vec![]);
            forward(&mut standings, &mut lists, &mut [0.0, 1.0, 2.0, 3.0, 4.0], &mask, Some(&[target]), 1).unwrap();
            assert_eq!((standings[0], lists[0].item), (None, 2));
        }
    }
}
