//! AdamW: Adam with bias correction and decoupled weight decay, dense or lazily by row.
//!
//! ```text
//! g  = scale grad
//! m  = beta1 m + (1 - beta1) g            v = beta2 v + (1 - beta2) g^2
//! x  = (1 - lr decay) x - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
//! ```
//!
//! Source: Kingma and Ba (ICLR 2015), Loshchilov and Hutter (ICLR 2019).
//!
//! Lazy rows: a row not touched for k steps keeps its value, and its moments are decayed by beta^k when it is touched again,
//! as if its gradient had been zero meanwhile; decay of the value is caught up at the present rate. What is left out against
//! the dense rule is only the drift of untouched rows along their fading momentum. With every row touched in every step both
//! rules are the same to the bit. Price: touched rows instead of the whole table, per step.

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Real, Runtime, download, place, upload};
use crate::error::{Error, Result};
use crate::ops::param::Param;
use crate::ops::touched::RowsThere;
use crate::ops::vector;
use crate::optim::Now;

/// The rule's constants.
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
}

/// m and v of one parameter.
pub struct Moments {
    pub first: Buffer,
    pub second: Buffer,
    /// Per row the step that touched it last; for lazy parameters only.
    pub last: Option<Last>,
}

/// Where the steps of [`Moments::last`] are kept: beside the moments.
pub enum Last {
    Host(Vec<u64>),
    /// As u32, which bounds a run on a machine to four billion steps.
    Machine(Buffer),
}

impl Last {
    fn new(device: &Device, steps: Vec<u64>) -> Result<Last> {
        match device {
            Device::Host(_) => Ok(Last::Host(steps)),
            Device::Machine(runtime) => {
                let steps: Vec<u32> = steps.iter().map(|&step| step as u32).collect();
                Ok(Last::Machine(place(&**runtime, &steps)?))
            }
        }
    }
    fn steps(&self, device: &Device) -> Result<Vec<u64>> {
        match (self, device) {
            (Last::Host(steps), _) => Ok(steps.clone()),
            (Last::Machine(steps), Device::Machine(runtime)) => {
                Ok(download::<u32>(&**runtime, steps, steps.len())?.into_iter().map(u64::from).collect())
            }
            (Last::Machine(_), _) => Err(Error::internal("machine memory without its machine")),
        }
    }
    /// Steps since each row was touched, seen from `step`: exact up to 2^24, and beyond that nothing of a moment is left.
    pub fn ages(&self, device: &Device, step: u64) -> Result<Vec<f32>> {
        Ok(self.steps(device)?.iter().map(|&last| step.saturating_sub(last).min(1 << 24) as f32).collect())
    }
    /// The inverse of [`Last::ages`].
    pub fn from_ages(device: &Device, ages: &[f32], step: u64) -> Result<Last> {
        Last::new(device, ages.iter().map(|&age| step.saturating_sub(age as u64)).collect())
    }
}

impl Moments {
    /// Of a table of `rows` with `n` elements in all.
    pub fn lazy(device: &Device, n: usize, rows: usize) -> Result<Moments> {
        let last = Last::new(device, vec![0; rows])?;
        Ok(Moments { first: device.zeros(n)?, second: device.zeros(n)?, last: Some(last) })
    }
}

/// Elements of one task, and rows of one task.
const BLOCK: usize = 1 << 14;
const ROWS: usize = 256;

/// The parts of a parameter that one task updates.
struct Slices<'a, T> {
    x: &'a mut [T],
    m: &'a mut [T],
    v: &'a mut [T],
    g: &'a mut [T],
}

impl<'a, T> Slices<'a, T> {
    fn split_at(self, n: usize) -> (Slices<'a, T>, Slices<'a, T>) {
        let ((x, x1), (m, m1)) = (self.x.split_at_mut(n), self.m.split_at_mut(n));
        let ((v, v1), (g, g1)) = (self.v.split_at_mut(n), self.g.split_at_mut(n));
        (Slices { x, m, v, g }, Slices { x: x1, m: m1, v: v1, g: g1 })
    }
    fn row(&mut self, from: usize, width: usize) -> Slices<'_, T> {
        let range = from..from + width;
        Slices {
            x: &mut self.x[range.clone()],
            m: &mut self.m[range.clone()],
            v: &mut self.v[range.clone()],
            g: &mut self.g[range],
        }
    }
}

/// The constants of a step in the working precision.
#[derive(Clone, Copy)]
struct Factors<T> {
    keep1: T,
    take1: T,
    keep2: T,
    take2: T,
    keep: T,
    rate: T,
    root: T,
    eps: T,
    scale: T,
}

impl AdamW {
    /// `missed` steps without a gradient come before this one.
    fn factors<T: Real>(&self, now: Now, missed: u64) -> Factors<T> {
        let t = now.step.min(i32::MAX as u64) as i32;
        let missed = missed.min(1 << 24) as i32;
        let (c1, c2) = (1.0 - self.beta1.powi(t), 1.0 - self.beta2.powi(t));
        let x = T::from_f64;
        Factors {
            keep1: x(self.beta1.powi(missed + 1)),
            take1: x(1.0 - self.beta1),
            keep2: x(self.beta2.powi(missed + 1)),
            take2: x(1.0 - self.beta2),
            keep: x((1.0 - now.lr * now.decay).powi(missed + 1)),
            rate: x(now.lr / c1),
            root: x(1.0 / c2.sqrt()),
            eps: x(self.eps),
            scale: x(now.scale),
        }
    }

    /// Updates one parameter and clears its gradient: all of it, or the given rows of a lazy one.
    pub fn update<T: Real>(&self, param: &mut Param, moments: &mut Moments, rows: Option<&[u32]>, now: Now) -> Result<()> {
        let width = param.len().checked_div(param.shape.first().copied().unwrap_or(1)).unwrap_or(0);
        let all = Slices {
            x: T::of_mut(&mut param.value)?,
            m: T::of_mut(&mut moments.first)?,
            v: T::of_mut(&mut moments.second)?,
            g: T::of_mut(&mut param.grad)?,
        };
        match &mut moments.last {
            None => {
                let factors = self.factors(now, 0);
                let blocks = all.x.par_chunks_mut(BLOCK).zip(all.m.par_chunks_mut(BLOCK));
                let blocks = blocks.zip(all.v.par_chunks_mut(BLOCK)).zip(all.g.par_chunks_mut(BLOCK));
                blocks.for_each(|(((x, m), v), g)| move_by(Slices { x, m, v, g }, factors));
            }
            Some(Last::Machine(_)) => return Err(Error::internal("machine memory on the plain path")),
            Some(Last::Host(last)) => {
                let every: Vec<u32>;
                let rows = match rows {
                    Some(rows) => rows,
                    None => {
                        every = (0..last.len() as u32).collect();
                        &every
                    }
                };
                self.update_rows(all, last, rows, width, now);
            }
        }
        Ok(())
    }

    fn update_rows<T: Real>(&self, mut rest: Slices<T>, mut last: &mut [u64], rows: &[u32], width: usize, now: Now) {
        // Each task owns the stretch of the table that its rows lie in.
        let (mut tasks, mut start) = (Vec::with_capacity(rows.len() / ROWS + 1), 0);
        for rows in rows.chunks(ROWS) {
            let end = rows[rows.len() - 1] as usize + 1;
            let (own, after) = rest.split_at((end - start) * width);
            let (own_last, after_last) = last.split_at_mut(end - start);
            tasks.push((start, rows, own, own_last));
            (rest, last, start) = (after, after_last, end);
        }
        let usual = self.factors(now, 0);
        tasks.into_par_iter().for_each(|(start, rows, mut own, last)| {
            for &row in rows {
                let row = row as usize - start;
                let missed = now.step.saturating_sub(last[row] + 1);
                let factors = if missed == 0 { usual } else { self.factors(now, missed) };
                last[row] = now.step;
                move_by(own.row(row * width, width), factors);
            }
        });
    }
}

impl AdamW {
    /// [`AdamW::update`] of a stretch of x, m, v and the gradient in a machine's memory; the clipping `factor (1)` is there, too, and
    /// `now.scale` is not looked at.
    pub fn launch_dense(&self, runtime: &dyn Runtime, state: &mut [Buffer; 4], factor: &Buffer, now: Now) -> Result<()> {
        let n = state[0].len();
        if n == 0 {
            return Ok(());
        }
        let mut args: Vec<Arg> = state.iter_mut().map(Arg::Out).collect();
        args.extend([Arg::In(factor), Arg::U64(n as u64)]);
        args.extend(self.arguments(now));
        runtime.launch(&Kernel::new("adamw", "adamw_dense", &[]), Grid::row(n.div_ceil(1024), 256), &mut args)
    }

    fn arguments(&self, now: Now) -> [Arg<'static>; 8] {
        let f = self.factors::<f32>(now, 0);
        [f.keep1, f.take1, f.keep2, f.take2, f.keep, f.rate, f.root, f.eps].map(Arg::F32)
    }

    /// The same of the given rows of a lazy parameter, or of all.
    pub fn launch_rows(
        &self,
        runtime: &dyn Runtime,
        param: &mut Param,
        moments: &mut Moments,
        rows: Option<RowsThere>,
        factor: &Buffer,
        now: Now,
    ) -> Result<()> {
        let n = param.len();
        let Some(Last::Machine(last)) = &mut moments.last else { return Err(Error::internal("no steps of rows")) };
        let state = [&mut param.value, &mut moments.first, &mut moments.second, &mut param.grad];
        let mut args: Vec<Arg> = state.into_iter().map(Arg::Out).collect();
        let most = rows.map_or(last.len(), |rows| rows.most);
        if n == 0 || most == 0 {
            return Ok(());
        }
        let width = n / last.len();
        let powers = upload(runtime, &self.powers(now))?;
        let [ids, count] = rows.map_or([Arg::None, Arg::None], |rows| [rows.ids, rows.count].map(Arg::In));
        args.extend([Arg::Out(last), Arg::In(factor), ids, count, Arg::In(&powers)]);
        args.extend([most as u32, width as u32, now.step as u32].map(Arg::U32));
        args.extend(self.arguments(now));
        runtime.launch(&Kernel::new("adamw", "adamw_rows", &[]), Grid::row(most.div_ceil(8), 256), &mut args)
    }

    /// beta1, beta2 and 1 - lr decay to the powers 2^0 .. 2^24, from which a kernel multiplies the factors of a row that
    /// slept.
    fn powers(&self, now: Now) -> Vec<f64> {
        let squares = |base: f64| std::iter::successors(Some(base), |x| Some(x * x)).take(25);
        [self.beta1, self.beta2, 1.0 - now.lr * now.decay].into_iter().flat_map(squares).collect()
    }
}

/// The update of a stretch of elements.
fn move_by<T: Real>(s: Slices<T>, f: Factors<T>) {
    vector::fast(
        #[inline(always)]
        || {
            for (((x, m), v), g) in s.x.iter_mut().zip(s.m.iter_mut()).zip(s.v.iter_mut()).zip(s.g.iter_mut()) {
                let gradient = *g * f.scale;
                *g = T::ZERO;
                *m = f.keep1 * *m + f.take1 * gradient;
                *v = f.keep2 * *v + f.take2 * gradient * gradient;
                *x = f.keep * *x - f.rate * *m / (v.sqrt() * f.root + f.eps);
            }
        },
    )
}
