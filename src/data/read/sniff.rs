//! A look at the first megabyte: what kind of file is it, and how sure are we?

use std::path::{Path, PathBuf};

use crate::config::Data;
use crate::error::{Code, Error, Result};

use super::blocks::Records;
use super::compress::{self, BLOCK, Source};
use super::delimited::{Splitter, content};
use super::layout::{Compression, Encoding, Evidence, Found, Layout};
use super::roles::Roles;
use super::rows::Span;
use super::{READERS, Reader, bad_value, encoding};

/// Records looked at.
const ROWS: usize = 2000;

/// The start of a file, decompressed and decoded.
pub struct Sample {
    pub path: PathBuf,
    pub compression: Compression,
    pub encoding: Encoding,
    /// Text up to the last whole line.
    pub text: Vec<u8>,
    pub evidence: Vec<Evidence>,
}

impl Sample {
    pub fn take(path: &Path, config: &Data) -> Result<Sample> {
        let magic = compress::head(path, 16)?;
        let compression = compress::detect(&magic);
        let (raw, whole) = first_block(path, Encoding::Bytes)?;
        super::foreign::refuse(path, &raw)?;
        let (detected, because, confidence) = encoding::detect(&raw, whole);
        let (encoding, because, confidence) = match config.encoding.as_str() {
            _ if raw.starts_with(b"PAR1") => (Encoding::Utf8, "Parquet stores texts apart".into(), 1.0),
            "auto" => (detected, because, confidence),
            "utf-8" => (Encoding::Utf8, "declared".into(), 1.0),
            "latin-1" => (Encoding::Latin1, "declared".into(), 1.0),
            "utf-16" if detected == Encoding::Utf16Be => (detected, because, confidence),
            "utf-16" => (Encoding::Utf16Le, "declared; little-endian unless marked otherwise".into(), 0.9),
            other => return Err(bad_value("data.encoding", other, "`auto`, `utf-8`, `utf-16` or `latin-1`")),
        };
        let (mut text, whole) = first_block(path, encoding)?;
        if !whole && let Some(end) = memchr::memrchr(b'\n', &text) {
            text.truncate(end + 1);
        }
        refuse_old_line_ends(path, &text)?;
        let evidence = vec![
            Evidence::new("compression", format!("{compression:?}").to_lowercase(), "by its first bytes", 1.0),
            Evidence::new("encoding", encoding_name(encoding), because, confidence),
        ];
        Ok(Sample { path: path.to_path_buf(), compression, encoding, text, evidence })
    }
    /// Lines that are not blank, without their ends.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text
            .split(|&b| b == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
            .take(ROWS)
    }
    /// Fields may be quoted: in the customs of commas and semicolons always, else when most quotes open and close fields.
    pub fn quoted(&self, delimiter: &str) -> bool {
        match delimiter {
            "," | ";" => true,
            " " => false,
            _ if delimiter.len() > 1 => false,
            _ => {
                let (mut opened, mut closed) = (0, 0);
                for line in self.lines() {
                    for field in line.split(|&b| b == delimiter.as_bytes()[0]) {
                        opened += (field.first() == Some(&b'"')) as usize;
                        closed += (field.len() > 1 && field.first() == Some(&b'"') && field.last() == Some(&b'"')) as usize;
                    }
                }
                opened > 0 && closed * 10 >= opened * 9
            }
        }
    }
    /// The fields of the first records; records that cannot be split are left out.
    pub fn records(&self, delimiter: &str, quoted: bool) -> Vec<Vec<Vec<u8>>> {
        let rule = Records { quoted: if quoted { delimiter.bytes().next() } else { None } };
        let splitter = Splitter::new(delimiter, quoted);
        let (mut out, mut fields, mut start) = (vec![], vec![], 0);
        while start < self.text.len() && out.len() < ROWS {
            let end = rule.end(&self.text, start, true).unwrap_or(self.text.len());
            let record = self.text[start..end].trim_ascii_end();
            let leading = if delimiter == "\t" { record.len() } else { record.trim_ascii_start().len() };
            // Trailing separators that are blanks belong to the record.
            let stop = start + record.len();
            let stop = if delimiter == "\t" { trim_line_end(&self.text, start, end) } else { stop };
            let blank = self.text[start..stop].iter().all(u8::is_ascii_whitespace) || leading == 0;
            if !blank && splitter.split(&self.text, Span { start: start as u32, end: stop as u32 }, &mut fields) {
                out.push(
                    fields.iter().map(|f| content(&self.text[f.start as usize..f.end as usize], quoted).into_owned()).collect(),
                );
            }
            start = end;
        }
        out
    }
}

/// Lines that end in a carriage return alone would be one line.
fn refuse_old_line_ends(path: &Path, text: &[u8]) -> Result<()> {
    if text.starts_with(b"PAR1") || text.contains(&b'\n') || !text.trim_ascii().contains(&b'\r') {
        return Ok(());
    }
    Err(Error::new(Code::D0103, format!("the lines of {} end in a carriage return alone", path.display()))
        .help("write them anew with line feeds, for example by `tr '\\r' '\\n' < OLD > NEW`"))
}

/// How columns are told apart in text.
pub struct Form {
    pub delimiter: String,
    pub quoted: bool,
    pub header: bool,
}

/// A finding from columns and their roles.
pub fn found(format: &str, sample: &Sample, form: Form, names: Vec<String>, roles: Roles, mut evidence: Vec<Evidence>) -> Found {
    evidence.extend(roles.evidence);
    let layout = Layout {
        format: format.into(),
        user: roles.user,
        item: roles.item,
        time: roles.time,
        weight: roles.weight,
        context: roles.context,
        time_rule: roles.time_rule,
        ..Layout::text(sample, &form, names)
    };
    Found { layout, evidence, examples: roles.examples }
}

fn trim_line_end(text: &[u8], start: usize, mut end: usize) -> usize {
    while end > start && matches!(text[end - 1], b'\n' | b'\r') {
        end -= 1;
    }
    end
}

fn first_block(path: &Path, encoding: Encoding) -> Result<(Vec<u8>, bool)> {
    let mut source = Source::open(path, encoding, BLOCK)?;
    let text = source.next()?.unwrap_or_default();
    let whole = source.next()?.is_none();
    Ok((text, whole))
}

pub fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Utf8 => "utf-8",
        Encoding::Utf16Le => "utf-16 (little-endian)",
        Encoding::Utf16Be => "utf-16 (big-endian)",
        Encoding::Latin1 => "latin-1",
        Encoding::Bytes => "not utf-8; ids are taken as bytes",
    }
}

pub fn show_delimiter(delimiter: &str) -> String {
    match delimiter {
        "\t" => "tab".into(),
        " " => "space".into(),
        other => other.into(),
    }
}

/// The reader a configuration names, if any.
fn chosen(config: &Data) -> Result<Option<&'static Reader>> {
    let name = match config.format.as_str() {
        "auto" | "" => return Ok(None),
        "csv" | "tsv" | "movielens" => "delimited",
        "inter" => "recbole",
        other => other,
    };
    match READERS.iter().find(|r| r.name == name) {
        Some(reader) => Ok(Some(reader)),
        None => {
            let names: Vec<&str> = READERS.iter().map(|r| r.name).collect();
            Err(bad_value("data.format", name, &format!("`auto`, `csv`, `tsv`, `movielens`, `inter`, {}", names.join(", "))))
        }
    }
}

/// The layout of a file: the first reader of the registry that recognises it, or the one that is named.
pub fn detect(path: &Path, config: &Data) -> Result<Found> {
    let sample = Sample::take(path, config)?;
    let forced = chosen(config)?;
    let readers: Vec<&Reader> = match forced {
        Some(reader) => vec![reader],
        None => READERS.iter().collect(),
    };
    for reader in &readers {
        if let Some(mut found) = (reader.sniff)(&sample, config)? {
            if !config.times_path.is_empty() && reader.name != "s3rec" {
                let what = format!("`data.times_path = \"{}\"` has no effect", config.times_path);
                return Err(Error::new(Code::C0203, what)
                    .note(format!("{} is {}, which has its times in itself", path.display(), reader.name))
                    .help(
                        "unset it; `data.format = \"s3rec\"` reads lines of a user and its items with a second file of times",
                    ));
            }
            found.layout.weights_decide = config.min_weight.is_some();
            let mut evidence = sample.evidence;
            let because = if forced.is_some() { "declared" } else { reader.what };
            evidence.push(Evidence::new("format", reader.name, because, if forced.is_some() { 1.0 } else { 0.95 }));
            evidence.append(&mut found.evidence);
            return Ok(Found { evidence, ..found });
        }
    }
    if sample.lines().next().is_none() {
        let what = format!("{} holds no rows", path.display());
        return Err(Error::new(Code::D0102, what).help("check that the export that wrote it ended properly"));
    }
    let tried: Vec<String> = readers.iter().map(|r| format!("{} ({})", r.name, r.what)).collect();
    let first = sample.lines().next().unwrap_or_default();
    Err(Error::new(Code::D0103, format!("{}: the format is not recognised", path.display()))
        .note(format!("tried {}", tried.join("; ")))
        .note(format!("its first line is \"{}\"", super::rows::shown(first)))
        .help("if it has columns, name their separator with `data.delimiter`"))
}
