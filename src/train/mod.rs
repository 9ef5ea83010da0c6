//! The work of training: durable run directories and checkpoints, and the loop around the step.

pub mod ceilings;
pub mod checkpoint;
pub mod cost;
pub mod durable;
pub mod fit;
pub mod kernels;
pub mod plan;
pub mod prices;
pub mod profile;
pub mod run_dir;
pub mod step;
