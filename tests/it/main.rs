//! All integration tests, one binary.

mod evaluate;
mod readers;
mod settings;
mod statistics;
mod twins;
