//! Keeps the highest-scored of the proposed items: dynamic negative sampling.
//!
//! `M` candidates are proposed, the `N` with the highest scores under the current model are kept (ties to the lower item, each
//! item once). With the proposal `catalogue` the whole training catalogue is scanned. What is kept is certain given the
//! candidates, so there is no log-probability.

use super::{Candidates, Choice, Select, hidden};
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::ops::score_topk;
use crate::sampling::registry::{Declared, Need, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "top_k",
    help: "keep the candidates the current model scores highest",
    source: "DNS (Zhang et al., SIGIR 2013); DNS(M,N) (Shi et al., WWW 2023)",
    params: &[super::CANDIDATES],
    needs: &[Need::Scores],
    cost: "2RMD flops",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(TopK { params: params.clone() })
}

struct TopK {
    params: Params,
}

impl Select for TopK {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn takes_catalogue(&self) -> bool {
        true
    }
    fn takes_resident(&self) -> bool {
        true
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let (k, scoring) = (choice.negatives, choice.scoring()?);
        match candidates {
            Candidates::Listed(lists) => score_topk::of_lists(choice.device, scoring, &lists, k),
            Candidates::Catalogue => hidden(choice, |hidden| score_topk::of_catalogue(choice.device, scoring, hidden, k)),
        }
    }
}
