//! All integration tests, one binary.

mod evaluate;
mod prepare;
mod readers;
mod settings;
mod statistics;
mod twins;
