//! Point-wise activations of the feed-forward layer.
//!
//! ```text
//! relu: y = max(x, 0)                       dx = dy [x > 0]
//! gelu: y = x/2 (1 + tanh(c (x + a x^3)))   c = sqrt(2/pi), a = 0.044715 (Hendrycks and Gimpel, arXiv 1606.08415)
//! ```

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::column_sum::{self, CHUNK, Sums};
use crate::ops::cost::{Cost, Operation, Pass};
use crate::ops::vector;

const TASK: usize = 16 * 1024;
const C: f64 = 0.797_884_560_802_865_4;
const A: f64 = 0.044_715;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Relu,
    Gelu,
}

/// `y`, `x` hold n elements.
pub fn forward(device: &Device, y: &mut Buffer, x: &Buffer, kind: Activation) -> Result<()> {
    y.resize(device, x.len())?;
    dispatch!(device, T => {
        let (y, x) = (T::of_mut(y)?, T::of(x)?);
        y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| vector::fast(#[inline(always)] || match kind {
            Activation::Relu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > T::ZERO { x } else { T::ZERO }),
            Activation::Gelu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = gelu(x).0),
        }));
        Ok(())
    }, runtime => launch(&**runtime, "activation_fwd", y, x, kind))
}

/// `dx = dy * f'(x)`, in place: `d` holds dy and receives dx.
pub fn backward(device: &Device, d: &mut Buffer, x: &Buffer, kind: Activation) -> Result<()> {
    dispatch!(device, T => {
        let (d, x) = (T::of_mut(d)?, T::of(x)?);
        d.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(d, x)| vector::fast(#[inline(always)] || match kind {
            Activation::Relu => d.iter_mut().zip(x).for_each(|(d, &x)| *d = if x > T::ZERO { *d } else { T::ZERO }),
            Activation::Gelu => d.iter_mut().zip(x).for_each(|(d, &x)| *d *= gelu(x).1),
        }));
        Ok(())
    }, runtime => launch(&**runtime, "activation_bwd", d, x, kind))
}

/// [`backward`] of rows, and `db += sum over rows of dx` for the bias they were given before, once `sums` are finished.
pub fn backward_with_bias(
    device: &Device,
    sums: &mut Sums,
    d: &mut Buffer,
    db: &mut Buffer,
    x: &Buffer,
    kind: Activation,
) -> Result<()> {
    let n = db.len();
    let rows = x.len().checked_div(n).unwrap_or(0);
    if let (Device::Machine(runtime), Some(([mut to], stride))) = (device, sums.places([&*db], rows.div_ceil(CHUNK), n)) {
        let grid = Grid { blocks: [rows.div_ceil(CHUNK) as u32, n.div_ceil(32) as u32, 1], threads: 256, shared_bytes: 0 };
        let numbers = [rows, n, stride].map(|x| Arg::U32(x as u32));
        let args = [Arg::Out(d), Arg::Out(&mut to), Arg::In(x)].into_iter().chain(numbers);
        return runtime.launch(&kernel("activation_bwd_sum", kind), grid, &mut args.collect::<Vec<_>>());
    }
    backward(device, d, x, kind)?;
    column_sum::add(device, db, d, n)
}

/// Value and derivative.
#[inline(always)]
fn gelu<T: Real>(x: T) -> (T, T) {
    let (c, a, half) = (T::from_f64(C), T::from_f64(A), T::from_f64(0.5));
    // tanh(u) = 1 - 2 / (exp(2u) + 1): one vectorisable exponential, clamped where tanh is 1 to the last bit.
    let u = (c * (x + a * x * x * x)).max(T::from_f64(-20.0)).min(T::from_f64(20.0));
    let t = T::ONE - (T::ONE + T::ONE) / ((u + u).exp() + T::ONE);
    let du = c * (T::ONE + T::from_f64(3.0) * a * x * x);
    (half * x * (T::ONE + t), half * (T::ONE + t) + half * x * (T::ONE - t * t) * du)
}

fn kernel(entry: &'static str, kind: Activation) -> Kernel {
    Kernel::new("activation", entry, &[("GELU", i64::from(kind == Activation::Gelu))])
}

fn launch(runtime: &dyn Runtime, entry: &'static str, out: &mut Buffer, x: &Buffer, kind: Activation) -> Result<()> {
    let n = x.len();
    if n == 0 {
        return Ok(());
    }
    runtime.launch(&kernel(entry, kind), Grid::row(n.div_ceil(1024), 256), &mut [Arg::Out(out), Arg::In(x), Arg::U64(n as u64)])
}

/// Of n `elements`.
pub fn cost(elements: usize) -> Pass {
    let of = |numbers: usize| Cost::moved(numbers).of(Operation::Activation, 4 * numbers as u64);
    Pass { forward: of(2 * elements), backward: of(3 * elements) }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Activation::Relu, Activation::Gelu] {
        for n in [0, 1, 1023, 1025, 5003] {
            cases.push(Case::new("activation", format!("{kind:?}, n {n}"), move |device| {
                // Three standard deviations wide, so that the ends of the tanh are met.
                let x: Vec<f64> = case::noise(1, n).iter().map(|x| 3.0 * x).collect();
                let (x, mut d, mut y) = (device.reals(&x)?, device.reals(&case::noise(2, n))?, Buffer::empty(device));
                forward(device, &mut y, &x, kind)?;
                backward(device, &mut d, &x, kind)?;
                Ok(vec![Output::reals("y", device, &y)?, Output::reals("dx", device, &d)?])
            }));
        }
    }
    for (kind, rows, n) in [(Activation::Relu, 40, 33), (Activation::Relu, 65, 33), (Activation::Gelu, 130, 64)] {
        cases.push(Case::new("activation", format!("{kind:?}, R {rows}, N {n}, with a bias"), move |device| {
            let (x, mut d) = (device.reals(&case::noise(1, rows * n))?, device.reals(&case::noise(2, rows * n))?);
            let db = column_sum::gathered(device, rows, n, |sums, db| backward_with_bias(device, sums, &mut d, db, &x, kind))?;
            Ok(vec![Output::reals("dx", device, &d)?, Output::reals("db", device, &db)?])
        }));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::central::{check, noise};

    #[test]
    fn gradients_agree_with_central_differences() {
        let device = Device::ORACLE;
        for kind in [Activation::Relu, Activation::Gelu] {
            let (x, weight) = (noise(1, 131), noise(2, 131));
            let value = |x: &[f64]| {
                let mut y = Buffer::empty(&device);
                forward(&device, &mut y, &device.reals(x).unwrap(), kind).unwrap();
                f64::of(&y).unwrap().to_vec()
            };
            let mut d = device.reals(&weight).unwrap();
            backward(&device, &mut d, &device.reals(&x).unwrap(), kind).unwrap();
            let gradient = f64::of(&d).unwrap().to_vec();
            check(&[x], &[gradient], |x| value(&x[0]).iter().zip(&weight).map(|(y, w)| y * w).sum());
        }
    }

    #[test]
    fn gelu_has_its_known_values_and_limits() {
        // Of the tanh form at 1: 0.8411919906082768.
        assert!((gelu(1.0f64).0 - 0.841_191_990_608_276_8).abs() < 1e-12);
        assert_eq!(gelu(0.0f64), (0.0, 0.5));
        for x in [-1e4f32, 1e4] {
            assert!(gelu(x).0.is_finite() && gelu(x).1.is_finite());
        }
    }
}
