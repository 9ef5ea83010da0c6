//! The loop around the step: epochs, evaluation, early stopping, checkpoints, interruption, continuation.
//!
//! A step is a pure function of (state, step number), so the loop owns no randomness and a run that is stopped at any
//! step, or killed and sent back to its last checkpoint, ends in the same bits as one left alone. Clocks decide only when
//! a checkpoint is written and when to stop, never what is computed.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config;
use crate::error::{Code, Error, Result};
use crate::train::checkpoint::{self, Tensor};
use crate::train::durable::FileSystem;
use crate::train::run_dir::{RECORD_VERSION, RunDir};

/// Steps between records within an epoch.
const RECORD_STEPS: u64 = 1000;
/// Seconds after which steps that a machine is at are waited for, so that progress is seen and a broken run noticed.
const HEARD_EVERY: f64 = 0.25;

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Mean over the step's rows.
    pub loss: f64,
    pub rows: u64,
    pub sequences: u64,
    /// Before clipping.
    pub grad_norm: f64,
    pub stages: Stages,
    /// Of the whole step.
    pub seconds: f64,
}

/// Seconds of each stage of a step; of a machine that works behind the host's back, in its own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stages {
    /// Order of the epoch, sequences, context.
    pub gather: f64,
    /// The encoder, forward.
    pub forward: f64,
    /// All stages of the negative sampler.
    pub sample: f64,
    /// Of `sample`, the propose stage.
    pub propose: f64,
    /// Scores, loss, gradients of queries and tables.
    pub loss: f64,
    /// The encoder, backward.
    pub backward: f64,
    /// Clipping, update, tables made anew.
    pub update: f64,
}

impl Stages {
    pub const NAMES: [&'static str; 6] = ["gather", "forward", "sample", "loss", "backward", "update"];
    /// In the order of [`Stages::NAMES`].
    pub fn seconds(&self) -> [f64; 6] {
        [self.gather, self.forward, self.sample, self.loss, self.backward, self.update]
    }
    /// In the order of [`StepCost::PARTS`](crate::train::cost::StepCost::PARTS).
    pub fn parts(&self) -> [f64; 6] {
        [self.forward, self.propose, self.sample - self.propose, self.loss, self.backward, self.update]
    }
    fn add(&mut self, other: &Stages) {
        self.gather += other.gather;
        self.forward += other.forward;
        self.sample += other.sample;
        self.propose += other.propose;
        self.loss += other.loss;
        self.backward += other.backward;
        self.update += other.update;
    }
}

/// A model in training, as the loop sees it.
pub trait Training {
    fn steps_per_epoch(&self) -> u64;
    /// Step number `step`, counted from 0 over all epochs. A machine may still be at it afterwards.
    fn step(&mut self, step: u64) -> Result<()>;
    /// What the steps since the last reports did, in their order: of all of them if `wait`; else of all or none, whichever needs no
    /// waiting.
    fn reports(&mut self, wait: bool) -> Result<Vec<StepReport>>;
    /// What is to be recorded about the negatives of the step just done, if it closed an epoch.
    fn sampler_facts(&mut self) -> Option<Value> {
        None
    }
    /// The whole state: `model.*` and `optim.*`.
    fn tensors(&self) -> Result<Vec<Tensor>>;
    /// Takes the state of a checkpoint made after `step` steps; refuses other names or shapes.
    fn restore(&mut self, step: u64, tensors: &[Tensor]) -> Result<()>;
}

/// What the loop asks of and tells to whoever runs it.
pub trait Watcher<T> {
    /// Metrics on the validation targets.
    fn evaluate(&mut self, training: &mut T) -> Result<Vec<(String, f64)>>;
    fn hear(&mut self, event: Event<'_>);
    /// Whether to stop after this step.
    fn stop(&self) -> bool;
}

/// What happened.
pub enum Event<'a> {
    /// Something worth a line: a checkpoint passed over.
    Note(&'a str),
    /// Training goes on after `step` steps of an earlier process.
    Resumed {
        step: u64,
    },
    /// `step` of `total` steps are done; `epoch` counts from 1.
    Step {
        step: u64,
        total: u64,
        epoch: u64,
        report: &'a StepReport,
    },
    /// A record of `metrics.jsonl`: the end of an epoch, or an evaluation (`best` if it is the best so far).
    Epoch {
        record: &'a Value,
    },
    Evaluated {
        record: &'a Value,
        best: bool,
    },
    Saved {
        step: u64,
    },
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// All epochs or steps are done.
    Finished,
    /// The metric did not improve for `train.patience` evaluations.
    StoppedEarly,
    /// Asked to stop; the run continues when started again.
    Interrupted,
    TimeLimit,
}

#[derive(Debug)]
pub struct Outcome {
    pub reason: Reason,
    pub step: u64,
    pub state_hash: String,
    pub best: Option<Best>,
    /// Nothing was done, because the run had ended before.
    pub already: bool,
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    pub step: u64,
    pub value: f64,
}

/// What a checkpoint knows besides tensors. Reals are stored as their bits, because decimal JSON may round the last one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Progress {
    version: String,
    /// Hash of everything that must be equal to continue: configuration, data, random streams.
    identity: String,
    step: u64,
    /// Sums over the epoch so far.
    loss_bits: u64,
    grad_norm_bits: u64,
    rows: u64,
    sequences: u64,
    steps: u64,
    /// Seconds of the same steps, whichever process took them: shown and recorded, never computed with. Checkpoints from before
    /// they were kept have none.
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    stages: Stages,
    best_step: Option<u64>,
    best_bits: u64,
    /// Evaluations since the best.
    stale: u32,
    ended: Option<Reason>,
}

impl Progress {
    fn add(&mut self, report: &StepReport) {
        self.loss_bits = (f64::from_bits(self.loss_bits) + report.loss * report.rows as f64).to_bits();
        self.grad_norm_bits = (f64::from_bits(self.grad_norm_bits) + report.grad_norm).to_bits();
        self.rows += report.rows;
        self.sequences += report.sequences;
        self.steps += 1;
        self.seconds += report.seconds;
        self.stages.add(&report.stages);
    }
    fn clear_sums(&mut self) {
        (self.loss_bits, self.grad_norm_bits, self.rows, self.sequences, self.steps) = (0, 0, 0, 0, 0);
        (self.seconds, self.stages) = (0.0, Stages::default());
    }
    fn best(&self) -> Option<Best> {
        self.best_step.map(|step| Best { step, value: f64::from_bits(self.best_bits) })
    }
}

/// Trains until the end, early stopping, or a request to stop; continues where the run directory left off.
pub fn fit<T: Training>(
    training: &mut T,
    run: &RunDir,
    config: &config::Train,
    identity: &str,
    watcher: &mut dyn Watcher<T>,
) -> Result<Outcome> {
    let started = Instant::now();
    let per_epoch = training.steps_per_epoch().max(1);
    let all = per_epoch * u64::from(config.epochs);
    let total = if config.steps > 0 { all.min(config.steps) } else { all };
    let mut progress = resume(training, run, identity, watcher)?;
    if let Some(reason) = progress.ended {
        return finish(training, run, &progress, reason, true);
    }
    let mut saved_at = progress.step;
    let mut saved_when = Instant::now();
    // When steps were last heard of.
    let mut heard = Instant::now();
    let reason = loop {
        if progress.step >= total {
            break Reason::Finished;
        }
        training.step(progress.step)?;
        progress.step += 1;
        let epoch = (progress.step - 1) / per_epoch + 1;
        let ends_epoch = progress.step % per_epoch == 0 || progress.step == total;
        let records = (progress.step % per_epoch).is_multiple_of(RECORD_STEPS);
        let wait = ends_epoch || records || heard.elapsed().as_secs_f64() >= HEARD_EVERY;
        listen(training, wait, total, &mut progress, &mut heard, watcher)?;
        let mut spent = false;
        if ends_epoch {
            let mut record = epoch_record("epoch", &progress, epoch, Some(&hash(training, progress.step)?));
            if let Some(facts) = training.sampler_facts() {
                record["negatives"] = facts;
            }
            run.record(&record)?;
            watcher.hear(Event::Epoch { record: &record });
            progress.clear_sums();
            let due = config.eval_every > 0 && (epoch.is_multiple_of(u64::from(config.eval_every)) || progress.step == total);
            spent = due && evaluate(training, run, config, &mut progress, epoch, watcher)?;
        } else if records {
            run.record(&epoch_record("steps", &progress, epoch, None))?;
        }
        if spent {
            break Reason::StoppedEarly;
        }
        if progress.step < total {
            if watcher.stop() {
                break Reason::Interrupted;
            }
            if config.time_limit > 0.0 && started.elapsed().as_secs_f64() >= config.time_limit {
                break Reason::TimeLimit;
            }
            let by_steps = config.checkpoint_steps > 0 && progress.step % config.checkpoint_steps == 0;
            let by_time = saved_when.elapsed() >= Duration::from_secs_f64(config.checkpoint_every.clamp(0.0, 1e9));
            if by_steps || by_time {
                listen(training, true, total, &mut progress, &mut heard, watcher)?;
                save(training, run, config, &progress, watcher)?;
                saved_at = progress.step;
                saved_when = Instant::now();
            }
        }
    };
    listen(training, true, total, &mut progress, &mut heard, watcher)?;
    let lasting = matches!(reason, Reason::Finished | Reason::StoppedEarly);
    progress.ended = lasting.then_some(reason);
    if lasting || saved_at != progress.step {
        save(training, run, config, &progress, watcher)?;
    }
    finish(training, run, &progress, reason, false)
}

/// Takes in what the steps since the last call did. Nothing of a step is recorded or saved before it is found to be finite.
fn listen<T: Training>(
    training: &mut T,
    wait: bool,
    total: u64,
    progress: &mut Progress,
    heard: &mut Instant,
    watcher: &mut dyn Watcher<T>,
) -> Result<()> {
    let reports = training.reports(wait)?;
    if !reports.is_empty() {
        *heard = Instant::now();
    }
    let per_epoch = training.steps_per_epoch().max(1);
    let first = progress.step - reports.len() as u64;
    for (step, report) in (first..).zip(&reports) {
        check_finite(report, step, per_epoch)?;
        progress.add(report);
        watcher.hear(Event::Step { step: step + 1, total, epoch: step / per_epoch + 1, report });
    }
    Ok(())
}

/// Brings model and loop to the newest whole checkpoint, if there is one.
fn resume<T: Training>(training: &mut T, run: &RunDir, identity: &str, watcher: &mut dyn Watcher<T>) -> Result<Progress> {
    for dir in [run.checkpoints(), run.best()] {
        checkpoint::recover(&FileSystem, &dir)?;
    }
    let loaded = checkpoint::load_latest(&run.checkpoints()).map_err(|error| error.help("start over with `--fresh`"))?;
    let Some(loaded) = loaded else {
        run.rewind_records(0)?;
        return Ok(Progress { version: env!("CARGO_PKG_VERSION").into(), identity: identity.into(), ..Progress::default() });
    };
    for note in &loaded.notes {
        watcher.hear(Event::Note(note));
    }
    let progress: Progress = serde_json::from_value(loaded.state)
        .map_err(|e| Error::new(Code::M0402, format!("the state of checkpoint step-{} does not fit: {e}", loaded.step)))?;
    if progress.identity != identity || progress.step != loaded.step {
        return Err(Error::new(
            Code::C0206,
            "the checkpoint was made with another configuration, other data or other random streams",
        )
        .at(run.path().display().to_string())
        .help("choose another `--out`, or start over with `--fresh`"));
    }
    training.restore(progress.step, &loaded.tensors)?;
    run.rewind_records(progress.step)?;
    if progress.ended.is_none() {
        watcher.hear(Event::Resumed { step: progress.step });
    }
    Ok(progress)
}

/// Evaluates, keeps the best model, and says whether patience is spent.
fn evaluate<T: Training>(
    training: &mut T,
    run: &RunDir,
    config: &config::Train,
    progress: &mut Progress,
    epoch: u64,
    watcher: &mut dyn Watcher<T>,
) -> Result<bool> {
    let before = Instant::now();
    let metrics = watcher.evaluate(training)?;
    let Some((_, value)) = metrics.iter().find(|(name, _)| name.eq_ignore_ascii_case(&config.metric)) else {
        let names: Vec<&str> = metrics.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::new(Code::C0202, format!("`train.metric = {}` is not among the metrics", config.metric))
            .help(format!("choose one of {}", names.join(", "))));
    };
    let best = progress.best().is_none_or(|b| *value > b.value);
    let values: serde_json::Map<String, Value> = metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let record = json!({
        "v": RECORD_VERSION, "kind": "evaluation", "step": progress.step, "epoch": epoch, "metrics": values, "best": best,
        "seconds": before.elapsed().as_secs_f64(),
    });
    if best {
        (progress.best_step, progress.best_bits, progress.stale) = (Some(progress.step), value.to_bits(), 0);
        let model: Vec<Tensor> = training.tensors()?.into_iter().filter(|t| t.name.starts_with("model.")).collect();
        let state = json!({ "step": progress.step, "epoch": epoch, "metric": config.metric, "value": value });
        checkpoint::save(&FileSystem, &run.best(), progress.step, &model, &state, 1)?;
    } else {
        progress.stale += 1;
    }
    run.record(&record)?;
    watcher.hear(Event::Evaluated { record: &record, best });
    Ok(config.patience > 0 && progress.stale >= config.patience)
}

fn save<T: Training>(
    training: &mut T,
    run: &RunDir,
    config: &config::Train,
    progress: &Progress,
    watcher: &mut dyn Watcher<T>,
) -> Result<()> {
    let state = serde_json::to_value(progress).map_err(|e| Error::internal(e.to_string()))?;
    checkpoint::save(&FileSystem, &run.checkpoints(), progress.step, &training.tensors()?, &state, config.keep as usize)?;
    watcher.hear(Event::Saved { step: progress.step });
    Ok(())
}

fn finish<T: Training>(training: &mut T, run: &RunDir, progress: &Progress, reason: Reason, already: bool) -> Result<Outcome> {
    let state_hash = hash(training, progress.step)?;
    if matches!(reason, Reason::Finished | Reason::StoppedEarly) {
        run.record(
            &json!({ "v": RECORD_VERSION, "kind": "end", "step": progress.step, "reason": reason, "state_hash": state_hash }),
        )?;
    }
    Ok(Outcome { reason, step: progress.step, state_hash, best: progress.best(), already })
}

fn hash<T: Training>(training: &T, step: u64) -> Result<String> {
    Ok(blake3::Hash::from(checkpoint::state_hash(step, &training.tensors()?)).to_hex().to_string())
}

fn check_finite(report: &StepReport, step: u64, per_epoch: u64) -> Result<()> {
    let what = match (report.loss.is_finite(), report.grad_norm.is_finite()) {
        (true, true) => return Ok(()),
        (false, _) => format!("the loss became {}", report.loss),
        (true, false) => format!("the gradient's norm became {}", report.grad_norm),
    };
    Err(Error::diverged(Code::T0701, format!("{what} at step {step} (epoch {})", step / per_epoch + 1))
        .note("checkpoints already written are intact"))
}

fn epoch_record(kind: &str, progress: &Progress, epoch: u64, state_hash: Option<&str>) -> Value {
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let stages: serde_json::Map<String, Value> =
        Stages::NAMES.iter().zip(progress.stages.seconds()).map(|(name, seconds)| (name.to_string(), json!(seconds))).collect();
    json!({
        "v": RECORD_VERSION,
        "kind": kind,
        "step": progress.step,
        "epoch": epoch,
        "loss": f64::from_bits(progress.loss_bits) / progress.rows.max(1) as f64,
        "grad_norm": f64::from_bits(progress.grad_norm_bits) / progress.steps.max(1) as f64,
        "rows": progress.rows,
        "sequences": progress.sequences,
        "seconds": progress.seconds,
        "sampling_share": share(progress.stages.sample, progress.seconds),
        "stage_seconds": stages,
        "state_hash": state_hash,
    })
}

#[cfg(test)]
mod tests;
