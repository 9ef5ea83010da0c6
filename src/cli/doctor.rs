//! `hardneg doctor`: what was found on this machine, and what was looked for.

use std::fs;

use serde_json::{Value, json};

use crate::cli::{arguments, terminal};
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
    let gpu = device::open(Request::Cuda(0), &places)
        .and_then(|(device, _)| Ok((name(&device), known_answers(&device)?, tensor_core_answers(&device))));
    let folders: Vec<String> = places.libraries.iter().map(|p| p.display().to_string()).collect();
    if json {
        let part = |(what, found): &(&str, Result<String>)| match found {
            Ok(text) => json!({ "part": what, "found": text }),
            Err(error) => json!({ "part": what, "found": null, "why": error.json()["error"] }),
        };
        let gpu = match &gpu {
            Ok((name, cases, top_k)) => {
                let (right, why) = match top_k {
                    Some(Ok(right)) => (Some(*right), Value::Null),
                    Some(Err(error)) => (Some(false), error.json()["error"].clone()),
                    None => (None, Value::Null),
                };
                json!({ "usable": true, "name": name, "cases_passed": cases, "tensor_core_top_k": right, "why_not": why })
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
        rows.push((what.to_string(), found.as_ref().map_or_else(|e| format!("missing: {}", e.what()), String::clone)));
    }
    rows.push(("looked in".into(), if folders.is_empty() { "the loader's own folders".into() } else { folders.join(", ") }));
    let verdict = match &gpu {
        Ok((name, cases, top_k)) => {
            let top_k = match top_k {
                Some(Ok(true)) => "; top-k on its tensor cores does too".to_string(),
                Some(Ok(false)) => "; top-k on its tensor cores does not, and is left to the kernel in f32".into(),
                Some(Err(error)) => {
                    format!("; top-k on its tensor cores fails, so keep from train.rounding=bf16: {}", error.what())
                }
                None => String::new(),
            };
            format!("usable: {name}, {cases} cases agree with the plain path{top_k}")
        }
        Err(error) => format!("not usable ({}): {}", error.code().name(), error.what()),
    };
    rows.push(("gpu".into(), verdict));
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let text: Vec<String> = rows.iter().map(|(key, value)| format!("{key:width$}  {value}")).collect();
    terminal::out(&text.join("\n"))?;
    if let Err(error) = &gpu {
        for help in error.json()["error"]["help"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            terminal::out(&format!("{:width$}  {help}", ""))?;
        }
    }
    Ok(())
}

/// Runs the first case of every operation on `device`; how many agree with the plain path.
fn known_answers(device: &Device) -> Result<usize> {
    let mut cases: Vec<Case> =
        ops::cases().into_iter().chain(sampling::cases()).chain(loss::cases()).chain(optim::cases()).collect();
    cases.dedup_by_key(|case| case.operation);
    for case in &cases {
        let findings = case::compare(case, device).map_err(|e| e.at(case.operation))?;
        if let Some(wrong) = findings.iter().find(|f| !f.passes()) {
            let what =
                format!("{} ({}) strays by {:.1e}, allowed {:.1e}", case.operation, wrong.output, wrong.error, wrong.budget);
            return Err(Error::new(Code::G0506, what).help("see `hardneg check --device cuda`"));
        }
    }
    Ok(cases.len())
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
