//! What a negative sampler hands to a loss.

/// `N` negatives for each of `G` groups of rows; a group is a row, a sequence or the whole batch (the sampler's scope).
#[derive(Default, Clone)]
pub struct Negatives {
    /// Negatives per group, N.
    pub n: usize,
    /// (G+1) first row of each group; groups are contiguous, in row order, and cover all R rows.
    pub group_offsets: Vec<u32>,
    /// (G,N) item ids; `ids::NONE` marks an empty slot, which every loss skips.
    pub ids: Vec<u32>,
    /// (G,N) natural log of the probability with which the slot was drawn; empty where no loss or weight asks for it.
    pub log_q: Vec<f32>,
    /// (R,N) true where a shared negative must not count for this row (it is the row's target or was seen); empty when
    /// nothing is dropped, which is always so with one group per row.
    pub drop: Vec<bool>,
    /// (R,N) stop-gradient weight of each negative; empty means one.
    pub weight: Vec<f32>,
    /// (R) stop-gradient weight of each row's loss; empty means one.
    pub row_weight: Vec<f32>,
    /// (R) share of the way from each of the row's negatives to its positive at which the loss sees the negative (MixGCF):
    /// `s' = a s+ + (1 - a) s`, below 1, dot scores only; empty means 0. Wrong contexts stay where they are.
    pub toward_positive: Vec<f32>,
    /// (R,W) CSR positions of events whose context the row's *target item* is wrongly paired with (CaNS): W further
    /// negatives per row. Empty when there are none.
    pub wrong_context: Vec<u64>,
    /// (R,W,D) vectors that are no items, scored by the dot product alone: W further negatives per row. Empty when there are none;
    /// never together with wrong contexts.
    pub generated: Vec<f32>,
}

impl Negatives {
    pub fn groups(&self) -> usize {
        self.group_offsets.len().saturating_sub(1)
    }
    /// Rows of group `g`.
    pub fn range(&self, g: usize) -> std::ops::Range<usize> {
        self.group_offsets[g] as usize..self.group_offsets[g + 1] as usize
    }
    /// (R) the group of each row.
    pub fn groups_of_rows(&self) -> Vec<u32> {
        (0..self.groups()).flat_map(|g| self.range(g).map(move |_| g as u32)).collect()
    }
    /// Ids of group `g`.
    pub fn ids_of(&self, g: usize) -> &[u32] {
        &self.ids[g * self.n..(g + 1) * self.n]
    }
    /// Wrong-context negatives per row, W.
    pub fn wrong_contexts(&self) -> usize {
        let rows = self.group_offsets.last().map_or(0, |&r| r as usize);
        self.wrong_context.len().checked_div(rows).unwrap_or(0)
    }
}
