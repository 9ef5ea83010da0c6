//! Lets hard negatives count more: importance weights by a softmax over the row's negatives.
//!
//! ```text
//! w_n ~ exp(s_n / T - ln q_n)          mean one over the row, no gradient
//! ```
//!
//! With the binary cross-entropy it is the weighted form of GeoSAN (Lian et al., KDD 2020), with the pairwise loss that of PRIS (Lian,
//! Liu, Chen, WWW 2020; T = 1). `T` to infinity, with equal `q`, counts every negative the same; `T` to 0 only the hardest. GeoSAN's
//! program lets the gradient flow through the weights; here they are constants, as the derivation as an expectation has them.

use super::{Weigh, weigh_by_score};
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};
use crate::sampling::select::Choice;

pub static DECLARED: Declared = Declared {
    stage: Stage::Weight,
    name: "attention",
    help: "importance weights by a softmax over the scores of a row's negatives, corrected for how they were drawn",
    source: "GeoSAN (Lian et al., KDD 2020); PRIS (Lian et al., WWW 2020)",
    params: &[Param {
        name: "temperature",
        form: Form::Number { default: 1.0, low: 1e-3, high: 1e6, curve: true },
        only_with: None,
        help: "T: low counts the hardest alone, high counts all alike",
    }],
    needs: &[Need::Scores, Need::Probability],
    cost: "2RND flops, RN exponentials",
};

pub fn build(params: &Params, _: &Knowledge, _: &Catalogue) -> Result<Option<Box<dyn Weigh>>> {
    Ok(Some(Box::new(Attention { params: params.clone() })))
}

struct Attention {
    params: Params,
}

impl Weigh for Attention {
    fn weigh(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()> {
        let temperature = self.params.number("temperature", choice.epoch);
        weigh_by_score(choice, negatives, |row| row.scores.iter().zip(row.log_q).map(|(s, q)| s / temperature - q).collect())
    }
    fn needs_scores(&self) -> bool {
        true
    }
}
