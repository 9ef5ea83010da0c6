//! The encoder: packed sequences of events in, one query per position (or per sequence) out, by manual differentiation.
//!
//! ```text
//! x = scale * (a[item] + g(context)) + position,  dropped      a: item part, g: context part
//! h = blocks(x)                                                  query = h (post-norm) or norm(h) (pre-norm)
//! score(item i under context c) = dot or cosine of query and a[i] + g(c)        (see ops::score)
//! ```
//!
//! `sasrec` (Kang and McAuley, ICDM 2018): learned positions, causal, dot product. `cans` (Seol and Choi, IEEE Access
//! 2025): item-in-context encoder, no positions (order only through the context), cosine over a temperature. Every key
//! of the section can be set by itself, so either can borrow from the other.
//!
//! Positions count back from the most recent event (0 = last), so that a history cut to `max_len` keeps its meaning; `positions =
//! "start"` counts from the first event that is kept.

mod block;
pub mod context;
pub mod cost;
#[cfg(test)]
mod gradients;
pub mod memory;
mod params;

pub use params::{Glorot, ParamList};

use std::sync::Arc;

use crate::config;
use crate::data::batch::{Batch, ContextRows};
use crate::device::{Buffer, Device};
use crate::error::{Code, Error, Result};
use crate::ops::activation::Activation;
use crate::ops::attributes::{self, AttributeLists};
use crate::ops::column_sum::Sums;
use crate::ops::dropout::{self, Dropout};
use crate::ops::embedding::{self, Into};
use crate::ops::param::Param;
use crate::ops::score::{ScoreKind, Scoring};
use crate::ops::{layer_norm, rows};
use block::{Block, NormAfter, Saved, Scratch};
use context::Projection;

/// Where a block normalises; the formulas are in `block.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    Pre,
    Sasrec,
    Post,
}

/// The encoder's fixed shape, resolved from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyper {
    pub dim: usize,
    pub layers: usize,
    pub heads: usize,
    pub max_len: usize,
    pub ffn: usize,
    pub dropout: f64,
    pub norm: Norm,
    pub activation: Activation,
    pub causal: bool,
    pub positions: bool,
    /// Whether positions count from the first event of a sequence instead of back from its last.
    pub from_start: bool,
    pub tied: bool,
    pub score: ScoreKind,
    pub context: bool,
    pub scale: f64,
    pub init_std: f64,
    pub glorot: Glorot,
}

fn choose<T>(key: &str, value: &str, options: &[(&str, T)]) -> Result<T>
where
    T: Clone,
{
    options.iter().find(|(name, _)| *name == value).map(|(_, v)| v.clone()).ok_or_else(|| {
        let names: Vec<_> = options.iter().map(|(n, _)| format!("`{n}`")).collect();
        Error::new(Code::C0202, format!("model.{key} = \"{value}\" is not a choice"))
            .help(format!("use one of {}", names.join(", ")))
    })
}

impl Hyper {
    /// Resolves `auto` by the model's kind and checks ranges. `context`: whether the data brings any.
    pub fn resolve(config: &config::Model, context: bool) -> Result<Hyper> {
        let cans = choose("kind", &config.kind, &[("sasrec", false), ("cans", true)])?;
        let dim = config.dim as usize;
        let range = |key: &str, ok: bool, text: &str| {
            if ok { Ok(()) } else { Err(Error::new(Code::C0202, format!("model.{key} is out of range")).help(text.to_string())) }
        };
        range("dim", (1..=4096).contains(&dim), "use 1 to 4096; 64 and 128 are common")?;
        range("heads", config.heads >= 1 && dim.is_multiple_of(config.heads as usize), "the heads must divide model.dim")?;
        range("layers", config.layers <= 64, "use 0 to 64; 2 is common")?;
        range("max_len", (1..=65_535).contains(&config.max_len), "use 1 to 65535; 50 for shopping, 200 for movies")?;
        range("ffn_mult", (1..=16).contains(&config.ffn_mult), "use 1 to 16")?;
        range("dropout", (0.0..1.0).contains(&config.dropout), "use 0 or more and less than 1")?;
        range("temperature", config.temperature > 0.0 && config.temperature.is_finite(), "use a number above 0; 0.1 is common")?;
        range("init_std", config.init_std > 0.0 && config.init_std.is_finite(), "use a number above 0; 0.02 is common")?;
        let auto = |key: &str, value: &str, yes: &str, no: &str, default: bool| {
            choose(key, value, &[("auto", default), (yes, true), (no, false)])
        };
        Ok(Hyper {
            dim,
            layers: config.layers as usize,
            heads: config.heads as usize,
            max_len: config.max_len as usize,
            ffn: dim * config.ffn_mult as usize,
            dropout: config.dropout,
            norm: choose("norm", &config.norm, &[("pre", Norm::Pre), ("sasrec", Norm::Sasrec), ("post", Norm::Post)])?,
            activation: choose("activation", &config.activation, &[("relu", Activation::Relu), ("gelu", Activation::Gelu)])?,
            causal: config.causal,
            // Without context `cans` would see no order at all.
            positions: choose(
                "positions",
                &config.positions,
                &[("auto", !(cans && context)), ("learned", true), ("start", true), ("none", false)],
            )?,
            from_start: config.positions == "start",
            tied: config.tied,
            score: if auto("score", &config.score, "cosine", "dot", cans)? {
                ScoreKind::Cosine { temperature: config.temperature }
            } else {
                ScoreKind::Dot
            },
            context,
            scale: if config.scale_embeddings && !cans { (dim as f64).sqrt() } else { 1.0 },
            init_std: config.init_std,
            glorot: choose(
                "init_weights",
                &config.init_weights,
                &[("normal", Glorot::Nowhere), ("attention", Glorot::IntoAttention), ("glorot", Glorot::Everywhere)],
            )?,
        })
    }
}

/// What the data brings: the sizes of the tables.
#[derive(Clone, Default)]
pub struct Sizes {
    /// V
    pub items: usize,
    /// Cn, width of the numeric context.
    pub numeric: usize,
    /// Codes of each categorical context column.
    pub categories: Vec<u32>,
    pub attributes: Option<AttributeLists>,
}

/// The dropout sites of one step; all empty outside training.
pub struct Masks {
    seeded: Option<(f64, u64, u64)>,
}

impl Masks {
    /// No dropout: evaluation.
    pub fn none() -> Masks {
        Masks { seeded: None }
    }
    /// Dropout of training step `step`.
    pub fn training(probability: f64, seed: u64, step: u64) -> Masks {
        Masks { seeded: (probability > 0.0).then_some((probability, seed, step)) }
    }
    fn site(&self, number: u8) -> Option<Dropout> {
        self.seeded.map(|(probability, seed, step)| Dropout::new(probability, seed, number, step))
    }
    fn input(&self) -> Option<Dropout> {
        self.site(0)
    }
    /// Behind the activation of block `b`, whose branch has the same number: another half of the steps tells them apart.
    fn inner(&self, b: usize) -> Option<Dropout> {
        self.seeded.map(|(p, seed, step)| Dropout::new(p, seed, (3 * b + 3) as u8, step | 1 << 63))
    }
    /// Attention weights, attention branch, feed-forward branch of block `b`.
    fn block(&self, b: usize) -> [Option<Dropout>; 3] {
        [1, 2, 3].map(|k| self.site((3 * b + k) as u8))
    }
}

/// Which rows of a batch ask for a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    All,
    Last,
}

/// An encoder with its parameters and the activations of the current pass.
pub struct Model {
    pub hyper: Hyper,
    sizes: Sizes,
    device: Device,
    list: ParamList,
    items: usize,
    output: usize,
    attributes: Option<usize>,
    positions: Option<usize>,
    projection: Option<Projection>,
    blocks: Vec<Block>,
    final_norm: Option<[usize; 2]>,
    // ---- activations of the current pass
    /// a (V,D) where attributes make it differ from the parameter.
    input_table: Buffer,
    output_table: Buffer,
    /// Output of the input stage, (R,D).
    x: Buffer,
    saved: Vec<Saved>,
    /// The selected rows before the final norm, (Q,D).
    selected: Buffer,
    final_stats: Buffer,
    /// (Q,D)
    query: Buffer,
    /// g of the target events, (Q,D).
    target_context: Buffer,
    scratch: Scratch,
    work: Buffer,
    input_rows: Option<context::Rows>,
    target_rows: Option<context::Rows>,
    /// (Q) rows of the queries; empty when every row is one.
    query_rows: Vec<u32>,
    queries: Queries,
}

impl Model {
    pub fn new(config: &config::Model, sizes: Sizes, device: &Device, seed: u64) -> Result<Model> {
        let hyper = Hyper::resolve(config, sizes.numeric + sizes.categories.len() > 0)?;
        let d = hyper.dim;
        let mut list = ParamList::new(device, seed, hyper.init_std, hyper.glorot);
        let items = list.table("items", sizes.items, d)?;
        let output = if hyper.tied { items } else { list.table("output", sizes.items, d)? };
        let attributes = sizes.attributes.as_ref().map(|a| list.table("attributes", a.count, d)).transpose()?;
        let positions = hyper.positions.then(|| list.table("positions", hyper.max_len, d)).transpose()?;
        let projection = hyper.context.then(|| Projection::new(&mut list, sizes.numeric, &sizes.categories, d)).transpose()?;
        let blocks = (0..hyper.layers).map(|b| Block::new(b, &hyper, &mut list)).collect::<Result<Vec<_>>>()?;
        let final_norm = (hyper.norm != Norm::Post).then(|| list.norm("norm", d)).transpose()?;
        list.place()?;
        let b = || Buffer::empty(device);
        Ok(Model {
            saved: (0..hyper.layers).map(|_| Saved::new(device)).collect(),
            hyper,
            sizes,
            device: device.clone(),
            list,
            items,
            output,
            attributes,
            positions,
            projection,
            blocks,
            final_norm,
            input_table: b(),
            output_table: b(),
            x: b(),
            selected: b(),
            final_stats: b(),
            query: b(),
            target_context: b(),
            scratch: Scratch::new(device),
            work: b(),
            input_rows: None,
            target_rows: None,
            query_rows: Vec::new(),
            queries: Queries::All,
        })
    }

    pub fn params(&self) -> &[Param] {
        &self.list.params
    }
    pub fn params_mut(&mut self) -> &mut [Param] {
        &mut self.list.params
    }
    pub fn items(&self) -> usize {
        self.sizes.items
    }
    /// Position of the parameter that scores items; with tied tables also the one that embeds them.
    pub fn output_param(&self) -> usize {
        self.output
    }
    /// Position of the parameter that embeds the items of histories.
    pub fn input_param(&self) -> usize {
        self.items
    }
    /// Whether item parts are table rows alone, so that a step may touch only the rows it uses.
    pub fn rows_are_independent(&self) -> bool {
        self.attributes.is_none()
    }

    /// Recomputes the item parts where attributes enter them; call once after each update of the parameters.
    pub fn refresh_tables(&mut self) -> Result<()> {
        if let (Some(u), Some(lists)) = (self.attributes, &self.sizes.attributes) {
            let d = self.hyper.dim;
            attributes::forward(&self.device, &mut self.input_table, self.list.value(self.items), self.list.value(u), lists, d)?;
            if self.output != self.items {
                attributes::forward(
                    &self.device,
                    &mut self.output_table,
                    self.list.value(self.output),
                    self.list.value(u),
                    lists,
                    d,
                )?;
            }
        }
        Ok(())
    }
    fn input_parts(&self) -> &Buffer {
        if self.attributes.is_some() { &self.input_table } else { self.list.value(self.items) }
    }
    /// The item part a (V,D) that candidates are scored with.
    pub fn table(&self) -> &Buffer {
        match self.attributes {
            Some(_) if self.output != self.items => &self.output_table,
            Some(_) => &self.input_table,
            None => self.list.value(self.output),
        }
    }

    /// Runs the encoder over a batch and prepares the queries of `queries` rows.
    pub fn forward(&mut self, batch: &Batch, queries: Queries, masks: &Masks) -> Result<()> {
        let device = self.device.clone();
        let (d, r) = (self.hyper.dim, batch.rows());
        let mut x = std::mem::replace(&mut self.x, Buffer::empty(&device));
        let mut work = std::mem::replace(&mut self.work, Buffer::empty(&device));
        let (scale, mask) = (self.hyper.scale, masks.input());
        match (&self.projection, self.positions) {
            (None, Some(positions)) => {
                let tables = [self.input_parts(), self.list.value(positions)];
                let ids = [(&batch.items).into(), batch.places(self.hyper.from_start).into()];
                embedding::input(&device, &mut x, &mut work, tables, ids, d, scale, mask.as_ref())?;
            }
            (projection, positions) => {
                embedding::forward(&device, &mut work, Into::Set, self.input_parts(), &batch.items, d, scale)?;
                if let Some(projection) = projection {
                    let context = projection.rows_of(&device, &batch.context, r)?;
                    projection.forward(&device, &self.list, &mut x, &context, d)?;
                    rows::add(&device, &mut work, &x, scale)?;
                    self.input_rows = Some(context);
                }
                if let Some(positions) = positions {
                    let places = batch.places(self.hyper.from_start);
                    embedding::forward(&device, &mut work, Into::Add, self.list.value(positions), places, d, 1.0)?;
                }
                dropout::forward(&device, &mut x, &work, mask.as_ref())?;
            }
        }
        self.x = x;
        self.work = work;
        // What a block hands on is normalised in the same pass where a norm comes next: that of the block above, or the last one where
        // every row asks.
        let last = self.final_norm.filter(|_| queries == Queries::All);
        for b in 0..self.blocks.len() {
            let (before, rest) = self.saved.split_at_mut(b);
            let (own, above) = rest.split_at_mut(1);
            let input = before.last().map_or(&self.x, |s| &s.y);
            let next = match (self.blocks.get(b + 1), above.first_mut()) {
                (Some(block), Some(saved)) => block.norm_before(&self.hyper, &self.list, saved),
                _ => last.map(|at| NormAfter::new(&self.list, at, &mut self.query, &mut self.final_stats)),
            };
            let (scratch, offsets) = (&mut self.scratch, (&batch.offsets).into());
            let block = &self.blocks[b];
            block.forward(&device, &self.hyper, &self.list, &mut own[0], scratch, input, offsets, masks, next)?;
        }

        self.query_rows = match queries {
            Queries::All => Vec::new(),
            Queries::Last => batch.offsets[1..].iter().map(|&end| end - 1).collect(),
        };
        self.queries = queries;
        if queries == Queries::Last {
            let top = self.saved.last().map_or(&self.x, |s| &s.y);
            rows::select(&device, &mut self.selected, top, &self.query_rows, d)?;
        }
        if let Some([gain, bias]) = self.final_norm.filter(|_| last.is_none() || self.blocks.is_empty()) {
            let asking = asking(queries, &self.selected, &self.saved, &self.x);
            let (gain, bias) = (self.list.value(gain), self.list.value(bias));
            layer_norm::forward(&device, &mut self.query, &mut self.final_stats, asking, gain, bias)?;
        }
        if let Some(projection) = &self.projection {
            let context = match queries {
                Queries::All => projection.rows_of(&device, &batch.target_context, r)?,
                Queries::Last => {
                    projection.rows(&device, &batch.target_context.pick(&self.query_rows, r), self.query_rows.len())?
                }
            };
            projection.forward(&device, &self.list, &mut self.target_context, &context, d)?;
            self.target_rows = Some(context);
        }
        Ok(())
    }

    /// The queries of the last `forward`, ready to score any item.
    pub fn scoring(&self) -> Scoring<'_> {
        Scoring {
            kind: self.hyper.score,
            dim: self.hyper.dim,
            items: self.sizes.items,
            query: match self.final_norm {
                Some(_) => &self.query,
                None => asking(self.queries, &self.selected, &self.saved, &self.x),
            },
            context: self.projection.is_some().then_some(&self.target_context),
            table: self.table(),
        }
    }

    /// g (n,D) of other contexts (wrong ones, for CaNS); its gradient goes to [`Model::other_backward`].
    pub fn other_context(&self, context: Other, n: usize) -> Result<(Buffer, context::Rows)> {
        let projection = self.projection.as_ref().ok_or_else(|| Error::internal("contexts for a model without context"))?;
        let rows = match context {
            Other::Here(context) => projection.rows(&self.device, context, n)?,
            Other::There(numeric) => context::Rows::there(numeric, n),
        };
        let mut g = Buffer::empty(&self.device);
        projection.forward(&self.device, &self.list, &mut g, &rows, self.hyper.dim)?;
        Ok((g, rows))
    }
    pub fn other_backward(&mut self, dg: &Buffer, rows: &context::Rows) -> Result<()> {
        match &self.projection {
            Some(projection) => projection.backward(&self.device, &mut self.list, dg, rows, self.hyper.dim),
            None => Ok(()),
        }
    }

    /// Bytes of all buffers of a pass, for the test of the plan.
    #[cfg(test)]
    fn held(&self) -> u64 {
        let context = |rows: &Option<context::Rows>| rows.as_ref().map_or(0, context::Rows::bytes);
        let own = [&self.x, &self.selected, &self.final_stats, &self.query, &self.target_context, &self.work];
        own.into_iter().map(Buffer::bytes).sum::<u64>()
            + self.saved.iter().map(Saved::bytes).sum::<u64>()
            + self.scratch.bytes()
            + context(&self.input_rows)
            + context(&self.target_rows)
    }

    /// Lends the gradient of the scoring table, to be given back before [`Model::backward`].
    pub fn take_table_grad(&mut self) -> Buffer {
        let empty = Buffer::empty(&self.device);
        std::mem::replace(&mut self.list.params[self.output].grad, empty)
    }
    pub fn give_table_grad(&mut self, grad: Buffer) {
        self.list.params[self.output].grad = grad;
    }

    /// Adds every parameter's gradient from `dquery (Q,D)` (overwritten) and `dcontext (Q,D)`.
    pub fn backward(&mut self, batch: &Batch, dquery: &mut Buffer, dcontext: Option<&Buffer>, masks: &Masks) -> Result<()> {
        let device = self.device.clone();
        let (d, r) = (self.hyper.dim, batch.rows());
        // The contexts are let go of: a recorded step finds its arrays where they were only if the one before it has left the place.
        if let (Some(projection), Some(dg), Some(rows)) = (&self.projection, dcontext, self.target_rows.take()) {
            projection.backward(&device, &mut self.list, dg, &rows, d)?;
        }
        let mut work = std::mem::replace(&mut self.work, Buffer::empty(&device));
        let (vectors, gaps) = self.list.vector_gradients()?;
        let mut sums = Sums::new(&device, vectors, gaps, r)?;
        if let Some(at) = self.final_norm {
            let (gain, dgain, dbias) = self.list.norm_parts(at);
            let asking = asking(self.queries, &self.selected, &self.saved, &self.x);
            layer_norm::backward(
                &device,
                &mut sums,
                Into::Set,
                &mut work,
                dgain,
                dbias,
                dquery,
                &self.final_stats,
                asking,
                gain,
            )?;
            std::mem::swap(&mut work, dquery);
        }
        if !self.query_rows.is_empty() {
            rows::restore(&device, &mut work, dquery, &self.query_rows, r, d)?;
            std::mem::swap(&mut work, dquery);
        }
        let dy = dquery;
        for b in (0..self.blocks.len()).rev() {
            let (before, rest) = self.saved.split_at_mut(b);
            let input = before.last().map_or(&self.x, |s| &s.y);
            let block = &self.blocks[b];
            block.backward(
                &device,
                &mut sums,
                &self.hyper,
                &mut self.list,
                &rest[0],
                &mut self.scratch,
                dy,
                input,
                (&batch.offsets).into(),
                masks,
            )?;
        }
        sums.finish(&device)?;
        dropout::forward(&device, &mut work, dy, masks.input().as_ref())?;
        embedding::backward(&device, self.list.grad_mut(self.items), &work, &batch.items, d, self.hyper.scale)?;
        if let Some(positions) = self.positions {
            let places = batch.places(self.hyper.from_start);
            embedding::backward(&device, self.list.grad_mut(positions), &work, places, d, 1.0)?;
        }
        if let (Some(projection), Some(context)) = (&self.projection, self.input_rows.take()) {
            dy.clear(&device)?;
            rows::add(&device, dy, &work, self.hyper.scale)?;
            projection.backward(&device, &mut self.list, dy, &context, d)?;
        }
        self.work = work;
        if let (Some(u), Some(lists)) = (self.attributes, &self.sizes.attributes) {
            for table in if self.output == self.items { vec![self.items] } else { vec![self.items, self.output] } {
                let (first, second) = self.list.params.split_at_mut(u);
                attributes::backward(&device, &mut second[0].grad, &first[table].grad, lists, d)?;
            }
        }
        Ok(())
    }
}

/// Contexts of events outside the batch: encoded on the host, or (n,Cn) where the model is.
pub enum Other<'a> {
    Here(&'a ContextRows),
    There(Arc<Buffer>),
}

/// (Q,D) the rows that ask: those `selected`, or all of the last block's, of x where there is none.
fn asking<'a>(queries: Queries, selected: &'a Buffer, saved: &'a [Saved], x: &'a Buffer) -> &'a Buffer {
    match queries {
        Queries::All => saved.last().map_or(x, |block| &block.y),
        Queries::Last => selected,
    }
}
