//! A batch of packed sequences: jagged from the log to the gradient, never padded.
//!
//! Row `r` of sequence `b` (rows `offsets[b] .. offsets[b+1]`) holds an event and the event that followed it, which is the
//! target of training at that row. A batch of requests (evaluation, recommendation) has the same form; only the last row's
//! target of each sequence means anything.

use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use super::column::{Column, Copied};

/// Context of events: `numeric` (n, numeric_width) standardised reals and `categories` (n, category columns) codes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextRows {
    /// (n, Cn)
    pub numeric: Vec<f32>,
    /// (n, Cc)
    pub categories: Vec<u32>,
}

impl ContextRows {
    /// The chosen ones of `total` rows.
    pub fn pick(&self, rows: &[u32], total: usize) -> ContextRows {
        ContextRows { numeric: pick(&self.numeric, rows, total), categories: pick(&self.categories, rows, total) }
    }
}

/// The contexts of a batch, which may be encoded when somebody reads them. A clone shares them.
#[derive(Clone, Default)]
pub struct Contexts {
    here: Arc<OnceLock<ContextRows>>,
    promise: Option<Arc<dyn Fn() -> ContextRows + Send + Sync>>,
    copy: OnceLock<Copied>,
}

impl Contexts {
    pub fn promised(promise: impl Fn() -> ContextRows + Send + Sync + 'static) -> Contexts {
        Contexts { promise: Some(Arc::new(promise)), ..Contexts::default() }
    }
    /// Where the copy of the numeric part in a machine's memory is, or will be.
    pub fn copy(&self) -> &OnceLock<Copied> {
        &self.copy
    }
}

impl From<ContextRows> for Contexts {
    fn from(rows: ContextRows) -> Contexts {
        Contexts { here: Arc::new(OnceLock::from(rows)), ..Contexts::default() }
    }
}

impl Deref for Contexts {
    type Target = ContextRows;
    fn deref(&self) -> &ContextRows {
        self.here.get_or_init(|| self.promise.as_ref().map_or_else(ContextRows::default, |promise| promise()))
    }
}

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for Contexts {
    fn eq(&self, other: &Contexts) -> bool {
        **self == **other
    }
}

/// The chosen rows of `total` rows of equal width.
fn pick<T: Copy>(values: &[T], rows: &[u32], total: usize) -> Vec<T> {
    let width = values.len() / total.max(1);
    rows.iter().flat_map(|&r| values[r as usize * width..(r as usize + 1) * width].iter().copied()).collect()
}

/// The extents of lists of so many items that follow one another.
pub fn extents(lengths: impl IntoIterator<Item = usize>) -> Vec<[u64; 2]> {
    let mut end = 0;
    let next = |length: usize| {
        let from = end;
        end += length as u64;
        [from, end]
    };
    lengths.into_iter().map(next).collect()
}

/// `B` packed sequences of `R` rows in all. Its columns may be promises, and may lie in a machine's memory (`device/numbers.rs`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// (B) the user of each sequence.
    pub users: Vec<u32>,
    /// (B+1) first row of each sequence.
    pub offsets: Column<u32>,
    /// (R) the event's item.
    pub items: Column<u32>,
    /// (R) the next event's item.
    pub targets: Column<u32>,
    /// (R) a number unique to (sequence, position) in the data set: the CSR position of the target event. Every random
    /// draw for a row is keyed by it, so draws do not depend on how sequences are batched.
    pub row_keys: Column<u64>,
    /// (R) time cluster of the target event; empty unless time clusters were asked for.
    pub target_clusters: Column<u32>,
    /// (B) extent of each sequence's items in `seen`.
    pub seen_extents: Vec<[u64; 2]>,
    /// Per sequence the user's distinct training (or visible) items, ascending: what negatives and rankings may exclude. Batches of
    /// one training set share the list of all its sequences.
    pub seen: Column<u32>,
    /// Context of the R events; empty when the model uses none.
    pub context: Contexts,
    /// Context of the R target events.
    pub target_context: Contexts,
    pub derived: Derived,
}

/// Columns that follow from the others, made when first asked for; two batches do not differ in them.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    places: [OnceLock<Column<u32>>; 2],
    extents: OnceLock<Column<u32>>,
    extents_of_rows: OnceLock<Column<u32>>,
}

impl PartialEq for Derived {
    fn eq(&self, _: &Derived) -> bool {
        true
    }
}

impl Batch {
    /// Bytes of a batch of `rows` R, `sequences` B and `seen` items, with context of `numeric` Cn reals and `many` Cc codes.
    pub fn bytes(rows: usize, sequences: usize, seen: usize, numeric: usize, many: usize, clusters: bool) -> u64 {
        let per_row = 16 + 8 * (numeric + many) + if clusters { 4 } else { 0 };
        (rows * per_row + 4 * seen + 24 * sequences) as u64
    }
    /// The same, whose users have seen these items, ascending.
    pub fn with_seen(self, lists: &[Vec<u32>]) -> Batch {
        Batch {
            seen_extents: extents(lists.iter().map(Vec::len)),
            seen: lists.concat().into(),
            derived: Derived::default(),
            ..self
        }
    }
    /// Sequences `B`.
    pub fn sequences(&self) -> usize {
        self.users.len()
    }
    /// Rows `R`.
    pub fn rows(&self) -> usize {
        self.items.len()
    }
    /// Rows of sequence `b`.
    pub fn range(&self, b: usize) -> Range<usize> {
        self.offsets[b] as usize..self.offsets[b + 1] as usize
    }
    /// The seen items of sequence `b`, ascending.
    pub fn seen_of(&self, b: usize) -> &[u32] {
        let [from, to] = self.seen_extents[b];
        &self.seen[from as usize..to as usize]
    }
    /// (R) position of each row, counted back from its sequence's last row or, `from_start`, on from its first.
    pub fn places(&self, from_start: bool) -> &Column<u32> {
        self.derived.places[usize::from(from_start)].get_or_init(|| {
            let offsets = self.offsets.clone();
            let longest = offsets.windows(2).map(|rows| rows[1] - rows[0]).max().unwrap_or(0);
            Column::promised(self.rows(), move || {
                let back_or_on = |rows: &[u32]| {
                    let places = 0..rows[1] - rows[0];
                    if from_start { places.collect() } else { places.rev().collect::<Vec<u32>>() }
                };
                offsets.windows(2).flat_map(back_or_on).collect()
            })
            .below(longest)
        })
    }
    /// (B,2) `seen_extents`, as a machine reads them; `seen` holds fewer than 2^32 items.
    pub fn extents(&self) -> &Column<u32> {
        self.derived.extents.get_or_init(|| {
            let extents = self.seen_extents.clone();
            Column::promised(2 * extents.len(), move || extents.iter().flatten().map(|&at| at as u32).collect())
        })
    }
    /// (R,2) the extent of each row's sequence.
    pub fn extents_of_rows(&self) -> &Column<u32> {
        self.derived.extents_of_rows.get_or_init(|| {
            let (offsets, extents) = (self.offsets.clone(), self.seen_extents.clone());
            Column::promised(2 * self.rows(), move || {
                let of_rows = offsets.windows(2).zip(&extents);
                of_rows.flat_map(|(rows, extent)| (rows[0]..rows[1]).flat_map(|_| extent.map(|at| at as u32))).collect()
            })
        })
    }
    /// The last row of every sequence as a batch of one-row sequences: what an encoder that predicts only the next event is
    /// asked. Sequences are not empty.
    pub fn last_rows(&self) -> Batch {
        let rows: Vec<u32> = self.offsets.iter().skip(1).map(|&end| end - 1).collect();
        let total = self.rows();
        Batch {
            users: self.users.clone(),
            offsets: (0..=rows.len() as u32).collect(),
            items: pick(&self.items, &rows, total).into(),
            targets: pick(&self.targets, &rows, total).into(),
            row_keys: pick(&self.row_keys, &rows, total).into(),
            target_clusters: pick(&self.target_clusters, &rows, total).into(),
            seen_extents: self.seen_extents.clone(),
            seen: self.seen.clone(),
            context: self.context.pick(&rows, total).into(),
            target_context: self.target_context.pick(&rows, total).into(),
            derived: Derived::default(),
        }
    }
    /// (R) the sequence of each row.
    pub fn sequence_of_rows(&self) -> Vec<u32> {
        let mut of = Vec::with_capacity(self.rows());
        for b in 0..self.sequences() {
            of.extend(self.range(b).map(|_| b as u32));
        }
        of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rows_are_a_batch_of_one_row_sequences() {
        let batch = Batch {
            users: vec![7, 8],
            offsets: vec![0, 2, 3].into(),
            items: vec![1, 2, 3].into(),
            targets: vec![2, 4, 5].into(),
            row_keys: vec![10, 11, 12].into(),
            seen_extents: vec![[0, 1], [1, 2]],
            seen: vec![1, 3].into(),
            context: ContextRows { numeric: vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5], categories: vec![] }.into(),
            ..Batch::default()
        };
        let last = batch.last_rows();
        assert_eq!(
            (last.rows(), &last.items[..], &last.targets[..], &last.row_keys[..]),
            (2, &[2, 3][..], &[4, 5][..], &[11, 12][..])
        );
        assert_eq!(last.context.numeric, [1.0, 1.5, 2.0, 2.5]);
        assert_eq!((last.range(1), last.seen_of(1)), (1..2, &[3][..]));
    }
}
