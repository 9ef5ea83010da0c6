//! Point-wise activations of the feed-forward layer.
//!
//! ```text
//! relu: y = max(x, 0)                       dx = dy [x > 0]
//! gelu: y = x/2 (1 + tanh(c (x + a x^3)))   c = sqrt(2/pi), a = 0.044715 (Hendrycks and Gimpel, arXiv 1606.08415)
//! ```

use rayon::prelude::*;

use crate::device::{Buffer, Device, Real, no_kernel};
use crate::dispatch;
use crate::error::Result;
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
        y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| vector::fast(|| match kind {
            Activation::Relu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > T::ZERO { x } else { T::ZERO }),
            Activation::Gelu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = gelu(x).0),
        }));
        Ok(())
    }, _ => Err(no_kernel("activation")))
}

/// `dx = dy * f'(x)`, in place: `d` holds dy and receives dx.
pub fn backward(device: &Device, d: &mut Buffer, x: &Buffer, kind: Activation) -> Result<()> {
    dispatch!(device, T => {
        let (d, x) = (T::of_mut(d)?, T::of(x)?);
        d.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(d, x)| vector::fast(|| match kind {
            Activation::Relu => d.iter_mut().zip(x).for_each(|(d, &x)| *d = if x > T::ZERO { *d } else { T::ZERO }),
            Activation::Gelu => d.iter_mut().zip(x).for_each(|(d, &x)| *d *= gelu(x).1),
        }));
        Ok(())
    }, _ => Err(no_kernel("activation")))
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
