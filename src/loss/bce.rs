//! Binary cross-entropy: is this item the next one, yes or no?
//!
//! ```text
//! loss = softplus(-s+) + sum w_n softplus(s_n) / sum w_n            softplus(x) = ln(1 + e^x),  -ln sigma(x) = softplus(-x)
//! ```
//!
//! With one negative this is SASRec's loss (Kang and McAuley, ICDM 2018). With several, negatives are averaged, so that the
//! positive keeps its weight; with attention weights that sum to one it is the weighted form of GeoSAN (Lian et al., KDD 2020).

use crate::device::Real;
use crate::loss::{Declared, Loss, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};
use crate::ops::vector;

pub const DECLARED: Declared = Declared {
    name: "bce",
    help: "binary cross-entropy of the positive and the mean of the negatives (SASRec)",
    source: "Kang and McAuley, ICDM 2018",
    params: &[],
    sampled: true,
    build: |_| Loss::Sampled(Box::new(Bce)),
};

pub struct Bce;

impl Bce {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let (loss, weight) = negatives_are_not_next(negatives, facts, d);
        let share = if weight > T::ZERO { T::ONE / weight } else { T::ZERO };
        vector::fast(
            #[inline(always)]
            || vector::scale(d, share),
        );
        ((-positive).softplus() + loss * share, -sigmoid(-positive))
    }
}
row_loss!(Bce, twin: |_: &Bce| Twin::Bce);

/// 1 / (1 + e^-x)
#[inline(always)]
pub fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// The sum of `w_n softplus(s_n)` and of the weights; `d (K) = w_n sigma(s_n)`.
pub fn negatives_are_not_next<T: Real>(s: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
    vector::fast(
        #[inline(always)]
        || {
            for (d, &s) in d.iter_mut().zip(s) {
                *d = s.softplus();
            }
            if facts.weight.is_empty() {
                let loss = vector::sum(d);
                d.iter_mut().zip(s).for_each(|(d, &s)| *d = sigmoid(s));
                return (loss, T::from_f64(s.len() as f64));
            }
            let (mut loss, mut weight) = (T::ZERO, T::ZERO);
            for ((d, &s), &w) in d.iter_mut().zip(s).zip(facts.weight) {
                let w = T::from_f64(f64::from(w));
                loss += w * *d;
                weight += w;
                *d = w * sigmoid(s);
            }
            (loss, weight)
        },
    )
}
