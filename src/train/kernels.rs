//! What each call of a training step takes on a machine, how many there are, and how near each is to its floor.
//!
//! ```text
//! bytes of a launch      what its kernel's header says (device/traffic.rs), each counted once
//! floor                  max(flops of a product / product, bytes / memory)              ceilings of train/ceilings.rs
//! ```
//!
//! Steps that are timed as a whole take turns with steps whose calls are timed one by one. Before each the machine is given other
//! work, long enough for the host to get ahead, so that neither time holds a wait for the host, unless the step itself waits for a
//! result, as every step does for its report at the end. Marks keep neighbours from overlapping and take time themselves, so the calls
//! of a step need not add up to the step: what they are good for is which call to look at, and the difference says how much to trust
//! them. Flops of kernels that multiply (attention, scores, losses) are not in their headers: their floor is of their bytes alone, and
//! the parts of a step, whose flops are counted, are what `train/profile.rs` measures.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::data::training::TrainingSet;
use crate::device::watched::{self, Watched};
use crate::device::{Device, Runtime};
use crate::error::Result;
use crate::ops::cost::Cost;
use crate::train::ceilings::Ceilings;
use crate::train::fit::Training;
use crate::train::prices::{self, walk};
use crate::train::profile::{Median, Rounds, write_all};
use crate::train::step::Trainer;

/// Seconds of other work before a step, and its launches at most. The host's own part of a step takes a tenth of a millisecond
/// (`benches/host.rs`); the driver's part is not known.
const BUSY: f64 = 0.01;
const WALKS: usize = 100;

/// A step, call by call.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub rows: u64,
    /// Of a group; none where the loss sees the whole catalogue.
    pub negatives: Option<usize>,
    /// Seconds of a step between two marks, and of its calls, each between marks of its own.
    pub step: Median,
    pub calls: Median,
    /// Launches, products, fills and copies.
    pub count: u64,
    /// Those of the same kind together, the longest first.
    pub kinds: Vec<Kind>,
}

/// All calls of a kind in a step.
#[derive(Clone, Debug, Serialize)]
pub struct Kind {
    /// As in [`watched::Call`].
    pub call: String,
    pub count: u64,
    pub bytes: u64,
    /// Whether it may move less.
    pub at_most: bool,
    pub flops: u64,
    pub seconds: Median,
    /// Least seconds.
    pub floor: f64,
}

/// Calls of a kind in one step.
fn by_kind(calls: &[watched::Call]) -> BTreeMap<&str, (u64, watched::Call)> {
    let mut kinds = BTreeMap::<&str, (u64, watched::Call)>::new();
    for call in calls {
        let (count, all) = kinds.entry(&call.what).or_default();
        *count += 1;
        all.bytes += call.bytes;
        all.flops += call.flops;
        all.seconds += call.seconds;
        all.at_most |= call.at_most;
    }
    kinds
}

/// Steps of `config` on a machine. Errors are those of training.
pub fn measure(
    config: &Config,
    set: &Arc<TrainingSet>,
    runtime: &Arc<dyn Runtime>,
    rounds: Rounds,
    ceilings: &Ceilings,
) -> Result<Step> {
    let watched = Arc::new(Watched::new(runtime.clone()));
    let device = Device::Machine(watched.clone());
    let mut trainer = Trainer::new(config, set.clone(), &device)?;
    write_all(&mut trainer, &device)?;
    // Work to keep the machine busy with, and how often.
    let busy = prices::ahead(&device)?;
    let mut pair = prices::pair(&device, busy)?;
    let one = prices::seconds(&device, &mut || walk(&device, &mut pair))?;
    let walks = ((BUSY / one.max(f64::MIN_POSITIVE)).ceil() as usize).clamp(1, WALKS);
    let mut get_ahead = || (0..walks).try_for_each(|_| walk(&device, &mut pair));

    let per_epoch = trainer.steps_per_epoch();
    // The last step of an epoch looks at what it drew, which is not part of others.
    let mut steps = (0..).filter(|step| per_epoch == 1 || (step + 1) % per_epoch != 0);
    let (mut whole, mut each) = (vec![], vec![]);
    let mut rows = 0;
    let mut next = || steps.next().unwrap_or(0);
    for round in 0..rounds.warmup + rounds.measured {
        get_ahead()?;
        let from = watched.mark()?;
        let (report, _) = trainer.step_on(next(), None)?;
        let seconds = watched.elapsed(&from, &watched.mark()?)?;
        get_ahead()?;
        watched.time();
        let stepped = trainer.step_on(next(), None);
        let calls = watched.took()?;
        stepped?;
        if round >= rounds.warmup {
            whole.push(seconds);
            each.push(calls);
            rows = report.rows;
        }
    }
    let last = each.last().map(Vec::as_slice).unwrap_or_default();
    let seconds_of =
        |what: &str| Median::of(each.iter().map(|calls| by_kind(calls).get(what).map_or(0.0, |(_, all)| all.seconds)));
    let kinds = by_kind(last).into_iter().map(|(what, (count, all))| {
        let floor = ceilings.floor(Cost { flops: all.flops, bytes: all.bytes, ..Cost::default() });
        let watched::Call { bytes, at_most, flops, .. } = all;
        Kind { call: what.into(), count, bytes, at_most, flops, seconds: seconds_of(what), floor }
    });
    let mut kinds: Vec<Kind> = kinds.collect();
    kinds.sort_by(|a, b| b.seconds.median.total_cmp(&a.seconds.median));
    let calls = Median::of(each.iter().map(|calls| calls.iter().map(|call| call.seconds).sum()));
    let negatives = trainer.sampler().map(|sampler| sampler.negatives(0.0));
    Ok(Step { rows, negatives, step: Median::of(whole), calls, count: last.len() as u64, kinds })
}
