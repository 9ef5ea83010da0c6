//! `hardneg`: sequential recommendation trained with hard negatives, fast. This page is the map.

pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod ids;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod rng;
pub mod sampling;
pub mod train;
