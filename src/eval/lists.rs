//! Writers of recommendation lists in the columns `user_id, item_id, score, rank`.
//!
//! Ids are the bytes of the log. CSV writes them raw, quoted only where RFC 4180 asks for it: an id that begins with `=`
//! or holds control bytes is written as it is, because a changed id no longer joins with the log it came from. Open such
//! a file in a spreadsheet as text. JSON cannot hold arbitrary bytes: what is not UTF-8 becomes U+FFFD there, and CSV or
//! Parquet are the formats that keep such ids.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Code, Error, Result};

/// Format of a recommendation file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Json,
    Parquet,
}

impl std::str::FromStr for Format {
    type Err = Error;
    fn from_str(name: &str) -> Result<Format> {
        match name {
            "csv" => Ok(Format::Csv),
            "jsonl" => Ok(Format::Json),
            "parquet" => Ok(Format::Parquet),
            other => Err(Error::new(Code::C0202, format!("`{other}` is not a format of recommendation lists"))
                .help("use `csv`, `jsonl` or `parquet`")),
        }
    }
}

/// The writer of a format; `path` is for messages, `text` says that all user and item names are UTF-8.
///
/// # Errors
/// F0801 or F0802 from writing a header; C0202 for Parquet in a build without it.
pub fn writer<'w>(format: Format, to: Box<dyn Write + Send + 'w>, path: &Path, text: bool) -> Result<Box<dyn ListWriter + 'w>> {
    match format {
        Format::Csv => Ok(Box::new(CsvLists::new(to, path)?)),
        Format::Json => Ok(Box::new(JsonLists::new(to, path))),
        #[cfg(feature = "parquet")]
        Format::Parquet => Ok(Box::new(crate::eval::parquet_lists::ParquetLists::new(to, path, text)?)),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => {
            let _ = text;
            Err(Error::new(Code::C0202, "this build cannot write Parquet")
                .help("use `csv` or `jsonl`, or build with the feature `parquet`"))
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (Vec<u8>, Vec<u8>, f32, u32);

    /// Awkward names and scores.
    fn rows() -> Vec<Row> {
        let names: [&[u8]; 9] = [b"7", b"007", b"a,b", b"say \"hi\"", b"two\nlines", b"", b"=1+1", b"\xff\xfe", "é\r".as_bytes()];
        let scores = [1.0f32, 0.1, -0.0, 1e-30, f32::MAX, -3.25];
        (0..57).map(|i| (names[i / 10].to_vec(), names[i % 9].to_vec(), scores[i % 6], (i % 10) as u32 + 1)).collect()
    }

    fn written(format: Format, rows: &[Row], text: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut lists = writer(format, Box::new(&mut bytes), Path::new("out"), text).unwrap();
        for (user, item, score, rank) in rows {
            lists.entry(user, item, *score, *rank).unwrap();
        }
        lists.finish().unwrap();
        drop(lists);
        bytes
    }

    /// Records of a CSV text by the rules of RFC 4180, over bytes.
    fn records(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let (mut all, mut record, mut field, mut quoted, mut at) = (vec![], vec![], vec![], false, 0);
        while at < text.len() {
            match (text[at], quoted) {
                (b'"', true) if text.get(at + 1) == Some(&b'"') => {
                    field.push(b'"');
                    at += 1;
                }
                (b'"', _) => quoted = !quoted,
                (b',', false) => record.push(std::mem::take(&mut field)),
                (b'\n', false) => {
                    record.push(std::mem::take(&mut field));
                    all.push(std::mem::take(&mut record));
                }
                (byte, _) => field.push(byte),
            }
            at += 1;
        }
        assert!(record.is_empty() && field.is_empty() && !quoted, "the last line ends");
        all
    }

    #[test]
    fn csv_reads_back_byte_for_byte() {
        let text = written(Format::Csv, &rows(), false);
        let found = records(&text);
        assert_eq!(found[0], [&b"user_id"[..], b"item_id", b"score", b"rank"]);
        let number = |field: &[u8]| String::from_utf8(field.to_vec()).unwrap();
        let found: Vec<Row> = found[1..]
            .iter()
            .map(|r| (r[0].clone(), r[1].clone(), number(&r[2]).parse().unwrap(), number(&r[3]).parse().unwrap()))
            .collect();
        assert_eq!(found, rows());
    }

    #[test]
    fn json_lines_read_back_and_replace_only_what_is_not_text() {
        let text = String::from_utf8(written(Format::Json, &rows(), false)).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), rows().len());
        for (line, (user, item, score, rank)) in lines.iter().zip(rows()) {
            assert_eq!(line["user_id"], String::from_utf8_lossy(&user).as_ref());
            assert_eq!(line["item_id"], String::from_utf8_lossy(&item).as_ref());
            assert_eq!(line["score"].as_f64().unwrap() as f32, score);
            assert_eq!(line["rank"], rank);
        }
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn parquet_reads_back_and_marks_text() {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        use parquet::record::RowAccessor;
        let open = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            SerializedFileReader::new(file).unwrap()
        };
        for text in [false, true] {
            let mut rows = rows();
            if text {
                rows.retain(|(user, item, ..)| std::str::from_utf8(user).is_ok() && std::str::from_utf8(item).is_ok());
            }
            let bytes = written(Format::Parquet, &rows, text);
            let reader = open(&bytes);
            let found: Vec<Row> = reader
                .get_row_iter(None)
                .unwrap()
                .map(|row| {
                    let row = row.unwrap();
                    let id = |c: usize| match text {
                        true => row.get_string(c).unwrap().as_bytes().to_vec(),
                        false => row.get_bytes(c).unwrap().data().to_vec(),
                    };
                    (id(0), id(1), row.get_float(2).unwrap(), row.get_int(3).unwrap() as u32)
                })
                .collect();
            assert_eq!(found, rows);
        }
        let empty = written(Format::Parquet, &[], true);
        assert_eq!(open(&empty).metadata().file_metadata().num_rows(), 0);
    }

    #[test]
    fn a_full_disk_is_an_error_with_its_code() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        for format in [Format::Csv, Format::Json, Format::Parquet] {
            let outcome = writer(format, Box::new(Full), Path::new("out"), true).and_then(|mut lists| {
                lists.entry(b"u", b"i", 1.0, 1)?;
                lists.finish()
            });
            assert_eq!(outcome.unwrap_err().code(), Code::F0802, "{format:?}");
        }
        assert_eq!("xlsx".parse::<Format>().unwrap_err().code(), Code::C0202);
    }
}
