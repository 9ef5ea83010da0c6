//! The sum of the rows' losses, where a machine has them.
//!
//! ```text
//! total = sum over r of losses[r]
//! ```
//!
//! In f64 and in an order that the number of rows alone decides. The host waits here: it is the one number of a step it reads.

use crate::device::{Arg, Buffer, Grid, Kernel, Runtime, download, upload};
use crate::error::Result;

/// Sum of `losses (R)`.
pub fn read(runtime: &dyn Runtime, losses: &Buffer, rows: usize) -> Result<f64> {
    let mut total = upload(runtime, &[0f64])?;
    let kernel = Kernel::new("loss_total", "loss_total", &[]);
    runtime.launch(&kernel, Grid::row(1, 256), &mut [Arg::Out(&mut total), Arg::In(losses), Arg::U32(rows as u32)])?;
    Ok(download::<f64>(runtime, &total, 1)?[0])
}
