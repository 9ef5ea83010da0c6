//! S3Rec text: one line per user, `user item item ...` in the order of events; times, if any, lie in a second file whose
//! lines are the same with a time in place of each item (the formats of RUCAIBox/CIKM2020-S3Rec and KingGugu/TiCoSeRec).

use std::path::{Path, PathBuf};

use crate::config::Data;
use crate::error::{Code, Error, Result};

use super::blocks::{Block, Blocks, LONGEST, Records};
use super::compress::BLOCK;
use super::layout::{Evidence, Found, Layout, examples};
use super::roles::declared_rule;
use super::rows::{Class, Rows};
use super::sniff::{Form, Sample};
use super::time::{self, TimeRule, Unit};
use super::{Job, Progress, bad_value};

/// The words of a line.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty())
}

pub fn sniff(sample: &Sample, config: &Data) -> Result<Option<Found>> {
    if !config.delimiter.is_empty() && config.delimiter != "space" && config.delimiter != " " {
        return Ok(None);
    }
    let mut widths = std::collections::BTreeMap::<usize, usize>::new();
    let mut users = std::collections::HashSet::new();
    let (mut lines, mut fitting) = (0usize, 0usize);
    for line in sample.lines() {
        lines += 1;
        let separated = line.iter().any(|b| matches!(b, b',' | b';' | b'|')) || memchr::memmem::find(line, b"::").is_some();
        let (mut count, mut digits) = (0, 0);
        for word in words(line) {
            if count == 0 {
                users.insert(word);
            }
            count += 1;
            digits += word.iter().any(u8::is_ascii_digit) as usize;
        }
        // Prose has words without digits; ids hardly ever.
        if !separated && count >= 2 && digits * 10 >= count * 8 {
            fitting += 1;
            *widths.entry(count).or_default() += 1;
        }
    }
    let forced = config.format == "s3rec";
    let commonest = widths.values().copied().max().unwrap_or(0);
    let ragged = commonest * 10 < lines * 9 && users.len() * 100 >= lines * 95;
    if lines == 0 || fitting * 100 < lines * 80 || !(forced || ragged) {
        return Ok(None);
    }
    let because = format!(
        "{} sampled lines have between {} and {} words each and start with different users",
        lines,
        widths.keys().next().copied().unwrap_or(0),
        widths.keys().last().copied().unwrap_or(0)
    );
    let mut evidence = vec![Evidence::new("delimiter", "space", because, fitting as f64 / lines as f64)];
    let name = sample.path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let fields: Vec<&[u8]> = sample.lines().take(500).flat_map(|line| words(line).skip(1)).collect();
    if name.contains("time") && time::guess(&fields, "").is_some_and(|g| g.rule.dated && g.share > 0.9) {
        let what = format!("{} holds times where items are expected", sample.path.display());
        return Err(Error::new(Code::D0111, what)
            .help("name the file with the items; its times are found beside it, or with `data.times_path`"));
    }
    let times = times_file(&sample.path, config, &mut evidence)?;
    let time_rule = match &times {
        Some(path) => Some(times_rule(path, config, &mut evidence)?),
        None => None,
    };
    let form = Form { delimiter: " ".into(), quoted: false, header: false };
    let names = ["user", "items", "times"].iter().take(if times.is_some() { 3 } else { 2 }).map(|n| n.to_string()).collect();
    let layout = Layout {
        format: "s3rec".into(),
        time: times.as_ref().map(|_| 2),
        time_rule,
        times_path: times.map(|path| path.display().to_string()),
        ..Layout::text(sample, &form, names)
    };
    let mut shown = vec![
        examples(sample.lines().filter_map(|line| words(line).next())),
        examples(sample.lines().flat_map(|line| words(line).skip(1))),
    ];
    shown.resize(layout.columns.len(), vec![]);
    Ok(Some(Found { layout, evidence, examples: shown }))
}

/// The file of times: declared, or the sibling with `time` in its name where this file has `item`.
fn times_file(path: &Path, config: &Data, evidence: &mut Vec<Evidence>) -> Result<Option<PathBuf>> {
    if config.time_unit == "none" || config.time_col == "none" {
        evidence.push(Evidence::new("time", "none", "declared", 1.0));
        return Ok(None);
    }
    if !config.times_path.is_empty() {
        evidence.push(Evidence::new("times file", config.times_path.clone(), "declared", 1.0));
        return Ok(Some(PathBuf::from(&config.times_path)));
    }
    match sibling(path) {
        Some(times) => {
            let because = "it lies beside the log under the same name with `time` for `item`";
            let name = times.file_name().unwrap_or_default().to_string_lossy().into_owned();
            evidence.push(Evidence::new("times file", name, because, 0.95));
            Ok(Some(times))
        }
        None => {
            let because = "no times file is declared and none lies beside the log; the order of each line is the order of events";
            evidence.push(Evidence::new("time", "none", because, 0.9));
            Ok(None)
        }
    }
}

/// `Beauty_item_rank.txt` -> `Beauty_time_rank.txt`, if that exists.
pub fn sibling(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    [("item", "time"), ("Item", "Time"), ("ITEM", "TIME")].iter().find_map(|(item, time)| {
        let at = name.rfind(item)?;
        let other = path.with_file_name(format!("{}{time}{}", &name[..at], &name[at + item.len()..]));
        if other.is_file() { Some(other) } else { None }
    })
}

fn times_rule(path: &Path, config: &Data, evidence: &mut Vec<Evidence>) -> Result<TimeRule> {
    let sample = Sample::take(path, &Data { encoding: "auto".into(), ..config.clone() })?;
    let fields: Vec<&[u8]> = sample.lines().take(500).flat_map(|line| words(line).skip(1)).collect();
    let guess = time::guess(&fields, "");
    if config.time_unit != "auto" {
        let allowed = "`auto`, `s`, `ms`, `us`, `ns`, `minutes`, `days`, `iso` or `none`";
        let unit = Unit::named(&config.time_unit).ok_or_else(|| bad_value("data.time_unit", &config.time_unit, allowed))?;
        evidence.push(Evidence::new("time unit", unit.name(), "declared", 1.0));
        return Ok(declared_rule(unit, guess.as_ref()));
    }
    match guess {
        Some(guess) => {
            evidence.push(Evidence::new("time unit", guess.rule.unit.name(), guess.because, guess.share));
            Ok(guess.rule)
        }
        None => Err(Error::new(Code::D0111, format!("{} does not hold times", path.display()))
            .help("name the times file with `data.times_path`, or set `data.time_unit = \"none\"`")),
    }
}

/// The lines of a file one after the other, a whole one at a time.
struct Lines {
    blocks: Blocks,
    block: Block,
}

impl Lines {
    fn open(path: &Path, layout: &Layout, size: usize) -> Result<Lines> {
        let blocks = Blocks::open(path, layout, size)?;
        Ok(Lines { blocks, block: Block { bytes: vec![], start: 0, too_long: false } })
    }
    /// Moves to the next line and gives its range in the current block, and whether it is only the head of a longer one.
    fn advance(&mut self) -> Result<Option<(std::ops::Range<usize>, bool)>> {
        if self.block.start >= self.block.bytes.len() {
            match self.blocks.next()? {
                Some(block) => self.block = block,
                None => return Ok(None),
            }
        }
        let start = self.block.start;
        let end = Records { quoted: None }.end(&self.block.bytes, start, true).unwrap_or(self.block.bytes.len());
        self.block.start = end;
        let long = self.block.too_long || end - start > LONGEST;
        Ok(Some((start..end, long)))
    }
}

/// One line of items with its line of times. The two are matched by number, users and length.
pub fn read(job: &Job, rows: &mut Rows, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    let mut items = Lines::open(job.path, job.layout, BLOCK)?;
    let times_path = job.layout.times_path.as_ref().map(PathBuf::from);
    // The times file has an encoding of its own, but digits are the same in all but UTF-16.
    let mut times = match &times_path {
        Some(path) => {
            let sample = Sample::take(path, &Data::default())?;
            Some(Lines::open(path, &Layout { encoding: sample.encoding, ..job.layout.clone() }, BLOCK)?)
        }
        None => None,
    };
    let mut number = 0u64;
    while let Some((range, long)) = items.advance()? {
        number += 1;
        if number.is_multiple_of(4096) {
            progress(items.blocks.progress(rows.len()));
        }
        let line = items.block.bytes[range].trim_ascii_end();
        let other = match &mut times {
            Some(lines) => match lines.advance()? {
                Some((range, long)) => Some((lines.block.bytes[range].trim_ascii_end(), long)),
                None if line.is_empty() => None,
                None => return Err(lengths_differ(job.path, times_path.as_deref(), number)),
            },
            None => None,
        };
        if long || other.is_some_and(|(_, long)| long) {
            rows.reject(Class::LongLine, number, &line[..line.len().min(400)], b"")?;
            continue;
        }
        if line.is_empty() && other.is_none_or(|(line, _)| line.is_empty()) {
            continue;
        }
        let mut entries = words(line);
        let user = entries.next().unwrap_or_default();
        if user.is_empty() || entries.clone().next().is_none() {
            rows.reject(Class::RaggedRow, number, line, b"")?;
            continue;
        }
        if let (Some((line_of_times, _)), Some(rule)) = (other, job.layout.time_rule) {
            let mut fields = words(line_of_times);
            if fields.next() != Some(user) || fields.clone().count() != entries.clone().count() {
                rows.reject(Class::MisalignedTimes, number, line, b"")?;
                continue;
            }
            for (item, field) in entries.zip(fields) {
                match rule.micros(field) {
                    Ok(time) => rows.row(user, item, Some(time), None)?,
                    Err(class) => rows.reject(class, number, &[user, item, field].join(&b' '), field)?,
                }
            }
        } else {
            for item in entries {
                rows.row(user, item, None, None)?;
            }
        }
    }
    if let Some(lines) = &mut times {
        while let Some((range, _)) = lines.advance()? {
            if !lines.block.bytes[range].trim_ascii().is_empty() {
                return Err(lengths_differ(job.path, times_path.as_deref(), number));
            }
        }
    }
    progress(items.blocks.progress(rows.len()));
    Ok(())
}

fn lengths_differ(path: &Path, times: Option<&Path>, number: u64) -> Error {
    let times = times.unwrap_or(Path::new(""));
    Error::new(Code::D0111, format!("{} and {} have different numbers of lines", path.display(), times.display()))
        .at(format!("line {number}"))
        .help("both need one line per user; set `data.time_unit = \"none\"` to read the log without times")
}
