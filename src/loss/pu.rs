//! Positive-unlabelled risk: what was drawn is not negative but unlabelled, and a known share of it is positive.
//!
//! ```text
//! loss = prior softplus(-s+) + max(0, sum w_n softplus(s_n) / sum w_n  -  prior softplus(s+))
//! ```
//!
//! The second term is the risk of the unlabelled as negatives without the part that is positive, which the row's own positive
//! stands for; it is an estimate of a risk, so it stops at zero, and with it its gradient. `log_q` is not used. Sources: the
//! non-negative estimator of Kiryo et al. (NIPS 2017) and the risk of PURE (Zhou et al., KDD 2021); both take the maximum
//! of a whole batch, here it is that of each row, so that rows stay independent.

use crate::device::Real;
use crate::loss::bce::{negatives_are_not_next, sigmoid};
use crate::loss::{Declared, Form, Loss, Param, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};
use crate::ops::vector;

pub const DECLARED: Declared = Declared {
    name: "pu",
    help: "binary cross-entropy in which a share of what was drawn is taken to be positive (PURE)",
    source: "Kiryo et al., NIPS 2017; Zhou et al., KDD 2021",
    params: &[Param {
        name: "prior",
        form: Form::Number { default: 0.1, low: 0.0, high: 1.0 },
        help: "share of the unlabelled items that are positive",
    }],
    sampled: true,
    build: |p| Loss::Sampled(Box::new(Pu { prior: p.number("prior") })),
};

pub struct Pu {
    prior: f64,
}

impl Pu {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let prior = T::from_f64(self.prior);
        let (loss, weight) = negatives_are_not_next(negatives, facts, d);
        let share = if weight > T::ZERO { T::ONE / weight } else { T::ZERO };
        let free = loss * share - prior * positive.softplus();
        let counts = free > T::ZERO;
        vector::fast(
            #[inline(always)]
            || vector::scale(d, if counts { share } else { T::ZERO }),
        );
        let (hidden, free) = if counts { (prior * sigmoid(positive), free) } else { (T::ZERO, T::ZERO) };
        (prior * (-positive).softplus() + free, -prior * sigmoid(-positive) - hidden)
    }
}
row_loss!(Pu, twin: |loss: &Pu| Twin::Pu { prior: loss.prior });
