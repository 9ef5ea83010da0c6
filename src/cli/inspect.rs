//! `hardneg inspect FILE`: what a file is, how it would be read and why, what is wrong in it, and the settings that say
//! so. Reads the whole log, writes nothing.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::arguments::SettingFlags;
use crate::cli::terminal::{self, grouped};
use crate::cli::{intake, settings};
use crate::data::interactions::{Attributes, Interactions, Values};
use crate::data::read;
use crate::error::{Code, Error, Result};
use crate::train::checkpoint;
use crate::train::run_dir::RunDir;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hardneg inspect ratings.csv\n  hardneg inspect log.tsv.gz --set data.user_col=2 --json")]
pub struct Args {
    /// A log, a prepared file or a run directory
    file: PathBuf,
    #[command(flatten)]
    settings: SettingFlags,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let path = args.file.as_path();
    let prepared = if path.is_dir() { Ok(false) } else { is_prepared(path) };
    let is_log = !path.is_dir() && matches!(prepared, Ok(false));
    // Nothing is set of a run or a prepared file, so what somebody keeps for logs is no business of theirs.
    let mut inputs = if is_log { args.settings.inputs() } else { args.settings.typed() };
    inputs.flags.push(("FILE".into(), "data.path", toml::Value::String(path.display().to_string())));
    // Settings typed here that cannot be read are told of whatever the file is.
    let settings = settings::resolve(&inputs)?;
    if path.is_dir() {
        return inspect_run(path, json);
    }
    if prepared? {
        return inspect_prepared(path, json);
    }
    let found = read::inspect(path, &settings.config.data)?;
    if json {
        let value = serde_json::to_value(&found).map_err(|e| Error::internal(e.to_string()))?;
        return terminal::out(&value.to_string());
    }
    terminal::out(terminal::escape(&found.to_string()).trim_end())
}

/// A prepared file, its checksums compared.
fn inspect_prepared(path: &Path, json: bool) -> Result<()> {
    let data = Interactions::open(path)?;
    data.verify()?;
    if json {
        return terminal::out(&prepared_json(path, &data).to_string());
    }
    terminal::out(&format!("{}: prepared data, all checksums hold\n\n{}", path.display(), prepared_text(&data)))
}

pub fn prepared_json(path: &Path, data: &Interactions) -> Value {
    let meta = data.meta();
    let of_items = |sides: Option<Attributes>| sides.map(|a| json!({ "items": a.described(), "different": a.width() }));
    let columns: Vec<Value> = data
        .columns()
        .iter()
        .map(|column| match column.values {
            Values::Numeric(_) => json!({ "name": column.name, "kind": "num" }),
            Values::Categorical { names, .. } => json!({ "name": column.name, "kind": "cat", "categories": names.len() }),
        })
        .collect();
    json!({
        "file": path.display().to_string(), "fingerprint": intake::fingerprint(data), "source": meta.source,
        "statistics": meta.statistics, "filters": meta.filters, "rejected": meta.rejected,
        "context": columns, "attributes": of_items(data.attributes()), "graph": of_items(data.graph()),
    })
}

/// What prepared data hold and what was left out of them.
pub fn prepared_text(data: &Interactions) -> String {
    let meta = data.meta();
    let s = &meta.statistics;
    let mut rows = vec![
        ("source", meta.source.clone()),
        ("events", grouped(s.events)),
        ("users", grouped(s.users)),
        ("items", grouped(s.items)),
        (
            "history",
            format!(
                "{} to {} events, median {}, mean {:.1}",
                s.min_length,
                grouped(s.max_length),
                s.median_length,
                s.mean_length
            ),
        ),
        ("density", format!("{:.4} %", 100.0 * s.density)),
        ("repeated", format!("{} events whose user had the item before", grouped(s.repeated))),
    ];
    if let (Some(first), Some(last)) = (s.first_time, s.last_time) {
        rows.push(("time", format!("{} to {}, {} ties", read::time::show(first), read::time::show(last), grouped(s.ties))));
    }
    for column in data.columns() {
        rows.push((
            "context",
            match column.values {
                Values::Numeric(_) => format!("{}: numbers", column.name),
                Values::Categorical { names, .. } => format!("{}: {} categories", column.name, grouped(names.len() as u64)),
            },
        ));
    }
    for (what, sides, of) in [("attributes", data.attributes(), "attributes"), ("graph", data.graph(), "entities")] {
        if let Some(sides) = sides {
            let (described, width) = (grouped(sides.described()), grouped(sides.width() as u64));
            rows.push((what, format!("{described} of {} items have some of {width} {of}", grouped(s.items))));
        }
    }
    for filter in &meta.filters {
        rows.push((
            "filter",
            format!("{}: {} of {} events left", filter.name, grouped(filter.after.events), grouped(filter.before.events)),
        ));
    }
    if meta.rejected.total() > 0 {
        rows.push(("bad rows", grouped(meta.rejected.total())));
    }
    rows.push(("hash", intake::fingerprint(data)));
    let lines: Vec<String> = rows.iter().map(|(what, text)| format!("{what:<10} {}", terminal::escape(text))).collect();
    lines.join("\n")
}

/// A run directory: who made it, how far it is, how it ended. Every checkpoint is read and compared with its checksums.
fn inspect_run(path: &Path, json: bool) -> Result<()> {
    let run = RunDir::open(path)?;
    let manifest = run.read_manifest()?;
    let mut checkpoints = vec![];
    for (what, dir) in [("checkpoint", run.checkpoints()), ("best", run.best())] {
        for step in checkpoint::steps(&dir)? {
            let health =
                checkpoint::load(&dir.join(format!("step-{step}"))).map_or_else(|e| e.what().to_string(), |_| "whole".into());
            checkpoints.push((what, step, health));
        }
    }
    let last = run.records()?.pop();
    if json {
        let checkpoints: Vec<_> =
            checkpoints.iter().map(|(what, step, health)| json!({ "what": what, "step": step, "health": health })).collect();
        return terminal::out(
            &json!({ "run": path.display().to_string(), "manifest": manifest, "checkpoints": checkpoints, "last_record": last })
                .to_string(),
        );
    }
    terminal::out(&path.display().to_string())?;
    if let Some(m) = manifest {
        terminal::out(&format!(
            "version    {}\ndevice     {}\ndata       {} ({})",
            m.version, m.device, m.data_file, m.data_fingerprint
        ))?;
        terminal::out(&format!("exit       {}", m.exit.as_deref().unwrap_or("running, or killed")))?;
        m.state_hash.map_or(Ok(()), |hash| terminal::out(&format!("state      {hash}")))?;
    }
    for (what, step, health) in checkpoints {
        terminal::out(&format!("{what:<11}step {step}: {health}"))?;
    }
    Ok(())
}

/// Whether a file begins like a prepared file.
pub fn is_prepared(path: &Path) -> Result<bool> {
    let unreadable = |e: std::io::Error| Error::new(Code::D0101, format!("reading {}: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut head = vec![];
    file.take(8).read_to_end(&mut head).map_err(unreadable)?;
    Ok(head == *b"hardneg\0")
}
