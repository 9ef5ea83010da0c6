//! From a stream of blocks to blocks of whole records, parsed in parallel and taken in order.
//!
//! A record is a line; where fields may be quoted, a quoted field may hold line ends. Two rules keep memory bounded and the
//! result independent of where blocks are cut: a line longer than [`LONGEST`] is set aside whole, and a quote that is not
//! closed within [`LONGEST_QUOTED`] bytes of its record's start, or whose closing quote has text behind it, was never a quote,
//! so the record ends with its first line and one stray quote costs one row.

use std::path::Path;

use memchr::{memchr, memchr2, memrchr};
use rayon::prelude::*;

use crate::error::Result;

use super::compress::{BLOCK, Source};
use super::layout::Layout;
use super::rows::{Class, Parsed, Rows, Span};
use super::{Job, Progress};

pub const LONGEST: usize = 16 << 20;
pub const LONGEST_QUOTED: usize = 64 << 10;
/// Blocks parsed at a time: enough for 8 threads to work side by side, a fixed number so that memory does not grow with
/// the machine.
const BATCH: usize = 8;

/// Where records end.
#[derive(Clone, Copy)]
pub struct Records {
    /// The column separator, where fields may be quoted.
    pub quoted: Option<u8>,
}

impl Records {
    pub fn of(layout: &Layout) -> Records {
        Records { quoted: if layout.quoted { layout.delimiter.bytes().next() } else { None } }
    }
    /// The end (after its line end) of the record that starts at `start`, or `None` when more bytes are needed to tell.
    /// With `ended`, the bytes are all there are.
    pub fn end(&self, bytes: &[u8], start: usize, ended: bool) -> Option<usize> {
        let first_line = memchr(b'\n', &bytes[start..]).map(|at| start + at + 1);
        let Some(delimiter) = self.quoted else {
            return first_line.or(if ended { Some(bytes.len()) } else { None });
        };
        let mut at = start;
        loop {
            let Some(hit) = memchr2(b'"', b'\n', &bytes[at..]).map(|offset| at + offset) else {
                return if ended { Some(bytes.len()) } else { None };
            };
            if bytes[hit] == b'\n' {
                return Some(hit + 1);
            }
            if hit > start && bytes[hit - 1] != delimiter {
                at = hit + 1;
                continue;
            }
            let limit = start + LONGEST_QUOTED;
            let within = &bytes[..bytes.len().min(limit)];
            match closing_quote(within, hit + 1) {
                Some(close) => match closes(bytes, close, delimiter, ended) {
                    Some(true) => at = close + 1,
                    Some(false) => return first_line.or(if ended { Some(bytes.len()) } else { None }),
                    None => return None,
                },
                None if ended || bytes.len() > limit => {
                    return first_line.or(if ended { Some(bytes.len()) } else { None });
                }
                None => return None,
            }
        }
    }
    /// The end of the last whole record.
    fn last_end(&self, bytes: &[u8]) -> Option<usize> {
        if self.quoted.is_none() {
            return memrchr(b'\n', bytes).map(|at| at + 1);
        }
        let mut end = 0;
        while end < bytes.len() {
            match self.end(bytes, end, false) {
                Some(next) => end = next,
                None => break,
            }
        }
        if end == 0 { None } else { Some(end) }
    }
}

/// Whether the quote at `close` ends its field, as a separator or the end of the line behind it says, or `None` when more
/// bytes are needed to tell: the last byte at hand may be the first half of an escaped quote or of a line end.
fn closes(bytes: &[u8], close: usize, delimiter: u8, ended: bool) -> Option<bool> {
    match &bytes[close + 1..] {
        [] | [b'\r'] => ended.then_some(true),
        [b'\n', ..] | [b'\r', b'\n', ..] => Some(true),
        [next, ..] => Some(*next == delimiter),
    }
}

/// The closing quote of a field whose content starts at `at`; a doubled quote is an escaped one.
pub fn closing_quote(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let hit = at + memchr(b'"', bytes.get(at..)?)?;
        if bytes.get(hit + 1) == Some(&b'"') {
            at = hit + 2;
        } else {
            return Some(hit);
        }
    }
}

/// Whole records, or the head of a line too long to keep.
pub struct Block {
    pub bytes: Vec<u8>,
    /// Where parsing starts (after a header).
    pub start: usize,
    pub too_long: bool,
}

/// A stream of blocks of whole records.
pub struct Blocks {
    source: Source,
    records: Records,
    carry: Vec<u8>,
}

impl Blocks {
    pub fn open(path: &Path, layout: &Layout, block: usize) -> Result<Blocks> {
        Ok(Blocks { source: Source::open(path, layout.encoding, block)?, records: Records::of(layout), carry: vec![] })
    }
    pub fn progress(&self, rows: u64) -> Progress {
        Progress { bytes: self.source.taken(), total: self.source.total, rows }
    }
    pub fn next(&mut self) -> Result<Option<Block>> {
        loop {
            let Some(bytes) = self.source.next()? else {
                let bytes = std::mem::take(&mut self.carry);
                return Ok(if bytes.is_empty() { None } else { Some(Block { bytes, start: 0, too_long: false }) });
            };
            if self.carry.is_empty() {
                self.carry = bytes;
            } else {
                self.carry.extend_from_slice(&bytes);
            }
            if let Some(end) = self.records.last_end(&self.carry) {
                let rest = self.carry[end..].to_vec();
                let mut bytes = std::mem::replace(&mut self.carry, rest);
                bytes.truncate(end);
                return Ok(Some(Block { bytes, start: 0, too_long: false }));
            }
            if self.carry.len() > LONGEST {
                return self.skip_line().map(Some);
            }
        }
    }
    /// Drops the rest of a line that is too long, keeping its head for the report.
    fn skip_line(&mut self) -> Result<Block> {
        let mut line = std::mem::take(&mut self.carry);
        // A line end before this limit lies within quotes, else the record had ended there.
        let from = if self.records.quoted.is_some() { LONGEST_QUOTED } else { 0 };
        let mut end = memchr(b'\n', &line[from..]).map(|at| from + at);
        let head = line[..line.len().min(400)].to_vec();
        while end.is_none() {
            match self.source.next()? {
                Some(bytes) => line = bytes,
                None => return Ok(Block { bytes: head, start: 0, too_long: true }),
            }
            end = memchr(b'\n', &line);
        }
        self.carry = line.split_off(end.map_or(line.len(), |at| at + 1));
        Ok(Block { bytes: head, start: 0, too_long: true })
    }
}

/// Parses the records of one block; lines count from 0 within it.
pub type Parse = fn(&Layout, &Block, &mut Parsed);

/// Calls `record(bytes, line, span)` for every record of a block that is not blank and not too long; the line end is cut
/// off. Counts the lines.
pub fn each_record(records: Records, block: &Block, parsed: &mut Parsed, mut record: impl FnMut(&mut Parsed, u32, Span)) {
    let bytes = &block.bytes[..];
    let mut start = block.start;
    let mut line = 0u32;
    while start < bytes.len() {
        let end = records.end(bytes, start, true).unwrap_or(bytes.len());
        let mut stop = end;
        if stop > start && bytes[stop - 1] == b'\n' {
            stop -= 1;
        }
        if stop > start && bytes[stop - 1] == b'\r' {
            stop -= 1;
        }
        let span = Span { start: start as u32, end: stop as u32 };
        let inner = if records.quoted.is_some() { memchr::memchr_iter(b'\n', &bytes[start..stop]).count() as u32 } else { 0 };
        if inner > 0 {
            parsed.spanning.add(u64::from(line), u64::from(inner) + 1);
        }
        if stop - start > LONGEST {
            let head = Span { start: span.start, end: span.start + 400 };
            parsed.reject(Class::LongLine, line, head, Span::default());
        } else if !bytes[start..stop].iter().all(u8::is_ascii_whitespace) {
            record(parsed, line, span);
        }
        line += if records.quoted.is_some() { inner + u32::from(bytes[end - 1] == b'\n') } else { 1 };
        start = end;
    }
    parsed.lines = line as u64;
}

fn parse_block(layout: &Layout, parse: Parse, block: &Block) -> Parsed {
    let mut parsed = Parsed::new(layout);
    if block.too_long {
        let head = Span { start: 0, end: block.bytes.len() as u32 };
        parsed.reject(Class::LongLine, 0, head, Span::default());
        parsed.lines = 1;
    } else {
        parse(layout, block, &mut parsed);
    }
    parsed
}

/// Reads a whole text file: the next batch of blocks is parsed while the rows of the previous one are taken.
pub fn run(job: &Job, parse: Parse, rows: &mut Rows, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    run_sized(job, parse, rows, progress, BLOCK)
}

/// [`run`] with a block size of choice, which must not change anything.
pub fn run_sized(job: &Job, parse: Parse, rows: &mut Rows, progress: &mut dyn FnMut(Progress), size: usize) -> Result<()> {
    let layout = job.layout;
    let mut blocks = Blocks::open(job.path, layout, size)?;
    let mut line = 1u64;
    let mut header = layout.header;
    let mut ready: Vec<(Block, Parsed)> = vec![];
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            let Some(mut block) = blocks.next()? else { break };
            if header {
                header = skip_header(Records::of(layout), &mut block, &mut line);
            }
            batch.push(block);
        }
        let ended = batch.is_empty();
        let (next, taken) = rayon::join(
            || -> Vec<(Block, Parsed)> {
                batch
                    .into_par_iter()
                    .map(|block| {
                        let parsed = parse_block(layout, parse, &block);
                        (block, parsed)
                    })
                    .collect()
            },
            || -> Result<()> {
                for (block, parsed) in &ready {
                    rows.take(&block.bytes, parsed, line)?;
                    line += parsed.lines;
                }
                Ok(())
            },
        );
        taken?;
        ready = next;
        progress(blocks.progress(rows.len()));
        if ended {
            return Ok(());
        }
    }
}

/// Moves a block's start past the header, the first line that is not blank. True: it was not in this block.
fn skip_header(records: Records, block: &mut Block, line: &mut u64) -> bool {
    while block.start < block.bytes.len() {
        let end = records.end(&block.bytes, block.start, true).unwrap_or(block.bytes.len());
        let record = &block.bytes[block.start..end];
        let blank = record.iter().all(u8::is_ascii_whitespace);
        *line += memchr::memchr_iter(b'\n', record).count().max(1) as u64;
        block.start = end;
        if !blank {
            return false;
        }
    }
    true
}
