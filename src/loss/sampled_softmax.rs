//! Softmax over the positive and its negatives, with the corrections for how the negatives were drawn.
//!
//! With `l = s / temperature`, `m` drawn negatives of probability `q_n` (those included that a row of a shared list must not count),
//! and `Z = sum w_n exp(l_n - c_n)`:
//!
//! ```text
//! log_q = none      c_n = 0                 loss = ln(exp l+ + Z) - l+
//! log_q = classic   c_n = ln(m q_n)         the same: Z estimates the sum over all other items
//! log_q = revised   c_n = ln(m q_n)         loss = (1 - P) (ln Z - l+),   P = exp l+ / (exp l+ + Z), a constant in the gradient
//! ```
//!
//! `classic` (Yi et al., RecSys 2019, as its reproductions have it: negatives alone are corrected) puts the positive, which is not
//! drawn, into a sum of estimates; `revised` (Khrylchenko et al., RecSys 2025) takes it out: with every other item as a negative its
//! gradient is that of the full softmax, and with fewer it is the self-normalised estimate. With the same `q_n` the two have the **same
//! gradient** and differ in their value, which for `revised` is not a likelihood and may be negative: what the revision mends is a
//! positive that is corrected as if it had been drawn, and a `q_n` that does not know that the target was left out.
//! `q_n` is used as the sampler reports it: a sampler that excludes the target should condition on that. The positive is not
//! corrected, so a uniform `q = 1/m` is the fixed point. Wrong contexts are not drawn from the items: their `c_n` is 0.
//! A weight counts as so many copies of its negative. The cosine score has its own temperature; leave this one at 1 with it.

use crate::device::Real;
use crate::loss::bce::sigmoid;
use crate::loss::{Declared, Form, Loss, Param, row_loss};
use crate::ops::sampled_loss::{Correction, RowFacts, Twin};
use crate::ops::vector;

pub const DECLARED: Declared = Declared {
    name: "sampled_softmax",
    help: "softmax over the positive and its negatives",
    source: "Bengio and Senecal 2008; Yi et al., RecSys 2019; Khrylchenko et al., RecSys 2025",
    params: &[
        Param {
            name: "temperature",
            form: Form::Number { default: 1.0, low: 1e-3, high: 1e3 },
            help: "scores are divided by it; leave it at 1 with the cosine score, which has its own",
        },
        Param {
            name: "log_q",
            form: Form::Word(&["none", "classic", "revised"]),
            help: "correction for the probability of each draw; needs a sampler that reports it. `classic` and `revised` train alike here",
        },
    ],
    sampled: true,
    build: |p| {
        let correction = match p.word("log_q") {
            "classic" => Correction::Classic,
            "revised" => Correction::Revised,
            _ => Correction::None,
        };
        Loss::Sampled(Box::new(SampledSoftmax { temperature: p.number("temperature"), correction }))
    },
};

pub struct SampledSoftmax {
    temperature: f64,
    correction: Correction,
}

impl SampledSoftmax {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        if negatives.is_empty() {
            return (T::ZERO, T::ZERO);
        }
        let cold = T::ONE / T::from_f64(self.temperature);
        vector::fast(
            #[inline(always)]
            || {
                d.iter_mut().zip(negatives).for_each(|(d, &s)| *d = s * cold);
                if self.correction != Correction::None {
                    let m = T::from_f64(facts.drawn as f64).ln();
                    d.iter_mut().zip(facts.log_q).for_each(|(d, &q)| *d -= T::from_f64(f64::from(q)) + m);
                }
                d.iter_mut().zip(facts.weight).for_each(|(d, &w)| *d += T::from_f64(f64::from(w)).ln());
                // d becomes the softmax of the negatives alone; their share of the whole is sigma(ln Z - l+) = 1 - P.
                let excess = vector::softmax_in_place(d) - positive * cold;
                if excess == T::NEG_INFINITY {
                    // All weights are zero: nothing to compare with.
                    d.fill(T::ZERO);
                    return (T::ZERO, T::ZERO);
                }
                let share = sigmoid(excess);
                vector::scale(d, share * cold);
                let loss = if self.correction == Correction::Revised { share * excess } else { excess.softplus() };
                (loss, -share * cold)
            },
        )
    }
}
row_loss!(
    SampledSoftmax,
    twin: |loss: &SampledSoftmax| Twin::SampledSoftmax { temperature: loss.temperature, correction: loss.correction },
    needs_log_q: |loss: &SampledSoftmax| loss.correction != Correction::None
);
