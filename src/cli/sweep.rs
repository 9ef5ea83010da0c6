//! `hardneg sweep [LOG]`: trains every combination of some settings, or a random part of them, or by successive halving; the same
//! command again continues.
//!
//! Every combination is a run directory of its own below `--out`, trained by this same program in a process of its own, so a crash
//! or a kill costs no more than it costs one `hardneg train`. A run that has its report is never trained again. Combinations
//! are compared by their best *validation* value, averaged over seeds: choosing by the test figures would be learning from them.
//! Successive halving (Jamieson and Talwalkar 2016) trains all for a few epochs, keeps the best share, and starts those over with
//! more epochs, because a schedule belongs to its length. A sweep that is through ends in `report.html`, the page of its longest
//! trained runs with the picture of accuracy against coverage and time, and in a paired comparison of the best with the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::arguments::{self, Machine, SettingFlags, Stop};
use crate::cli::measure::Part;
use crate::cli::{compare, report, settings, terminal};
use crate::data::order::Order;
use crate::error::{Code, Error, Exit, Result};
use crate::sampling::Plan;
use crate::train::durable;

/// Combinations of one sweep: beyond this somebody mistyped.
const MOST: usize = 10_000;
/// File of the sweep's results, below `--out`.
const RESULTS: &str = "sweep.json";
/// And of the page of its runs.
const PAGE: &str = "report.html";
/// Combinations that the closing comparison ranks again.
const COMPARED: usize = 8;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg sweep ratings.csv --out sweeps/a --grid sampler.preset=uniform,dns --grid sampler.negatives=1,16 --set loss=bce\n  hardneg sweep ratings.csv --out sweeps/b --grid optim.lr=3e-4,1e-3,3e-3 --grid model.dropout=0.1,0.2,0.5 --halving 3 --min-epochs 4 --budget 2h"
)]
pub struct Args {
    /// A log or a prepared file (`hardneg prepare` reads a large log once for all runs)
    log: Option<PathBuf>,
    /// Folder of the sweep
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// A key and its values, separated by commas; may be repeated
    #[arg(long = "grid", value_name = "KEY=A,B,...", required = true)]
    grid: Vec<String>,
    /// Seeds of every combination, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", default_value = "42")]
    seeds: Vec<u64>,
    /// Train only so many combinations, chosen at random
    #[arg(long, value_name = "N")]
    random: Option<usize>,
    /// Successive halving: keep one of so many combinations from round to round, with so many times the epochs
    #[arg(long, value_name = "RATE")]
    halving: Option<u32>,
    /// Epochs of the first round of successive halving
    #[arg(long, default_value_t = 2, requires = "halving")]
    min_epochs: u32,
    /// Start no more runs, and stop the running one at a checkpoint, after so long (90s, 15m, 2h)
    #[arg(long, value_parser = arguments::seconds, value_name = "TIME")]
    budget: Option<f64>,
    /// `auto`, `host`, `cuda`, `cuda:N` or `emulator`
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    settings: SettingFlags,
}

/// What a finished run is judged by.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    run: String,
    settings: Vec<String>,
    seed: u64,
    epochs: u32,
    /// Best validation value; absent when the run failed, with the reason beside.
    value: Option<f64>,
    error: Option<String>,
    /// Test metrics.
    test: BTreeMap<String, f64>,
    /// Of all epochs.
    seconds: f64,
}

/// One combination over its seeds.
struct Row {
    settings: Vec<String>,
    epochs: u32,
    outcomes: Vec<Outcome>,
}

impl Row {
    /// Mean best validation value; none when a seed failed.
    fn value(&self) -> Option<f64> {
        let values: Option<Vec<f64>> = self.outcomes.iter().map(|o| o.value).collect();
        values.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64)
    }
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let combinations = chosen(args)?;
    let epochs = check(args, &combinations)?;
    let stop = Stop::install()?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io("making", &args.out, &e))?;
    stop.arm();
    let started = Instant::now();
    let mut all: Vec<Row> = vec![];
    let rounds = match args.halving {
        None => vec![epochs],
        Some(rate) => rungs(args.min_epochs, rate, epochs),
    };
    let mut alive = combinations;
    let mut unfinished = 0;
    for (round, &epochs) in rounds.iter().enumerate() {
        let mut rows = vec![];
        for settings in &alive {
            let mut row = Row { settings: settings.clone(), epochs, outcomes: vec![] };
            for &seed in &args.seeds {
                let left = args.budget.map(|budget| budget - started.elapsed().as_secs_f64());
                if stop.asked() || left.is_some_and(|left| left <= 0.0) {
                    unfinished += 1;
                    continue;
                }
                match one(args, settings, seed, epochs, left)? {
                    Some(outcome) => row.outcomes.push(outcome),
                    None => unfinished += 1,
                }
            }
            let done: Vec<&Outcome> = all.iter().chain(&rows).flat_map(|r| &r.outcomes).chain(&row.outcomes).collect();
            let text = json!({ "v": 1, "kind": "sweep", "runs": done }).to_string();
            durable::replace(&args.out.join(RESULTS), text.as_bytes())?;
            rows.push(row);
        }
        rows.sort_by(|a, b| b.value().unwrap_or(f64::NEG_INFINITY).total_cmp(&a.value().unwrap_or(f64::NEG_INFINITY)));
        if unfinished == 0 && round + 1 < rounds.len() {
            let kept = rows.len().div_ceil(args.halving.unwrap_or(2) as usize);
            alive = rows.iter().filter(|r| r.value().is_some()).take(kept).map(|r| r.settings.clone()).collect();
        }
        // The longest trained come first.
        all.splice(0..0, rows);
        if unfinished > 0 {
            break;
        }
    }
    // The page of what came through, the best first.
    let last = rounds.last().copied().unwrap_or(0);
    let longest = || all.iter().filter(|row| row.epochs == last && row.value().is_some());
    let path = |outcome: &Outcome| args.out.join(&outcome.run);
    let page = match unfinished {
        0 => page(args, longest().flat_map(|row| &row.outcomes).map(path).take(report::MOST).collect())?,
        _ => None,
    };
    print(&all, page.as_deref(), json)?;
    let firsts: Vec<PathBuf> = longest().filter_map(|row| row.outcomes.first()).map(path).take(COMPARED).collect();
    if unfinished == 0 && !json && firsts.len() > 1 {
        terminal::out(&format!("\nthe best against the next {}, request by request, first seed of each:", firsts.len() - 1))?;
        let machine = Machine { device: args.device.clone(), threads: 0 };
        let metric = ["ndcg@10", "coverage@10"].map(String::from).to_vec();
        compare::run(&compare::Args { runs: firsts, metric, fail_if: vec![], split: Part::Test, machine }, false)?;
    }
    if unfinished > 0 {
        return Err(Error::new(Code::S7501, format!("{unfinished} runs of this round are not finished"))
            .help("run the same command again to continue"));
    }
    match all.iter().any(|row| row.value().is_some()) {
        true => Ok(()),
        false => Err(Error::new(Code::C0205, "no run of the sweep came to an end").note(first_failure(&all))),
    }
}

/// Writes the page of `runs`, if there are any; its path.
fn page(args: &Args, runs: Vec<PathBuf>) -> Result<Option<PathBuf>> {
    if runs.is_empty() {
        return Ok(None);
    }
    let out = args.out.join(PAGE);
    report::write_page(&runs, &out)?;
    Ok(Some(out))
}

fn first_failure(rows: &[Row]) -> String {
    rows.iter().flat_map(|r| &r.outcomes).find_map(|o| o.error.clone()).unwrap_or_default()
}

/// Epochs of each round: `least`, times `rate`, ... and the full length last.
fn rungs(least: u32, rate: u32, full: u32) -> Vec<u32> {
    let mut rungs = vec![];
    let mut epochs = u64::from(least.max(1));
    while epochs < u64::from(full) {
        rungs.push(epochs as u32);
        epochs *= u64::from(rate.max(2));
    }
    rungs.push(full);
    rungs
}

/// `key=a,b` as `[key=a, key=b]`; commas within brackets, braces and quotes belong to a value.
fn values(text: &str) -> Result<Vec<String>> {
    let wrong = || {
        Error::new(Code::C0202, format!("`--grid {text}` is not a key and its values"))
            .help("for example `--grid sampler.negatives=1,16`")
    };
    let (key, list) = text.split_once('=').ok_or_else(wrong)?;
    let (mut depth, mut quoted, mut value, mut values) = (0i32, false, String::new(), vec![]);
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                values.push(std::mem::take(&mut value));
                continue;
            }
            _ => {}
        }
        value.push(c);
    }
    values.push(value);
    match key.trim().is_empty() || values.iter().any(|v| v.trim().is_empty()) {
        true => Err(wrong()),
        false => Ok(values.iter().map(|v| format!("{}={}", key.trim(), v.trim())).collect()),
    }
}

/// The combinations to train, in the order of the grid or of chance.
fn chosen(args: &Args) -> Result<Vec<Vec<String>>> {
    let axes = args.grid.iter().map(|text| values(text)).collect::<Result<Vec<_>>>()?;
    let total = axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.len())).filter(|&n| n <= MOST);
    let total = total.ok_or_else(|| Error::new(Code::C0202, format!("the grid has more than {MOST} combinations")))?;
    let combination = |mut code: usize| -> Vec<String> {
        // The last axis turns fastest.
        let mut picked: Vec<String> = axes
            .iter()
            .rev()
            .map(|axis| {
                let value = axis[code % axis.len()].clone();
                code /= axis.len();
                value
            })
            .collect();
        picked.reverse();
        picked
    };
    let seed = args.seeds.first().copied().unwrap_or_default();
    Ok(match args.random {
        None => (0..total).map(combination).collect(),
        Some(n) => {
            let order = Order::new(seed, 0, total as u64);
            (0..n.min(total) as u64).map(|i| combination(order.at(i) as usize)).collect()
        }
    })
}

/// Resolves the settings of every combination, so that a misspelt key is found before the first run; gives the epochs.
fn check(args: &Args, combinations: &[Vec<String>]) -> Result<u32> {
    if args.halving.is_some_and(|rate| rate < 2) {
        return Err(Error::new(Code::C0202, "`--halving` keeps one of at least two"));
    }
    if args.seeds.is_empty() || combinations.is_empty() {
        return Err(Error::new(Code::C0202, "nothing to train").help("name at least one seed and one combination"));
    }
    let mut epochs = None;
    for combination in combinations {
        let mut inputs = args.settings.inputs();
        inputs.sets.extend(combination.iter().cloned());
        if let Some(log) = &args.log {
            inputs.flags.push(("LOG".into(), "data.path", toml::Value::String(log.display().to_string())));
        }
        let config = settings::resolve(&inputs)?.config;
        Plan::new(&config.sampler)?;
        if args.halving.is_some() && epochs.is_some_and(|e| e != config.train.epochs) {
            return Err(Error::new(Code::C0205, "successive halving sets the epochs, so they cannot be in the grid"));
        }
        epochs = Some(epochs.unwrap_or(0).max(config.train.epochs));
    }
    Ok(epochs.unwrap_or(0))
}

/// Trains one run to its end, or reads what an earlier call left; `None` if it was stopped on the way.
fn one(args: &Args, settings: &[String], seed: u64, epochs: u32, left: Option<f64>) -> Result<Option<Outcome>> {
    let name = name(settings, seed, args.halving.map(|_| epochs));
    let run = args.out.join(&name);
    let outcome = |value, error| Outcome {
        run: name.clone(),
        settings: settings.to_vec(),
        seed,
        epochs,
        value,
        error,
        test: BTreeMap::new(),
        seconds: 0.0,
    };
    if !run.join("report.json").is_file() {
        terminal::say(&format!("{}: {} seed {seed}", name, settings.join(" ")));
        let program = std::env::current_exe().map_err(|e| Error::io("finding", Path::new("this program"), &e))?;
        let mut command = Command::new(program);
        command.arg("train").args(&args.log).arg("--out").arg(&run).args(["--quiet", "--device", &args.device]);
        command.args(args.settings.config.iter().flat_map(|path| ["--config".into(), path.clone().into_os_string()]));
        command.args(args.settings.sets.iter().chain(settings).flat_map(|set| ["--set", set]));
        command.args(["--seed", &seed.to_string()]);
        if args.halving.is_some() {
            command.args(["--epochs", &epochs.to_string()]);
        }
        if let Some(left) = left {
            command.args(["--time-limit", &format!("{left:.1}s")]);
        }
        let done = command.stdin(Stdio::null()).output().map_err(|e| Error::io("starting", Path::new("hardneg train"), &e))?;
        match done.status.code() {
            Some(0) => {}
            Some(code) if code == Exit::Interrupted as i32 => return Ok(None),
            // Killed by a signal meant for all of us.
            None | Some(129..=143) => return Ok(None),
            Some(_) => {
                let said = String::from_utf8_lossy(&done.stderr).lines().next().unwrap_or("no message").to_string();
                terminal::say(&format!("{name}: {said}"));
                return Ok(Some(outcome(None, Some(said))));
            }
        }
    }
    let report = read(&run.join("report.json"))?;
    let numbers = report["model"].as_object().into_iter().flatten();
    let records = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let epochs = records.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|r| r["kind"] == "epoch");
    Ok(Some(Outcome {
        test: numbers.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect(),
        seconds: epochs.filter_map(|r| r["seconds"].as_f64()).sum(),
        ..outcome(report["best"]["value"].as_f64(), None)
    }))
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, &e))?;
    serde_json::from_str(&text).map_err(|e| Error::new(Code::M0403, format!("{}: {e}", path.display())).help("remove this run"))
}

/// A name a person recognises, and a hash that tells all runs of the folder apart.
fn name(settings: &[String], seed: u64, epochs: Option<u32>) -> String {
    let hash = blake3::hash(json!([settings, seed, epochs]).to_string().as_bytes()).to_hex();
    let value = |set: &String| set.split_once('=').map_or(String::new(), |(_, value)| value.to_string());
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let words: String = settings.iter().map(value).collect::<Vec<_>>().join("-").chars().map(plain).take(60).collect();
    format!("{words}-{}", &hash[..8])
}

fn print(rows: &[Row], page: Option<&Path>, json: bool) -> Result<()> {
    if json {
        let runs: Vec<&Outcome> = rows.iter().flat_map(|r| &r.outcomes).collect();
        let page = page.map(|page| page.display().to_string());
        return terminal::out(&json!({ "v": 1, "kind": "sweep", "runs": runs, "page": page }).to_string());
    }
    let mut table =
        vec![["settings", "epochs", "seeds", "validation", "ndcg@10", "coverage@10", "seconds"].map(String::from).to_vec()];
    for row in rows.iter().filter(|row| !row.outcomes.is_empty()) {
        let mean = |of: &dyn Fn(&Outcome) -> Option<f64>| {
            let values: Vec<f64> = row.outcomes.iter().filter_map(of).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            if values.is_empty() { "failed".to_string() } else { format!("{mean:.4}") }
        };
        let seconds: f64 = row.outcomes.iter().map(|o| o.seconds).sum();
        table.push(vec![
            row.settings.join(" "),
            row.epochs.to_string(),
            row.outcomes.len().to_string(),
            mean(&|o| o.value),
            mean(&|o| o.test.get("ndcg@10").copied()),
            mean(&|o| o.test.get("coverage@10").copied()),
            format!("{seconds:.1}"),
        ]);
    }
    terminal::out(terminal::table(&table).trim_end())?;
    terminal::out("ordered by the best validation value, mean over seeds; the other metrics are those of the test events")?;
    page.map_or(Ok(()), |page| terminal::out(&terminal::escape(&format!("page {}", page.display()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_part_values_but_not_what_brackets_hold() {
        assert_eq!(values("a.b=1,16").unwrap(), ["a.b=1", "a.b=16"]);
        let list = values(r#"sampler.propose=[{kind="uniform"},{kind="in_batch"}],[{kind="x,y"}]"#).unwrap();
        assert_eq!(list.len(), 2);
        assert!(list[0].ends_with(r#"[{kind="uniform"},{kind="in_batch"}]"#));
        for bad in ["a", "=1", "a=", "a=1,,2"] {
            assert!(values(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rounds_end_at_full_length() {
        assert_eq!(rungs(2, 3, 30), [2, 6, 18, 30]);
        assert_eq!(rungs(40, 3, 30), [30]);
        assert_eq!(rungs(0, 2, 3), [1, 2, 3]);
    }

    #[test]
    fn names_tell_runs_apart() {
        let set = |x: &str| vec![format!("sampler.preset={x}")];
        let names = [
            name(&set("dns"), 1, None),
            name(&set("dns"), 2, None),
            name(&set("dns"), 1, Some(2)),
            name(&set("a/../b"), 1, None),
        ];
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert!(names[0].starts_with("dns-") && !names[3].contains('/'));
    }
}
