//! From a file to a [`RawLog`]: recognise the format, read it, count what cannot be used.
//!
//! ```text
//! file ─compress→ bytes ─encoding→ text ─blocks→ whole records ─a reader→ Parsed ─rows→ RawLog
//!                              └─ sniff + roles → Layout (the plan, recorded with the data)
//! ```
//!
//! A new format is a file with `sniff` and `read` and one line in [`READERS`].

pub mod attributes;
mod blocks;
mod compress;
mod delimited;
mod encoding;
mod foreign;
pub mod graph;
pub mod inspect;
mod jsonl;
pub mod layout;
#[cfg(feature = "parquet")]
mod parquet;
mod recbole;
mod roles;
mod rows;
mod s3rec;
mod sasrec;
mod side;
mod sniff;
pub mod time;

use std::path::Path;

use crate::config::Data;
use crate::data::raw::RawLog;
use crate::error::{Code, Error, Result};

pub use attributes::read_attributes;
pub use graph::read_graph;
pub use inspect::{Inspection, inspect, side_file};
pub use layout::{Evidence, Found, Layout};
use rows::Rows;
use sniff::Sample;

/// How far a read has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file taken (compressed, if it is).
    pub bytes: u64,
    pub total: u64,
    pub rows: u64,
}

/// What a reader is given.
pub struct Job<'a> {
    pub path: &'a Path,
    pub layout: &'a Layout,
}

type Sniff = fn(&Sample, &Data) -> Result<Option<Found>>;
type Read = fn(&Job, &mut Rows, &mut dyn FnMut(Progress)) -> Result<()>;

/// A file format.
pub struct Reader {
    /// The name `data.format` takes.
    pub name: &'static str,
    /// What its files look like, in a clause.
    pub what: &'static str,
    /// The layout, if the sample is of this format.
    sniff: Sniff,
    read: Read,
}

/// Every format, in the order in which they are tried: the more telling its signs, the earlier.
pub const READERS: &[Reader] = &[
    #[cfg(feature = "parquet")]
    Reader { name: "parquet", what: "starts with PAR1", sniff: parquet::sniff, read: parquet::read },
    Reader { name: "jsonl", what: "every line is a JSON object", sniff: jsonl::sniff, read: jsonl::read },
    Reader { name: "recbole", what: "the first line is `name:type` fields", sniff: recbole::sniff, read: recbole::read },
    Reader { name: "s3rec", what: "lines of a user and its items", sniff: s3rec::sniff, read: s3rec::read },
    Reader { name: "sasrec", what: "lines of `user item`", sniff: sasrec::sniff, read: sasrec::read },
    Reader { name: "delimited", what: "columns with a separator", sniff: delimited::sniff, read: delimited::read },
];

/// The layout of a file and what speaks for it. Keys of the configuration that are not `auto` or empty decide.
pub fn detect(path: &Path, config: &Data) -> Result<Found> {
    sniff::detect(path, config)
}

/// Reads the log `config.path`. Bad rows go to `NAME.rejected` in the folder `quarantine_to` when the policy is
/// `quarantine`; without a folder they are only counted.
///
/// Errors: D0101 to D0112 for the input, C0202 for a configuration value that means nothing.
pub fn read(config: &Data, quarantine_to: Option<&Path>, progress: &mut dyn FnMut(Progress)) -> Result<RawLog> {
    let path = Path::new(&config.path);
    let found = detect(path, config)?;
    read_as(path, &found.layout, config, quarantine_to, progress)
}

/// Reads a log whose layout is known.
pub fn read_as(
    path: &Path,
    layout: &Layout,
    config: &Data,
    quarantine_to: Option<&Path>,
    progress: &mut dyn FnMut(Progress),
) -> Result<RawLog> {
    let reader = READERS.iter().find(|r| r.name == layout.format);
    let reader = reader.ok_or_else(|| Error::internal(format!("no reader is named {}", layout.format)))?;
    let mut rows = Rows::new(path, layout, config, quarantine_to)?;
    (reader.read)(&Job { path, layout }, &mut rows, progress)?;
    rows.finish(layout)
}

/// A configuration value that means nothing.
fn bad_value(key: &str, value: &str, allowed: &str) -> Error {
    Error::new(Code::C0202, format!("`{key} = \"{value}\"` is not valid")).help(format!("use {allowed}"))
}

#[cfg(test)]
mod tests;
