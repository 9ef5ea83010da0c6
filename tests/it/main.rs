//! All integration tests, one binary.

mod cli;
mod evaluate;
mod floors;
mod prepare;
mod program;
mod readers;
mod resume;
mod samplers;
mod settings;
mod statistics;
mod twins;
