//! What an encoder does in a pass, from its shapes alone (`ops/cost.rs` says what is counted).

use super::block::Block;
use super::{Hyper, Norm, Queries, Sizes};
use crate::ops::cost::{Cost, Pass};
use crate::ops::embedding::{self, Into};
use crate::ops::{dropout, layer_norm, linear, rows};

/// The sequences of a batch, as far as a price depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lengths {
    /// B
    pub sequences: usize,
    /// R, the sum of their lengths.
    pub rows: usize,
    /// The sum of their squared lengths.
    pub squares: u64,
}

impl Lengths {
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Lengths {
        let add = |all: Lengths, l: usize| Lengths {
            sequences: all.sequences + 1,
            rows: all.rows + l,
            squares: all.squares + (l * l) as u64,
        };
        lengths.into_iter().fold(Lengths::default(), add)
    }
    /// The mean of `parts`, rounded.
    pub fn mean(self, parts: u64) -> Lengths {
        let of = |x: u64| (x + parts / 2) / parts.max(1);
        let Lengths { sequences, rows, squares } = self;
        Lengths { sequences: of(sequences as u64) as usize, rows: of(rows as u64) as usize, squares: of(squares) }
    }
}

/// The encoder over `batch`, from item rows to the queries of `asked` and back. Attributes of items are not part of it.
pub fn encoder(hyper: &Hyper, sizes: &Sizes, batch: Lengths, asked: Queries) -> Pass {
    let (d, r) = (hyper.dim, batch.rows);
    let queries = if asked == Queries::All { r } else { batch.sequences };
    let both = |cost: Cost| Pass { forward: cost, backward: cost };
    let mut parts = vec![embedding::cost(r, sizes.items, d, Into::Set), both(dropout::cost(r * d))];
    if hyper.positions {
        parts.push(embedding::cost(r, hyper.max_len, d, Into::Add));
    }
    if hyper.context {
        parts.extend([context(hyper, sizes, r), both(rows::add_cost(r * d)), context(hyper, sizes, queries)]);
    }
    parts.push(Block::cost(hyper, batch) * hyper.layers);
    if asked == Queries::Last {
        parts.push(rows::select_cost(queries, r, d));
    }
    if hyper.norm != Norm::Post {
        parts.push(layer_norm::cost(queries, d));
    }
    parts.into_iter().sum()
}

/// The context vectors of `n` events.
pub fn context(hyper: &Hyper, sizes: &Sizes, n: usize) -> Pass {
    let tables = sizes.categories.iter().map(|&size| embedding::cost(n, size as usize, hyper.dim, Into::Add));
    linear::cost(n, sizes.numeric, hyper.dim, false) + tables.sum()
}
