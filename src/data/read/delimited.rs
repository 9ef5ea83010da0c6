//! Rows of columns with a separator: CSV, TSV, MovieLens (`::` and `|`), and the body of RecBole's and SASRec's files.

use std::borrow::Cow;

use memchr::memmem;

use crate::config::Data;
use crate::error::Result;

use super::blocks::{Block, Records, closing_quote, each_record, run};
use super::layout::{ContextKind, Evidence, Found, Layout};
use super::roles::{self, Column};
use super::rows::{Cells, Class, Parsed, Rows, Span};
use super::sniff::{Form, Sample, found, show_delimiter};
use super::time::missing;
use super::{Job, Progress};

pub fn read(job: &Job, rows: &mut Rows, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    run(job, parse, rows, progress)
}

/// A separator in the form it is searched for.
enum Separator<'a> {
    Byte(u8),
    /// Any run of blanks.
    Blanks,
    Text(Box<memmem::Finder<'a>>),
}

/// Cuts a record into fields.
pub struct Splitter<'a> {
    separator: Separator<'a>,
    quoted: bool,
}

impl<'a> Splitter<'a> {
    pub fn new(delimiter: &'a str, quoted: bool) -> Splitter<'a> {
        let separator = match delimiter.as_bytes() {
            b" " => Separator::Blanks,
            [byte] => Separator::Byte(*byte),
            text => Separator::Text(Box::new(memmem::Finder::new(text))),
        };
        Splitter { separator, quoted }
    }
    /// The fields of the record `span` of `bytes`, blanks around them cut off. A quoted field keeps its quotes, see
    /// [`content`]. `false`: a quote is not closed where it must be.
    pub fn split(&self, bytes: &[u8], span: Span, fields: &mut Vec<Span>) -> bool {
        fields.clear();
        let (start, end) = (span.start as usize, span.end as usize);
        let mut push = |from: usize, to: usize| {
            let (mut from, mut to) = (from, to);
            while from < to && bytes[from] == b' ' {
                from += 1;
            }
            while to > from && bytes[to - 1] == b' ' {
                to -= 1;
            }
            fields.push(Span { start: from as u32, end: to as u32 });
        };
        match &self.separator {
            Separator::Byte(separator) => {
                let mut from = start;
                let mut at = start;
                loop {
                    if self.quoted && from < end && bytes[from] == b'"' {
                        let Some(close) = closing_quote(&bytes[..end], from + 1) else { return false };
                        at = close + 1;
                        if at < end && bytes[at] != *separator {
                            return false;
                        }
                    }
                    while at < end && bytes[at] != *separator {
                        at += 1;
                    }
                    push(from, at);
                    if at == end {
                        return true;
                    }
                    at += 1;
                    from = at;
                }
            }
            Separator::Blanks => {
                let mut at = start;
                while at < end {
                    if matches!(bytes[at], b' ' | b'\t') {
                        at += 1;
                        continue;
                    }
                    let from = at;
                    while at < end && !matches!(bytes[at], b' ' | b'\t') {
                        at += 1;
                    }
                    push(from, at);
                }
            }
            Separator::Text(finder) => {
                let mut from = start;
                for at in finder.find_iter(&bytes[start..end]) {
                    push(from, start + at);
                    from = start + at + finder.needle().len();
                }
                push(from, end);
            }
        }
        true
    }
}

/// The bytes a field stands for: without the quotes, and with escaped quotes undone.
pub fn content<'a>(field: &'a [u8], quoted: bool) -> Cow<'a, [u8]> {
    match field {
        [b'"', inner @ .., b'"'] if quoted => {
            if memchr::memchr(b'"', inner).is_none() {
                return Cow::Borrowed(inner);
            }
            let mut out = Vec::with_capacity(inner.len());
            let mut rest = inner;
            while let Some(at) = memmem::find(rest, b"\"\"") {
                out.extend_from_slice(&rest[..at + 1]);
                rest = &rest[at + 2..];
            }
            out.extend_from_slice(rest);
            Cow::Owned(out)
        }
        _ => Cow::Borrowed(field),
    }
}

/// The bytes of a field as a range.
fn unquoted(parsed: &mut Parsed, bytes: &[u8], span: Span, quoted: bool) -> Span {
    let field = &bytes[span.start as usize..span.end as usize];
    if !quoted || field.first() != Some(&b'"') {
        return span;
    }
    match content(field, quoted) {
        Cow::Borrowed(inner) if inner.len() < field.len() => Span { start: span.start + 1, end: span.end - 1 },
        Cow::Borrowed(_) => span,
        Cow::Owned(text) => parsed.keep(bytes.len(), &text),
    }
}

/// One block of a delimited file.
pub fn parse(layout: &Layout, block: &Block, parsed: &mut Parsed) {
    let splitter = Splitter::new(&layout.delimiter, layout.quoted);
    let bytes = &block.bytes[..];
    let width = layout.columns.len();
    let mut fields = Vec::with_capacity(width + 1);
    each_record(Records::of(layout), block, parsed, |parsed, line, row| {
        if !splitter.split(bytes, row, &mut fields) {
            return parsed.reject(Class::UnbalancedQuote, line, row, Span::default());
        }
        // One trailing separator is common and harmless.
        let trailing = fields.len() == width + 1 && fields[width].start == fields[width].end;
        if fields.len() != width && !trailing {
            return parsed.reject(Class::RaggedRow, line, row, Span::default());
        }
        let user = unquoted(parsed, bytes, fields[layout.user], layout.quoted);
        let item = unquoted(parsed, bytes, fields[layout.item], layout.quoted);
        if user.start == user.end || item.start == item.end {
            return parsed.reject(Class::EmptyId, line, row, Span::default());
        }
        let mut time = 0;
        if let (Some(column), Some(rule)) = (layout.time, layout.time_rule) {
            let field = unquoted(parsed, bytes, fields[column], layout.quoted);
            match rule.micros(parsed.bytes(bytes, field)) {
                Ok(micros) => time = micros,
                Err(class) => return parsed.reject(class, line, row, field),
            }
        }
        let mut weight = 0.0;
        if let Some(column) = layout.weight {
            let field = unquoted(parsed, bytes, fields[column], layout.quoted);
            match layout.weight_of(parsed.bytes(bytes, field)) {
                Some(value) => weight = value,
                None => return parsed.reject(Class::BadWeight, line, row, field),
            }
        }
        // All context is judged before any of it is taken, so that columns stay equally long.
        let context: Vec<Span> =
            layout.context.iter().map(|c| unquoted(parsed, bytes, fields[c.column], layout.quoted)).collect();
        for (declared, &field) in layout.context.iter().zip(&context) {
            let text = parsed.bytes(bytes, field);
            if declared.kind == ContextKind::Num && !missing(text) && float(text).is_none() {
                return parsed.reject(Class::BadContext, line, row, field);
            }
        }
        parsed.users.push(user);
        parsed.items.push(item);
        if layout.time.is_some() {
            parsed.times.push(time);
        }
        if layout.weight.is_some() {
            parsed.weights.push(weight);
        }
        for (i, &field) in context.iter().enumerate() {
            let number = float(parsed.bytes(bytes, field)).unwrap_or(f32::NAN);
            match &mut parsed.context[i] {
                Cells::Categories(spans) => spans.push(field),
                Cells::Numbers(values) => values.push(number),
            }
        }
    });
}

/// A finite number.
pub fn float(field: &[u8]) -> Option<f32> {
    // Ratings are mostly one digit.
    if let [digit @ b'0'..=b'9'] = field {
        return Some((digit - b'0') as f32);
    }
    std::str::from_utf8(field).ok()?.parse::<f32>().ok().filter(|x| x.is_finite())
}

/// Separators that are tried, the stronger sign first: a tab is hardly ever part of a field, a blank often.
const TRIED: [&str; 6] = ["::", "\t", ",", ";", "|", " "];

/// The separator under which most sampled lines have equally many fields (two at least): (separator, columns, share). Where
/// several do about equally well, the first line is asked which of them it names columns with, and then the stronger sign.
pub fn separator(sample: &Sample) -> Option<(&'static str, usize, f64)> {
    let mut tried: Vec<(&str, usize, f64)> = TRIED
        .iter()
        .map(|&delimiter| {
            let (width, share) = width(sample, delimiter);
            (delimiter, width, share)
        })
        .filter(|&(_, width, share)| width >= 2 && share > 0.5)
        .collect();
    let best = tried.iter().map(|t| t.2).fold(0.0, f64::max);
    tried.retain(|t| t.2 >= best - 0.2);
    let first = String::from_utf8_lossy(sample.lines().next().unwrap_or_default());
    let known = |delimiter: &str| first.split(delimiter).filter(|name| roles::known_name(name)).count();
    let most = tried.iter().map(|t| known(t.0)).max().filter(|&most| most > 0);
    if let Some(most) = most {
        tried.retain(|t| known(t.0) == most);
    }
    if tried.iter().any(|t| t.0 == ";") && decimal_commas(sample) {
        tried.retain(|t| t.0 != ",");
    }
    tried.first().copied()
}

/// Whether commas, where fields between semicolons have any, are those of `12,50`.
fn decimal_commas(sample: &Sample) -> bool {
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let decimal = |field: &[u8]| {
        let (whole, fraction) = field.split_at(memchr::memchr(b',', field).unwrap_or(field.len()));
        fraction.is_empty() || digits(whole.strip_prefix(b"-").unwrap_or(whole)) && digits(&fraction[1..])
    };
    sample.lines().all(|line| line.split(|&b| b == b';').all(decimal))
}

/// The commonest number of fields and its share of the lines.
pub fn width(sample: &Sample, delimiter: &str) -> (usize, f64) {
    let records = sample.records(delimiter, sample.quoted(delimiter));
    let mut counts = std::collections::BTreeMap::<usize, usize>::new();
    for fields in &records {
        *counts.entry(fields.len()).or_default() += 1;
    }
    let (width, hits) = counts.into_iter().max_by_key(|&(width, hits)| (hits, width)).unwrap_or((0, 0));
    (width, if records.is_empty() { 0.0 } else { hits as f64 / records.len() as f64 })
}

/// Separator from the configuration: one character, `tab`, `space`, or `::`. (`csv` says little: semicolons are common in it.)
pub fn declared(config: &Data) -> Option<&str> {
    Some(match config.delimiter.as_str() {
        "" if config.format == "tsv" => "\t",
        "" => return None,
        "tab" | "\\t" => "\t",
        "space" => " ",
        other => other,
    })
}

pub fn sniff(sample: &Sample, config: &Data) -> Result<Option<Found>> {
    let (delimiter, because, share) = match declared(config) {
        Some(declared) => (declared.to_string(), "declared".to_string(), 1.0),
        None => match separator(sample) {
            Some((delimiter, width, share)) => {
                let because = format!("{:.1} % of the sampled lines have {width} columns with it", 100.0 * share);
                (delimiter.to_string(), because, share)
            }
            None => return Ok(None),
        },
    };
    let quoted = sample.quoted(&delimiter);
    let (width, _) = width(sample, &delimiter);
    if width < 2 {
        return Ok(None);
    }
    let mut evidence = vec![Evidence::new("delimiter", show_delimiter(&delimiter), because, share)];
    let mut records = sample.records(&delimiter, quoted);
    records.retain(|fields| fields.len() == width || (fields.len() == width + 1 && fields[width].is_empty()));
    let (header, because, confidence) = header(&records, width, config)?;
    evidence.push(Evidence::new("header", if header { "yes" } else { "no" }, because, confidence));
    let names: Vec<String> = if header {
        let mut names: Vec<String> = records.remove(0).iter().map(|f| String::from_utf8_lossy(f).trim().to_string()).collect();
        names.resize(width, String::new());
        names
    } else {
        (1..=width).map(|n| n.to_string()).collect()
    };
    // A header with a trailing separator has one name too many, an unnamed index column one empty name; both are fine.
    let columns: Vec<Column> = names
        .iter()
        .enumerate()
        .map(|(i, name)| Column { name: name.clone(), values: records.iter().map(|r| r[i].clone()).collect(), unit: None })
        .collect();
    let roles = roles::assign(&sample.path, columns, header, config)?;
    Ok(Some(found("delimited", sample, Form { delimiter, quoted, header }, names, roles, evidence)))
}

/// Whether the first record names the columns.
pub fn header(records: &[Vec<Vec<u8>>], width: usize, config: &Data) -> Result<(bool, String, f64)> {
    match config.header.as_str() {
        "yes" => return Ok((true, "declared".into(), 1.0)),
        "no" => return Ok((false, "declared".into(), 1.0)),
        "auto" => {}
        other => return Err(super::bad_value("data.header", other, "`auto`, `yes` or `no`")),
    }
    let Some((first, rest)) = records.split_first() else {
        return Ok((false, "there are no rows".into(), 0.0));
    };
    let known = first.iter().filter(|f| roles::known_name(&String::from_utf8_lossy(f))).count();
    let numeric = |f: &[u8]| float(f).is_some();
    // A column of numbers with a word on top.
    let titled = (0..width)
        .filter(|&i| {
            let numbers = rest.iter().filter(|r| numeric(&r[i])).count();
            !first[i].is_empty() && !numeric(&first[i]) && !rest.is_empty() && numbers * 10 >= rest.len() * 8
        })
        .count();
    if first.iter().take(width).any(|f| numeric(f)) && known < 2 {
        return Ok((false, "the first line holds numbers".into(), 0.95));
    }
    if known > 0 {
        return Ok((true, format!("{known} names of the first line are known column names"), if known > 1 { 0.99 } else { 0.9 }));
    }
    if titled > 0 {
        return Ok((true, format!("{titled} columns of numbers start with a word"), 0.9));
    }
    Ok((false, "the first line looks like the others".into(), 0.7))
}
