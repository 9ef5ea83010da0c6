//! Lets the hardness follow the positive: the better the model knows the positive, the easier its negatives.
//!
//! ```text
//! keep the N candidates with the smallest  | s_n - beta (s+ + alpha)^(p + 1) |        ties to the higher score
//! ```
//!
//! With the published `p = -2` the wanted score is `beta / (s+ + alpha)`. Where `s+ + alpha` is not above [`LEAST`] the power has
//! no meaning, and the wanted score is that at `LEAST`: the hardest candidates. Source: AHNS (Lai et al., AAAI 2024); the clamp is
//! ours.

use super::{CANDIDATES, Candidates, Choice, Select, choose_ranked, places_by_key};
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// The smallest `s+ + alpha` that is raised to a power.
const LEAST: f64 = 1e-2;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "adaptive",
    help: "keep the candidates whose score is nearest to one that falls as the positive's score rises",
    source: "AHNS (Lai et al., AAAI 2024)",
    params: &[
        Param {
            name: "alpha",
            form: Form::Number { default: 1.0, low: -1e4, high: 1e4, curve: true },
            only_with: None,
            help: "added to the positive's score",
        },
        Param {
            name: "beta",
            form: Form::Number { default: 0.1, low: 0.0, high: 1e4, curve: true },
            only_with: None,
            help: "how hard negatives are at s+ + alpha = 1",
        },
        Param {
            name: "power",
            form: Form::Number { default: -2.0, low: -8.0, high: 8.0, curve: true },
            only_with: None,
            help: "p: how steeply hardness follows the positive; below -1 it falls",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "2RMD flops, a sort of M per row",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Adaptive { params: params.clone() })
}

struct Adaptive {
    params: Params,
}

impl Select for Adaptive {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let of = |name: &str| self.params.number(name, choice.epoch);
        let (alpha, beta, power) = (of("alpha"), of("beta"), of("power"));
        choose_ranked(choice, candidates, |row| {
            let wanted = beta * (row.positive + alpha).max(LEAST).powf(power + 1.0);
            let keys: Vec<f64> = row.ranked.iter().map(|(_, s)| -(s - wanted).abs()).collect();
            places_by_key(&keys, choice.negatives)
        })
    }
}
