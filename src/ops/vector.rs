//! Inner loops over contiguous numbers: dot products, sums, exponentials.
//!
//! The crate is compiled for the plainest processor, so that one binary runs everywhere. [`fast`] runs a closure compiled
//! for the best instruction set found at run time (AVX2, AVX-512, NEON); every function below is inlined into whoever calls
//! it and so inherits that set. Call them inside `fast`; outside they are right and slow:
//!
//! ```ignore
//! vector::fast(#[inline(always)] || rows.iter().for_each(|x| vector::exp_in_place(x)))
//! ```
//!
//! Sums run in registers of a fixed width, added in a fixed tree, without fused multiply-add (`device/lanes.rs`): the bits
//! depend on neither the machine nor the number of threads.

use crate::device::{Real, exp_f64};

/// Runs `work` compiled for the best instruction set of this machine. Costs a few nanoseconds: put the loop inside.
#[inline(always)]
pub fn fast<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// sum of `a[i] b[i]`
#[inline(always)]
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    T::dot_of(a, b)
}

/// sum of `a[i] b[i] c[i]`
#[inline(always)]
pub fn dot3<T: Real>(a: &[T], b: &[T], c: &[T]) -> T {
    T::dot3_of(a, b, c)
}

/// sum of `x[i]`
#[inline(always)]
pub fn sum<T: Real>(x: &[T]) -> T {
    T::sum_of(x)
}

/// The largest element, minus infinity of nothing; NaN is skipped.
#[inline(always)]
pub fn max<T: Real>(x: &[T]) -> T {
    T::largest_of(x)
}

/// y += alpha x
#[inline(always)]
pub fn axpy<T: Real>(y: &mut [T], alpha: T, x: &[T]) {
    T::add_scaled(y, alpha, x);
}

/// y += alpha x + beta z
#[inline(always)]
pub fn axpy2<T: Real>(y: &mut [T], alpha: T, x: &[T], beta: T, z: &[T]) {
    T::add_scaled2(y, alpha, x, beta, z);
}

/// y (n) += sum over k of `c[k] table[rows[k]]`, table (.., n)
#[inline(always)]
pub fn add_rows<T: Real>(y: &mut [T], c: &[T], table: &[T], rows: &[u32]) {
    T::add_rows(y, c, table, rows);
}

/// y += x
#[inline(always)]
pub fn add<T: Real>(y: &mut [T], x: &[T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// x *= alpha
#[inline(always)]
pub fn scale<T: Real>(x: &mut [T], alpha: T) {
    for x in x {
        *x *= alpha;
    }
}

/// x = exp(x)
#[inline(always)]
pub fn exp_in_place<T: Real>(x: &mut [T]) {
    for x in x {
        *x = x.exp();
    }
}

/// x = exp(x - shift); returns the sum: the numerators and the denominator of a softmax whose largest score is `shift`.
#[inline(always)]
pub fn exp_sum<T: Real>(x: &mut [T], shift: T) -> T {
    for x in x.iter_mut() {
        *x = (*x - shift).exp();
    }
    sum(x)
}

/// x = exp(x - shift) in f64 whatever the scores were, `shift` the largest of x: weights of a draw, each at most 1.
#[inline(always)]
pub fn weights_in_place(x: &mut [f64], shift: f64) {
    for x in x {
        *x = exp_f64(*x - shift);
    }
}

/// ln sum exp(x), replacing x by its softmax; `(minus infinity)` of nothing.
#[inline(always)]
pub fn softmax_in_place<T: Real>(x: &mut [T]) -> T {
    let shift = max(x);
    if shift == T::NEG_INFINITY {
        // Nothing, nothing but minus infinity, or NaN: the sum tells the last two apart.
        return if x.is_empty() { shift } else { sum(x) };
    }
    let total = exp_sum(x, shift);
    scale(x, T::ONE / total);
    shift + total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draws, Stream, normal2};

    fn noise(lane: u8, n: usize) -> Vec<f32> {
        let draws = Draws::new(5, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0] as f32).collect()
    }

    #[test]
    fn reductions_are_closer_to_f64_than_one_running_sum_allows() {
        for n in [0, 1, 31, 32, 33, 64, 1000, 4097] {
            let (a, b) = (noise(0, n), noise(1, n));
            let exact: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            let size: f64 = a.iter().zip(&b).map(|(&x, &y)| (f64::from(x) * f64::from(y)).abs()).sum();
            // A sum in 32 lanes has a longest chain of n/32 + 6 additions and one product.
            let bound = f64::from(f32::EPSILON) * 0.5 * (n as f64 / 32.0 + 40.0) * size;
            assert!((f64::from(fast(|| dot(&a, &b))) - exact).abs() <= bound, "{n}");
            let exact: f64 = a.iter().map(|&x| f64::from(x)).sum();
            let size: f64 = a.iter().map(|&x| f64::from(x).abs()).sum();
            assert!(
                (f64::from(fast(|| sum(&a))) - exact).abs() <= f64::from(f32::EPSILON) * 0.5 * (n as f64 / 32.0 + 40.0) * size
            );
            assert_eq!(fast(|| max(&a)), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn the_instruction_set_changes_no_bit() {
        let (a, b) = (noise(0, 777), noise(1, 777));
        assert_eq!(fast(|| dot(&a, &b)).to_bits(), dot(&a, &b).to_bits());
        let (mut x, mut y) = (a.clone(), a.clone());
        let (s, t) = (fast(|| softmax_in_place(&mut x)), softmax_in_place(&mut y));
        assert!(x == y && s.to_bits() == t.to_bits());
    }

    #[test]
    fn softmax_sums_to_one_and_survives_extremes() {
        for shift in [0.0, 500.0, -500.0] {
            let mut x: Vec<f32> = noise(2, 301).iter().map(|v| v * 10.0 + shift).collect();
            let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
            let largest = wide.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let want = largest + wide.iter().map(|v| (v - largest).exp()).sum::<f64>().ln();
            let got = softmax_in_place(&mut x);
            assert!((f64::from(got) - want).abs() <= 1e-6 * want.abs().max(1.0), "{got} {want}");
            assert!((x.iter().map(|&v| f64::from(v)).sum::<f64>() - 1.0).abs() < 1e-6);
        }
        assert_eq!(softmax_in_place::<f32>(&mut []), f32::NEG_INFINITY);
        assert!(softmax_in_place(&mut [f32::NAN, f32::NAN]).is_nan());
        assert!(softmax_in_place(&mut [1.0, f32::NAN]).is_nan());
    }
}
