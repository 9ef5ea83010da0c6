//! Accuracy of a ranked list that has one relevant item, from that item's rank (1 = best).
//!
//! ```text
//! hr@k   = [rank <= k]                       recall@k = hr@k  (one relevant item)
//! ndcg@k = [rank <= k] / log2(rank + 1)      (the ideal list has DCG 1)
//! mrr@k  = [rank <= k] / rank                map@k    = mrr@k (one relevant item)
//! ```
//!
//! A request has exactly one relevant item: the next event. Where a protocol asks for several events of a user, each is
//! a request of its own with its own visible history, so users with more targets weigh more. A rank is real, not
//! integer, because the average over ties may fall between two places.
//! Sources: Jarvelin and Kekalainen 2002 (NDCG); Voorhees 1999 (MRR).

/// A metric of accuracy: its name in reports and its value from (rank, k).
pub type Accuracy = (&'static str, fn(f64, u32) -> f64);

/// Every metric of accuracy, in the order of reports. Grow by one line.
pub const ACCURACY: &[Accuracy] = &[("hr", hit), ("ndcg", ndcg), ("recall", hit), ("mrr", reciprocal), ("map", reciprocal)];

/// One if the item is among the first `k`.
pub fn hit(rank: f64, k: u32) -> f64 {
    if rank <= f64::from(k) { 1.0 } else { 0.0 }
}

/// Discounted gain of the item at its rank.
pub fn ndcg(rank: f64, k: u32) -> f64 {
    if rank <= f64::from(k) { 1.0 / (rank + 1.0).log2() } else { 0.0 }
}

/// Reciprocal of the rank.
pub fn reciprocal(rank: f64, k: u32) -> f64 {
    if rank <= f64::from(k) { 1.0 / rank } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed() {
        // rank, k -> hr, ndcg, mrr
        for (rank, k, hr, gain, rr) in [
            (1.0, 1, 1.0, 1.0, 1.0),
            (2.0, 1, 0.0, 0.0, 0.0),
            (3.0, 5, 1.0, 0.5, 1.0 / 3.0),
            (7.0, 10, 1.0, 1.0 / 3.0, 1.0 / 7.0),
            (10.0, 10, 1.0, 0.289_064_826_317_887_9, 0.1),
            (11.0, 10, 0.0, 0.0, 0.0),
            (10.5, 10, 0.0, 0.0, 0.0),
        ] {
            assert_eq!(hit(rank, k), hr);
            assert!((ndcg(rank, k) - gain).abs() < 1e-15, "ndcg({rank},{k})");
            assert_eq!(reciprocal(rank, k), rr);
        }
    }

    #[test]
    fn a_worse_rank_never_scores_higher() {
        for &(name, metric) in ACCURACY {
            for k in [1, 3, 10] {
                for step in 2..60 {
                    let (better, worse) = (f64::from(step) / 2.0, f64::from(step + 1) / 2.0);
                    assert!(metric(better, k) >= metric(worse, k), "{name}@{k} at {better}");
                }
            }
        }
    }
}
