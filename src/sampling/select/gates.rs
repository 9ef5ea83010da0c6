//! Takes the candidates in which least of what the user wants is found, by gates that learn to tell it apart: DENS.
//!
//! A gate keeps a share of each number of a vector. With `h` the row's query, `e_p` the vector of its target and `e_n` that of a
//! candidate, neither in context,
//!
//! ```text
//! g_p = sigma(W_i e_p + W_u h + c)              p = h . (e_p * g_p)     p' = h . e_p - p      what is relevant, and the rest
//! g_n = sigma(W_n e_n + W_p (e_p * g_p) + d)    n = h . (e_n * g_n)     n' = h . e_n - n
//! take    the N candidates with the largest   (1 - alpha) h . e_n - n,                        ties to the lower item
//! learn   W <- W - rate G / (sqrt(sum over the steps so far of G^2) + 1e-6),   G the gradient of the mean over what was taken of
//!         1/4 (softplus(p' - p) + softplus(n - n') + softplus(n - p) + softplus(p' - n'))
//! ```
//!
//! so a positive is one by its relevant part, a negative is none by what it lacks of it. Over training `alpha` goes from 0, what
//! scores high by the rest, to 1, what is least relevant. What is kept is certain, so there is no log-probability. Gates begin at
//! one half and are part of a checkpoint. All is decided on the host: the vectors of the batch's different items are copied to it.
//!
//! Source: DENS (Lai et al., WSDM 2023). A reconstruction: there the gates' loss also trains the vectors they look at; here these
//! are given, and the gates learn alone, by Adagrad (Duchi et al. 2011).

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::{CANDIDATES, Candidates, Choice, Select, beside_targets, one_group_per_row, sigmoid, vectors_of};
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::ops::cost::{Cost, product};
use crate::ops::matmul::{self, Mat};
use crate::ops::negatives::Negatives;
use crate::sampling::State;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Below it a gradient is rounding, and Adagrad must not make a step of it.
const EPSILON: f64 = 1e-6;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "gates",
    help: "keep the candidates in which trained gates find least of what is relevant to the user",
    source: "DENS (Lai et al., WSDM 2023), a reconstruction whose gates learn by themselves",
    params: &[
        Param {
            name: "alpha",
            form: Form::Number { default: 0.0, low: 0.0, high: 1.0, curve: true },
            only_with: None,
            help: "0 takes what scores high by what is not relevant, 1 what is least relevant whatever it scores",
        },
        Param {
            name: "rate",
            form: Form::Number { default: 0.01, low: 0.0, high: 10.0, curve: true },
            only_with: None,
            help: "learning rate of the gates (Adagrad)",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "(12R+4RN+2K)D^2 flops for K different items and RMD exponentials, on the host; 32D^2 bytes",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Gates { params: params.clone(), learned: Mutex::default() })
}

struct Gates {
    params: Params,
    learned: Mutex<Learned>,
}

/// What the gates have learned, f32 as a checkpoint stores it; empty before the first draw, which knows `D`.
#[derive(Default)]
struct Learned {
    /// (2,D,2D+1) `[W_i W_u c]` and `[W_n W_p d]`
    weights: Vec<f32>,
    /// (2,D,2D+1) sums over the steps of the squared gradients
    squares: Vec<f32>,
}

/// Weights of two gates over vectors of `dim` numbers.
fn size(dim: usize) -> usize {
    2 * dim * (2 * dim + 1)
}

/// Bytes of what the gates learn, once a draw has said `dim`.
pub(in crate::sampling) fn bytes(dim: usize) -> usize {
    2 * 4 * size(dim)
}

/// Of R `rows`, `m` candidates of each and `n` kept, `different` items K among all of them and the targets, `dim` D: the vectors of
/// gates, the relevant part of every candidate's score beside all of it, and the gradient of both for what is kept.
pub(in crate::sampling) fn cost(rows: usize, m: usize, n: usize, different: usize, dim: usize) -> Cost {
    let (wide, given) = (2 * dim + 1, rows * n);
    let gates = product([rows, dim, wide]) + product([rows, dim, dim + 1]) + product([different, dim, dim]);
    let relevance = 2 * product([rows, m, dim]);
    // Both parts of the scores of a pair and its target; then the weights of either gate, and what the positives' pass on.
    let slopes = 4 * product([rows, n, dim]);
    let gradient = product([dim, wide, given]) + product([rows, dim, dim]) + product([dim, wide, rows]);
    let moved = (different + rows) * dim + rows * (m + 1 + n) + 4 * size(dim);
    Cost::new(gates + relevance + slopes + gradient, moved)
}

impl Learned {
    /// Makes the gates for vectors of `dim` numbers, or checks them. M0402: restored ones have another size.
    fn fit(&mut self, dim: usize) -> Result<()> {
        if self.weights.is_empty() {
            (self.weights, self.squares) = (vec![0.0; size(dim)], vec![0.0; size(dim)]);
        }
        match self.weights.len() == size(dim) {
            true => Ok(()),
            false => Err(Error::new(Code::M0402, "the gates in the checkpoint are not of this model")),
        }
    }
    /// One step down the gradient, past what is no number.
    fn step(&mut self, gradient: &[f64], rate: f64) {
        for ((w, squares), g) in self.weights.iter_mut().zip(&mut self.squares).zip(gradient) {
            if g.is_finite() && g * g > 0.0 {
                *squares += (g * g) as f32;
                *w -= (rate * g / (f64::from(*squares).sqrt() + EPSILON)) as f32;
            }
        }
    }
}

/// The gates over the rows of a batch and its different items.
struct View<'a> {
    dim: usize,
    /// h (R,D)
    query: &'a [f64],
    /// e (K,D)
    vectors: &'a [f64],
    /// (2,D,2D+1)
    weights: &'a [f64],
    /// [e_p h 1] (R,2D+1)
    of_positive: Vec<f64>,
    /// g_p (R,D)
    gate: Vec<f64>,
    /// [e_p * g_p, 1] (R,D+1)
    relevant: Vec<f64>,
    /// W_p (e_p * g_p) + d (R,D)
    base: Vec<f64>,
    /// W_n e (K,D)
    mapped: Vec<f64>,
}

impl<'a> View<'a> {
    /// `targets (R)` are places among the `vectors`.
    fn new(weights: &'a [f64], query: &'a [f64], vectors: &'a [f64], targets: &[usize], dim: usize) -> View<'a> {
        let (rows, wide) = (targets.len(), 2 * dim + 1);
        let vector = |place: usize| &vectors[place * dim..(place + 1) * dim];
        let mut of_positive = Vec::with_capacity(rows * wide);
        for (&target, h) in targets.iter().zip(query.chunks_exact(dim)) {
            [vector(target), h, &[1.0]].into_iter().for_each(|part| of_positive.extend_from_slice(part));
        }
        let (positive, negative) = weights.split_at(dim * wide);
        let mut gate = vec![0.0; rows * dim];
        matmul::rows(&mut gate, Mat::new(&of_positive, wide), Mat::new(positive, wide).t(), [rows, dim, wide], false);
        gate.par_iter_mut().for_each(|g| *g = sigmoid(*g));
        let mut relevant = Vec::with_capacity(rows * (dim + 1));
        for (g, e) in gate.chunks_exact(dim).zip(of_positive.chunks_exact(wide)) {
            relevant.extend(g.iter().zip(e).map(|(g, e)| g * e).chain([1.0]));
        }
        let (mut base, mut mapped) = (vec![0.0; rows * dim], vec![0.0; vectors.len()]);
        let of_relevant = Mat::new(negative, wide).from_column(dim).t();
        matmul::rows(&mut base, Mat::new(&relevant, dim + 1), of_relevant, [rows, dim, dim + 1], false);
        let items = vectors.len() / dim;
        matmul::rows(&mut mapped, Mat::new(vectors, dim), Mat::new(negative, wide).t(), [items, dim, dim], false);
        View { dim, query, vectors, weights, of_positive, gate, relevant, base, mapped }
    }
    fn of<'v>(&self, values: &'v [f64], at: usize) -> &'v [f64] {
        &values[at * self.dim..(at + 1) * self.dim]
    }
    /// g_n (D) of the item at `place` for `row`.
    fn gate_of(&self, row: usize, place: usize) -> impl Iterator<Item = f64> {
        self.of(&self.mapped, place).iter().zip(self.of(&self.base, row)).map(|(m, b)| sigmoid(m + b))
    }
    /// n, and h . e_n.
    fn relevance(&self, row: usize, place: usize) -> (f64, f64) {
        let products = self.of(self.query, row).iter().zip(self.of(self.vectors, place)).map(|(h, e)| h * e);
        products.zip(self.gate_of(row, place)).fold((0.0, 0.0), |(n, all), (x, g)| (n + g * x, all + x))
    }
    /// p and p'.
    fn of_target(&self, row: usize) -> (f64, f64) {
        let products = self.of(self.query, row).iter().zip(&self.of_positive[row * (2 * self.dim + 1)..]).map(|(h, e)| h * e);
        products.zip(self.of(&self.gate, row)).fold((0.0, 0.0), |(p, rest), (x, g)| (p + g * x, rest + (1.0 - g) * x))
    }

    /// d/d weights (2,D,2D+1) of the mean loss over `pairs` of a row and a place.
    fn gradient(&self, pairs: &[(usize, usize)]) -> Vec<f64> {
        let (dim, wide, rows) = (self.dim, 2 * self.dim + 1, self.gate.len() / self.dim);
        let share = 0.25 / pairs.len() as f64;
        // What moves the negatives' gates before the sigmoid (pairs,D) and the positives' relevant scores.
        let slopes = |(moved, &(row, place)): (&mut [f64], &(usize, usize))| {
            let ((n, all), (p, rest_p)) = (self.relevance(row, place), self.of_target(row));
            let rest_n = all - n;
            let crossed = sigmoid(n - p) + sigmoid(rest_p - rest_n);
            let of_n = share * (2.0 * sigmoid(n - rest_n) + crossed);
            let (h, e) = (self.of(self.query, row), self.of(self.vectors, place));
            let parts = self.gate_of(row, place).zip(h.iter().zip(e));
            moved.iter_mut().zip(parts).for_each(|(moved, (g, (h, e)))| *moved = of_n * h * e * g * (1.0 - g));
            -share * (2.0 * sigmoid(rest_p - p) + crossed)
        };
        let mut moved = vec![0.0; pairs.len() * dim];
        let of_p: Vec<f64> = moved.par_chunks_exact_mut(dim).zip(pairs).map(slopes).collect();
        let (mut of_rows, mut of_targets) = (vec![0.0; rows * dim], vec![0.0; rows]);
        for ((&(row, _), moved), of_p) in pairs.iter().zip(moved.chunks_exact(dim)).zip(of_p) {
            of_rows[row * dim..(row + 1) * dim].iter_mut().zip(moved).for_each(|(sum, x)| *sum += x);
            of_targets[row] += of_p;
        }
        let mut gradient = vec![0.0; size(dim)];
        let (positive, negative) = gradient.split_at_mut(dim * wide);
        let mut seen = Vec::with_capacity(pairs.len() * wide);
        for &(row, place) in pairs {
            seen.extend_from_slice(self.of(self.vectors, place));
            seen.extend_from_slice(&self.relevant[row * (dim + 1)..(row + 1) * (dim + 1)]);
        }
        matmul::reduce(negative, Mat::new(&moved, dim).t(), Mat::new(&seen, wide), [dim, wide, pairs.len()]);
        // The relevant part is what the negatives' gates look at.
        let mut back = vec![0.0; rows * dim];
        let of_relevant = Mat::new(&self.weights[dim * wide..], wide).from_column(dim);
        matmul::rows(&mut back, Mat::new(&of_rows, dim), of_relevant, [rows, dim, dim], false);
        for (at, (back, g)) in back.iter_mut().zip(&self.gate).enumerate() {
            let (row, d) = (at / dim, at % dim);
            let e = self.of_positive[row * wide + d];
            *back = (*back + of_targets[row] * self.query[at]) * e * g * (1.0 - g);
        }
        matmul::reduce(positive, Mat::new(&back, dim).t(), Mat::new(&self.of_positive, wide), [dim, wide, rows]);
        gradient
    }
}

impl Select for Gates {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let Candidates::Listed(lists) = candidates else {
            return Err(Error::internal("gates choose from proposed items only"));
        };
        let (batch, scoring, n, dim) = (choice.batch, choice.scoring()?, choice.negatives, choice.scoring()?.dim);
        let (ids, width) = beside_targets(batch, &lists);
        let ((items, vectors), query) = (vectors_of(choice, &ids)?, scoring.query.to_f64(choice.device)?);
        let place = |item: u32| items.partition_point(|&other| other < item);
        let targets: Vec<usize> = batch.targets.iter().map(|&target| place(target)).collect();

        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.fit(dim)?;
        let weights: Vec<f64> = learned.weights.iter().map(|&w| f64::from(w)).collect();
        let view = View::new(&weights, &query, &vectors, &targets, dim);
        let keeps = 1.0 - self.params.number("alpha", choice.epoch);
        let mut taken = vec![NONE; batch.rows() * n];
        taken.par_chunks_exact_mut(n).zip(ids.par_chunks_exact(width)).enumerate().for_each(|(row, (taken, ids))| {
            let mut own: Vec<u32> = ids[1..].iter().copied().filter(|&item| item != NONE).collect();
            own.sort_unstable();
            own.dedup();
            let key = |&item: &u32| {
                let (relevant, all) = view.relevance(row, place(item));
                let key = keeps * all - relevant;
                if key.is_nan() { f64::NEG_INFINITY } else { key }
            };
            let mut ranked: Vec<(f64, u32)> = own.iter().map(|item| (key(item), *item)).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            taken.iter_mut().zip(ranked).for_each(|(slot, (_, item))| *slot = item);
        });
        let mut pairs = Vec::with_capacity(taken.len());
        pairs.extend(taken.iter().enumerate().filter(|(_, item)| **item != NONE).map(|(at, &item)| (at / n, place(item))));
        if !pairs.is_empty() {
            learned.step(&view.gradient(&pairs), self.params.number("rate", choice.epoch));
        }
        Ok(one_group_per_row(choice, taken, Vec::new()))
    }

    fn state(&self) -> Vec<State> {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.weights.is_empty() {
            return Vec::new();
        }
        let shape = vec![learned.weights.len()];
        vec![
            State { name: "gates.weights".into(), shape: shape.clone(), values: learned.weights.clone() },
            State { name: "gates.squares".into(), shape, values: learned.squares.clone() },
        ]
    }

    fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        let [weights, squares] = ["weights", "squares"].map(|name| find(&format!("gates.{name}")).unwrap_or(&[]));
        let sound = weights.iter().all(|w| w.is_finite()) && squares.iter().all(|s| s.is_finite() && *s >= 0.0);
        if weights.len() != squares.len() || !sound {
            return Err(Error::new(Code::M0402, "the sampler's gates in the checkpoint do not fit together"));
        }
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) =
            Learned { weights: weights.to_vec(), squares: squares.to_vec() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Real;
    use crate::rng::{Draws, Stream, normal2};

    /// The loss of one pair by the formula, number by number.
    fn loss(w: &[f64], h: &[f64], p: &[f64], n: &[f64]) -> f64 {
        let (dim, wide) = (h.len(), 2 * h.len() + 1);
        let affine = |gate: usize, d: usize, a: &[f64], b: &[f64]| {
            let w = &w[(gate * dim + d) * wide..];
            w[2 * dim] + (0..dim).map(|j| w[j] * a[j] + w[dim + j] * b[j]).sum::<f64>()
        };
        let kept: Vec<f64> = (0..dim).map(|d| p[d] * sigmoid(affine(0, d, p, h))).collect();
        let of_n: Vec<f64> = (0..dim).map(|d| n[d] * sigmoid(affine(1, d, n, &kept))).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (rp, rn) = (dot(h, &kept), dot(h, &of_n));
        let (ip, im) = (dot(h, p) - rp, dot(h, n) - rn);
        0.25 * ((ip - rp).softplus() + (rn - im).softplus() + (rn - rp).softplus() + (ip - im).softplus())
    }

    #[test]
    fn the_gradient_is_that_of_the_formula() {
        const D: usize = 3;
        let noise = |lane: u8, n: usize| -> Vec<f64> {
            let draws = Draws::new(3, Stream::Test, lane, 0);
            (0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect()
        };
        let (w, h, e) = (noise(0, size(D)), noise(1, 4 * D), noise(2, 6 * D));
        // A row without a pair, one with two, and an item that is a target and a negative.
        let (targets, pairs) = ([5, 0, 1, 2], [(0, 1), (0, 3), (1, 3), (3, 4)]);
        let of = |values: &[f64], at: usize| values[at * D..(at + 1) * D].to_vec();
        let mean = |w: &[f64]| {
            let of_pair = |&(r, place): &(usize, usize)| loss(w, &of(&h, r), &of(&e, targets[r]), &of(&e, place));
            pairs.iter().map(of_pair).sum::<f64>() / pairs.len() as f64
        };
        let got = View::new(&w, &h, &e, &targets, D).gradient(&pairs);
        for at in 0..size(D) {
            let nudged = |by: f64| {
                let mut w = w.clone();
                w[at] += by;
                mean(&w)
            };
            let central = (nudged(1e-5) - nudged(-1e-5)) / 2e-5;
            assert!((got[at] - central).abs() < 1e-9, "{at}: {} against {central}", got[at]);
        }
        assert!(got.iter().filter(|g| g.abs() > 1e-4).count() > size(D) / 2);
    }
}
