//! Draws from the current model's own preference over a row's candidates.
//!
//! ```text
//! P(i | r) = exp(beta s[r,i] - ln q[i]) / Z[r]      over the row's candidates without what it excludes
//! ```
//!
//! `s` is the score of `ops/score.rs`; `q` the probability with which a listed candidate was proposed (left out for the whole
//! catalogue), so that a list stands for `exp(beta s)` over the catalogue whatever the proposal prefers. beta = 0 is uniform,
//! 1 the model's softmax, infinity the arg-max. The result carries `ln P` of each drawn item, given the list; copies of an
//! item count together.
//!
//! The catalogue is drawn from in two steps, exact and without a (R,V) matrix: a scan in tiles keeps `ln sum exp` of each
//! tile; a tile is drawn from those, scored again, and an item is drawn inside. Two words per draw.
//!
//! Without replacement, a drawn item's weight is removed before the next draw; `ln P` remains that of a first draw. A row
//! left without candidates gets `ids::NONE`. Source: GenNi (Chen et al., arXiv 2208.03645); subset form: ELECRec (Chen et
//! al., SIGIR 2022, and its public program).

use std::ops::Range;
use std::sync::Arc;

use crate::data::batch::Batch;
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Real, Runtime};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::candidates::{self, Hidden, ITEMS};
use crate::ops::case::{self, Case, Output, Values};
use crate::ops::cost::Cost;
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::propose;
use crate::ops::scan::{self, Tiles, Veil};
use crate::ops::score::{self, Inputs, ScoreKind, Scoring, View, forms};
use crate::ops::vector;
use crate::rng::{Draws, Stream, open01, slot_index};

/// How to draw.
pub struct Rule<'a> {
    pub beta: f64,
    /// Draws per row, n.
    pub n: usize,
    pub replace: bool,
    pub draws: Draws,
    /// (R) key of each row's random words.
    pub row_keys: Numbers<'a, u64>,
}

/// `rows` empty lists.
fn empty(rows: usize, n: usize) -> Negatives {
    Negatives::of_rows(n, rows, vec![NONE; rows * n], vec![0.0; rows * n])
}

/// The slots and log-probabilities of each row.
fn by_row(drawn: &mut Negatives) -> Vec<(&mut [u32], &mut [f32])> {
    let n = drawn.n.max(1);
    drawn.ids.chunks_exact_mut(n).zip(drawn.log_q.chunks_exact_mut(n)).collect()
}

/// n of each row with their log-probabilities, from the list of its group; `lists.log_q`, where present, holds `ln q`. What a
/// machine draws stays there.
pub fn of_lists(device: &Device, scoring: &Scoring, lists: &Negatives, rule: &Rule) -> Result<Negatives> {
    dispatch!(device, T => {
        let mut drawn = empty(rule.row_keys.len(), rule.n);
        let out = by_row(&mut drawn);
        candidates::listed(&scoring.view::<T>()?, lists, out, |r, g, ids, s, (to, log_q): (&mut [u32], &mut [f32])| {
            let proposed = if lists.log_q.is_empty() { &[][..] } else { &lists.log_q[g * lists.n..(g + 1) * lists.n] };
            let mut weights = Weights::of_list(s, proposed, rule.beta);
            let total = weights.total;
            for (slot, (to, log_q)) in to.iter_mut().zip(log_q).enumerate() {
                let word = rule.draws.words64(slot_index(rule.row_keys.here()[r], slot))[0];
                let Some(at) = weights.draw(word) else { break };
                *to = ids[at];
                let same = || (0..ids.len()).filter(|&j| ids[j] == ids[at]);
                *log_q = (same().map(|j| weights.of[j]).sum::<f64>() / total).ln() as f32;
                if !rule.replace {
                    same().for_each(|j| weights.of[j] = 0.0);
                    weights.sum();
                }
            }
        })?;
        Ok(drawn)
    }, runtime => lists_on(device, &**runtime, scoring, lists, rule))
}

/// The same from the whole catalogue.
pub fn of_catalogue(device: &Device, scoring: &Scoring, hidden: &Hidden, rule: &Rule) -> Result<Negatives> {
    dispatch!(device, T => {
        let mut drawn = empty(hidden.batch.rows(), rule.n);
        let view = scoring.view::<T>()?;
        let take = |tiles: &mut Vec<f64>, _: usize, s: &mut [T]| tiles.push(log_sum_exp(s));
        let finish = |r, tiles: Vec<f64>, (to, log_q): (&mut [u32], &mut [f32])| two_steps(&view, hidden, rule, r, tiles, to, log_q);
        candidates::scanned(&view, hidden, T::from_f64(rule.beta), by_row(&mut drawn), Vec::new, take, finish)?;
        Ok(drawn)
    }, runtime => catalogue_on(device, &**runtime, scoring, hidden, rule))
}

/// `scores` ([`candidates::cost`]), and n ids of R `rows` with their log-probabilities. That a tile
/// drawn from is scored once more is not counted.
pub fn cost(scores: Cost, rows: usize, n: usize) -> Cost {
    scores + Cost::moved(2 * rows * n)
}

/// Bytes a candidate of a list takes in a machine's memory while it is chosen from.
const PER_CANDIDATE: usize = 28;

/// Bytes of a machine's memory taken for a moment to draw from lists of `m` for R `rows`; `written_out`: whether the lists are, with
/// their log-probabilities, because rows share them.
pub fn bytes_there(rows: usize, m: usize, written_out: bool) -> u64 {
    let each = PER_CANDIDATE - if written_out { 0 } else { propose::WRITTEN_OUT };
    (scan::block(rows, PER_CANDIDATE * m) * each * m) as u64
}

/// Bytes of a machine's memory taken for a moment to draw `n` for each of R `rows` from the whole catalogue of V `items`, beside the
/// ids.
pub fn catalogue_bytes_there(rows: usize, items: usize, n: usize, replace: bool) -> u64 {
    let drawn = rows * n * if replace { 2 } else { 1 };
    4 * (4 * rows * items.div_ceil(ITEMS) + drawn) as u64
}

/// Buffers of a draw on a machine.
struct There {
    ids: Buffer,
    log_q: Buffer,
    keys: Arc<Buffer>,
}

impl There {
    fn new(device: &Device, runtime: &dyn Runtime, rule: &Rule) -> Result<There> {
        let n = rule.row_keys.len() * rule.n;
        let (mut ids, mut log_q) = (Buffer::empty(device), Buffer::empty(device));
        ids.resize(device, n)?;
        log_q.resize(device, n)?;
        Ok(There { ids, log_q, keys: rule.row_keys.on(runtime)? })
    }
    fn lists(self, rule: &Rule) -> Negatives {
        Negatives::of_rows_there(rule.n, rule.row_keys.len(), self.ids, Some(self.log_q))
    }
}

/// A list's weights live in global memory with all that belongs to it, for as many rows at a time as [`scan::block`] says.
fn lists_on(device: &Device, runtime: &dyn Runtime, scoring: &Scoring, lists: &Negatives, rule: &Rule) -> Result<Negatives> {
    let block = scan::block(rule.row_keys.len(), PER_CANDIDATE * lists.n);
    lists_by(block, device, runtime, scoring, lists, rule)
}

/// The same, `block` rows at a time, which decides nothing.
fn lists_by(
    block: usize,
    device: &Device,
    runtime: &dyn Runtime,
    scoring: &Scoring,
    lists: &Negatives,
    rule: &Rule,
) -> Result<Negatives> {
    let (rows, m) = (rule.row_keys.len(), lists.n);
    if scoring.rows() != rows || lists.rows() != rows || !lists.fit_table(scoring.items) {
        return Err(Error::internal("the candidates do not fit the rows or the table"));
    }
    if rows * rule.n * m == 0 {
        return Ok(empty(rows, rule.n));
    }
    let spread = propose::Spread::new(runtime, lists)?;
    let mut s = Buffer::sized(device, block * m)?;
    let (mut weights, mut sums) = (Buffer::sized(device, 2 * block * m)?, Buffer::sized(device, 2 * block * m)?);
    let mut there = There::new(device, runtime, rule)?;
    // beta in two parts, because a kernel takes f32 and its weights are f64.
    let high = rule.beta as f32;
    let kernel = Kernel::new("softmax_draw", "softmax_draw_lists", &[("REPLACE", i64::from(rule.replace))]);
    for first in (0..rows).step_by(block) {
        let some = first..rows.min(first + block);
        let candidates = spread.of(device, runtime, some.clone())?;
        score::gather_rows_on(runtime, &mut s, scoring, candidates.ids(), m, some.clone())?;
        let at = 4 * first * rule.n;
        let mut args = vec![Arg::OutFrom(&mut there.ids, at), Arg::OutFrom(&mut there.log_q, at)];
        args.extend([Arg::Out(&mut weights), Arg::Out(&mut sums), Arg::In(&s), candidates.ids(), candidates.log_q()]);
        args.push(Arg::InFrom(&there.keys, 8 * first));
        args.extend([m, rule.n].map(|size| Arg::U32(size as u32)));
        args.extend([high, (rule.beta - f64::from(high)) as f32].map(Arg::F32));
        args.extend(rule.draws.parts().map(Arg::U32));
        runtime.launch(&kernel, Grid::row(some.len(), 128), &mut args)?;
    }
    Ok(there.lists(rule))
}

fn catalogue_on(device: &Device, runtime: &dyn Runtime, scoring: &Scoring, hidden: &Hidden, rule: &Rule) -> Result<Negatives> {
    scoring.check()?;
    let (rows, items) = (rule.row_keys.len(), scoring.items);
    if scoring.rows() != rows || hidden.batch.rows() != rows {
        return Err(Error::internal("the scan does not fit the rows"));
    }
    if rows * rule.n * items == 0 {
        return Ok(empty(rows, rule.n));
    }
    let veil = Veil::of_batch(runtime, hidden, items)?;
    let tiles = items.div_ceil(ITEMS);
    let [mut sums, mut reached, mut choice] = [(); 3].map(|()| Buffer::empty(device));
    sums.resize(device, 2 * rows * tiles)?;
    reached.resize(device, 2 * rows * tiles)?;
    choice.resize(device, if rule.replace { rows * rule.n } else { 0 })?;
    let beta = rule.beta as f32;

    let scan = Tiles::scores(scoring, 0)?;
    let mut args = vec![Arg::Out(&mut sums), Arg::In(scoring.query), scan::context(scoring), Arg::In(scoring.table)];
    args.extend(veil.args());
    args.extend([rows, items].map(|size| Arg::U32(size as u32)));
    args.extend([scan::heat(scoring), beta].map(Arg::F32));
    let mut defines = scan.defines.clone();
    defines.push(("ITEMS", ITEMS as i64));
    // Rows are many more than a grid's second side is long.
    let blocks = [rows.div_ceil(scan.own) as u32, tiles as u32, 1];
    let grid = Grid { blocks, threads: 128, shared_bytes: scan.shared_bytes };
    runtime.launch(&Kernel::new("softmax_draw", "softmax_draw_scan", &defines), grid, &mut args)?;

    let mut there = There::new(device, runtime, rule)?;
    let mut args = vec![Arg::Out(&mut there.ids), Arg::Out(&mut there.log_q), Arg::Out(&mut sums), Arg::Out(&mut reached)];
    args.push(if rule.replace { Arg::Out(&mut choice) } else { Arg::None });
    args.extend([Arg::In(scoring.query), scan::context(scoring), Arg::In(scoring.table)]);
    args.extend(veil.args());
    args.push(Arg::In(&there.keys));
    args.extend([items, tiles, rule.n].map(|size| Arg::U32(size as u32)));
    args.extend([scan::heat(scoring), beta].map(Arg::F32));
    args.extend(rule.draws.parts().map(Arg::U32));
    let mut defines = scan::gathered(scoring, false)?;
    defines.extend([("ITEMS", ITEMS as i64), ("REPLACE", i64::from(rule.replace))]);
    runtime.launch(&Kernel::new("softmax_draw", "softmax_draw_catalogue", &defines), Grid::row(rows, 128), &mut args)?;
    Ok(there.lists(rule))
}

fn rule_of(batch: &Batch, n: usize, replace: bool) -> Rule<'_> {
    Rule { beta: 0.7, n, replace, draws: Draws::new(5, Stream::Select, 2, 3), row_keys: (&batch.row_keys).into() }
}

pub fn cases() -> Vec<Case> {
    /// (R, V, D), M, n and whether with replacement
    const LISTS: [([usize; 3], usize, usize, bool); 5] = [
        ([1, 1, 1], 1, 2, true),
        ([7, 40, 31], 65, 9, true),
        ([5, 17, 64], 64, 30, false),
        ([2, 70, 5], 333, 130, true),
        // Some are left when enough are drawn.
        ([3, 400, 7], 70, 9, false),
    ];
    /// (R, V, D), n and whether with replacement
    const SCANS: [([usize; 3], usize, bool); 5] = [
        ([1, 1, 1], 2, true),
        ([17, 63, 16], 5, true),
        ([65, 131, 31], 7, false),
        ([3, 4099, 8], 130, true),
        ([2, 2049, 3], 9, false),
    ];
    let output = |device: &Device, mut drawn: Negatives| {
        drawn.fetch(device)?;
        let log_q = Values::Reals(drawn.log_q.iter().map(|&x| f64::from(x)).collect());
        Ok(vec![Output::ids("ids", drawn.ids), Output { name: "log_q", values: log_q }])
    };
    let mut cases = Vec::new();
    for (turn, (shape, m, n, replace)) in LISTS.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            let exact = kind == ScoreKind::Dot;
            let name = format!("lists of {m}, {form}, R {r}, V {v}, D {d}, n {n}, replace {replace}");
            cases.push(Case::new("softmax_draw", name, move |device| {
                let inputs = Inputs::new(device, shape, kind, with_context, exact)?;
                let mut lists = case::lists(r, m, v, 2);
                lists.log_q = case::noise(5, lists.ids.len()).iter().map(|&x| x as f32 - 3.0).collect();
                lists.drop = case::ids(6, r * m, 4).iter().map(|&x| x == 0).collect();
                output(device, of_lists(device, &inputs.scoring(), &lists, &rule_of(&case::batch(r, v), n, replace))?)
            }));
        }
        // A machine takes many rows in blocks; shared lists and rows' own are written out in two ways.
        for sharers in [1, 2] {
            let name = format!("lists of {m}, of {sharers} rows, by 2 rows, R {r}, n {n}, replace {replace}");
            cases.push(Case::new("softmax_draw", name, move |device| {
                let inputs = Inputs::new(device, shape, ScoreKind::Dot, true, true)?;
                let (scoring, batch) = (inputs.scoring(), case::batch(r, v));
                let mut lists = case::lists(r, m, v, sharers);
                lists.log_q = case::noise(5, lists.ids.len()).iter().map(|&x| x as f32 - 3.0).collect();
                let rule = rule_of(&batch, n, replace);
                let drawn = match device {
                    Device::Host(_) => of_lists(device, &scoring, &lists, &rule)?,
                    Device::Machine(runtime) => lists_by(2, device, &**runtime, &scoring, &lists, &rule)?,
                };
                output(device, drawn)
            }));
        }
    }
    for (turn, (shape, n, replace)) in SCANS.into_iter().enumerate() {
        let [r, v, d] = shape;
        for (form, kind, with_context) in forms(turn) {
            let exact = kind == ScoreKind::Dot;
            for exclude in [Exclude::None, Exclude::History] {
                let name = format!("catalogue, {form}, {exclude:?} excluded, R {r}, V {v}, D {d}, n {n}, replace {replace}");
                cases.push(Case::new("softmax_draw", name, move |device| {
                    let inputs = Inputs::new(device, shape, kind, with_context, exact)?;
                    let batch = case::batch(r, v);
                    let sequences = batch.sequence_of_rows();
                    let untrained: Vec<u32> = (0..v as u32).filter(|i| i % 5 == 3).collect();
                    let hidden = Hidden { untrained: &untrained, exclude, batch: &batch, sequences: &sequences };
                    output(device, of_catalogue(device, &inputs.scoring(), &hidden, &rule_of(&batch, n, replace))?)
                }));
            }
        }
    }
    cases
}

/// `tiles` holds ln sum exp of each tile of row `r`.
fn two_steps<T: Real>(
    view: &View<T>,
    hidden: &Hidden,
    rule: &Rule,
    r: usize,
    tiles: Vec<f64>,
    to: &mut [u32],
    log_q: &mut [f32],
) {
    let shift = tiles.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights = Weights::new(tiles.iter().map(|&lse| (lse - shift).exp()).collect());
    let inside = |tile: usize| tile * ITEMS..view.items.min((tile + 1) * ITEMS);
    let rescored = |tile: Range<usize>, drawn: &[u32]| {
        let ids: Vec<u32> = (tile.start as u32..tile.end as u32).collect();
        let mut s = vec![T::ZERO; ids.len()];
        view.row(r, &ids, &mut s);
        s.iter_mut().for_each(|s| *s *= T::from_f64(rule.beta));
        hidden.hide(r, tile.clone(), &mut s);
        for &i in drawn.iter().filter(|&&i| tile.contains(&(i as usize))) {
            s[i as usize - tile.start] = T::NEG_INFINITY;
        }
        let mut w: Vec<f64> = s.iter().map(|s| s.f64()).collect();
        vector::fast(
            #[inline(always)]
            || vector::weights_in_place(&mut w, shift),
        );
        w.iter_mut().filter(|w| w.is_nan()).for_each(|w| *w = 0.0);
        w
    };
    let total = weights.total;
    let words = |slot: usize| rule.draws.words64(slot_index(rule.row_keys.here()[r], slot));
    // With replacement the tiles are known beforehand, so that each is scored once for all its draws.
    let mut order: Vec<(usize, Option<usize>)> = (0..to.len()).map(|slot| (slot, None)).collect();
    if rule.replace {
        order.iter_mut().for_each(|(slot, tile)| *tile = weights.draw(words(*slot)[0]));
        order.sort_by_key(|(_, tile)| *tile);
    }
    let mut current: Option<(usize, Weights)> = None;
    for (slot, tile) in order {
        let [of_tile, of_item] = words(slot);
        let Some(tile) = tile.or_else(|| weights.draw(of_tile)) else { return };
        if current.as_ref().is_none_or(|(t, _)| *t != tile) {
            let drawn = if rule.replace { &[][..] } else { &to[..slot] };
            current = Some((tile, Weights::new(rescored(inside(tile), drawn))));
        }
        let Some((_, items)) = &mut current else { return };
        let Some(at) = items.draw(of_item) else { return };
        to[slot] = (inside(tile).start + at) as u32;
        log_q[slot] = (items.of[at].ln() - total.ln()) as f32;
        if !rule.replace {
            items.of[at] = 0.0;
            items.sum();
            weights.of[tile] = items.total;
            weights.sum();
        }
    }
}

/// ln sum exp of scores; minus infinity when nothing is left. Overwrites them.
fn log_sum_exp<T: Real>(s: &mut [T]) -> f64 {
    vector::fast(
        #[inline(always)]
        || {
            let shift = vector::max(s);
            if shift > T::NEG_INFINITY { shift.f64() + vector::exp_sum(s, shift).f64().ln() } else { f64::NEG_INFINITY }
        },
    )
}

/// Unnormalised weights and their running sums.
struct Weights {
    of: Vec<f64>,
    reached: Vec<f64>,
    total: f64,
}

impl Weights {
    fn new(of: Vec<f64>) -> Weights {
        let mut weights = Weights { reached: Vec::with_capacity(of.len()), of, total: 0.0 };
        weights.sum();
        weights
    }
    /// `exp(beta s - ln q)`, scaled by the largest; 0 where `s` is minus infinity or not a number.
    fn of_list<T: Real>(s: &[T], proposed: &[f32], beta: f64) -> Weights {
        let logit = |s: &T| if s.f64() > f64::NEG_INFINITY { beta * s.f64() } else { f64::NEG_INFINITY };
        Weights::new(vector::fast(
            #[inline(always)]
            || {
                let mut of: Vec<f64> = s.iter().map(logit).collect();
                of.iter_mut().zip(proposed).for_each(|(of, &q)| *of -= f64::from(q));
                match vector::max(&of) {
                    f64::NEG_INFINITY => of.fill(0.0),
                    shift => vector::weights_in_place(&mut of, shift),
                }
                of
            },
        ))
    }
    fn sum(&mut self) {
        self.total = 0.0;
        self.reached.clear();
        for w in &self.of {
            self.total += w;
            self.reached.push(self.total);
        }
    }
    /// An index with probability proportional to its weight; none when all weights are zero.
    fn draw(&self, word: u64) -> Option<usize> {
        if !(self.total > 0.0 && self.total.is_finite()) {
            return None;
        }
        let mark = open01(word) * self.total;
        // An index of weight zero adds nothing to the sums, so it is never the first one above the mark.
        let at = self.reached.partition_point(|&reached| reached <= mark);
        if at < self.of.len() { Some(at) } else { self.of.iter().rposition(|&w| w > 0.0) }
    }
}
