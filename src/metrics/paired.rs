//! Two rankers on the same requests: how sure is the difference of their means?
//!
//! ```text
//! d_u        = metric of B at request u  -  metric of A at u
//! interval   = 2.5 % and 97.5 % quantiles of the mean of d over requests drawn with replacement (percentile bootstrap, Efron 1979)
//! sign test  : of the requests where they differ, B wins w of n; p = 2 P(Binomial(n, 1/2) >= max(w, n - w)), at most 1
//! ```
//!
//! Pairing removes what makes users differ from each other, so it tells apart what two standard errors do not. It says nothing
//! about other seeds: that needs other runs.

use rayon::prelude::*;

use crate::rng::{Draws, Stream, below};

/// Resamples of a bootstrap.
pub const RESAMPLES: u64 = 2000;
/// Lane of the words that draw requests.
const RESAMPLE: u8 = 64;

/// The difference of two means over the same requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    pub difference: f64,
    pub low: f64,
    pub high: f64,
    /// Requests at which the second is better, and at which the first is.
    pub wins: u64,
    pub losses: u64,
    /// Of the sign test.
    pub p: f64,
}

/// Compares `b` with `a`, request by request; none without requests.
pub fn paired(a: &[f64], b: &[f64], seed: u64) -> Option<Paired> {
    let d: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let n = d.len() as u64;
    if n == 0 {
        return None;
    }
    let mut means: Vec<f64> = (0..RESAMPLES)
        .into_par_iter()
        .map(|resample| {
            let draws = Draws::new(seed, Stream::Diagnosis, RESAMPLE, resample);
            let pair = |i: u64| draws.words64(i);
            let mut sum = 0.0;
            for i in 0..n.div_ceil(2) {
                let words = pair(i);
                sum += d[below(words[0], n) as usize];
                if 2 * i + 1 < n {
                    sum += d[below(words[1], n) as usize];
                }
            }
            sum / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let quantile = |q: f64| means[((RESAMPLES - 1) as f64 * q).round() as usize];
    let wins = d.iter().filter(|d| **d > 0.0).count() as u64;
    let losses = d.iter().filter(|d| **d < 0.0).count() as u64;
    let (low, high) = (quantile(0.025), quantile(0.975));
    Some(Paired { difference: d.iter().sum::<f64>() / n as f64, low, high, wins, losses, p: sign_test(wins, losses) })
}

/// Two-sided and exact.
pub fn sign_test(wins: u64, losses: u64) -> f64 {
    let n = wins + losses;
    let most = wins.max(losses);
    // ln of C(n, k) / 2^n at k = n, then down to `most` by the ratio of neighbours.
    let mut ln = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = ln.exp();
    for k in (most..n).rev() {
        ln += ((k + 1) as f64).ln() - ((n - k) as f64).ln();
        tail += ln.exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::normal2;

    #[test]
    fn the_sign_test_by_hand() {
        // 2 (1 + 10) / 2^10, and the whole when nothing differs.
        assert!((sign_test(9, 1) - 22.0 / 1024.0).abs() < 1e-15);
        assert!((sign_test(1, 9) - 22.0 / 1024.0).abs() < 1e-15);
        assert_eq!(sign_test(0, 0), 1.0);
        assert_eq!(sign_test(5, 5), 1.0);
        // A large one against the normal law with continuity: z = (10300 - 0.5 - 10000) / sqrt(5000) = 4.235, p = 2.28e-5.
        assert!((sign_test(10_300, 9_700) / 2.28e-5 - 1.0).abs() < 0.02, "{}", sign_test(10_300, 9_700));
        assert!(sign_test(100_000, 0) < 1e-300);
    }

    /// The interval of 400 normal differences is close to mean +- 1.96 standard errors, and holds a true mean of zero nearly
    /// always when asked forty times.
    #[test]
    fn the_interval_is_that_of_the_mean() {
        let mut held = 0;
        for seed in 0..40 {
            let noise = |lane: u8| -> Vec<f64> {
                let draws = Draws::new(seed, Stream::Test, lane, 0);
                (0..400).map(|i| normal2(draws.words64(i))[0]).collect()
            };
            let (a, b) = (noise(0), noise(1));
            let result = paired(&a, &b, seed).unwrap();
            let mean: crate::metrics::significance::Mean = a.iter().zip(&b).map(|(a, b)| b - a).collect();
            let (m, e) = (mean.mean().unwrap(), mean.error().unwrap());
            assert!((result.difference - m).abs() < 1e-12);
            assert!((result.low - (m - 1.96 * e)).abs() < 0.25 * e && (result.high - (m + 1.96 * e)).abs() < 0.25 * e);
            held += u32::from(result.low <= 0.0 && result.high >= 0.0);
        }
        // Binomial(40, .95): below 33 with probability 2e-3 at most.
        assert!(held >= 33, "{held}");
    }

    #[test]
    fn equal_rankers_do_not_differ() {
        let a = [0.3, 0.0, 1.0];
        let same = paired(&a, &a, 1).unwrap();
        assert_eq!((same.difference, same.low, same.high, same.p), (0.0, 0.0, 0.0, 1.0));
        assert_eq!(paired(&[], &[], 1), None);
    }
}
