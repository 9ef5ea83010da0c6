//! What a model takes, from its shapes alone: so that a plan can ask before anything is allocated.

use super::block::Saved;
use super::{Hyper, Norm, Queries, Sizes};

/// Bytes of a number in the working precision of training.
const REAL: usize = 4;

/// One parameter before it exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Extent {
    /// As in [`crate::ops::param::Param`].
    pub name: String,
    /// As in [`crate::ops::param::Param`].
    pub shape: Vec<usize>,
    /// Whether its rows are addressed by id.
    pub table: bool,
}

impl Extent {
    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters [`super::Model::new`] makes, in its order.
pub fn parameters(hyper: &Hyper, sizes: &Sizes) -> Vec<Extent> {
    let (d, f) = (hyper.dim, hyper.ffn);
    let mut all = Vec::new();
    let mut push = |name: String, shape: Vec<usize>, table| all.push(Extent { name, shape, table });
    push("items".into(), vec![sizes.items, d], true);
    if !hyper.tied {
        push("output".into(), vec![sizes.items, d], true);
    }
    if let Some(attributes) = &sizes.attributes {
        push("attributes".into(), vec![attributes.count, d], true);
    }
    if hyper.positions {
        push("positions".into(), vec![hyper.max_len, d], true);
    }
    if hyper.context {
        push("context.weight".into(), vec![sizes.numeric, d], false);
        push("context.bias".into(), vec![d], false);
        for (j, &size) in sizes.categories.iter().enumerate() {
            push(format!("context.category{j}"), vec![size as usize, d], true);
        }
    }
    let mut pair = |name: String, parts: [&str; 2], weight: Vec<usize>, n: usize| {
        push(format!("{name}.{}", parts[0]), weight, false);
        push(format!("{name}.{}", parts[1]), vec![n], false);
    };
    for b in 0..hyper.layers {
        let (norm, linear) = (["gain", "bias"], ["weight", "bias"]);
        pair(format!("block{b}.norm1"), norm, vec![d], d);
        pair(format!("block{b}.attention.qkv"), linear, vec![d, 3 * d], 3 * d);
        pair(format!("block{b}.attention.project"), linear, vec![d, d], d);
        pair(format!("block{b}.norm2"), norm, vec![d], d);
        pair(format!("block{b}.feed_forward.expand"), linear, vec![d, f], f);
        pair(format!("block{b}.feed_forward.contract"), linear, vec![f, d], d);
    }
    if hyper.norm != Norm::Post {
        pair("norm".into(), ["gain", "bias"], vec![d], d);
    }
    all
}

/// Bytes of all buffers a forward pass over `rows` R that asks at `queries` Q of them leaves behind.
pub fn forward(hyper: &Hyper, rows: usize, queries: usize, asked: Queries) -> u64 {
    let d = hyper.dim;
    // x and work.
    let mut reals = 2 * rows * d;
    if asked == Queries::Last {
        reals += queries * d;
    }
    reals += hyper.layers * Saved::elements(hyper, rows) + rows * d * hyper.layers.min(1);
    if hyper.norm != Norm::Post {
        reals += (d + 2) * queries;
    }
    if hyper.context {
        reals += queries * d;
    }
    (REAL * reals) as u64
}

/// Bytes of the contexts of `rows` R and `queries` Q, from a forward pass until the backward pass has used them.
pub fn contexts(hyper: &Hyper, sizes: &Sizes, rows: usize, queries: usize) -> u64 {
    let of_row = REAL * sizes.numeric + 4 * sizes.categories.len();
    if hyper.context { ((rows + queries) * of_row) as u64 } else { 0 }
}

/// Bytes of a further buffer: the rows that ask in an evaluation of `tile` sequences, beside training that asks at every row.
pub fn asking(hyper: &Hyper, tile: usize) -> u64 {
    (REAL * tile * hyper.dim) as u64
}

/// Bytes of the further buffers a backward pass leaves behind: gradients of queries and contexts, the blocks' scratch, and of
/// `wrong` contexts per query.
pub fn backward(hyper: &Hyper, rows: usize, queries: usize, wrong: usize, asked: Queries) -> u64 {
    let d = hyper.dim;
    let mut reals = if asked == Queries::All { queries * d } else { rows * d };
    if hyper.context {
        reals += queries * d + queries * wrong * d;
    }
    if hyper.layers > 0 {
        // The second buffer of the scratch, and the wide one; the first is in use since the forward pass.
        let second = if hyper.norm == Norm::Sasrec && hyper.dropout > 0.0 { d.max(hyper.ffn) } else { d };
        reals += rows * second + rows * hyper.ffn.max(3 * d);
    }
    (REAL * reals) as u64
}

/// Bytes a backward pass takes for a moment: partial sums of the widest product, and the rows of a batch grouped by item.
pub fn grouping(hyper: &Hyper, items: usize, rows: usize) -> u64 {
    let parts = (rows / 512).clamp(1, 16);
    let widest = hyper.dim * hyper.ffn.max(3 * hyper.dim);
    let partial = if parts > 1 && hyper.layers > 0 { REAL * parts * widest } else { 0 };
    partial.max(8 * (items + 1) + 4 * rows) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::data::batch::{Batch, ContextRows};
    use crate::device::{Buffer, Device};
    use crate::model::{Masks, Model};
    use crate::ops::param::Role;

    fn hold(config: &config::Model, numeric: usize, categories: &[u32]) {
        let sizes = Sizes { items: 23, numeric, categories: categories.to_vec(), attributes: None };
        let device = Device::HOST;
        let mut model = Model::new(config, sizes.clone(), &device, 1).unwrap();
        let planned = parameters(&model.hyper, &sizes);
        let real: Vec<Extent> = model
            .params()
            .iter()
            .map(|p| Extent { name: p.name.clone(), shape: p.shape.clone(), table: p.role == Role::Table })
            .collect();
        assert_eq!(planned, real);
        let rows = 7;
        let context = || ContextRows { numeric: vec![0.5; rows * numeric], categories: vec![0; rows * categories.len()] };
        let batch = Batch {
            users: vec![0, 1],
            offsets: vec![0, 3, 7].into(),
            items: (0..7).collect(),
            targets: (1..8).collect(),
            context: context().into(),
            target_context: context().into(),
            ..Batch::default()
        };
        for asked in [Queries::All, Queries::Last] {
            let mut model = Model::new(config, sizes.clone(), &device, 1).unwrap();
            let queries = if asked == Queries::All { 7 } else { 2 };
            // Twice, since buffers change places.
            (0..2).for_each(|_| model.forward(&batch, asked, &Masks::none()).unwrap());
            let contexts = contexts(&model.hyper, &sizes, rows, queries);
            let passed = forward(&model.hyper, rows, queries, asked) + contexts;
            assert_eq!(model.held(), passed, "{config:?} {asked:?}");
            let d = model.hyper.dim;
            let (mut dquery, mut dcontext) = (Buffer::F32(vec![0.1; queries * d]), Buffer::empty(&device));
            if model.hyper.context {
                dcontext = Buffer::F32(vec![0.1; queries * d]);
            }
            let given = model.hyper.context.then_some(&dcontext);
            model.backward(&batch, &mut dquery, given, &Masks::none()).unwrap();
            model.forward(&batch, asked, &Masks::none()).unwrap();
            let held = model.held() + dquery.bytes() + dcontext.bytes();
            let planned = passed + backward(&model.hyper, rows, queries, 0, asked);
            assert_eq!(held, planned, "{config:?} {asked:?}");
        }
        model.refresh_tables().unwrap();
    }

    #[test]
    fn shapes_say_what_the_buffers_hold() {
        let small = |kind: &str| config::Model { kind: kind.into(), dim: 8, heads: 2, max_len: 6, ..config::Model::default() };
        hold(&small("sasrec"), 0, &[]);
        hold(&config::Model { norm: "post".into(), tied: false, layers: 1, ..small("sasrec") }, 0, &[]);
        hold(&config::Model { ffn_mult: 4, layers: 3, ..small("sasrec") }, 0, &[]);
        hold(&config::Model { layers: 0, ..small("sasrec") }, 0, &[]);
        hold(&small("cans"), 3, &[4, 5]);
        hold(&config::Model { positions: "learned".into(), ..small("cans") }, 23, &[]);
    }
}
