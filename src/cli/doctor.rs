//! `hardneg doctor`: what was found on this machine, and what was looked for.

use std::fs;

use serde_json::{Value, json};

use crate::cli::{arguments, terminal};
use crate::device::places::{Places, Rounding};
use crate::device::recorded::Graphs;
use crate::device::{self, Device, Request};
use crate::error::{Code, Error, Result};
use crate::ops::case::{self, Case};
use crate::rng::STREAM_VERSION;
use crate::{loss, ops, optim, sampling};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hardneg doctor\n  hardneg doctor --json")]
pub struct Args {}

pub fn run(_: &Args, json: bool) -> Result<()> {
    let facts = facts();
    let places = arguments::places();
    let parts = device::survey(&places);
    // The last, because a kernel that breaks the GPU's context ends all else there.
    let gpu = device::open(Request::Cuda(0), &places).and_then(|(device, _)| {
        let cases = known_answers(&device, &rounding(&places)?)?;
        Ok(Answers { name: name(&device), cases, no_graphs: why_no_graphs(&device), top_k: tensor_core_answers(&device) })
    });
    let folder = |p: &std::path::PathBuf| format!("{}{}", p.display(), if p.is_dir() { "" } else { " (no such folder)" });
    let folders: Vec<String> = places.libraries.iter().map(folder).collect();
    if json {
        let part = |(what, found): &(&str, Result<String>)| match found {
            Ok(text) => json!({ "part": what, "found": text }),
            Err(error) => json!({ "part": what, "found": null, "why": error.json()["error"] }),
        };
        let gpu = match &gpu {
            Ok(Answers { name, cases, no_graphs, top_k }) => {
                let (right, why) = match top_k {
                    Some(Ok(right)) => (Some(*right), Value::Null),
                    Some(Err(error)) => (Some(false), error.json()["error"].clone()),
                    None => (None, Value::Null),
                };
                json!({ "usable": true, "name": name, "cases_passed": cases, "tensor_core_top_k": right, "why_not": why,
                    "graphs": no_graphs.is_none(), "why_no_graphs": no_graphs })
            }
            Err(error) => json!({ "usable": false, "why": error.json()["error"] }),
        };
        let cuda: Vec<_> = parts.iter().map(part).collect();
        let report = json!({ "version": version(), "host": facts, "cuda": cuda, "looked_in": folders, "gpu": gpu });
        return terminal::out(&report.to_string());
    }
    let mut rows = vec![("hardneg".to_string(), version())];
    for (key, value) in facts.as_object().into_iter().flatten() {
        rows.push((key.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), str::to_string)));
    }
    for (what, found) in &parts {
        match found {
            Ok(text) => rows.push((what.to_string(), text.clone())),
            Err(error) => {
                rows.push((what.to_string(), format!("missing: {}", error.what())));
                rows.extend(more(error));
            }
        }
    }
    rows.push(("looked in".into(), if folders.is_empty() { "the loader's own folders".into() } else { folders.join(", ") }));
    let verdict = match &gpu {
        Ok(Answers { name, cases, no_graphs, top_k }) => {
            let graphs = match no_graphs {
                None => "; a step as a graph gives the numbers of its calls".to_string(),
                Some(why) => format!("; steps are given to it call by call, not as graphs: {why}"),
            };
            let top_k = match top_k {
                Some(Ok(true)) => "; top-k on its tensor cores does too".to_string(),
                Some(Ok(false)) => "; top-k on its tensor cores does not, and is left to the kernel in f32".into(),
                Some(Err(error)) => {
                    format!("; top-k on its tensor cores fails, so keep from train.rounding=bf16: {}", error.what())
                }
                None => String::new(),
            };
            format!("usable: {name}, {cases} cases agree with the plain path{graphs}{top_k}")
        }
        Err(error) => format!("not usable ({}): {}", error.code().name(), error.what()),
    };
    rows.push(("gpu".into(), verdict));
    if let Err(error) = &gpu {
        rows.extend(more(error));
    }
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let text: Vec<String> = rows.iter().map(|(key, value)| format!("{key:width$}  {value}")).collect();
    terminal::out(&text.join("\n"))
}

/// What a GPU answered.
struct Answers {
    name: String,
    /// Cases that agree with the plain path.
    cases: usize,
    no_graphs: Option<String>,
    /// As [`tensor_core_answers`] has it.
    top_k: Option<Result<bool>>,
}

/// Why steps of `device` cannot be graphs.
fn why_no_graphs(device: &Device) -> Option<String> {
    match device.clone().recording(Graphs::Always) {
        Ok(Device::Machine(runtime)) => runtime.steps()?.failed,
        Ok(Device::Host(_)) => None,
        Err(error) => Some(error.what().to_string()),
    }
}

/// What an error says beside its first line: where, why, what to do.
fn more(error: &Error) -> Vec<(String, String)> {
    let error = &error.json()["error"];
    let at = error["at"].as_str().map(|at| format!("at {at}"));
    let texts = [&error["notes"], &error["help"]].into_iter().flat_map(|list| list.as_array().into_iter().flatten());
    let texts = at.into_iter().chain(texts.filter_map(Value::as_str).map(str::to_string));
    texts.flat_map(|text| text.lines().map(|line| (String::new(), line.to_string())).collect::<Vec<_>>()).collect()
}

/// So many cases of an operation are few: all of them are asked.
const FEW: usize = 21;
/// Of more cases, so many, which are enough to launch every kernel.
const TELLING: usize = 5;

/// Of every operation all cases, or where there are many some from the first to the last; none that has nothing to compute.
fn telling(cases: Vec<Case>) -> Result<Vec<Case>> {
    let mut operations: Vec<Vec<Case>> = vec![];
    for case in cases {
        match operations.last_mut().filter(|all| all[0].operation == case.operation) {
            Some(all) => all.push(case),
            None => operations.push(vec![case]),
        }
    }
    let mut telling = vec![];
    for all in operations {
        let mut something = vec![];
        for case in all {
            let outputs = (case.run)(&Device::HOST)?;
            let numbers = |output: &case::Output| match &output.values {
                case::Values::Reals(x) => x.len(),
                case::Values::Ids(x) => x.len(),
            };
            if outputs.iter().any(|output| numbers(output) > 0) {
                something.push(case);
            }
        }
        let last = something.len().saturating_sub(1);
        let asked = |i: usize| last < FEW || (0..TELLING).any(|k| (k * last).div_ceil(TELLING - 1) == i);
        telling.extend(something.into_iter().enumerate().filter(|(i, _)| asked(*i)).map(|(_, case)| case));
    }
    Ok(telling)
}

/// The cases of all operations, as machines without rounding compute them.
fn all_cases() -> Vec<Case> {
    ops::cases().into_iter().chain(sampling::cases()).chain(loss::cases()).chain(optim::cases()).collect()
}

/// Those of machines that round, without the choice on Hopper's tensor cores: it is asked for by itself, since it may fail and all else
/// be well.
fn rounded_cases() -> Vec<Case> {
    let all = ops::rounded_cases().into_iter().chain(loss::rounded_cases());
    all.filter(|case| case.operation != "score_topk").collect()
}

/// The GPU, as a machine that rounds products.
fn rounding(places: &Places) -> Result<Device> {
    Ok(device::open(Request::Cuda(0), &Places { rounding: Rounding::Bf16, ..places.clone() })?.0)
}

/// Runs cases of every kernel on `device`, and of those that round on `rounding`; how many agree with the plain path.
fn known_answers(device: &Device, rounding: &Device) -> Result<usize> {
    let (exact, rounded) = (telling(all_cases())?, telling(rounded_cases())?);
    let all = exact.iter().map(|case| (case, device)).chain(rounded.iter().map(|case| (case, rounding)));
    let mut agree = 0;
    for (case, device) in all.filter(|(case, device)| case.runs_on(device) && !case.hopper) {
        let findings = case::compare(case, device).map_err(|e| e.at(format!("{}, {}", case.operation, case.shape)))?;
        if let Some(wrong) = findings.iter().find(|f| !f.passes()) {
            let what =
                format!("{} ({}) strays by {:.1e}, allowed {:.1e}", case.operation, wrong.output, wrong.error, wrong.budget);
            return Err(Error::new(Code::G0506, what).help("see `hardneg check --device cuda`"));
        }
        agree += 1;
    }
    Ok(agree)
}

/// Whether the kernel that only Hopper can run answers rightly; None where `device` is none.
fn tensor_core_answers(device: &Device) -> Option<Result<bool>> {
    match device {
        Device::Machine(runtime) if runtime.facts().hopper() => Some(ops::score_topk_wgmma::answers(device, &**runtime)),
        _ => None,
    }
}

/// Version of the program and of its random streams.
pub fn version() -> String {
    format!("{} (random stream version {STREAM_VERSION})", env!("CARGO_PKG_VERSION"))
}

/// What a device is called in a manifest.
pub fn name(device: &Device) -> String {
    match device {
        Device::Host(_) => "host".into(),
        Device::Machine(runtime) => format!("{} ({})", runtime.facts().name, runtime.facts().arch),
    }
}

/// Facts about the machine that explain a run: no names, no environment.
pub fn facts() -> Value {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |field: &str| -> Option<u64> {
        memory
            .lines()
            .find_map(|l| l.strip_prefix(field)?.trim_start_matches(':').trim().strip_suffix(" kB")?.trim().parse().ok())
    };
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processor.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_string()));
    let free = rustix::fs::statvfs(".").ok().map(|s| (s.f_bavail * s.f_frsize) >> 20);
    json!({
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "processor": model,
        "processors": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "memory_mib": kib("MemTotal").map(|k| k >> 10),
        "memory_available_mib": kib("MemAvailable").map(|k| k >> 10),
        "disk_free_mib": free,
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}

#[cfg(test)]
#[cfg(feature = "emulator")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::device::emulator::{Emulator, Options};

    /// A machine that computes in f32 and one that rounds; None without a compiler.
    fn machines() -> Option<[Arc<Emulator>; 2]> {
        let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
        let open = |rounding| Emulator::open(&Options { rounding, ..Options::new(&cache) });
        match (open(Rounding::F32), open(Rounding::Bf16)) {
            (Ok(exact), Ok(rounding)) => Some([exact, rounding]),
            (Err(error), _) | (_, Err(error)) => {
                assert_eq!(error.code(), Code::G0507, "{error:?}");
                println!("SKIPPED: no C++ compiler, so it is not known which kernels are asked");
                None
            }
        }
    }

    #[test]
    fn every_kernel_is_asked_for_a_known_answer() {
        let (Some(asked), Some(all)) = (machines(), machines()) else { return };
        let [exact, rounding] = asked.clone().map(|machine| Device::Machine(machine));
        assert!(known_answers(&exact, &rounding).unwrap() > 60);
        for case in all_cases().iter().chain(&rounded_cases()).filter(|case| !case.hopper) {
            let machine = &all[usize::from(case.rounding() == Rounding::Bf16)];
            (case.run)(&Device::Machine(machine.clone())).unwrap();
        }
        let left_out: Vec<_> = (0..2).flat_map(|i| &all[i].launched() - &asked[i].launched()).collect();
        assert!(left_out.is_empty(), "{left_out:?}");
    }
}
