//! A machine that is watched: how much of its memory is held, how often the host waits for it, and how much it sends.
//!
//! It passes everything on. Memory is counted as it is asked for, without what a machine adds to align it or keeps for later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::device::{Amendment, Arg, Facts, Grid, Kernel, Mark, MatIn, MatOut, Memory, Replay, Runtime};
use crate::error::Result;

pub struct Watched {
    machine: Arc<dyn Runtime>,
    held: Arc<Held>,
    waits: AtomicU64,
    sent: AtomicU64,
}

/// Bytes held now, and the most since the last restart.
#[derive(Default)]
struct Held {
    now: AtomicU64,
    most: AtomicU64,
}

/// A piece of memory and what it counts for.
struct Piece {
    _owner: Box<dyn std::any::Any + Send + Sync>,
    bytes: u64,
    held: Arc<Held>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.now.fetch_sub(self.bytes, Relaxed);
    }
}

impl Watched {
    pub fn new(machine: Arc<dyn Runtime>) -> Watched {
        Watched { machine, held: Arc::default(), waits: AtomicU64::new(0), sent: AtomicU64::new(0) }
    }
    /// The most bytes held at once since the last [`Watched::restart`].
    pub fn most(&self) -> u64 {
        self.held.most.load(Relaxed)
    }
    /// From here on the most is counted anew.
    pub fn restart(&self) {
        self.held.most.store(self.held.now.load(Relaxed), Relaxed);
    }
    /// How often the host has waited so far.
    pub fn waits(&self) -> u64 {
        self.waits.load(Relaxed)
    }
    /// Bytes the host has sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
    fn awaited(&self) -> &dyn Runtime {
        self.waits.fetch_add(1, Relaxed);
        &*self.machine
    }
}

impl Runtime for Watched {
    fn facts(&self) -> &Facts {
        self.machine.facts()
    }
    fn alloc(&self, bytes: usize) -> Result<Memory> {
        let Memory { address, bytes, owner } = self.machine.alloc(bytes)?;
        let now = self.held.now.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.held.most.fetch_max(now, Relaxed);
        let piece = Piece { _owner: owner, bytes: bytes as u64, held: self.held.clone() };
        Ok(Memory { address, bytes, owner: Box::new(piece) })
    }
    fn write(&self, to: &mut Memory, from: &[u8]) -> Result<()> {
        self.sent.fetch_add(from.len() as u64, Relaxed);
        self.machine.write(to, from)
    }
    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()> {
        self.awaited().read(from, to)
    }
    fn fill(&self, memory: &mut Memory, byte: u8) -> Result<()> {
        self.machine.fill(memory, byte)
    }
    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()> {
        self.machine.launch(kernel, grid, args)
    }
    fn matmul(&self, c: MatOut, a: MatIn, b: MatIn, shape: [usize; 3], scale: f32, accumulate: bool) -> Result<()> {
        self.machine.matmul(c, a, b, shape, scale, accumulate)
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        self.machine.capture(work)
    }
    fn replay(&self, recorded: &Replay) -> Result<()> {
        self.machine.replay(recorded)
    }
    fn amend(&self, recorded: &mut Replay, at: usize, with: Amendment<'_, '_>) -> Result<Option<Mark>> {
        self.machine.amend(recorded, at, with)
    }
    fn mark(&self) -> Result<Mark> {
        self.machine.mark()
    }
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        self.awaited().elapsed(from, to)
    }
    fn sync(&self) -> Result<()> {
        self.awaited().sync()
    }
}
