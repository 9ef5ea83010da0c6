//! Every sampled loss as cases: each form of the score, each scope, empty and dropped slots, weights, wrong contexts, and negatives
//! on their way to the positive.

use super::{Loss, build};
use crate::config::{Kind, Value};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::case::{self, Case, Output, Values};
use crate::ops::negatives::Negatives;
use crate::ops::sampled_loss::{Gradients, RowLoss, forward_backward};
use crate::ops::score::{Inputs, ScoreKind, forms};

/// One shape, and how much of the contract it uses.
#[derive(Clone, Copy)]
struct Shape {
    r: usize,
    v: usize,
    d: usize,
    n: usize,
    /// Rows of a group.
    group: usize,
    /// Wrong contexts, where there are contexts.
    w: usize,
    /// Empty and dropped slots, weights of slots and rows with zeros among them; with dot scores, negatives moved towards the positive.
    holes: bool,
}

const SHAPES: [Shape; 8] = [
    // Wide, because the rounding of a handful of numbers is luck and no measure.
    Shape { r: 1, v: 11, d: 67, n: 3, group: 1, w: 0, holes: false },
    Shape { r: 29, v: 13, d: 5, n: 3, group: 1, w: 0, holes: false },
    Shape { r: 37, v: 17, d: 16, n: 5, group: 1, w: 2, holes: true },
    Shape { r: 33, v: 5, d: 31, n: 0, group: 4, w: 1, holes: false },
    Shape { r: 5, v: 131, d: 64, n: 33, group: 5, w: 0, holes: true },
    // One item with more records than a piece of the table gradient holds.
    Shape { r: 67, v: 1, d: 65, n: 9, group: 1, w: 3, holes: false },
    Shape { r: 23, v: 33, d: 200, n: 7, group: 2, w: 1, holes: true },
    Shape { r: 19, v: 9, d: 512, n: 4, group: 3, w: 2, holes: true },
];

/// Of machines that round: as many records as make rounding every vector once worth while.
const ROUNDED: [(Shape, [usize; 2]); 4] = [
    (Shape { r: 37, v: 17, d: 16, n: 6, group: 1, w: 2, holes: true }, [0, 4]),
    (Shape { r: 33, v: 140, d: 64, n: 70, group: 5, w: 0, holes: true }, [4, 9]),
    (Shape { r: 29, v: 13, d: 132, n: 9, group: 1, w: 1, holes: false }, [2, 4]),
    (Shape { r: 19, v: 3, d: 512, n: 4, group: 3, w: 2, holes: true }, [1, 4]),
];
/// Name, correction by `log_q`, other parameters.
type Chosen = (&'static str, &'static str, &'static [(&'static str, f64)]);

const LOSSES: [Chosen; 14] = [
    ("bce", "", &[]),
    ("gbce", "", &[("t", 0.6)]),
    ("bpr", "", &[]),
    ("sampled_softmax", "none", &[("temperature", 0.7)]),
    ("sampled_softmax", "classic", &[]),
    ("sampled_softmax", "revised", &[]),
    ("contrastive", "", &[("temperature", 0.7)]),
    ("contrastive", "", &[("tau_plus", 0.1), ("beta", 0.8)]),
    // Low enough to be below the floor in some rows and above it in others.
    ("contrastive", "", &[("tau_plus", 0.4), ("lowest", -0.5)]),
    ("bpr_max", "", &[("lambda", 0.3)]),
    ("hinge", "", &[("margin", 0.3)]),
    ("hard_bpr", "", &[]),
    ("pu", "", &[("prior", 0.2)]),
    // Large enough to stop some rows at zero.
    ("pu", "", &[("prior", 0.9)]),
];

fn row_loss((name, log_q, numbers): Chosen, items: usize, negatives: usize) -> Result<Box<dyn RowLoss>> {
    let mut params: Vec<(&str, Value)> = numbers.iter().map(|&(name, x)| (name, Value::Number(x))).collect();
    if !log_q.is_empty() {
        params.push(("log_q", Value::Word(log_q.into())));
    }
    let kind = Kind { kind: name.into(), params: params.iter().map(|(k, v)| (k.to_string(), v.clone())).collect() };
    match build(&kind, items, negatives, ScoreKind::Dot)? {
        Loss::Sampled(loss) => Ok(loss),
        Loss::Full | Loss::WholeData { .. } => Err(Error::internal(format!("{name} is not sampled"))),
    }
}

fn negatives(shape: &Shape, mixed: bool) -> Negatives {
    let Shape { r, v, n, group, .. } = *shape;
    let groups = r.div_ceil(group);
    let mut ids = case::ids(4, groups * n, v);
    let log_q: Vec<f32> = case::noise(5, ids.len()).iter().map(|&x| x as f32 - 3.0).collect();
    let mut negatives =
        Negatives { n, group_offsets: (0..=groups).map(|g| (g * group).min(r) as u32).collect(), log_q, ..Negatives::default() };
    if shape.holes {
        ids.iter_mut().step_by(5).for_each(|i| *i = NONE);
        negatives.drop = case::ids(6, r * n, 4).iter().map(|&x| x == 0).collect();
        negatives.weight = case::ids(7, r * n, 5).iter().map(|&x| x as f32 / 4.0).collect();
        negatives.row_weight = case::ids(10, r, 5).iter().map(|&x| x as f32 / 4.0).collect();
        // A row without a single negative.
        negatives.drop[..n].fill(true);
    }
    if mixed {
        negatives.toward_positive = case::ids(9, r, 8).iter().map(|&x| x as f32 / 8.0).collect();
    }
    negatives.ids = ids;
    negatives
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (turn, shape) in SHAPES.into_iter().enumerate() {
        let Shape { d, .. } = shape;
        for (form, kind, with_context) in forms(turn) {
            let w = if with_context { shape.w } else { 0 };
            // All losses at one shape, a third of them at each of the others.
            let losses = LOSSES.into_iter().enumerate().filter(|(l, _)| d == 16 || l % 3 == turn % 3);
            for (_, loss) in losses {
                cases.push(case(shape, (form, kind, with_context), w, loss, false));
            }
        }
    }
    cases
}

/// The same on machines that round: the inputs are exact in bf16, so that what gathers them there may stray no further.
pub fn rounded_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (turn, (shape, losses)) in ROUNDED.into_iter().enumerate() {
        for form in forms(turn) {
            let w = if form.2 { shape.w } else { 0 };
            cases.extend(losses.map(|loss| case(shape, form, w, LOSSES[loss], true)));
        }
    }
    cases
}

/// `loss` of `shape`, `rounded` for a machine that rounds.
fn case(shape: Shape, form: (&'static str, ScoreKind, bool), w: usize, loss: Chosen, rounded: bool) -> Case {
    let (Shape { r, v, d, n, .. }, (form, kind, with_context)) = (shape, form);
    let numbers: String = loss.2.iter().map(|(name, x)| format!(" {name} {x}")).collect();
    let name = format!("{} {}{numbers}, {form}, R {r}, V {v}, D {d}, N {n}, W {w}", loss.0, loss.1);
    let run = move |device: &Device| {
        let mut inputs = Inputs::new(device, [r, v, d], kind, with_context, false)?;
        if rounded {
            inputs = inputs.in_bf16(device)?;
        }
        let noise: Vec<f64> = case::noise(8, r * w * d).iter().map(|x| x * (d as f64).powf(-0.25)).collect();
        let wrong = (w > 0).then(|| device.reals(&noise)).transpose()?;
        let empty = || Buffer::empty(device);
        let (mut dp, mut dg, mut dw, mut da) = (empty(), empty(), empty(), device.zeros(v * d)?);
        let grads = Gradients {
            query: &mut dp,
            context: with_context.then_some(&mut dg),
            wrong: (w > 0).then_some(&mut dw),
            table: &mut da,
        };
        let value = forward_backward(
            device,
            grads,
            &inputs.scoring(),
            &case::ids(3, r, v),
            &negatives(&shape, shape.holes && kind == ScoreKind::Dot),
            wrong.as_ref(),
            &*row_loss(loss, v, n)?,
            1.0 / r as f64,
        )?;
        let reals = |name, buffer| Output::reals(name, device, buffer);
        Ok(vec![
            Output { name: "loss", values: Values::Reals(vec![value.read(device)?]) },
            reals("dp", &dp)?,
            reals("dg", &dg)?,
            reals("dg~", &dw)?,
            reals("da", &da)?,
        ])
    };
    match rounded {
        true => Case::rounded("sampled_loss", name, &[], run),
        false => Case::new("sampled_loss", name, run),
    }
}
