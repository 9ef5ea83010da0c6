//! `hardneg doctor`: what was found on this machine, and what was looked for.

use std::fs;

use serde_json::{Value, json};

use crate::cli::{arguments, terminal};
use crate::device::{self, Device, Request};
use crate::error::Result;
use crate::rng::STREAM_VERSION;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hardneg doctor\n  hardneg doctor --json")]
pub struct Args {}

pub fn run(_: &Args, json: bool) -> Result<()> {
    let facts = facts();
    let gpu = match device::open(Request::Cuda(0), &arguments::places()) {
        Ok((device, _)) => json!({ "usable": true, "name": name(&device) }),
        Err(error) => {
            json!({ "usable": false, "code": error.code().name(), "why": error.what(), "looked_for": ["libcuda.so.1", "libcuda.so"] })
        }
    };
    if json {
        return terminal::out(&json!({ "version": version(), "host": facts, "gpu": gpu }).to_string());
    }
    let mut rows = vec![vec!["hardneg".to_string(), version()]];
    for (key, value) in facts.as_object().into_iter().flatten() {
        rows.push(vec![key.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), str::to_string)]);
    }
    let verdict = match gpu["why"].as_str() {
        None => format!("usable: {}", gpu["name"].as_str().unwrap_or_default()),
        Some(why) => format!("not usable ({}): {why}", gpu["code"].as_str().unwrap_or_default()),
    };
    rows.push(vec!["gpu".into(), verdict]);
    let width = rows.iter().map(|r| r[0].len()).max().unwrap_or(0);
    let text: Vec<String> = rows.iter().map(|r| format!("{:width$}  {}", r[0], r[1])).collect();
    terminal::out(&text.join("\n"))
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
