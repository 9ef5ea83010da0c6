//! What this machine reaches at best, measured in under a second: the two ceilings a step is held to.
//!
//! ```text
//! product     y (n,n) = x (n,n) w (n,n)      the matrix product of `ops/linear.rs`:   2 n^3 flops
//! memory      y (n) += x (n)                 the sum of `ops/rows.rs`, beyond every cache:   12 n bytes
//! floor       of a work of so many flops and bytes:   max(flops / product, bytes / memory)
//! ```
//!
//! Both are the operations training itself uses, on the device it uses and with its rounding, so a ceiling is what the program can
//! reach here and not what a data sheet promises. The sum reads what it writes, so no hidden read of a line before it is written
//! adds to the bytes (the triad of STREAM, McCalpin 1995, without its third array). Where arrays stay in a cache between two
//! operations the second bound can be beaten.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::ops::cost::{Cost, product};
use crate::ops::{linear, rows};
use crate::train::profile::Median;

/// Elements of either array of the sum, 128 MiB or more, which is several times a large last cache level; and widths of the product.
const ELEMENTS: [usize; 3] = [1 << 25, 1 << 27, 1 << 28];
const WIDTHS: [usize; 4] = [512, 1024, 2048, 4096];
/// The first size that takes so many seconds is measured, or the last: what a launch and a wait take is little beside it, and a
/// processor's product still fits its caches.
const LONG: f64 = 1e-3;
/// Measurements of each: of 9 the interval runs from the second to the eighth.
const REPEATS: usize = 9;

/// Rates per second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ceilings {
    /// Flops of matrix products in f32, or in what a GPU rounds their operands to.
    pub flops: Median,
    /// Bytes read and written beyond the caches.
    pub bytes: Median,
}

impl Ceilings {
    /// Of `device`, with the threads of the pool this runs in.
    pub fn measure(device: &Device) -> Result<Ceilings> {
        let (mut bytes, mut flops) = (Median::default(), Median::default());
        for n in ELEMENTS {
            let (mut y, mut x) = (device.zeros(n)?, device.zeros(n)?);
            // Written once, so that it is memory of its own and not the system's page of zeros.
            rows::add(device, &mut x, &y, 1.0)?;
            let mut run = || rows::add(device, &mut y, &x, 0.5);
            if is_long(device, &mut run)? || Some(&n) == ELEMENTS.last() {
                bytes = rates(device, rows::add_cost(n).bytes, &mut run)?;
                break;
            }
        }
        for n in WIDTHS {
            let varied: Vec<f64> = (0..n * n).map(|i| (i as f64 * 0.618).fract() - 0.5).collect();
            let (x, mut y) = (device.reals(&varied)?, Buffer::empty(device));
            let mut run = || linear::forward(device, &mut y, &x, &x, None, n, n, n);
            if is_long(device, &mut run)? || Some(&n) == WIDTHS.last() {
                flops = rates(device, product([n, n, n]), &mut run)?;
                break;
            }
        }
        Ok(Ceilings { flops, bytes })
    }

    /// Seconds that `cost` takes at least: at the upper ends of both intervals, so that what else the machine did while they were
    /// measured raises no floor.
    pub fn floor(&self, cost: Cost) -> f64 {
        (cost.flops as f64 / self.flops.high).max(cost.bytes as f64 / self.bytes.high)
    }
}

/// Whether a run is worth measuring; the first one compiles and allocates.
fn is_long(device: &Device, run: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
    time(device, run)?;
    Ok(time(device, run)? >= LONG)
}

/// `amount` per second of several runs.
fn rates(device: &Device, amount: u64, run: &mut dyn FnMut() -> Result<()>) -> Result<Median> {
    let rates = (0..REPEATS).map(|_| Ok(amount as f64 / time(device, run)?));
    Ok(Median::of(rates.collect::<Result<Vec<f64>>>()?))
}

/// Seconds of one run, to its end.
fn time(device: &Device, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let wait = || if let Device::Machine(runtime) = device { runtime.sync() } else { Ok(()) };
    wait()?;
    let started = Instant::now();
    run()?;
    wait()?;
    Ok(started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_the_slower_of_the_two() {
        let rate = |x: f64| Median { low: x / 4.0, median: x / 2.0, high: x };
        let ceilings = Ceilings { flops: rate(100.0), bytes: rate(10.0) };
        assert_eq!(ceilings.floor(Cost { flops: 300, bytes: 20, ..Cost::default() }), 3.0);
        assert_eq!(ceilings.floor(Cost { flops: 100, bytes: 20, ..Cost::default() }), 2.0);
        assert_eq!(ceilings.floor(Cost::default()), 0.0);
    }
}
