//! Bayesian personalised ranking: the positive should score above each negative.
//!
//! ```text
//! loss = sum w_n softplus(s_n - s+) / sum w_n          zero for a row without negatives
//! ```
//!
//! Source: Rendle et al., UAI 2009. With weights `softmax(s_n - ln q_n)` it is the form of PRIS (Lian et al., WWW 2020).

use crate::device::Real;
use crate::loss::bce::negatives_are_not_next;
use crate::loss::{Declared, Loss, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};
use crate::ops::vector;

pub const DECLARED: Declared = Declared {
    name: "bpr",
    help: "pairwise logistic loss of the positive against each negative",
    source: "Rendle et al., UAI 2009",
    params: &[],
    sampled: true,
    build: |_| Loss::Sampled(Box::new(Bpr)),
};

pub struct Bpr;

impl Bpr {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let margins: Vec<T> = negatives.iter().map(|&s| s - positive).collect();
        let (loss, weight) = negatives_are_not_next(&margins, facts, d);
        let share = if weight > T::ZERO { T::ONE / weight } else { T::ZERO };
        vector::fast(
            #[inline(always)]
            || {
                vector::scale(d, share);
                (loss * share, -vector::sum(d))
            },
        )
    }
}
row_loss!(Bpr, twin: |_: &Bpr| Twin::Bpr);
