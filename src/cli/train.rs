//! `hardneg train [LOG]`: read, prepare, train, evaluate, report; the same command again continues or reports.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cli::arguments::{self, Machine, SettingFlags, Stop};
use crate::cli::display::{Display, Style};
use crate::cli::measure::{Ground, Part};
use crate::cli::settings::{self, Settings};
use crate::cli::{doctor, intake, plan, terminal};
use crate::config::Config;
use crate::data::interactions::Interactions;
use crate::data::training::TrainingSet;
use crate::device::Device;
use crate::device::recorded::{Steps, graphs_win};
use crate::error::{Code, Error, Result};
use crate::eval::{self, Encoder, Evaluation, report};
use crate::rng::STREAM_VERSION;
use crate::train::checkpoint;
use crate::train::durable::FileSystem;
use crate::train::fit::{self, Best, Event, Outcome, Reason, Training, Watcher};
use crate::train::run_dir::{Manifest, RECORD_VERSION, RunDir};
use crate::train::step::Trainer;

/// Where a run of something else is in the way.
const START_OVER: &str = "choose another `--out`, or start over with `--fresh`";

#[derive(clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:\n  hardneg train ratings.csv --set dim=128 --epochs 50\n  hardneg train ratings.csv --sampler popularity --set loss=gbce --out runs/mine"
)]
pub struct Args {
    /// A log or a prepared file; without one a small synthetic log is learnt
    log: Option<PathBuf>,
    /// Run directory; default `runs/NAME-HASH` from the log's name and the settings
    #[arg(short, long, value_name = "RUN")]
    out: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    machine: Machine,
    /// Seed of everything random
    #[arg(long)]
    seed: Option<i64>,
    #[arg(long)]
    epochs: Option<i64>,
    /// Stop after so many steps
    #[arg(long)]
    steps: Option<i64>,
    /// Sequences per step
    #[arg(long)]
    batch_size: Option<i64>,
    /// Preset of the negative sampler; see `hardneg samplers list`
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Negatives per group
    #[arg(long)]
    negatives: Option<i64>,
    /// Stop at a checkpoint after so long (90s, 15m, 2h)
    #[arg(long, value_parser = arguments::seconds, value_name = "TIME")]
    time_limit: Option<f64>,
    /// Remove an earlier run from the directory, once the new one can begin
    #[arg(long)]
    fresh: bool,
    /// Check settings and data and say what would be trained, without training
    #[arg(long)]
    dry_run: bool,
    /// Print every setting and where it came from, and do nothing else
    #[arg(long)]
    print_config: bool,
    #[arg(long, value_enum, default_value = "auto")]
    progress: Style,
    /// Only results and errors
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    fn settings(&self) -> Result<Settings> {
        use toml::Value::{Float, Integer, String as Word};
        let mut inputs = self.settings.inputs();
        let log = self.log.as_ref().map(|path| Word(path.display().to_string()));
        let flags = [
            ("LOG", "data.path", log),
            ("--seed", "train.seed", self.seed.map(Integer)),
            ("--epochs", "train.epochs", self.epochs.map(Integer)),
            ("--steps", "train.steps", self.steps.map(Integer)),
            ("--batch-size", "train.batch_size", self.batch_size.map(Integer)),
            ("--sampler", "sampler.preset", self.sampler.clone().map(Word)),
            ("--negatives", "sampler.negatives", self.negatives.map(Integer)),
            ("--time-limit", "train.time_limit", self.time_limit.map(Float)),
        ];
        inputs.flags = flags.into_iter().filter_map(|(flag, key, value)| Some((flag.to_string(), key, value?))).collect();
        settings::resolve(&inputs)
    }
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let settings = args.settings()?;
    if args.print_config {
        return print_config(&settings, json);
    }
    let config = &settings.config;
    // What would be refused after the first epoch, or after the last, is refused before it.
    eval::Rules::read(&config.eval)?;
    if config.train.eval_every > 0 {
        report::check_metric(&config.train.metric, &config.eval.at)?;
    }
    let clusters = intake::cluster_method(config)?;
    let stop = Stop::install()?;
    let (device, fallback) = args.machine.open_unrecorded(&config.train)?;
    let mut display = Display::new(args.progress, args.quiet, json);
    let out = args.out.clone().unwrap_or_else(|| default_out(config));
    let run = RunDir::create(&out)?;
    let begun = !args.fresh && has_begun(&run)?;
    if args.fresh {
        refuse_to_remove_input(&run, config)?;
    } else {
        display.log_to(log_file(&run)?);
    }
    if begun {
        refuse_other_configuration(&run, config, START_OVER)?;
    }
    let former = if begun { read_former(&run, &mut display)? } else { None };
    settings.notes.iter().for_each(|note| display.line(note));
    if let Some(why) = fallback {
        display.line(&format!("training on the host: {why}"));
    }
    let beside = Beside(run.path().join("data.hardneg.new"));
    let (data, data_file) = intake::interactions(&settings, &beside.0, &mut display)?;
    if begun {
        refuse_other_data(&run, former.as_ref(), &data)?;
    }
    // What the run was asked for stays what it is known by.
    let mut settled = config.clone();
    if begun
        && !data.columns().is_empty()
        && let Some(latest) = checkpoint::load_latest(&run.checkpoints())?
    {
        checkpoint::settle_context(&mut settled, &latest.tensors);
    }
    let set = intake::training_set(&settled, data.clone(), clusters)?;
    refuse_empty_parts(config, &set)?;
    plan::refuse_too_large(&settled, &set, &device)?;
    let device = if args.dry_run { device } else { arguments::recording(device, &config.train)? };
    let mut trainer = Trainer::new(&settled, set.clone(), &device)?;
    describe(&settings, &set, &trainer, &out, &mut display);
    if args.dry_run {
        return Ok(());
    }
    // Whatever could be refused has been: from here on the run changes.
    if args.fresh {
        run.clear()?;
        display.log_to(log_file(&run)?);
    } else if !begun && run.forget_results()? {
        display.line("an earlier attempt left no checkpoint, so this one begins anew");
    }
    let data_file = if data_file == beside.0 { beside.take_place(&run)? } else { data_file };
    let mut manifest = Manifest {
        v: RECORD_VERSION,
        version: concat!(env!("CARGO_PKG_VERSION"), " (", env!("HARDNEG_COMMIT"), ")").into(),
        argv: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
        data_fingerprint: intake::fingerprint(&data),
        data_file: data_file.display().to_string(),
        random_stream_version: STREAM_VERSION,
        device: doctor::name(&device),
        threads: rayon::current_num_threads(),
        host: doctor::facts(),
        started: now(),
        ..Manifest::default()
    };
    let said_before = former.as_ref().and_then(|former| former.graph.clone());
    if let Some(former) = former.map(|m| m.device).filter(|former| *former != manifest.device) {
        display.line(&format!("continues on {} what began on {former}: the same mathematics, other last bits", manifest.device));
    }
    run.write_config(config)?;
    run.write_manifest(&manifest)?;
    let result = train(&mut trainer, &run, config, &set, &device, &stop, &mut display);
    display.stop();
    manifest.finished = Some(now());
    manifest.exit = Some(match &result {
        Ok(outcome) => format!("{:?}", outcome.reason),
        Err(error) => error.what().to_string(),
    });
    // Of a run that was at its end already nothing new is known.
    let steps = recorded_steps(&device);
    manifest.graph = if steps.as_ref().is_some_and(|steps| steps.replayed + steps.direct > 0) { steps } else { said_before };
    if let Some(said) = manifest.graph.as_ref().and_then(how_steps_went) {
        display.line(&said);
    }
    manifest.state_hash = result.as_ref().ok().map(|o| o.state_hash.clone());
    // The error of the training counts more than one of noting it.
    let noted = run.write_manifest(&manifest);
    let outcome = result?;
    noted?;
    if matches!(outcome.reason, Reason::Interrupted | Reason::TimeLimit) {
        let why = if outcome.reason == Reason::TimeLimit { "the time limit" } else { "a signal" };
        return Err(Error::new(Code::S7501, format!("stopped by {why} after step {}; the checkpoint is written", outcome.step))
            .at(out.display().to_string())
            .help("run the same command again to continue"));
    }
    conclude(&mut trainer, &run, config, &set, &device, &outcome, json, &mut display)
}

/// What became of the steps of a GPU that records them.
fn recorded_steps(device: &Device) -> Option<Steps> {
    if let Device::Machine(runtime) = device { runtime.steps() } else { None }
}

/// What a user should know of it: why there were no graphs, or which way was found to be the faster.
fn how_steps_went(steps: &Steps) -> Option<String> {
    if let Some(why) = &steps.failed {
        return Some(format!("steps went to the machine call by call, not as graphs: {why}"));
    }
    let way = if graphs_win(steps.timed?) { "as graphs" } else { "call by call" };
    let [calls, graphs] = steps.timed?.map(|seconds| 1e3 * seconds);
    Some(format!("steps went to the machine {way}: one took {graphs:.3} ms as a graph and {calls:.3} ms call by call"))
}

fn print_config(settings: &Settings, json: bool) -> Result<()> {
    if !json {
        return terminal::out(settings.print().trim_end());
    }
    let origins =
        settings.origins.iter().map(|(key, value, source)| json!({ "key": key, "value": value, "from": source.to_string() }));
    terminal::out(&Value::Array(origins.collect()).to_string())
}

/// `runs/NAME-HASH`: the log's name and a hash of everything that changes the result, so that the same command finds its
/// run again and another one gets a directory of its own.
fn default_out(config: &Config) -> PathBuf {
    let name = Path::new(&config.data.path).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let stem: String =
        name.split('.').next().unwrap_or_default().chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
    let stem = if stem.is_empty() { if config.data.path.is_empty() { "synthetic" } else { "log" } } else { &stem };
    let hash = blake3::hash(format!("{} {}", lasting(config), config.data.path).as_bytes()).to_hex();
    Path::new("runs").join(format!("{stem}-{}", &hash[..6]))
}

/// Settings that may change between the parts of a run, because they change no bit of it (the data count by content). Of
/// `train.graph`, see [`lasting`].
const FREE: &[&str] =
    &["data.path", "train.time_limit", "train.checkpoint_every", "train.checkpoint_steps", "train.keep", "eval.baselines"];

/// Everything that must stay, as JSON by dotted key.
fn lasting(config: &Config) -> Value {
    fn walk(prefix: &str, value: &Value, into: &mut serde_json::Map<String, Value>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, v)| walk(&format!("{prefix}.{key}"), v, into)),
            leaf => drop(into.insert(prefix.trim_start_matches('.').to_string(), leaf.clone())),
        }
    }
    let mut flat = serde_json::Map::new();
    walk("", &serde_json::to_value(config).unwrap_or_default(), &mut flat);
    flat.retain(|key, value| !FREE.contains(&key.as_str()) && !value.is_null());
    // It may change too, at the price of last bits on a machine between `no` and the others; the flag it once was is part of what
    // older runs are known by.
    flat.insert("train.graph".into(), false.into());
    Value::Object(flat)
}

/// Whether there is a checkpoint to go on from, be it one that a kill left complete but not in its place.
fn has_begun(run: &RunDir) -> Result<bool> {
    checkpoint::recover(&FileSystem, &run.checkpoints())?;
    Ok(!checkpoint::steps(&run.checkpoints())?.is_empty())
}

/// Refuses to remove with an earlier run what the new one is to be made of.
fn refuse_to_remove_input(run: &RunDir, config: &Config) -> Result<()> {
    match config.data.inputs().into_iter().find(|path| run.would_clear(Path::new(path))) {
        None => Ok(()),
        Some(path) => Err(Error::new(Code::C0205, format!("`--fresh` would remove {path}, which is to be read"))
            .at(run.path().display().to_string())
            .help("choose another `--out`, or move the file out of the run first")),
    }
}

/// The manifest of the run that goes on. One that cannot be read is no obstacle: the checkpoints know what they were made of.
fn read_former(run: &RunDir, display: &mut Display) -> Result<Option<Manifest>> {
    match run.read_manifest() {
        Err(error) if error.code() == Code::M0403 => {
            display.line(&format!("the manifest is written anew: {}", error.what()));
            Ok(None)
        }
        read => read,
    }
}

/// Refuses to continue a run with other settings, and shows which, with the cure that the caller has.
pub(super) fn refuse_other_configuration(run: &RunDir, config: &Config, cure: &str) -> Result<()> {
    let Some(old) = run.read_config()? else { return Ok(()) };
    let (old, new) = (lasting(&old), lasting(config));
    let keys = |of: &Value| of.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut names: Vec<String> = keys(&old).into_iter().chain(keys(&new)).collect();
    names.sort();
    names.dedup();
    let differences: Vec<String> = names
        .iter()
        .filter(|key| old[key.as_str()] != new[key.as_str()])
        .map(|key| format!("{key}: {} in the run, {} now", old[key.as_str()], new[key.as_str()]))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let error = Error::new(Code::C0206, "the run was started with other settings").at(run.path().display().to_string());
    let error = differences.iter().take(8).fold(error, |e, difference| e.note(difference.clone()));
    Err(error.help(cure))
}

fn log_file(run: &RunDir) -> Result<File> {
    let path = run.path().join("log.txt");
    File::options().create(true).append(true).open(&path).map_err(|e| Error::io("writing", &path, &e))
}

/// Refuses to continue a run with other data than its manifest tells of or, where that is lost, its `data.hardneg` holds.
fn refuse_other_data(run: &RunDir, former: Option<&Manifest>, data: &Interactions) -> Result<()> {
    let stored = || Interactions::open(&run.data()).ok().map(|data| intake::fingerprint(&data));
    let former = former.map(|m| m.data_fingerprint.clone()).or_else(stored);
    if former.is_none_or(|former| former == intake::fingerprint(data)) {
        return Ok(());
    }
    Err(Error::new(Code::C0206, "the data are not those the run was started with")
        .at(run.path().display().to_string())
        .help(START_OVER))
}

/// Refuses a split without an event that evaluation would ask for, on the way or at the end.
fn refuse_empty_parts(config: &Config, set: &TrainingSet) -> Result<()> {
    let split = set.split();
    let validates = config.train.eval_every > 0;
    let (part, cure) = match (split.test.is_empty(), split.valid.is_empty() && validates) {
        (true, _) => ("test", ""),
        (false, true) => ("validate", "; `--set eval_every=0` trains without validation"),
        (false, false) => return Ok(()),
    };
    Err(Error::new(Code::D0301, format!("the split `{}` left no event to {part} on", split.name)).help(format!(
        "leave-one-out needs users with at least three events; another split (`data.split`) or a longer log helps{cure}"
    )))
}

/// A log that is prepared beside the run's `data.hardneg`: it takes that place once the run begins, and is removed if it does not.
struct Beside(PathBuf);

impl Beside {
    /// Gives the place as the manifest says it.
    fn take_place(&self, run: &RunDir) -> Result<PathBuf> {
        std::fs::rename(&self.0, run.data()).map_err(|e| Error::io("writing", &run.data(), &e))?;
        Ok("data.hardneg".into())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn describe(settings: &Settings, set: &TrainingSet, trainer: &Trainer, out: &Path, display: &mut Display) {
    let config = &settings.config;
    let split = set.split();
    let sampler = trainer.sampler().map_or("none (the loss sees the whole catalogue)".to_string(), |s| s.describe());
    let mut rows = vec![
        ("run", out.display().to_string()),
        (
            "split",
            format!(
                "{}: {} sequences train, {} requests validate, {} test",
                split.name,
                set.len(),
                split.valid.len(),
                split.test.len()
            ),
        ),
        ("model", model_text(config)),
        ("loss", config.loss.kind.clone()),
        ("sampler", sampler),
        (
            "training",
            format!(
                "{} epochs of {} steps, batch {}, {} {}, seed {}",
                config.train.epochs,
                trainer.steps_per_epoch(),
                config.train.batch_size,
                config.optim.kind,
                config.optim.lr,
                config.train.seed
            ),
        ),
    ];
    let chosen: Vec<String> =
        settings.chosen().filter(|(key, ..)| key != "data.path").map(|(key, value, _)| format!("{key}={value}")).collect();
    if !chosen.is_empty() {
        rows.push(("set", chosen.join(" ")));
    }
    for (what, text) in rows {
        display.line(&format!("{what:<9} {text}"));
    }
}

fn model_text(config: &Config) -> String {
    let m = &config.model;
    format!("{} dim {} layers {} heads {} max_len {} dropout {}", m.kind, m.dim, m.layers, m.heads, m.max_len, m.dropout)
}

/// Runs the loop.
fn train(
    trainer: &mut Trainer,
    run: &RunDir,
    config: &Config,
    set: &TrainingSet,
    device: &Device,
    stop: &Stop,
    display: &mut Display,
) -> Result<Outcome> {
    let identity = json!({ "config": lasting(config), "data": intake::fingerprint(set.data()), "streams": STREAM_VERSION });
    let identity = blake3::hash(identity.to_string().as_bytes()).to_hex();
    let all = trainer.steps_per_epoch() * u64::from(config.train.epochs);
    display.start_training(if config.train.steps > 0 { all.min(config.train.steps) } else { all }, config.train.epochs);
    let ground = Ground::new(set, Part::Valid);
    let mut watch = Watch { display, ground, config, device, stop };
    stop.arm();
    fit::fit(trainer, run, &config.train, &identity, &mut watch)
}

struct Watch<'a> {
    display: &'a mut Display,
    ground: Ground<'a>,
    config: &'a Config,
    device: &'a Device,
    stop: &'a Stop,
}

impl Watcher<Trainer> for Watch<'_> {
    fn evaluate(&mut self, trainer: &mut Trainer) -> Result<Vec<(String, f64)>> {
        let mut ranker = Encoder::new(&mut trainer.model, self.device, &self.config.model.kind)?;
        Ok(self.ground.evaluate(&mut ranker, &self.config.eval, &mut |_, _| {})?.values)
    }
    fn hear(&mut self, event: Event<'_>) {
        self.display.hear(&event);
    }
    fn stop(&self) -> bool {
        self.stop.asked()
    }
}

/// Gives the trainer the model of the best evaluation and tells which that was. Where it is lost the last model stays, and a report
/// of it names no best.
fn restore_best(
    trainer: &mut Trainer,
    run: &RunDir,
    device: &Device,
    outcome: &Outcome,
    display: &mut Display,
) -> Result<Option<Best>> {
    let Some(best) = outcome.best else { return Ok(None) };
    match checkpoint::load(&run.best().join(format!("step-{}", best.step))) {
        Ok(loaded) => {
            checkpoint::restore_params(trainer.model.params_mut(), device, &loaded.tensors)?;
            Ok(Some(best))
        }
        Err(error) if error.code() == Code::M0401 => {
            display.line(&format!(
                "the last model is judged, because the best, of step {}, is lost: {}",
                best.step,
                error.what()
            ));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Judges the best model on the test events beside the baselines, and writes the reports.
#[allow(clippy::too_many_arguments)]
fn conclude(
    trainer: &mut Trainer,
    run: &RunDir,
    config: &Config,
    set: &TrainingSet,
    device: &Device,
    outcome: &Outcome,
    json: bool,
    display: &mut Display,
) -> Result<()> {
    let best = restore_best(trainer, run, device, outcome, display)?;
    let ground = Ground::new(set, Part::Test);
    let mut ranker = Encoder::new(&mut trainer.model, device, &config.model.kind)?;
    let model = ground.evaluate(&mut ranker, &config.eval, &mut |_, _| {})?;
    let baselines = if config.eval.baselines { ground.baselines(&config.eval)? } else { vec![] };
    let all: Vec<&Evaluation> = std::iter::once(&model).chain(&baselines).collect();
    let table = eval::table(&all);
    let report = json!({
        "v": RECORD_VERSION,
        "kind": "report",
        "run": run.path().display().to_string(),
        "reason": outcome.reason,
        "step": outcome.step,
        "best": best.map(|b| json!({ "step": b.step, "metric": config.train.metric, "value": b.value })),
        "state_hash": outcome.state_hash,
        "data_hash": intake::fingerprint(set.data()),
        "seed": config.train.seed,
        "model": model.json(),
        "baselines": baselines.iter().map(Evaluation::json).collect::<Vec<_>>(),
    });
    run.write("report.json", serde_json::to_string_pretty(&report).map_err(|e| Error::internal(e.to_string()))?.as_bytes())?;
    let settings = toml::to_string(config).map_err(|e| Error::internal(e.to_string()))?;
    let markdown = format!(
        "# {}\n\n{}; loss {}; {} after {} steps; seed {}.\n\n```\n{table}```\n\nState hash `{}`.\n\n```toml\n{settings}```\n",
        run.path().display(),
        model_text(config),
        config.loss.kind,
        if outcome.reason == Reason::StoppedEarly { "stopped early" } else { "finished" },
        outcome.step,
        config.train.seed,
        outcome.state_hash
    );
    run.write("report.md", markdown.as_bytes())?;
    if json {
        return terminal::out(&report.to_string());
    }
    if outcome.already {
        display.line("this run had ended before; `--fresh` trains again");
    }
    let best = best.map_or(String::new(), |b| format!(", best after step {} ({} {:.4})", b.step, config.train.metric, b.value));
    terminal::out(&format!("\n{}\nstate {} after step {}{best}", table.trim_end(), &outcome.state_hash[..16], outcome.step))?;
    terminal::out(&format!("next: hardneg recommend {} --users all -k 10", run.path().display()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
