//! How far a mean over requests may be from the truth.
//!
//! ```text
//! mean = sum x / n        standard error = sqrt( sum (x - mean)^2 / (n - 1) / n )
//! ```
//!
//! Two runs whose means differ by less than two standard errors are not told apart by this number alone; a paired test
//! over the same requests is sharper.

/// Running mean and spread (Welford 1962): one pass, no cancellation. The order of `add` is part of the result's last
/// bits, so callers add in request order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mean {
    n: u64,
    mean: f64,
    squares: f64,
}

impl Mean {
    pub fn add(&mut self, x: f64) {
        self.n += 1;
        let off = x - self.mean;
        self.mean += off / self.n as f64;
        self.squares += off * (x - self.mean);
    }
    pub fn count(&self) -> u64 {
        self.n
    }
    /// The mean; none without values.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then_some(self.mean)
    }
    /// The standard error of the mean; none below two values.
    pub fn error(&self) -> Option<f64> {
        (self.n > 1).then(|| (self.squares / (self.n - 1) as f64 / self.n as f64).sqrt())
    }
}

impl FromIterator<f64> for Mean {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Mean {
        let mut mean = Mean::default();
        values.into_iter().for_each(|x| mean.add(x));
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed() {
        let m: Mean = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter().collect();
        assert!((m.mean().unwrap() - 5.0).abs() < 1e-15);
        assert!((m.error().unwrap() - (32.0f64 / 7.0 / 8.0).sqrt()).abs() < 1e-15);
        let one: Mean = [3.0].into_iter().collect();
        assert_eq!((one.mean(), one.error()), (Some(3.0), None));
        assert_eq!(Mean::default().mean(), None);
    }

    /// A share p of hits over n requests has standard error sqrt(p (1-p) / (n-1)).
    #[test]
    fn of_a_hit_rate() {
        let m: Mean = (0..997).map(|i| if i % 4 == 0 { 1.0 } else { 0.0 }).collect();
        let p = m.mean().unwrap();
        assert!((p - 250.0 / 997.0).abs() < 1e-12);
        assert!((m.error().unwrap() - (p * (1.0 - p) / 996.0).sqrt()).abs() < 1e-12);
    }
}
