//! Every loss through `ops/sampled_loss.rs` and `ops/full_softmax.rs`, against loops that are the formulas.

use super::*;
use crate::device::{Buffer, Device};
use crate::ids;
use crate::ops::central::{check as differences, noise};
use crate::ops::negatives::Negatives;
use crate::ops::sampled_loss::{Gradients, LossReal, RowFacts, forward_backward};
use crate::ops::score::{ScoreKind, Scoring};
use crate::ops::{full_softmax, whole_data};
use crate::rng::{Draws, Stream, below};

mod edges;
mod gradients;
mod limits;
mod rows;

fn kind(name: &str, params: &[(&str, Value)]) -> Kind {
    Kind { kind: name.into(), params: params.iter().map(|(k, v)| (k.to_string(), v.clone())).collect() }
}

fn sampled(kind: &Kind, items: usize, negatives: usize) -> Box<dyn RowLoss> {
    match build(kind, items, negatives, ScoreKind::Dot).unwrap() {
        Loss::Sampled(loss) => loss,
        Loss::Full | Loss::WholeData { .. } => panic!("{} is not sampled", kind.kind),
    }
}

fn word(text: &str) -> Value {
    Value::Word(text.into())
}

/// Every sampled loss whose value has the gradient it returns (the revised softmax holds a factor constant).
fn differentiable() -> Vec<Kind> {
    vec![
        kind("bce", &[]),
        kind("gbce", &[("t", Value::Number(0.6))]),
        kind("bpr", &[]),
        kind("sampled_softmax", &[("temperature", Value::Number(0.7))]),
        kind("sampled_softmax", &[("log_q", word("classic"))]),
        contrastive(0.7, 0.0, 0.0),
        contrastive(1.0, 0.1, 0.8),
        contrastive(0.5, 0.4, 0.0),
        kind("bpr_max", &[("lambda", Value::Number(0.3))]),
        kind("hinge", &[("margin", Value::Number(0.3))]),
        kind("hard_bpr", &[]),
        kind("pu", &[("prior", Value::Number(0.3))]),
    ]
}

fn contrastive(temperature: f64, tau_plus: f64, beta: f64) -> Kind {
    let numbers = [("temperature", temperature), ("tau_plus", tau_plus), ("beta", beta)];
    kind("contrastive", &numbers.map(|(name, x)| (name, Value::Number(x))))
}

const KINDS_OF_SCORE: [ScoreKind; 2] = [ScoreKind::Dot, ScoreKind::Cosine { temperature: 0.4 }];

/// One problem: shapes, ids and numbers.
struct Case {
    score: ScoreKind,
    r: usize,
    v: usize,
    d: usize,
    w: usize,
    with_context: bool,
    targets: Vec<u32>,
    negatives: Negatives,
    /// p (R,D), a (V,D), g (R,D), g~ (R,W,D); the last two may be empty
    inputs: Vec<Vec<f64>>,
}

/// How much of the contract a case uses.
#[derive(Clone, Copy)]
struct Extras {
    context: bool,
    w: usize,
    holes: bool,
    weights: bool,
    /// Negatives moved towards the positive, where scores are dot products.
    mixed: bool,
}

const PLAIN: Extras = Extras { context: false, w: 0, holes: false, weights: false, mixed: false };
const EVERYTHING: Extras = Extras { context: true, w: 2, holes: true, weights: true, mixed: true };

fn case(score: ScoreKind, [r, v, d, n]: [usize; 4], group_offsets: Vec<u32>, extras: Extras) -> Case {
    let draws = Draws::new(1, Stream::Test, 77, 0);
    let word = |i: usize| draws.words64(i as u64)[0];
    let groups = group_offsets.len() - 1;
    let targets = (0..r).map(|i| below(word(i), v as u64) as u32).collect();
    let hole = |i: usize| extras.holes && below(word(50_000 + i), 4) == 0;
    let ids = (0..groups * n).map(|i| if hole(i) { ids::NONE } else { below(word(1000 + i), v as u64) as u32 }).collect();
    let negatives = Negatives {
        n,
        group_offsets,
        ids,
        log_q: (0..groups * n).map(|i| -1.0 - below(word(9000 + i), 100) as f32 / 50.0).collect(),
        drop: if extras.holes { (0..r * n).map(|i| hole(200_000 + i)).collect() } else { vec![] },
        weight: if extras.weights { (0..r * n).map(|i| below(word(7000 + i), 5) as f32 / 2.0).collect() } else { vec![] },
        row_weight: if extras.weights { (0..r).map(|i| below(word(400_000 + i), 5) as f32 / 2.0).collect() } else { vec![] },
        toward_positive: if extras.mixed && score == ScoreKind::Dot {
            (0..r).map(|i| below(word(300_000 + i), 8) as f32 / 8.0).collect()
        } else {
            vec![]
        },
        wrong_context: vec![0; r * extras.w],
        ..Negatives::default()
    };
    let context = if extras.context { r * d } else { 0 };
    let inputs = vec![noise(0, r * d), noise(1, v * d), noise(2, context), noise(3, r * extras.w * d)];
    Case { score, r, v, d, w: extras.w, with_context: extras.context, targets, negatives, inputs }
}

/// Loss and the four gradients by our path.
fn ours(device: &Device, case: &Case, inputs: &[Vec<f64>], loss: &Loss) -> (f64, Vec<Vec<f64>>) {
    let [query, table, context, wrong] = [0, 1, 2, 3].map(|i| device.reals(&inputs[i]).unwrap());
    let scoring = Scoring {
        kind: case.score,
        dim: case.d,
        items: case.v,
        query: &query,
        context: case.with_context.then_some(&context),
        table: &table,
    };
    let [mut dp, mut dg, mut dw] = [(); 3].map(|_| Buffer::empty(device));
    let mut da = device.zeros(case.v * case.d).unwrap();
    let grads = Gradients {
        query: &mut dp,
        context: case.with_context.then_some(&mut dg),
        wrong: (case.w > 0).then_some(&mut dw),
        table: &mut da,
    };
    let scale = 1.0 / case.r.max(1) as f64;
    let value = match loss {
        Loss::Full => full_softmax::forward_backward(device, grads, &scoring, &case.targets, scale),
        Loss::WholeData { unseen } => whole_data::forward_backward(device, grads, &scoring, &case.targets, *unseen, scale),
        Loss::Sampled(loss) => {
            let wrong = (case.w > 0).then_some(&wrong);
            forward_backward(device, grads, &scoring, &case.targets, &case.negatives, wrong, loss.as_ref(), scale)
        }
    };
    (value.unwrap().read(device).unwrap(), [&dp, &da, &dg, &dw].map(|b| b.to_f64(device).unwrap()).to_vec())
}

/// The same by one running sum per element, in the number type `T`.
fn naive<T: LossReal>(case: &Case, inputs: &[Vec<f64>], loss: &Loss) -> (f64, Vec<Vec<f64>>) {
    let x: Vec<Vec<T>> = inputs.iter().map(|v| v.iter().map(|&x| T::from_f64(x)).collect()).collect();
    let mut grads: Vec<Vec<T>> = x.iter().map(|v| vec![T::ZERO; v.len()]).collect();
    let (d, n, w) = (case.d, &case.negatives, case.w);
    let scale = T::from_f64(1.0 / case.r.max(1) as f64);
    let mut total = T::ZERO;
    let dot = |x: &[T], y: &[T]| x.iter().zip(y).map(|(&x, &y)| x * y).sum::<T>();
    // (offset into a, buffer and offset of the context): every score of a row.
    let of = |r: usize, item: usize, context: Option<(usize, usize)>| {
        let (p, a) = (&x[0][r * d..(r + 1) * d], &x[1][item * d..(item + 1) * d]);
        let e: Vec<T> = (0..d).map(|j| context.map_or(a[j], |(b, at)| a[j] + x[b][at + j])).collect();
        match case.score {
            ScoreKind::Dot => (dot(p, &e), e),
            ScoreKind::Cosine { temperature } => {
                (dot(p, &e) / (dot(p, p).sqrt() * dot(&e, &e).sqrt() * T::from_f64(temperature)), e)
            }
        }
    };
    for r in 0..case.r {
        let own = case.with_context.then_some((2, r * d));
        let target = case.targets[r] as usize;
        let mut columns: Vec<(usize, Option<(usize, usize)>)> = vec![];
        let (mut log_q, mut weight, mut drawn) = (vec![], vec![], 0);
        if let Loss::Sampled(_) = loss {
            let group = n.group_offsets.iter().rposition(|&o| o as usize <= r).unwrap();
            for j in 0..n.n {
                let id = n.ids_of(group)[j];
                drawn += usize::from(id != ids::NONE);
                if id == ids::NONE || (!n.drop.is_empty() && n.drop[r * n.n + j]) {
                    continue;
                }
                columns.push((id as usize, own));
                log_q.push(n.log_q[group * n.n + j]);
                weight.extend(n.weight.get(r * n.n + j));
            }
            columns.extend((0..w).map(|x| (target, Some((3, (r * w + x) * d)))));
            weight.resize(if n.weight.is_empty() { 0 } else { columns.len() }, 1.0);
        } else {
            columns.extend((0..case.v).map(|i| (i, own)));
        }
        let mut scored: Vec<(T, Vec<T>)> = columns.iter().map(|&(i, c)| of(r, i, c)).collect();
        let positive = of(r, target, own);
        // Mixing by vectors, where our path mixes scores.
        let toward = T::from_f64(f64::from(n.toward_positive.get(r).copied().unwrap_or(0.0)));
        let toward_of = |column: usize| if column < log_q.len() { toward } else { T::ZERO };
        for (column, (s, e)) in scored.iter_mut().enumerate().filter(|(column, _)| toward_of(*column) > T::ZERO) {
            e.iter_mut().zip(&positive.1).for_each(|(e, &own)| *e = toward_of(column) * own + (T::ONE - toward_of(column)) * *e);
            *s = dot(&x[0][r * d..(r + 1) * d], e);
        }
        let scores: Vec<T> = scored.iter().map(|s| s.0).collect();
        let mut ds = vec![T::ZERO; scores.len()];
        let (value, d_positive) = match loss {
            Loss::Sampled(loss) => {
                let facts = RowFacts { drawn, log_q: &log_q, weight: &weight };
                T::row(loss.as_ref(), positive.0, &scores, facts, &mut ds)
            }
            Loss::Full => {
                let largest = scores.iter().copied().fold(T::NEG_INFINITY, T::max);
                let z: T = scores.iter().map(|&s| (s - largest).exp()).sum();
                ds.iter_mut().zip(&scores).for_each(|(d, &s)| *d = (s - largest).exp() / z);
                (z.ln() + largest - positive.0, -T::ONE)
            }
            Loss::WholeData { unseen } => {
                // Every item by its own square, the target's once more to leave it out and once for its error.
                let (c, two) = (T::from_f64(*unseen), T::from_f64(2.0));
                ds.iter_mut().zip(&scores).for_each(|(d, &s)| *d = two * c * s);
                let (s, all) = (positive.0, scores.iter().map(|&s| c * s * s).sum::<T>());
                (all - c * s * s + (s - T::ONE) * (s - T::ONE), two * (s - T::ONE) - two * c * s)
            }
        };
        let counts =
            T::from_f64(f64::from(n.row_weight.get(r).copied().filter(|_| matches!(loss, Loss::Sampled(_))).unwrap_or(1.0)));
        total += value * counts;
        columns.push((target, own));
        ds.push(d_positive);
        for (column, ((&(item, context), (s, e)), &ds)) in
            columns.iter().zip(scored.iter().chain([&positive])).zip(&ds).enumerate()
        {
            let (ds, toward) = (ds * scale * counts, toward_of(column));
            let p = &x[0][r * d..(r + 1) * d];
            let (pp, ee) = (dot(p, p), dot(e, e));
            for j in 0..d {
                let (dp, de) = match case.score {
                    ScoreKind::Dot => (ds * e[j], ds * p[j]),
                    ScoreKind::Cosine { temperature } => {
                        let alpha = ds / (pp.sqrt() * ee.sqrt() * T::from_f64(temperature));
                        (alpha * e[j] - ds * *s / pp * p[j], alpha * p[j] - ds * *s / ee * e[j])
                    }
                };
                grads[0][r * d + j] += dp;
                grads[1][item * d + j] += (T::ONE - toward) * de;
                grads[1][target * d + j] += toward * de;
                if let Some((buffer, at)) = context {
                    grads[buffer][at + j] += de;
                }
            }
        }
    }
    let wide = |v: &Vec<T>| v.iter().map(|x| x.f64()).collect();
    (total.f64() * scale.f64(), grads.iter().map(wide).collect())
}

/// Offsets of groups for each scope: one row each, sequences of odd lengths (one empty), and the whole batch.
fn scopes(r: usize) -> [Vec<u32>; 3] {
    let r = r as u32;
    let cut = [0, r.min(1), r.min(1), r.min(6), r];
    [(0..=r).collect(), cut.to_vec(), vec![0, r]]
}

fn close(got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.len(), want.len());
        for (j, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "gradient {i} element {j}: {g} against {w}");
        }
    }
}

#[test]
fn the_registry_refuses_what_it_does_not_know() {
    let code = |k: &Kind| build(k, 10, 2, ScoreKind::Dot).map(|_| ()).map_err(|e| (e.code(), e.to_string()));
    for declared in KINDS {
        assert!(code(&kind(declared.name, &[])).is_ok());
        assert!(declared.help.len() > 10 && declared.source.len() > 10);
        assert_eq!(matches!(build(&kind(declared.name, &[]), 10, 2, ScoreKind::Dot), Ok(Loss::Sampled(_))), declared.sampled);
    }
    let (c, text) = code(&kind("gbec", &[])).unwrap_err();
    assert!(c == Code::C0202 && text.contains("did you mean `gbce`?"));
    let (c, text) = code(&kind("sampled_softmax", &[("temprature", Value::Number(1.0))])).unwrap_err();
    assert!(c == Code::C0201 && text.contains("temperature"));
    assert_eq!(code(&kind("bce", &[("t", Value::Number(0.5))])).unwrap_err().0, Code::C0203);
    assert_eq!(code(&kind("gbce", &[("t", Value::Number(1.5))])).unwrap_err().0, Code::C0202);
    assert_eq!(code(&kind("gbce", &[("t", Value::Number(f64::NAN))])).unwrap_err().0, Code::C0202);
    assert_eq!(code(&kind("gbce", &[("t", word("high"))])).unwrap_err().0, Code::C0202);
    assert_eq!(code(&kind("sampled_softmax", &[("log_q", word("new"))])).unwrap_err().0, Code::C0202);
}

#[cfg(feature = "emulator")]
#[test]
fn kernels_agree_with_the_plain_path() {
    crate::ops::case::emulated::in_every_way(&cases());
    crate::ops::case::emulated::in_every_way(&rounded_cases());
}
