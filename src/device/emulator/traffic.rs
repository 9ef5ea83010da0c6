//! Every launch of the emulator held to what its kernel's header says it moves (`device/traffic.rs`).

use std::sync::Arc;

use super::Emulator;
use crate::device::traffic::Traffic;
use crate::device::{Amendment, Arg, Facts, Grid, Kernel, Mark, MatIn, MatOut, Memory, Plus, Replay, Runtime};
use crate::error::{Code, Error, Result};

/// An emulator that holds every launch to its kernel's header (G0508); only one that verifies accesses counts them.
pub struct Metered(pub Arc<Emulator>);

impl Runtime for Metered {
    fn facts(&self) -> &Facts {
        self.0.facts()
    }
    fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.0.alloc(bytes)
    }
    fn write(&self, to: &mut Memory, from: &[u8]) -> Result<()> {
        self.0.write(to, from)
    }
    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()> {
        self.0.read(from, to)
    }
    fn fill(&self, memory: &mut Memory, byte: u8) -> Result<()> {
        self.0.fill(memory, byte)
    }
    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()> {
        self.0.launch(kernel, grid, args)?;
        // The vocabulary's cases try single instructions and move nothing that matters.
        if kernel.file == "vocabulary" {
            return Ok(());
        }
        let (counted, traffic) = (self.0.counters(), Traffic::of(kernel, args)?);
        for (promise, (verb, bytes)) in
            [traffic.reads, traffic.writes].iter().zip([("reads", counted.distinct_read), ("writes", counted.distinct_written)])
        {
            if bytes > promise.bytes || !promise.at_most && bytes < promise.bytes {
                let what = format!("{}.cu, {}: {verb} {bytes} bytes, its header says {promise:?}", kernel.file, kernel.entry);
                return Err(Error::new(Code::G0508, format!("{what} of {:?}", traffic.values)));
            }
        }
        Ok(())
    }
    fn matmul(&self, c: MatOut, a: MatIn, b: MatIn, shape: [usize; 3], scale: f32, plus: Plus) -> Result<()> {
        self.0.matmul(c, a, b, shape, scale, plus)
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        self.0.capture(work)
    }
    fn replay(&self, recorded: &Replay) -> Result<()> {
        self.0.replay(recorded)
    }
    fn amend(&self, recorded: &mut Replay, at: usize, with: Amendment<'_, '_>) -> Result<Option<Mark>> {
        self.0.amend(recorded, at, with)
    }
    fn mark(&self) -> Result<Mark> {
        self.0.mark()
    }
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        self.0.elapsed(from, to)
    }
    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}
