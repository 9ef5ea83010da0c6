//! How a machine scores items for rows: the host's side of `kernels/tile.cuh`, `scan.cuh` and `gathered.cuh`.
//!
//! Sizes that are fixed for a model (D, the form of the score) become defines, so that every kernel is compiled for them; tiles
//! are chosen so that shared memory and registers suffice on every GPU the crate runs on.

use std::sync::Arc;

use crate::data::column::Column;
use crate::device::{Arg, Buffer, Numbers, Runtime, upload};
use crate::error::{Code, Error, Result};
use crate::ops::candidates::Hidden;
use crate::ops::exclusion::Exclude;
use crate::ops::rank::Mask;
use crate::ops::score::{ScoreKind, Scoring};

/// Shared memory a block may use without asking for a particular GPU, less what the kernels declare statically.
const SHARED_BYTES: usize = 94 << 10;
/// Widest vector the kernels hold in the registers of a block.
pub const WIDEST: usize = 512;
/// Blocks that fill the largest GPU twice. A constant, so that the shape of every sum is the same on every machine.
const BLOCKS: usize = 264;

/// Memory of a machine that the candidates of a block of rows may take while they are chosen from: a quarter of a gigabyte, in
/// which lists of 4,096 have 2,300 rows, as many as fill the largest GPU.
const CHOOSING: usize = 1 << 28;

/// Rows, of so many, that are chosen for at a time, with so many bytes each.
pub fn block(rows: usize, bytes: usize) -> usize {
    (CHOOSING / bytes.max(1)).clamp(1, rows.max(1))
}

pub type Defines = Vec<(&'static str, i64)>;

/// 1 / temperature, and 1 for the dot product.
pub fn heat(scoring: &Scoring) -> f32 {
    match scoring.kind {
        ScoreKind::Dot => 1.0,
        ScoreKind::Cosine { temperature } => (1.0 / temperature) as f32,
    }
}

pub fn context<'a>(scoring: &Scoring<'a>) -> Arg<'a> {
    scoring.context.map_or(Arg::None, Arg::In)
}

/// An optional input.
pub fn maybe(buffer: &Option<Buffer>) -> Arg<'_> {
    buffer.as_ref().map_or(Arg::None, Arg::In)
}

pub fn shared(buffer: &Option<Arc<Buffer>>) -> Arg<'_> {
    buffer.as_ref().map_or(Arg::None, |buffer| Arg::In(buffer))
}

fn form(kind: ScoreKind, dim: usize, context: bool) -> Result<Defines> {
    if dim > WIDEST {
        let what = format!("the kernels score vectors of at most {WIDEST} numbers, the model's have {dim}");
        return Err(Error::new(Code::G0502, what).help("use `--device host`, or a smaller `model.dim`"));
    }
    let cosine = kind != ScoreKind::Dot;
    Ok(vec![("D", dim as i64), ("COSINE", i64::from(cosine)), ("CONTEXT", i64::from(context))])
}

/// Defines of `gathered.cuh`: a lane holds at most four float4 of a row. `half`: the rows are kept as bf16.
pub fn gathered(scoring: &Scoring, half: bool) -> Result<Defines> {
    let mut defines = gathered_of(scoring.kind, scoring.dim, scoring.context.is_some())?;
    defines.extend(half.then_some(("HALF", 1)));
    Ok(defines)
}

/// The same where nothing is scored and rows are summed as they are.
pub fn gathered_rows(dim: usize) -> Result<Defines> {
    gathered_of(ScoreKind::Dot, dim, false)
}

fn gathered_of(kind: ScoreKind, dim: usize, context: bool) -> Result<Defines> {
    let lanes = match dim {
        0..=128 => 8,
        129..=256 => 16,
        _ => 32,
    };
    let mut defines = form(kind, dim, context)?;
    defines.push(("LANES", lanes));
    Ok(defines)
}

/// A block of owned vectors and the tiles streamed past it (`tile.cuh`).
pub struct Tiles {
    pub own: usize,
    pub stream: usize,
    pub defines: Defines,
    pub shared_bytes: u32,
}

impl Tiles {
    /// For scores alone, rows owned and items streamed; `extra` bytes of shared memory are the kernel's own.
    pub fn scores(scoring: &Scoring, extra: usize) -> Result<Tiles> {
        Tiles::scores_of(scoring.kind, scoring.dim, scoring.context.is_some(), extra)
    }

    /// The same from what decides them.
    pub fn scores_of(kind: ScoreKind, dim: usize, context: bool, extra: usize) -> Result<Tiles> {
        let paired = kind != ScoreKind::Dot && context;
        Tiles::new(form(kind, dim, context)?, dim, extra, |own, stream, stride| {
            Some((own * (1 + usize::from(paired)) + stream) * stride)
        })
    }

    /// For scores multiplied back into sums per owned vector. Under the cosine the context is beside the owned vectors or the
    /// streamed ones, with a second set of weights; the dot product's softmax does not see a context.
    pub fn weighted(kind: ScoreKind, dim: usize, context: bool) -> Result<Tiles> {
        let cosine = kind != ScoreKind::Dot;
        let sets = 1 + usize::from(cosine && context);
        Tiles::new(form(kind, dim, cosine && context)?, dim, 0, |own, stream, stride| {
            // Sums of a thread stay within 64 registers; wide tiles leave the cosine's own terms a quarter of them.
            let registers = if cosine && sets == 1 { 48 } else { 64 };
            let fits = own * dim * sets <= registers * 128 && own * sets <= 64;
            fits.then_some((own + stream + (sets - 1) * own.max(stream)) * stride + sets * own * (stream + 4))
        })
    }

    /// The largest tiles whose floats of shared memory, by `floats`, fit beside `extra` bytes.
    fn new(
        mut defines: Defines,
        dim: usize,
        extra: usize,
        floats: impl Fn(usize, usize, usize) -> Option<usize>,
    ) -> Result<Tiles> {
        let stride = 4 * (dim.div_ceil(4) | 1);
        for (own, stream) in [(64, 64), (32, 64), (32, 32), (16, 32), (16, 16), (8, 16)] {
            let Some(bytes) = floats(own, stream, stride).map(|floats| 4 * floats + extra).filter(|&b| b <= SHARED_BYTES) else {
                continue;
            };
            defines.extend([("OWN", own as i64), ("STREAM", stream as i64), ("STRIDE", stride as i64)]);
            return Ok(Tiles { own, stream, defines, shared_bytes: bytes as u32 });
        }
        Err(Error::new(Code::G0502, "no tile of this width fits a GPU's shared memory").help("use `--device host`"))
    }

    /// [`splits`] of vectors.
    pub fn splits(&self, owned: usize, streamed: usize, least: usize) -> usize {
        splits(owned.div_ceil(self.own), streamed.div_ceil(self.stream), least)
    }
}

/// Into how many parts the streamed tiles are cut, so that few owned blocks fill a GPU all the same; a part has at least `least`
/// tiles.
pub fn splits(blocks: usize, tiles: usize, least: usize) -> usize {
    (BLOCKS / blocks.max(1)).min(tiles / least).max(1)
}

/// What the rows must not see, in a machine's memory (struct Hidden of `scan.cuh`); nothing by default.
#[derive(Default)]
pub struct Veil {
    barred: Option<Buffer>,
    extents: Option<Arc<Buffer>>,
    seen: Option<Arc<Buffer>>,
    targets: Option<Arc<Buffer>>,
}

impl Veil {
    pub fn of_batch(runtime: &dyn Runtime, hidden: &Hidden, items: usize) -> Result<Veil> {
        let batch = hidden.batch;
        let barred = bits(runtime, hidden.untrained.iter().copied(), items)?;
        let list = |wanted: bool, column: &Column<u32>| wanted.then(|| Numbers::from(column).on(runtime)).transpose();
        let history = hidden.exclude == Exclude::History;
        Ok(Veil {
            barred,
            extents: if history { list(true, batch.extents_of_rows())? } else { None },
            seen: list(history, &batch.seen)?,
            targets: list(hidden.exclude != Exclude::None, &batch.targets)?,
        })
    }

    pub fn of_mask(runtime: &dyn Runtime, mask: &Mask, items: usize) -> Result<Veil> {
        let barred = bits(runtime, (0..items as u32).filter(|&i| mask.excluded.contains(i)), items)?;
        let Some((extents, seen)) = mask.seen else {
            return Ok(Veil { barred, extents: None, seen: None, targets: None });
        };
        let extents: Vec<u32> = extents.iter().flatten().map(|&at| at as u32).collect();
        let list = |list: &[u32]| upload(runtime, list).map(|there| Some(Arc::new(there)));
        Ok(Veil { barred, extents: list(&extents)?, seen: list(seen)?, targets: None })
    }

    /// barred, extents, seen, targets
    pub fn args(&self) -> [Arg<'_>; 4] {
        [maybe(&self.barred), shared(&self.extents), shared(&self.seen), shared(&self.targets)]
    }
}

/// One bit per item, absent when none is set; a tile may read to the end of the word after its last item.
fn bits(runtime: &dyn Runtime, set: impl Iterator<Item = u32>, items: usize) -> Result<Option<Buffer>> {
    let mut words = vec![0u32; items.div_ceil(32)];
    set.for_each(|i| words[i as usize / 32] |= 1 << (i % 32));
    words.iter().any(|&w| w != 0).then(|| upload(runtime, &words)).transpose()
}
