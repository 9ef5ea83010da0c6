//! How a file is understood: everything a read needs to know, decided once and recorded with the prepared data.

use serde::{Deserialize, Serialize};

use super::delimited::float;
use super::sniff::{Form, Sample};
use super::time::{TimeRule, missing};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// How bytes become the text that is split. Ids stay bytes; only UTF-16 and declared Latin-1 are rewritten as UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
    Latin1,
    /// Not valid UTF-8 and not declared: passed through as it is.
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextKind {
    Cat,
    Num,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextColumn {
    pub column: usize,
    pub name: String,
    pub kind: ContextKind,
}

/// The plan of a read. Column numbers count from 0 and index `columns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Name of the reader.
    pub format: String,
    pub compression: Compression,
    pub encoding: Encoding,
    /// The separator of columns; empty where the format has none, one space for "any run of blanks".
    pub delimiter: String,
    /// A field may be enclosed in double quotes.
    pub quoted: bool,
    /// The first line names the columns.
    pub header: bool,
    /// Names from the header, or numbers from 1.
    pub columns: Vec<String>,
    pub user: usize,
    pub item: usize,
    pub time: Option<usize>,
    pub weight: Option<usize>,
    /// Weights decide which rows are events, so a row without one cannot be used.
    #[serde(default)]
    pub weights_decide: bool,
    pub context: Vec<ContextColumn>,
    pub time_rule: Option<TimeRule>,
    /// S3Rec: the file with the times of the same lines.
    pub times_path: Option<String>,
}

impl Layout {
    /// A layout of text columns whose first is the user and second the item, with nothing else decided.
    pub(super) fn text(sample: &Sample, form: &Form, columns: Vec<String>) -> Layout {
        Layout {
            format: "delimited".into(),
            compression: sample.compression,
            encoding: sample.encoding,
            delimiter: form.delimiter.clone(),
            quoted: form.quoted,
            header: form.header,
            columns,
            user: 0,
            item: 1,
            time: None,
            weight: None,
            weights_decide: false,
            context: vec![],
            time_rule: None,
            times_path: None,
        }
    }
    /// The weight a field holds, NaN where it may hold none; `None`: the row cannot be used.
    pub(super) fn weight_of(&self, field: &[u8]) -> Option<f32> {
        if !self.weights_decide && missing(field) { Some(f32::NAN) } else { float(field) }
    }
    /// The name of a column, empty if it has none.
    pub fn column_name(&self, column: usize) -> &str {
        self.columns.get(column).map_or("", String::as_str)
    }
}

/// One finding about a file, with what speaks for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    pub what: String,
    pub value: String,
    pub because: String,
    /// 0 to 1; 1 means declared or certain.
    pub confidence: f64,
}

impl Evidence {
    pub fn new(what: &str, value: impl Into<String>, because: impl Into<String>, confidence: f64) -> Evidence {
        Evidence { what: what.into(), value: value.into(), because: because.into(), confidence }
    }
}

/// A layout and why.
#[derive(Clone, Debug)]
pub struct Found {
    pub layout: Layout,
    pub evidence: Vec<Evidence>,
    /// The first different fields of each column.
    pub examples: Vec<Vec<String>>,
}

/// The first three different fields, as they may be printed.
pub fn examples<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut out: Vec<String> = vec![];
    for field in fields.take(200) {
        let field = super::rows::shown(field);
        if !out.contains(&field) {
            out.push(field);
        }
        if out.len() == 3 {
            break;
        }
    }
    out
}
