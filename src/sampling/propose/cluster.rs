//! Popular in the target's own time: CaNS's negative item sampling.
//!
//! With `n[k,i]` the training events of item `i` in time cluster `k`, and `k` the cluster of the event to be predicted,
//!
//! ```text
//! P(i | k) = (1 + ln(1 + n[k,i])) / Z_k     over the whole training catalogue,   Z_k = T + sum_i ln(1 + n[k,i])
//! ```
//!
//! Source: CaNS (Seol and Choi, IEEE Access 2025, doi 10.1109/ACCESS.2025.3576124). Most `n[k,i]` are zero, so a dense K x V
//! table would be mostly ones. Each cluster instead holds an alias table over "any item" (mass `T`) and its own items (mass
//! `ln(1 + n)`): memory grows with the events, not with K V, and the law is exactly the one above. With one cluster it is
//! context-free log popularity. Their released code races keys `u^(1/w)` in f32, where nearly all keys underflow; drawing
//! with `distinct` gives the law that race intends.

use std::sync::Arc;

use super::{Place, Proposal, Propose};
use crate::error::{Code, Error, Result};
use crate::ops::propose::Law;
use crate::rng::below;
use crate::sampling::alias::Alias;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Need, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "cluster",
    help: "items popular in the time cluster of the event to be predicted (CaNS)",
    source: "CaNS (Seol and Choi, IEEE Access 2025, doi 10.1109/ACCESS.2025.3576124)",
    params: &[],
    needs: &[Need::Clusters],
    cost: "RN integer draws and table reads; 20 bytes per (cluster, item) pair that occurs",
};

pub fn build(_: &Params, knowledge: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    let clusters = knowledge.clusters.filter(|c| !c.is_empty()).ok_or_else(|| {
        Error::new(Code::D0303, "the proposal `cluster` needs time clusters, and this log has none")
            .note("it draws items popular in the time of the event to be predicted")
            .help("name the time column (`--time-col`), set `data.clusters` to 1 or more, or choose another sampler")
    })?;
    let tables = (0..clusters.len() as u32).map(|k| {
        let (items, counts) = clusters.counts.of(k);
        let surplus = counts.iter().map(|&n| f64::from(n).ln_1p());
        let alias = Alias::new(std::iter::once(catalogue.len() as f64).chain(surplus).collect())?;
        Ok(Table { items: items.to_vec(), alias })
    });
    Ok(Proposal::fixed(Arc::new(Cluster { catalogue: catalogue.clone(), tables: tables.collect::<Result<_>>()? })))
}

struct Cluster {
    catalogue: Arc<Catalogue>,
    /// (K)
    tables: Vec<Table>,
}

struct Table {
    /// Items of the cluster, ascending.
    items: Vec<u32>,
    /// Entry 0: any item; entry `j + 1`: `items[j]`.
    alias: Alias,
}

impl Propose for Cluster {
    fn words(&self) -> usize {
        2
    }
    #[inline]
    fn draw(&self, place: &Place, words: &[u64]) -> u32 {
        let table = &self.tables[place.cluster as usize];
        match table.alias.draw(words[0]) {
            0 => self.catalogue.item(below(words[1], self.catalogue.len() as u64) as u32),
            entry => table.items[entry as usize - 1],
        }
    }
    fn twin(&self) -> Option<Law<'_>> {
        Some(Law::Clustered(self.tables.iter().map(|table| (table.alias.twin(), &table.items[..])).collect()))
    }
    fn prob(&self, place: &Place, item: u32) -> f64 {
        if !self.catalogue.contains(item) {
            return 0.0;
        }
        let table = &self.tables[place.cluster as usize];
        let surplus = table.items.binary_search(&item).map_or(0.0, |at| table.alias.prob(at as u32 + 1));
        table.alias.prob(0) / self.catalogue.len() as f64 + surplus
    }
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64 {
        let table = &self.tables[place.cluster as usize];
        let trained = self.catalogue.len();
        let gone = excluded.iter().filter(|&&i| self.catalogue.contains(i)).count();
        let entries = excluded.iter().filter_map(|i| table.items.binary_search(i).ok()).map(|at| at as u32 + 1);
        let surplus = table.alias.remaining(std::iter::once(0).chain(entries));
        table.alias.prob(0) * (trained - gone) as f64 / trained as f64 + surplus
    }
    fn clusters(&self) -> usize {
        self.tables.len()
    }
}
