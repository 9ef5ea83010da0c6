//! The mix stage: which vector stands for the negative?
//!
//! `item` leaves the negatives as they are. `wrong_context` adds, for each row, its own target under the context of another
//! training event. `interpolate` moves every negative towards the positive. A new kind is one file and one line in [`KINDS`].

mod interpolate;
mod wrong_context;

use crate::data::batch::Batch;
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::sampling::knowledge::Knowledge;
use crate::sampling::registry::{Declared, Params, Stage};

/// What becomes of the negatives that were kept.
pub trait Mix: Send + Sync {
    fn mix(&self, negatives: &mut Negatives, batch: &Batch, moment: &Moment) -> Result<()>;
    /// Negatives it adds to every row, W.
    fn wrong_contexts(&self) -> usize {
        0
    }
    /// Whether the mixed vector has a score only where scores are linear in the item.
    fn needs_dot(&self) -> bool {
        false
    }
}

/// The keys of its draws, and where curves stand.
pub struct Moment {
    pub seed: u64,
    pub epoch: f64,
    pub epoch_index: u64,
}

/// A kind; `item` builds nothing.
pub struct Entry {
    pub declared: &'static Declared,
    pub build: fn(&Params, &Knowledge) -> Result<Option<Box<dyn Mix>>>,
}

/// The registry.
pub const KINDS: &[Entry] = &[
    Entry { declared: &ITEM, build: |_, _| Ok(None) },
    Entry { declared: &wrong_context::DECLARED, build: wrong_context::build },
    Entry { declared: &interpolate::DECLARED, build: interpolate::build },
];

pub static ITEM: Declared = Declared {
    stage: Stage::Mix,
    name: "item",
    help: "the negative is the item, under the context of the event to be predicted",
    source: "every sampler of items",
    params: &[],
    needs: &[],
    cost: "none",
};
