//! How much memory the program holds, counted where it is asked for: what a plan of memory is held to.
//!
//! The system's figures (resident pages, a process's peak) include pages that are only reserved, libraries and mapped files,
//! and a peak cannot be set back. Here every allocation is counted to the byte between [`watch`] and [`Watch::peak`]. A program
//! that wants to be counted names [`Counting`] as its global allocator, as `main.rs` does; otherwise the peak stays 0. While
//! nobody watches, an allocation costs one read of a flag more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

static WATCHED: AtomicBool = AtomicBool::new(false);
/// Bytes held beyond those at the start of the watch; below 0 where older memory was freed since.
static HELD: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

/// The system's allocator, counted while somebody watches.
pub struct Counting;

/// `bytes` more are held.
fn grow(bytes: i64) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    if bytes > 0 {
        PEAK.fetch_max(held, Relaxed);
    }
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WATCHED.load(Relaxed) {
            grow(layout.size() as i64);
        }
        // SAFETY: the caller's promise about `layout` is the one the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if WATCHED.load(Relaxed) {
            grow(layout.size() as i64);
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if WATCHED.load(Relaxed) {
            grow(-(layout.size() as i64));
        }
        // SAFETY: all memory of this allocator is the system's, under the same layout.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if WATCHED.load(Relaxed) {
            grow(size as i64 - layout.size() as i64);
        }
        // SAFETY: as in `dealloc`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Counts from now on until it is dropped; one at a time.
pub struct Watch(());

/// Begins to count; what is held now counts as nothing. None while another watch counts.
pub fn watch() -> Option<Watch> {
    if WATCHED.swap(true, Relaxed) {
        return None;
    }
    HELD.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    Some(Watch(()))
}

impl Watch {
    /// Most bytes held at once beyond those at the start.
    pub fn peak(&self) -> u64 {
        PEAK.load(Relaxed).max(0) as u64
    }
    /// Forgets the peak so far: from here on the most that is held is looked for anew.
    pub fn restart(&self) {
        PEAK.store(HELD.load(Relaxed), Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Relaxed);
    }
}
