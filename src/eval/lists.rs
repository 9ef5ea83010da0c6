//! Writers of recommendation lists in the columns `user_id, item_id, score, rank`.
//!
//! Ids are the bytes of the log. CSV writes them raw, quoted only where RFC 4180 asks for it: an id that begins with `=`
//! or holds control bytes is written as it is, because a changed id no longer joins with the log it came from. Open such
//! a file in a spreadsheet as text. JSON cannot hold arbitrary bytes: what is not UTF-8 becomes U+FFFD there, and CSV or
//! Parquet are the formats that keep such ids.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::error::{Error, Result};

/// Where recommendation lists go.
pub trait ListWriter {
    /// One item of a user's list; `rank` counts from 1.
    fn entry(&mut self, user: &[u8], item: &[u8], score: f32, rank: u32) -> Result<()>;
    /// Writes what is still held back. A writer that is dropped without it leaves an incomplete file.
    fn finish(&mut self) -> Result<()>;
}

/// CSV with a header line.
pub struct CsvLists<W: Write> {
    to: W,
    /// For messages.
    path: PathBuf,
}

impl<W: Write> CsvLists<W> {
    pub fn new(mut to: W, path: impl Into<PathBuf>) -> Result<CsvLists<W>> {
        let path = path.into();
        to.write_all(b"user_id,item_id,score,rank\n").map_err(|e| Error::io("writing", &path, &e))?;
        Ok(CsvLists { to, path })
    }
}

impl<W: Write> ListWriter for CsvLists<W> {
    fn entry(&mut self, user: &[u8], item: &[u8], score: f32, rank: u32) -> Result<()> {
        let mut line = Vec::with_capacity(64);
        push_field(&mut line, user);
        line.push(b',');
        push_field(&mut line, item);
        line.extend_from_slice(format!(",{score},{rank}\n").as_bytes());
        self.to.write_all(&line).map_err(|e| Error::io("writing", &self.path, &e))
    }
    fn finish(&mut self) -> Result<()> {
        self.to.flush().map_err(|e| Error::io("writing", &self.path, &e))
    }
}

/// Appends a CSV field, quoted if it holds a delimiter, a quote or a line break (RFC 4180), or is empty.
pub(super) fn push_field(line: &mut Vec<u8>, field: &[u8]) {
    if !field.is_empty() && !field.iter().any(|b| b",\"\r\n".contains(b)) {
        return line.extend_from_slice(field);
    }
    line.push(b'"');
    for &byte in field {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}

/// One JSON object per entry and line.
pub struct JsonLists<W: Write> {
    to: W,
    path: PathBuf,
}

impl<W: Write> JsonLists<W> {
    pub fn new(to: W, path: impl Into<PathBuf>) -> JsonLists<W> {
        JsonLists { to, path: path.into() }
    }
}

impl<W: Write> ListWriter for JsonLists<W> {
    fn entry(&mut self, user: &[u8], item: &[u8], score: f32, rank: u32) -> Result<()> {
        let (user, item) = (String::from_utf8_lossy(user), String::from_utf8_lossy(item));
        let line = json!({ "user_id": user, "item_id": item, "score": score, "rank": rank });
        writeln!(self.to, "{line}").map_err(|e| Error::io("writing", &self.path, &e))
    }
    fn finish(&mut self) -> Result<()> {
        self.to.flush().map_err(|e| Error::io("writing", &self.path, &e))
    }
}
