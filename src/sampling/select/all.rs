//! Keeps every proposed item: no score is computed.

use super::{Candidates, Choice, Select};
use crate::error::{Error, Result};
use crate::ops::negatives::Negatives;
use crate::sampling::registry::{Declared, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "all",
    help: "keep every proposed item",
    source: "every static sampler",
    params: &[],
    needs: &[],
    cost: "none",
};

pub fn build(_: &Params) -> Box<dyn Select> {
    Box::new(All)
}

struct All;

impl Select for All {
    fn params(&self) -> Option<&Params> {
        None
    }
    fn needs_scores(&self) -> bool {
        false
    }
    fn takes_resident(&self) -> bool {
        true
    }
    fn select(&self, _: &Choice, candidates: Candidates) -> Result<Negatives> {
        match candidates {
            Candidates::Listed(negatives) => Ok(negatives),
            Candidates::Catalogue => Err(Error::internal("the whole catalogue as negatives")),
        }
    }
}
