//! Losses that meet in a limit, and the form of a published formula.

use super::*;

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
