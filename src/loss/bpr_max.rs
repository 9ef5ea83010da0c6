//! BPR-max: the positive against the negatives that score highest, softly chosen.
//!
//! With `w = softmax(s_n)` over the row's negatives, a slot's weight counting as so many copies of it:
//!
//! ```text
//! loss = -ln sum w_n sigma(s+ - s_n) + lambda sum w_n s_n^2          zero for a row without negatives
//! ```
//!
//! The second term keeps the scores of negatives near zero. The gradient flows through `w`. With
//! `Z = ln sum exp s_n`, `L = ln sum exp(s_n + ln sigma(s+ - s_n))`, the first term is `Z - L`, and with `t_n` the shares in the
//! second sum and `Q = sum w_n s_n^2`
//!
//! ```text
//! d/ds_n = w_n - t_n sigma(s+ - s_n) + lambda w_n (s_n^2 - Q + 2 s_n),      d/ds+ = -sum t_n sigma(s_n - s+)
//! ```
//!
//! Source: GRU4Rec (Hidasi and Karatzoglou, CIKM 2018), without its optional transformation of the scores. `log_q` is not used.

use crate::device::Real;
use crate::loss::bce::sigmoid;
use crate::loss::{Declared, Form, Loss, Param, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};
use crate::ops::vector;

pub const DECLARED: Declared = Declared {
    name: "bpr_max",
    help: "pairwise logistic loss against the softly highest negative, whose scores are kept small (GRU4Rec)",
    source: "Hidasi and Karatzoglou, CIKM 2018",
    params: &[Param {
        name: "lambda",
        form: Form::Number { default: 1.0, low: 0.0, high: 1e3 },
        help: "weight of the squared scores of the negatives",
    }],
    sampled: true,
    build: |p| Loss::Sampled(Box::new(BprMax { lambda: p.number("lambda") })),
};

pub struct BprMax {
    lambda: f64,
}

impl BprMax {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let lambda = T::from_f64(self.lambda);
        let mut tops = vec![T::ZERO; negatives.len()];
        vector::fast(
            #[inline(always)]
            || {
                d.copy_from_slice(negatives);
                d.iter_mut().zip(facts.weight).for_each(|(d, &w)| *d += T::from_f64(f64::from(w)).ln());
                for ((t, &d), &s) in tops.iter_mut().zip(&*d).zip(negatives) {
                    *t = d - (s - positive).softplus();
                }
                let all = vector::softmax_in_place(d);
                if all == T::NEG_INFINITY {
                    d.fill(T::ZERO);
                    return (T::ZERO, T::ZERO);
                }
                // Weights make neither sum larger than the other, roundings may.
                let loss = (all - vector::softmax_in_place(&mut tops)).max(T::ZERO);
                let square = vector::dot3(d, negatives, negatives);
                let mut pull = T::ZERO;
                for ((d, &t), &s) in d.iter_mut().zip(&tops).zip(negatives) {
                    *d = *d * (T::ONE + lambda * (s * s - square + (s + s))) - t * sigmoid(positive - s);
                    pull += t * sigmoid(s - positive);
                }
                (loss + lambda * square, -pull)
            },
        )
    }
}
row_loss!(BprMax, twin: |loss: &BprMax| Twin::BprMax { lambda: loss.lambda });
