//! The numeric contexts of events, out of those of all events of the log in a machine's memory.
//!
//! ```text
//! out[r] = all[events[r] - back]           all (E,C), events (R), out (R,C)
//! ```
//!
//! A row of a batch is keyed by its target event, so its target's context is the key's and its own that of the event before. Contexts
//! are encoded once instead of in every step, of which wrong contexts make many. Price: 4 C bytes an event of the log.

use std::sync::Arc;

use crate::data::batch::{Batch, Contexts};
use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Runtime, numbers, place, upload};
use crate::error::Result;
use crate::ops::case::{self, Case, Output};

/// Most bytes that are kept; the contexts of a longer log are encoded batch by batch.
const MOST: u64 = 2 << 30;

/// Bytes of a machine's memory that C numbers of each of E `events` take, or none where they are not kept there.
pub fn resident_bytes(events: usize, numeric: usize, categories: usize) -> u64 {
    let bytes = 4 * (events * numeric) as u64;
    if categories == 0 && bytes <= MOST { bytes } else { 0 }
}

/// The contexts of all events.
pub struct All {
    numbers: Buffer,
    /// C
    width: usize,
}

impl All {
    /// `numbers` (E,C)
    pub fn new(runtime: &dyn Runtime, numbers: &[f32], width: usize) -> Result<All> {
        Ok(All { numbers: place(runtime, numbers)?, width })
    }
    /// (R,per,C) those of `events` (R,per), or of the events `back` before them.
    pub fn of(&self, device: &Device, runtime: &dyn Runtime, events: &Buffer, per: usize, back: u32) -> Result<Buffer> {
        let rows = events.len() / 2 / per.max(1);
        let n = rows * per * self.width;
        let mut out = Buffer::of_rows(device, rows, per * self.width)?;
        if n > 0 {
            let mut args = vec![Arg::Out(&mut out), Arg::In(events), Arg::In(&self.numbers), Arg::U64(n as u64)];
            args.extend([self.width as u32, back].map(Arg::U32));
            runtime.launch(&Kernel::new("contexts", "contexts_gather", &[]), Grid::row(n.div_ceil(1024), 256), &mut args)?;
        }
        Ok(out)
    }
    /// Makes the contexts of `batch` in the machine's memory.
    pub fn gather(&self, device: &Device, runtime: &dyn Runtime, batch: &Batch) -> Result<()> {
        let keys = Numbers::from(&batch.row_keys).on(runtime)?;
        let place = |contexts: &Contexts, back| {
            numbers::place_at(contexts.copy(), runtime, Arc::new(self.of(device, runtime, &keys, 1, back)?));
            Ok(())
        };
        place(&batch.context, 1)?;
        place(&batch.target_context, 0)
    }
}

pub fn cases() -> Vec<Case> {
    let case = |(rows, width, back): (usize, usize, u32)| {
        Case::new("contexts", format!("R {rows}, C {width}, back {back}"), move |device| {
            let events: Vec<u64> = case::ids(1, rows, 500).iter().map(|&event| u64::from(event) + 1).collect();
            let all: Vec<f32> = case::noise(2, 501 * width).iter().map(|&x| x as f32).collect();
            let out = match device {
                Device::Host(_) => {
                    let of = |&event: &u64| &all[(event - u64::from(back)) as usize * width..][..width];
                    device.reals(&events.iter().flat_map(of).map(|&x| f64::from(x)).collect::<Vec<_>>())?
                }
                Device::Machine(runtime) => {
                    let runtime = &**runtime;
                    All::new(runtime, &all, width)?.of(device, runtime, &upload(runtime, &events)?, 1, back)?
                }
            };
            Ok(vec![Output::reals("out", device, &out)?])
        })
    };
    [(1, 1, 0), (7, 23, 1), (89, 23, 0), (300, 4, 1)].map(case).into()
}
