//! What an operation does at the least, counted from its shapes: the price every operation states beside its code.
//!
//! ```text
//! flops   of products of vectors and matrices, two per multiplication and addition: 2 m n k for (m,k) (k,n)
//! bytes   every distinct number or id it reads and every one it writes, once, at 4 bytes; what is added to is read and written
//! ```
//!
//! Elementwise arithmetic, exponentials and random words are not counted, nor is scratch that an operation makes and forgets:
//! both figures are floors. A time follows from them and from what a machine reaches (`train/ceilings.rs`). The classical model:
//! Williams, Waterman and Patterson, "Roofline" (CACM 2009).
//!
//! Most operations are far from both ceilings, each for a reason of its own: a norm sums short rows, dropout draws random words,
//! attention multiplies narrow tiles, a sampled loss gathers rows one by one. So a cost also says, for a prediction, how many
//! units of which [`Operation`] it is; what a unit of each takes is measured (`train/prices.rs`).

use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

use serde::{Deserialize, Serialize};

/// What the time of a work goes with where it is at no ceiling, and in which unit it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Plain arithmetic on arrays in their order: bytes.
    Pass,
    /// Products of a linear layer: flops.
    Layer,
    /// Attention: flops of its products.
    Attention,
    /// Layer norm: bytes.
    Norm,
    /// Dropout: elements.
    Dropout,
    /// The activation of the feed-forward layer: bytes.
    Activation,
    /// Rows sorted by id: ids, and rows of the table.
    Group,
    /// The optimizer: bytes.
    Update,
    /// A sampled loss: scores.
    Pairs,
    /// A loss over the whole catalogue: flops.
    Catalogue,
    /// The propose stage: ids, or marks of ids that a row may not have where rows share them.
    Propose,
    /// The stages behind it: scores.
    Select,
}

impl Operation {
    pub const ALL: [Operation; 12] = [
        Operation::Pass,
        Operation::Layer,
        Operation::Attention,
        Operation::Norm,
        Operation::Dropout,
        Operation::Activation,
        Operation::Group,
        Operation::Update,
        Operation::Pairs,
        Operation::Catalogue,
        Operation::Propose,
        Operation::Select,
    ];
}

/// Work of an operation, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub flops: u64,
    pub bytes: u64,
    /// Units of every [`Operation`], in the order of [`Operation::ALL`].
    #[serde(skip)]
    pub units: [u64; Operation::ALL.len()],
}

impl Cost {
    /// `flops`, and so many numbers of 4 bytes moved; a [`Operation::Pass`] until [`Cost::of`] says what it is.
    pub fn new(flops: u64, numbers: usize) -> Cost {
        let bytes = 4 * numbers as u64;
        Cost { flops, bytes, units: [0; Operation::ALL.len()] }.and(Operation::Pass, bytes)
    }
    /// The same work as so many units of `operation` and nothing else.
    pub fn of(self, operation: Operation, units: u64) -> Cost {
        Cost { units: [0; Operation::ALL.len()], ..self }.and(operation, units)
    }
    /// The same work with more units.
    pub fn and(mut self, operation: Operation, units: u64) -> Cost {
        self.units[operation as usize] += units;
        self
    }
    /// Without products.
    pub fn moved(numbers: usize) -> Cost {
        Cost::new(0, numbers)
    }
}

/// Flops of a product (m,k) (k,n); `shape` is `[m, n, k]`.
pub fn product([m, n, k]: [usize; 3]) -> u64 {
    2 * m as u64 * n as u64 * k as u64
}

/// Distinct values among `draws` uniform ones of `of`, in expectation: V (1 - (1 - 1/V)^n). Ids that prefer some items have fewer.
pub fn distinct(draws: usize, of: usize) -> usize {
    let (n, v) = (draws as f64, of as f64);
    if of <= 1 { draws.min(of) } else { (-v * (n * (-1.0 / v).ln_1p()).exp_m1()).round() as usize }
}

/// An operation and its gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub forward: Cost,
    pub backward: Cost,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        let units = std::array::from_fn(|i| self.units[i] + other.units[i]);
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes, units }
    }
}
impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self = *self + other;
    }
}
impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(all: I) -> Cost {
        all.fold(Cost::default(), Cost::add)
    }
}
impl Mul<usize> for Cost {
    type Output = Cost;
    fn mul(self, times: usize) -> Cost {
        let times = times as u64;
        Cost { flops: self.flops * times, bytes: self.bytes * times, units: self.units.map(|units| units * times) }
    }
}
impl Add for Pass {
    type Output = Pass;
    fn add(self, other: Pass) -> Pass {
        Pass { forward: self.forward + other.forward, backward: self.backward + other.backward }
    }
}
impl Sum for Pass {
    fn sum<I: Iterator<Item = Pass>>(all: I) -> Pass {
        all.fold(Pass::default(), Pass::add)
    }
}
impl Mul<usize> for Pass {
    type Output = Pass;
    fn mul(self, times: usize) -> Pass {
        Pass { forward: self.forward * times, backward: self.backward * times }
    }
}

#[cfg(test)]
mod tests {
    use super::distinct;

    #[test]
    fn distinct_draws_are_counted_as_birthdays_are() {
        // 23 people have 22.33 birthdays; a draw has one value, many draws of few values have them all.
        assert_eq!([distinct(23, 365), distinct(365, 365), distinct(1, 7), distinct(10_000, 7)], [22, 231, 1, 7]);
        assert_eq!([distinct(0, 5), distinct(3, 1), distinct(3, 0)], [0, 1, 0]);
    }
}
