//! Uniform over the training catalogue.
//!
//! A 64-bit word times the catalogue's size, upper half: every item's probability is `1/T` to one part in `2^64/T`, and every
//! item of any catalogue is reachable. (A scaled f32 cannot reach two thirds of fifty million items.)

use std::sync::Arc;

use super::{Place, Proposal, Propose};
use crate::error::Result;
use crate::ops::propose::Law;
use crate::rng::below;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "uniform",
    help: "every item of the training catalogue with the same probability",
    source: "BPR (Rendle et al., UAI 2009); SASRec (Kang and McAuley, ICDM 2018)",
    params: &[],
    needs: &[],
    cost: "RN integer draws",
};

pub fn build(_: &Params, _: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    Ok(Proposal::fixed(Arc::new(Uniform::new(catalogue))))
}

pub struct Uniform {
    catalogue: Arc<Catalogue>,
}

impl Uniform {
    pub fn new(catalogue: &Arc<Catalogue>) -> Uniform {
        Uniform { catalogue: catalogue.clone() }
    }
}

impl Propose for Uniform {
    fn words(&self) -> usize {
        1
    }
    #[inline]
    fn draw(&self, _: &Place, words: &[u64]) -> u32 {
        self.catalogue.item(below(words[0], self.catalogue.len() as u64) as u32)
    }
    fn twin(&self) -> Option<Law<'_>> {
        Some(Law::Uniform)
    }
    fn prob(&self, _: &Place, item: u32) -> f64 {
        if self.catalogue.contains(item) { 1.0 / self.catalogue.len() as f64 } else { 0.0 }
    }
    fn remaining(&self, _: &Place, excluded: &[u32]) -> f64 {
        let gone = excluded.iter().filter(|&&i| self.catalogue.contains(i)).count();
        (self.catalogue.len() - gone) as f64 / self.catalogue.len() as f64
    }
}
