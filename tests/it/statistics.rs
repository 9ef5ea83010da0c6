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

/// What is wrong with `counts` as draws from `law`, if anything.
pub fn verdict(counts: &[u64], law: &[f64]) -> Result<(), String> {
    let total: f64 = law.iter().sum();
    let z = surprise(counts, law);
    match () {
        () if (total - 1.0).abs() > 1e-9 => Err(format!("the expected law sums to {total}")),
        () if z >= BOUND => Err(format!("chi-square is {z} standard deviations too large")),
        () if z <= -BOUND => Err(format!("the draws are too regular to be random ({z})")),
        () => Ok(()),
    }
}

pub fn assert_law(what: &str, counts: &[u64], law: &[f64]) {
    verdict(counts, law).unwrap_or_else(|fault| panic!("{what}: {fault}"));
}

/// How often each of `n` items occurs.
pub fn count(n: usize, items: impl IntoIterator<Item = u32>) -> Vec<u64> {
    let mut counts = vec![0; n];
    for item in items {
        counts[item as usize] += 1;
    }
    counts
}
