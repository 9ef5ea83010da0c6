//! The model's parameters in one ordered list, created with their initial values.
//!
//! In a machine's memory all but the largest lie side by side, and so do their gradients, by role: what treats them alike, such as an
//! optimizer, needs one launch for a stretch of them and not one for each.

use rayon::prelude::*;

use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::ops::param::{Param, Role};
use crate::rng::{Draws, Stream, normal2};

/// Which linear weights begin with the normal form of Glorot and Bengio 2010 instead of the deviation of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glorot {
    Nowhere,
    /// Those of queries, keys and values.
    IntoAttention,
    Everywhere,
}

/// A parameter of more elements lies alone, so that its values need not be held twice until all are known; a launch of its own costs
/// nothing beside its size.
const LARGE: usize = 1 << 22;

pub struct ParamList {
    device: Device,
    seed: u64,
    std: f64,
    glorot: Glorot,
    pub params: Vec<Param>,
    /// Values of parameters that have no place yet.
    unplaced: Vec<(usize, Vec<f64>)>,
}

impl ParamList {
    /// `std`: deviation of tables, and of linear weights that are not `glorot`.
    pub fn new(device: &Device, seed: u64, std: f64, glorot: Glorot) -> ParamList {
        ParamList { device: device.clone(), seed, std, glorot, params: Vec::new(), unplaced: Vec::new() }
    }
    fn push(&mut self, name: String, shape: Vec<usize>, role: Role, values: Vec<f64>) -> Result<usize> {
        let (number, device) = (self.params.len(), &self.device);
        let [value, grad] = match values.len() > LARGE {
            true => {
                let mut value = Buffer::sized(device, values.len())?;
                value.set(device, &values)?;
                [value, device.zeros(values.len())?]
            }
            false => {
                self.unplaced.push((number, values));
                [Buffer::empty(device), Buffer::empty(device)]
            }
        };
        self.params.push(Param { name, shape, role, value, grad });
        Ok(number)
    }
    /// Gives every parameter its place, once all are known.
    pub fn place(&mut self) -> Result<()> {
        let mut unplaced = std::mem::take(&mut self.unplaced);
        unplaced.sort_by_key(|(number, _)| match self.params[*number].role {
            Role::Table => 0,
            Role::Vector => 1,
            Role::Matrix => 2,
        });
        let sizes: Vec<usize> = unplaced.iter().map(|(_, values)| values.len()).collect();
        let (values, grads) = (Buffer::side_by_side(&self.device, &sizes)?, Buffer::side_by_side(&self.device, &sizes)?);
        for (((number, initial), mut value), grad) in unplaced.into_iter().zip(values).zip(grads) {
            value.set(&self.device, &initial)?;
            (self.params[number].value, self.params[number].grad) = (value, grad);
        }
        Ok(())
    }
    /// Normal values of deviation `std`; element e is a function of (seed, number of the parameter, e).
    fn normals(&self, n: usize, std: f64) -> Vec<f64> {
        let draws = Draws::new(self.seed, Stream::Init, 0, self.params.len() as u64);
        let mut values = vec![0.0; n];
        values.par_chunks_mut(2).enumerate().for_each(|(i, pair)| {
            let two = normal2(draws.words64(i as u64));
            pair.iter_mut().zip(two).for_each(|(v, z)| *v = z * std);
        });
        values
    }
    /// A table of `rows` ids, N(0, std).
    pub fn table(&mut self, name: &str, rows: usize, dim: usize) -> Result<usize> {
        let values = self.normals(rows * dim, self.std);
        self.push(name.into(), vec![rows, dim], Role::Table, values)
    }
    /// `[weight (k,n), bias (n)]`, the bias zero.
    pub fn linear(&mut self, name: &str, k: usize, n: usize) -> Result<[usize; 2]> {
        let wide = match self.glorot {
            Glorot::Nowhere => false,
            Glorot::IntoAttention => name.ends_with(".qkv"),
            Glorot::Everywhere => true,
        };
        let std = if wide { (2.0 / (k + n) as f64).sqrt() } else { self.std };
        let values = self.normals(k * n, std);
        let weight = self.push(format!("{name}.weight"), vec![k, n], Role::Matrix, values)?;
        let bias = self.push(format!("{name}.bias"), vec![n], Role::Vector, vec![0.0; n])?;
        Ok([weight, bias])
    }
    /// `[gain (dim), bias (dim)]`
    pub fn norm(&mut self, name: &str, dim: usize) -> Result<[usize; 2]> {
        let gain = self.push(format!("{name}.gain"), vec![dim], Role::Vector, vec![1.0; dim])?;
        let bias = self.push(format!("{name}.bias"), vec![dim], Role::Vector, vec![0.0; dim])?;
        Ok([gain, bias])
    }
    /// The gradients of all vectors where they lie side by side, and whether there are zeros between them.
    pub fn vector_gradients(&self) -> Result<(Option<Buffer>, bool)> {
        let mut vectors: Vec<&Buffer> = self.params.iter().filter(|p| p.role == Role::Vector).map(|p| &p.grad).collect();
        vectors.sort_by_key(|grad| grad.memory().map_or(0, |memory| memory.address));
        match &vectors[..] {
            [first, .., last] if vectors.windows(2).all(|pair| pair[0].goes_on_in(pair[1])) => {
                Ok((Some(first.through(last)?), vectors.iter().any(|grad| grad.len() % 64 > 0)))
            }
            _ => Ok((None, false)),
        }
    }
    pub fn value(&self, i: usize) -> &Buffer {
        &self.params[i].value
    }
    pub fn grad_mut(&mut self, i: usize) -> &mut Buffer {
        &mut self.params[i].grad
    }
    /// `(w, dw, db)` of a linear layer.
    pub fn linear_parts(&mut self, at: [usize; 2]) -> (&Buffer, &mut Buffer, &mut Buffer) {
        let [w, b] = self.pair(at);
        (&w.value, &mut w.grad, &mut b.grad)
    }
    /// `(gain, dgain, dbias)` of a norm.
    pub fn norm_parts(&mut self, at: [usize; 2]) -> (&Buffer, &mut Buffer, &mut Buffer) {
        self.linear_parts(at)
    }
    /// The two neighbours created by `linear` or `norm`.
    fn pair(&mut self, at: [usize; 2]) -> [&mut Param; 2] {
        let (first, second) = self.params.split_at_mut(at[1]);
        [&mut first[at[0]], &mut second[0]]
    }
}
