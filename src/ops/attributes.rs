//! The item part of the encoder where items have attributes: an id row plus the mean of its attributes' rows.
//!
//! ```text
//! a[i] = e[i] + 1/|A_i| sum over t in A_i of u[t]       a, e (V,D), u (T,D), A_i attributes of item i
//! de += da                                              du[t] += sum over i with t in A_i of da[i] / |A_i|
//! ```
//!
//! Attributes enter linearly, so the context-conditioned score keeps its closed form (see `score`). Source: the
//! multi-hot attribute input of CaNS (Seol and Choi 2025), whose affine first layer this is.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::device::{Buffer, Device, Real, Runtime};
use crate::dispatch;
use crate::error::Result;
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::{Cost, Pass};
use crate::ops::segments::{self, Segments};
use crate::ops::vector;

const TASK: usize = 512;

/// Attributes of every item, in both directions.
#[derive(Clone)]
pub struct AttributeLists {
    /// (V+1) and codes below `count`.
    pub offsets: Arc<Vec<u64>>,
    pub codes: Arc<Vec<u32>>,
    /// T
    pub count: usize,
    /// (T+1) and the items that carry each attribute, ascending.
    items_offsets: Arc<Vec<u64>>,
    items: Arc<Vec<u32>>,
    /// Both directions in the memory of the machine that used them last, by item and by attribute.
    there: Arc<[Mutex<Option<There>>; 2]>,
}

/// A direction of the lists in a machine's memory.
struct There {
    machine: Arc<dyn Runtime>,
    segments: segments::There,
}

impl AttributeLists {
    pub fn new(offsets: &[u64], codes: &[u32], count: usize) -> AttributeLists {
        let mut starts = vec![0u64; count + 1];
        for &t in codes {
            starts[t as usize + 1] += 1;
        }
        for t in 0..count {
            starts[t + 1] += starts[t];
        }
        let mut next = starts.clone();
        let mut items = vec![0u32; codes.len()];
        for (i, pair) in offsets.windows(2).enumerate() {
            for &t in &codes[pair[0] as usize..pair[1] as usize] {
                items[next[t as usize] as usize] = i as u32;
                next[t as usize] += 1;
            }
        }
        AttributeLists {
            offsets: Arc::new(offsets.to_vec()),
            codes: Arc::new(codes.to_vec()),
            count,
            items_offsets: Arc::new(starts),
            items: Arc::new(items),
            there: Arc::default(),
        }
    }
    /// The lists of a direction as segments, and the weight 1 / |A_i| of each of their places.
    fn segments(&self, by_attribute: bool) -> (Segments, Vec<f32>) {
        let share = |i: usize| 1.0 / self.of(i).len().max(1) as f32;
        let (offsets, positions) = if by_attribute { (&self.items_offsets, &self.items) } else { (&self.offsets, &self.codes) };
        let weights = match by_attribute {
            true => positions.iter().map(|&i| share(i as usize)).collect(),
            false => (0..offsets.len() - 1).flat_map(|i| std::iter::repeat_n(share(i), self.of(i).len())).collect(),
        };
        let rows = (0..offsets.len() as u32 - 1).collect();
        let offsets = offsets.iter().map(|&o| o as u32).collect();
        (Segments { rows, offsets, positions: positions.to_vec() }, weights)
    }
    /// Does `work` with a direction of the lists in `machine`'s memory, copied there at the first use.
    fn with<R>(
        &self,
        machine: &Arc<dyn Runtime>,
        by_attribute: bool,
        work: impl FnOnce(&segments::There) -> Result<R>,
    ) -> Result<R> {
        let mut kept = self.there[usize::from(by_attribute)].lock().unwrap_or_else(PoisonError::into_inner);
        let there = match kept.take().filter(|there| Arc::ptr_eq(&there.machine, machine)) {
            Some(there) => there,
            None => {
                let (segments, weights) = self.segments(by_attribute);
                There { machine: machine.clone(), segments: segments::There::new(&**machine, &segments, Some(&weights))? }
            }
        };
        work(&kept.insert(there).segments)
    }
    /// Bytes of that in a machine's memory, of V items and T attributes in so many pairs.
    pub fn bytes_there(items: usize, attributes: usize, pairs: usize) -> usize {
        16 * pairs + 8 * (items + attributes + 1)
    }
    fn of(&self, i: usize) -> &[u32] {
        &self.codes[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }
}

/// `a (V,D)` from `e (V,D)` and `u (T,D)`.
pub fn forward(device: &Device, a: &mut Buffer, e: &Buffer, u: &Buffer, lists: &AttributeLists, dim: usize) -> Result<()> {
    a.resize(device, e.len())?;
    dispatch!(device, T => {
        let (a, e, u) = (T::of_mut(a)?, T::of(e)?, T::of(u)?);
        a.copy_from_slice(e);
        a.par_chunks_mut(TASK * dim).enumerate().for_each(|(task, a)| vector::fast(#[inline(always)] || {
            for (i, a) in a.chunks_exact_mut(dim).enumerate() {
                let codes = lists.of(task * TASK + i);
                let share = T::from_f64(1.0 / codes.len().max(1) as f64);
                for &t in codes {
                    vector::axpy(a, share, &u[t as usize * dim..][..dim]);
                }
            }
        }));
        Ok(())
    }, runtime => {
        lists.with(runtime, false, |there| there.sum(&**runtime, a, Some(e), u, dim, 1.0))
    })
}

/// `du (T,D) += ...` from `da (V,D)`; `de += da` is the caller's, who lets both share memory.
pub fn backward(device: &Device, du: &mut Buffer, da: &Buffer, lists: &AttributeLists, dim: usize) -> Result<()> {
    dispatch!(device, T => {
        let (du, da) = (T::of_mut(du)?, T::of(da)?);
        du.par_chunks_mut(dim).enumerate().for_each(|(t, du)| vector::fast(#[inline(always)] || {
            for &i in &lists.items[lists.items_offsets[t] as usize..lists.items_offsets[t + 1] as usize] {
                let share = T::from_f64(1.0 / lists.of(i as usize).len() as f64);
                vector::axpy(du, share, &da[i as usize * dim..][..dim]);
            }
        }));
        Ok(())
    }, runtime => {
        lists.with(runtime, true, |there| there.sum(&**runtime, du, None, da, dim, 1.0))
    })
}

/// Of V items with `pairs` attributes in all, of T.
pub fn cost(items: usize, attributes: usize, pairs: usize, dim: usize) -> Pass {
    Pass {
        forward: Cost::moved((2 * items + attributes) * dim + pairs),
        backward: Cost::moved((items + 2 * attributes) * dim + pairs),
    }
}

pub fn cases() -> Vec<Case> {
    let case = |(v, t, most, d): (usize, usize, usize, usize)| {
        Case::new("attributes", format!("V {v}, T {t}, D {d}"), move |device| {
            // Item i carries i % (most + 1) attributes: some items none.
            let mut offsets = vec![0u64];
            (0..v).for_each(|i| offsets.push(offsets[i] + (i % (most + 1)) as u64));
            let lists = AttributeLists::new(&offsets, &case::ids(1, offsets[v] as usize, t), t);
            let [e, u, da] = [(2, v * d), (3, t * d), (4, v * d)].map(|(lane, n)| device.reals(&case::noise(lane, n)));
            let (e, u, da) = (e?, u?, da?);
            let (mut a, mut du) = (Buffer::empty(device), device.reals(&case::noise(5, t * d))?);
            forward(device, &mut a, &e, &u, &lists, d)?;
            backward(device, &mut du, &da, &lists, d)?;
            Ok(vec![Output::reals("a", device, &a)?, Output::reals("du", device, &du)?])
        })
    };
    [(1, 1, 0, 33), (7, 3, 2, 33), (200, 4, 3, 64)].map(case).into()
}
