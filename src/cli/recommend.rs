//! `hardneg recommend RUN`: lists of items for users of the log, or for histories from standard input.

use std::fs::File;
use std::io::{BufRead, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::arguments::Machine;
use crate::cli::measure::Part;
use crate::cli::output::Target;
use crate::cli::terminal;
use crate::cli::trained::Trained;
use crate::data::batch::Batch;
use crate::data::context::Request;
use crate::data::interactions::Interactions;
use crate::data::training::{History, TrainingSet};
use crate::error::{Code, Error, Result};
use crate::eval::{self, Encoder, Limits, ListWriter, lists};

/// Longest line of a history, in bytes.
const LINE: u64 = 64 << 20;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg recommend runs/ratings --users all -k 10 -o lists.csv\n  echo '{\"user\":\"me\",\"items\":[\"50\",\"181\"]}' | hardneg recommend runs/ratings --sequences -\n\nA line of --sequences is a JSON object: `items` (ids, oldest first), and optionally `user`, `times` (seconds since 1970,\none per item), `time` (of the request) and `context` (column: value)."
)]
pub struct Args {
    /// A run directory
    run: PathBuf,
    /// `all`, ids separated by commas, or a file with one id per line
    #[arg(long, value_name = "USERS", required_unless_present = "sequences", conflicts_with = "sequences")]
    users: Option<String>,
    /// Histories from a file of JSON lines, `-` for standard input
    #[arg(long, value_name = "FILE")]
    sequences: Option<PathBuf>,
    /// Items per list
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Recommend as of the events of a split instead of after the whole history
    #[arg(long, value_enum, conflicts_with = "sequences")]
    split: Option<Part>,
    /// `csv`, `jsonl` or `parquet`; default `csv`, with `--json` `jsonl`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Where to; standard output if left away
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Recommend only these items (a file with one id per line)
    #[arg(long, value_name = "FILE")]
    allow: Option<PathBuf>,
    /// Never recommend these items (a file with one id per line)
    #[arg(long, value_name = "FILE")]
    deny: Option<PathBuf>,
    /// Items of the history may be recommended again
    #[arg(long)]
    keep_seen: bool,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let format: lists::Format = args.format.as_deref().unwrap_or(if json { "jsonl" } else { "csv" }).parse()?;
    let Trained { config, set, mut model, device, .. } = Trained::alone(&args.run, &args.machine)?;
    let data = set.data();
    let allow = args.allow.as_deref().map(|path| items_of(path, data)).transpose()?;
    let deny = args.deny.as_deref().map_or(Ok(vec![]), |path| items_of(path, data))?;
    let limits = Limits::new(data.items(), args.k, !args.keep_seen, allow.as_deref(), &deny)?;
    let mut ranker = Encoder::new(&mut model, &device, &config.model.kind)?;
    let tile = eval::tile_rows(data.items());
    let text = (0..data.users() as u32).all(|u| std::str::from_utf8(data.user_name(u)).is_ok())
        && (0..data.items() as u32).all(|i| std::str::from_utf8(data.item_name(i)).is_ok());
    match (&args.sequences, &args.users) {
        (Some(path), _) => {
            let asked = histories(path, data)?;
            let mut batches = asked.chunked(&set, tile);
            let name = |at: u64, _: u32| asked.names[at as usize].as_bytes();
            write_lists(args, format, text, &mut |to| {
                eval::recommend(&mut ranker, &mut batches, &limits, &name, &|i| data.item_name(i), to)
            })
        }
        (None, users) => {
            let users = users_of(users.as_deref().unwrap_or("all"), data)?;
            let mut batches = batches_of(&users, args.split, &set, tile);
            write_lists(args, format, text, &mut |to| {
                eval::recommend(&mut ranker, &mut batches, &limits, &|_, u| data.user_name(u), &|i| data.item_name(i), to)
            })
        }
    }
}

/// Opens the output, lets `work` fill it, and finishes it. `text`: all names are UTF-8.
fn write_lists(
    args: &Args,
    format: lists::Format,
    text: bool,
    work: &mut dyn FnMut(&mut dyn ListWriter) -> Result<u64>,
) -> Result<()> {
    let mut file = args.out.as_deref().map(Target::create).transpose()?;
    let path = args.out.as_deref().unwrap_or(Path::new("standard output"));
    let to: Box<dyn Write + Send + '_> = match &mut file {
        Some(file) => Box::new(file),
        None => Box::new(terminal::Output),
    };
    let mut writer = lists::writer(format, Box::new(BufWriter::new(to)), path, text)?;
    work(writer.as_mut())?;
    writer.finish()?;
    drop(writer);
    file.map_or(Ok(()), Target::finish)
}

/// Requests of users of the log: after everything they did, or as of the events of a split.
fn batches_of<'a>(
    users: &'a [u32],
    part: Option<Part>,
    set: &'a TrainingSet,
    tile: usize,
) -> Box<dyn Iterator<Item = Result<Batch>> + 'a> {
    let Some(part) = part else {
        return Box::new(users.chunks(tile).map(move |chunk| set.requests_now(chunk, &[])));
    };
    let mut wanted = vec![false; set.data().users()];
    users.iter().for_each(|&u| wanted[u as usize] = true);
    let targets: Vec<_> = part.targets(set).iter().copied().filter(|t| wanted[t.user as usize]).collect();
    let chunks: Vec<Vec<_>> = targets.chunks(tile).map(<[_]>::to_vec).collect();
    Box::new(chunks.into_iter().map(move |chunk| Ok(set.requests(&chunk))))
}

/// Non-empty lines of a small file of ids.
fn lines(path: &Path) -> Result<Vec<Vec<u8>>> {
    let file = File::open(path).map_err(|e| Error::new(Code::D0101, format!("reading {}: {e}", path.display())))?;
    let mut text = vec![];
    file.take(1 << 30).read_to_end(&mut text).map_err(|e| Error::io("reading", path, &e))?;
    let trimmed = text.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
    Ok(trimmed.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

fn items_of(path: &Path, data: &Interactions) -> Result<Vec<u32>> {
    lines(path)?.iter().map(|id| data.find_item(id).ok_or_else(|| unknown("item", id, Some(path)))).collect()
}

fn users_of(text: &str, data: &Interactions) -> Result<Vec<u32>> {
    if text == "all" {
        return Ok((0..data.users() as u32).collect());
    }
    let path = Path::new(text);
    let (ids, place) = if path.is_file() {
        (lines(path)?, Some(path))
    } else {
        (text.split(',').map(|id| id.trim().as_bytes().to_vec()).collect(), None)
    };
    ids.iter().map(|id| data.find_user(id).ok_or_else(|| unknown("user", id, place))).collect()
}

fn unknown(what: &str, id: &[u8], place: Option<&Path>) -> Error {
    let error = Error::new(Code::D0406, format!("the log has no {what} `{}`", String::from_utf8_lossy(id)));
    place.map_or(error.clone(), |path| error.at(path.display().to_string()))
}

/// One line of `--sequences`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    user: Option<Id>,
    items: Vec<Id>,
    #[serde(default)]
    times: Option<Vec<f64>>,
    #[serde(default)]
    time: Option<f64>,
    #[serde(default)]
    context: std::collections::BTreeMap<String, Id>,
}

/// An id or a value, typed with or without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(serde_json::Number),
}

impl Id {
    fn text(&self) -> String {
        match self {
            Id::Text(text) => text.clone(),
            Id::Number(number) => number.to_string(),
        }
    }
}

/// Histories from outside the log.
#[derive(Default)]
struct Asked {
    names: Vec<String>,
    histories: Vec<History>,
    requests: Vec<Request>,
}

impl Asked {
    fn chunked<'a>(&'a self, set: &'a TrainingSet, tile: usize) -> impl Iterator<Item = Result<Batch>> + 'a {
        (0..self.histories.len()).step_by(tile).map(move |from| {
            let range = from..(from + tile).min(self.histories.len());
            set.adhoc(&self.histories[range.clone()], &self.requests[range])
        })
    }
}

fn histories(path: &Path, data: &Interactions) -> Result<Asked> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).map_err(|e| Error::new(Code::D0101, format!("reading {}: {e}", path.display())))?)
    };
    let mut input = std::io::BufReader::new(input);
    let (mut asked, mut unknown, mut empty) = (Asked::default(), 0u64, 0u64);
    for number in 1.. {
        let place = || format!("{}:{number}", path.display());
        let mut text = vec![];
        let read = input.by_ref().take(LINE).read_until(b'\n', &mut text).map_err(|e| Error::io("reading", path, &e))?;
        if read == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(&text).map_err(|e| {
            Error::new(Code::D0406, format!("not a history: {e}")).at(place()).help(
                "a line looks like {\"user\": \"me\", \"items\": [\"50\", \"181\"]}; `hardneg recommend --help` lists all fields",
            )
        })?;
        let micros = |seconds: f64| (seconds * 1e6).round() as i64;
        if line.times.as_ref().is_some_and(|t| t.len() != line.items.len()) {
            return Err(Error::new(Code::D0406, "`times` and `items` have different lengths").at(place()));
        }
        let mut history = History { items: vec![], times: line.times.as_ref().map(|_| vec![]) };
        for (at, id) in line.items.iter().enumerate() {
            let Some(item) = data.find_item(id.text().as_bytes()) else {
                unknown += 1;
                continue;
            };
            history.items.push(item);
            if let (Some(times), Some(given)) = (&mut history.times, &line.times) {
                times.push(micros(given[at]));
            }
        }
        if history.items.is_empty() {
            empty += 1;
            continue;
        }
        asked.names.push(line.user.map_or_else(|| number.to_string(), |id| id.text()));
        asked.histories.push(history);
        let columns = line.context.into_iter().map(|(name, value)| (name, value.text())).collect();
        asked.requests.push(Request { time: line.time.map(micros), columns });
    }
    if unknown > 0 {
        terminal::say(&format!("{unknown} items of the histories are not in the log and were left out"));
    }
    if empty > 0 {
        terminal::say(&format!("{empty} histories without a known item get no list"));
    }
    Ok(asked)
}
