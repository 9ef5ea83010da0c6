//! Weighs how much a candidate would teach against how likely it is a false negative.
//!
//! ```text
//! info(l)   = 1 - sigma(s+ - s_l)                                               gradient of BPR
//! F(l)      = share of the row's candidates that score at most s_l              how unusual the score is
//! prior(l)  = n_l / users                                                       how likely anybody takes the item
//! unbias(l) = (1 - F)(1 - prior) / (1 - F - prior + 2 F prior)                  posterior of being a true negative
//! keep the N smallest of  info(l) (1 - (1 + lambda) unbias(l))                  ties to the higher score
//! ```
//!
//! `F` is estimated from the candidates, halfway within a tie and never 0 or 1, where the paper ranks among all items the user has
//! not seen; with uniform candidates that is the same distribution, sampled. `n_l` are the item's training events, and the prior
//! stays below 1. Source: BNS (Liu and Wang, ICDE 2023, arXiv 2204.06520), equations of its sampling criterion.

use super::{CANDIDATES, Candidates, Choice, Select, choose_ranked, places_by_key};
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "posterior",
    help: "keep the candidates that teach most and are most likely true negatives",
    source: "BNS (Liu and Wang, ICDE 2023, arXiv 2204.06520)",
    params: &[
        Param {
            name: "lambda",
            form: Form::Number { default: 5.0, low: 0.0, high: 1e4, curve: true },
            only_with: None,
            help: "weight of being a true negative against being informative",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "2RMD flops, a sort of M per row",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Posterior { params: params.clone() })
}

struct Posterior {
    params: Params,
}

/// Posterior of a true negative from the place of its score and its prior of being wanted.
pub(super) fn unbias(f: f64, prior: f64) -> f64 {
    (1.0 - f) * (1.0 - prior) / (1.0 - f - prior + 2.0 * f * prior)
}

impl Select for Posterior {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn needs_priors(&self) -> bool {
        true
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let lambda = self.params.number("lambda", choice.epoch);
        choose_ranked(choice, candidates, |row| {
            let m = row.ranked.len() as f64;
            let keys: Vec<f64> = row
                .ranked
                .iter()
                .map(|&(item, s)| {
                    let above = row.ranked.partition_point(|(_, other)| *other > s) as f64;
                    let alike = row.ranked[above as usize..].iter().take_while(|(_, other)| *other == s).count() as f64;
                    let f = (m - above - alike / 2.0) / m;
                    let info = 1.0 / (1.0 + (row.positive - s).exp());
                    -info * (1.0 - (1.0 + lambda) * unbias(f, f64::from(choice.priors[item as usize])))
                })
                .collect();
            places_by_key(&keys, choice.negatives)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bayes' rule by hand, and the limits: a score nobody beats is a false negative, an item nobody takes is a true one.
    #[test]
    fn the_posterior_is_bayes() {
        let (f, prior) = (0.8, 0.1);
        let (as_true, as_false) = ((1.0 - f) * (1.0 - prior), f * prior);
        assert!((unbias(f, prior) - as_true / (as_true + as_false)).abs() < 1e-15);
        assert_eq!(unbias(0.5, 0.0), 1.0);
        assert_eq!(unbias(1.0, 0.5), 0.0);
        assert!((unbias(0.5, 0.3) - 0.7).abs() < 1e-15, "a median score leaves the prior");
    }
}
