//! Items that share an attribute with the target: its own category, brand or price band.
//!
//! With `A_t` the target's attributes that some other trained item carries too, and `f` one or the training events,
//!
//! ```text
//! P(j | t) = 1/|A_t|  sum over c in A_t and A_j of  f_j / sum over j' != t carrying c of f_j'      for trained j != t
//! ```
//!
//! that is: one of the attributes, then one of its other items (`one_of_group.rs`). A target without attributes, or alone with
//! all of them, gets the uniform law over the catalogue; one whose relatives are all excluded leaves its slots empty. Sources:
//! IntentGC (Zhao et al., KDD 2019); "same-category" negatives of the surveys.

use std::sync::Arc;

use super::Proposal;
use super::one_of_group::OneOfGroup;
use crate::error::Result;
use crate::sampling::knowledge::{Catalogue, Groups, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "same_attribute",
    help: "items that share an attribute with the one to be predicted",
    source: "IntentGC (Zhao et al., KDD 2019), from whose similar-category negatives it takes the idea",
    params: &[Param {
        name: "items",
        form: Form::Word { words: &["uniform", "popularity"] },
        only_with: None,
        help: "how an item of the attribute is drawn: all alike, or in proportion to training events",
    }],
    needs: &[Need::Attributes, Need::Target],
    cost: "RN integer draws and binary searches in the attribute's items; 16 bytes per (item, attribute)",
};

pub fn build(params: &Params, knowledge: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    let groups = Groups::by_attribute(knowledge, catalogue, "the proposal `same_attribute`")?;
    let popular = params.word("items") == "popularity";
    let weight = |item: u32| if popular { u64::from(knowledge.train_counts[item as usize]) } else { 1 };
    Ok(Proposal::fixed(Arc::new(OneOfGroup::new(catalogue, groups, weight))))
}
