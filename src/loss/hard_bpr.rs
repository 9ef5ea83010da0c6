//! Hard BPR: a pairwise loss that lets go of negatives far above the positive, which are likely to be no negatives at all.
//!
//! ```text
//! loss = sum w_n f(s+ - s_n) / sum w_n          zero for a row without negatives
//! f(x) = -ln g(x),   g(x) = (sigma(c x + b) + a) / (1 + a)
//! ```
//!
//! `f` levels off at `ln((1 + a) / a)` where BPR goes on rising; `a = 0, b = 0, c = 1` is BPR. With `y = c x + b` and
//! `k = ln(a / (1 + a))`, `f = softplus(-y) - softplus(k - y)`, which loses no digit where `g` is close to one. A slot's weight is
//! its share in the mean; `log_q` is not used. A reconstruction after Shi et al. (arXiv 2211.13912 and 2403.19276): the exact form
//! was not compared with the papers.

use crate::device::Real;
use crate::loss::bce::sigmoid;
use crate::loss::{Declared, Form, Loss, Param, mean_of_pairs, row_loss};
use crate::ops::sampled_loss::{RowFacts, Twin};

pub const DECLARED: Declared = Declared {
    name: "hard_bpr",
    help: "pairwise loss that levels off for negatives far above the positive (Hard-BPR, a reconstruction)",
    source: "after Shi et al., arXiv 2211.13912 and 2403.19276",
    params: &[
        Param {
            name: "a",
            form: Form::Number { default: 1.0, low: 0.0, high: 100.0 },
            help: "how early the loss levels off, at ln((1 + a) / a); 0 is never",
        },
        Param {
            name: "b",
            form: Form::Number { default: -1.0, low: -100.0, high: 100.0 },
            help: "shift of the difference of scores",
        },
        Param { name: "c", form: Form::Number { default: 0.8, low: 1e-3, high: 1e3 }, help: "scale of the difference of scores" },
    ],
    sampled: true,
    build: |p| Loss::Sampled(Box::new(HardBpr { a: p.number("a"), b: p.number("b"), c: p.number("c") })),
};

pub struct HardBpr {
    a: f64,
    b: f64,
    c: f64,
}

impl HardBpr {
    fn k(&self) -> f64 {
        self.a.ln() - self.a.ln_1p()
    }
    fn row<T: Real>(&self, positive: T, negatives: &[T], facts: RowFacts, d: &mut [T]) -> (T, T) {
        let [k, b, c] = [self.k(), self.b, self.c].map(T::from_f64);
        mean_of_pairs(positive, negatives, facts, d, |x| {
            let y = b - c * x;
            // The same number twice; each loses digits where the other is used.
            let loss = if y >= k { (-y).softplus() - (k - y).softplus() } else { y.softplus() - (y - k).softplus() - k };
            (loss, c * (sigmoid(-y) - sigmoid(k - y)))
        })
    }
}
row_loss!(HardBpr, twin: |loss: &HardBpr| Twin::HardBpr { k: loss.k(), b: loss.b, c: loss.c });
