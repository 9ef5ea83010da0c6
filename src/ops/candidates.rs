//! Scores of what a row may choose from: a drawn list, or the whole catalogue in tiles.
//!
//! Either way a block of rows is scored against a block of items by matrix products and handed over row by row; the scores of
//! all rows against all items never exist. Listed items of a group shared by several rows are gathered into a small table
//! first, so that they are read once per block of rows and not once per row.

use std::ops::Range;

use rayon::prelude::*;

use crate::data::batch::Batch;
use crate::device::Real;
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::cost::{Cost, distinct, product};
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::score::View;
use crate::ops::tile::{Norms, Tile};
use crate::ops::vector;

/// Rows of a block: enough to reuse an item of a tile from the cache.
const ROWS: usize = 64;
/// Items of a tile of the catalogue: with 64 rows of f32 half a megabyte of scores.
pub const ITEMS: usize = 2048;

/// Which items of the catalogue no row, and which rows of a batch, may choose.
pub struct Hidden<'a> {
    /// Items of the table outside the training catalogue, ascending.
    pub untrained: &'a [u32],
    pub exclude: Exclude,
    pub batch: &'a Batch,
    /// (R) sequence of each row.
    pub sequences: &'a [u32],
}

impl Hidden<'_> {
    /// Sets the scores `s` of row `r` for `items` to minus infinity where an item is hidden.
    pub fn hide<T: Real>(&self, r: usize, items: Range<usize>, s: &mut [T]) {
        let seen = self.exclude.of_sequence(self.batch, self.sequences[r] as usize);
        let target = [self.batch.targets[r]];
        let target = if self.exclude == Exclude::None { &[][..] } else { &target[..] };
        for list in [self.untrained, seen, target] {
            let from = list.partition_point(|&i| (i as usize) < items.start);
            for &i in list[from..].iter().take_while(|&&i| (i as usize) < items.end) {
                s[i as usize - items.start] = T::NEG_INFINITY;
            }
        }
    }
}

/// What a selection scores for R `rows`.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// M items for each of so many groups of rows.
    Listed {
        groups: usize,
        m: usize,
    },
    Catalogue,
}

/// Scores of V items (`of`) and D numbers, [`score::products`](crate::ops::score::products) each.
pub fn cost(rows: usize, of: usize, dim: usize, extent: Extent, products: u64) -> Cost {
    let (per_row, read) = match extent {
        Extent::Listed { groups, m } => (m, groups * m + distinct(groups * m, of) * dim),
        Extent::Catalogue => (of, of * dim),
    };
    Cost::new(products * product([rows, per_row, dim]), rows * dim + read)
}

/// Hands every row its list and the scores of it, minus infinity where the slot is empty or dropped for the row. `out` has one
/// element per row.
pub fn listed<T: Real, O: Send>(
    view: &View<T>,
    lists: &Negatives,
    out: Vec<O>,
    choose: impl Fn(usize, usize, &[u32], &mut [T], O) + Sync,
) -> Result<()> {
    let m = lists.n;
    let rows = lists.group_offsets.last().map_or(0, |&r| r as usize);
    if out.len() != rows
        || view.query.len() != rows * view.dim
        || lists.ids.iter().any(|&i| i != NONE && i as usize >= view.items)
    {
        return Err(Error::internal("the candidates do not fit the rows or the table"));
    }
    let block = ((1 << 18) / m.max(1)).clamp(1, ROWS);
    let mut out = out.into_iter();
    let mut units = Vec::new();
    for g in 0..lists.groups() {
        let range = lists.range(g);
        for start in range.clone().step_by(block) {
            let rows = start..range.end.min(start + block);
            units.push((g, rows.clone(), out.by_ref().take(rows.len()).collect::<Vec<O>>()));
        }
    }
    let choose = &choose;
    units.into_par_iter().for_each_init(
        || (Vec::new(), Vec::new(), Norms::default()),
        |(s, gathered, norms), (g, rows, out)| {
            let ids = lists.ids_of(g);
            s.resize(rows.len() * m, T::ZERO);
            if rows.len() < 4 {
                rows.clone().zip(s.chunks_exact_mut(m.max(1))).for_each(|(r, s)| view.row(r, ids, s));
            } else {
                gathered.clear();
                for &i in ids {
                    // An empty slot is scored as item 0 and hidden below.
                    gathered.extend_from_slice(view.item(if i == NONE { 0 } else { i }));
                }
                Tile { a: gathered, ..view.tile(rows.clone(), 0..0) }.scores(s, norms);
            }
            for ((r, s), out) in rows.zip(s.chunks_exact_mut(m.max(1))).zip(out) {
                let drop = if lists.drop.is_empty() { &[][..] } else { &lists.drop[r * m..(r + 1) * m] };
                s.iter_mut().zip(ids).filter(|(_, i)| **i == NONE).for_each(|(s, _)| *s = T::NEG_INFINITY);
                s.iter_mut().zip(drop).filter(|(_, d)| **d).for_each(|(s, _)| *s = T::NEG_INFINITY);
                choose(r, g, ids, s, out);
            }
        },
    );
    Ok(())
}

/// Scans the catalogue: `take` sees, tile by tile in the order of items, the `scale`d scores of one row with hidden items at
/// minus infinity, `finish` what it made of them. `out` has one element per row.
pub fn scanned<T: Real, S, O: Send>(
    view: &View<T>,
    hidden: &Hidden,
    scale: T,
    out: Vec<O>,
    new: impl Fn() -> S + Sync,
    take: impl Fn(&mut S, usize, &mut [T]) + Sync,
    finish: impl Fn(usize, S, O) + Sync,
) -> Result<()> {
    let rows = hidden.batch.rows();
    if out.len() != rows || view.query.len() != rows * view.dim || hidden.sequences.len() != rows {
        return Err(Error::internal("the scan does not fit the rows"));
    }
    let mut out = out.into_iter();
    let units: Vec<(Range<usize>, Vec<O>)> = (0..rows)
        .step_by(ROWS)
        .map(|start| {
            let range = start..rows.min(start + ROWS);
            (range.clone(), out.by_ref().take(range.len()).collect())
        })
        .collect();
    units.into_par_iter().for_each_init(
        || (Vec::new(), Norms::default()),
        |(s, norms), (rows, out)| {
            let mut states: Vec<S> = rows.clone().map(|_| new()).collect();
            for start in (0..view.items).step_by(ITEMS) {
                let items = start..view.items.min(start + ITEMS);
                s.resize(rows.len() * items.len(), T::ZERO);
                view.tile(rows.clone(), items.clone()).scores(s, norms);
                for ((r, s), state) in rows.clone().zip(s.chunks_exact_mut(items.len())).zip(&mut states) {
                    if scale != T::ONE {
                        vector::fast(
                            #[inline(always)]
                            || vector::scale(s, scale),
                        );
                    }
                    hidden.hide(r, items.clone(), s);
                    take(state, start, s);
                }
            }
            for ((r, state), out) in rows.zip(states).zip(out) {
                finish(r, state, out);
            }
        },
    );
    Ok(())
}
