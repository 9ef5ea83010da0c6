//! Dropout by counter: `y[e] = keep[e] / (1 - p) * x[e]`, where `keep` is a function of (seed, site, step, element).
//!
//! No mask is stored: the backward pass draws the same bits again. One Philox call decides eight elements by 16 bits each,
//! so the probability is p rounded to 1/65,536. Source: Srivastava et al., JMLR 2014 (inverted form).

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::column_sum::{self, CHUNK, Sums};
use crate::ops::cost::{Cost, Operation, Pass};
use crate::ops::vector;
use crate::rng::{Draws, Stream};

/// Elements per parallel task; a multiple of 64 so that tasks start at whole blocks of draws.
const TASK: usize = 16 * 1024;

/// One place of a network where elements are dropped, at one training step.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    draws: Draws,
    /// Drop where 16 random bits are below this.
    threshold: u32,
    /// 1 / (1 - p), with p as rounded.
    pub scale: f64,
}

impl Dropout {
    /// `site` numbers the places of the network; `probability` in [0, 1).
    pub fn new(probability: f64, seed: u64, site: u8, step: u64) -> Dropout {
        let threshold = ((probability * 65536.0).round() as u32).min(65535);
        let scale = 1.0 / (1.0 - f64::from(threshold) / 65536.0);
        Dropout { draws: Draws::new(seed, Stream::Dropout, site, step), threshold, scale }
    }
    /// What a kernel is told, `DROPOUT_PARAMETERS` of kernels/dropout.cuh; without dropout it is compiled not to look.
    pub fn arguments(dropout: Option<&Dropout>) -> [Arg<'static>; 6] {
        let ([key0, key1, word2, word3], threshold, scale) =
            dropout.map_or(([0; 4], 0, 1.0), |d| (d.draws.fields(), d.threshold, d.scale));
        [Arg::U32(key0), Arg::U32(key1), Arg::U32(word2), Arg::U32(word3), Arg::U32(threshold), Arg::F32(scale as f32)]
    }
    /// 64 factors, 0 or `scale`, of the elements `64 block .. 64 block + 64`.
    #[inline(always)]
    pub fn factors<T: Real>(&self, block: u64) -> [T; 64] {
        let words = self.draws.words_by8(block * 8);
        let scale = T::from_f64(self.scale);
        let mut factors = [T::ZERO; 64];
        for w in 0..4 {
            for i in 0..8 {
                let bits = words[w][i];
                factors[w * 16 + i] = if bits & 0xffff < self.threshold { T::ZERO } else { scale };
                factors[w * 16 + 8 + i] = if bits >> 16 < self.threshold { T::ZERO } else { scale };
            }
        }
        factors
    }
}

/// `y = x * factors`, or `y = x` without dropout. `x`, `y` hold n elements.
pub fn forward(device: &Device, y: &mut Buffer, x: &Buffer, dropout: Option<&Dropout>) -> Result<()> {
    y.resize(device, x.len())?;
    dispatch!(device, T => { scale::<T>(T::of_mut(y)?, T::of(x)?, dropout); Ok(()) },
        runtime => launch(&**runtime, "dropout_fwd", y, &[x], dropout))
}

/// `out = x + dropout(branch)`: the residual connection of every sub-layer. All hold n elements.
pub fn residual(device: &Device, out: &mut Buffer, x: &Buffer, branch: &Buffer, dropout: Option<&Dropout>) -> Result<()> {
    out.resize(device, x.len())?;
    dispatch!(device, T => { add::<T>(T::of_mut(out)?, T::of(x)?, T::of(branch)?, dropout); Ok(()) },
        runtime => launch(&**runtime, "dropout_residual", out, &[x, branch], dropout))
}

/// Widths of rows that a whole number of them fills a block of threads, so that a thread stays in its columns or a row in registers.
pub const KEPT: [usize; 3] = [64, 128, 256];

/// `dx = dropout(dy)` of rows, and `db += sum over rows of dx` for the bias they were given before, once `sums` are finished.
pub fn backward_with_bias(
    device: &Device,
    sums: &mut Sums,
    dx: &mut Buffer,
    db: &mut Buffer,
    dy: &Buffer,
    dropout: Option<&Dropout>,
) -> Result<()> {
    let n = db.len();
    let rows = dy.len().checked_div(n).unwrap_or(0);
    if let (Device::Machine(runtime), true) = (device, KEPT.contains(&n))
        && let Some(([mut to], stride)) = sums.places([&*db], rows.div_ceil(CHUNK), n)
    {
        dx.resize(device, dy.len())?;
        let defines = [("D", n as i64), ("DROP", i64::from(dropout.is_some()))];
        let mut args = vec![Arg::Out(dx), Arg::Out(&mut to), Arg::In(dy)];
        args.extend([rows, stride].map(|x| Arg::U32(x as u32)));
        args.extend(Dropout::arguments(dropout));
        let kernel = Kernel::new("dropout", "dropout_bwd_sum", &defines);
        return runtime.launch(&kernel, Grid::row(rows.div_ceil(CHUNK), 256), &mut args);
    }
    forward(device, dx, dy, dropout)?;
    sums.add(device, db, dx, n)
}

/// [`forward`] of n `elements`; its gradient is the same operation.
pub fn cost(elements: usize) -> Cost {
    Cost::moved(2 * elements).of(Operation::Dropout, elements as u64)
}

/// [`residual`] of n `elements`; the gradient of the branch is [`forward`], that of `x` is free.
pub fn residual_cost(elements: usize) -> Pass {
    Pass { forward: Cost::moved(3 * elements).of(Operation::Dropout, elements as u64), backward: cost(elements) }
}

fn scale<T: Real>(y: &mut [T], x: &[T], dropout: Option<&Dropout>) {
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).enumerate().for_each(|(task, (y, x))| {
        vector::fast(
            #[inline(always)]
            || match dropout {
                None => y.copy_from_slice(x),
                Some(dropout) => {
                    for (i, (y, x)) in y.chunks_mut(64).zip(x.chunks(64)).enumerate() {
                        let factors = dropout.factors::<T>((task * (TASK / 64) + i) as u64);
                        for ((y, &x), &f) in y.iter_mut().zip(x).zip(&factors) {
                            *y = x * f;
                        }
                    }
                }
            },
        );
    });
}

fn add<T: Real>(out: &mut [T], x: &[T], branch: &[T], dropout: Option<&Dropout>) {
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).zip(branch.par_chunks(TASK)).enumerate().for_each(
        |(task, ((out, x), branch))| {
            vector::fast(
                #[inline(always)]
                || match dropout {
                    None => {
                        for ((out, &x), &b) in out.iter_mut().zip(x).zip(branch) {
                            *out = x + b;
                        }
                    }
                    Some(dropout) => {
                        for (i, ((out, x), branch)) in out.chunks_mut(64).zip(x.chunks(64)).zip(branch.chunks(64)).enumerate() {
                            let factors = dropout.factors::<T>((task * (TASK / 64) + i) as u64);
                            for (((out, &x), &b), &f) in out.iter_mut().zip(x).zip(branch).zip(&factors) {
                                *out = x + b * f;
                            }
                        }
                    }
                },
            );
        },
    );
}

/// Eight threads to a block of 64 elements.
fn launch(
    runtime: &dyn Runtime,
    entry: &'static str,
    out: &mut Buffer,
    inputs: &[&Buffer],
    dropout: Option<&Dropout>,
) -> Result<()> {
    let n = out.len();
    if n == 0 {
        return Ok(());
    }
    let kernel = Kernel::new("dropout", entry, &[("DROP", i64::from(dropout.is_some()))]);
    let mut args = vec![Arg::Out(out)];
    args.extend(inputs.iter().map(|&x| Arg::In(x)));
    args.push(Arg::U64(n as u64));
    args.extend(Dropout::arguments(dropout));
    runtime.launch(&kernel, Grid::row(n.div_ceil(8 * 256), 256), &mut args)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [0, 1, 63, 64, 65, 2047, 2049, 5003] {
        for probability in [None, Some(0.2)] {
            cases.push(Case::new("dropout", format!("n {n}, p {}", probability.unwrap_or(0.0)), move |device| {
                let dropout = probability.map(|p| Dropout::new(p, 0x1234_5678_9abc, 3, 77));
                // Nothing but a mask makes a zero of these.
                let [x, branch] = [1, 2].map(|lane| case::noise(lane, n));
                let (x, branch) = (device.reals(&x)?, device.reals(&branch)?);
                let (mut y, mut out) = (Buffer::empty(device), Buffer::empty(device));
                forward(device, &mut y, &x, dropout.as_ref())?;
                residual(device, &mut out, &x, &branch, dropout.as_ref())?;
                let kept = y.to_f64(device)?.iter().map(|&y| u32::from(y != 0.0)).collect();
                Ok(vec![Output::ids("mask", kept), Output::reals("y", device, &y)?, Output::reals("residual", device, &out)?])
            }));
        }
    }
    for (rows, n, probability) in
        [(40, 64, Some(0.2)), (65, 64, Some(0.2)), (130, 128, None), (65, 256, Some(0.5)), (70, 33, None)]
    {
        cases.push(Case::new(
            "dropout",
            format!("R {rows}, N {n}, p {}, with a bias", probability.unwrap_or(0.0)),
            move |device| {
                let dropout = probability.map(|p| Dropout::new(p, 7, 2, 5));
                let (dy, mut dx) = (device.reals(&case::noise(1, rows * n))?, Buffer::empty(device));
                let backward =
                    |sums: &mut Sums, db: &mut Buffer| backward_with_bias(device, sums, &mut dx, db, &dy, dropout.as_ref());
                let db = column_sum::gathered(device, rows, n, backward)?;
                Ok(vec![Output::reals("dx", device, &dx)?, Output::reals("db", device, &db)?])
            },
        ));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_dropped_is_the_probability_and_the_mean_is_kept() {
        let n = 100_003;
        let x = Device::HOST.reals(&vec![1.0; n]).unwrap();
        for p in [0.1, 0.5] {
            let dropout = Dropout::new(p, 9, 1, 5);
            let mut y = Buffer::empty(&Device::HOST);
            forward(&Device::HOST, &mut y, &x, Some(&dropout)).unwrap();
            let dropped = y.f32s().unwrap().iter().filter(|&&v| v == 0.0).count() as f64 / n as f64;
            // Five standard deviations of a binomial share.
            assert!((dropped - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1e-5, "{dropped} {p}");
            let kept = y.f32s().unwrap().iter().find(|&&v| v != 0.0).copied().unwrap();
            assert!((f64::from(kept) - dropout.scale).abs() < 1e-6);
        }
    }

    #[test]
    fn residual_adds_the_same_mask_and_sites_differ() {
        let n = 777;
        let x = Device::ORACLE.reals(&(0..n).map(f64::from).collect::<Vec<_>>()).unwrap();
        let ones = Device::ORACLE.reals(&vec![1.0; n as usize]).unwrap();
        let (mut a, mut b, mut c) =
            (Buffer::empty(&Device::ORACLE), Buffer::empty(&Device::ORACLE), Buffer::empty(&Device::ORACLE));
        let site1 = Dropout::new(0.3, 1, 1, 0);
        residual(&Device::ORACLE, &mut a, &x, &ones, Some(&site1)).unwrap();
        forward(&Device::ORACLE, &mut b, &ones, Some(&site1)).unwrap();
        forward(&Device::ORACLE, &mut c, &ones, Some(&Dropout::new(0.3, 1, 2, 0))).unwrap();
        let (a, b, c) = (f64::of(&a).unwrap(), f64::of(&b).unwrap(), f64::of(&c).unwrap());
        assert!((0..n as usize).all(|i| a[i] == i as f64 + b[i]));
        assert!(b != c);
    }
}
