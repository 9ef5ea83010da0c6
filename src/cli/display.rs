//! What a person or a program sees of a running command: a bar on a terminal, a line now and then elsewhere, records
//! with `--json`; and the same lines in the run's `log.txt`.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::terminal::{self, grouped};
use crate::train::fit::{Event, StepReport};

/// Between two lines where there is no bar.
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// A bar on a terminal, lines elsewhere
    Auto,
    /// Lines
    Plain,
    /// One JSON record per line on standard output
    Json,
    /// Nothing
    None,
}

pub struct Display {
    style: Style,
    bar: Option<ProgressBar>,
    log: Option<File>,
    /// What was said before there was a log.
    early: Vec<String>,
    epochs: u32,
    last: Instant,
    window: Window,
}

/// Sums since the last line.
#[derive(Default)]
struct Window {
    loss: f64,
    rows: u64,
    sequences: u64,
    seconds: f64,
    sampling: f64,
}

impl Window {
    fn add(&mut self, report: &StepReport) {
        self.loss += report.loss * report.rows as f64;
        self.rows += report.rows;
        self.sequences += report.sequences;
        self.seconds += report.seconds;
        self.sampling += report.stages.sample;
    }
    fn text(&self) -> String {
        let rate = if self.seconds > 0.0 { self.sequences as f64 / self.seconds } else { 0.0 };
        let share = if self.seconds > 0.0 { 100.0 * self.sampling / self.seconds } else { 0.0 };
        format!(
            "loss {:.4}  {} sequences/s  sampling {share:.0}% of the step",
            self.loss / self.rows.max(1) as f64,
            grouped(rate as u64)
        )
    }
}

impl Display {
    /// Of a command that was asked for a style, to be quiet, or for JSON; who asks for silence gets it with JSON too.
    pub fn new(style: Style, quiet: bool, json: bool) -> Display {
        let style = match style {
            Style::None => Style::None,
            Style::Auto if quiet => Style::None,
            _ if json => Style::Json,
            Style::Auto if std::io::stderr().is_terminal() => Style::Auto,
            Style::Auto => Style::Plain,
            other => other,
        };
        Display { style, bar: None, log: None, early: vec![], epochs: 0, last: Instant::now(), window: Window::default() }
    }

    /// Lines also go to `log`, those that were said before first.
    pub fn log_to(&mut self, mut log: File) {
        self.early.drain(..).for_each(|text| note_down(&mut log, &text));
        self.log = Some(log);
    }
    pub fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// A line for people.
    pub fn line(&mut self, text: &str) {
        let text = terminal::escape(text);
        match &mut self.log {
            Some(log) => note_down(log, &text),
            None => self.early.push(text.clone()),
        }
        match (&self.bar, self.style) {
            (_, Style::None) => {}
            (_, Style::Json) => self.record(&json!({ "v": 1, "kind": "note", "text": text })),
            (Some(bar), _) => bar.suspend(|| terminal::say(&text)),
            (None, _) => terminal::say(&text),
        }
    }

    /// A record for programs; a reader that hung up does not stop the work.
    fn record(&self, record: &Value) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{record}").and_then(|()| stdout.flush());
    }

    /// Starts a bar over `total` of something that takes a while.
    pub fn start(&mut self, what: &str, total: u64) {
        (self.last, self.window) = (Instant::now(), Window::default());
        if self.style == Style::Auto {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
            let template = "{prefix} {bar:24} {percent:>3}%  {msg}  ETA {eta}";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(what.to_string());
            self.bar = Some(bar);
        }
    }
    pub fn at(&mut self, done: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            if self.last.elapsed() >= Duration::from_millis(100) {
                bar.set_message(message());
                self.last = Instant::now();
            }
        }
    }
    pub fn stop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Starts showing a training of so many epochs.
    pub fn start_training(&mut self, total_steps: u64, epochs: u32) {
        self.epochs = epochs;
        self.start("training", total_steps);
    }

    /// Shows what the training loop tells.
    pub fn hear(&mut self, event: &Event<'_>) {
        match event {
            Event::Note(note) => self.line(note),
            Event::Resumed { step } => self.line(&format!("continuing after step {}", grouped(*step))),
            Event::Saved { .. } => {}
            Event::Step { step, total, epoch, report } => {
                self.window.add(report);
                self.step(*step, *total, *epoch);
            }
            Event::Epoch { record } => {
                if self.is_json() {
                    self.record(record);
                }
                let hash = record["state_hash"].as_str().unwrap_or_default();
                let line = format!(
                    "epoch {}/{}  step {}  {}  {:.1}s  state {}",
                    record["epoch"],
                    self.epochs,
                    grouped(record["step"].as_u64().unwrap_or(0)),
                    epoch_text(record),
                    record["seconds"].as_f64().unwrap_or(0.0),
                    hash.get(..8).unwrap_or_default()
                );
                if !self.is_json() {
                    self.line(&line);
                }
                self.window = Window::default();
            }
            Event::Evaluated { record, best } => {
                if self.is_json() {
                    return self.record(record);
                }
                let metrics = record["metrics"].as_object().into_iter().flatten();
                let shown: Vec<String> = metrics
                    .filter(|(name, _)| matches!(name.split('@').next(), Some("ndcg" | "hr")) && !name.ends_with("_se"))
                    .map(|(name, value)| format!("{name} {:.4}", value.as_f64().unwrap_or(f64::NAN)))
                    .collect();
                let mark = if *best { "  best" } else { "" };
                self.line(&format!("valid {}/{}  {}{mark}", record["epoch"], self.epochs, shown.join("  ")));
            }
        }
    }

    fn step(&mut self, step: u64, total: u64, epoch: u64) {
        match self.style {
            Style::Auto => {
                if let Some(bar) = &self.bar {
                    bar.set_position(step);
                    if self.last.elapsed() >= Duration::from_millis(125) {
                        bar.set_message(format!("epoch {epoch}/{}  {}", self.epochs, self.window.text()));
                        self.last = Instant::now();
                    }
                }
            }
            Style::Plain if self.last.elapsed() >= INTERVAL => {
                self.line(&format!(
                    "step {}/{}  epoch {epoch}/{}  {}",
                    grouped(step),
                    grouped(total),
                    self.epochs,
                    self.window.text()
                ));
                (self.last, self.window) = (Instant::now(), Window::default());
            }
            Style::Json if self.last.elapsed() >= INTERVAL => {
                let w = &self.window;
                let share = if w.seconds > 0.0 { w.sampling / w.seconds } else { 0.0 };
                self.record(&json!({
                    "v": 1, "kind": "progress", "step": step, "steps": total, "epoch": epoch, "loss": w.loss / w.rows.max(1) as f64,
                    "sequences": w.sequences, "seconds": w.seconds, "sampling_share": share,
                }));
                (self.last, self.window) = (Instant::now(), Window::default());
            }
            _ => {}
        }
    }
}

/// The log is a convenience; a full disk shows where it matters, at the next checkpoint.
fn note_down(log: &mut File, text: &str) {
    let _ = writeln!(log, "{text}");
}

/// Loss, rate and sampling share of a finished epoch.
fn epoch_text(record: &Value) -> String {
    let number = |key: &str| record[key].as_f64().unwrap_or(0.0);
    let seconds = number("seconds");
    let rate = if seconds > 0.0 { number("sequences") / seconds } else { 0.0 };
    format!(
        "loss {:.4}  {} sequences/s  sampling {:.0}% of the step",
        number("loss"),
        grouped(rate as u64),
        100.0 * number("sampling_share")
    )
}
