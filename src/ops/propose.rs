//! Draws from laws that no score enters, made where the model is: the launcher of `kernels/propose.cu`.
//!
//! The definition is the propose stage of `sampling/`: which laws there are, which words a slot is given, what is drawn again
//! and what is excluded. Here is only what a machine needs to draw the same ids: the laws as tables of integers, and the facts
//! of each group. Neither the host draws nor does an id cross the bus.
//!
//! ```text
//! table of a law      FIXED      bits of a threshold, columns, entries; (columns) of the alias method; (entries) masses
//!                     CLUSTERED  (K) where each cluster's table begins; a table is as above, entry 0 any item, and its items
//!                     UNIFORM, BATCH  nothing: the catalogue and the batch are given
//! ```
//!
//! Price: `8 (columns + entries)` bytes a table in the machine's memory; per draw of a batch 8 bytes a group for its key, 8 for
//! the extent of what its user has seen, 4 for its target.

use std::ops::Range;
use std::sync::Arc;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Runtime, place, upload};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::negatives::{Negatives, Resident};
use crate::ops::scan;
use crate::rng::Draws;

/// An alias table of integers.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    /// Bits of a column's threshold.
    pub threshold_bits: u32,
    pub columns: &'a [u64],
    /// (entries) sum 2^63.
    pub mass: &'a [u64],
}

/// A law as the kernel knows it.
pub enum Law<'a> {
    /// Every item of the training catalogue alike.
    Uniform,
    /// The targets of the batch.
    Batch,
    /// One table for all.
    Fixed(Columns<'a>),
    /// (K) a table per time cluster, whose entry 0 is any item and entry `j + 1` its `j`-th item.
    Clustered(Vec<(Columns<'a>, &'a [u32])>),
}

/// Laws in a machine's memory.
pub struct Laws {
    runtime: Arc<dyn Runtime>,
    table: Buffer,
    /// (T); absent when every item is trained.
    catalogue: Option<Buffer>,
    trained: usize,
    /// Kind, and where its table begins.
    heads: Vec<[u64; 2]>,
}

impl Laws {
    /// `catalogue` lists the `trained` items, or is empty when every item is one.
    pub fn new(runtime: &Arc<dyn Runtime>, laws: &[Law], catalogue: &[u32], trained: usize) -> Result<Laws> {
        let mut table: Vec<u64> = Vec::new();
        let append = |table: &mut Vec<u64>, alias: &Columns| {
            table.extend([u64::from(alias.threshold_bits), alias.columns.len() as u64, alias.mass.len() as u64]);
            table.extend_from_slice(alias.columns);
            table.extend_from_slice(alias.mass);
        };
        let mut heads = Vec::with_capacity(laws.len());
        for law in laws {
            let at = table.len();
            let kind = match law {
                Law::Uniform => 0,
                Law::Fixed(alias) => {
                    append(&mut table, alias);
                    1
                }
                Law::Batch => 2,
                Law::Clustered(clusters) => {
                    table.resize(at + clusters.len(), 0);
                    for (k, (alias, items)) in clusters.iter().enumerate() {
                        table[at + k] = table.len() as u64;
                        append(&mut table, alias);
                        table.extend(items.iter().map(|&item| u64::from(item)));
                    }
                    3
                }
            };
            heads.push([kind, at as u64]);
        }
        let catalogue = (!catalogue.is_empty()).then(|| place(&**runtime, catalogue)).transpose()?;
        Ok(Laws { runtime: runtime.clone(), table: place(&**runtime, &table)?, catalogue, trained, heads })
    }
    /// Whether they lie in this machine's memory.
    pub fn are_on(&self, runtime: &Arc<dyn Runtime>) -> bool {
        Arc::ptr_eq(&self.runtime, runtime)
    }
}

/// How several laws are one.
pub struct Mixed<'a> {
    /// Exclusive upper bound of each component's first words, one for each component but the last that has a share.
    pub bounds: &'a [u64],
    /// Exact probability of each component.
    pub shares: &'a [f64],
}

/// What is drawn for a batch.
pub struct Request<'a> {
    /// Slots of a group, N.
    pub n: usize,
    /// (G+1) first row of each group.
    pub group_offsets: Vec<u32>,
    /// Whether no item may occur twice in a group.
    pub distinct: bool,
    /// Absent for a single law.
    pub mixed: Option<Mixed<'a>>,
    /// Words of a slot: 1, 2 or 3.
    pub words: usize,
    /// Of the first attempt.
    pub draws: Draws,
    /// (G) key of each group's words.
    pub keys: Numbers<'a, u64>,
    /// (G) time cluster, or empty.
    pub clusters: Numbers<'a>,
    /// (G,2) of what each group excludes in `seen`, or empty.
    pub extents: Numbers<'a>,
    /// Ascending within an extent; empty where no extents are.
    pub seen: Numbers<'a>,
    /// (G) one more item each group excludes, or empty.
    pub barred: Numbers<'a>,
    /// (R) targets of the batch, and its distinct ones ascending with how often they occur; empty where no law asks.
    pub targets: Numbers<'a>,
    pub items: &'a [u32],
    pub counts: &'a [u32],
    /// Whether the draws' log-probabilities are asked for.
    pub log_q: bool,
    /// Whether they are those of the second of two laws, of which the first draws.
    pub reported: bool,
    /// The rows that share lists, where some must not count an item; absent where each has its own.
    pub sharers: Option<Sharers<'a>>,
}

/// What the rows of shared lists must not count.
pub struct Sharers<'a> {
    /// (R)
    pub targets: Numbers<'a>,
    /// (R,2) of what each row has seen in `Request::seen`, or empty.
    pub extents: Numbers<'a>,
}

const KERNEL: &str = "propose";
/// To the kernel: one law draws, and the one behind it is reported; 0: there is one law, 1: a mixture.
const REPORTED: usize = 2;

/// Draws; the lists stay where they are made. The caller has seen to it that no group is left without an item.
pub fn draw(device: &Device, laws: &Laws, request: Request) -> Result<Negatives> {
    let runtime = &*laws.runtime;
    let (groups, n) = (request.keys.len(), request.n);
    let fits = |len: usize, per_group: usize| len == 0 || len == groups * per_group;
    if !fits(request.extents.len(), 2) || !fits(request.barred.len(), 1) || !fits(request.clusters.len(), 1) {
        return Err(Error::internal("the groups to draw for do not fit each other"));
    }
    if groups * n >= NONE as usize {
        return Err(Error::internal("more than 2^32 negatives in one step"));
    }
    let mut heads: Vec<u64> = Vec::with_capacity(4 * laws.heads.len());
    let components = request.mixed.as_ref().map_or(1, |mixed| mixed.bounds.len() + 1);
    let all = components + usize::from(request.reported);
    for (c, &[kind, at]) in laws.heads.iter().enumerate().take(all) {
        let bound = request.mixed.as_ref().and_then(|mixed| mixed.bounds.get(c)).copied().unwrap_or(0);
        let share = request.mixed.as_ref().and_then(|mixed| mixed.shares.get(c)).copied().unwrap_or(1.0);
        heads.extend([kind, bound, share.to_bits(), at]);
    }
    let optional = |values: Numbers| (!values.is_empty()).then(|| values.on(runtime)).transpose();
    let (of_laws, keys) = (upload(runtime, &heads)?, request.keys.on(runtime)?);
    let (clusters, extents, seen) = (optional(request.clusters)?, optional(request.extents)?, request.seen.on(runtime)?);
    let (barred, targets) = (optional(request.barred)?, optional(request.targets)?);
    let (items, counts) = (optional(request.items.into())?, optional(request.counts.into())?);
    let how = if request.reported { REPORTED } else { usize::from(request.mixed.is_some()) };
    let sizes = [groups, n, components, how, request.words].map(|size| Arg::U32(size as u32));
    let of_batch = [laws.trained, request.targets.len(), request.items.len()].map(|size| Arg::U32(size as u32));
    let log_left = match request.log_q && groups > 0 {
        false => None,
        true => {
            let mut log_left = Buffer::sized(device, 2 * groups)?;
            let mut args = vec![Arg::Out(&mut log_left), Arg::In(&of_laws), Arg::In(&laws.table), scan::maybe(&laws.catalogue)];
            args.extend([scan::shared(&items), scan::shared(&counts), scan::shared(&clusters), scan::shared(&extents)]);
            args.extend([Arg::In(&seen), scan::shared(&barred)]);
            args.extend([groups, components, how].map(|size| Arg::U32(size as u32)));
            args.extend([laws.trained, request.targets.len(), request.items.len()].map(|size| Arg::U32(size as u32)));
            runtime.launch(&Kernel::new(KERNEL, "propose_left", &[]), Grid::row(groups.div_ceil(4), 128), &mut args)?;
            Some(log_left)
        }
    };
    let mut ids = Buffer::sized(device, groups * n)?;
    let mut log_q = log_left.as_ref().map(|_| Buffer::sized(device, groups * n)).transpose()?;
    if groups * n > 0 {
        let mut args = vec![Arg::Out(&mut ids), log_q.as_mut().map_or(Arg::None, Arg::Out)];
        args.extend([Arg::In(&of_laws), Arg::In(&laws.table), scan::maybe(&laws.catalogue), scan::shared(&targets)]);
        args.extend([scan::shared(&items), scan::shared(&counts), Arg::In(&keys), scan::shared(&clusters)]);
        args.extend([scan::shared(&extents), Arg::In(&seen), scan::shared(&barred), scan::maybe(&log_left)]);
        args.extend(sizes);
        args.extend(of_batch);
        args.extend(request.draws.parts().map(Arg::U32));
        let (entry, grid) = match request.distinct {
            false => ("propose", Grid::row((groups * n).div_ceil(128), 128)),
            true => ("propose_distinct", Grid::row(groups.div_ceil(4), 128)),
        };
        runtime.launch(&Kernel::new(KERNEL, entry, &[]), grid, &mut args)?;
    }
    let mut negatives = Negatives { n, group_offsets: request.group_offsets, ..Negatives::default() };
    let (mut drop, mut groups) = (None, None);
    if let Some(rows) = request.sharers.filter(|rows| !rows.targets.is_empty() && n > 0) {
        let count = rows.targets.len();
        groups = negatives.groups_on(runtime)?;
        let of_rows = optional(rows.extents)?;
        let targets = rows.targets.on(runtime)?;
        let mut bytes = Buffer::sized(device, (count * n).div_ceil(4))?;
        let mut args = vec![Arg::Out(&mut bytes), Arg::In(&ids), scan::shared(&groups), scan::shared(&of_rows), Arg::In(&seen)];
        args.extend([Arg::In(&targets), Arg::U32(count as u32), Arg::U32(n as u32)]);
        runtime.launch(&Kernel::new(KERNEL, "propose_drop", &[]), Grid::row((count * n).div_ceil(256), 256), &mut args)?;
        drop = Some(bytes);
    }
    negatives.resident = Some(Arc::new(Resident { ids, log_q, drop, groups }));
    Ok(negatives)
}

/// Bytes of a candidate that is written out for a row: its id and its log-probability.
pub const WRITTEN_OUT: usize = 8;

/// The lists of the rows' groups, written out for some rows at a time: rows may be many and lists long.
pub struct Spread {
    lists: Arc<Resident>,
    /// (R) the group of each row; absent where each has a list of its own.
    groups: Option<Arc<Buffer>>,
    /// Whether the lists are written out as they are: rows have their own, and drop nothing of them.
    own: bool,
    /// M
    m: usize,
}

/// (rows,M) candidates of some rows, `NONE` where a slot is dropped for the row, and their log-probabilities where the lists have
/// them.
pub struct Candidates {
    lists: Arc<Resident>,
    /// Bytes before those of the first row.
    from: usize,
}

impl Candidates {
    pub fn ids(&self) -> Arg<'_> {
        Arg::InFrom(&self.lists.ids, self.from)
    }
    pub fn log_q(&self) -> Arg<'_> {
        self.lists.log_q.as_ref().map_or(Arg::None, |log_q| Arg::InFrom(log_q, self.from))
    }
}

impl Spread {
    pub fn new(runtime: &dyn Runtime, lists: &Negatives) -> Result<Spread> {
        let there = lists.on(runtime)?;
        let own = there.drop.is_none() && lists.are_of_rows();
        let groups = if own { None } else { lists.groups_on(runtime)? };
        Ok(Spread { lists: there, groups, own, m: lists.n })
    }
    /// Those of `rows`.
    pub fn of(&self, device: &Device, runtime: &dyn Runtime, rows: Range<usize>) -> Result<Candidates> {
        let (lists, m) = (&self.lists, self.m);
        if self.own {
            return Ok(Candidates { lists: lists.clone(), from: 4 * rows.start * m });
        }
        let slots = rows.len() * m;
        let mut ids = Buffer::sized(device, slots)?;
        let mut log_q = lists.log_q.as_ref().map(|_| Buffer::sized(device, slots)).transpose()?;
        if slots > 0 {
            let mut args = vec![Arg::Out(&mut ids), log_q.as_mut().map_or(Arg::None, Arg::Out), Arg::In(&lists.ids)];
            args.extend([scan::maybe(&lists.log_q), scan::maybe(&lists.drop), scan::shared(&self.groups)]);
            args.extend([rows.start, rows.end, m].map(|size| Arg::U32(size as u32)));
            runtime.launch(&Kernel::new(KERNEL, "propose_spread", &[]), Grid::row(slots.div_ceil(256), 256), &mut args)?;
        }
        Ok(Candidates { lists: Arc::new(Resident { ids, log_q, drop: None, groups: None }), from: 0 })
    }
}
