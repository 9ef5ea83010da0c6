//! The k best-scored items of the whole catalogue on Hopper's tensor cores: the launcher of `kernels/score_topk_wgmma.cu`.
//!
//! Chosen where operands may be rounded to bf16 (`train.rounding`), for the dot product without a context and vectors of at most
//! 128 numbers, on the one architecture that has its words. Everything about the kernel is proven on the emulator but that its
//! words are what the chip does; so a GPU is asked a small question at the first use in a process ([`answers`]), and where the
//! answer is wrong the kernel of `score_topk.cu` stays in use. `hardneg doctor` says which it is. A kernel that gives no answer at all
//! (an instruction the chip refuses, a barrier nobody passes) ends with the GPU's error, and `train.rounding=tf32` does without it.

use std::sync::OnceLock;

use crate::device::places::Rounding;
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Runtime, download};
use crate::error::Result;
use crate::ops::candidates::Hidden;
use crate::ops::case::{self, Case, Output};
use crate::ops::exclusion::Exclude;
use crate::ops::scan::{self, Veil};
use crate::ops::score::{self, Inputs, ScoreKind, Scoring};
use crate::ops::score_topk::{self, room};

/// Rows of a tile, of queries as of items, and tiles of items in the ring.
const TILE: usize = 128;
const PLACES: usize = 4;
/// Fewest tiles worth a share of the catalogue: a share hands over k items whatever its length.
const SHARE: usize = 8;

/// Whether the kernel scores such vectors.
pub fn fit(rounding: Rounding, kind: ScoreKind, context: bool, dim: usize) -> bool {
    rounding == Rounding::Bf16 && kind == ScoreKind::Dot && !context && (1..=128).contains(&dim)
}

/// Whether `scoring` is for this kernel on this machine.
pub fn chosen(device: &Device, runtime: &dyn Runtime, scoring: &Scoring) -> Result<bool> {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    let facts = runtime.facts();
    let fits = fit(facts.rounding, scoring.kind, scoring.context.is_some(), scoring.dim);
    if !fits || !facts.hopper() || scoring.items == 0 {
        return Ok(false);
    }
    // The emulator is what proves the kernel; a broken one must show there.
    if facts.arch == "emulator" {
        return Ok(true);
    }
    match ANSWERS.get() {
        Some(&right) => Ok(right),
        None => answers(device, runtime).map(|right| *ANSWERS.get_or_init(|| right)),
    }
}

/// Whether the kernel's answer to a small question is right: more rows than a block owns, more tiles than the ring has places twice
/// over, scores without rounding and with ties.
pub fn answers(device: &Device, runtime: &dyn Runtime) -> Result<bool> {
    let [rows, items, dim, k] = [TILE + 3, (2 * PLACES + 2) * TILE + 5, 70, 5];
    let inputs = |device: &Device| Inputs::new(device, [rows, items, dim], ScoreKind::Dot, false, true);
    let (there, here) = (inputs(device)?, inputs(&Device::HOST)?);
    let (best, splits) = best_on(device, runtime, &there.scoring(), &Veil::default(), k)?;
    let (ids, _) = score_topk::merged_on(device, runtime, best, [rows, splits, k], false)?;
    let ids: Vec<u32> = download(runtime, &ids, rows * k)?;
    let mut s = Buffer::empty(&Device::HOST);
    score::all(&Device::HOST, &mut s, &here.scoring())?;
    let s = s.to_f64(&Device::HOST)?;
    Ok(s.chunks(items).zip(ids.chunks(k)).all(|(s, ids)| {
        let mut order: Vec<u32> = (0..items as u32).collect();
        order.sort_by(|&a, &b| s[b as usize].total_cmp(&s[a as usize]).then(a.cmp(&b)));
        order.starts_with(ids)
    }))
}

/// DP of the kernel.
fn padded(dim: usize) -> usize {
    dim.next_multiple_of(64)
}

fn splits(rows: usize, items: usize) -> usize {
    scan::splits(rows.div_ceil(TILE), items.div_ceil(TILE), SHARE)
}

/// Bytes of a machine's memory that [`best_on`] takes, its result included.
pub fn bytes_there(dim: usize, [rows, items, k]: [usize; 3]) -> Result<u64> {
    let (blocks, splits) = (rows.div_ceil(TILE), splits(rows, items));
    let rounded = 2 * (blocks + items.div_ceil(TILE)) * TILE * padded(dim);
    Ok((rounded + 8 * (blocks * splits * TILE * room(k, TILE)? + rows * splits * k)) as u64)
}

/// Keys (R,splits,k) of the best items, and into how many parts the catalogue was cut.
pub fn best_on(device: &Device, runtime: &dyn Runtime, scoring: &Scoring, veil: &Veil, k: usize) -> Result<(Buffer, usize)> {
    let (rows, items, sort) = (scoring.rows(), scoring.items, room(k, TILE)?);
    let (blocks, splits, dim) = (rows.div_ceil(TILE), splits(rows, items), padded(scoring.dim));
    let defines = [("D", scoring.dim as i64), ("DP", dim as i64), ("SORT", sort as i64)];
    let rounded = |from: &Buffer, n: usize| {
        let pieces = n.div_ceil(TILE) * TILE * dim / 8;
        let mut to = Buffer::sized(device, 4 * pieces)?;
        let args = &mut [Arg::Out(&mut to), Arg::In(from), Arg::U32(n as u32)];
        runtime.launch(&Kernel::new("score_topk_wgmma", "topk_round", &defines), Grid::row(pieces.div_ceil(256), 256), args)?;
        Ok(to)
    };
    let (query, table) = (rounded(scoring.query, rows)?, rounded(scoring.table, items)?);
    let mut kept = Buffer::sized(device, 2 * blocks * splits * TILE * sort)?;
    let mut best = Buffer::sized(device, 2 * rows * splits * k)?;
    let mut args = vec![Arg::Out(&mut best), Arg::Out(&mut kept), Arg::In(&query), Arg::In(&table)];
    args.extend(veil.args());
    args.extend([rows, items, k].map(|size| Arg::U32(size as u32)));
    let shared_bytes = ((1 + PLACES) * TILE * dim * 2) as u32;
    let grid = Grid { blocks: [blocks as u32, splits as u32, 1], threads: 288, shared_bytes };
    runtime.launch(&Kernel::new("score_topk_wgmma", "topk_threshold_wgmma", &defines), grid, &mut args)?;
    Ok((best, splits))
}

/// With inputs that bf16 holds exactly (eighths), scores are as on the plain path, and so are the ids.
pub fn rounded_cases() -> Vec<Case> {
    /// (R, V, D) and k
    const SCANS: [([usize; 3], usize); 7] = [
        ([1, 1, 1], 3),
        ([33, 127, 16], 3),
        // The last row of a block is nobody's, and would gather more than it has room for.
        ([127, 1300, 16], 1),
        ([65, 129, 64], 70),
        ([130, 1300, 31], 10),
        ([7, 2310, 128], 100),
        ([3, 300, 65], 5),
    ];
    let mut cases = Vec::new();
    for (shape, k) in SCANS {
        let [r, v, d] = shape;
        for exclude in [Exclude::None, Exclude::Target, Exclude::History] {
            let name = format!("catalogue, dot, {exclude:?} excluded, R {r}, V {v}, D {d}, k {k}, bf16");
            cases.push(Case::rounded("score_topk", name, &[0.0], move |device| {
                let inputs = Inputs::new(device, shape, ScoreKind::Dot, false, true)?;
                let batch = case::batch(r, v);
                let sequences = batch.sequence_of_rows();
                let untrained: Vec<u32> = (0..v as u32).filter(|i| i % 5 == 3 && exclude != Exclude::None).collect();
                let hidden = Hidden { untrained: &untrained, exclude, batch: &batch, sequences: &sequences };
                let mut best = score_topk::of_catalogue(device, &inputs.scoring(), &hidden, k)?;
                best.fetch(device)?;
                Ok(vec![Output::ids("ids", best.ids)])
            }));
        }
    }
    cases
}

#[cfg(test)]
#[cfg(feature = "emulator")]
mod tests {
    use super::*;
    use crate::device::emulator::{Emulator, Options};
    use crate::device::watched::Watched;

    fn emulator(extra_sources: Vec<(String, String)>) -> std::sync::Arc<Emulator> {
        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        Emulator::open(&Options { extra_sources, rounding: Rounding::Bf16, ..Options::new(cache) }).unwrap()
    }

    #[test]
    fn the_question_is_answered_and_tells_a_wrong_kernel() {
        let right = emulator(vec![]);
        assert!(answers(&Device::Machine(right.clone()), &*right).unwrap());
        let text = crate::device::sources::text("score_topk_wgmma.cu").unwrap();
        // Sums that are of the neighbour's item, and columns taken twice: what wrong words of the chip would do.
        for (from, to) in [("* 2 + j % 2)", "* 2 + 1 - j % 2)"), ("step = c % 4 * 32", "step = c % 2 * 32")] {
            assert!(text.contains(from));
            let wrong = emulator(vec![("score_topk_wgmma".into(), text.replace(from, to))]);
            assert!(!answers(&Device::Machine(wrong.clone()), &*wrong).unwrap(), "{from}");
        }
    }

    #[test]
    fn memory_is_taken_as_planned() {
        let machine = std::sync::Arc::new(Watched::new(emulator(vec![])));
        let device = Device::Machine(machine.clone());
        for (kind, dim) in [(ScoreKind::Dot, 65), (ScoreKind::Dot, 129), (ScoreKind::Cosine { temperature: 0.5 }, 8)] {
            let shape = [131, 2310, 10];
            let inputs = Inputs::new(&device, [shape[0], shape[1], dim], kind, false, true).unwrap();
            machine.restart();
            let before = machine.most();
            score_topk::catalogue_on(&device, &*machine, &inputs.scoring(), &Veil::default(), shape[2]).unwrap();
            let planned = score_topk::catalogue_bytes_there(kind, dim, false, Rounding::Bf16, shape).unwrap();
            assert_eq!(machine.most() - before, planned, "{kind:?}, {dim}");
        }
    }
}
