//! What the readers of side files share: the form of a table that lies beside a log, and a pass over its rows.
//!
//! A side file is a table of a header (typed as RecBole's, or plain) or none and rows of as many fields. A log's settings
//! of separator and header say nothing about it.

use std::borrow::Cow;
use std::path::Path;

use crate::config::Data;
use crate::error::{Code, Error, Result};

use super::blocks::{Blocks, Records, each_record};
use super::compress::BLOCK;
use super::delimited::{self, Splitter, content};
use super::layout::Layout;
use super::recbole;
use super::roles::Column;
use super::rows::Parsed;
use super::sniff::{Form, Sample, show_delimiter};

/// Columns of a side file.
pub struct Table {
    pub form: Form,
    /// From the header, or numbers from 1.
    pub names: Vec<String>,
    /// The types of a typed header.
    pub types: Option<Vec<&'static str>>,
}

impl Table {
    /// The table a sample shows, if it shows one. `titles`: whether a first row of these fields is a header, asked where
    /// nothing else says so.
    ///
    /// Errors: D0103 where it is another format that would pass for a table.
    pub fn of(sample: &Sample, titles: impl Fn(&[Vec<u8>]) -> bool) -> Result<Option<Table>> {
        let first = sample.lines().next().unwrap_or_default();
        refuse_other_formats(sample, first.trim_ascii())?;
        let typed = ["\t", ","].iter().find_map(|d| recbole::header(first, d).map(|fields| (*d, fields)));
        if let Some((delimiter, fields)) = typed {
            let (names, types) = fields.into_iter().unzip();
            return Ok(Some(Table {
                form: Form { delimiter: delimiter.into(), quoted: false, header: true },
                names,
                types: Some(types),
            }));
        }
        let Some((delimiter, width, _)) = delimited::separator(sample) else { return Ok(None) };
        let quoted = sample.quoted(delimiter);
        let mut records = sample.records(delimiter, quoted);
        records.retain(|r| r.len() >= width);
        let (header, ..) = delimited::header(&records, width, &Data::default())?;
        let header = header || records.first().is_some_and(|r| titles(&r[..width]));
        let names = if header {
            records[0].iter().take(width).map(|f| String::from_utf8_lossy(f).trim().to_string()).collect()
        } else {
            (1..=width).map(|n| n.to_string()).collect()
        };
        Ok(Some(Table { form: Form { delimiter: delimiter.into(), quoted, header }, names, types: None }))
    }
    /// The columns with what the sample holds of them.
    pub fn columns(&self, sample: &Sample) -> Vec<Column> {
        let mut records = sample.records(&self.form.delimiter, self.form.quoted);
        records.retain(|r| r.len() >= self.names.len());
        let values = |i: usize| records.iter().skip(self.form.header as usize).map(|r| r[i].clone()).collect();
        self.names.iter().enumerate().map(|(i, name)| Column { name: name.clone(), values: values(i), unit: None }).collect()
    }
}

/// A log may be JSON lines or Parquet, a side file is a table of text.
fn refuse_other_formats(sample: &Sample, first: &[u8]) -> Result<()> {
    let json = |text: &[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
    let what = match first {
        _ if sample.text.starts_with(b"PAR1") => "Parquet",
        [b'{' | b'['] | [b'[', b'{', ..] => "JSON",
        [b'{' | b'[', ..] if json(first) => "JSON",
        _ => return Ok(()),
    };
    Err(Error::new(
        Code::D0103,
        format!("{} is {what}, and a file beside a log has to be a table of text", sample.path.display()),
    )
    .help("write it as CSV or TSV with a header"))
}

/// The fields of a row by number of column.
pub type Fields<'a> = dyn Fn(usize) -> Cow<'a, [u8]> + 'a;

/// Calls `take` with each row of a side file of these columns, in order; `false` from it says that the row cannot be used.
/// Gives how many could not.
///
/// Errors: those of reading; D0102 where there are no rows, D0106 where more than `data.max_bad_share` or all are unusable,
/// with `help` as the cure.
pub fn each_row(
    path: &Path,
    sample: &Sample,
    table: &Table,
    config: &Data,
    help: &str,
    mut take: impl FnMut(&Fields) -> bool,
) -> Result<u64> {
    let layout = Layout::text(sample, &table.form, table.names.clone());
    let mut blocks = Blocks::open(path, &layout, BLOCK)?;
    let splitter = Splitter::new(&layout.delimiter, layout.quoted);
    let records = Records::of(&layout);
    let (mut rows, mut bad, mut header) = (0u64, 0u64, layout.header);
    let mut spans = vec![];
    while let Some(block) = blocks.next()? {
        if block.too_long {
            rows += 1;
            bad += 1;
            continue;
        }
        let mut parsed = Parsed::new(&layout);
        let bytes = &block.bytes[..];
        each_record(records, &block, &mut parsed, |_, _, row| {
            if std::mem::take(&mut header) {
                return;
            }
            rows += 1;
            let whole = splitter.split(bytes, row, &mut spans) && spans.len() >= table.names.len();
            let field = |i: usize| content(&bytes[spans[i].start as usize..spans[i].end as usize], layout.quoted);
            bad += u64::from(!(whole && take(&field)));
        });
        rows += parsed.bad.len() as u64;
        bad += parsed.bad.len() as u64;
    }
    if rows == 0 {
        return Err(Error::new(Code::D0102, format!("{} holds no rows", path.display())));
    }
    if bad as f64 > config.max_bad_share * rows as f64 || bad == rows {
        let (width, separator) = (table.names.len(), show_delimiter(&layout.delimiter));
        return Err(Error::new(Code::D0106, format!("{bad} of {rows} rows of {} cannot be used", path.display()))
            .note(format!("expected {width} columns separated by {separator}"))
            .help(help));
    }
    Ok(bad)
}
