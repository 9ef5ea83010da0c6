//! Places in a machine's memory that depend on nothing but which others are taken: the same requests get the same addresses in
//! every step, so that a recorded step finds its arrays where it left them.
//!
//! A piece is the lowest of the smallest free blocks that hold it, cut to size; a block that is given back joins its free
//! neighbours. Work on a machine runs in the order of the calls, so a piece may be given again as soon as its owner has gone.
//! Memory is asked for in chunks and kept.
//!
//! A piece is as large as [`round`] makes the request, so that a batch a little longer than all before it finds room where they were,
//! and has an eighth more than that for work that is done in round numbers (`recorded.rs`); nothing in it is left unwritten.
//!
//! Price: up to a quarter more for each piece but a table, up to a chunk of [`CHUNK`] bytes that is not used, and the gaps of best fit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::device::{Memory, Runtime};
use crate::error::Result;

/// What machines align memory to.
pub const ALIGNMENT: usize = 256;
/// Small pieces come from chunks of so many bytes; a larger one is a chunk of its own at first.
const CHUNK: usize = 2 << 20;
/// From so many bytes on a piece is a table, which no work rounds up.
pub const TABLE: usize = 1 << 30;

/// All memory a machine gave, cut into blocks side by side.
#[derive(Default)]
struct Blocks {
    /// By first address: bytes, and whether nobody has it.
    all: BTreeMap<u64, (usize, bool)>,
    /// (bytes, first address) of those nobody has.
    free: BTreeSet<(usize, u64)>,
    /// By first address: what a machine gave. Blocks never reach from one into the next.
    chunks: BTreeMap<u64, Memory>,
}

impl Blocks {
    /// A place for `bytes`, a multiple of the alignment, where there is one.
    fn take(&mut self, bytes: usize) -> Option<u64> {
        let &(found, address) = self.free.range((bytes, 0)..).next()?;
        self.free.remove(&(found, address));
        self.all.insert(address, (bytes, false));
        if found > bytes {
            self.put(address + bytes as u64, found - bytes);
        }
        Some(address)
    }
    fn put(&mut self, address: u64, bytes: usize) {
        self.all.insert(address, (bytes, true));
        self.free.insert((bytes, address));
    }
    fn give_back(&mut self, address: u64) {
        let Some((mut bytes, false)) = self.all.remove(&address) else { return };
        let mut first = address;
        let after = address + bytes as u64;
        if let Some(&(more, true)) = self.all.get(&after).filter(|_| !self.chunks.contains_key(&after)) {
            self.all.remove(&after);
            self.free.remove(&(more, after));
            bytes += more;
        }
        let before = self.all.range(..address).next_back().map(|(&at, &block)| (at, block));
        if let Some((at, (less, true))) = before.filter(|(at, (less, _))| at + *less as u64 == address)
            && !self.chunks.contains_key(&address)
        {
            self.free.remove(&(less, at));
            (first, bytes) = (at, bytes + less);
        }
        self.put(first, bytes);
    }
    /// Lets go of the chunks that nobody has a piece of.
    fn release(&mut self) {
        let whole: Vec<u64> =
            self.chunks.iter().filter(|(at, c)| self.all.get(at) == Some(&(size(c.bytes), true))).map(|(&at, _)| at).collect();
        for at in whole {
            if let (Some((bytes, _)), Some(_)) = (self.all.remove(&at), self.chunks.remove(&at)) {
                self.free.remove(&(bytes, at));
            }
        }
    }
}

/// Bytes of a block for so many.
fn size(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

/// The next of few numbers, sixteen for each power of two: those that are close together become the same.
pub fn round(number: usize) -> usize {
    number.next_multiple_of((number.max(1).next_power_of_two() / 16).max(1))
}

/// Bytes between the first of a piece of so many and the next piece.
pub fn extent(bytes: usize) -> usize {
    size(if bytes < TABLE { round(bytes) + round(bytes) / 8 } else { bytes })
}

/// Memory of a machine, handed out in pieces.
#[derive(Clone, Default)]
pub struct Arena(Arc<Mutex<Blocks>>);

/// Gives a piece back on drop.
struct Owner {
    address: u64,
    arena: Arena,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.arena.locked().give_back(self.address);
    }
}

impl Arena {
    fn locked(&self) -> std::sync::MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// `bytes` or some more of the memory of `machine`, which is asked for more where there is too little; errors are the machine's.
    pub fn alloc(&self, machine: &dyn Runtime, bytes: usize) -> Result<Memory> {
        let needed = extent(bytes);
        let mut blocks = self.locked();
        let address = match blocks.take(needed) {
            Some(address) => address,
            None => {
                let mut chunk = machine.alloc(needed.max(CHUNK))?;
                machine.fill(&mut chunk, 0)?;
                let (at, whole) = (chunk.address, size(chunk.bytes));
                blocks.chunks.insert(at, chunk);
                blocks.put(at, whole);
                blocks.take(needed).unwrap_or(at)
            }
        };
        let bytes = if bytes < TABLE { round(bytes) } else { bytes };
        Ok(Memory { address, bytes, owner: Box::new(Owner { address, arena: self.clone() }) })
    }
    /// Gives unused chunks back to the machine. Nothing that used them may still be waiting to be enqueued.
    pub fn release(&self) {
        self.locked().release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draws, Stream, below};

    /// Blocks over two chunks that lie side by side.
    fn blocks() -> Blocks {
        let mut blocks = Blocks::default();
        for (at, bytes) in [(4096, 4096), (8192, 2048)] {
            blocks.chunks.insert(at, Memory { address: at, bytes, owner: Box::new(()) });
            blocks.put(at, bytes);
        }
        blocks
    }

    #[test]
    fn pieces_do_not_overlap_and_all_of_them_come_back() {
        let mut blocks = blocks();
        let draws = Draws::new(1, Stream::Synthetic, 0, 0);
        let mut held: Vec<(u64, usize)> = vec![];
        for turn in 0..2000 {
            let [which, bytes] = draws.words64(turn);
            if which % 5 < 3 {
                let bytes = size(below(bytes, 1500) as usize);
                let Some(at) = blocks.take(bytes) else { continue };
                let apart = held.iter().all(|&(other, long)| at + bytes as u64 <= other || other + long as u64 <= at);
                let inside = at >= 4096 && at + bytes as u64 <= 8192 || at >= 8192 && at + bytes as u64 <= 10_240;
                assert!(apart && inside, "{bytes} bytes at {at} beside {held:?}");
                held.push((at, bytes));
            } else if !held.is_empty() {
                let (at, _) = held.swap_remove(which as usize % held.len());
                blocks.give_back(at);
            }
        }
        held.drain(..).for_each(|(at, _)| blocks.give_back(at));
        assert_eq!(blocks.free.iter().copied().collect::<Vec<_>>(), [(2048, 8192), (4096, 4096)]);
        blocks.release();
        assert!(blocks.all.is_empty() && blocks.free.is_empty() && blocks.chunks.is_empty());
    }

    #[test]
    fn round_numbers_are_few_and_close() {
        assert_eq!([0, 1, 15, 16, 17, 31, 33, 300, 1023].map(round), [0, 1, 15, 16, 18, 32, 36, 320, 1024]);
        assert!((1..5000).all(|n| round(n) >= n && 8 * round(n) <= 9 * n + 8 && round(round(n)) == round(n)));
        assert!((1..5000).all(|n| extent(round(n)) == extent(n) && extent(n).is_multiple_of(ALIGNMENT)));
    }

    #[test]
    fn the_same_requests_get_the_same_places() {
        let mut blocks = blocks();
        let kept = blocks.take(512).unwrap();
        let mut step = || {
            let places = [700, 256, 1024, 256].map(|bytes| blocks.take(size(bytes)).unwrap());
            blocks.give_back(places[1]);
            let again = blocks.take(256).unwrap();
            [places[0], places[2], places[3], again].into_iter().for_each(|at| blocks.give_back(at));
            (places, again)
        };
        let first = step();
        assert_eq!((step(), step()), (first, first));
        assert!(first.0.iter().all(|&at| at != kept));
    }
}
