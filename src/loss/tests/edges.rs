//! Nothing to compare with, scores of any size, and what is handed over broken.

use super::*;

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
