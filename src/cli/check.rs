//! `hardneg check`: every operation of a machine at odd shapes, held to the plain path.
//!
//! The same cases run on the emulator in the tests and on a GPU here. An error is a distance from the f64 plain path; its
//! budget is twice what the f32 plain path strays (`ops/case.rs`). With `--repeat`, a result must also come out with the
//! same bits every time.

use serde_json::json;

use crate::cli::arguments::Machine;
use crate::cli::terminal;
use crate::config::Train;
use crate::device::Device;
use crate::device::places::Rounding;
use crate::error::{Code, Error, Result, did_you_mean};
use crate::ops::case::{self, Case, Values};
use crate::{loss, ops, optim, sampling};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg check --device emulator\n  hardneg check --device cuda --repeat 100 --json\n  hardneg check --device emulator --only attention"
)]
pub struct Args {
    #[command(flatten)]
    machine: Machine,
    /// Only operations whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Run each case this many times and demand equal bits
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: u32,
}

/// One line of the table.
struct Line {
    operation: &'static str,
    shape: String,
    output: &'static str,
    error: f64,
    budget: f64,
    passes: bool,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    if args.repeat == 0 {
        return Err(Error::new(Code::C0202, "`--repeat 0` checks nothing").help("use 1 or more"));
    }
    let cases: Vec<Case> = ops::cases()
        .into_iter()
        .chain(sampling::cases())
        .chain(loss::cases())
        .chain(optim::cases())
        .chain(ops::rounded_cases())
        .chain(loss::rounded_cases())
        .collect();
    let named = |case: &&Case| case.operation.contains(&args.only);
    if !cases.iter().any(|case| named(&case)) {
        let mut operations: Vec<&str> = cases.iter().map(|case| case.operation).collect();
        operations.sort_unstable();
        operations.dedup();
        let error = Error::new(Code::C0202, format!("no operation's name contains `{}`", args.only));
        return Err(error.help(did_you_mean(&args.only, &operations)));
    }
    let (device, why) = args.machine.open()?;
    if matches!(device, Device::Host(_)) {
        return Err(Error::new(Code::C0205, "the plain path is what machines are checked against")
            .note(why.unwrap_or_default())
            .help("use `--device emulator`, or `--device cuda` where there is a GPU"));
    }
    let cases: Vec<Case> = cases.into_iter().filter(|case| named(&case) && case.runs_on(&device)).collect();
    // The same machine with rounded products is another one.
    let rounding = match cases.iter().any(|case| case.rounding() == Rounding::Bf16) {
        true => Some(args.machine.open_for(&Train { rounding: "bf16".into(), ..Train::default() })?.0),
        false => None,
    };
    let mut lines = vec![];
    for case in &cases {
        let at = |e: Error| e.at(format!("{}, {}", case.operation, case.shape));
        let device = rounding.as_ref().filter(|_| case.rounding() == Rounding::Bf16).unwrap_or(&device);
        let repeats = unequal_repeats(case, device, args.repeat).map_err(at)?;
        for finding in case::compare(case, device).map_err(at)? {
            lines.push(Line {
                operation: case.operation,
                shape: case.shape.clone(),
                output: finding.output,
                passes: finding.passes() && repeats == 0,
                // No minus before a zero.
                error: finding.error + 0.0,
                budget: finding.budget + 0.0,
            });
        }
    }
    let failed = lines.iter().filter(|l| !l.passes).count();
    if json {
        let cases: Vec<_> = lines
            .iter()
            .map(|l| json!({ "operation": l.operation, "shape": l.shape, "output": l.output, "error": l.error, "budget": l.budget, "passes": l.passes }))
            .collect();
        let machine = crate::cli::doctor::name(&device);
        terminal::out(
            &json!({ "schema": 1, "device": machine, "repeats": args.repeat, "failed": failed, "cases": cases }).to_string(),
        )?;
    } else {
        table(&lines)?;
        terminal::out(&format!("{} cases, {} outputs, {failed} failed", cases.len(), lines.len()))?;
    }
    if failed > 0 {
        return Err(Error::new(Code::G0506, format!("{failed} of {} outputs stray from the plain path", lines.len()))
            .help("do not train on this device; report the table above"));
    }
    Ok(())
}

/// How many of `repeat` further runs differ from the first in any bit.
fn unequal_repeats(case: &Case, device: &Device, repeat: u32) -> Result<u32> {
    if repeat < 2 {
        return Ok(0);
    }
    let bits = || -> Result<Vec<u64>> {
        let outputs = (case.run)(device)?;
        Ok(outputs
            .iter()
            .flat_map(|o| match &o.values {
                Values::Reals(x) => x.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                Values::Ids(x) => x.iter().map(|&x| u64::from(x)).collect(),
            })
            .collect())
    };
    let first = bits()?;
    (1..repeat).try_fold(0, |unequal, _| Ok(unequal + u32::from(bits()? != first)))
}

fn table(lines: &[Line]) -> Result<()> {
    let width = |of: fn(&Line) -> usize, title: &str| lines.iter().map(of).max().unwrap_or(0).max(title.len());
    let (a, b, c) =
        (width(|l| l.operation.len(), "operation"), width(|l| l.shape.len(), "case"), width(|l| l.output.len(), "output"));
    terminal::out(&format!("{:a$}  {:b$}  {:c$}  {:>9}  {:>9}", "operation", "case", "output", "error", "budget"))?;
    for l in lines {
        let mark = if l.passes { "" } else { "  FAILED" };
        terminal::out(&format!(
            "{:a$}  {:b$}  {:c$}  {:9.2e}  {:9.2e}{mark}",
            l.operation, l.shape, l.output, l.error, l.budget
        ))?;
    }
    Ok(())
}
