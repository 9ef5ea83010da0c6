//! `hardneg prepare LOG -o FILE`: read and clean a log once, to train on it often.

use std::path::{Path, PathBuf};

use crate::cli::arguments::{Machine, SettingFlags};
use crate::cli::display::{Display, Style};
use crate::cli::{inspect, intake, settings, terminal};
use crate::config;
use crate::error::{Code, Error, Result};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg prepare ratings.csv -o ratings.hardneg\n  hardneg prepare log.tsv.gz -o log.hardneg --set min_user=5 --set min_item=5"
)]
pub struct Args {
    /// The log; without one the synthetic log is written
    log: Option<PathBuf>,
    /// The prepared file
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    settings: SettingFlags,
    /// Threads; 0: one per processor
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let mut inputs = args.settings.inputs();
    if let Some(log) = &args.log {
        inputs.flags.push(("LOG".into(), "data.path", toml::Value::String(log.display().to_string())));
    }
    let settings = settings::resolve(&inputs)?;
    Machine { device: "host".into(), threads: args.threads }.set_threads()?;
    let mut display = Display::new(Style::Auto, json, false);
    for note in &settings.notes {
        display.line(note);
    }
    refuse_to_destroy(&args.out, &settings.config.data)?;
    let data = intake::prepare_log(&settings.config.data, &args.out, &mut display)?;
    if json {
        return terminal::out(&inspect::prepared_json(&args.out, &data).to_string());
    }
    terminal::out(&inspect::prepared_text(&data))?;
    terminal::out(&format!("written to {}\ntrain on it with: hardneg train {0}", args.out.display()))
}

/// Refuses to write over what is read, and over a file that is no prepared one, as a log is that was named after `-o` alone.
fn refuse_to_destroy(out: &Path, config: &config::Data) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(Code::C0205, format!("{} {why}, and the prepared file would take its place", out.display()))
            .help("name another file after `-o`; the log itself is named before it: `hardneg prepare LOG -o FILE`"))
    };
    // What is no file is refused by whoever writes.
    let Ok(place) = out.canonicalize() else { return Ok(()) };
    if !place.is_file() {
        return Ok(());
    }
    if config.inputs().iter().any(|input| Path::new(input).canonicalize().is_ok_and(|input| input == place)) {
        return refuse("is also read");
    }
    let empty = std::fs::metadata(&place).is_ok_and(|facts| facts.len() == 0);
    if empty || inspect::is_prepared(&place)? { Ok(()) } else { refuse("exists and is no prepared file") }
}
