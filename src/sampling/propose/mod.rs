//! The propose stage: which items may be negatives, and with which probability.
//!
//! A proposal turns uniform words into an item, and answers for *any* item with which probability it would have been drawn.
//! Everything else is shared and lives in `draw.rs`: keys of randomness, exclusion, repetition, the log-probability of what
//! was drawn. A new kind is one file and one line in [`KINDS`].

pub(super) mod attribute_neighbours;
pub(super) mod cluster;
mod draw;
pub(super) mod explicit;
mod graph_walk;
mod in_batch;
mod mixture;
pub(super) mod neighbours;
pub(super) mod one_of_group;
mod popularity;
mod resident;
mod same_attribute;
pub(super) mod transition_neighbours;
mod uniform;
pub(super) mod user_walk;

use std::sync::Arc;

pub use draw::{Rules, propose, rejected};
pub use in_batch::Frequencies;
pub use mixture::Mixture;
pub use resident::propose_there;

use crate::error::Result;
use crate::ops::propose::Law;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::per_epoch::PerEpoch;
use crate::sampling::registry::{Declared, Need, Params, Stage};

/// Where a draw happens: what a law may depend on besides the item.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Time cluster of the event to be predicted; 0 without clusters.
    pub cluster: u32,
    /// The batch's targets; there when a proposal needs them.
    pub batch: Option<&'a Frequencies<'a>>,
    /// The item to be predicted; `ids::NONE` where rows share a draw.
    pub target: u32,
    /// The user of the sequence; `ids::NONE` where sequences share a draw.
    pub user: u32,
    /// The CSR position of the event to be predicted; `u64::MAX` where rows share a draw.
    pub event: u64,
    /// Number of the epoch: where the curves of a law stand, so that a law does not move within an epoch.
    pub epoch: u64,
    /// The law's `visits` of the user, worked out once for all rows of a sequence; there only where probabilities are asked
    /// for, not where items are drawn.
    pub visited: Option<&'a [(u32, f64)]>,
}

/// A law over the training catalogue.
pub trait Propose: Send + Sync {
    /// Uniform 64-bit words one draw consumes: 1 or 2 (a mixture: one more).
    fn words(&self) -> usize;
    /// The item of `self.words()` uniform words.
    fn draw(&self, place: &Place, words: &[u64]) -> u32;
    /// The same law as `kernels/propose.cu` knows it; absent for one that only the host draws from.
    fn twin(&self) -> Option<Law<'_>> {
        None
    }
    /// The probability of `item`, exactly that of `draw`.
    fn prob(&self, place: &Place, item: u32) -> f64;
    /// `1 - sum of prob over excluded` (distinct items), without cancellation.
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64;
    /// The law whose probability is reported of a draw, where that is not this one: the law over all batches of a draw from one.
    fn reported(&self) -> Option<&dyn Propose> {
        None
    }
    /// Whether `Place::batch` must be there.
    fn needs_batch(&self) -> bool {
        false
    }
    /// Whether the law depends on `Place::target`.
    fn needs_target(&self) -> bool {
        false
    }
    /// Whether the law depends on `Place::event`.
    fn needs_event(&self) -> bool {
        false
    }
    /// Whether a row may have nothing to draw although the catalogue has items left.
    fn may_run_dry(&self) -> bool {
        false
    }
    /// Time clusters the law distinguishes; 0 when it needs none.
    fn clusters(&self) -> usize {
        0
    }
    /// What probabilities of a law that walks from the user share: the users it comes to, ascending, and how likely.
    fn visits(&self, _user: u32) -> Option<Vec<(u32, f64)>> {
        None
    }
    /// The only items the law can draw, ascending; `None` when that is no small part of the catalogue.
    fn support(&self, _: &Place) -> Option<Vec<u32>> {
        None
    }
    /// `prob` of each of `items`. Laws whose probabilities share work do it once here.
    fn prob_many(&self, place: &Place, items: &[u32], probs: &mut [f64]) {
        for (prob, &item) in probs.iter_mut().zip(items) {
            *prob = self.prob(place, item);
        }
    }
    /// One draw per element of `items`; `words` holds `items.len() * self.words()`.
    fn draw_many(&self, place: &Place, words: &[u64], items: &mut [u32]) {
        for (item, words) in items.iter_mut().zip(words.chunks_exact(self.words())) {
            *item = self.draw(place, words);
        }
    }
}

/// The law of an epoch.
pub type Proposal = PerEpoch<dyn Propose>;

/// Builds a proposal from checked parameters.
pub type Build = fn(&Params, &Knowledge, &Arc<Catalogue>) -> Result<Proposal>;

/// A kind: how it is built, or `None` for the whole catalogue, which a select stage scans without any draw.
pub struct Entry {
    pub declared: &'static Declared,
    pub build: Option<Build>,
}

/// The registry.
pub const KINDS: &[Entry] = &[
    Entry { declared: &uniform::DECLARED, build: Some(uniform::build) },
    Entry { declared: &popularity::DECLARED, build: Some(popularity::build) },
    Entry { declared: &in_batch::DECLARED, build: Some(in_batch::build) },
    Entry { declared: &cluster::DECLARED, build: Some(cluster::build) },
    Entry { declared: &same_attribute::DECLARED, build: Some(same_attribute::build) },
    Entry { declared: &attribute_neighbours::DECLARED, build: Some(attribute_neighbours::build) },
    Entry { declared: &graph_walk::DECLARED, build: Some(graph_walk::build) },
    Entry { declared: &transition_neighbours::DECLARED, build: Some(transition_neighbours::build) },
    Entry { declared: &user_walk::DECLARED, build: Some(user_walk::build) },
    Entry { declared: &explicit::DECLARED, build: Some(explicit::build) },
    Entry { declared: &CATALOGUE, build: None },
];

pub static CATALOGUE: Declared = Declared {
    stage: Stage::Propose,
    name: "catalogue",
    help: "every item of the training catalogue; the select stage scans them all",
    source: "GenNi (Chen et al., arXiv 2208.03645): the current model's own preference over items",
    params: &[],
    needs: &[Need::Scores],
    cost: "2RVD flops in the select stage",
};
