//! Central differences: how every backward pass is proven, in f64 (tests only).

use crate::rng::{Draws, Stream, normal2};

/// Normal numbers, different for every `lane`.
pub fn noise(lane: u8, n: usize) -> Vec<f64> {
    let draws = Draws::new(11, Stream::Test, lane, 0);
    (0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect()
}

/// Holds `analytic[i]`, the gradient of `loss` by `inputs[i]`, to the five-point difference
/// `(8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h` for every element. Its truncation falls with h^4 and its rounding is
/// 1e-16 |f| / h; at this step both stay two digits below the tolerance.
pub fn check(inputs: &[Vec<f64>], analytic: &[Vec<f64>], loss: impl Fn(&[Vec<f64>]) -> f64) {
    let h = 3e-4;
    let mut moved = inputs.to_vec();
    for (i, input) in inputs.iter().enumerate() {
        assert_eq!(input.len(), analytic[i].len());
        for e in 0..input.len() {
            let mut at = |delta: f64| {
                moved[i][e] = input[e] + delta;
                let value = loss(&moved);
                moved[i][e] = input[e];
                value
            };
            let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let difference = (numeric - analytic[i][e]).abs();
            assert!(difference < 1e-7 * (1.0 + numeric.abs()), "input {i} element {e}: {numeric} against {}", analytic[i][e]);
        }
    }
}
