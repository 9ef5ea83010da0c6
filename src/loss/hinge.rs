//! Hinge: the positive should lead each negative by a margin, and more earns nothing.
//!
//! ```text
//! loss = sum w_n max(0, margin + s_n - s+) / sum w_n          zero for a row without negatives
//! ```
//!
//! A slot's weight is its share in the mean; at the corner the gradient is zero; `log_q` is not used. Source: the max-margin loss
//! of PinSage (Ying et al., KDD 2018) and of MCNS (Yang et al., KDD 2020).

use crate::device::Real;
use crate::loss::{Declared, Form, Loss, Param, mean_of_pairs, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};

pub const DECLARED: Declared = Declared {
    name: "hinge",
    help: "how far each negative comes within a margin of the positive (PinSage, MCNS)",
    source: "Ying et al., KDD 2018; Yang et al., KDD 2020",
    params: &[Param {
        name: "margin",
        form: Form::Number { default: 0.1, low: 0.0, high: 1e6 },
        help: "lead of the positive's score at which a negative stops to count",
    }],
    sampled: true,
    build: |p| Loss::Sampled(Box::new(Hinge { margin: p.number("margin") })),
};

pub struct Hinge {
    margin: f64,
}

impl Hinge {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let margin = T::from_f64(self.margin);
        mean_of_pairs(positive, negatives, facts, d, |x| {
            let over = x + margin;
            if over > T::ZERO { (over, T::ONE) } else { (T::ZERO, T::ZERO) }
        })
    }
}
row_loss!(Hinge, twin: |loss: &Hinge| Twin::Hinge { margin: loss.margin });
