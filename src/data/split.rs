//! Which events train, validate and test.

/// One event to be predicted, and how much of its user's past may be seen for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub user: u32,
    /// Events `offsets[user] .. history_end` of the CSR are the visible history.
    pub history_end: u64,
    /// CSR position of the event to be predicted (its item, time and context).
    pub at: u64,
}

/// A split of prepared interactions.
pub struct Split {
    /// Protocol name as reports print it, e.g. `loo`.
    pub name: String,
    /// (U) events `offsets[u] .. train_end[u]` train.
    pub train_end: Vec<u64>,
    pub valid: Vec<Target>,
    pub test: Vec<Target>,
}
