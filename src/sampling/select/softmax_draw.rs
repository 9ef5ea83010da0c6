//! Draws from the current model's own preference over the candidates: the selection of GenNi.
//!
//! `P(i) = exp(beta s_i - ln q_i) / Z`: `beta` is the difficulty, 0 uniform, 1 the model's softmax, large the hardest item; as a
//! curve it warms up. With the proposal `catalogue` the draw is exact over all items; from `M` proposed candidates it is exact
//! over them, and dividing by the proposal's probability makes them stand for the catalogue whatever the proposal prefers. The
//! log-probability handed on is that of the draw given the candidates.

use super::{Candidates, Choice, Select, hidden};
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::ops::softmax_draw::{self, Rule};
use crate::rng::{Draws, Stream};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "softmax_draw",
    help: "draw among the candidates with probability exp(beta * score)",
    source: "GenNi (Chen et al., arXiv 2208.03645), reconstructed; ELECRec (Chen et al., SIGIR 2022)",
    params: &[
        Param {
            name: "beta",
            form: Form::Number { default: 1.0, low: 0.0, high: 1e4, curve: true },
            only_with: None,
            help: "difficulty: 0 uniform, 1 the model's softmax, large the hardest candidate",
        },
        Param {
            name: "replace",
            form: Form::Flag { default: true },
            only_with: None,
            help: "draw with replacement; without, the negatives of a row are all different",
        },
        super::CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "2RMD flops, M exponentials per row",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(SoftmaxDraw { params: params.clone() })
}

struct SoftmaxDraw {
    params: Params,
}

impl Select for SoftmaxDraw {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn fewest_candidates(&self, negatives: usize) -> usize {
        // With replacement any number can be drawn from any list.
        if self.params.flag("replace") { negatives } else { self.params.least("candidates") as usize }
    }
    fn needs_proposal_log_q(&self) -> bool {
        true
    }
    fn takes_catalogue(&self) -> bool {
        true
    }
    fn takes_resident(&self) -> bool {
        true
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let scoring = choice.scoring()?;
        let rule = Rule {
            beta: self.params.number("beta", choice.epoch),
            n: choice.negatives,
            replace: self.params.flag("replace"),
            draws: Draws::new(choice.seed, Stream::Select, 0, choice.epoch_index),
            row_keys: (&choice.batch.row_keys).into(),
        };
        let mut drawn = match candidates {
            Candidates::Listed(lists) => softmax_draw::of_lists(choice.device, scoring, &lists, &rule)?,
            Candidates::Catalogue => hidden(choice, |hidden| softmax_draw::of_catalogue(choice.device, scoring, hidden, &rule))?,
        };
        if !choice.log_q {
            drawn.forget_log_q();
        }
        Ok(drawn)
    }
}
