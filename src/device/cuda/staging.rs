//! Copies to the GPU that the host does not wait for: through a ring of pinned memory.
//!
//! The driver copies from pageable memory in its own time: beyond 64 KiB it first waits for what the stream has before it, so
//! that every list of ids a step brings would stop the host. From pinned memory it only notes the copy down. The ring has two
//! halves; a half is filled again once the copies out of it are done, which an event tells. Longer copies than a half go the
//! pageable way: tables at the start, mostly.
//!
//! Price: 16 MiB of memory that the system cannot move.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result;

use super::{Driver, Event, failed};
use crate::error::Result;

const HALF: usize = 8 << 20;
/// Copies begin where a cache line does.
const LINE: usize = 64;

pub struct Staging {
    driver: Arc<Driver>,
    ring: *mut u8,
    /// The half that is being filled, and how far.
    half: usize,
    filled: usize,
    /// When the copies out of either half had been enqueued, if it was left.
    left: [Option<Event>; 2],
}
// SAFETY: the ring is memory of the process that only the owner writes.
unsafe impl Send for Staging {}

impl Staging {
    pub fn new(driver: &Arc<Driver>) -> Result<Staging> {
        driver.enter()?;
        // SAFETY: the context is current. The memory is given back on drop.
        let ring = unsafe { result::malloc_host(2 * HALF, 0) }.map_err(|e| failed("pinning memory", e))?;
        Ok(Staging { driver: driver.clone(), ring: ring.cast(), half: 0, filled: 0, left: [None, None] })
    }

    /// Enqueues a copy of `from` to `to`, in the driver's context; false: it is too long for the ring.
    pub fn write(&mut self, to: u64, from: &[u8]) -> Result<bool> {
        if from.len() > HALF {
            return Ok(false);
        }
        if self.filled + from.len() > HALF {
            self.left[self.half] = Some(Event::record(&self.driver, "leaving pinned memory")?);
            (self.half, self.filled) = (1 - self.half, 0);
            if let Some(event) = self.left[self.half].take() {
                event.wait("waiting for pinned memory")?;
            }
        }
        // SAFETY: the half has room here, and nobody reads it: copies out of an earlier turn have been waited for.
        let staged = unsafe {
            let room = self.ring.add(self.half * HALF + self.filled);
            std::ptr::copy_nonoverlapping(from.as_ptr(), room, from.len());
            std::slice::from_raw_parts(room, from.len())
        };
        self.filled += from.len().next_multiple_of(LINE);
        // SAFETY: the caller has checked the length of `to`; the ring stays as it is until an event says that this is done.
        unsafe { result::memcpy_htod_async(to, staged, self.driver.stream) }.map_err(|e| failed("copying to the GPU", e))?;
        Ok(true)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // A dead context copies nothing any more.
            let _ = self.driver.synchronize("waiting for pinned memory");
            // SAFETY: allocated by `new`, freed once, and no copy is under way.
            let _ = unsafe { result::free_host(self.ring.cast::<c_void>()) };
        }
    }
}
