//! Values and gradients: against the formulas written as loops, central differences, and rounding in f32.

use super::*;

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
