//! What a log is and whether it is healthy, with the evidence: the content of `hardneg inspect FILE`.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Data;
use crate::data::raw::{Ids, RawLog, Rejected, Spanning};
use crate::error::{Code, Error, Result};

use super::layout::{ContextKind, Encoding, Evidence, Layout};
use super::sniff::{Sample, encoding_name, show_delimiter};
use super::{detect, read_as, rows, s3rec, time};

/// A full look at a log. Counts come from a pass over the whole file.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    pub path: String,
    pub bytes: u64,
    pub layout: Layout,
    pub evidence: Vec<Evidence>,
    /// `LF`, `CRLF` or a mixture; absent for formats without lines.
    pub line_ends: Option<String>,
    pub columns: Vec<ColumnView>,
    pub rows: u64,
    pub users: u64,
    pub items: u64,
    /// Fewest, median and most events of a user.
    pub events_per_user: [u64; 3],
    pub times: Option<Times>,
    pub weights: Option<Weights>,
    pub rejected: Rejected,
    pub spanning: Spanning,
    /// Rows whose (user, item) occurred before.
    pub repeated_pairs: u64,
    /// Rows equal to an earlier one in user, item and time.
    pub duplicates: u64,
    /// Pairs of ids that differ only in leading zeros, a trailing `.0`, case or surrounding blanks.
    pub near_duplicates: NearDuplicates,
    /// Files beside the log that belong to it.
    pub companions: Vec<Companion>,
    pub warnings: Vec<String>,
    /// The command that trains on this log.
    pub command: String,
    /// The same with every guess written out, so that nothing is guessed again.
    pub spelled_out: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct ColumnView {
    /// From 1.
    pub number: usize,
    pub name: String,
    /// `user`, `item`, `time`, `weight`, `context` or `unused`.
    pub role: String,
    pub because: String,
    pub confidence: f64,
    pub examples: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Times {
    pub unit: String,
    /// The numbers are dates; otherwise they count from an origin of their own.
    pub dated: bool,
    /// UTC.
    pub first: String,
    pub last: String,
    pub first_micros: i64,
    pub last_micros: i64,
    /// Neighbouring events of a user with equal times, after sorting by time.
    pub ties: u64,
    /// Rows with an earlier time than the user's row before.
    pub out_of_order: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Weights {
    pub lowest: f32,
    pub highest: f32,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct NearDuplicates {
    pub users: u64,
    pub items: u64,
    pub examples: Vec<(String, String)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Companion {
    pub path: String,
    pub what: String,
    /// The key that uses it, if one does.
    pub key: Option<String>,
}

/// Looks at `path` from beginning to end. Bad rows are counted, none is fatal, nor is a column named like a time that holds none; a file
/// without any good row is an error.
pub fn inspect(path: &Path, config: &Data) -> Result<Inspection> {
    let untimed = Data { time_col: "none".into(), ..config.clone() };
    let (mut found, config, unreadable) = match detect(path, config) {
        // A layout is refused with this code for its times alone.
        Err(e) if e.code() == Code::D0106 => (detect(path, &untimed)?, &untimed, Some(e)),
        found => (found?, config, None),
    };
    for time in found.evidence.iter_mut().filter(|e| unreadable.is_some() && e.what == "time") {
        time.because = "a column is named like one and cannot be read".into();
    }
    let layout = found.layout;
    let lenient = Data { on_bad_row: "skip".into(), max_bad_share: 1.0, ..config.clone() };
    let log = read_as(path, &layout, &lenient, None, &mut |_| {})?;
    let bytes = std::fs::metadata(path).map_err(|e| Error::io("reading", path, &e))?.len();
    let order = Order::of(&log);
    let mut events: Vec<u64> = order.users.iter().map(|u| u.1 - u.0).collect();
    events.sort_unstable();
    let times = match (&log.times, layout.time_rule) {
        (Some(times), Some(rule)) => {
            let (first, last) = (times.iter().min().copied().unwrap_or(0), times.iter().max().copied().unwrap_or(0));
            Some(Times {
                unit: rule.unit.name().into(),
                dated: rule.dated,
                first: time::show(first),
                last: time::show(last),
                first_micros: first,
                last_micros: last,
                ties: order.ties(times),
                out_of_order: order.out_of_order,
            })
        }
        _ => None,
    };
    let (repeated_pairs, duplicates) = repeats(&log);
    let mut inspection = Inspection {
        path: path.display().to_string(),
        bytes,
        line_ends: line_ends(path, config, &layout)?,
        columns: columns(&layout, &found.evidence, &found.examples),
        rows: log.users.len() as u64,
        users: log.user_ids.len() as u64,
        items: log.item_ids.len() as u64,
        events_per_user: [events.first(), events.get(events.len() / 2), events.last()].map(|e| e.copied().unwrap_or(0)),
        times,
        weights: log.weights.as_ref().map(|w| Weights {
            lowest: w.iter().copied().fold(f32::INFINITY, f32::min),
            highest: w.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        }),
        rejected: log.rejected.clone(),
        spanning: log.spanning,
        repeated_pairs,
        duplicates,
        near_duplicates: near_duplicates(&log),
        companions: companions(path, &layout),
        warnings: vec![],
        command: format!("hardneg train {}", quoted(&path.display().to_string())),
        spelled_out: spelled_out(path, &layout),
        evidence: found.evidence,
        layout,
    };
    inspection.warnings = warnings(&inspection, config);
    let advice =
        "name another with `data.time_col`, write its times in another way, or go without them as the command below does";
    inspection.warnings.splice(0..0, unreadable.map(|e| format!("{}, so training would stop: {advice}", e.what())));
    if given(config) {
        // Guesses of a bare call would differ from what was declared here.
        inspection.command = inspection.spelled_out.clone();
    }
    Ok(inspection)
}

/// Something besides the path was declared.
fn given(config: &Data) -> bool {
    Data { path: config.path.clone(), ..Data::default() } != *config
}

/// Rows grouped by user, in input order.
struct Order {
    /// (users) range in `rows`.
    users: Vec<(u64, u64)>,
    rows: Vec<u64>,
    out_of_order: u64,
}

impl Order {
    fn of(log: &RawLog) -> Order {
        let mut ends = vec![0u64; log.user_ids.len() + 1];
        for &user in &log.users {
            ends[user as usize + 1] += 1;
        }
        for i in 1..ends.len() {
            ends[i] += ends[i - 1];
        }
        let mut next = ends.clone();
        let mut rows = vec![0u64; log.users.len()];
        let mut out_of_order = 0;
        for (row, &user) in log.users.iter().enumerate() {
            let at = &mut next[user as usize];
            if let Some(times) = &log.times
                && *at > ends[user as usize]
            {
                out_of_order += (times[row] < times[rows[*at as usize - 1] as usize]) as u64;
            }
            rows[*at as usize] = row as u64;
            *at += 1;
        }
        Order { users: ends.windows(2).map(|w| (w[0], w[1])).collect(), rows, out_of_order }
    }
    fn ties(&self, times: &[i64]) -> u64 {
        let mut ties = 0;
        let mut own = vec![];
        for &(from, to) in &self.users {
            own.clear();
            own.extend(self.rows[from as usize..to as usize].iter().map(|&row| times[row as usize]));
            own.sort_unstable();
            ties += own.windows(2).filter(|w| w[0] == w[1]).count() as u64;
        }
        ties
    }
}

/// Rows whose (user, item) came before, and those that also share its time.
fn repeats(log: &RawLog) -> (u64, u64) {
    let mut keys: Vec<(u32, u32, i64)> = (0..log.users.len())
        .map(|row| (log.users[row], log.items[row], log.times.as_ref().map_or(0, |times| times[row])))
        .collect();
    keys.sort_unstable();
    let pairs = keys.windows(2).filter(|w| (w[0].0, w[0].1) == (w[1].0, w[1].1)).count() as u64;
    let exact = keys.windows(2).filter(|w| w[0] == w[1]).count() as u64;
    (pairs, if log.times.is_some() { exact } else { 0 })
}

/// An id with the differences removed that typing and number formatting make.
fn canonical(id: &[u8]) -> Vec<u8> {
    let mut id = id.trim_ascii().to_ascii_lowercase();
    if let Some(stem) = id.strip_suffix(b".0")
        && !stem.is_empty()
        && stem.iter().all(u8::is_ascii_digit)
    {
        id.truncate(id.len() - 2);
    }
    if id.iter().all(u8::is_ascii_digit) {
        let zeros = id.iter().take_while(|&&b| b == b'0').count().min(id.len().saturating_sub(1));
        id.drain(..zeros);
    }
    id
}

fn near_duplicates(log: &RawLog) -> NearDuplicates {
    let mut out = NearDuplicates::default();
    let mut count = |ids: &Ids| {
        let mut seen = Ids::new();
        // (canonical) the first id of that form.
        let mut first: Vec<u32> = vec![];
        let mut pairs = 0;
        for code in 0..ids.len() as u32 {
            let form = seen.intern(&canonical(ids.get(code))) as usize;
            if form == first.len() {
                first.push(code);
            } else {
                pairs += 1;
                if out.examples.len() < 3 {
                    out.examples.push((rows::shown(ids.get(first[form])), rows::shown(ids.get(code))));
                }
            }
        }
        pairs
    };
    let (users, items) = (count(&log.user_ids), count(&log.item_ids));
    NearDuplicates { users, items, ..out }
}

fn line_ends(path: &Path, config: &Data, layout: &Layout) -> Result<Option<String>> {
    if layout.format == "parquet" {
        return Ok(None);
    }
    let sample = Sample::take(path, config)?;
    let all = memchr::memchr_iter(b'\n', &sample.text).count();
    let windows = memchr::memmem::find_iter(&sample.text, b"\r\n").count();
    Ok(Some(match (all, windows) {
        (0, _) => "none (a single line)".into(),
        (_, 0) => "LF".into(),
        (all, windows) if all == windows => "CRLF".into(),
        (all, windows) => format!("mixed: {windows} of {all} sampled line ends are CRLF"),
    }))
}

fn columns(layout: &Layout, evidence: &[Evidence], examples: &[Vec<String>]) -> Vec<ColumnView> {
    let role = |i: usize| match i {
        i if i == layout.user => "user",
        i if i == layout.item => "item",
        i if Some(i) == layout.time => "time",
        i if Some(i) == layout.weight => "weight",
        i if layout.context.iter().any(|c| c.column == i) => "context",
        _ => "unused",
    };
    (0..layout.columns.len())
        .map(|i| {
            let role = role(i);
            let found = evidence.iter().find(|e| e.what == role);
            ColumnView {
                number: i + 1,
                name: rows::shown(layout.columns[i].as_bytes()),
                role: role.into(),
                because: found.map_or(String::new(), |e| e.because.clone()),
                confidence: found.map_or(1.0, |e| e.confidence),
                examples: examples.get(i).cloned().unwrap_or_default(),
            }
        })
        .collect()
}

/// Files that the field's data sets put beside a log.
fn companions(path: &Path, layout: &Layout) -> Vec<Companion> {
    let mut out = vec![];
    if let Some(times) = &layout.times_path {
        out.push(Companion { path: times.clone(), what: "times of the same lines".into(), key: Some("data.times_path".into()) });
    } else if layout.format == "s3rec"
        && let Some(times) = s3rec::sibling(path)
    {
        let path = times.display().to_string();
        out.push(Companion { path, what: "times of the same lines".into(), key: Some("data.times_path".into()) });
    }
    if let Some(items) = side_file(path) {
        let path = items.display().to_string();
        out.push(Companion { path, what: "item attributes".into(), key: Some("data.items_path".into()) });
    }
    for (ending, what, key) in [
        ("user", "user attributes", None),
        ("kg", "a knowledge graph", Some("data.graph_path")),
        ("link", "links from items to the graph", Some("data.link_path")),
    ] {
        if let Some(path) = stem(path, &["inter", "data"]).and_then(|stem| beside(path, &format!("{stem}.{ending}"))) {
            out.push(Companion { path: path.display().to_string(), what: what.into(), key: key.map(String::from) });
        }
    }
    out
}

/// The file of item attributes that belongs to a log by the names of public data sets: `x.item` beside `x.inter` (RecBole),
/// `u.item` beside `u.data`, `movies.dat` or `movies.csv` beside `ratings...`.
pub fn side_file(path: &Path) -> Option<PathBuf> {
    if let Some(stem) = stem(path, &["inter", "data"]) {
        return beside(path, &format!("{stem}.item"));
    }
    let name = path.file_name()?.to_str()?;
    if name.starts_with("ratings") {
        return ["movies.dat", "movies.csv"].iter().find_map(|name| beside(path, name));
    }
    None
}

/// The file's name without one of these endings (and a compression ending).
fn stem(path: &Path, endings: &[&str]) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = [".gz", ".zst"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(name);
    endings.iter().find_map(|e| name.strip_suffix(e)?.strip_suffix('.')).map(str::to_string)
}

fn beside(path: &Path, name: &str) -> Option<PathBuf> {
    [name.to_string(), format!("{name}.gz"), format!("{name}.zst")]
        .iter()
        .map(|name| path.with_file_name(name))
        .find(|p| p.is_file())
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn spelled_out(path: &Path, layout: &Layout) -> String {
    let mut words = vec![format!("hardneg train {}", quoted(&path.display().to_string()))];
    let mut set = |key: &str, value: &str| words.push(format!("--set {}", quoted(&format!("data.{key}={value}"))));
    set("format", &layout.format);
    let roles = |set: &mut dyn FnMut(&str, &str)| {
        let name = |i: usize| {
            let name = layout.column_name(i);
            if name.is_empty() { (i + 1).to_string() } else { name.to_string() }
        };
        set("user_col", &name(layout.user));
        set("item_col", &name(layout.item));
        set("time_col", &layout.time.map_or("none".into(), name));
        set("weight_col", &layout.weight.map_or("none".into(), name));
    };
    match layout.format.as_str() {
        "sasrec" => {}
        "s3rec" => {
            if let Some(times) = &layout.times_path {
                set("times_path", times);
            }
        }
        "delimited" | "recbole" => {
            set("delimiter", &show_delimiter(&layout.delimiter));
            if layout.format == "delimited" {
                set("header", if layout.header { "yes" } else { "no" });
            }
            roles(&mut set);
        }
        _ => roles(&mut set),
    }
    if layout.format != "sasrec" {
        set("time_unit", layout.time_rule.map_or("none", |rule| rule.unit.name()));
    }
    let encoding = match layout.encoding {
        Encoding::Utf16Le | Encoding::Utf16Be => Some("utf-16"),
        Encoding::Latin1 => Some("latin-1"),
        _ => None,
    };
    if let Some(encoding) = encoding {
        set("encoding", encoding);
    }
    if !layout.context.is_empty() {
        let kinds = |kind| if kind == ContextKind::Cat { "cat" } else { "num" };
        let columns: Vec<String> = layout.context.iter().map(|c| format!("\"{}:{}\"", c.name, kinds(c.kind))).collect();
        set("context", &format!("[{}]", columns.join(", ")));
    }
    words.join(" ")
}

fn warnings(i: &Inspection, config: &Data) -> Vec<String> {
    let mut out = vec![];
    let share = |part: u64| 100.0 * part as f64 / i.rows.max(1) as f64;
    match &i.times {
        None => out.push("there are no times: the order of the file is taken as the order of events, and temporal context is off".into()),
        Some(times) if !times.dated => out.push(format!(
            "the times count from an unknown origin: they are taken as {} after 1970-01-01, so order and distances hold, dates and hours do not (`data.time_unit` overrides)",
            if times.unit == "s" { "seconds" } else { times.unit.as_str() }
        )),
        Some(_) => {}
    }
    if let Some(times) = &i.times
        && times.ties > 0
    {
        let ties = share(times.ties);
        out.push(format!(
            "{} neighbouring events of a user have equal times ({ties:.1} % of rows); they stay in the order of the file",
            times.ties
        ));
    }
    if i.duplicates > 0 {
        out.push(format!(
            "{} rows repeat an earlier one in user, item and time (`data.dedup = \"exact\"` drops them)",
            i.duplicates
        ));
    }
    if i.layout.encoding == Encoding::Bytes {
        out.push("the text is not UTF-8; ids are compared as bytes and shown with replacement characters (`data.encoding = \"latin-1\"` decodes them)".into());
    }
    let near = &i.near_duplicates;
    if near.users + near.items > 0 {
        let shown: Vec<String> = near.examples.iter().map(|(a, b)| format!("\"{a}\" and \"{b}\"")).collect();
        let (users, items) = (near.users, near.items);
        out.push(format!(
            "{users} users and {items} items differ from another only in zeros, case or blanks, such as {}; they are kept apart",
            shown.join(", ")
        ));
    }
    out.extend(i.spanning.warning(i.rows));
    let bad = i.rejected.total();
    if bad > 0 && bad as f64 > config.max_bad_share * (i.rows + bad) as f64 {
        out.push(format!("{bad} rows cannot be used, more than `data.max_bad_share` allows: training would stop"));
    }
    if i.users == 1 || i.items == 1 {
        out.push("there is only one user or one item: nothing can be ranked".into());
    } else if i.events_per_user[2] == 1 {
        let lines = if i.layout.delimiter == " " {
            "; where a line is a user and all its items, use `data.format = \"s3rec\"`"
        } else {
            ""
        };
        out.push(format!("no user has a second event, so there is nothing to learn: check which column is the user{lines}"));
    }
    for e in &i.evidence {
        if e.confidence < 0.75 && e.what != "time unit" {
            out.push(format!("{} = {} is a weak guess ({}); declare it if it is wrong", e.what, e.value, e.because));
        }
    }
    out
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = &self.layout;
        writeln!(f, "{} ({} bytes)", rows::shown(self.path.as_bytes()), grouped(self.bytes))?;
        let compression = format!("{:?}", layout.compression).to_lowercase();
        let mut parts = vec![layout.format.clone(), compression, encoding_name(layout.encoding).to_string()];
        if !layout.delimiter.is_empty() {
            parts.push(format!("separated by {}", show_delimiter(&layout.delimiter)));
        }
        parts.push(if layout.header { "with a header".into() } else { "no header".into() });
        parts.extend(self.line_ends.as_ref().map(|ends| format!("line ends {ends}")));
        writeln!(f, "  {}", parts.join(", "))?;
        writeln!(f, "\nWhy")?;
        for e in &self.evidence {
            writeln!(f, "  {:<12} {:<24} {:>3.0} %  {}", e.what, e.value, 100.0 * e.confidence, e.because)?;
        }
        writeln!(f, "\nColumns")?;
        for c in &self.columns {
            writeln!(f, "  {:>3} {:<20} {:<8} {}", c.number, c.name, c.role, c.examples.join(", "))?;
        }
        writeln!(f, "\nContent")?;
        let [fewest, median, most] = self.events_per_user.map(grouped);
        writeln!(
            f,
            "  {} rows, {} users, {} items; events per user: {fewest} to {most}, median {median}",
            grouped(self.rows),
            grouped(self.users),
            grouped(self.items)
        )?;
        if let Some(t) = &self.times {
            if t.dated {
                writeln!(f, "  times {} to {} UTC (unit {})", t.first, t.last, t.unit)?;
            } else {
                let days = (t.last_micros - t.first_micros) as f64 / 86_400e6;
                writeln!(f, "  times without a date, {days:.1} days from first to last (unit {})", t.unit)?;
            }
            writeln!(
                f,
                "  {} ties between neighbouring events, {} rows before their predecessor in time",
                grouped(t.ties),
                grouped(t.out_of_order)
            )?;
        }
        if let Some(w) = &self.weights {
            writeln!(f, "  weights {} to {}", w.lowest, w.highest)?;
        }
        writeln!(
            f,
            "  {} repeated (user, item) pairs, {} exact duplicates",
            grouped(self.repeated_pairs),
            grouped(self.duplicates)
        )?;
        if self.rejected.total() == 0 {
            writeln!(f, "  every row can be used")?;
        }
        for (name, class) in &self.rejected.classes {
            let lines: Vec<String> = class.first.iter().map(u64::to_string).collect();
            writeln!(f, "  {} unusable rows: {name} (first: lines {})", grouped(class.rows), lines.join(", "))?;
        }
        for c in &self.companions {
            let key = c.key.as_ref().map_or(String::new(), |key| format!(" (`{key}`)"));
            writeln!(f, "  beside it: {}, {}{key}", c.path, c.what)?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nnote: {warning}")?;
        }
        write!(f, "\nTo train on it\n  {}", self.command)?;
        if self.command != self.spelled_out {
            write!(f, "\nthe same with every guess written out\n  {}", self.spelled_out)?;
        }
        Ok(())
    }
}
