//! All integration tests, one binary.

mod readers;
mod settings;
mod twins;
