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

impl ContextRows {
    /// The chosen ones of `total` rows.
    pub fn pick(&self, rows: &[u32], total: usize) -> ContextRows {
        ContextRows { numeric: pick(&self.numeric, rows, total), categories: pick(&self.categories, rows, total) }
    }
}

/// The chosen rows of `total` rows of equal width.
fn pick<T: Copy>(values: &[T], rows: &[u32], total: usize) -> Vec<T> {
    let width = values.len() / total.max(1);
    rows.iter().flat_map(|&r| values[r as usize * width..(r as usize + 1) * width].iter().copied()).collect()
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
    /// Bytes of a batch of `rows` R, `sequences` B and `seen` items, with context of `numeric` Cn reals and `many` Cc codes.
    pub fn bytes(rows: usize, sequences: usize, seen: usize, numeric: usize, many: usize, clusters: bool) -> u64 {
        let per_row = 16 + 8 * (numeric + many) + if clusters { 4 } else { 0 };
        (rows * per_row + 4 * seen + 12 * sequences) as u64
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
    pub fn range(&self, b: usize) -> std::ops::Range<usize> {
        self.offsets[b] as usize..self.offsets[b + 1] as usize
    }
    /// The seen items of sequence `b`, ascending.
    pub fn seen_of(&self, b: usize) -> &[u32] {
        &self.seen[self.seen_offsets[b] as usize..self.seen_offsets[b + 1] as usize]
    }
    /// The last row of every sequence as a batch of one-row sequences: what an encoder that predicts only the next event is
    /// asked. Sequences are not empty.
    pub fn last_rows(&self) -> Batch {
        let rows: Vec<u32> = self.offsets.iter().skip(1).map(|&end| end - 1).collect();
        let total = self.rows();
        Batch {
            users: self.users.clone(),
            offsets: (0..=rows.len() as u32).collect(),
            items: pick(&self.items, &rows, total),
            targets: pick(&self.targets, &rows, total),
            row_keys: pick(&self.row_keys, &rows, total),
            target_clusters: pick(&self.target_clusters, &rows, total),
            seen_offsets: self.seen_offsets.clone(),
            seen: self.seen.clone(),
            context: self.context.pick(&rows, total),
            target_context: self.target_context.pick(&rows, total),
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
            offsets: vec![0, 2, 3],
            items: vec![1, 2, 3],
            targets: vec![2, 4, 5],
            row_keys: vec![10, 11, 12],
            seen_offsets: vec![0, 1, 2],
            seen: vec![1, 3],
            context: ContextRows { numeric: vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5], categories: vec![] },
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
