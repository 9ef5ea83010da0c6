//! What a ranking is worth: accuracy from ranks, and what the lists do to the catalogue. Pure arithmetic; knows no device.

pub mod beyond;
pub mod paired;
pub mod ranking;
pub mod significance;
