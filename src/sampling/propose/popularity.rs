//! By popularity in the training part: `P(i) = f_i^alpha / sum`, or the logarithmic forms.
//!
//! ```text
//! power   f^alpha                 alpha = 1: WBPR (Gantner et al. 2012); 0.75: word2vec (Mikolov et al. 2013)
//! log     ln(1 + f)               AdaSIR (Chen et al., WWW 2022)
//! log1p   1 + ln(1 + f)           CaNS (Seol and Choi 2025) without time clusters
//! ```
//!
//! Items without a training event are never drawn, whatever the form. One word and one read per draw (`alias.rs`).

use std::sync::Arc;

use super::{Place, Proposal, Propose};
use crate::error::Result;
use crate::ops::propose::Law;
use crate::sampling::alias::Alias;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Form, Param, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "popularity",
    help: "items in proportion to a power or a logarithm of their training events",
    source: "WBPR (Gantner et al. 2012), word2vec (Mikolov et al. 2013), GRU4Rec (Hidasi and Karatzoglou, CIKM 2018)",
    params: &[
        Param {
            name: "form",
            form: Form::Word { words: &["power", "log", "log1p"] },
            only_with: None,
            help: "power: f^alpha; log: ln(1+f); log1p: 1+ln(1+f)",
        },
        Param {
            name: "alpha",
            form: Form::Number { default: 0.75, low: 0.0, high: 4.0, curve: true },
            only_with: Some(("form", "power")),
            help: "exponent of the power form: 0 is uniform, 1 follows the log; a curve moves from epoch to epoch",
        },
    ],
    needs: &[],
    cost: "RN integer draws and table reads; 16 V bytes",
};

pub fn build(params: &Params, knowledge: &Knowledge, _: &Arc<Catalogue>) -> Result<Proposal> {
    if !params.follows("alpha") {
        return Ok(Proposal::fixed(of(params, knowledge.train_counts, 0)?));
    }
    let (params, counts) = (params.clone(), knowledge.train_counts.to_vec());
    Proposal::new(true, move |epoch| of(&params, &counts, epoch))
}

/// The law of an epoch over items with `counts` training events.
fn of(params: &Params, counts: &[u32], epoch: u64) -> Result<Arc<dyn Propose>> {
    let (form, alpha) = (params.word("form"), params.number("alpha", epoch as f64));
    let weight = |f: u32| {
        let f = f64::from(f);
        match form {
            _ if f == 0.0 => 0.0,
            "log" => f.ln_1p(),
            "log1p" => 1.0 + f.ln_1p(),
            _ => f.powf(alpha),
        }
    };
    Ok(Arc::new(Popularity { alias: Alias::new(counts.iter().map(|&f| weight(f)).collect())? }))
}

/// Items in proportion to their training events.
pub fn by_count(counts: &[u32]) -> Result<Arc<dyn Propose>> {
    Ok(Arc::new(Popularity { alias: Alias::new(counts.iter().map(|&f| f64::from(f)).collect())? }))
}

struct Popularity {
    alias: Alias,
}

impl Propose for Popularity {
    fn words(&self) -> usize {
        1
    }
    #[inline]
    fn draw(&self, _: &Place, words: &[u64]) -> u32 {
        self.alias.draw(words[0])
    }
    fn twin(&self) -> Option<Law<'_>> {
        Some(Law::Fixed(self.alias.twin()))
    }
    fn prob(&self, _: &Place, item: u32) -> f64 {
        self.alias.prob(item)
    }
    fn remaining(&self, _: &Place, excluded: &[u32]) -> f64 {
        self.alias.remaining(excluded.iter().copied())
    }
}
