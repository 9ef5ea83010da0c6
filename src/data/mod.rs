//! From an interaction log to batches: read, prepare, split, gather. Knows no device.
//!
//! ```text
//! file ─read→ RawLog ─prepare→ Interactions (memory-mapped CSR) ─split→ Targets, training sequences ─gather→ Batch
//! ```

pub mod batch;
mod clean;
pub mod clusters;
pub mod column;
pub mod context;
pub mod graph;
pub mod interactions;
pub mod nearby;
pub mod order;
pub mod prepare;
pub mod raw;
pub mod read;
mod sections;
pub mod split;
pub mod synthetic;
pub mod training;
