//! Debiased and hard contrastive loss: a softmax whose negatives may hide positives, and whose hard negatives count more.
//!
//! With `x = s / temperature`, `v_n` a slot's weight and `M = sum v_n`:
//!
//! ```text
//! w_n  = exp(beta x_n) / (sum v_m exp(beta x_m) / M)                            1 on average
//! mean = sum v_n w_n exp(x_n) / M
//! g    = max((mean - tau_plus exp x+) / (1 - tau_plus), exp(lowest / temperature))
//! loss = ln(exp x+ + M g) - x+
//! ```
//!
//! A share `tau_plus` of what is drawn is taken to be positive; its expected part is subtracted, and `g` never falls below what
//! a negative of the lowest possible score would give: that of a cosine of -1, as in the papers, which divided by
//! `model.temperature` is the cosine score here. A dot product has no lowest; there the floor is -1 by convention. `beta = 0` is DCL (Chuang et al.,
//! NeurIPS 2020), `beta > 0` is HCL (Robinson et al., ICLR 2021), and both at 0 the sampled softmax: nothing is subtracted
//! then, so there is no floor either.
//!
//! The gradient is that of the value: it flows through `w` too, and stops where the floor holds. With `ln mean = A - B`,
//! `A = ln sum v exp((1 + beta) x)`, `B = ln sum v exp(beta x)`, and `p`, `q` the shares in these two sums:
//! `d ln mean / dx_n = (1 + beta) p_n - beta q_n`. Everything stays a logarithm, so scores of any size are fine. A weight counts
//! as so many copies of its negative; `log_q` is not used.

use crate::device::Real;
use crate::loss::bce::sigmoid;
use crate::loss::{Declared, Form, Loss, Param, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};
use crate::ops::score::ScoreKind;
use crate::ops::vector;

pub const DECLARED: Declared = Declared {
    name: "contrastive",
    help: "softmax that corrects for false negatives (DCL) and weighs hard ones up (HCL)",
    source: "Chuang et al., NeurIPS 2020; Robinson et al., ICLR 2021",
    params: &[
        Param {
            name: "temperature",
            form: Form::Number { default: 1.0, low: 1e-3, high: 1e3 },
            help: "scores are divided by it; leave it at 1 with the cosine score, which has its own",
        },
        Param {
            name: "tau_plus",
            form: Form::Number { default: 0.0, low: 0.0, high: 0.99 },
            help: "share of the drawn items that are positive after all",
        },
        Param {
            name: "beta",
            form: Form::Number { default: 0.0, low: 0.0, high: 1e3 },
            help: "how much more a hard negative counts: weights exp(beta s / temperature)",
        },
        Param {
            name: "lowest",
            form: Form::Derived { default: "-1, or -1 / model.temperature with the cosine score", low: -1e6, high: 0.0 },
            help: "lowest score a negative can have, the floor of the correction",
        },
    ],
    sampled: true,
    build: |p| {
        let [temperature, tau_plus, beta] = ["temperature", "tau_plus", "beta"].map(|name| p.number(name));
        let lowest = p.given("lowest").unwrap_or(match p.score {
            ScoreKind::Dot => -1.0,
            ScoreKind::Cosine { temperature } => -1.0 / temperature,
        });
        // Where nothing is subtracted nothing can fall below the floor of a cosine.
        let floor = if tau_plus > 0.0 { lowest / temperature } else { f64::NEG_INFINITY };
        Loss::Sampled(Box::new(Contrastive { temperature, tau_plus, beta, floor }))
    },
};

pub struct Contrastive {
    temperature: f64,
    tau_plus: f64,
    beta: f64,
    /// ln of the least g
    floor: f64,
}

impl Contrastive {
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let [cold, tau, beta, floor] = [1.0 / self.temperature, self.tau_plus, self.beta, self.floor].map(T::from_f64);
        let weight = |n: usize| facts.weight.get(n).map_or(T::ONE, |&w| T::from_f64(f64::from(w)));
        let mut shares = vec![T::ZERO; negatives.len()];
        vector::fast(
            #[inline(always)]
            || {
                let mut count = T::ZERO;
                for (n, &s) in negatives.iter().enumerate() {
                    let (w, x) = (weight(n), s * cold);
                    count += w;
                    // Not (1 + beta) x: the sum, once rounded, is wrong by the same factor in every row.
                    d[n] = beta * x + x + w.ln();
                    shares[n] = beta * x + w.ln();
                }
                if count <= T::ZERO {
                    // Nothing to compare with.
                    d.fill(T::ZERO);
                    return (T::ZERO, T::ZERO);
                }
                // The mean is `ratio exp(shift)`, as seen from the positive.
                let (most, most_tilt) = (vector::max(d), vector::max(&shares));
                let (sum, sum_tilt) = (vector::exp_sum(d, most), vector::exp_sum(&mut shares, most_tilt));
                let (ratio, shift) = (sum / sum_tilt, most - most_tilt - positive * cold);
                // tau_plus exp x+ over the mean.
                let hidden = if tau > T::ZERO { tau * (-shift).exp() / ratio } else { T::ZERO };
                let least = floor - positive * cold + count.ln();
                let free = match hidden < T::ONE {
                    true => shift + (count * ratio * (T::ONE - hidden) / (T::ONE - tau)).ln(),
                    false => T::NEG_INFINITY,
                };
                let excess = free.max(least);
                let (loss, share) = (excess.softplus(), sigmoid(excess));
                if free < least {
                    d.fill(T::ZERO);
                    return (loss, -share * cold);
                }
                let pull = share / (T::ONE - hidden) * cold;
                let (hard, tilt) = (pull * (T::ONE + beta) / sum, pull * beta / sum_tilt);
                d.iter_mut().zip(&shares).for_each(|(d, &q)| *d = hard * *d - tilt * q);
                (loss, -pull)
            },
        )
    }
}
row_loss!(Contrastive, twin: |loss: &Contrastive| Twin::Contrastive {
    temperature: loss.temperature,
    tau_plus: loss.tau_plus,
    beta: loss.beta,
    floor: loss.floor,
});
