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

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::{Code, Error, Exit, Result};

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
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && asks_for_json(&arguments) => {
            terminal::say(&misuse(&error).json().to_string());
            return ExitCode::from(Exit::Usage as u8);
        }
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

fn parse(arguments: &[OsString]) -> std::result::Result<Cli, clap::Error> {
    let mut command = with_negative_numbers(Cli::command());
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut command))
}

/// Options take `-1` for a value, which may then be refused for what it is, instead of for an option nobody typed.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let accept = |arg: clap::Arg| {
        let option = !arg.is_positional() && arg.get_action().takes_values();
        if option { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(accept).mut_subcommands(with_negative_numbers)
}

/// Whether arguments that cannot be parsed have `--json` among them.
fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json")
}

/// What the parser says of arguments, as one of our errors.
fn misuse(error: &clap::Error) -> Error {
    let help = "`hardneg --help` lists the commands, `hardneg COMMAND --help` what each of them takes";
    // A paragraph of the fault, one of tips, one of usage.
    let text = error.render().to_string();
    let fault = text.split("\n\n").next().unwrap_or_default();
    let fault = fault.strip_prefix("error: ").unwrap_or(fault).split_whitespace().collect::<Vec<_>>().join(" ");
    let tips = text.lines().filter_map(|line| line.trim_start().strip_prefix("tip: "));
    tips.fold(Error::new(Code::C0202, fault), |e, tip| e.help(tip)).help(help)
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Train(args) => train::run(&args, cli.json),
        Command::Prepare(args) => prepare::run(&args, cli.json),
        Command::Evaluate(args) => evaluate::run(&args, cli.json),
        Command::Recommend(args) => recommend::run(&args, cli.json),
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
        with_negative_numbers(Cli::command()).debug_assert();
    }

    #[test]
    fn misuse_is_said_in_one_sentence_with_its_cure() {
        for (words, what, help) in [
            (&["train", "--time-limit", "abc"][..], "invalid value 'abc' for '--time-limit <TIME>'", "hardneg COMMAND --help"),
            (&["evaluate"], "required arguments were not provided: <RUN>", "hardneg COMMAND --help"),
            (&["train", "--epoch", "3"], "unexpected argument '--epoch' found", "'--epochs'"),
            (&["trian"], "unrecognized subcommand 'trian'", "'train'"),
            (&[], "'hardneg' requires a subcommand", "hardneg --help"),
        ] {
            let words: Vec<OsString> = ["hardneg", "--json"].iter().chain(words).map(OsString::from).collect();
            let error = parse(&words).err().map(|e| misuse(&e)).unwrap();
            let said = error.json()["error"].clone();
            assert!(asks_for_json(&words) && said["code"] == "C0202", "{said}");
            assert!(said["what"].as_str().unwrap().contains(what), "{said}");
            assert!(said["help"].to_string().contains(help), "{said}");
        }
    }
}
