//! All integration tests, one binary.

mod settings;
