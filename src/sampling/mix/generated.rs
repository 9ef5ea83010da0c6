//! Adds negatives that are no items: vectors of a network that learns to have them taken for positive. The generator of PURE.
//!
//! With `h_r (D)` the model's query of row `r`, `z (Z)` standard normal, and `a` the row's target vector,
//!
//! ```text
//! u = relu([h_r, z] W1 + b1)        (2D)
//! y = u W2 + b2                     (D)
//! v = |a| y / |y|                   W of them per row; the score the loss sees is h_r . v
//! generator:  least mean over rows and numbers of softplus(-h_r . v),  by Adam on W1, b1, W2, b2
//! ```
//!
//! The model learns to tell `v` from its target, the generator in which direction it is fooled. A fake is as long as the
//! target: a dot product grows with its vectors, and the generator would only learn length. No item is looked up, so the
//! cost does not depend on the catalogue. The network, its moments and its step number are part of a checkpoint; it is decided and
//! trained on the host, whatever the device (`2 R D` numbers are copied back, `R W D` sent). Only dot scores have such negatives.
//! Sources: PURE (Zhou et al., KDD 2021), whose fakes these are, reconstructed: the length is ours, and the generator learns from
//! the very rows the model learns from; Adam (Kingma and Ba, ICLR 2015).

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::Mix;
use crate::device::Buffer;
use crate::error::{Code, Error, Result};
use crate::ops::cost::{Cost, product};
use crate::ops::embedding::{self, Into};
use crate::ops::matmul::{self, Mat};
use crate::ops::negatives::Negatives;
use crate::ops::vector;
use crate::rng::{Draws, Stream, normal2, slot_index};
use crate::sampling::State;
use crate::sampling::knowledge::Knowledge;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};
use crate::sampling::select::Choice;

/// Lane of the noise `z`, and of the first weights.
const NOISE: u8 = 220;
const FIRST: u8 = 221;
const BETA: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

pub static DECLARED: Declared = Declared {
    stage: Stage::Mix,
    name: "generated",
    help: "add negatives that are no items: vectors of a network that learns to have them taken for positive",
    source: "PURE (Zhou et al., KDD 2021), its generator; a reconstruction in which both learn from the same rows",
    params: &[
        Param {
            name: "count",
            form: Form::Count { default: 1.0, low: 1.0, high: 64.0, curve: true },
            only_with: None,
            help: "vectors per row",
        },
        Param {
            name: "noise",
            form: Form::Count { default: 16.0, low: 1.0, high: 1024.0, curve: false },
            only_with: None,
            help: "numbers of noise the network reads beside the query (Z)",
        },
        Param {
            name: "rate",
            form: Form::Number { default: 1e-3, low: 0.0, high: 1.0, curve: true },
            only_with: None,
            help: "learning rate of the network (Adam)",
        },
    ],
    needs: &[Need::Dot, Need::Scores],
    cost: "about 24RWD^2 flops on the host, whatever the catalogue",
};

pub fn build(params: &Params, _: &Knowledge) -> Result<Option<Box<dyn Mix>>> {
    let generated = Generated { params: params.clone(), noise: params.count("noise", 0.0), network: Mutex::default() };
    Ok(Some(Box::new(generated)))
}

struct Generated {
    params: Params,
    noise: usize,
    network: Mutex<Network>,
}

/// The generator; empty before the first draw, which knows `D`.
#[derive(Default)]
struct Network {
    steps: u32,
    /// W1 (D+Z,2D), b1 (2D), W2 (2D,D), b2 (D); and the two moments of each.
    values: [Vec<f32>; 4],
    first: [Vec<f32>; 4],
    second: [Vec<f32>; 4],
}

const NAMES: [&str; 4] = ["w1", "b1", "w2", "b2"];

fn sizes(dim: usize, noise: usize) -> [usize; 4] {
    [(dim + noise) * 2 * dim, 2 * dim, 2 * dim * dim, dim]
}

/// Bytes of the network with both moments, once a draw has said `dim`.
pub(in crate::sampling) fn bytes(params: &Params, dim: usize) -> usize {
    3 * 4 * sizes(dim, params.count("noise", 0.0)).iter().sum::<usize>()
}

/// Of R `rows` with vectors of `dim` D, so many for each as the parameters say at the beginning: the network forward, its gradient, and
/// the lengths, scores and directions of every vector. Weights and both moments are read and written.
pub(in crate::sampling) fn cost(params: &Params, rows: usize, dim: usize) -> Cost {
    let (noise, n) = (params.count("noise", 0.0), rows * params.count("count", 0.0));
    let layers = 2 * product([n, 2 * dim, dim + noise]) + 3 * product([n, dim, 2 * dim]);
    // |a|, |y|, h . v and its gradient; y . y and y . dv again and their difference for the scaling.
    let vectors = 7 * product([n, 1, dim]);
    Cost::new(layers + vectors, 2 * rows * dim + n * dim + 6 * sizes(dim, noise).iter().sum::<usize>())
}

/// What a forward pass keeps for its gradient, over `n = R W` vectors.
struct Pass {
    /// (n,D+Z) query and noise
    input: Vec<f32>,
    /// (n,2D) after the rectifier
    hidden: Vec<f32>,
    /// (n,D) before scaling
    raw: Vec<f32>,
    /// (n) |a| / |y|
    stretch: Vec<f32>,
    /// v (n,D)
    vectors: Vec<f32>,
}

impl Network {
    /// Makes the network for vectors of `dim` numbers, or checks it. M0402: a restored one has another shape.
    fn fit(&mut self, dim: usize, noise: usize, seed: u64) -> Result<()> {
        let sizes = sizes(dim, noise);
        if self.values.iter().all(Vec::is_empty) {
            let draws = Draws::new(seed, Stream::Mix, FIRST, 0);
            let normal = |part: usize, i: usize| normal2(draws.words64((part as u64) << 40 | i as u64))[0];
            // He et al. 2015 before a rectifier, the plain inverse root after it.
            let spread = [(2.0 / (dim + noise) as f64).sqrt(), 0.0, (0.5 / dim as f64).sqrt(), 0.0];
            for part in 0..4 {
                self.values[part] = (0..sizes[part]).map(|i| (spread[part] * normal(part, i)) as f32).collect();
                self.first[part] = vec![0.0; sizes[part]];
                self.second[part] = vec![0.0; sizes[part]];
            }
        }
        let all = || [&self.values, &self.first, &self.second].into_iter().flat_map(|of| of.iter().zip(sizes));
        match all().all(|(x, size)| x.len() == size) {
            true => Ok(()),
            false => Err(Error::new(Code::M0402, "the generator in the checkpoint is not of this model and noise")),
        }
    }

    fn forward(&self, input: Vec<f32>, lengths: &[f32], dim: usize) -> Pass {
        let (n, width) = (lengths.len(), input.len() / lengths.len().max(1));
        let [w1, b1, w2, b2] = &self.values;
        let layer = |x: &[f32], w: &[f32], b: &[f32], k: usize| {
            let mut y = vec![0.0; n * b.len()];
            matmul::rows(&mut y, Mat::new(x, k), Mat::new(w, b.len()), [n, b.len(), k], false);
            y.par_chunks_mut(b.len()).for_each(|y| vector::add(y, b));
            y
        };
        let mut hidden = layer(&input, w1, b1, width);
        hidden.iter_mut().for_each(|x| *x = x.max(0.0));
        let raw = layer(&hidden, w2, b2, 2 * dim);
        let norm = |y: &[f32]| vector::dot(y, y).sqrt();
        let stretch: Vec<f32> =
            raw.chunks_exact(dim).zip(lengths).map(|(y, &length)| if norm(y) > 0.0 { length / norm(y) } else { 0.0 }).collect();
        let mut vectors = raw.clone();
        vectors.chunks_exact_mut(dim).zip(&stretch).for_each(|(v, &by)| vector::scale(v, by));
        Pass { input, hidden, raw, stretch, vectors }
    }

    /// The gradients of the four parts, from those of the vectors `dv (n,D)`.
    fn backward(&self, pass: &Pass, mut dv: Vec<f32>, dim: usize) -> [Vec<f32>; 4] {
        let n = pass.stretch.len();
        // Scaling to a length takes away what points along the vector.
        for ((d, y), &stretch) in dv.chunks_exact_mut(dim).zip(pass.raw.chunks_exact(dim)).zip(&pass.stretch) {
            let square = vector::dot(y, y);
            let along = if square > 0.0 { vector::dot(d, y) / square } else { 0.0 };
            vector::axpy(d, -along, y);
            vector::scale(d, stretch);
        }
        let width = pass.input.len() / n.max(1);
        let mut grads: [Vec<f32>; 4] = std::array::from_fn(|part| vec![0.0; self.values[part].len()]);
        let mut of_hidden = vec![0.0; n * 2 * dim];
        matmul::rows(&mut of_hidden, Mat::new(&dv, dim), Mat::new(&self.values[2], dim).t(), [n, 2 * dim, dim], false);
        of_hidden.iter_mut().zip(&pass.hidden).filter(|(_, x)| **x <= 0.0).for_each(|(d, _)| *d = 0.0);
        matmul::reduce(&mut grads[2], Mat::new(&pass.hidden, 2 * dim).t(), Mat::new(&dv, dim), [2 * dim, dim, n]);
        matmul::reduce(&mut grads[0], Mat::new(&pass.input, width).t(), Mat::new(&of_hidden, 2 * dim), [width, 2 * dim, n]);
        dv.chunks_exact(dim).for_each(|d| vector::add(&mut grads[3], d));
        of_hidden.chunks_exact(2 * dim).for_each(|d| vector::add(&mut grads[1], d));
        grads
    }

    fn learn(&mut self, grads: &[Vec<f32>; 4], rate: f64) {
        self.steps += 1;
        let [one, two] = BETA.map(|beta| 1.0 - beta.powi(self.steps as i32));
        for part in 0..4 {
            let moments = self.first[part].iter_mut().zip(&mut self.second[part]);
            for ((value, (first, second)), &g) in self.values[part].iter_mut().zip(moments).zip(&grads[part]) {
                let g = f64::from(g);
                *first = (BETA[0] * f64::from(*first) + (1.0 - BETA[0]) * g) as f32;
                *second = (BETA[1] * f64::from(*second) + (1.0 - BETA[1]) * g * g) as f32;
                let step = rate * (f64::from(*first) / one) / ((f64::from(*second) / two).sqrt() + EPSILON);
                *value = (f64::from(*value) - step) as f32;
            }
        }
    }
}

fn narrow(x: Vec<f64>) -> Vec<f32> {
    x.into_iter().map(|x| x as f32).collect()
}

impl Mix for Generated {
    fn mix(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()> {
        let (batch, scoring) = (choice.batch, choice.scoring()?);
        let (dim, rows, noise, count) = (scoring.dim, batch.rows(), self.noise, self.generated(choice.epoch));
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        network.fit(dim, noise, choice.seed)?;

        let query = narrow(scoring.query.to_f64(choice.device)?);
        let mut targets = Buffer::empty(choice.device);
        embedding::forward(choice.device, &mut targets, Into::Set, scoring.table, &batch.targets, dim, 1.0)?;
        let targets = narrow(targets.to_f64(choice.device)?);
        let lengths: Vec<f32> = (0..rows * count)
            .map(|n| &targets[n / count * dim..(n / count + 1) * dim])
            .map(|a| vector::dot(a, a).sqrt())
            .collect();
        let draws = Draws::new(choice.seed, Stream::Mix, NOISE, choice.epoch_index);
        let mut input = vec![0.0; rows * count * (dim + noise)];
        input.par_chunks_mut(dim + noise).enumerate().for_each(|(n, input)| {
            let (r, number) = (n / count, n % count);
            input[..dim].copy_from_slice(&query[r * dim..(r + 1) * dim]);
            for (pair, z) in input[dim..].chunks_mut(2).enumerate() {
                let index = slot_index(batch.row_keys[r], number * noise.div_ceil(2) + pair);
                z.iter_mut().zip(normal2(draws.words64(index))).for_each(|(z, x)| *z = x as f32);
            }
        });
        let pass = network.forward(input, &lengths, dim);
        if pass.vectors.iter().any(|x| !x.is_finite()) {
            return Err(Error::new(Code::T0701, "the vectors of the generator are no numbers").help("lower `sampler.mix.rate`"));
        }

        // Down softplus(-h . v), mean over all of them.
        let share = 1.0 / lengths.len().max(1) as f32;
        let mut dv = vec![0.0; pass.vectors.len()];
        dv.par_chunks_mut(dim).zip(pass.vectors.par_chunks(dim)).enumerate().for_each(|(n, (d, v))| {
            let h = &query[n / count * dim..(n / count + 1) * dim];
            vector::axpy(d, -share / (1.0 + vector::dot(h, v).exp()), h);
        });
        let grads = network.backward(&pass, dv, dim);
        network.learn(&grads, self.params.number("rate", choice.epoch));
        negatives.generated = pass.vectors;
        Ok(())
    }
    fn generated(&self, epoch: f64) -> usize {
        self.params.count("count", epoch)
    }
    fn needs_scores(&self) -> bool {
        true
    }
    fn needs_dot(&self) -> bool {
        true
    }

    fn state(&self) -> Vec<State> {
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if network.steps == 0 {
            return Vec::new();
        }
        let mut state = vec![State { name: "generated.steps".into(), shape: vec![1], values: vec![network.steps as f32] }];
        for (kind, of) in [("value", &network.values), ("first", &network.first), ("second", &network.second)] {
            let parts = NAMES.iter().zip(of);
            state.extend(parts.map(|(part, x)| State {
                name: format!("generated.{part}.{kind}"),
                shape: vec![x.len()],
                values: x.clone(),
            }));
        }
        state
    }

    fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        let mut network = Network::default();
        if let Some(steps) = find("generated.steps") {
            let part = |name: &str, kind: &str| find(&format!("generated.{name}.{kind}")).unwrap_or(&[]).to_vec();
            network.values = NAMES.map(|name| part(name, "value"));
            network.first = NAMES.map(|name| part(name, "first"));
            network.second = NAMES.map(|name| part(name, "second"));
            network.steps = steps.first().copied().unwrap_or(0.0) as u32;
            let all = [&network.values, &network.first, &network.second].into_iter().flatten();
            if network.steps == 0 || all.into_iter().any(|x| x.is_empty() || x.iter().any(|x| !x.is_finite())) {
                return Err(Error::new(Code::M0402, "the sampler's generator in the checkpoint does not fit together"));
            }
        }
        *self.network.lock().unwrap_or_else(PoisonError::into_inner) = network;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 4;
    const Z: usize = 3;
    const N: usize = 6;

    fn noise(lane: u8, n: usize) -> Vec<f32> {
        let draws = Draws::new(5, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0] as f32).collect()
    }

    fn network() -> Network {
        let mut network = Network::default();
        network.fit(DIM, Z, 3).unwrap();
        // Biases away from zero, so that they are tested too.
        for part in [1, 3] {
            let size = network.values[part].len();
            network.values[part] = noise(part as u8, size);
        }
        network
    }

    /// The formula of the module's head, one number at a time, in f64.
    fn vectors(values: &[Vec<f64>; 4], input: &[f32], lengths: &[f32]) -> Vec<f64> {
        let [w1, b1, w2, b2] = values;
        let mut all = Vec::new();
        for (x, &length) in input.chunks_exact(DIM + Z).zip(lengths) {
            let u: Vec<f64> = (0..2 * DIM)
                .map(|j| (0..DIM + Z).map(|k| f64::from(x[k]) * w1[k * 2 * DIM + j]).sum::<f64>() + b1[j])
                .map(|u| u.max(0.0))
                .collect();
            let y: Vec<f64> = (0..DIM).map(|j| (0..2 * DIM).map(|k| u[k] * w2[k * DIM + j]).sum::<f64>() + b2[j]).collect();
            let norm = y.iter().map(|y| y * y).sum::<f64>().sqrt();
            all.extend(y.iter().map(|y| f64::from(length) * y / norm));
        }
        all
    }

    #[test]
    fn vectors_are_the_formula_and_gradients_those_of_their_values() {
        let network = network();
        let (input, lengths) = (noise(10, N * (DIM + Z)), [1.0, 0.5, 2.0, 0.0, 3.0, 1.5]);
        let pass = network.forward(input.clone(), &lengths, DIM);
        let values = network.values.clone().map(|part| part.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
        for (got, want) in pass.vectors.iter().zip(vectors(&values, &input, &lengths)) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} for {want}");
        }
        // Some sum of the vectors, by central differences of the formula.
        let pull = noise(11, N * DIM);
        let value = |values: &[Vec<f64>; 4]| -> f64 {
            vectors(values, &input, &lengths).iter().zip(&pull).map(|(v, &d)| v * f64::from(d)).sum()
        };
        let grads = network.backward(&pass, pull.clone(), DIM);
        for part in 0..4 {
            for i in 0..values[part].len() {
                let at = |h: f64| {
                    let mut moved = values.clone();
                    moved[part][i] += h;
                    value(&moved)
                };
                let central = (at(1e-5) - at(-1e-5)) / 2e-5;
                let got = f64::from(grads[part][i]);
                assert!((got - central).abs() < 2e-4 * (1.0 + central.abs()), "{part}, {i}: {got} for {central}");
            }
        }
    }

    /// The first step of Adam goes one rate against the sign of the gradient, whatever its size.
    #[test]
    fn the_first_step_has_the_length_of_the_rate() {
        let mut network = network();
        let before = network.values.clone();
        let grads = network.values.clone().map(|part| part.iter().map(|x| 1e3 * x).collect::<Vec<f32>>());
        network.learn(&grads, 0.01);
        for (old, new) in before.iter().flatten().zip(network.values.iter().flatten()).filter(|(old, _)| **old != 0.0) {
            assert!((old - new - 0.01 * old.signum()).abs() < 1e-5, "{old} to {new}");
        }
    }
}
