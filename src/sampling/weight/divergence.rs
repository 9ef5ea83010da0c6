//! Hardness by a bound on how far the weights may move from the uniform ones: Softmax(rho, N).
//!
//! ```text
//! Z_n = -ln sigma(s+ - s_n)      tau = sqrt(Var_n Z / (2 rho))      w_n ~ exp(Z_n / tau - ln q_n)          mean one, no gradient
//! ```
//!
//! The temperature follows the spread of the row's losses, so `rho` alone says how hard the negatives are: 0 weighs all alike (with
//! equal `q`), large values the hardest. A row whose losses do not differ has no temperature and keeps equal weights.
//! Source: Shi et al., WWW 2023, On the Theories behind Hard Negative Sampling for Recommendation, and its released program.

use super::{Weigh, weigh_by_score};
use crate::device::Real;
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};
use crate::sampling::select::Choice;

pub static DECLARED: Declared = Declared {
    stage: Stage::Weight,
    name: "divergence",
    help: "importance weights whose temperature follows the spread of the row's losses: Softmax(rho, N)",
    source: "Shi et al., WWW 2023, On the Theories behind Hard Negative Sampling for Recommendation",
    params: &[Param {
        name: "rho",
        form: Form::Number { default: 0.1, low: 0.0, high: 1e3, curve: true },
        only_with: None,
        help: "how far the weights may move from equal ones; 0 not at all",
    }],
    needs: &[Need::Scores, Need::Probability],
    cost: "2RND flops, RN exponentials",
};

pub fn build(params: &Params, _: &Knowledge, _: &Catalogue) -> Result<Option<Box<dyn Weigh>>> {
    Ok(Some(Box::new(Divergence { params: params.clone() })))
}

struct Divergence {
    params: Params,
}

impl Weigh for Divergence {
    fn weigh(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()> {
        let rho = self.params.number("rho", choice.epoch);
        weigh_by_score(choice, negatives, |row| {
            let z: Vec<f64> = row.scores.iter().map(|s| (s - row.positive).softplus()).collect();
            let n = z.len().max(1) as f64;
            let mean = z.iter().sum::<f64>() / n;
            let variance = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / n;
            let coldness = if variance > 0.0 { (2.0 * rho / variance).sqrt() } else { 0.0 };
            z.iter().zip(row.log_q).map(|(z, q)| z * coldness - q).collect()
        })
    }
    fn needs_scores(&self) -> bool {
        true
    }
}
