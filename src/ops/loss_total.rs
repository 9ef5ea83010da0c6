//! The sum of the rows' losses, where a machine has them.
//!
//! ```text
//! total = factor sum over r of losses[r]
//! ```
//!
//! In f64 and in an order that the number of rows alone decides. It stays there until someone asks for it.

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Runtime, Scalar};
use crate::error::Result;

/// Sum of `losses (R)`, times `factor`.
pub fn of(device: &Device, runtime: &dyn Runtime, losses: &Buffer, rows: usize, factor: f64) -> Result<Scalar> {
    let mut at = Buffer::sized(device, 2)?;
    let kernel = Kernel::new("loss_total", "loss_total", &[]);
    runtime.launch(&kernel, Grid::row(1, 256), &mut [Arg::Out(&mut at), Arg::In(losses), Arg::U32(rows as u32)])?;
    Ok(Scalar::There { at, factor })
}
