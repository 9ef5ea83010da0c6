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
        let (mut log_q, mut weight) = (vec![], vec![]);
        if let Loss::Sampled(_) = loss {
            let group = n.group_offsets.iter().rposition(|&o| o as usize <= r).unwrap();
            for j in 0..n.n {
                let id = n.ids_of(group)[j];
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
                let facts = RowFacts { drawn: log_q.len(), log_q: &log_q, weight: &weight };
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
fn every_loss_has_the_gradient_of_its_value_in_every_scope() {
    for score in KINDS_OF_SCORE {
        for scope in scopes(9) {
            for extras in [PLAIN, EVERYTHING] {
                let case = case(score, [9, 7, 5, 6], scope.clone(), extras);
                // A kink of the hinge within a step of the difference is no fault; with everything on, one is.
                for kind in differentiable().into_iter().filter(|kind| kind.kind != "hinge" || !extras.mixed) {
                    println!("{kind:?}, {score:?}, {scope:?}");
                    let loss = Loss::Sampled(sampled(&kind, case.v, case.negatives.n));
                    let (value, grads) = ours(&Device::ORACLE, &case, &case.inputs, &loss);
                    assert!((value - naive::<f64>(&case, &case.inputs, &loss).0).abs() < 1e-12);
                    differences(&case.inputs, &grads, |inputs| naive::<f64>(&case, inputs, &loss).0);
                }
            }
        }
    }
}

#[test]
fn the_full_softmax_has_the_gradient_of_its_value() {
    for score in KINDS_OF_SCORE {
        for context in [false, true] {
            for [r, v, d] in [[1, 1, 1], [5, 13, 6], [40, 3, 2]] {
                let case = case(score, [r, v, d, 0], vec![0, r as u32], Extras { context, ..PLAIN });
                let (value, grads) = ours(&Device::ORACLE, &case, &case.inputs, &Loss::Full);
                assert!((value - naive::<f64>(&case, &case.inputs, &Loss::Full).0).abs() < 1e-12);
                if d > 1 {
                    differences(&case.inputs, &grads, |inputs| naive::<f64>(&case, inputs, &Loss::Full).0);
                }
            }
        }
    }
}

/// Vectors that are no items, against a loop in which they are two more columns of scores.
#[test]
fn generated_vectors_are_further_negatives_and_no_item() {
    for context in [false, true] {
        for kind in differentiable().into_iter().chain([kind("sampled_softmax", &[("log_q", word("revised"))])]) {
            let mut case = case(ScoreKind::Dot, [9, 7, 5, 6], vec![0, 4, 9], Extras { context, ..PLAIN });
            let (r, d, count) = (case.r, case.d, 2);
            case.negatives.generated = noise(8, r * count * d).iter().map(|&x| x as f32).collect();
            let row_loss = sampled(&kind, case.v, 8);
            let vectors: Vec<f64> = case.negatives.generated.iter().map(|&x| f64::from(x)).collect();
            let value = |inputs: &[Vec<f64>]| {
                let (p, a) = (&inputs[0], &inputs[1]);
                let score = |r: usize, i: u32| -> f64 {
                    let e = |j: usize| a[i as usize * d + j] + if context { inputs[2][r * d + j] } else { 0.0 };
                    (0..d).map(|j| p[r * d + j] * e(j)).sum()
                };
                let of_row = |r: usize| {
                    let group = usize::from(r >= 4);
                    let n = &case.negatives;
                    let mut scores: Vec<f64> = n.ids_of(group).iter().map(|&i| score(r, i)).collect();
                    scores.extend(
                        (0..count).map(|w| -> f64 { (0..d).map(|j| p[r * d + j] * vectors[(r * count + w) * d + j]).sum() }),
                    );
                    let facts = RowFacts { drawn: n.n, log_q: &n.log_q[group * n.n..(group + 1) * n.n], weight: &[] };
                    let mut ds = vec![0.0; scores.len()];
                    row_loss.row_f64(score(r, case.targets[r]), &scores, facts, &mut ds).0
                };
                (0..r).map(of_row).sum::<f64>() / r as f64
            };
            let loss = Loss::Sampled(sampled(&kind, case.v, 8));
            let (got, grads) = ours(&Device::ORACLE, &case, &case.inputs, &loss);
            assert!((got - value(&case.inputs)).abs() < 1e-12, "{kind:?}: {got} against {}", value(&case.inputs));
            if kind.params.get("log_q") != Some(&word("revised")) {
                differences(&case.inputs, &grads, value);
            }
        }
    }
}

#[test]
fn the_whole_data_loss_is_the_sum_over_all_items_and_has_its_gradient() {
    for unseen in [0.0, 0.1, 1.0] {
        let loss = Loss::WholeData { unseen };
        for [r, v, d] in [[1, 1, 1], [5, 13, 6], [40, 3, 2], [700, 97, 19]] {
            let case = case(ScoreKind::Dot, [r, v, d, 0], vec![0, r as u32], PLAIN);
            let (value, grads) = ours(&Device::ORACLE, &case, &case.inputs, &loss);
            let want = naive::<f64>(&case, &case.inputs, &loss);
            assert!((value - want.0).abs() < 1e-11 * want.0.abs().max(1.0), "{value} against {}", want.0);
            close(&grads, &want.1, 1e-11);
            if r < 50 {
                differences(&case.inputs, &grads, |inputs| naive::<f64>(&case, inputs, &loss).0);
            }
            let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let run = |threads| pool(threads).install(|| ours(&Device::HOST, &case, &case.inputs, &loss));
            assert!(run(1) == run(3));
        }
    }
    let empty = case(ScoreKind::Dot, [0, 3, 2, 0], vec![0], PLAIN);
    assert_eq!(ours(&Device::HOST, &empty, &empty.inputs, &Loss::WholeData { unseen: 0.1 }).0, 0.0);
}

/// Sizes that cross vector lanes, row blocks, passes and softmax tiles.
#[test]
fn large_odd_sizes_agree_with_the_loops() {
    for score in KINDS_OF_SCORE {
        for (sizes, extras) in [([1100, 301, 33, 5], EVERYTHING), ([301, 67, 65, 257], EVERYTHING), ([1300, 40, 8, 1], PLAIN)] {
            for scope in scopes(sizes[0]) {
                let case = case(score, sizes, scope, extras);
                for loss in [Loss::Sampled(sampled(&kind("bce", &[]), case.v, sizes[3])), Loss::Full] {
                    let full = matches!(loss, Loss::Full);
                    let case = Case { w: if full { 0 } else { case.w }, ..clone(&case) };
                    let mut inputs = case.inputs.clone();
                    inputs[3].truncate(case.r * case.w * case.d);
                    let (value, grads) = ours(&Device::ORACLE, &case, &inputs, &loss);
                    let (want, want_grads) = naive::<f64>(&case, &inputs, &loss);
                    assert!((value - want).abs() < 1e-11 * (1.0 + want.abs()));
                    // Near-opposite a and g lose digits in |a|^2 + 2 a.g + |g|^2, by at most 1e6 at the floor.
                    close(&grads, &want_grads, 1e-9);
                }
            }
        }
    }
}

fn clone(case: &Case) -> Case {
    Case { targets: case.targets.clone(), negatives: case.negatives.clone(), inputs: case.inputs.clone(), ..*case }
}

/// Largest error of each gradient and of the value.
fn errors(got: &(f64, Vec<Vec<f64>>), want: &(f64, Vec<Vec<f64>>)) -> Vec<f64> {
    let mut errors = vec![(got.0 - want.0).abs()];
    for (g, w) in got.1.iter().zip(&want.1) {
        errors.push(g.iter().zip(w).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max));
    }
    errors
}

#[test]
fn f32_is_as_exact_as_plain_f32_loops() {
    for score in KINDS_OF_SCORE {
        for scope in scopes(300) {
            let case = case(score, [300, 211, 64, 40], scope, Extras { w: 1, context: true, ..PLAIN });
            for kind in differentiable() {
                let loss = Loss::Sampled(sampled(&kind, case.v, 40));
                let exact = naive::<f64>(&case, &case.inputs, &loss);
                let ours = errors(&ours(&Device::HOST, &case, &case.inputs, &loss), &exact);
                let plain = errors(&naive::<f32>(&case, &case.inputs, &loss), &exact);
                for (o, p) in ours.iter().zip(&plain) {
                    // Three times, since sums are long; the addend is one rounding of a value or gradient of order one.
                    assert!(*o <= 3.0 * p + 1.2e-7, "{} {score:?}: {ours:?} against {plain:?}", kind.kind);
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for score in KINDS_OF_SCORE {
        for scope in scopes(700) {
            let case = case(score, [700, 97, 19, 20], scope, Extras { w: 0, ..EVERYTHING });
            for loss in [Loss::Full, Loss::Sampled(sampled(&kind("sampled_softmax", &[]), case.v, 20))] {
                let run = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| ours(&Device::HOST, &case, &case.inputs, &loss))
                };
                let one = run(1);
                assert!(one == run(2) && one == run(5));
            }
        }
    }
}

/// All other items as negatives of every row, each drawn with certainty `q`.
fn whole_catalogue(score: ScoreKind, q: f64) -> Case {
    let [r, v, d] = [11, 23, 9];
    let mut case = case(score, [r, v, d, 0], (0..=r as u32).collect(), Extras { context: true, ..PLAIN });
    case.negatives.n = v - 1;
    for &target in &case.targets {
        case.negatives.ids.extend((0..v as u32).filter(|&i| i != target));
    }
    case.negatives.log_q = vec![q.ln() as f32; r * (v - 1)];
    case
}

#[test]
fn sampling_everything_is_the_full_softmax() {
    for score in KINDS_OF_SCORE {
        // 1/m is exact in f32 only for some m: the correction ln(m q) is then zero to the last place of f32.
        let case = whole_catalogue(score, 1.0 / 22.0);
        let (full, full_grads) = ours(&Device::ORACLE, &case, &case.inputs, &Loss::Full);
        for (log_q, tolerance) in [("none", 1e-12), ("classic", 1e-6), ("revised", 1e-6)] {
            let loss = Loss::Sampled(sampled(&kind("sampled_softmax", &[("log_q", word(log_q))]), case.v, 22));
            let (value, grads) = ours(&Device::ORACLE, &case, &case.inputs, &loss);
            close(&grads, &full_grads, tolerance);
            assert!(log_q == "revised" || (value - full).abs() < tolerance * (1.0 + full));
        }
    }
}

#[test]
fn a_uniform_probability_of_one_over_m_corrects_nothing() {
    let mut case = case(ScoreKind::Dot, [12, 31, 8, 4], vec![0, 5, 12], PLAIN);
    // ln(4 * 1/4) is exactly zero only up to the rounding of ln 4 to f32.
    case.negatives.log_q = vec![0.25f32.ln(); 8];
    let run = |log_q| {
        let loss = Loss::Sampled(sampled(&kind("sampled_softmax", &[("log_q", word(log_q))]), case.v, 4));
        ours(&Device::ORACLE, &case, &case.inputs, &loss)
    };
    close(&run("classic").1, &run("none").1, 1e-6);
}

#[test]
fn the_revised_softmax_is_the_log_ratio_times_a_constant() {
    let loss = sampled(&kind("sampled_softmax", &[("log_q", word("revised")), ("temperature", Value::Number(0.5))]), 9, 3);
    let (positive, negatives, log_q) = (0.3, [0.1, -0.4, 1.2], [-1.0f32, -2.0, -0.5]);
    let facts = RowFacts { drawn: 3, log_q: &log_q, weight: &[] };
    let z =
        |s: &[f64]| -> f64 { s.iter().zip(&log_q).map(|(s, &q)| (s / 0.5 - f64::from(q) - 3f64.ln()).exp()).sum::<f64>().ln() };
    let share = 1.0 / (1.0 + (positive / 0.5 - z(&negatives)).exp());
    let mut d = [0.0; 3];
    let (value, d_positive) = loss.row_f64(positive, &negatives, facts, &mut d);
    assert!((value - share * (z(&negatives) - positive / 0.5)).abs() < 1e-12);
    assert!((d_positive + share / 0.5).abs() < 1e-12);
    differences(&[negatives.to_vec()], &[d.to_vec()], |s| share * (z(&s[0]) - positive / 0.5));
}

#[test]
fn gbce_runs_from_binary_cross_entropy_to_calibration() {
    let (positive, negatives): (f64, _) = (0.8, [0.2, -1.0, 0.5, 2.0]);
    let row = |kind: &Kind, n: usize| {
        let mut d = vec![0.0; n];
        let facts = RowFacts { drawn: n, ..RowFacts::default() };
        let (loss, d_positive) = sampled(kind, 101, n).row_f64(positive, &negatives[..n], facts, &mut d);
        (loss, d_positive, d)
    };
    let t = |t| kind("gbce", &[("t", Value::Number(t))]);
    // One negative: half of SASRec's loss, since gBCE is a mean over both items.
    let (bce, gbce) = (row(&kind("bce", &[]), 1), row(&t(0.0), 1));
    assert!(
        (bce.0 - 2.0 * gbce.0).abs() < 1e-12
            && (bce.1 - 2.0 * gbce.1).abs() < 1e-12
            && (bce.2[0] - 2.0 * gbce.2[0]).abs() < 1e-12
    );
    // t = 1: beta = alpha = 4/100.
    let softplus = |x: f64| (1.0 + x.exp()).ln();
    let want = (0.04 * softplus(-positive) + negatives.iter().map(|&s| softplus(s)).sum::<f64>()) / 5.0;
    assert!((row(&t(1.0), 4).0 - want).abs() < 1e-12);
    // The paper's form: sigma(s+)^beta through a transformed logit.
    let (alpha, t_mid) = (0.04, 0.75);
    let beta = alpha * ((1.0 - 1.0 / alpha) * t_mid + 1.0 / alpha);
    let power = (1.0 / (1.0 + (-positive).exp())).powf(beta);
    let logit = (power / (1.0 - power)).ln();
    let want = (softplus(-logit) + negatives.iter().map(|&s| softplus(s)).sum::<f64>()) / 5.0;
    assert!((row(&t(t_mid), 4).0 - want).abs() < 1e-12);
}

#[test]
fn nothing_to_compare_with_is_no_error() {
    for device in [Device::HOST, Device::ORACLE] {
        for score in KINDS_OF_SCORE {
            // No rows; no slots; only empty slots.
            let empty = case(score, [0, 5, 3, 2], vec![0], PLAIN);
            let slotless = case(score, [4, 5, 3, 0], vec![0, 4], PLAIN);
            let mut holes = case(score, [6, 5, 3, 2], vec![0, 6], PLAIN);
            holes.negatives.ids.fill(ids::NONE);
            for kind in differentiable() {
                let loss = Loss::Sampled(sampled(&kind, 5, 2));
                assert_eq!(ours(&device, &empty, &empty.inputs, &loss).0, 0.0);
                for case in [&slotless, &holes] {
                    let (value, grads) = ours(&device, case, &case.inputs, &loss);
                    let want = naive::<f64>(case, &case.inputs, &loss);
                    assert!((value - want.0).abs() < 1e-6);
                    close(&grads, &want.1, 1e-6);
                }
            }
            assert_eq!(ours(&device, &empty, &empty.inputs, &Loss::Full).0, 0.0);
        }
    }
}

#[test]
fn scores_of_any_size_give_finite_losses() {
    for kind in differentiable() {
        let loss = sampled(&kind, 100, 2);
        for size in [0.0f32, 1.0, 80.0, 200.0, 1e6] {
            for sign in [1.0, -1.0] {
                let mut d = [0.0; 2];
                let facts = RowFacts { drawn: 2, log_q: &[-3.0, -3.0], weight: &[] };
                let (value, d_positive) = loss.row_f32(size * sign, &[-size * sign, size], facts, &mut d);
                assert!(
                    value.is_finite() && value >= 0.0 && d_positive.is_finite() && d.iter().all(|d| d.is_finite()),
                    "{}",
                    kind.kind
                );
            }
        }
    }
}

#[test]
fn a_broken_hand_over_is_an_internal_error_and_not_a_panic() {
    let good = case(ScoreKind::Dot, [4, 5, 3, 2], vec![0, 4], PLAIN);
    let loss = sampled(&kind("sampled_softmax", &[("log_q", word("classic"))]), 5, 2);
    let run = |negatives: &Negatives, targets: &[u32]| {
        let device = Device::HOST;
        let [query, table] = [0, 1].map(|i| device.reals(&good.inputs[i]).unwrap());
        let scoring = Scoring { kind: good.score, dim: 3, items: 5, query: &query, context: None, table: &table };
        let (mut dp, mut da) = (Buffer::empty(&device), device.zeros(15).unwrap());
        let grads = Gradients { query: &mut dp, context: None, wrong: None, table: &mut da };
        forward_backward(&device, grads, &scoring, targets, negatives, None, loss.as_ref(), 1.0).map(drop).map_err(|e| e.code())
    };
    assert!(run(&good.negatives, &good.targets).is_ok());
    let broken = |change: fn(&mut Negatives)| {
        let mut negatives = good.negatives.clone();
        change(&mut negatives);
        run(&negatives, &good.targets)
    };
    assert_eq!(broken(|n| n.log_q.clear()), Err(Code::I7001));
    assert_eq!(broken(|n| n.ids[1] = 5), Err(Code::I7001));
    assert_eq!(broken(|n| n.group_offsets = vec![0, 3]), Err(Code::I7001));
    assert_eq!(broken(|n| n.group_offsets = vec![]), Err(Code::I7001));
    assert_eq!(broken(|n| n.drop = vec![true]), Err(Code::I7001));
    assert_eq!(run(&good.negatives, &[0, 1, 2, 9]), Err(Code::I7001));
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
}
