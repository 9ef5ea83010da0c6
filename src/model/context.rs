//! The context part of the item-in-context encoder: an affine map of an event's context vector.
//!
//! ```text
//! g(c) = numeric W + b + sum_j T_j[category_j]      numeric (n,Cn), W (Cn,D), T_j (size_j,D), g (n,D)
//! ```
//!
//! Affine on purpose: `e(i,c) = a_i + g(c)` lets a candidate be scored without running an encoder per (item, context)
//! pair. Source: CaNS (Seol and Choi 2025), whose two stacked linear layers without a non-linearity collapse to this.

use std::sync::Arc;

use crate::data::batch::{ContextRows, Contexts};
use crate::device::{Buffer, Device, numbers};
use crate::error::Result;
use crate::model::params::ParamList;
use crate::ops::embedding::{self, Into};
use crate::ops::linear;

/// Positions of the projection's parameters.
pub struct Projection {
    numeric: usize,
    weight: [usize; 2],
    tables: Vec<usize>,
}

/// Context vectors on the device, kept from forward to backward.
pub struct Rows {
    /// (n,Cn)
    numeric: Arc<Buffer>,
    /// Per category column, (n) codes.
    categories: Vec<Vec<u32>>,
    n: usize,
}

impl Rows {
    /// `numeric` (n,Cn) where the model is, without categories.
    pub fn there(numeric: Arc<Buffer>, n: usize) -> Rows {
        Rows { numeric, categories: Vec::new(), n }
    }
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.numeric.bytes() + self.categories.iter().map(|codes| 4 * codes.len() as u64).sum::<u64>()
    }
}

impl Projection {
    /// `numeric` Cn; `sizes` the number of codes of each category column.
    pub fn new(list: &mut ParamList, numeric: usize, sizes: &[u32], dim: usize) -> Result<Projection> {
        let weight = list.linear("context", numeric, dim)?;
        let table = |(j, &size): (usize, &u32)| list.table(&format!("context.category{j}"), size as usize, dim);
        let tables = sizes.iter().enumerate().map(table).collect::<Result<Vec<_>>>()?;
        Ok(Projection { numeric, weight, tables })
    }

    pub fn rows(&self, device: &Device, context: &ContextRows, n: usize) -> Result<Rows> {
        let numeric: Vec<f64> = context.numeric.iter().map(|&x| f64::from(x)).collect();
        let columns = self.tables.len();
        let categories = (0..columns).map(|j| context.categories.iter().skip(j).step_by(columns).copied().collect()).collect();
        Ok(Rows { numeric: Arc::new(device.reals(&numeric)?), categories, n })
    }

    /// Of a batch's contexts, which may have been made in a machine's memory.
    pub fn rows_of(&self, device: &Device, contexts: &Contexts, n: usize) -> Result<Rows> {
        if let Device::Machine(runtime) = device
            && let Some(numeric) = numbers::copied(contexts.copy(), &**runtime)?
        {
            return Ok(Rows::there(numeric, n));
        }
        self.rows(device, contexts, n)
    }

    /// `g (n,D)`
    pub fn forward(&self, device: &Device, list: &ParamList, g: &mut Buffer, rows: &Rows, dim: usize) -> Result<()> {
        let [w, b] = self.weight;
        linear::forward(device, g, &rows.numeric, list.value(w), Some(list.value(b)), rows.n, self.numeric, dim)?;
        for (&table, codes) in self.tables.iter().zip(&rows.categories) {
            embedding::forward(device, g, Into::Add, list.value(table), codes, dim, 1.0)?;
        }
        Ok(())
    }

    pub fn backward(&self, device: &Device, list: &mut ParamList, dg: &Buffer, rows: &Rows, dim: usize) -> Result<()> {
        let (w, dw, db) = list.linear_parts(self.weight);
        linear::backward(device, None, dw, Some(db), dg, &rows.numeric, w, rows.n, self.numeric, dim)?;
        for (&table, codes) in self.tables.iter().zip(&rows.categories) {
            embedding::backward(device, list.grad_mut(table), dg, codes, dim, 1.0)?;
        }
        Ok(())
    }
}
