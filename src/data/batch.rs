//! A batch of packed sequences: jagged from the log to the gradient, never padded.
//!
//! Row `r` of sequence `b` (rows `offsets[b] .. offsets[b+1]`) holds an event and the event that followed it, which is the
//! target of training at that row. A batch of requests (evaluation, recommendation) has the same form; only the last row's
//! target of each sequence means anything.

/// Context of events: `numeric` (n, numeric_width) standardised reals and `categories` (n, category columns) codes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextRows {
    /// (n, Cn)
    pub numeric: Vec<f32>,
    /// (n, Cc)
    pub categories: Vec<u32>,
}

/// `B` packed sequences of `R` rows in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// (B) the user of each sequence.
    pub users: Vec<u32>,
    /// (B+1) first row of each sequence.
    pub offsets: Vec<u32>,
    /// (R) the event's item.
    pub items: Vec<u32>,
    /// (R) the next event's item.
    pub targets: Vec<u32>,
    /// (R) a number unique to (sequence, position) in the data set: the CSR position of the target event. Every random
    /// draw for a row is keyed by it, so draws do not depend on how sequences are batched.
    pub row_keys: Vec<u64>,
    /// (R) time cluster of the target event; empty unless time clusters were asked for.
    pub target_clusters: Vec<u32>,
    /// (B+1) extent of each sequence's `seen` items.
    pub seen_offsets: Vec<u32>,
    /// Per sequence the user's distinct training (or visible) items, ascending: what negatives and rankings may exclude.
    pub seen: Vec<u32>,
    /// Context of the R events; empty when the model uses none.
    pub context: ContextRows,
    /// Context of the R target events.
    pub target_context: ContextRows,
}

impl Batch {
    /// Sequences `B`.
    pub fn sequences(&self) -> usize {
        self.users.len()
    }
    /// Rows `R`.
    pub fn rows(&self) -> usize {
        self.items.len()
    }
    /// Rows of sequence `b`.
    pub fn range(&self, b: usize) -> std::ops::Range<usize> {
        self.offsets[b] as usize..self.offsets[b + 1] as usize
    }
    /// The seen items of sequence `b`, ascending.
    pub fn seen_of(&self, b: usize) -> &[u32] {
        &self.seen[self.seen_offsets[b] as usize..self.seen_offsets[b + 1] as usize]
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
