//! `hardneg profile --kernels`: every call of a training step on a machine, how long it takes there, and how near that is to the least.

use serde::Serialize;
use serde_json::json;

use crate::cli::plan::reaches;
use crate::cli::{doctor, terminal};
use crate::device::Device;
use crate::error::Result;
use crate::train::ceilings::Ceilings;
use crate::train::kernels::{Kind, Step};

/// Version of the JSON output; a new one when a name or a unit changes.
const SCHEMA: u32 = 1;

/// A step with one sampler, or with none, at one size.
#[derive(Serialize)]
pub struct Line {
    /// None where the loss sees the whole catalogue.
    pub sampler: Option<String>,
    pub items: u32,
    #[serde(flatten)]
    pub step: Step,
}

impl Line {
    fn name(&self) -> String {
        let sampler = match (&self.sampler, self.step.negatives) {
            (Some(name), Some(n)) => format!("{name}, {n} negatives"),
            _ => "the whole catalogue".into(),
        };
        format!("{sampler}, {} items, {} rows", terminal::grouped(u64::from(self.items)), terminal::grouped(self.step.rows))
    }
    fn table(&self) -> Vec<Vec<String>> {
        let head = ["call", "times", "us", "of calls", "MB", "GB/s", "GFLOP/s", "floor us", "of floor"];
        let mut rows = vec![head.map(str::to_string).to_vec()];
        for Kind { call, count, bytes, at_most, flops, seconds, floor } in &self.step.kinds {
            let (took, rate) = (seconds.median, |amount: u64| format!("{:.1}", amount as f64 / seconds.median / 1e9));
            let upto = if *at_most { "<" } else { "" };
            rows.push(vec![
                call.clone(),
                count.to_string(),
                format!("{:.1}", took * 1e6),
                format!("{:.1}%", 100.0 * took / self.step.calls.median),
                format!("{upto}{:.2}", *bytes as f64 / 1e6),
                format!("{upto}{}", rate(*bytes)),
                if *flops > 0 { rate(*flops) } else { "-".into() },
                format!("{upto}{:.1}", floor * 1e6),
                format!("{upto}{:.0}%", 100.0 * floor / took),
            ]);
        }
        rows
    }
}

/// Prints all lines.
pub fn print(lines: &[Line], ceilings: &Ceilings, device: &Device, what: serde_json::Value, json: bool) -> Result<()> {
    if json {
        let all = json!({
            "schema": SCHEMA, "version": concat!(env!("CARGO_PKG_VERSION"), " (", env!("HARDNEG_COMMIT"), ")"),
            "device": doctor::name(device), "settings": what, "ceilings": ceilings, "lines": lines,
        });
        return terminal::out(&all.to_string());
    }
    for line in lines {
        let Step { step, calls, count, .. } = &line.step;
        terminal::out(&format!("{}\n{}", line.name(), terminal::table(&line.table()).trim_end()))?;
        let (whole, each) = (step.median * 1e3, calls.median * 1e3);
        terminal::out(&format!("the step {whole:.3} ms; its {count} calls, each between two marks, {each:.3} ms\n"))?;
    }
    terminal::out("times are medians; bytes as the kernels' headers say, `<` where a launch may move fewer;")?;
    terminal::out(&format!("floor: the longer of a product's flops and of the bytes where the machine {}", reaches(ceilings)))
}
