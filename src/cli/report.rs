//! `hardneg report RUN...`: what runs bought, as a page, as event files of TensorBoard, or as a CSV table.
//!
//! Reads the small files of the run directories only, so it works while a run trains and where its data are gone.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::output::write;
use crate::cli::settings::flat;
use crate::cli::terminal;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::report::{Run, Setting, events, page, table};
use crate::train::run_dir::{RECORD_VERSION, RunDir};

/// Runs of one page: more curves than anybody tells apart, and a file of at most 2 MB.
pub(super) const MOST: usize = 100;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg report runs/first\n  hardneg report runs/uniform runs/dns --out dns.html --csv dns.csv --tensorboard events"
)]
pub struct Args {
    /// Run directories
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page; default `report.html` in the run, or here for several, unless another output is asked for
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write TensorBoard event files, a folder per run
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Also write the records as one table
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write the picture of accuracy against coverage, an SVG file; for several runs
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    if args.runs.len() > MOST {
        return Err(Error::new(Code::C0202, format!("{} runs; a report shows at most {MOST}", args.runs.len())));
    }
    let runs = open(&args.runs)?;
    let mut written = vec![];
    let page = match (&args.out, &args.runs[..]) {
        (Some(out), _) => Some(out.clone()),
        (None, _) if args.tensorboard.is_some() || args.csv.is_some() || args.picture.is_some() => None,
        (None, [run]) => Some(run.join("report.html")),
        (None, _) => Some("report.html".into()),
    };
    if let Some(out) = page {
        write(&out, page::html(&runs).as_bytes())?;
        written.push(("page", out));
    }
    if let Some(dir) = &args.tensorboard {
        for (i, run) in runs.iter().enumerate() {
            let folder = dir.join(folder(&run.name, i, runs.len()));
            std::fs::create_dir_all(&folder).map_err(|e| Error::io("creating", &folder, &e))?;
            let started = run.manifest["started"].as_u64().unwrap_or(0);
            // The name is fixed by the run, so that the same command replaces the file and does not add a second curve.
            let file = folder.join(format!("events.out.tfevents.{started}.hardneg"));
            write(&file, &events::file(&run.records, started as f64))?;
        }
        written.push(("tensorboard", dir.clone()));
    }
    if let Some(out) = &args.csv {
        write(out, table::csv(&runs).as_bytes())?;
        written.push(("csv", out.clone()));
    }
    if let Some(out) = &args.picture {
        let picture = page::picture(&runs).ok_or_else(|| {
            Error::new(Code::C0205, "there is no accuracy to set against coverage")
                .help("name at least two runs that have finished")
        })?;
        write(out, picture.as_bytes())?;
        written.push(("picture", out.clone()));
    }
    let notes = page::notes(&runs);
    if json {
        let files: serde_json::Map<String, Value> =
            written.iter().map(|(what, path)| (what.to_string(), json!(path.display().to_string()))).collect();
        return terminal::out(&json!({ "v": 1, "kind": "report", "files": files, "notes": notes }).to_string());
    }
    notes.iter().for_each(|note| terminal::say(&format!("note: {note}")));
    for (what, path) in &written {
        terminal::out(&terminal::escape(&format!("{what:<12} {}", path.display())))?;
    }
    Ok(())
}

/// Writes the page of `runs` to `out`.
pub fn write_page(runs: &[PathBuf], out: &Path) -> Result<()> {
    write(out, page::html(&open(runs)?).as_bytes())
}

fn open(paths: &[PathBuf]) -> Result<Vec<Run>> {
    let mut runs = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    shorten(&mut runs);
    Ok(runs)
}

fn read(path: &Path) -> Result<Run> {
    let dir = RunDir::open(path)?;
    let manifest = dir.read_json("manifest.json")?.unwrap_or_default();
    let other = |v: &Value| !v.is_null() && *v != RECORD_VERSION;
    let refuse = |what: &str, v: &Value| {
        let version = manifest["version"].as_str().unwrap_or("unknown");
        Error::new(Code::M0407, format!("{}: {what} of version {v}; this program reads version {RECORD_VERSION}", path.display()))
            .help(format!("make the report with the hardneg that made the run ({version})"))
    };
    if other(&manifest["v"]) {
        return Err(refuse("a run", &manifest["v"]));
    }
    let (records, broken) = dir.records_and_broken()?;
    if let Some(record) = records.iter().find(|record| other(&record["v"])) {
        return Err(refuse("records", &record["v"]));
    }
    let report = dir.read_json("report.json")?.unwrap_or_default();
    if report.is_null() && !records.iter().any(|r| r["kind"] == "epoch" || r["kind"] == "evaluation") {
        return Err(Error::new(Code::M0406, format!("{} holds no record yet", path.display()))
            .help("wait for the end of the first epoch, or continue the run with the command that began it"));
    }
    let config = dir.read_config()?.unwrap_or_default();
    let (values, defaults) = (flat(&config)?, flat(&Config::default())?);
    let setting = |(key, value): (String, toml::Value)| {
        let default = defaults.iter().find(|(k, _)| *k == key).map(|(_, v)| v.to_string());
        Setting { key, value: value.to_string(), default }
    };
    let settings = values.into_iter().map(setting).collect();
    Ok(Run { name: path.display().to_string(), settings, metric: config.train.metric, manifest, report, records, broken })
}

/// Runs by the last part of their path, where that tells them apart.
fn shorten(runs: &mut [Run]) {
    let short: Vec<String> = runs
        .iter()
        .map(|run| Path::new(&run.name).file_name().map_or(run.name.clone(), |name| name.to_string_lossy().into_owned()))
        .collect();
    let distinct: std::collections::BTreeSet<&String> = short.iter().collect();
    if distinct.len() == short.len() {
        runs.iter_mut().zip(short).for_each(|(run, name)| run.name = name);
    }
}

/// A folder's name for a run: letters, digits and `.-_`, numbered where there are several.
fn folder(name: &str, at: usize, of: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).take(80).collect();
    let name = name.trim_start_matches('.');
    match (of, name) {
        (1, "") => "run".into(),
        (1, name) => name.into(),
        _ => format!("{:02}-{name}", at + 1),
    }
}
