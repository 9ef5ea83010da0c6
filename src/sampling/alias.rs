//! A draw from any fixed discrete law with one random word and one read: the alias method, in integers.
//!
//! Walker (1977) and Vose (1991) split a law over `n` equal columns, each holding at most two items. Here the law is first
//! rounded to integer masses `m[i]` with `sum m = 2^63` *exactly*, and the columns are a power of two, `n = 2^b`, each of
//! capacity `C = 2^(63-b)`. Filling them is then integer arithmetic without any rounding, and a draw needs neither a
//! multiplication nor a floating-point coin:
//!
//! ```text
//! x = word >> 1                         63 uniform bits
//! column = x >> (63-b)                  b bits
//! coin = x mod C                        63-b bits
//! item = coin < threshold[column] ? column : alias[column]
//! ```
//!
//! so item `i` has probability `m[i] / 2^63` to the last bit: what [`Alias::prob`] says is what is drawn, on any machine.
//! A column is one word: alias in the upper `b` bits, threshold (`0..=C`) in the lower `64-b`. Tables built in f32 lose up to
//! a tenth of the mass at ten million items; this one is off by at most one part in 2^63 per item from the f64 law, and
//! gives every item of positive weight at least one.

use crate::error::{Code, Error, Result};
use crate::ops::propose::Columns;

const TOTAL: u64 = 1 << 63;

/// A table of `n` items: 8 bytes per item for the masses and 8 per column (columns: `n` rounded up to a power of two).
pub struct Alias {
    /// 64 - b: bits of a column's threshold.
    threshold_bits: u32,
    columns: Vec<u64>,
    /// (n) sum 2^63.
    mass: Vec<u64>,
}

impl Alias {
    /// The table of `P(i) = weights[i] / sum`. Weights must be finite, not negative, and not all zero (D0304); there are at
    /// most 2^32.
    pub fn new(weights: Vec<f64>) -> Result<Alias> {
        let mass = masses(weights)?;
        let b = usize::BITS - (mass.len() - 1).leading_zeros();
        let b = b.max(1);
        let columns = fill(&mass, b);
        Ok(Alias { threshold_bits: 64 - b, columns, mass })
    }
    /// The table as a machine is given it.
    pub fn twin(&self) -> Columns<'_> {
        Columns { threshold_bits: self.threshold_bits, columns: &self.columns, mass: &self.mass }
    }
    /// The item of a uniform word.
    #[inline]
    pub fn draw(&self, word: u64) -> u32 {
        let x = word >> 1;
        let column = x >> (self.threshold_bits - 1);
        let coin = x & ((1 << (self.threshold_bits - 1)) - 1);
        let held = self.columns[column as usize];
        let threshold = held & ((1 << self.threshold_bits) - 1);
        if coin < threshold { column as u32 } else { (held >> self.threshold_bits) as u32 }
    }
    /// The exact probability of `item`.
    #[inline]
    pub fn prob(&self, item: u32) -> f64 {
        self.mass[item as usize] as f64 * (1.0 / TOTAL as f64)
    }
    /// `1 - sum of the excluded probabilities`, without cancellation. `excluded` holds distinct items.
    pub fn remaining(&self, excluded: impl Iterator<Item = u32>) -> f64 {
        let gone: u64 = excluded.map(|i| self.mass[i as usize]).sum();
        (TOTAL - gone) as f64 * (1.0 / TOTAL as f64)
    }
    /// What the columns draw, counted from the columns alone: the proof that `mass` is the law.
    #[cfg(test)]
    pub fn implied(&self) -> Vec<u64> {
        let capacity = 1u64 << (self.threshold_bits - 1);
        let mut implied = vec![0u64; self.columns.len()];
        for (column, &held) in self.columns.iter().enumerate() {
            let threshold = held & ((1 << self.threshold_bits) - 1);
            assert!(threshold <= capacity, "column {column} is over-full");
            implied[column] += threshold;
            implied[(held >> self.threshold_bits) as usize] += capacity - threshold;
        }
        implied
    }
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        8 * (self.columns.capacity() + self.mass.capacity())
    }
    #[cfg(test)]
    pub fn masses(&self) -> &[u64] {
        &self.mass
    }
}

/// Weights to integer masses that sum to 2^63: rounded one by one, the small difference left by rounding given to the
/// heaviest item (whose mass is at least 2^63/n, so its relative error stays near that of f64).
fn masses(weights: Vec<f64>) -> Result<Vec<u64>> {
    if let Some(bad) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
        return Err(Error::new(Code::D0304, format!("item {bad} has the sampling weight {}", weights[bad])));
    }
    let heaviest = weights.iter().enumerate().fold(0, |best, (i, w)| if *w > weights[best] { i } else { best });
    if weights.get(heaviest).is_none_or(|w| *w <= 0.0) {
        return Err(Error::new(Code::D0304, "no item has a positive sampling weight"));
    }
    // Scaled by the heaviest, so that the sum cannot overflow; compensated (Neumaier 1974), so that it is exact enough.
    let top = weights[heaviest];
    let (mut sum, mut lost) = (0f64, 0f64);
    for w in &weights {
        let w = w / top;
        let next = sum + w;
        lost += if sum >= w { (sum - next) + w } else { (w - next) + sum };
        sum = next;
    }
    let scale = TOTAL as f64 / (sum + lost);
    let mut mass: Vec<u64> =
        weights.into_iter().map(|w| if w > 0.0 { ((w / top * scale).round() as u64).max(1) } else { 0 }).collect();
    let given: u128 = mass.iter().map(|&m| u128::from(m)).sum();
    let rest = i128::from(mass[heaviest]) + i128::from(TOTAL) - given as i128;
    mass[heaviest] = u64::try_from(rest).map_err(|_| Error::internal("an alias table does not close"))?;
    Ok(mass)
}

/// Vose's filling without stacks: `scan` walks the columns once, and a donor that falls below capacity behind it is served
/// at once by the next donor. Because the masses sum to `2^b C` exactly, a donor exists whenever a column has room.
fn fill(mass: &[u64], b: u32) -> Vec<u64> {
    let n = 1usize << b;
    let capacity = 1u64 << (63 - b);
    let bits = 64 - b;
    let mut rest: Vec<u64> = mass.to_vec();
    rest.resize(n, 0);
    let mut columns: Vec<u64> = (0..n as u64).map(|i| i << bits | capacity).collect();
    let next_donor = |rest: &[u64], mut i: usize| {
        while i < n && rest[i] <= capacity {
            i += 1;
        }
        i
    };
    let mut donor = next_donor(&rest, 0);
    let mut scan = 0;
    while scan < n {
        if rest[scan] >= capacity {
            scan += 1;
            continue;
        }
        let mut column = scan;
        scan += 1;
        loop {
            columns[column] = (donor as u64) << bits | rest[column];
            rest[donor] -= capacity - rest[column];
            rest[column] = capacity;
            if rest[donor] >= capacity {
                if rest[donor] == capacity {
                    donor = next_donor(&rest, donor + 1);
                }
                break;
            }
            let fallen = donor;
            donor = next_donor(&rest, donor + 1);
            if fallen >= scan {
                break; // the walk will meet it
            }
            column = fallen;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weights: Vec<f64>) -> Alias {
        let total: f64 = weights.iter().sum();
        let alias = Alias::new(weights.clone()).unwrap();
        let implied = alias.implied();
        assert_eq!(&implied[..weights.len()], alias.masses(), "the columns draw the masses");
        assert!(implied[weights.len()..].iter().all(|&m| m == 0), "padding is never drawn");
        for (i, &w) in weights.iter().enumerate() {
            assert_eq!(w > 0.0, alias.masses()[i] > 0, "item {i} of weight {w}");
            let expected = w / total;
            // one unit of 2^-63 is the resolution; above it the law is the f64 law.
            let bound = expected * 1e-6 + 2.0 * (1.0 / TOTAL as f64);
            assert!((alias.prob(i as u32) - expected).abs() <= bound, "item {i}: {} for {expected}", alias.prob(i as u32));
        }
        alias
    }

    #[test]
    fn the_columns_draw_exactly_the_law() {
        for n in [1usize, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 1000, 1023, 1024, 1025, 4099] {
            check(vec![1.0; n]);
            check((0..n).map(|i| 1.0 / (1.0 + i as f64)).collect());
            check((0..n).map(|i| 1.0 / (n as f64 - i as f64).powf(0.75)).collect());
            check((0..n).map(|i| if i == n / 2 { 1.0 } else { 0.0 }).collect());
            check((0..n).map(|i| ((i * 7919) % 13) as f64 + if i == 0 { 1.0 } else { 0.0 }).collect());
        }
    }

    #[test]
    fn extremes_are_drawn_or_refused() {
        check(vec![1.0 - 1e-12, 1e-12]);
        check(vec![1e-12, 1.0 - 1e-12]);
        check(vec![1e-30, 1e30, 1.0, 0.0, 1e15]);
        assert!((Alias::new(vec![f64::MAX, f64::MAX, f64::MAX / 2.0]).unwrap().prob(2) - 0.2).abs() < 1e-12);
        check(vec![f64::MIN_POSITIVE, f64::MIN_POSITIVE]);
        for bad in [vec![], vec![0.0, 0.0], vec![1.0, f64::NAN], vec![1.0, -1.0], vec![f64::INFINITY]] {
            assert_eq!(Alias::new(bad).err().unwrap().code(), Code::D0304);
        }
    }

    #[test]
    fn a_million_items_follow_zipf_to_a_millionth() {
        let n = 1_000_003usize;
        for alpha in [0.75, 1.0, 1.3] {
            let weights: Vec<f64> = (0..n).map(|i| ((i * 7919) % n + 1) as f64).map(|r| r.powf(-alpha)).collect();
            let total: f64 = weights.iter().sum();
            let alias = Alias::new(weights.clone()).unwrap();
            assert_eq!(&alias.implied()[..n], alias.masses());
            let worst = (0..n).map(|i| (alias.prob(i as u32) / (weights[i] / total) - 1.0).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-6, "alpha {alpha}: {worst}");
        }
    }

    /// The whole law, from the columns, where a table in f32 has lost its tail; takes two gigabytes for some seconds.
    #[test]
    fn fifty_million_items_follow_the_law_to_the_last() {
        let n = 50_000_000usize;
        let weight = |i: usize| ((i * 7919) % n + 1) as f64;
        let alias = Alias::new((0..n).map(|i| weight(i).powf(-0.75)).collect()).unwrap();
        let implied = alias.implied();
        assert!(&implied[..n] == alias.masses() && implied[n..].iter().all(|&m| m == 0));
        drop(implied);
        let total: f64 = (0..n).map(|i| weight(i).powf(-0.75)).sum();
        let worst = (0..n).map(|i| (alias.prob(i as u32) * total / weight(i).powf(-0.75) - 1.0).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-6, "{worst}");
    }

    #[test]
    fn every_word_at_the_edges_of_columns_draws_an_item_of_positive_weight() {
        let alias = Alias::new(vec![0.0, 3.0, 0.0, 1e-9, 5.0, 0.0, 0.0]).unwrap();
        for column in 0..8u64 {
            for word in [
                column << 61,
                (column << 61) | 1,
                ((column + 1) << 60).wrapping_mul(2).wrapping_sub(1),
                (column << 61) | (1 << 40),
            ] {
                assert!(alias.prob(alias.draw(word)) > 0.0);
            }
        }
        assert!(alias.prob(alias.draw(u64::MAX)) > 0.0);
    }

    #[test]
    fn what_remains_after_exclusion_is_exact_even_when_almost_nothing_does() {
        let alias = Alias::new(vec![1e-9, 1.0, 1.0]).unwrap();
        let left = alias.remaining([1, 2].into_iter());
        assert_eq!(left, alias.prob(0));
        assert!((left / (1e-9 / (2.0 + 1e-9)) - 1.0).abs() < 1e-6);
        assert_eq!(alias.remaining([0, 1, 2].into_iter()), 0.0);
    }
}
