//! Losses of one row against their formulas, written out with exponentials in f64, and their limits. Weights of whole numbers are
//! copies of a slot.

use super::*;

/// One row in f64: the loss, and the gradients of the positive and of the negatives.
fn one_row(kind: &Kind, positive: f64, negatives: &[f64], weight: &[f32]) -> (f64, f64, Vec<f64>) {
    let mut d = vec![f64::NAN; negatives.len()];
    let facts = RowFacts { drawn: negatives.len(), log_q: &[], weight };
    let (loss, d_positive) = sampled(kind, 100, negatives.len()).row_f64(positive, negatives, facts, &mut d);
    (loss, d_positive, d)
}

/// Whether one row's gradients are the differences of `loss`, and its value is `loss`.
fn is_row(kind: &Kind, positive: f64, negatives: &[f64], weight: &[f32], loss: impl Fn(f64, &[f64]) -> f64) {
    let (value, d_positive, d) = one_row(kind, positive, negatives, weight);
    let want = loss(positive, negatives);
    assert!((value - want).abs() < 1e-12 * (1.0 + want.abs()), "{}: {value} against {want}", kind.kind);
    differences(&[vec![positive], negatives.to_vec()], &[vec![d_positive], d], |x| loss(x[0][0], &x[1]));
}

/// Weights as copies of their slots, and slots of weight zero left out.
fn copies(negatives: &[f64], weight: &[f32]) -> Vec<f64> {
    negatives.iter().zip(weight).flat_map(|(&s, &w)| std::iter::repeat_n(s, w as usize)).collect()
}

const NEGATIVES: [f64; 4] = [0.2, -1.0, 0.5, 2.0];
const WHOLE_WEIGHTS: [f32; 4] = [1.0, 3.0, 0.0, 2.0];
#[test]
fn the_contrastive_loss_is_debiased_and_hard_as_its_formula_says() {
    let formula = |t: f64, tau: f64, beta: f64, s: f64, negatives: &[f64]| {
        let m = negatives.len() as f64;
        let tilt: Vec<f64> = negatives.iter().map(|x| (beta * x / t).exp()).collect();
        let mean_tilt = tilt.iter().sum::<f64>() / m;
        let mean = negatives.iter().zip(&tilt).map(|(x, w)| w / mean_tilt * (x / t).exp()).sum::<f64>() / m;
        let g = ((mean - tau * (s / t).exp()) / (1.0 - tau)).max((-1.0 / t).exp());
        ((s / t).exp() + m * g).ln() - s / t
    };
    for (t, tau, beta) in [(0.5, 0.1, 0.0), (1.0, 0.3, 0.0), (0.7, 0.1, 1.0), (2.0, 0.0, 0.5), (1.0, 0.2, 3.0)] {
        let kind = contrastive(t, tau, beta);
        is_row(&kind, 0.3, &NEGATIVES, &[], |s, n| formula(t, tau, beta, s, n));
        is_row(&kind, 0.3, &NEGATIVES, &WHOLE_WEIGHTS, |s, n| formula(t, tau, beta, s, &copies(n, &WHOLE_WEIGHTS)));
    }
    // The floor: the negatives alone explain too little of the positive, and pull at nothing any more.
    let floored = contrastive(0.5, 0.4, 0.0);
    is_row(&floored, 3.0, &NEGATIVES, &[], |s, n| formula(0.5, 0.4, 0.0, s, n));
    assert_eq!(one_row(&floored, 3.0, &NEGATIVES, &[]).2, vec![0.0; 4]);
    assert_ne!(one_row(&floored, 0.3, &NEGATIVES, &[]).2, vec![0.0; 4]);
    // A floor of one's own: here, of a cosine over 0.1.
    let mut low = floored.clone();
    low.params.insert("lowest".into(), Value::Number(-10.0));
    let want = (6f64.exp() + 4.0 * (-20f64).exp()).ln() - 6.0;
    assert!((one_row(&low, 3.0, &NEGATIVES, &[]).0 - want).abs() < 1e-12);
    // The floor of a cosine score, which is divided by the model's temperature, is that without being told.
    let Loss::Sampled(cosine) = build(&floored, 10, 4, ScoreKind::Cosine { temperature: 0.1 }).unwrap() else { panic!() };
    let mut d = [0.0; 4];
    assert!((cosine.row_f64(3.0, &NEGATIVES, RowFacts::default(), &mut d).0 - want).abs() < 1e-12);
}

#[test]
fn the_contrastive_loss_without_corrections_is_the_sampled_softmax() {
    for weight in [&[][..], &[0.5, 1.0, 0.0, 2.5]] {
        // Scores below the floor of a cosine among them: nothing is subtracted, so it must not hold.
        for negatives in [NEGATIVES, [-5.0, -6.0, -7.0, -9.0]] {
            let softmax = kind("sampled_softmax", &[("temperature", Value::Number(0.7))]);
            let (want, got) =
                (one_row(&softmax, 0.3, &negatives, weight), one_row(&contrastive(0.7, 0.0, 0.0), 0.3, &negatives, weight));
            close(&[vec![got.0, got.1], got.2], &[vec![want.0, want.1], want.2], 1e-13);
        }
    }
}

#[test]
fn bpr_max_compares_with_the_softly_highest_negative() {
    for lambda in [0.0, 0.3, 2.0] {
        let formula = |s: f64, negatives: &[f64]| {
            let z: f64 = negatives.iter().map(|x| x.exp()).sum();
            let better: f64 = negatives.iter().map(|x| x.exp() / z / (1.0 + (x - s).exp())).sum();
            -better.ln() + lambda * negatives.iter().map(|x| x.exp() / z * x * x).sum::<f64>()
        };
        let kind = kind("bpr_max", &[("lambda", Value::Number(lambda))]);
        is_row(&kind, 0.3, &NEGATIVES, &[], formula);
        is_row(&kind, 0.3, &NEGATIVES, &WHOLE_WEIGHTS, |s, n| formula(s, &copies(n, &WHOLE_WEIGHTS)));
    }
}

#[test]
fn the_risk_of_the_unlabelled_stops_at_zero() {
    let softplus = |x: f64| x.exp().ln_1p();
    let of = |prior: f64| kind("pu", &[("prior", Value::Number(prior))]);
    for prior in [0.0, 0.2, 0.9] {
        let formula = |s: f64, n: &[f64]| {
            let unlabelled = n.iter().map(|&x| softplus(x)).sum::<f64>() / n.len() as f64;
            prior * softplus(-s) + (unlabelled - prior * softplus(s)).max(0.0)
        };
        for s in [0.3, -1.0, 4.0] {
            is_row(&of(prior), s, &NEGATIVES, &[], formula);
            is_row(&of(prior), s, &NEGATIVES, &WHOLE_WEIGHTS, |s, n| formula(s, &copies(n, &WHOLE_WEIGHTS)));
        }
    }
    // At zero the negatives pull no more, and the positive as far as its own risk.
    let (_, d_positive, d) = one_row(&of(0.9), 4.0, &NEGATIVES, &[]);
    assert_eq!(d, vec![0.0; 4]);
    assert!((d_positive + 0.9 / (1.0 + 4f64.exp())).abs() < 1e-15);
    assert_ne!(one_row(&of(0.2), 0.3, &NEGATIVES, &[]).2, vec![0.0; 4]);
}

#[test]
fn the_hinge_is_zero_beyond_the_margin() {
    let hinge = kind("hinge", &[("margin", Value::Number(0.4))]);
    let mean = |s: f64, n: &[f64]| n.iter().map(|x| (0.4 + x - s).max(0.0)).sum::<f64>() / n.len() as f64;
    is_row(&hinge, 0.3, &NEGATIVES, &[], mean);
    is_row(&hinge, 0.3, &NEGATIVES, &WHOLE_WEIGHTS, |s, n| mean(s, &copies(n, &WHOLE_WEIGHTS)));
    assert_eq!(one_row(&hinge, 2.5, &NEGATIVES, &[]), (0.0, 0.0, vec![0.0; 4]));
    // At the corner nothing pulls.
    assert_eq!(one_row(&kind("hinge", &[("margin", Value::Number(0.5))]), 1.0, &[0.5], &[]), (0.0, 0.0, vec![0.0]));
}

#[test]
fn hard_bpr_levels_off_and_is_bpr_without_doing_so() {
    let of = |a: f64, b: f64, c: f64| kind("hard_bpr", &[("a", a), ("b", b), ("c", c)].map(|(n, x)| (n, Value::Number(x))));
    for (a, b, c) in [(1.0, -1.0, 0.8), (0.1, 0.5, 2.0), (20.0, 0.0, 1.0)] {
        let f = |x: f64| ((1.0 + a) / (1.0 / (1.0 + (-(c * x + b)).exp()) + a)).ln();
        let mean = |s: f64, n: &[f64]| n.iter().map(|x| f(s - x)).sum::<f64>() / n.len() as f64;
        is_row(&of(a, b, c), 0.3, &NEGATIVES, &[], mean);
        is_row(&of(a, b, c), 0.3, &NEGATIVES, &WHOLE_WEIGHTS, |s, n| mean(s, &copies(n, &WHOLE_WEIGHTS)));
        let (loss, d_positive, _) = one_row(&of(a, b, c), -1e3, &[1e3], &[]);
        assert!((loss - ((1.0 + a) / a).ln()).abs() < 1e-12 && d_positive.abs() < 1e-12);
    }
    let (bpr, hard) = (kind("bpr", &[]), of(0.0, 0.0, 1.0));
    for weight in [&[][..], &[0.5, 1.0, 0.0, 2.5]] {
        let (want, got) = (one_row(&bpr, 0.3, &NEGATIVES, weight), one_row(&hard, 0.3, &NEGATIVES, weight));
        close(&[vec![got.0, got.1], got.2], &[vec![want.0, want.1], want.2], 1e-13);
    }
}
