//! What an id is, once and for all.
//!
//! Inside, users and items are dense `u32` from 0; no row of any table is reserved, because sequences are packed and
//! nothing is padded. Outside (exported models and padded formats) item `i` is written as `i + 1` and [`PAD`] is 0, the
//! convention of SASRec and its descendants. A user's or item's name in the log is opaque bytes.

/// Padding in exported formats; never stored in a batch.
pub const PAD: u32 = 0;

/// "No item" where a slot cannot be filled (an empty candidate, an unknown id).
pub const NONE: u32 = u32::MAX;

/// Largest number of users or items: one below [`NONE`].
pub const LIMIT: usize = u32::MAX as usize;

/// The exported number of item `i`.
pub fn exported(i: u32) -> u32 {
    i + 1
}
