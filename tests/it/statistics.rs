//! What it takes to catch a sampler that draws the wrong law. Fixed seeds: every test says yes or no, none is flaky.

/// The normal deviate of a chi-square statistic (Wilson and Hilferty 1931): about standard normal if `counts` were drawn from
/// `law`. Items whose expected count is below 5 share one bin; an impossible item that was drawn is infinitely surprising.
pub fn surprise(counts: &[u64], law: &[f64]) -> f64 {
    let draws: u64 = counts.iter().sum();
    let (mut statistic, mut bins) = (0.0, 0usize);
    let (mut rare_counts, mut rare_expected) = (0u64, 0.0);
    for (&count, &p) in counts.iter().zip(law) {
        let expected = p * draws as f64;
        if p <= 0.0 && count > 0 {
            return f64::INFINITY;
        }
        if expected < 5.0 {
            rare_counts += count;
            rare_expected += expected;
        } else {
            statistic += (count as f64 - expected).powi(2) / expected;
            bins += 1;
        }
    }
    if rare_expected >= 5.0 {
        statistic += (rare_counts as f64 - rare_expected).powi(2) / rare_expected;
        bins += 1;
    }
    let freedom = (bins as f64 - 1.0).max(1.0);
    let spread = 2.0 / (9.0 * freedom);
    ((statistic / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

/// Bound on `|surprise|` of a correct sampler: with fixed seeds it is checked once, and p < 6e-7 says the code is wrong.
pub const BOUND: f64 = 5.0;

pub fn assert_law(what: &str, counts: &[u64], law: &[f64]) {
    let total: f64 = law.iter().sum();
    assert!((total - 1.0).abs() < 1e-9, "{what}: the expected law sums to {total}");
    let z = surprise(counts, law);
    assert!(z < BOUND, "{what}: chi-square is {z} standard deviations too large");
    assert!(z > -BOUND, "{what}: the draws are too regular to be random ({z})");
}

/// How often each of `n` items occurs.
pub fn count(n: usize, items: impl IntoIterator<Item = u32>) -> Vec<u64> {
    let mut counts = vec![0; n];
    for item in items {
        counts[item as usize] += 1;
    }
    counts
}
