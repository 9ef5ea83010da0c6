//! Two hops through a knowledge graph: from the target to an entity around it, from there to another item around that entity.
//!
//! With `E_t` the entities one triple away from the target, in either direction and each once (`data/graph.rs`), around which
//! there is another trained item,
//!
//! ```text
//! P(j | t) = 1/|E_t|  sum over e in E_t and E_j of  1 / |{trained j' != t: e in E_j'}|      for trained j != t
//! ```
//!
//! so a negative is the likelier the more entities it shares with the target, and the fewer other items those have. Both hops
//! are uniform and blind to the relation. A target outside the graph, or alone around all its entities, gets the uniform law
//! over the catalogue; one whose relatives are all excluded leaves its slots empty (`one_of_group.rs`). Source: KGPolicy (Wang
//! et al., WWW 2020), where a learned policy chooses both hops among sampled neighbours: the select stage `policy`, for which
//! this law samples the neighbours. What the model's scores do to the candidates (`prune`) is a select stage too.

use std::sync::Arc;

use super::Proposal;
use super::one_of_group::OneOfGroup;
use crate::error::Result;
use crate::sampling::knowledge::{Catalogue, Groups, Knowledge};
use crate::sampling::registry::{Declared, Need, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "graph_walk",
    help: "items two hops from the one to be predicted in a knowledge graph, through an entity both are joined to",
    source: "KGPolicy (Wang et al., WWW 2020), whose walk it takes without the learned policy",
    params: &[],
    needs: &[Need::Graph, Need::Target],
    cost: "per row a search in the items of each entity of the target, then RN integer draws; 16 bytes per (item, entity)",
};

pub fn build(_: &Params, knowledge: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    let groups = Groups::by_entity(knowledge, catalogue, "the proposal `graph_walk`")?;
    Ok(Proposal::fixed(Arc::new(OneOfGroup::new(catalogue, groups, |_| 1))))
}
