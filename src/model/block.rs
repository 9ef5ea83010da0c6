//! One transformer block: attention and a feed-forward layer, each with a residual connection and a layer norm.
//!
//! ```text
//! pre:    n = norm(x),  m = x + drop(attend(n, n) Wo),   k = norm(m),  y = m + drop(act(k W1) W2)
//! sasrec: n = norm(x),  m = n + drop(attend(n, x) Wo),   k = norm(m),  y = k + drop(drop(act(k W1)) W2)
//! post:   m = norm(x + drop(attend(x, x) Wo)),           y = norm(m + drop(act(m W1) W2))
//! ```
//!
//! `attend(q, x)`: queries of q, keys and values of x. Pre-norm after Xiong et al. (arXiv 2002.04745), post-norm after Vaswani et
//! al. (2017). `sasrec` is what that model's program does (Kang and McAuley, ICDM 2018), unlike the paper's text: only what asks is
//! normalised before attention, and the residual connections carry the normalised vectors.
//!
//! A residual connection and the norm behind it are one operation, across the border of two blocks too: the first norm of a block is
//! taken by the one below it, and only the lowest block takes its own.

use crate::device::{Buffer, Device, Numbers};
use crate::error::Result;
use crate::model::cost::Lengths;
use crate::model::params::ParamList;
use crate::model::{Hyper, Masks, Norm};
use crate::ops::column_sum::Sums;
use crate::ops::cost::{Cost, Pass};
use crate::ops::dropout::{self, Dropout};
use crate::ops::embedding::Into;
use crate::ops::linear::{self, Columns};
use crate::ops::{activation, attention, layer_norm, rows};

/// Positions of the block's parameters in the model's list.
pub struct Block {
    number: usize,
    norm1: [usize; 2],
    qkv: [usize; 2],
    project: [usize; 2],
    norm2: [usize; 2],
    expand: [usize; 2],
    contract: [usize; 2],
}

/// What the backward pass needs, all (R,D) unless noted.
pub struct Saved {
    /// Output of the first norm, or its input (post).
    n1: Buffer,
    stats1: Buffer,
    /// (R,3D)
    qkv: Buffer,
    /// (R,H)
    lse: Buffer,
    attended: Buffer,
    m: Buffer,
    /// Output of the second norm, or its input (post).
    n2: Buffer,
    stats2: Buffer,
    /// (R,F) before and after the activation.
    wide: Buffer,
    active: Buffer,
    pub y: Buffer,
}

impl Saved {
    pub fn new(device: &Device) -> Saved {
        let b = || Buffer::empty(device);
        Saved {
            n1: b(),
            stats1: b(),
            qkv: b(),
            lse: b(),
            attended: b(),
            m: b(),
            n2: b(),
            stats2: b(),
            wide: b(),
            active: b(),
            y: b(),
        }
    }
    /// Elements of all buffers for `rows` R.
    pub fn elements(hyper: &Hyper, rows: usize) -> usize {
        rows * (8 * hyper.dim + 2 * hyper.ffn + hyper.heads + 4)
    }
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        let Saved { n1, stats1, qkv, lse, attended, m, n2, stats2, wide, active, y } = self;
        [n1, stats1, qkv, lse, attended, m, n2, stats2, wide, active, y].into_iter().map(Buffer::bytes).sum()
    }
}

/// Scratch of a pass, shared by all blocks.
pub struct Scratch {
    a: Buffer,
    b: Buffer,
    /// (R,3D) or (R,F)
    wide: Buffer,
}

impl Scratch {
    pub fn new(device: &Device) -> Scratch {
        Scratch { a: Buffer::empty(device), b: Buffer::empty(device), wide: Buffer::empty(device) }
    }
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        [&self.a, &self.b, &self.wide].into_iter().map(Buffer::bytes).sum()
    }
}

/// The norm of what a block hands on: of (R,D), with its results.
pub struct NormAfter<'a> {
    gain: &'a Buffer,
    bias: &'a Buffer,
    y: &'a mut Buffer,
    stats: &'a mut Buffer,
}

impl<'a> NormAfter<'a> {
    /// `at`: the norm's parameters in the list.
    pub fn new(list: &'a ParamList, [gain, bias]: [usize; 2], y: &'a mut Buffer, stats: &'a mut Buffer) -> NormAfter<'a> {
        NormAfter { gain: list.value(gain), bias: list.value(bias), y, stats }
    }
}

/// `x = past + dropout(branch)`, and the norm of it if one comes after.
fn residual(
    device: &Device,
    x: &mut Buffer,
    past: &Buffer,
    branch: &Buffer,
    dropout: Option<&Dropout>,
    norm: Option<NormAfter>,
) -> Result<()> {
    match norm {
        Some(norm) => layer_norm::forward_of_sum(device, x, norm.y, norm.stats, past, branch, dropout, norm.gain, norm.bias),
        None => dropout::residual(device, x, past, branch, dropout),
    }
}

fn shape(hyper: &Hyper) -> attention::Shape {
    attention::Shape { dim: hyper.dim, heads: hyper.heads, causal: hyper.causal }
}

/// The columns of the query's weights, and those of the key's and value's.
fn parts(dim: usize) -> [Columns; 2] {
    [Columns { first: 0, count: dim, of: 3 * dim }, Columns { first: dim, count: 2 * dim, of: 3 * dim }]
}

impl Block {
    pub fn new(number: usize, hyper: &Hyper, list: &mut ParamList) -> Result<Block> {
        let (d, f) = (hyper.dim, hyper.ffn);
        let name = |part: &str| format!("block{number}.{part}");
        Ok(Block {
            number,
            norm1: list.norm(&name("norm1"), d)?,
            qkv: list.linear(&name("attention.qkv"), d, 3 * d)?,
            project: list.linear(&name("attention.project"), d, d)?,
            norm2: list.norm(&name("norm2"), d)?,
            expand: list.linear(&name("feed_forward.expand"), d, f)?,
            contract: list.linear(&name("feed_forward.contract"), f, d)?,
        })
    }

    /// The dropout behind the activation, where the block has one.
    fn inner(&self, hyper: &Hyper, masks: &Masks) -> Option<Dropout> {
        masks.inner(self.number).filter(|_| hyper.norm == Norm::Sasrec)
    }

    /// A pass over the sequences of a batch.
    pub fn cost(hyper: &Hyper, batch: Lengths) -> Pass {
        let (d, f, r) = (hyper.dim, hyper.ffn, batch.rows);
        let shape = shape(hyper);
        // Where two paths meet, their gradients are added: on their own, or by a norm, which reads what is there.
        let (alone, by_norm) = (rows::add_cost(r * d), Cost::moved(r * d));
        let joined = match hyper.norm {
            Norm::Pre => by_norm + by_norm,
            Norm::Sasrec => alone + by_norm,
            Norm::Post => alone + alone,
        };
        let half = layer_norm::cost(r, d) + dropout::residual_cost(r * d);
        let products = [(d, 3 * d), (d, d), (d, f), (f, d)].map(|(k, n)| linear::cost(r, k, n, true));
        let inner = if hyper.norm == Norm::Sasrec { dropout::cost(r * f) } else { Cost::default() };
        half * 2
            + Pass { backward: joined, ..Pass::default() }
            + Pass { forward: inner, backward: inner }
            + attention::cost(r, shape.pairs(r, batch.squares), shape)
            + activation::cost(r * f)
            + products.into_iter().sum::<Pass>()
    }

    /// The block's first norm, for the block below to take, if it is a norm of what that hands on.
    pub fn norm_before<'a>(&self, hyper: &Hyper, list: &'a ParamList, saved: &'a mut Saved) -> Option<NormAfter<'a>> {
        (hyper.norm != Norm::Post).then(|| NormAfter::new(list, self.norm1, &mut saved.n1, &mut saved.stats1))
    }

    /// `saved.y (R,D)` from `x (R,D)`, and the norm that comes next.
    #[allow(clippy::too_many_arguments)]
    pub fn forward(
        &self,
        device: &Device,
        hyper: &Hyper,
        list: &ParamList,
        saved: &mut Saved,
        scratch: &mut Scratch,
        x: &Buffer,
        offsets: Numbers,
        masks: &Masks,
        next: Option<NormAfter>,
    ) -> Result<()> {
        let (d, f) = (hyper.dim, hyper.ffn);
        let r = x.len() / d;
        let s = saved;
        let [site_p, site_a, site_f] = masks.block(self.number);
        let before = hyper.norm != Norm::Post;
        if before && self.number == 0 {
            layer_norm::forward(device, &mut s.n1, &mut s.stats1, x, list.value(self.norm1[0]), list.value(self.norm1[1]))?;
        }
        let [w, b] = self.qkv.map(|at| list.value(at));
        if hyper.norm == Norm::Sasrec {
            let [of_query, others] = parts(d);
            s.qkv.resize(device, r * 3 * d)?;
            linear::multiply(device, &mut s.qkv, &s.n1, w, of_query, r, d)?;
            linear::multiply(device, &mut s.qkv, x, w, others, r, d)?;
            linear::add_bias(device, &mut s.qkv, b)?;
        } else {
            linear::forward(device, &mut s.qkv, if before { &s.n1 } else { x }, w, Some(b), r, d, 3 * d)?;
        }
        attention::forward(device, &mut s.attended, &mut s.lse, &s.qkv, offsets, shape(hyper), site_p.as_ref())?;
        linear::forward(
            device,
            &mut scratch.a,
            &s.attended,
            list.value(self.project[0]),
            Some(list.value(self.project[1])),
            r,
            d,
            d,
        )?;
        if before {
            let past = if hyper.norm == Norm::Sasrec { &s.n1 } else { x };
            let norm = NormAfter::new(list, self.norm2, &mut s.n2, &mut s.stats2);
            residual(device, &mut s.m, past, &scratch.a, site_a.as_ref(), Some(norm))?;
        } else {
            let norm = NormAfter::new(list, self.norm1, &mut s.m, &mut s.stats1);
            residual(device, &mut s.n1, x, &scratch.a, site_a.as_ref(), Some(norm))?;
        }
        let input = if before { &s.n2 } else { &s.m };
        linear::forward(device, &mut s.wide, input, list.value(self.expand[0]), Some(list.value(self.expand[1])), r, d, f)?;
        match self.inner(hyper, masks) {
            None => activation::forward(device, &mut s.active, &s.wide, hyper.activation)?,
            inner => {
                activation::forward(device, &mut scratch.wide, &s.wide, hyper.activation)?;
                dropout::forward(device, &mut s.active, &scratch.wide, inner.as_ref())?;
            }
        }
        linear::forward(
            device,
            &mut scratch.a,
            &s.active,
            list.value(self.contract[0]),
            Some(list.value(self.contract[1])),
            r,
            f,
            d,
        )?;
        match hyper.norm {
            Norm::Pre => residual(device, &mut s.y, &s.m, &scratch.a, site_f.as_ref(), next),
            Norm::Sasrec => residual(device, &mut s.y, &s.n2, &scratch.a, site_f.as_ref(), next),
            Norm::Post => {
                let norm = NormAfter::new(list, self.norm2, &mut s.y, &mut s.stats2);
                residual(device, &mut s.n2, &s.m, &scratch.a, site_f.as_ref(), Some(norm))
            }
        }
    }

    /// Turns `dy (R,D)` into dx in place and adds the parameters' gradients, those of vectors once `sums` are finished.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        device: &Device,
        sums: &mut Sums,
        hyper: &Hyper,
        list: &mut ParamList,
        saved: &Saved,
        scratch: &mut Scratch,
        dy: &mut Buffer,
        x: &Buffer,
        offsets: Numbers,
        masks: &Masks,
    ) -> Result<()> {
        let (d, f) = (hyper.dim, hyper.ffn);
        let r = x.len() / d;
        let s = saved;
        let [site_p, site_a, site_f] = masks.block(self.number);
        let Scratch { a, b, wide } = scratch;

        if hyper.norm == Norm::Post {
            let (gain, dgain, dbias) = list.norm_parts(self.norm2);
            layer_norm::backward(device, sums, Into::Set, a, dgain, dbias, dy, &s.stats2, &s.n2, gain)?;
            std::mem::swap(a, dy);
        }
        // dy is now the gradient of what the feed-forward layer is added to, m or k.
        let (w, dw, db) = list.linear_parts(self.contract);
        dropout::backward_with_bias(device, sums, a, db, dy, site_f.as_ref())?;
        linear::backward(device, Some(wide), dw, None, a, &s.active, w, r, f, d)?;
        let input = if hyper.norm == Norm::Post { &s.m } else { &s.n2 };
        let (w, dw, db) = list.linear_parts(self.expand);
        let expanded = match self.inner(hyper, masks) {
            None => {
                activation::backward_with_bias(device, sums, wide, db, &s.wide, hyper.activation)?;
                &*wide
            }
            inner => {
                activation::backward(device, wide, &s.wide, hyper.activation)?;
                dropout::backward_with_bias(device, sums, b, db, wide, inner.as_ref())?;
                &*b
            }
        };
        match hyper.norm {
            Norm::Pre => linear::backward(device, Some(a), dw, None, expanded, input, w, r, d, f)?,
            _ => linear::multiply_backward_onto(device, dy, a, dw, expanded, input, w, Columns::all(f), r, d)?,
        }
        match hyper.norm {
            Norm::Pre => {
                let (gain, dgain, dbias) = list.norm_parts(self.norm2);
                layer_norm::backward(device, sums, Into::Add, dy, dgain, dbias, a, &s.stats2, &s.m, gain)?;
            }
            Norm::Sasrec => {
                let (gain, dgain, dbias) = list.norm_parts(self.norm2);
                layer_norm::backward(device, sums, Into::Set, a, dgain, dbias, dy, &s.stats2, &s.m, gain)?;
                std::mem::swap(a, dy);
            }
            Norm::Post => {
                let (gain, dgain, dbias) = list.norm_parts(self.norm1);
                layer_norm::backward(device, sums, Into::Set, a, dgain, dbias, dy, &s.stats1, &s.n1, gain)?;
                std::mem::swap(a, dy);
            }
        }
        // dy is now the gradient of what attention is added to, x or n.
        let (w, dw, db) = list.linear_parts(self.project);
        dropout::backward_with_bias(device, sums, a, db, dy, site_a.as_ref())?;
        linear::backward(device, Some(b), dw, None, a, &s.attended, w, r, d, d)?;
        attention::backward(device, wide, b, &s.attended, &s.lse, &s.qkv, offsets, shape(hyper), site_p.as_ref())?;
        let (w, dw, db) = list.linear_parts(self.qkv);
        match hyper.norm {
            Norm::Pre => {
                linear::backward(device, Some(a), dw, None, wide, &s.n1, w, r, d, 3 * d)?;
                sums.add(device, db, wide, 3 * d)?;
                let (gain, dgain, dbias) = list.norm_parts(self.norm1);
                layer_norm::backward(device, sums, Into::Add, dy, dgain, dbias, a, &s.stats1, x, gain)
            }
            Norm::Sasrec => {
                let [of_query, others] = parts(d);
                linear::multiply_backward_onto(device, dy, a, dw, wide, &s.n1, w, of_query, r, d)?;
                linear::multiply_backward(device, Some(a), dw, wide, x, w, others, r, d)?;
                sums.add(device, db, wide, 3 * d)?;
                let (gain, dgain, dbias) = list.norm_parts(self.norm1);
                layer_norm::backward(device, sums, Into::Add, a, dgain, dbias, dy, &s.stats1, x, gain)?;
                std::mem::swap(a, dy);
                Ok(())
            }
            Norm::Post => {
                sums.add(device, db, wide, 3 * d)?;
                linear::multiply_backward_onto(device, dy, a, dw, wide, x, w, Columns::all(3 * d), r, d)
            }
        }
    }
}
