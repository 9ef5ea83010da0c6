//! The model's parameters in one ordered list, created with their initial values.

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

pub struct ParamList {
    device: Device,
    seed: u64,
    std: f64,
    glorot: Glorot,
    pub params: Vec<Param>,
}

impl ParamList {
    /// `std`: deviation of tables, and of linear weights that are not `glorot`.
    pub fn new(device: &Device, seed: u64, std: f64, glorot: Glorot) -> ParamList {
        ParamList { device: device.clone(), seed, std, glorot, params: Vec::new() }
    }
    fn push(&mut self, name: String, shape: Vec<usize>, role: Role, values: &[f64]) -> Result<usize> {
        let value = self.device.reals(values)?;
        let grad = self.device.zeros(values.len())?;
        self.params.push(Param { name, shape, role, value, grad });
        Ok(self.params.len() - 1)
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
        self.push(name.into(), vec![rows, dim], Role::Table, &values)
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
        let weight = self.push(format!("{name}.weight"), vec![k, n], Role::Matrix, &values)?;
        let bias = self.push(format!("{name}.bias"), vec![n], Role::Vector, &vec![0.0; n])?;
        Ok([weight, bias])
    }
    /// `[gain (dim), bias (dim)]`
    pub fn norm(&mut self, name: &str, dim: usize) -> Result<[usize; 2]> {
        let gain = self.push(format!("{name}.gain"), vec![dim], Role::Vector, &vec![1.0; dim])?;
        let bias = self.push(format!("{name}.bias"), vec![dim], Role::Vector, &vec![0.0; dim])?;
        Ok([gain, bias])
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
