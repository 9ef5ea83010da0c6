//! A batch of an epoch, gathered where the model is: the training sequences lie in a machine's memory, and only the place in the
//! epoch goes there.
//!
//! ```text
//! sequence = order(epoch)(place)        rows = the last `longest` pairs (event, next event) of its history, cut or whole
//! row:     item = log[event], target = log[event + 1], key = event + 1, place in the sequence, time cluster, seen items
//! ```
//!
//! The host knows the same batch by what [`crate::data::training`] promises of it, and reads its columns only if a stage decides
//! there. Price: 4 bytes an event of the log (8 with time clusters), 20 a sequence, 4 a pair of user and seen item where histories
//! are excluded.

use std::ops::Range;
use std::sync::Arc;

use crate::data::batch::Batch;
use crate::data::order::Order;
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Runtime, download, numbers, place, round};
use crate::error::{Code, Error, Result};
use crate::ops::case::{self, Case, Output};
use crate::ops::scan;
use crate::rng::{Draws, Stream, below};

/// Training sequences and the log they are parts of.
pub struct Sequences<'a> {
    /// (E) the item of each event.
    pub log: &'a [u32],
    /// (E) the time cluster of each event, or empty.
    pub clusters: &'a [u32],
    /// (S) first event, number of events (two or more), user.
    pub starts: &'a [u64],
    pub counts: &'a [u32],
    pub users: &'a [u32],
    /// (S+1) where each sequence's items begin in `seen`.
    pub seen_starts: &'a [u64],
    /// Empty where nobody asks for it.
    pub seen: &'a [u32],
}

/// Of an epoch, which sequences, and what of them.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub order: &'a Order,
    /// Places of the epoch, in which there are B sequences.
    pub begin: u64,
    pub sequences: usize,
    /// By user, where histories are cut at random.
    pub cuts: Option<Draws>,
    /// Most rows of a sequence.
    pub longest: usize,
    /// Whether places count from a sequence's first row.
    pub from_start: bool,
}

/// The sequences in a machine's memory.
pub struct Resident {
    log: Buffer,
    clusters: Option<Buffer>,
    starts: Buffer,
    counts: Buffer,
    users: Buffer,
    seen_starts: Buffer,
    seen: Option<Arc<Buffer>>,
}

/// The columns of a batch there.
struct Columns {
    offsets: Buffer,
    extents: Buffer,
    items: Buffer,
    targets: Buffer,
    keys: Buffer,
    places: Buffer,
    extents_of_rows: Buffer,
    clusters: Option<Buffer>,
}

/// Bytes of a machine's memory that sequences S of a log of E `events` take.
pub fn resident_bytes(sequences: usize, events: usize, clusters: bool, seen: Option<usize>) -> u64 {
    (events * if clusters { 8 } else { 4 } + 20 * sequences + 4 + 4 * seen.unwrap_or(0)) as u64
}

/// Bytes of a batch of B `sequences` and R `rows` there.
pub fn bytes_there(rows: usize, sequences: usize, clusters: bool) -> u64 {
    (round(rows) * if clusters { 32 } else { 28 } + 12 * sequences + 4) as u64
}

impl Resident {
    /// G0502: more seen items than 32 bits number.
    pub fn new(runtime: &dyn Runtime, of: &Sequences) -> Result<Resident> {
        let starts = of.seen_starts.iter().map(|&at| u32::try_from(at)).collect::<std::result::Result<Vec<u32>, _>>();
        let starts = starts.map_err(|_| {
            let what = "the users of the log have seen more than 2^32 items altogether, which no kernel can number";
            Error::new(Code::G0502, what).help("use `--device host`")
        })?;
        let optional = |list: &[u32]| (!list.is_empty()).then(|| place(runtime, list)).transpose();
        Ok(Resident {
            log: place(runtime, of.log)?,
            clusters: optional(of.clusters)?,
            starts: place(runtime, of.starts)?,
            counts: place(runtime, of.counts)?,
            users: place(runtime, of.users)?,
            seen_starts: place(runtime, &starts)?,
            seen: optional(of.seen)?.map(Arc::new),
        })
    }

    /// Makes the columns of `batch`, which is the same part of the epoch, in the machine's memory.
    pub fn gather(&self, device: &Device, runtime: &dyn Runtime, part: Part, batch: &Batch) -> Result<()> {
        let columns = self.columns(device, runtime, part, batch.rows())?;
        let place = |column, buffer| numbers::place(column, runtime, Arc::new(buffer));
        place(&batch.offsets, columns.offsets);
        place(batch.extents(), columns.extents);
        place(&batch.items, columns.items);
        place(&batch.targets, columns.targets);
        place(batch.places(part.from_start), columns.places);
        place(batch.extents_of_rows(), columns.extents_of_rows);
        numbers::place(&batch.row_keys, runtime, Arc::new(columns.keys));
        if let Some(clusters) = columns.clusters {
            place(&batch.target_clusters, clusters);
        }
        if let Some(seen) = &self.seen {
            numbers::place(&batch.seen, runtime, seen.clone());
        }
        Ok(())
    }

    fn columns(&self, device: &Device, runtime: &dyn Runtime, part: Part, rows: usize) -> Result<Columns> {
        let b = part.sequences;
        let sized = |n: usize| Buffer::sized(device, n);
        let of_rows = |per: usize| Buffer::of_rows(device, rows, per);
        let mut events = sized(2 * b)?;
        let mut to = Columns {
            offsets: sized(b + 1)?,
            extents: sized(2 * b)?,
            items: of_rows(1)?,
            targets: of_rows(1)?,
            keys: of_rows(2)?,
            places: of_rows(1)?,
            extents_of_rows: of_rows(2)?,
            clusters: self.clusters.as_ref().map(|_| of_rows(1)).transpose()?,
        };
        let ([key0, key1, order2, order3], half, n) = part.order.parts();
        let cuts = part.cuts.map_or([0; 4], |draws| draws.parts());
        let mut args = vec![Arg::Out(&mut to.offsets), Arg::Out(&mut events), Arg::Out(&mut to.extents), Arg::In(&self.starts)];
        args.extend([Arg::In(&self.counts), Arg::In(&self.users), Arg::In(&self.seen_starts)]);
        args.extend([n, part.begin].map(Arg::U64));
        args.extend([b as u32, part.longest as u32, half, u32::from(part.cuts.is_some())].map(Arg::U32));
        args.extend([key0, key1, order2, order3, cuts[2], cuts[3]].map(Arg::U32));
        runtime.launch(&Kernel::new("batch", "batch_order", &[]), Grid::row(1, 256), &mut args)?;
        if rows > 0 {
            let mut args = vec![Arg::Out(&mut to.items), Arg::Out(&mut to.targets), Arg::Out(&mut to.keys)];
            args.extend([Arg::Out(&mut to.places), Arg::Out(&mut to.extents_of_rows)]);
            args.push(to.clusters.as_mut().map_or(Arg::None, Arg::Out));
            args.extend([Arg::In(&to.offsets), Arg::In(&events), Arg::In(&to.extents), Arg::In(&self.log)]);
            args.extend([scan::maybe(&self.clusters), Arg::U32(u32::from(part.from_start))]);
            runtime.launch(&Kernel::new("batch", "batch_rows", &[]), Grid::row(b, 128), &mut args)?;
        }
        Ok(to)
    }
}

/// The events of the rows of sequence `s`.
fn rows_of(of: &Sequences, part: Part, s: usize) -> Range<u64> {
    let mut length = u64::from(of.counts[s]);
    if let Some(cuts) = part.cuts {
        length = 2 + below(cuts.words64(u64::from(of.users[s]))[0], length - 1);
    }
    let end = of.starts[s] + length - 1;
    end - (length - 1).min(part.longest as u64)..end
}

/// More sequences than threads, and more rows of one than threads; one alone.
pub fn cases() -> Vec<Case> {
    const KINDS: [&str; 8] = ["offsets", "extents", "items", "targets", "keys", "places", "extents of rows", "clusters"];
    let case = |(sequences, most, begin, b, longest, cut, clusters): (usize, usize, u64, usize, usize, bool, bool)| {
        let name = format!("S {sequences}, E at most {most}, B {b} from {begin}, L {longest}, cut {cut}, clusters {clusters}");
        Case::new("batch", name, move |device| {
            let counts: Vec<u32> = case::ids(1, sequences, most - 1).iter().map(|n| n + 2).collect();
            let users: Vec<u32> = (0..sequences as u32).map(|s| 3 * s + 1).collect();
            // Behind each sequence lie events it is not trained on.
            let (mut starts, mut seen_starts) = (vec![2u64], vec![0u64]);
            for count in &counts {
                starts.push(starts[starts.len() - 1] + u64::from(count + count % 3));
                seen_starts.push(seen_starts[seen_starts.len() - 1] + u64::from(count / 2));
            }
            let events = starts[sequences] as usize;
            let (log, of_events) = (case::ids(2, events, 1000), case::ids(3, if clusters { events } else { 0 }, 5));
            let starts = &starts[..sequences];
            let (counts, users, seen_starts) = (&counts, &users, &seen_starts);
            let of = Sequences { log: &log, clusters: &of_events, starts, counts, users, seen_starts, seen: &[] };
            let order = Order::new(7, 3, sequences as u64);
            let cuts = cut.then(|| Draws::new(7, Stream::Augment, 0, 3));
            let part = Part { order: &order, begin, sequences: b, cuts, longest, from_start: cut };
            let taken: Vec<usize> = (begin..begin + b as u64).map(|place| order.at(place) as usize).collect();
            let rows: Vec<Range<u64>> = taken.iter().map(|&s| rows_of(&of, part, s)).collect();
            let total: usize = rows.iter().map(|rows| (rows.end - rows.start) as usize).sum();
            let columns: [Vec<u32>; 8] = match device {
                Device::Machine(runtime) => {
                    let runtime = &**runtime;
                    let there = Resident::new(runtime, &of)?.columns(device, runtime, part, total)?;
                    let read = |list: &Buffer| download::<u32>(runtime, list, list.len());
                    let clusters = there.clusters.as_ref().map_or(Ok(Vec::new()), read)?;
                    let [offsets, extents, items] = [read(&there.offsets)?, read(&there.extents)?, read(&there.items)?];
                    let [targets, keys, places] = [read(&there.targets)?, read(&there.keys)?, read(&there.places)?];
                    [offsets, extents, items, targets, keys, places, read(&there.extents_of_rows)?, clusters]
                }
                Device::Host(_) => {
                    let mut columns: [Vec<u32>; 8] = Default::default();
                    let [offsets, extents, items, targets, keys, places, extents_of_rows, clusters] = &mut columns;
                    offsets.push(0);
                    for (&s, rows) in taken.iter().zip(&rows) {
                        let extent = [seen_starts[s] as u32, seen_starts[s + 1] as u32];
                        extents.extend(extent);
                        for event in rows.clone() {
                            items.push(log[event as usize]);
                            targets.push(log[event as usize + 1]);
                            keys.extend([event as u32 + 1, 0]);
                            places.push(if part.from_start { event - rows.start } else { rows.end - 1 - event } as u32);
                            extents_of_rows.extend(extent);
                            clusters.extend(of_events.get(event as usize + 1));
                        }
                        offsets.push(items.len() as u32);
                    }
                    columns
                }
            };
            Ok(KINDS.iter().zip(columns).map(|(kind, column)| Output::ids(kind, column)).collect())
        })
    };
    [
        (1, 2, 0, 1, 1, false, false),
        (7, 40, 2, 5, 9, false, true),
        (300, 9, 13, 287, 4, true, false),
        (600, 5, 0, 513, 50, true, true),
        (3, 400, 0, 3, 260, false, false),
    ]
    .map(case)
    .into()
}
