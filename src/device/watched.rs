//! A machine that is watched: how much of its memory is held, how often the host waits for it, how much it sends, and, where that is
//! asked for, what each call takes there.
//!
//! It passes everything on. Memory is counted as it is asked for, without what a machine adds to align it or keeps for later. A call
//! is timed between two marks of its own, so it is the machine's time and no wait for the host, if the host is ahead; a mark takes time
//! as well, how much on a GPU has not been measured, and no call between two of them overlaps another.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::recorded::Steps;
use crate::device::traffic::Traffic;
use crate::device::{Amendment, Arg, Facts, Grid, Kernel, Mark, MatIn, MatOut, Memory, Plus, Replay, Runtime};
use crate::error::Result;

pub struct Watched {
    machine: Arc<dyn Runtime>,
    held: Arc<Held>,
    waits: AtomicU64,
    sent: AtomicU64,
    /// While calls are timed: each, and the marks around it.
    timed: Mutex<Option<Vec<(Call, Mark, Mark)>>>,
}

/// A call of the machine.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// A kernel's entry point, `product mxnxk`, `fill`, `copy to` or `copy from`.
    pub what: String,
    /// Read and written, each once; whether it may be less.
    pub bytes: u64,
    pub at_most: bool,
    /// Of a product.
    pub flops: u64,
    /// Of the machine.
    pub seconds: f64,
}

impl Call {
    fn new(what: &str, bytes: usize) -> Call {
        Call { what: what.into(), bytes: bytes as u64, ..Call::default() }
    }
    fn of_launch(kernel: &Kernel, args: &[Arg]) -> Result<Call> {
        let Traffic { reads, writes, .. } = Traffic::of(kernel, args)?;
        let (bytes, at_most) = (reads.bytes + writes.bytes, reads.at_most || writes.at_most);
        Ok(Call { what: kernel.entry.into(), bytes, at_most, ..Call::default() })
    }
    fn of_product([m, n, k]: [usize; 3], plus: Plus) -> Call {
        let added = match plus {
            Plus::Nothing => 0,
            Plus::Before => m * n,
            Plus::Row(_) => n,
        };
        let numbers = m * k + k * n + m * n + added;
        Call { what: format!("product {m}x{n}x{k}"), flops: 2 * (m * n * k) as u64, ..Call::new("", 4 * numbers) }
    }
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
        Watched { machine, held: Arc::default(), waits: AtomicU64::new(0), sent: AtomicU64::new(0), timed: Mutex::default() }
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
    /// From here on every call is timed.
    pub fn time(&self) {
        *self.calls() = Some(vec![]);
    }
    /// The calls since then, in their order; from here on none is timed.
    pub fn took(&self) -> Result<Vec<Call>> {
        let timed = self.calls().take().unwrap_or_default();
        let seconds = |(call, from, to): (Call, Mark, Mark)| Ok(Call { seconds: self.machine.elapsed(&from, &to)?, ..call });
        timed.into_iter().map(seconds).collect()
    }
    fn calls(&self) -> MutexGuard<'_, Option<Vec<(Call, Mark, Mark)>>> {
        self.timed.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Does `call`, between two marks if calls are timed.
    fn call<T>(&self, what: impl FnOnce() -> Result<Call>, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut calls = self.calls();
        let Some(calls) = &mut *calls else { return call() };
        let (what, from) = (what()?, self.machine.mark()?);
        let done = call()?;
        calls.push((what, from, self.machine.mark()?));
        Ok(done)
    }
    /// Counts `memory` until it is dropped.
    fn counted(&self, Memory { address, bytes, owner }: Memory) -> Memory {
        let now = self.held.now.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.held.most.fetch_max(now, Relaxed);
        let piece = Piece { _owner: owner, bytes: bytes as u64, held: self.held.clone() };
        Memory { address, bytes, owner: Box::new(piece) }
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
        Ok(self.counted(self.machine.alloc(bytes)?))
    }
    fn upload(&self, bytes: &[u8]) -> Result<Memory> {
        self.sent.fetch_add(bytes.len() as u64, Relaxed);
        let what = || Ok(Call::new("copy to", bytes.len()));
        Ok(self.counted(self.call(what, || self.machine.upload(bytes))?))
    }
    fn write(&self, to: &mut Memory, from: &[u8]) -> Result<()> {
        self.sent.fetch_add(from.len() as u64, Relaxed);
        self.call(|| Ok(Call::new("copy to", from.len())), || self.machine.write(to, from))
    }
    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()> {
        let bytes = to.len();
        self.call(|| Ok(Call::new("copy from", bytes)), || self.awaited().read(from, to))
    }
    fn fill(&self, memory: &mut Memory, byte: u8) -> Result<()> {
        let bytes = memory.bytes;
        self.call(|| Ok(Call::new("fill", bytes)), || self.machine.fill(memory, byte))
    }
    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()> {
        let what = if self.calls().is_some() { Some(Call::of_launch(kernel, args)?) } else { None };
        self.call(|| Ok(what.unwrap_or_default()), || self.machine.launch(kernel, grid, args))
    }
    fn matmul(&self, c: MatOut, a: MatIn, b: MatIn, shape: [usize; 3], scale: f32, plus: Plus) -> Result<()> {
        let what = || Ok(Call::of_product(shape, plus));
        self.call(what, || self.machine.matmul(c, a, b, shape, scale, plus))
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
    fn step(&self) -> Result<()> {
        self.machine.step()
    }
    fn steps(&self) -> Option<Steps> {
        self.machine.steps()
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
