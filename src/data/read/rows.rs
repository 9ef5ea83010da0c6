//! Rows become columns: the one place where ids are interned, bad rows are counted and kept, and limits are held.
//!
//! Parsers work on blocks in parallel and hand over [`Parsed`] (byte ranges and numbers, no codes); codes are given here,
//! one row after the other in the order of the input, so nothing depends on threads or block sizes.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::config::Data;
use crate::data::raw::{Ids, RawColumn, RawLog, RawValues, Spanning};
use crate::error::{Code, Error, Result};
use crate::ids;

use super::layout::{ContextKind, Layout};

/// Why a row cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    RaggedRow,
    EmptyId,
    MissingTime,
    BadTime,
    NegativeTime,
    ZeroTime,
    FarFutureTime,
    MixedTimeUnit,
    BadWeight,
    BadContext,
    UnbalancedQuote,
    LongLine,
    BadJson,
    MissingField,
    MisalignedTimes,
}

impl Class {
    /// The stable name under which rows are counted.
    pub fn name(self) -> &'static str {
        match self {
            Class::RaggedRow => "ragged_row",
            Class::EmptyId => "empty_id",
            Class::MissingTime => "missing_time",
            Class::BadTime => "bad_time",
            Class::NegativeTime => "negative_time",
            Class::ZeroTime => "zero_time",
            Class::FarFutureTime => "far_future_time",
            Class::MixedTimeUnit => "mixed_time_unit",
            Class::BadWeight => "bad_weight",
            Class::BadContext => "bad_context",
            Class::UnbalancedQuote => "unbalanced_quote",
            Class::LongLine => "long_line",
            Class::BadJson => "bad_json",
            Class::MissingField => "missing_field",
            Class::MisalignedTimes => "misaligned_times",
        }
    }
    /// What is wrong with the field, in a few words.
    fn what(self) -> &'static str {
        match self {
            Class::RaggedRow => "the row has another number of columns than the rest of the file",
            Class::EmptyId => "the user or item is empty",
            Class::MissingTime => "the time is missing",
            Class::BadTime => "the time is not a date or a number",
            Class::NegativeTime => "the time is a number below 0, or a date before 1900",
            Class::ZeroTime => "the time is 0 or 1970-01-01, which stands for a missing time in a log of dates",
            Class::FarFutureTime => "the time is after the year 2100",
            Class::MixedTimeUnit => "the time is in another unit than the rest of the file",
            Class::BadWeight => "the weight is not a finite number",
            Class::BadContext => "a numeric context column does not hold a number",
            Class::UnbalancedQuote => "a quoted field is not closed, or text follows its closing quote",
            Class::LongLine => "the line is longer than 16 MiB",
            Class::BadJson => "the line is not a JSON object",
            Class::MissingField => "the user or item is absent",
            Class::MisalignedTimes => "the line of the times file does not belong to this line",
        }
    }
    /// The cure that is particular to this class.
    fn help(self) -> Option<&'static str> {
        Some(match self {
            Class::BadTime | Class::FarFutureTime | Class::NegativeTime => {
                "if the unit was guessed wrongly, set `data.time_unit` (s, ms, us, ns, minutes, iso)"
            }
            Class::MixedTimeUnit => "convert the file to one unit; no rule can tell which rows were meant",
            Class::RaggedRow => "if the delimiter was guessed wrongly, set `data.delimiter`",
            Class::UnbalancedQuote => "if quotes are ordinary characters here, use a tab-separated file",
            Class::BadWeight => {
                "`data.min_weight` needs a weight in every row; without it, `data.weight_col = \"none\"` reads none"
            }
            Class::MisalignedTimes => "both files need one line per user, in the same order, with equally many entries",
            _ => return None,
        })
    }
    fn of_name(name: &str) -> Option<Class> {
        use Class::*;
        [
            RaggedRow,
            EmptyId,
            MissingTime,
            BadTime,
            NegativeTime,
            ZeroTime,
            FarFutureTime,
            MixedTimeUnit,
            BadWeight,
            BadContext,
            UnbalancedQuote,
            LongLine,
            BadJson,
            MissingField,
            MisalignedTimes,
        ]
        .into_iter()
        .find(|c| c.name() == name)
    }
}

/// A byte range of a block, or of its `extra` bytes when it starts beyond the block's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// One declared context column of a block.
pub enum Cells {
    Categories(Vec<Span>),
    Numbers(Vec<f32>),
}

/// A row that cannot be used: its class, line within the block (from 0), text and offending field.
pub struct Bad {
    pub class: Class,
    pub line: u32,
    pub row: Span,
    pub field: Span,
}

/// The rows of one block, in order.
pub struct Parsed {
    /// Bytes that are not in the block as they stand (unescaped strings); addressed from the block's length on.
    pub extra: Vec<u8>,
    /// (rows)
    pub users: Vec<Span>,
    pub items: Vec<Span>,
    /// (rows), or empty when the layout has none.
    pub times: Vec<i64>,
    pub weights: Vec<f32>,
    pub context: Vec<Cells>,
    pub bad: Vec<Bad>,
    /// Lines count from 0 within the block.
    pub spanning: Spanning,
    /// Line ends in the block.
    pub lines: u64,
}

impl Parsed {
    pub fn new(layout: &Layout) -> Parsed {
        Parsed {
            extra: vec![],
            users: vec![],
            items: vec![],
            times: vec![],
            weights: vec![],
            context: layout
                .context
                .iter()
                .map(|c| match c.kind {
                    ContextKind::Cat => Cells::Categories(vec![]),
                    ContextKind::Num => Cells::Numbers(vec![]),
                })
                .collect(),
            bad: vec![],
            spanning: Spanning::default(),
            lines: 0,
        }
    }
    /// Stores bytes beside a block of `len` bytes.
    pub fn keep(&mut self, len: usize, bytes: &[u8]) -> Span {
        let start = (len + self.extra.len()) as u32;
        self.extra.extend_from_slice(bytes);
        Span { start, end: start + bytes.len() as u32 }
    }
    pub fn reject(&mut self, class: Class, line: u32, row: Span, field: Span) {
        self.bad.push(Bad { class, line, row, field });
    }
    pub fn bytes<'a>(&'a self, block: &'a [u8], span: Span) -> &'a [u8] {
        let (start, end) = (span.start as usize, span.end as usize);
        if start >= block.len() { &self.extra[start - block.len()..end - block.len()] } else { &block[start..end] }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Fail,
    Skip,
    Quarantine,
}

/// Builds a [`RawLog`] row by row.
pub struct Rows<'a> {
    path: &'a Path,
    policy: Policy,
    max_bad_share: f64,
    quarantine_to: Option<PathBuf>,
    quarantine: Option<BufWriter<File>>,
    log: RawLog,
    timed: bool,
    weighted: bool,
}

impl<'a> Rows<'a> {
    /// `quarantine_to` is the folder in which `NAME.rejected` is made at the first bad row.
    pub fn new(path: &'a Path, layout: &Layout, config: &Data, quarantine_to: Option<&Path>) -> Result<Rows<'a>> {
        let policy = match config.on_bad_row.as_str() {
            "fail" => Policy::Fail,
            "skip" => Policy::Skip,
            "quarantine" => Policy::Quarantine,
            other => {
                let what = format!("`data.on_bad_row = \"{other}\"` is not a policy");
                return Err(Error::new(Code::C0202, what).help("use `fail`, `skip` or `quarantine`"));
            }
        };
        let timed = layout.time.is_some();
        let log = RawLog {
            times: timed.then(Vec::new),
            weights: layout.weight.map(|_| Vec::new()),
            context: layout
                .context
                .iter()
                .map(|c| RawColumn {
                    name: c.name.clone(),
                    values: match c.kind {
                        ContextKind::Cat => RawValues::Categorical { codes: vec![], ids: Ids::new() },
                        ContextKind::Num => RawValues::Numeric(vec![]),
                    },
                })
                .collect(),
            ..RawLog::default()
        };
        Ok(Rows {
            path,
            policy,
            max_bad_share: config.max_bad_share,
            quarantine_to: quarantine_to.map(|folder| {
                let mut name = path.file_name().unwrap_or_default().to_os_string();
                name.push(".rejected");
                folder.join(name)
            }),
            quarantine: None,
            log,
            timed,
            weighted: layout.weight.is_some(),
        })
    }

    /// Rows taken so far.
    pub fn len(&self) -> u64 {
        self.log.users.len() as u64
    }

    /// A row without context columns; the caller gives a time and a weight exactly when the layout has them.
    pub fn row(&mut self, user: &[u8], item: &[u8], time: Option<i64>, weight: Option<f32>) -> Result<()> {
        let user = code(&mut self.log.user_ids, self.log.users.last(), user, "users", self.path)?;
        let item = code(&mut self.log.item_ids, self.log.items.last(), item, "items", self.path)?;
        self.log.users.push(user);
        self.log.items.push(item);
        if let (Some(times), Some(time)) = (&mut self.log.times, time) {
            times.push(time);
        }
        if let (Some(weights), Some(weight)) = (&mut self.log.weights, weight) {
            weights.push(weight);
        }
        Ok(())
    }

    /// A bad row: counted, kept or fatal, as the configuration says. `line` counts from 1.
    pub fn reject(&mut self, class: Class, line: u64, text: &[u8], field: &[u8]) -> Result<()> {
        if self.policy == Policy::Fail {
            let mut error = Error::new(Code::D0107, class.what()).at(format!("{}:{line}", self.path.display()));
            if !field.is_empty() {
                error = error.note(format!("the field is \"{}\"", shown(field)));
            }
            error = error.note(format!("the row is \"{}\" (class {})", shown(text), class.name()));
            if let Some(help) = class.help() {
                error = error.help(help);
            }
            return Err(error.help("`data.on_bad_row = \"quarantine\"` keeps such rows aside in a file and goes on"));
        }
        self.log.rejected.count(class.name(), line);
        if self.policy == Policy::Quarantine
            && let Some(path) = &self.quarantine_to
        {
            let failed = |e: std::io::Error| Error::io("writing", path, &e);
            let file = match &mut self.quarantine {
                Some(file) => file,
                None if path.exists() && !is_quarantine(path) => {
                    return Err(Error::new(Code::F0801, format!("{} exists and does not hold rejected rows", path.display()))
                        .note("rows that cannot be used would be kept there")
                        .help("move it away, or leave them out uncollected with `data.on_bad_row = \"skip\"`"));
                }
                None => {
                    self.log.rejected.quarantine = Some(path.display().to_string());
                    self.quarantine.insert(BufWriter::new(File::create(path).map_err(failed)?))
                }
            };
            write!(file, "{line}\t{}\t", class.name()).map_err(failed)?;
            for (i, part) in text.split(|&b| b == b'\n').enumerate() {
                if i > 0 {
                    file.write_all(b"\\n").map_err(failed)?;
                }
                file.write_all(part).map_err(failed)?;
            }
            file.write_all(b"\n").map_err(failed)?;
        }
        Ok(())
    }

    /// The rows of one block, whose first line is number `first_line` (from 1).
    pub fn take(&mut self, block: &[u8], parsed: &Parsed, first_line: u64) -> Result<()> {
        for bad in &parsed.bad {
            let (row, field) = (parsed.bytes(block, bad.row), parsed.bytes(block, bad.field));
            self.reject(bad.class, first_line + bad.line as u64, row, field)?;
        }
        let Spanning { records, lines, first } = parsed.spanning;
        let spanning = &mut self.log.spanning;
        spanning.first = spanning.first.or(first.map(|line| first_line + line));
        spanning.records += records;
        spanning.lines += lines;
        for i in 0..parsed.users.len() {
            let (user, item) = (parsed.bytes(block, parsed.users[i]), parsed.bytes(block, parsed.items[i]));
            let time = self.timed.then(|| parsed.times[i]);
            let weight = self.weighted.then(|| parsed.weights[i]);
            self.row(user, item, time, weight)?;
        }
        for (column, cells) in self.log.context.iter_mut().zip(&parsed.context) {
            match (&mut column.values, cells) {
                (RawValues::Categorical { codes, ids }, Cells::Categories(spans)) => {
                    for &span in spans {
                        let next = code(ids, codes.last(), parsed.bytes(block, span), "categories", self.path)?;
                        codes.push(next);
                    }
                }
                (RawValues::Numeric(values), Cells::Numbers(numbers)) => values.extend_from_slice(numbers),
                _ => return Err(Error::internal("a context column changed its kind while reading")),
            }
        }
        Ok(())
    }

    /// The log, when it has rows and few enough bad ones.
    pub fn finish(mut self, layout: &Layout) -> Result<RawLog> {
        if let (Some(file), Some(path)) = (&mut self.quarantine, &self.quarantine_to) {
            file.flush().map_err(|e| Error::io("writing", path, &e))?;
        }
        // What an earlier read rejected says nothing about this log.
        if let (Policy::Quarantine, None, Some(path)) = (self.policy, &self.quarantine, &self.quarantine_to)
            && is_quarantine(path)
        {
            std::fs::remove_file(path).map_err(|e| Error::io("removing", path, &e))?;
        }
        let (good, bad) = (self.log.users.len() as u64, self.log.rejected.total());
        if good + bad == 0 {
            let what = format!("{} holds no rows", self.path.display());
            return Err(Error::new(Code::D0102, what).help("check that the export that wrote it ended properly"));
        }
        let share = bad as f64 / (good + bad) as f64;
        if good == 0 || share > self.max_bad_share {
            let mut error = Error::new(
                Code::D0106,
                format!("{bad} of {} rows of {} cannot be used ({:.1} %)", good + bad, self.path.display(), 100.0 * share),
            );
            let mut classes: Vec<_> = self.log.rejected.classes.iter().collect();
            classes.sort_by(|a, b| b.1.rows.cmp(&a.1.rows).then(a.0.cmp(b.0)));
            for (name, class) in classes.iter().take(3) {
                let what = Class::of_name(name).map_or("", Class::what);
                let lines: Vec<String> = class.first.iter().map(u64::to_string).collect();
                error = error.note(format!("{} rows: {what} ({name}, first: lines {})", class.rows, lines.join(", ")));
            }
            if let Some(help) = classes.first().and_then(|c| Class::of_name(c.0)).and_then(Class::help) {
                error = error.help(help);
            }
            if good > 0 {
                error =
                    error.help(format!("`data.max_bad_share` is {}; raise it to go on without these rows", self.max_bad_share));
            }
            return Err(error);
        }
        // Growth by doubling leaves up to half of each column unused. Those pages were never touched, so they cost address
        // space only; giving them back keeps later copies small.
        self.log.users.shrink_to_fit();
        self.log.items.shrink_to_fit();
        if let Some(times) = &mut self.log.times {
            times.shrink_to_fit();
        }
        if let Some(weights) = &mut self.log.weights {
            weights.shrink_to_fit();
        }
        self.log.layout = serde_json::to_value(layout).map_err(|e| Error::internal(format!("a layout is not JSON: {e}")))?;
        Ok(self.log)
    }
}

/// Whether a file begins like one of rejected rows: a line number, a class and the row, between tabs. One that holds nothing
/// is as good.
fn is_quarantine(path: &Path) -> bool {
    let mut head = vec![];
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    let mut fields = head.split(|&b| b == b'\t');
    let mut next = || fields.next().and_then(|field| std::str::from_utf8(field).ok()).unwrap_or_default();
    read.is_ok() && (head.is_empty() || next().parse::<u64>().is_ok() && Class::of_name(next()).is_some())
}

/// The code of an id. Neighbouring rows often repeat it, which saves the look-up.
fn code(ids: &mut Ids, last: Option<&u32>, id: &[u8], what: &str, path: &Path) -> Result<u32> {
    if let Some(&last) = last
        && ids.get(last) == id
    {
        return Ok(last);
    }
    let code = ids.intern(id);
    if ids.len() >= ids::LIMIT {
        let limit = format!("{} has {} {what} or more", path.display(), ids::LIMIT);
        return Err(Error::new(Code::D0112, limit).help("drop rare ones before, or map them to shared ids"));
    }
    Ok(code)
}

/// Untrusted bytes as they may be printed: control characters escaped, at most 80 characters.
pub fn shown(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(320)];
    let text = String::from_utf8_lossy(head);
    let mut out: String =
        text.chars().take(80).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if bytes.len() > 320 || text.chars().count() > 80 {
        out.push('…');
    }
    out
}
