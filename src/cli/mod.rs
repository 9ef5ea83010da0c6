//! The face: one file per subcommand. The only floor that prints, reads arguments or the environment, or exits.
//!
//! ```text
//! settings.rs   six layers of configuration with provenance
//! arguments.rs  what several commands take: settings, device, threads, signals
//! intake.rs     from a path to data that can be trained on
//! measure.rs    a ranker and the baselines on a part of the split
//! trained.rs    a run opened for use
//! display.rs    progress for people and programs
//! output.rs     files that a command is asked to write
//! terminal.rs   printing, colour, escaping
//! ```

mod arguments;
mod check;
mod compare;
mod display;
mod doctor;
mod evaluate;
mod explain;
mod inspect;
mod intake;
mod kernels;
mod measure;
mod output;
mod plan;
mod prepare;
mod profile;
mod recommend;
mod report;
mod samplers;
pub mod settings;
mod sweep;
pub mod terminal;
mod train;
mod trained;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::{Parser, Subcommand};

use crate::error::{Error, Exit, Result};

#[derive(Parser)]
#[command(
    name = "hardneg",
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("HARDNEG_COMMIT"), ")"),
    about = "Trains compact transformers for sequential recommendation with hard negatives, fast",
    after_help = "Examples:\n  hardneg train                 learn a generated log and compare with popularity\n  hardneg train ratings.csv     read, prepare, train, evaluate"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print results and errors as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Read, prepare, train, evaluate; the same command again continues.
    Train(Box<train::Args>),
    /// Read and clean a log once, to train on it often.
    Prepare(prepare::Args),
    /// What a file is, how it would be read and why, and what is wrong in it.
    Inspect(inspect::Args),
    /// The trained model beside its baselines.
    Evaluate(evaluate::Args),
    /// Whether runs differ, request by request.
    Compare(compare::Args),
    /// What runs bought: a page, TensorBoard events, a table.
    Report(report::Args),
    /// Lists of items for users or histories.
    Recommend(recommend::Args),
    /// Presets and stages of negative samplers.
    Samplers(samplers::Args),
    /// What negative samplers cost on this machine, against the uniform one.
    Profile(profile::Args),
    /// What memory a run needs, and whether it fits.
    Plan(plan::Args),
    /// Trains combinations of settings, and compares them.
    Sweep(Box<sweep::Args>),
    /// Every operation of a GPU or of the emulator, held to the plain path.
    Check(check::Args),
    /// What was found on this machine.
    Doctor(doctor::Args),
    /// Cause and cure of an error code.
    Explain(explain::Args),
}

/// The program: parses `arguments`, runs one command, says an error once, and gives the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let json = cli.json;
    match guard(|| run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if json {
                terminal::say(&error.json().to_string());
            } else {
                terminal::say_error(&error);
            }
            ExitCode::from(error.code().exit() as u8)
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Train(args) => train::run(&args, cli.json),
        Command::Prepare(args) => prepare::run(&args, cli.json),
        Command::Evaluate(args) => evaluate::run(&args, cli.json),
        Command::Recommend(args) => recommend::run(&args),
        Command::Report(args) => report::run(&args, cli.json),
        Command::Samplers(args) => samplers::run(&args, cli.json),
        Command::Inspect(args) => inspect::run(&args, cli.json),
        Command::Profile(args) => profile::run(&args, cli.json),
        Command::Plan(args) => plan::run(&args, cli.json),
        Command::Sweep(args) => sweep::run(&args, cli.json),
        Command::Compare(args) => compare::run(&args, cli.json),
        Command::Check(args) => check::run(&args, cli.json),
        Command::Doctor(args) => doctor::run(&args, cli.json),
        Command::Explain(args) => explain::run(&args, cli.json),
    }
}

/// Turns a panic into I7001. The hook stays silent, so that a panic a library function catches (a foreign parser's)
/// leaves no trace on the terminal.
fn guard(work: impl FnOnce() -> Result<()>) -> Result<()> {
    static LAST: Mutex<Option<String>> = Mutex::new(None);
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut last) = LAST.lock() {
            *last = Some(info.to_string());
        }
    }));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let what = LAST.lock().ok().and_then(|mut last| last.take()).unwrap_or_else(|| "unknown".into());
        Err(Error::internal(what.replace("panicked at", "broken rule at")).help("please report this with the command line"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_internal_error() {
        let empty: Vec<u32> = vec![];
        let error = guard(|| Err(Error::internal(format!("{}", empty[std::hint::black_box(3)])))).unwrap_err();
        assert_eq!(error.code().exit() as i32, 70);
        assert!(error.what().contains("index out of bounds"), "{error}");
        let _ = std::panic::take_hook();
    }

    #[test]
    fn the_argument_parser_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
