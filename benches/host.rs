//! What the host does for a step that a machine computes: microseconds per step and stage on a machine that does nothing, with steps
//! given call by call and as recordings. What a driver takes for its calls is not in it. `cargo bench --bench host -- [ITEMS]
//! [BATCH] [LENGTH]`, by default 10,000 items and 128 sequences of up to 200 events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use hardneg::config::{self, Config};
use hardneg::data::{prepare, split::Split, training::TrainingSet};
use hardneg::device::places::Rounding;
use hardneg::device::recorded::Graphs;
use hardneg::device::{Amendment, Arg, Device, Facts, Grid, Kernel, Mark, MatIn, MatOut, Memory, Plus, Replay, Runtime};
use hardneg::error::{Error, Result};
use hardneg::train::fit::Training;
use hardneg::train::profile::{self, Median};
use hardneg::train::step::Trainer;

const STEPS: u64 = 60;

/// Takes every call and keeps nothing but the bytes of uploads, one after the other.
struct Idle {
    facts: Facts,
    next: AtomicU64,
    calls: AtomicU64,
}

impl Idle {
    fn new() -> Idle {
        let facts = Facts {
            name: "idle".into(),
            arch: "idle".into(),
            multiprocessors: 132,
            memory_bytes: 1 << 40,
            rounding: Rounding::F32,
        };
        Idle { facts, next: AtomicU64::new(256), calls: AtomicU64::new(0) }
    }
    fn call(&self) -> Result<()> {
        self.calls.fetch_add(1, Relaxed);
        Ok(())
    }
}

impl Runtime for Idle {
    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.call()?;
        let address = self.next.fetch_add(bytes.max(1).next_multiple_of(256) as u64, Relaxed);
        Ok(Memory { address, bytes, owner: Box::new(()) })
    }
    fn write(&self, _: &mut Memory, from: &[u8]) -> Result<()> {
        // As much as copying into pinned memory takes.
        std::hint::black_box(from.to_vec());
        self.call()
    }
    fn read(&self, _: &Memory, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        self.call()
    }
    fn fill(&self, _: &mut Memory, _: u8) -> Result<()> {
        self.call()
    }
    fn launch(&self, _: &Kernel, _: Grid, _: &mut [Arg<'_>]) -> Result<()> {
        self.call()
    }
    fn matmul(&self, _: MatOut, _: MatIn, _: MatIn, _: [usize; 3], _: f32, _: Plus) -> Result<()> {
        self.call()
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        work()?;
        Ok(Replay(Box::new(())))
    }
    fn replay(&self, _: &Replay) -> Result<()> {
        self.call()
    }
    fn amend(&self, _: &mut Replay, _: usize, with: Amendment<'_, '_>) -> Result<Option<Mark>> {
        self.call()?;
        Ok(matches!(with, Amendment::Mark).then(|| Mark(Box::new(Instant::now()))))
    }
    fn mark(&self) -> Result<Mark> {
        Ok(Mark(Box::new(Instant::now())))
    }
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        let instant = |mark: &Mark| mark.0.downcast_ref::<Instant>().copied().ok_or_else(|| Error::internal("no mark"));
        Ok(instant(to)?.duration_since(instant(from)?).as_secs_f64())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<u32>().ok());
    let [items, batch, length] = [10_000, 128, 200].map(|default| numbers.next().unwrap_or(default));
    println!("{items} items, {batch} sequences of up to {length} events; medians of {STEPS} steps, microseconds");
    println!(
        "{:<34} {:>7} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "calls", "step", "gather", "forward", "sample", "loss", "backward", "update"
    );
    for (name, loss, preset) in
        [("full softmax", "softmax", "uniform"), ("128 own uniform", "sampled_softmax", "uniform"), ("dns", "bpr", "dns")]
    {
        let mut config = Config::default();
        config.model = config::Model { dim: 64, layers: 2, max_len: length, ..config.model };
        config.train.batch_size = batch;
        config.loss.kind = loss.into();
        config.sampler.preset = preset.into();
        if loss == "sampled_softmax" {
            config.sampler.negatives = Some(128.into());
        }
        let raw = profile::log(items, batch, length + 3, 1).unwrap();
        let data = Arc::new(prepare::in_memory(raw, &config.data, Default::default()).unwrap());
        let split = Arc::new(Split::new(&data, &config.data, 1).unwrap());
        let set = Arc::new(TrainingSet::new(data, split, &config, None, None).unwrap());
        for recording in [false, true] {
            let idle = Arc::new(Idle::new());
            let device = Device::Machine(idle.clone());
            let device = if recording { device.recording(Graphs::Always).unwrap() } else { device };
            let mut trainer = Trainer::new(&config, set.clone(), &device).unwrap();
            let per_epoch = trainer.steps_per_epoch();
            let (mut seconds, mut stages, mut calls) = (vec![], vec![], 0);
            // The last step of an epoch looks at what it drew.
            for step in (0..).filter(|step| (step + 1) % per_epoch != 0).take(STEPS as usize + 5) {
                let before = idle.calls.load(Relaxed);
                let began = Instant::now();
                let (report, _) = trainer.step_on(step, None).unwrap();
                seconds.push(began.elapsed().as_secs_f64());
                stages.push(report.stages);
                calls = idle.calls.load(Relaxed) - before;
            }
            let us = |of: &mut dyn Iterator<Item = f64>| Median::of(of.skip(5)).median * 1e6;
            let whole = us(&mut seconds.iter().copied());
            let form = if recording { "recorded" } else { "call by call" };
            print!("{:<34} {calls:>7} {whole:>7.0}", format!("{name}, {form}"));
            // A recording sets all marks at once, when the step has ended.
            let stage =
                |i: usize| us(&mut stages.iter().map(|s| [s.gather, s.forward, s.sample, s.loss, s.backward, s.update][i]));
            if recording { println!() } else { println!("{}", (0..6).map(|i| format!(" {:>8.0}", stage(i))).collect::<String>()) }
        }
    }
}
