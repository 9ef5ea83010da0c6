//! All integration tests, one binary.

mod cli;
#[cfg(feature = "cuda")]
mod compiled;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod cuda;
mod evaluate;
mod floors;
mod graph;
#[cfg(feature = "emulator")]
mod machine;
#[cfg(feature = "emulator")]
mod mutants;
mod plan;
mod prepare;
mod profile;
mod program;
mod readers;
mod report;
mod resume;
mod sampler_mutants;
mod samplers;
mod settings;
mod statistics;
mod sweep;
mod twins;
