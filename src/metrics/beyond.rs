//! What the lists do to the catalogue: coverage, concentration, novelty, diversity, and who is served.
//!
//! With `x (n)` the exposure of each rankable item (how many lists show it in their first k) and `p = x / sum x`:
//!
//! ```text
//! coverage = #{x > 0} / n
//! gini     = sum_i (2 i - n - 1) x_(i) / (n sum x)       x_(1) <= ... <= x_(n): 0 equal exposure, 1 - 1/n one item only
//! entropy  = - sum p ln p                                 nats; ln n at equal exposure
//! novelty  = sum p_i (- log2 q_i)                         q_i = share of training events on item i, at least one event
//! tail     = sum of p over tail items                     APLT, when all lists have k entries
//! ild      = mean over lists of the mean over pairs of 1 - |A & B| / |A or B|, A and B the pair's attributes
//! ```
//!
//! Head, middle and tail: items by falling training count (equal counts by index); the head is the shortest beginning
//! that holds a fifth of all training events, the tail is what follows the shortest beginning that holds four fifths.
//! Sources: Castells, Hurley and Vargas 2015 (novelty and diversity); Abdollahpouri, Burke and Mobasher 2019 (APLT and
//! the three groups).

/// Share of the items that any list shows.
pub fn coverage(exposure: &[u64]) -> f64 {
    exposure.iter().filter(|&&x| x > 0).count() as f64 / exposure.len().max(1) as f64
}

/// Gini index of the exposure; 0 where nothing is shown.
pub fn gini(exposure: &[u64]) -> f64 {
    let total: u64 = exposure.iter().sum();
    if total == 0 {
        return 0.0;
    }
    let mut sorted = exposure.to_vec();
    sorted.sort_unstable();
    let n = sorted.len() as i128;
    // Integers: exact for any catalogue, and free of summation order.
    let weighted: i128 = (1..).zip(&sorted).map(|(i, &x): (i128, _)| (2 * i - n - 1) * i128::from(x)).sum();
    weighted as f64 / (n as f64 * total as f64)
}

/// Shannon entropy of the exposure in nats.
pub fn entropy(exposure: &[u64]) -> f64 {
    let total = exposure.iter().sum::<u64>() as f64;
    let minus = exposure.iter().filter(|&&x| x > 0).map(|&x| x as f64 / total).map(|p| p * p.ln()).sum::<f64>();
    0.0 - minus
}

/// Mean of `value` over all shown entries; none where nothing is shown.
pub fn mean_over_exposure(exposure: &[u64], value: impl Fn(usize) -> f64) -> Option<f64> {
    let total: u64 = exposure.iter().sum();
    let sum: f64 = exposure.iter().enumerate().filter(|&(_, &x)| x > 0).map(|(i, &x)| x as f64 * value(i)).sum();
    (total > 0).then(|| sum / total as f64)
}

/// Self-information of an item in bits; an item without training events counts as having one.
pub fn self_information(count: u64, total: u64) -> f64 {
    (total.max(1) as f64 / count.max(1) as f64).log2()
}

/// Popularity group of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Head,
    Mid,
    Tail,
}

impl Segment {
    pub const ALL: [(Segment, &'static str); 3] = [(Segment::Head, "head"), (Segment::Mid, "mid"), (Segment::Tail, "tail")];
}

/// (V) the group of every item, from its training count (V).
pub fn segments(train_counts: &[u32]) -> Vec<Segment> {
    let mut order: Vec<u32> = (0..train_counts.len() as u32).collect();
    order.sort_unstable_by_key(|&i| (std::cmp::Reverse(train_counts[i as usize]), i));
    let total: u128 = train_counts.iter().map(|&c| u128::from(c)).sum();
    let mut before = 0u128;
    let mut of = vec![Segment::Tail; train_counts.len()];
    for i in order {
        of[i as usize] = match before * 5 {
            b if b < total => Segment::Head,
            b if b < 4 * total => Segment::Mid,
            _ => Segment::Tail,
        };
        before += u128::from(train_counts[i as usize]);
    }
    of
}

/// Attribute codes of every item, ascending per item: `codes[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// (V+1)
    pub offsets: &'a [u64],
    pub codes: &'a [u32],
}

impl<'a> Attributes<'a> {
    pub fn of(&self, item: u32) -> &'a [u32] {
        &self.codes[self.offsets[item as usize] as usize..self.offsets[item as usize + 1] as usize]
    }
}

/// Jaccard distance of two ascending code lists; none when both are empty.
pub fn distance(a: &[u32], b: &[u32]) -> Option<f64> {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both += 1;
                i += 1;
                j += 1;
            }
        }
    }
    let either = a.len() + b.len() - both;
    (either > 0).then(|| 1.0 - both as f64 / either as f64)
}

/// Mean distance over the pairs of a list; pairs of two items without attributes are left out, and none is the answer
/// where no pair is left.
pub fn intra_list_distance(list: &[u32], attributes: Attributes<'_>) -> Option<f64> {
    let (mut sum, mut pairs) = (0.0, 0u32);
    for (n, &a) in list.iter().enumerate() {
        for &b in &list[..n] {
            if let Some(d) = distance(attributes.of(a), attributes.of(b)) {
                sum += d;
                pairs += 1;
            }
        }
    }
    (pairs > 0).then(|| sum / f64::from(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_exposure_and_a_single_item_are_the_ends() {
        for n in [1usize, 2, 7, 97] {
            let equal = vec![3u64; n];
            assert_eq!(gini(&equal), 0.0);
            assert!((entropy(&equal) - (n as f64).ln()).abs() < 1e-12);
            assert_eq!(coverage(&equal), 1.0);
            let mut single = vec![0u64; n];
            single[n / 2] = 11;
            assert!((gini(&single) - (1.0 - 1.0 / n as f64)).abs() < 1e-15);
            assert_eq!(entropy(&single), 0.0);
            assert_eq!(coverage(&single), 1.0 / n as f64);
        }
        assert_eq!(gini(&[0, 0]), 0.0);
        assert_eq!(mean_over_exposure(&[0, 0], |_| 1.0), None);
    }

    #[test]
    fn hand_computed() {
        // Sorted 0 1 2 5, weights -3 -1 1 3: (-1 + 2 + 15) / (4 * 8).
        assert_eq!(gini(&[5, 0, 2, 1]), 0.5);
        let p: [f64; 3] = [5.0 / 8.0, 2.0 / 8.0, 1.0 / 8.0];
        assert!((entropy(&[5, 0, 2, 1]) + p.iter().map(|p| p * p.ln()).sum::<f64>()).abs() < 1e-15);
        assert_eq!(coverage(&[5, 0, 2, 1]), 0.75);
        // Two entries of an item with 1/2 of the events, one of an item with 1/8: (2 * 1 + 3) / 3 bits.
        let counts = [4u64, 1, 3];
        let novelty = mean_over_exposure(&[2, 1, 0], |i| self_information(counts[i], 8)).unwrap();
        assert!((novelty - 5.0 / 3.0).abs() < 1e-15);
        assert_eq!(self_information(0, 8), 3.0);
    }

    #[test]
    fn segments_cut_at_a_fifth_and_four_fifths_of_the_events() {
        use Segment::*;
        // Falling: 30 20 20 20 5 5 0; events before each: 0 30 50 70 90 95 100, of 100.
        assert_eq!(segments(&[5, 20, 30, 20, 0, 20, 5]), [Tail, Mid, Head, Mid, Tail, Mid, Tail]);
        assert_eq!(segments(&[0, 0]), [Tail, Tail]);
        assert_eq!(segments(&[1]), [Head]);
        assert!(segments(&[]).is_empty());
    }

    #[test]
    fn distances() {
        assert_eq!(distance(&[1, 2, 3], &[2, 3, 9]), Some(0.5));
        assert_eq!(distance(&[1], &[1]), Some(0.0));
        assert_eq!(distance(&[1], &[]), Some(1.0));
        assert_eq!(distance(&[], &[]), None);
        let attributes = Attributes { offsets: &[0, 2, 3, 3, 3], codes: &[0, 1, 1] };
        // Pairs (0,1) 1/2, (0,2) 1, (1,2) 1; then an item without attributes beside another leaves the average alone.
        assert!((intra_list_distance(&[0, 1, 2], attributes).unwrap() - 2.5 / 3.0).abs() < 1e-15);
        assert_eq!(intra_list_distance(&[2, 3], attributes), None);
        assert_eq!(intra_list_distance(&[0], attributes), None);
    }
}
