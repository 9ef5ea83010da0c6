//! The mix stage: which vector stands for the negative?
//!
//! `item` leaves the negatives as they are. `wrong_context` adds, for each row, its own target under the context of another
//! training event. `interpolate` moves every negative towards the positive. `generated` adds vectors that are no items. A new kind is
//! one file and one line in [`KINDS`].

pub(super) mod generated;
mod interpolate;
mod wrong_context;

use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::sampling::State;
use crate::sampling::knowledge::Knowledge;
use crate::sampling::registry::{Declared, Params, Stage};
use crate::sampling::select::Choice;

/// What becomes of the negatives that were kept. Their lists may lie in a machine's memory: a mix adds to them and reads none.
pub trait Mix: Send + Sync {
    fn mix(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()>;
    /// Wrong contexts it adds to every row at `epoch`, W.
    fn wrong_contexts(&self, _epoch: f64) -> usize {
        0
    }
    /// Vectors that are no items it adds to every row at `epoch`.
    fn generated(&self, _epoch: f64) -> usize {
        0
    }
    /// Whether the current model's scores are needed.
    fn needs_scores(&self) -> bool {
        false
    }
    /// Whether the mixed vector has a score only where scores are linear in the item.
    fn needs_dot(&self) -> bool {
        false
    }
    /// What it remembers from draw to draw, for a checkpoint.
    fn state(&self) -> Vec<State> {
        Vec::new()
    }
    /// Takes back what `state` gave; nothing found means nothing remembered.
    fn restore<'t>(&self, _find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        Ok(())
    }
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
    Entry { declared: &generated::DECLARED, build: generated::build },
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
