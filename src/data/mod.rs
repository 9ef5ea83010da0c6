//! From an interaction log to batches: read, prepare, split, gather. Knows no device.
//!
//! ```text
//! file ─read→ RawLog ─prepare→ Interactions (memory-mapped CSR) ─split→ Targets, training sequences ─gather→ Batch
//! ```

pub mod batch;
pub mod raw;
pub mod read;
pub mod split;
