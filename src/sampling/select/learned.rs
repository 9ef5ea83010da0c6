//! Vectors that a selection learns by REINFORCE (Williams 1992): the generator's of items, the policy's of entities.
//!
//! ```text
//! v_i  <- v_i + rate G_i / (sqrt(sum over the steps so far of |G_i|^2 / D) + 1e-6)
//! b    <- b + (mean of R - b) / window                                                 the first step's own mean before it
//! ```
//!
//! the first as Adagrad (Duchi et al. 2011) does, here with one square per row. All zero before training; the table, its squares and the baseline are part of a checkpoint.

use crate::error::{Code, Error, Result};
use crate::ops::vector;
use crate::sampling::State;
use crate::sampling::registry::{Form, Param};

/// Below it a gradient is rounding, and Adagrad must not make a step of it.
const EPSILON: f64 = 1e-6;

pub(super) const WINDOW: Param = Param {
    name: "window",
    form: Form::Count { default: 20.0, low: 1.0, high: 1e6, curve: true },
    only_with: None,
    help: "steps over which the baseline of the reward looks back",
};

/// What is learned; empty before the first draw, which knows the sizes.
#[derive(Default)]
pub(super) struct Learned {
    /// v (rows,D)
    pub table: Vec<f32>,
    /// (rows) sum over the steps of |G_i|^2 / D
    squares: Vec<f32>,
    /// b, in as many digits as a checkpoint has; rewards are to have no more, so that what is the same for all is nothing.
    pub baseline: Option<f32>,
}

/// Bytes of `rows` vectors of `dim` numbers, and their squares.
pub(in crate::sampling) fn bytes(rows: usize, dim: usize) -> usize {
    4 * rows * (dim + 1)
}

impl Learned {
    /// Makes `rows` vectors of `dim` numbers for `owner`, or checks them. M0402: restored ones have another shape.
    pub fn fit(&mut self, rows: usize, dim: usize, owner: &str) -> Result<()> {
        if self.table.is_empty() {
            (self.table, self.squares) = (vec![0.0; rows * dim], vec![0.0; rows]);
        }
        match self.table.len() == rows * dim && self.squares.len() == rows {
            true => Ok(()),
            false => Err(Error::new(Code::M0402, format!("the {owner} in the checkpoint is not of this data and model"))),
        }
    }
    /// `R - b` of each reward, 0 where it is no number, and the `b` to follow. Nothing when none is a number.
    pub fn advantages(&self, rewards: &[f64], window: f64) -> Option<(Vec<f64>, f32)> {
        let counted: Vec<f64> = rewards.iter().copied().filter(|r| r.is_finite()).collect();
        if counted.is_empty() {
            return None;
        }
        let mean = counted.iter().sum::<f64>() / counted.len() as f64;
        let baseline = f64::from(self.baseline.unwrap_or(mean as f32));
        let advantages = rewards.iter().map(|r| if r.is_finite() { r - baseline } else { 0.0 }).collect();
        Some((advantages, (baseline + (mean - baseline) / window) as f32))
    }
    /// One step of `row` up its gradient (D), past what is no number.
    pub fn climb(&mut self, row: usize, gradient: &[f32], rate: f64) {
        let dim = gradient.len();
        let square = vector::dot(gradient, gradient) / dim as f32;
        if square > 0.0 && square.is_finite() {
            self.squares[row] += square;
            let step = (rate / (f64::from(self.squares[row]).sqrt() + EPSILON)) as f32;
            vector::axpy(&mut self.table[row * dim..(row + 1) * dim], step, gradient);
        }
    }
    pub fn state(&self, owner: &str) -> Vec<State> {
        let Some(baseline) = self.baseline else { return Vec::new() };
        let (rows, dim) = (self.squares.len(), self.table.len() / self.squares.len().max(1));
        vec![
            State { name: format!("{owner}.table"), shape: vec![rows, dim], values: self.table.clone() },
            State { name: format!("{owner}.squares"), shape: vec![rows], values: self.squares.clone() },
            State { name: format!("{owner}.baseline"), shape: vec![1], values: vec![baseline] },
        ]
    }
    /// What `state` gave. M0402: it does not fit together.
    pub fn restored<'t>(owner: &str, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<Learned> {
        let [table, squares, baseline] =
            ["table", "squares", "baseline"].map(|name| find(&format!("{owner}.{name}")).unwrap_or(&[]));
        let whole = table.len().checked_rem(squares.len()).unwrap_or(table.len()) == 0;
        let sound = |x: &&[f32]| x.iter().all(|x| x.is_finite());
        if !whole
            || baseline.len() > 1
            || table.is_empty() != baseline.is_empty()
            || ![table, squares, baseline].iter().all(sound)
            || squares.iter().any(|s| *s < 0.0)
        {
            return Err(Error::new(Code::M0402, format!("the sampler's {owner} in the checkpoint does not fit together")));
        }
        Ok(Learned { table: table.to_vec(), squares: squares.to_vec(), baseline: baseline.first().copied() })
    }
}
