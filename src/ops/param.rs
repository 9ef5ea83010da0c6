//! A learned tensor with its gradient: what a model owns, an optimizer updates and a checkpoint stores.

use crate::device::Buffer;

/// What a parameter is, for the optimizer's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A matrix of the network; decayed.
    Matrix,
    /// A bias or a norm's gain; never decayed.
    Vector,
    /// Rows addressed by id (items, positions, categories); decayed only on request, may be updated lazily by row.
    Table,
}

pub struct Param {
    /// Unique, dotted, e.g. `block0.attention.query.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    pub role: Role,
    pub value: Buffer,
    /// Same shape; operations add to it, the step clears it.
    pub grad: Buffer,
}

impl Param {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
