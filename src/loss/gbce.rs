//! Generalised binary cross-entropy: undoes the over-confidence that few negatives cause.
//!
//! ```text
//! loss = (beta softplus(-s+) + sum w_n softplus(s_n)) / (1 + sum w_n)
//! beta = 1 - t (1 - alpha),   alpha = N / (V - 1)
//! ```
//!
//! Replacing `sigma(s+)` by `sigma(s+)^beta` multiplies its logarithm by beta, so the loss needs no transformed logit, no
//! clamp and no f64. `t = 0` is the mean binary cross-entropy of all N + 1 items, `t = 1` predicts exact probabilities.
//! Source: gSASRec (Petrov and Macdonald, RecSys 2023), equation for beta rewritten without the division by alpha.

use crate::device::Real;
use crate::loss::bce::{negatives_are_not_next, sigmoid};
use crate::loss::{Declared, Form, Loss, Param, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};
use crate::ops::vector;

pub const DECLARED: Declared = Declared {
    name: "gbce",
    help: "binary cross-entropy calibrated for the share of items drawn (gSASRec)",
    source: "Petrov and Macdonald, RecSys 2023",
    params: &[Param {
        name: "t",
        form: Form::Number { default: 0.75, low: 0.0, high: 1.0 },
        help: "calibration: 0 is plain binary cross-entropy, 1 predicts exact probabilities",
    }],
    sampled: true,
    build: |p| {
        let alpha = (p.negatives as f64 / (p.items.max(2) - 1) as f64).min(1.0);
        Loss::Sampled(Box::new(Gbce { beta: 1.0 - p.number("t") * (1.0 - alpha) }))
    },
};

pub struct Gbce {
    beta: f64,
}

impl Gbce {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let beta = T::from_f64(self.beta);
        let (loss, weight) = negatives_are_not_next(negatives, facts, d);
        let share = T::ONE / (T::ONE + weight);
        vector::fast(
            #[inline(always)]
            || vector::scale(d, share),
        );
        ((beta * (-positive).softplus() + loss) * share, -beta * share * sigmoid(-positive))
    }
}
row_loss!(Gbce, twin: |loss: &Gbce| Twin::Gbce { beta: loss.beta });
