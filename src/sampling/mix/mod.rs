//! The mix stage: which vector stands for the negative?
//!
//! `item` leaves the negatives as they are. `wrong_context` adds, for each row, its own target under the context of another
//! training event. A new kind is one file and one line in [`KINDS`].

mod wrong_context;

pub use wrong_context::WrongContext;

use crate::error::Result;
use crate::sampling::knowledge::Knowledge;
use crate::sampling::registry::{Declared, Params, Stage};

/// A kind; `item` builds nothing.
pub struct Entry {
    pub declared: &'static Declared,
    pub build: fn(&Params, &Knowledge) -> Result<Option<WrongContext>>,
}

/// The registry.
pub const KINDS: &[Entry] = &[
    Entry { declared: &ITEM, build: |_, _| Ok(None) },
    Entry { declared: &wrong_context::DECLARED, build: |params, knowledge| WrongContext::new(params, knowledge).map(Some) },
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
