//! A linear layer.
//!
//! ```text
//! y = x w + b          x (R,K), w (K,N), b (N) or empty, y (R,N)
//! dx = dy w^T          dw += x^T dy          db += sum_r dy
//! ```

use rayon::prelude::*;

use crate::device::{Buffer, Device, Real, no_kernel};
use crate::dispatch;
use crate::error::Result;
use crate::ops::matmul::{self, Mat};
use crate::ops::vector;

/// Rows per parallel task of the bias sums.
const TASK: usize = 512;

/// `rows` R, `k` and `n` as above. `b` of length 0 means no bias.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    device: &Device,
    y: &mut Buffer,
    x: &Buffer,
    w: &Buffer,
    b: Option<&Buffer>,
    rows: usize,
    k: usize,
    n: usize,
) -> Result<()> {
    y.resize(device, rows * n)?;
    dispatch!(device, T => {
        let y = T::of_mut(y)?;
        matmul::rows(y, Mat::new(T::of(x)?, k), Mat::new(T::of(w)?, n), [rows, n, k], false);
        if let Some(b) = b {
            let b = T::of(b)?;
            y.par_chunks_mut(TASK * n).for_each(|y| vector::fast(|| {
                for y in y.chunks_exact_mut(n) {
                    y.iter_mut().zip(b).for_each(|(y, &b)| *y += b);
                }
            }));
        }
        Ok(())
    }, _ => Err(no_kernel("linear")))
}

/// Gradients of [`forward`]; `dx` overwritten (skipped when `None`), `dw` and `db` accumulated.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    device: &Device,
    dx: Option<&mut Buffer>,
    dw: &mut Buffer,
    db: Option<&mut Buffer>,
    dy: &Buffer,
    x: &Buffer,
    w: &Buffer,
    rows: usize,
    k: usize,
    n: usize,
) -> Result<()> {
    dispatch!(device, T => {
        let dy = T::of(dy)?;
        if let Some(dx) = dx {
            dx.resize(device, rows * k)?;
            matmul::rows(T::of_mut(dx)?, Mat::new(dy, n), Mat::new(T::of(w)?, n).t(), [rows, k, n], false);
        }
        matmul::reduce(T::of_mut(dw)?, Mat::new(T::of(x)?, k).t(), Mat::new(dy, n), [k, n, rows]);
        if let Some(db) = db {
            let partial: Vec<Vec<T>> = dy.par_chunks(TASK * n).map(|dy| {
                let mut sum = vec![T::ZERO; n];
                vector::fast(|| {
                    for dy in dy.chunks_exact(n) {
                        sum.iter_mut().zip(dy).for_each(|(s, &d)| *s += d);
                    }
                });
                sum
            }).collect();
            let db = T::of_mut(db)?;
            for sum in &partial {
                db.iter_mut().zip(sum).for_each(|(o, &s)| *o += s);
            }
        }
        Ok(())
    }, _ => Err(no_kernel("linear")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::central::{check, noise};

    #[test]
    fn gradients_agree_with_central_differences_at_odd_sizes() {
        let device = Device::ORACLE;
        for (r, k, n) in [(1, 1, 1), (5, 3, 7), (TASK + 1, 2, 1)] {
            let weight = noise(4, r * n);
            let run = |inputs: &[Vec<f64>]| {
                let [x, w, b] = [0, 1, 2].map(|i| device.reals(&inputs[i]).unwrap());
                let mut y = Buffer::empty(&device);
                forward(&device, &mut y, &x, &w, Some(&b), r, k, n).unwrap();
                (x, w, y)
            };
            let loss = |inputs: &[Vec<f64>]| f64::of(&run(inputs).2).unwrap().iter().zip(&weight).map(|(y, w)| y * w).sum();
            let inputs = [noise(1, r * k), noise(2, k * n), noise(3, n)];
            let (x, w, _) = run(&inputs);
            let (mut dx, mut dw, mut db) = (Buffer::empty(&device), device.zeros(k * n).unwrap(), device.zeros(n).unwrap());
            let dy = device.reals(&weight).unwrap();
            backward(&device, Some(&mut dx), &mut dw, Some(&mut db), &dy, &x, &w, r, k, n).unwrap();
            check(&inputs, &[&dx, &dw, &db].map(|b| f64::of(b).unwrap().to_vec()), loss);
        }
    }
}
