//! `hardneg plan [LOG]`: what memory a run needs, part by part, before it takes any; whether it fits, and what would make it fit;
//! and the least time its steps take here, and the time they are predicted to take.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::arguments::{Machine, SettingFlags, bytes, count};
use crate::cli::display::{Display, Style};
use crate::cli::measure::{Ground, Part};
use crate::cli::settings::{self, Settings};
use crate::cli::{doctor, intake, terminal};
use crate::config::Config;
use crate::data::training::TrainingSet;
use crate::device::watched::Watched;
use crate::device::{Device, Facts, Runtime, heap};
use crate::error::{Code, Error, Result};
use crate::eval::{Encoder, Evaluation};
use crate::train::ceilings::Ceilings;
use crate::train::cost::{Floor, StepCost};
use crate::train::fit::Training;
use crate::train::plan::{self, Counts, MemoryPlan, Moment};
use crate::train::prices::Prices;
use crate::train::profile::{self, Median};
use crate::train::step::Trainer;

/// Version of the JSON output; a new one when a name or a unit changes.
const SCHEMA: u32 = 1;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg plan ratings.csv --set dim=128 --memory 4G\n  hardneg plan --items 5e7 --users 1e6 --events 1e8 --set loss=bce\n  hardneg plan ratings.csv --measure"
)]
pub struct Args {
    /// A log or a prepared file; without one, and without `--items`, the synthetic log
    log: Option<PathBuf>,
    /// Plan for a catalogue of this size instead of a log (1e6 is understood)
    #[arg(long, value_name = "NUMBER", conflicts_with = "log")]
    items: Option<String>,
    /// With `--items`: users
    #[arg(long, value_name = "NUMBER", requires = "items")]
    users: Option<String>,
    /// With `--items`: events; without it every history is as long as `model.max_len` allows
    #[arg(long, value_name = "NUMBER", requires = "items")]
    events: Option<String>,
    /// What there is, such as 80G or 512M (powers of 1024); this machine's or the GPU's by default
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Train a few steps and evaluate once, and hold the plan to the memory and the time that took
    #[arg(long, conflicts_with = "items")]
    measure: bool,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let mut inputs = args.settings.inputs();
    let log = args.log.as_ref().map(|path| toml::Value::String(path.display().to_string()));
    inputs.flags.extend(log.map(|log| ("LOG".to_string(), "data.path", log)));
    let settings = settings::resolve(&inputs)?;
    let config = &settings.config;
    let memory = args.memory.as_deref().map(bytes).transpose()?;
    // Numbers are read before a device is opened or a log is read.
    let given = args.items.as_deref().map(|items| -> Result<_> {
        let items = count("--items", items, 1)?;
        let users = args.users.as_deref().map_or(Ok(1_000_000), |text| count("--users", text, 1))?;
        Ok((items, users, args.events.as_deref().map(|text| count("--events", text, 1)).transpose()?))
    });
    let given = given.transpose()?;
    let (device, why) = args.machine.open_for(&config.train)?;
    why.iter().for_each(|why| terminal::say(&format!("planning for the host: {why}")));
    let gpu = matches!(device, Device::Machine(_));
    let threads = rayon::current_num_threads();
    let set = if given.is_some() { None } else { Some(prepared(&settings, json)?) };
    let counts = |config: &Config| match (&set, given) {
        (Some(set), _) => Counts::of(set, config),
        (None, Some((items, users, events))) => Counts::assumed(items, users, events, config),
        (None, None) => Err(Error::internal("a plan without sizes")),
    };
    let sizes = counts(config)?;
    let plan = MemoryPlan::new(config, &sizes, threads, gpu)?;
    let memory = match memory {
        Some(memory) => memory,
        None => there_is(&device)?,
    };
    let measured = match (args.measure, &set) {
        (true, Some(set)) => Some(measure(config, set, &device, sizes.largest.unwrap_or(0))?),
        _ => None,
    };
    let (moment, needed) = plan.peak(gpu);
    let fits = needed <= memory;
    // After the count, which a product made before it would change; and of a run that can be.
    let time = match fits {
        true => Some(Time::new(config, &sizes, &device, set.as_ref().filter(|_| args.measure))?),
        false => None,
    };
    let changes = if fits { vec![] } else { plan::changes(config, memory, gpu, threads, &counts)? };
    if json {
        let held: serde_json::Map<String, Value> =
            Moment::ALL.iter().map(|&m| (m.name().to_string(), json!(plan.at(m, gpu)))).collect();
        let both =
            |&(part, bytes): &(&str, u64)| (part.to_string(), json!({ "planned": planned(&plan, part, gpu), "measured": bytes }));
        let measured = measured.as_ref().map(|all| Value::Object(all.iter().map(both).collect()));
        let all = json!({
            "v": SCHEMA, "device": doctor::name(&device), "threads": threads, "lines": plan.lines, "mapped": plan.mapped,
            "uncounted": plan.uncounted, "moments": held, "largest": moment, "needed": needed, "memory": memory, "fits": fits,
            "changes": changes, "measured": measured, "time": time,
        });
        terminal::out(&all.to_string())?;
    } else {
        print(&plan, &sizes, gpu, memory, measured)?;
        if let Some(time) = time {
            time.print()?;
        }
    }
    if fits {
        return Ok(());
    }
    Err(with_changes(short_of_memory(&plan, memory, gpu), &changes))
}

/// Refuses a run that needs more memory than the device has, before it takes any. G0601: what takes most of it, and which single
/// change makes it fit.
pub fn refuse_too_large(config: &Config, set: &TrainingSet, device: &Device) -> Result<()> {
    let (threads, gpu) = (rayon::current_num_threads(), device.is_machine());
    let plan = MemoryPlan::new(config, &Counts::of(set, config)?, threads, gpu)?;
    let counts = |config: &Config| Counts::of(set, config);
    refuse(&plan, device, |error, memory| Ok(with_changes(error, &plan::changes(config, memory, gpu, threads, &counts)?)))
}

/// Refuses to measure steps that need more memory than the device has. G0601.
pub fn refuse_too_large_to_step(config: &Config, set: &TrainingSet, device: &Device) -> Result<()> {
    let (threads, gpu) = (rayon::current_num_threads(), device.is_machine());
    let plan = MemoryPlan::new(config, &Counts::of(set, config)?, threads, gpu)?.of_steps();
    refuse(&plan, device, |error, _| Ok(error.help("measure smaller ones: `--items`, `--set train.batch_size=...`")))
}

/// Refuses to evaluate or recommend with a trained model where there is not room for it and a tile of requests. G0601.
pub fn refuse_too_large_to_use(config: &Config, set: &TrainingSet, device: &Device) -> Result<()> {
    let (threads, gpu) = (rayon::current_num_threads(), device.is_machine());
    // What cannot be planned is not refused here: a list may be shorter than what the run was judged by.
    let Ok(plan) = MemoryPlan::of_use(config, &Counts::of_use(set, config), threads, gpu) else { return Ok(()) };
    let elsewhere = if gpu { "`--device host`, or a GPU with more memory" } else { "a machine with more memory" };
    refuse(&plan, device, |error, _| Ok(error.help(format!("use {elsewhere}"))))
}

/// G0601 with the whole plan where `device` has less than it needs; `cure` adds what helps, given how much there is.
fn refuse(plan: &MemoryPlan, device: &Device, cure: impl FnOnce(Error, u64) -> Result<Error>) -> Result<()> {
    let gpu = device.is_machine();
    match there_is(device) {
        Ok(memory) if plan.peak(gpu).1 > memory => {
            let error = cure(short_of_memory(plan, memory, gpu), memory)?;
            Err(error.note(format!("the plan:\n{}", terminal::table(&table(plan, gpu)).trim_end())))
        }
        // A system that does not say what it has is trusted.
        _ => Ok(()),
    }
}

fn short_of_memory(plan: &MemoryPlan, memory: u64, gpu: bool) -> Error {
    let (moment, needed) = plan.peak(gpu);
    let what = format!("the run needs {} while {}, and there are {}", size(needed), of(moment), size(memory));
    let mut lines: Vec<&plan::Line> = plan.lines.iter().filter(|l| l.during.contains(&moment) && (!gpu || l.on_gpu)).collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
    let most: Vec<String> = lines.iter().take(3).map(|line| format!("{} {}", line.part, size(line.bytes))).collect();
    Error::new(Code::G0601, what).note(format!("most of it: {}", most.join(", ")))
}

fn with_changes(error: Error, changes: &[plan::Change]) -> Error {
    match changes.is_empty() {
        true => error.help("no single smaller setting makes it fit: change several, or use a machine with more memory"),
        false => {
            changes.iter().fold(error, |error, change| error.help(format!("`--set {}` needs {}", change.set, size(change.bytes))))
        }
    }
}

/// How far predictions were from the fastest steps of many configurations.
const WITHIN: &str = "on the plain path within a factor of 1.25 of the fastest step in the median of 18 configurations, of 1.60 in \
                      the worst: benches/runs/2026-11-28-cpu-prediction";

/// The least time a step takes on this machine, and the time it is predicted to take.
#[derive(Serialize)]
struct Time {
    ceilings: Ceilings,
    /// Of a step with as many rows as the mean one.
    parts: Vec<Floor>,
    /// Seconds of that step, and of all steps of an epoch.
    step_floor: f64,
    epoch_floor: f64,
    /// The same, predicted.
    step_predicted: f64,
    epoch_predicted: f64,
    steps_per_epoch: u64,
    uncounted: Vec<&'static str>,
    /// Parts of a step that the prediction leaves out.
    unpredicted: Vec<&'static str>,
    /// Whether a machine computes, of which nobody has measured how near a prediction comes.
    #[serde(skip)]
    there: bool,
}

impl Time {
    /// With a log, of some steps on it as well.
    fn new(config: &Config, sizes: &Counts, device: &Device, steps: Option<&Arc<TrainingSet>>) -> Result<Time> {
        let steps_per_epoch = (sizes.lengths.sequences as u64).div_ceil(u64::from(config.train.batch_size.max(1)));
        let lengths = sizes.lengths.mean(steps_per_epoch);
        let cost = StepCost::new(config, sizes, lengths)?;
        let ceilings = Ceilings::measure(device)?;
        let (prices, took) = match steps {
            None => (Prices::measure(config, sizes, lengths, &cost, device)?, None),
            Some(set) => {
                let held = profile::hold(config, set, sizes, lengths, &cost, device)?;
                (held.prices, Some(held.parts))
            }
        };
        let mut parts = cost.floors(&ceilings, &prices);
        for (part, (fastest, median)) in parts.iter_mut().zip(took.into_iter().flatten()) {
            (part.fastest, part.median) = (Some(fastest), Some(median));
        }
        let step_floor = parts.iter().map(|part| part.floor).sum();
        let step_predicted = parts.iter().map(|part| part.predicted).sum();
        let of_epoch = |step: f64| step * steps_per_epoch as f64;
        Ok(Time {
            ceilings,
            parts,
            step_floor,
            epoch_floor: of_epoch(step_floor),
            step_predicted,
            epoch_predicted: of_epoch(step_predicted),
            steps_per_epoch,
            uncounted: cost.uncounted,
            unpredicted: prices.missing,
            there: matches!(device, Device::Machine(_)),
        })
    }

    fn print(&self) -> Result<()> {
        let held = self.parts.iter().any(|part| part.fastest.is_some());
        let head = ["part", "GFLOP", "MB", "floor ms", "predicted ms", "fastest ms", "median ms"];
        let columns = if held { 7 } else { 5 };
        let mut rows = vec![head[..columns].iter().map(|name| name.to_string()).collect::<Vec<_>>()];
        for Floor { part, cost, floor, predicted, fastest, median } in self.parts.iter().filter(|part| part.floor > 0.0) {
            let [flops, bytes] = [cost.flops as f64 / 1e9, cost.bytes as f64 / 1e6];
            let ms = |seconds: f64| format!("{:.2}", seconds * 1e3);
            let seconds = [Some(*floor), Some(*predicted), *fastest, *median].map(|seconds| seconds.map_or("-".into(), ms));
            let row = [part.to_string(), format!("{flops:.3}"), format!("{bytes:.1}")];
            rows.push(row.into_iter().chain(seconds).take(columns).collect());
        }
        terminal::out(&format!("\n{}", terminal::table(&rows).trim_end()))?;
        let Time { step_floor, epoch_floor, steps_per_epoch, .. } = self;
        let steps = terminal::grouped(*steps_per_epoch);
        let epoch = format!("an epoch of {steps} steps {epoch_floor:.2} s");
        terminal::out(&format!("a step takes {:.2} ms or more, {epoch} or more: a floor, no prediction,", step_floor * 1e3))?;
        terminal::out(&format!("where the machine {}", reaches(&self.ceilings)))?;
        if !self.uncounted.is_empty() {
            terminal::out(&format!("more than is counted: {}", self.uncounted.join(", ")))?;
        }
        let (step, epoch) = (self.step_predicted * 1e3, format!("an epoch of {steps} steps {:.2} s", self.epoch_predicted));
        terminal::out(&format!("predicted: a step {step:.2} ms, {epoch} without its evaluation, on a machine left alone;"))?;
        terminal::out(WITHIN)?;
        if self.there {
            terminal::out("how near predictions come elsewhere has not been measured")?;
        }
        if !self.unpredicted.is_empty() {
            terminal::out(&format!("not predicted: {}", self.unpredicted.join(", ")))?;
        }
        Ok(())
    }
}

/// `reaches 61.9 [60.9, 70.9] GFLOP/s in products and 26.6 [21.4, 27.9] GB/s of memory (median [95 % interval], measured now)`
pub fn reaches(ceilings: &Ceilings) -> String {
    let rate = |m: &Median| format!("{:.1} [{:.1}, {:.1}]", m.median / 1e9, m.low / 1e9, m.high / 1e9);
    let (flops, bytes) = (rate(&ceilings.flops), rate(&ceilings.bytes));
    format!("reaches {flops} GFLOP/s in products and {bytes} GB/s of memory (median [95 % interval], measured now)")
}

/// The log, prepared into a folder that is gone afterwards: its pages stay mapped.
fn prepared(settings: &Settings, json: bool) -> Result<Arc<TrainingSet>> {
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
    let config = &settings.config;
    let clusters = intake::cluster_method(config)?;
    let folder = Gone(std::env::temp_dir().join(format!("hardneg-plan-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).map_err(|e| Error::io("creating", &folder.0, &e))?;
    let mut display = Display::new(Style::Auto, json, false);
    let (data, _) = intake::interactions(settings, &folder.0.join("log.hardneg"), &mut display)?;
    intake::training_set(config, data, clusters)
}

/// The most bytes held in each part of a run: in a step (the one with the largest batch, one beside it, and that one again), in an
/// evaluation of the held-out targets, in that of the baselines after it, and in the copy for a checkpoint. The split is held before and
/// is added as the plan has it.
fn measure(config: &Config, set: &Arc<TrainingSet>, device: &Device, largest: u64) -> Result<Vec<(&'static str, u64)>> {
    if let Device::Machine(runtime) = device {
        return measure_there(config, set, runtime, largest);
    }
    let (split, data) = (set.split(), set.data());
    let targets = split.valid.len() + split.test.len();
    let before = TrainingSet::bytes(set.len(), set.seen_pairs(), data.users(), data.items(), targets);
    let watch = heap::watch().ok_or_else(|| Error::internal("memory is being counted already"))?;
    let mut trainer = Trainer::new(config, set.clone(), device)?;
    watch.restart();
    let steps = trainer.steps_per_epoch();
    for step in [largest, (largest + 1) % steps, largest] {
        trainer.step_on(step, None)?;
    }
    let mut measured = vec![("step", before + watch.peak())];
    watch.restart();
    trainer.tensors()?;
    measured.push(("checkpoint", before + watch.peak()));
    if config.train.eval_every > 0 && !split.valid.is_empty() {
        watch.restart();
        let mut ranker = Encoder::new(&mut trainer.model, device, &config.model.kind)?;
        // As after training, the model and what came of it are still there while the baselines are judged.
        let _judged = evaluate_all(set, config, &mut ranker)?;
        measured.push(("evaluation", before + watch.peak()));
        if config.eval.baselines {
            watch.restart();
            Ground::new(set, Part::Test).baselines(&config.eval)?;
            measured.push(("baselines", before + watch.peak()));
        }
    }
    Ok(measured)
}

/// The same of a machine's own memory, which a checkpoint takes nothing of.
fn measure_there(
    config: &Config,
    set: &Arc<TrainingSet>,
    runtime: &Arc<dyn Runtime>,
    largest: u64,
) -> Result<Vec<(&'static str, u64)>> {
    let watched = Arc::new(Watched::new(runtime.clone()));
    let device = Device::Machine(watched.clone());
    let mut trainer = Trainer::new(config, set.clone(), &device)?;
    let steps = trainer.steps_per_epoch();
    for step in [largest, (largest + 1) % steps, largest] {
        trainer.step_on(step, None)?;
    }
    let mut measured = vec![("step", watched.most())];
    if config.train.eval_every > 0 && !set.split().valid.is_empty() {
        watched.restart();
        let mut ranker = Encoder::new(&mut trainer.model, &device, &config.model.kind)?;
        evaluate_all(set, config, &mut ranker)?;
        measured.push(("evaluation", watched.most()));
    }
    Ok(measured)
}

/// The evaluation while training and the one after it, whose histories are longer and which is handed back.
fn evaluate_all(set: &Arc<TrainingSet>, config: &Config, ranker: &mut Encoder) -> Result<Evaluation> {
    Ground::new(set, Part::Valid).evaluate(ranker, &config.eval, &mut |_, _| {})?;
    Ground::new(set, Part::Test).evaluate(ranker, &config.eval, &mut |_, _| {})
}

/// What the plan says of a measured part of a run.
fn planned(plan: &MemoryPlan, part: &str, gpu: bool) -> u64 {
    // Steps are measured call by call.
    let plan = plan.clone().of_calls();
    match part {
        "checkpoint" => plan.at(Moment::Checkpoint, gpu),
        "evaluation" => plan.at(Moment::Evaluation, gpu),
        "baselines" => plan.at(Moment::Baselines, gpu),
        _ => plan.step(gpu),
    }
}

/// Every part, what it takes and when it is held.
fn table(plan: &MemoryPlan, gpu: bool) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["part".to_string(), "bytes".into(), "".into(), "held".into()]];
    for line in plan.lines.iter().filter(|line| !gpu || line.on_gpu) {
        let held = match line.during.len() {
            all if all == Moment::ALL.len() => "always".to_string(),
            3 => "in a step".into(),
            _ => line.during.iter().map(|&m| of(m)).collect::<Vec<_>>().join(", "),
        };
        rows.push(vec![line.part.clone(), terminal::grouped(line.bytes), size(line.bytes), held]);
    }
    let (moment, needed) = plan.peak(gpu);
    rows.push(vec!["needed".into(), terminal::grouped(needed), size(needed), of(moment).into()]);
    rows
}

/// The table, and what it means.
fn print(plan: &MemoryPlan, sizes: &Counts, gpu: bool, memory: u64, measured: Option<Vec<(&str, u64)>>) -> Result<()> {
    terminal::out(terminal::table(&table(plan, gpu)).trim_end())?;
    let (_, needed) = plan.peak(gpu);
    let batch = format!("largest batch: {} rows", terminal::grouped(sizes.rows as u64));
    terminal::out(&format!("\n{batch}; not part of the sum: {} of the log, mapped from its file", size(plan.mapped)))?;
    if !plan.uncounted.is_empty() {
        terminal::out(&format!("not counted: {}", plan.uncounted.join(", ")))?;
    }
    if gpu {
        terminal::out(
            "in the memory of the GPU, without the little that kernels take for a moment beside the loss and the choice of negatives",
        )?;
    }
    for (part, measured) in measured.into_iter().flatten() {
        let planned = planned(plan, part, gpu);
        let off = 100.0 * (planned as f64 / measured.max(1) as f64 - 1.0);
        let [planned, measured] = [planned, measured].map(terminal::grouped);
        terminal::out(&format!("{part}: planned {planned}, measured {measured} ({off:+.1} %)"))?;
    }
    if needed <= memory {
        terminal::out(&format!("fits: {} of {}", size(needed), size(memory)))?;
    }
    Ok(())
}

/// What a run does in a moment.
fn of(moment: Moment) -> &'static str {
    match moment {
        Moment::Drawing => "drawing negatives",
        Moment::Loss => "computing the loss",
        Moment::Backward => "going backward",
        Moment::Evaluation => "evaluating",
        Moment::Baselines => "judging the baselines",
        Moment::Checkpoint => "writing a checkpoint",
    }
}

/// Memory of the device: of a GPU what was free when it was opened, of the host all of it, whoever else uses it now; the emulator's is
/// the host's.
fn there_is(device: &Device) -> Result<u64> {
    let host = || {
        doctor::facts()["memory_mib"].as_u64().map(|mib| mib << 20).ok_or_else(|| {
            Error::new(Code::C0202, "this system does not say how much memory it has").help("say it with `--memory`, such as 16G")
        })
    };
    match device {
        Device::Machine(runtime) => {
            let Facts { arch, memory_bytes, .. } = runtime.facts();
            Ok(if arch == "emulator" { host().map_or(*memory_bytes, |host| host.min(*memory_bytes)) } else { *memory_bytes })
        }
        Device::Host(_) => host(),
    }
}

/// `1.5 GiB`
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::size;
    #[cfg(feature = "emulator")]
    use super::*;

    /// A model that was not trained here, evaluated on the emulator: what it takes there at the most, without a step before it.
    #[cfg(feature = "emulator")]
    #[test]
    fn what_using_a_model_takes_is_planned_to_two_percent() {
        use crate::data::{prepare, split::Split};
        use crate::device::emulator::{Emulator, Options};
        use crate::model::Model;

        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        for (kind, tied, candidates) in [("sasrec", true, "full"), ("sasrec", false, "random:50"), ("cans", true, "full")] {
            let machine: Arc<dyn Runtime> = match Emulator::open(&Options::new(&cache)) {
                Ok(machine) => machine,
                Err(error) => {
                    assert_eq!(error.code(), Code::G0507, "{error:?}");
                    return println!("SKIPPED: no C++ compiler, so no model was used on the emulator");
                }
            };
            let mut config = Config::default();
            config.model = crate::config::Model { kind: kind.into(), tied, max_len: 60, ..config.model };
            config.eval.candidates = candidates.into();
            let raw = profile::log(900, 300, 63, 1).unwrap();
            let data = Arc::new(prepare::in_memory(raw, &config.data, Default::default()).unwrap());
            let split = Arc::new(Split::new(&data, &config.data, 1).unwrap());
            let set = TrainingSet::new(data, split, &config, None, None).unwrap();
            let watched = Arc::new(Watched::new(machine));
            let device = Device::Machine(watched.clone());
            let mut model = Model::new(&config.model, crate::train::step::sizes(&set), &device, 1).unwrap();
            let mut ranker = Encoder::new(&mut model, &device, kind).unwrap();
            Ground::new(&set, Part::Test).evaluate(&mut ranker, &config.eval, &mut |_, _| {}).unwrap();
            let planned = MemoryPlan::of_use(&config, &Counts::of_use(&set, &config), 2, true).unwrap().peak(true).1;
            let off = planned as f64 / watched.most() as f64 - 1.0;
            println!("{kind}, tied {tied}, {candidates}: planned {planned}, measured {}, {:+.2} %", watched.most(), 100.0 * off);
            assert!(off.abs() < 0.02, "{kind}, tied {tied}, {candidates}: planned {planned}, measured {}", watched.most());
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!([size(10), size(1536), size(3 << 30)], ["10 B", "1.5 KiB", "3.0 GiB"]);
    }
}
