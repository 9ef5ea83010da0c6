//! One number an operation gives that its caller may not need yet: the loss of a step, the norm of its gradient.
//!
//! The plain path knows it at once. A machine computes it behind the host's back, so asking means waiting for everything
//! enqueued before; whoever can do without waits once for many ([`Training::reports`](crate::train::fit::Training::reports)).

use crate::device::{Buffer, Device, download};
use crate::error::{Error, Result};

/// An f64, here or in a machine's memory.
pub enum Scalar {
    Here(f64),
    /// `factor` times the one f64 in `at`.
    There {
        at: Buffer,
        factor: f64,
    },
}

impl Scalar {
    /// Its value; waits for a machine's work before it.
    pub fn read(&self, device: &Device) -> Result<f64> {
        match (self, device) {
            (Scalar::Here(value), _) => Ok(*value),
            (Scalar::There { at, factor }, Device::Machine(runtime)) => Ok(factor * download::<f64>(&**runtime, at, 1)?[0]),
            (Scalar::There { .. }, _) => Err(Error::internal("machine memory without its machine")),
        }
    }
    /// Whether nobody has to wait for it.
    pub fn is_known(&self) -> bool {
        matches!(self, Scalar::Here(_))
    }
}
