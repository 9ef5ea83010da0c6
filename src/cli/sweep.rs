//! `hardneg sweep [LOG]`: trains every combination of some settings, or a random part of them, or by successive halving; the same
//! command again continues.
//!
//! Every combination is a run directory of its own below `--out`, trained by this same program in a process of its own, so a crash
//! or a kill costs no more than it costs one `hardneg train`. A run that has its report is never trained again, and one of other
//! settings or another log is refused, as `hardneg train` refuses it; a log that has gone keeps nobody from seeing what was trained
//! on it. Combinations are compared by their best *validation* value, averaged over seeds: choosing by the test figures would be
//! learning from them.
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
use crate::cli::display::{Display, Style};
use crate::cli::inspect::is_prepared;
use crate::cli::measure::Part;
use crate::cli::settings::{self, Settings, Source};
use crate::cli::{compare, intake, report, terminal, train};
use crate::config::{self, Config};
use crate::data::order::Order;
use crate::error::{Code, Error, Exit, Result};
use crate::eval::report::check_metric;
use crate::sampling::Plan;
use crate::train::checkpoint;
use crate::train::durable;
use crate::train::run_dir::RunDir;

/// Combinations of one sweep: beyond this somebody mistyped.
const MOST: usize = 10_000;
/// File of the sweep's results, below `--out`.
const RESULTS: &str = "sweep.json";
/// And of the page of its runs.
const PAGE: &str = "report.html";
/// What a run has when it is finished.
const REPORT: &str = "report.json";
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
    /// Seeds of every combination, separated by commas; without them `train.seed`
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
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

/// Fingerprints of the data by the settings they are read with; none of what cannot be opened.
type Logs = BTreeMap<String, Option<String>>;

/// One combination of the grid.
struct Combination {
    /// `key=value` each.
    sets: Vec<String>,
    /// All settings, with the seed and the epochs of a run that is given neither.
    settings: Settings,
}

/// One combination over its seeds.
struct Row<'a> {
    combination: &'a Combination,
    epochs: u32,
    outcomes: Vec<Outcome>,
}

impl Row<'_> {
    /// Mean best validation value; none when a seed failed.
    fn value(&self) -> Option<f64> {
        let values: Option<Vec<f64>> = self.outcomes.iter().map(|o| o.value).collect();
        values.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64)
    }
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let combinations = check(args, chosen(args)?)?;
    let train = &combinations[0].settings.config.train;
    let (metric, seeds) = (&train.metric, if args.seeds.is_empty() { vec![train.seed] } else { args.seeds.clone() });
    let rounds: Vec<Option<u32>> = match args.halving {
        None => vec![None],
        Some(rate) => rungs(args.min_epochs, rate, train.epochs).into_iter().map(Some).collect(),
    };
    let stop = Stop::install()?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io("making", &args.out, &e))?;
    stop.arm();
    let started = Instant::now();
    let mut all: Vec<Row> = vec![];
    let mut alive: Vec<&Combination> = combinations.iter().collect();
    let (mut unfinished, mut last) = (0, 0);
    let mut logs = Logs::new();
    for (round, &rung) in rounds.iter().enumerate() {
        let mut rows = vec![];
        for &combination in &alive {
            let epochs = rung.unwrap_or(combination.settings.config.train.epochs);
            let mut row = Row { combination, epochs, outcomes: vec![] };
            for &seed in &seeds {
                let left = args.budget.map(|budget| budget - started.elapsed().as_secs_f64());
                if stop.asked() || left.is_some_and(|left| left <= 0.0) {
                    unfinished += 1;
                    continue;
                }
                match one(args, combination, seed, epochs, left, &mut logs)? {
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
            alive = rows.iter().filter(|r| r.value().is_some()).take(kept).map(|r| r.combination).collect();
        }
        // The longest trained come first.
        last = rows.len();
        all.splice(0..0, rows);
        if unfinished > 0 {
            break;
        }
    }
    // The page of what came through, the best first.
    let longest = || all.iter().take(last).filter(|row| row.value().is_some());
    let path = |outcome: &Outcome| args.out.join(&outcome.run);
    let page = match unfinished {
        0 => page(args, longest().flat_map(|row| &row.outcomes).map(path).take(report::MOST).collect())?,
        _ => None,
    };
    print(&all, metric, page.as_deref(), json)?;
    let firsts: Vec<PathBuf> = longest().filter_map(|row| row.outcomes.first()).map(path).take(COMPARED).collect();
    if unfinished == 0 && !json && firsts.len() > 1 {
        terminal::out(&format!("\nthe best against the next {}, request by request, first seed of each:", firsts.len() - 1))?;
        let machine = Machine { device: args.device.clone(), threads: 0 };
        let metric = shown(metric).to_vec();
        let pairs = compare::run(&compare::Args { runs: firsts, metric, fail_if: vec![], split: Part::Test, machine }, false);
        // Runs of different logs or splits need not share a request; the sweep is through all the same.
        if let Err(error) = pairs {
            terminal::out(&terminal::escape(&format!("note: not compared: {}", error.what())))?;
        }
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

/// Test metrics of the table and of the closing comparison: the one that chooses, and what its lists cover.
fn shown(metric: &str) -> [String; 2] {
    let length = metric.split_once('@').map_or("", |(_, length)| length);
    [metric.to_string(), format!("coverage@{length}")]
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
    let seed = args.seeds.first().copied().unwrap_or(config::Train::default().seed);
    Ok(match args.random {
        None => (0..total).map(combination).collect(),
        Some(n) => {
            let order = Order::new(seed, 0, total as u64);
            (0..n.min(total) as u64).map(|i| combination(order.at(i) as usize)).collect()
        }
    })
}

/// Resolves the settings of every combination, so that what cannot be swept is found before the first run.
fn check(args: &Args, combinations: Vec<Vec<String>>) -> Result<Vec<Combination>> {
    if args.halving.is_some_and(|rate| rate < 2) {
        return Err(Error::new(Code::C0202, "`--halving` keeps one of at least two").help("for example `--halving 3`"));
    }
    let mut checked: Vec<Combination> = vec![];
    for sets in combinations {
        let mut inputs = args.settings.inputs();
        inputs.sets.extend(sets.iter().cloned());
        if let Some(log) = &args.log {
            inputs.flags.push(("LOG".into(), "data.path", toml::Value::String(log.display().to_string())));
        }
        let mut settings = settings::resolve(&inputs)?;
        // Thousands of combinations are held at once, and nobody asks where a default came from.
        settings.origins.retain(|(_, _, source)| *source != Source::Default);
        let config = &settings.config;
        Plan::new(&config.sampler)?;
        refuse_set_seeds(args, &sets, &settings)?;
        if config.train.eval_every == 0 {
            return Err(Error::new(Code::C0205, "`train.eval_every = 0` leaves nothing to choose a combination by")
                .help("`--set eval_every=1` evaluates on the validation events"));
        }
        check_metric(&config.train.metric, &config.eval.at)?;
        if let Some(first) = checked.first().map(|first| &first.settings.config.train) {
            if args.halving.is_some() && first.epochs != config.train.epochs {
                return Err(Error::new(Code::C0205, "successive halving sets the epochs, so they cannot be in the grid")
                    .help("leave them out of `--grid`; `--set epochs=N` is the length of the last round"));
            }
            if first.metric != config.train.metric {
                return Err(Error::new(Code::C0205, "combinations are compared by `train.metric`, so it cannot be in the grid")
                    .help("leave it out of `--grid`; `--set metric=NAME` chooses it"));
            }
        }
        checked.push(Combination { sets, settings });
    }
    let Some(epochs) = checked.first().map(|first| first.settings.config.train.epochs) else {
        return Err(Error::new(Code::C0202, "nothing to train").help("name at least one combination, such as `--random 1`"));
    };
    if args.halving.is_some() && args.min_epochs.max(1) >= epochs {
        let what = format!("a first round of {} epochs leaves nothing to halve: whole trainings have {epochs}", args.min_epochs);
        return Err(Error::new(Code::C0205, what).help("lower `--min-epochs`, or raise the epochs by `--set epochs=N`"));
    }
    Ok(checked)
}

/// Refuses a seed that `--seeds` would override, and an axis of seeds: a combination is judged by the mean over its seeds.
fn refuse_set_seeds(args: &Args, sets: &[String], settings: &Settings) -> Result<()> {
    let seed = settings.origins.iter().find(|(key, ..)| key == "train.seed");
    match seed.map(|(_, _, source)| source) {
        Some(Source::Set(text)) if sets.contains(text) => {
            Err(Error::new(Code::C0205, "seeds are no settings to choose from, so `train.seed` cannot be in the grid")
                .help("name them by `--seeds`, for example `--seeds 1,2`"))
        }
        Some(Source::Set(text)) if !args.seeds.is_empty() => {
            Err(Error::new(Code::C0203, format!("`--set {text}` has no effect beside `--seeds`")).help("leave one of them away"))
        }
        _ => Ok(()),
    }
}

/// Refuses what lies in the folder of a run and was trained with other settings or, if it is finished, on another log. Of a run
/// that goes on `hardneg train` sees to the log, and what neither ended nor left a checkpoint begins anew, as it does there.
fn refuse_foreign(args: &Args, run: &Path, settings: &Settings, config: &Config, logs: &mut Logs) -> Result<()> {
    if !run.join("config.resolved.toml").is_file() {
        return Ok(());
    }
    let dir = RunDir::open(run)?;
    let finished = run.join(REPORT).is_file();
    if !finished && checkpoint::steps(&dir.checkpoints())?.is_empty() {
        return Ok(());
    }
    let cure = "choose another `--out`, or remove the folder of this run, which is then trained anew";
    train::refuse_other_configuration(&dir, config, cure)?;
    let Some(manifest) = dir.read_manifest()?.filter(|_| finished) else { return Ok(()) };
    if fingerprint(args, settings, logs)?.is_none_or(|found| found == manifest.data_fingerprint) {
        return Ok(());
    }
    Err(Error::new(Code::C0206, "the data are not those the run was started with").at(run.display().to_string()).help(cure))
}

/// Of the data that `settings` name. A log is read for it, once for each way of reading it in `logs`, and leaves nothing behind.
/// None if it cannot be opened: a finished run does not need it any more, and shows what it came to.
fn fingerprint(args: &Args, settings: &Settings, logs: &mut Logs) -> Result<Option<String>> {
    let reading = json!(settings.config.data).to_string();
    if let Some(known) = logs.get(&reading) {
        return Ok(known.clone());
    }
    // Another process may sweep into the same folder.
    let folder = args.out.join(format!("reading-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("making", &folder, &e))?;
    let data = intake::interactions(settings, &folder.join("data.hardneg"), &mut Display::new(Style::None, true, false));
    let found = data.map(|(data, _)| intake::fingerprint(&data));
    let _ = std::fs::remove_dir_all(&folder);
    let found = match found {
        Err(error) if error.code() == Code::D0101 => {
            terminal::say(&format!("note: whether finished runs were trained on these data cannot be told: {}", error.what()));
            None
        }
        found => Some(found?),
    };
    logs.insert(reading, found.clone());
    Ok(found)
}

/// Trains one run to its end, or reads what an earlier call left; `None` if it was stopped on the way.
fn one(
    args: &Args,
    combination: &Combination,
    seed: u64,
    epochs: u32,
    left: Option<f64>,
    logs: &mut Logs,
) -> Result<Option<Outcome>> {
    let Combination { sets, settings } = combination;
    let name = name(sets, seed, args.halving.map(|_| epochs));
    let run = args.out.join(&name);
    let mut config = settings.config.clone();
    (config.train.seed, config.train.epochs) = (seed, epochs);
    refuse_foreign(args, &run, settings, &config, logs)?;
    let outcome = |value, error| Outcome {
        run: name.clone(),
        settings: sets.clone(),
        seed,
        epochs,
        value,
        error,
        test: BTreeMap::new(),
        seconds: 0.0,
    };
    if !run.join(REPORT).is_file() {
        // A log that cannot be opened is no failure of a combination.
        if !config.data.path.is_empty() {
            is_prepared(Path::new(&config.data.path))?;
        }
        terminal::say(&format!("{}: {} seed {seed}", name, sets.join(" ")));
        let program = std::env::current_exe().map_err(|e| Error::io("finding", Path::new("this program"), &e))?;
        let mut command = Command::new(program);
        command.arg("train").args(&args.log).arg("--out").arg(&run).args(["--quiet", "--device", &args.device]);
        command.args(args.settings.config.iter().flat_map(|path| ["--config".into(), path.clone().into_os_string()]));
        command.args(args.settings.sets.iter().chain(sets).flat_map(|set| ["--set", set]));
        command.args(["--seed", &seed.to_string()]);
        if args.halving.is_some() {
            command.args(["--epochs", &epochs.to_string()]);
        }
        if let Some(left) = left {
            // Zero would be no limit.
            command.args(["--time-limit", &format!("{}s", left.max(0.001))]);
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
    let report = read(&run.join(REPORT))?;
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

fn print(rows: &[Row], metric: &str, page: Option<&Path>, json: bool) -> Result<()> {
    if json {
        let runs: Vec<&Outcome> = rows.iter().flat_map(|r| &r.outcomes).collect();
        let page = page.map(|page| page.display().to_string());
        return terminal::out(&json!({ "v": 1, "kind": "sweep", "runs": runs, "page": page }).to_string());
    }
    let [accuracy, coverage] = shown(metric);
    let head = ["settings", "epochs", "seeds", "validation", &accuracy, &coverage, "seconds"];
    let mut table = vec![head.map(String::from).to_vec()];
    for row in rows.iter().filter(|row| !row.outcomes.is_empty()) {
        let mean = |of: &dyn Fn(&Outcome) -> Option<f64>, absent: &str| {
            let values: Vec<f64> = row.outcomes.iter().filter_map(of).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            if values.is_empty() { absent.to_string() } else { format!("{mean:.4}") }
        };
        let seconds: f64 = row.outcomes.iter().map(|o| o.seconds).sum();
        table.push(vec![
            row.combination.sets.join(" "),
            row.epochs.to_string(),
            row.outcomes.len().to_string(),
            mean(&|o| o.value, "failed"),
            mean(&|o| o.test.get(&accuracy).copied(), "-"),
            mean(&|o| o.test.get(&coverage).copied(), "-"),
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
