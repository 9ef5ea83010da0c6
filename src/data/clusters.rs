//! Time cut into clusters, for sampling by temporal context (CaNS: Seol & Choi, IEEE Access 2025; rule from the authors'
//! program).
//!
//! `z(t) = (t - t0) / (t1 - t0)` over training events; K centroids; the cluster of a time is its nearest centroid, the
//! earlier one in a tie. Clusters are numbered in the order of time. In one dimension a group of 2-means is an interval, so
//! the times are sorted once and each iteration is a binary search over prefix sums.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::interactions::{Interactions, needs_times};
use super::split::Split;
use crate::error::{Code, Error, Result};

/// How the centroids are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Bisecting 2-means: the largest group is split until there are K.
    Bisecting,
    /// K intervals of equal width.
    Interval,
}

/// A division of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeClusters {
    /// Microseconds.
    first: i64,
    last: i64,
    /// (K) ascending, in units of z.
    centroids: Vec<f64>,
}

impl TimeClusters {
    /// At most `k` clusters of the training times (fewer where there are fewer distinct times).
    pub fn fit(data: &Interactions, split: &Split, k: u32, method: Method) -> Result<TimeClusters> {
        let times = data.times().ok_or_else(|| needs_times("sampling by time clusters"))?;
        if k == 0 {
            return Err(Error::new(Code::C0202, "`data.clusters` is at least 1"));
        }
        let mut sorted: Vec<i64> = Vec::with_capacity(split.training_events() as usize);
        for user in 0..data.users() as u32 {
            sorted.extend_from_slice(&times[split.training(data, user)]);
        }
        sorted.par_sort_unstable();
        let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else {
            return Err(Error::new(Code::D0403, "no training events are left to cluster"));
        };
        let mut clusters = TimeClusters { first, last, centroids: vec![] };
        clusters.centroids = match method {
            Method::Bisecting => clusters.bisect(&sorted, k as usize),
            Method::Interval => (0..k).map(|i| (f64::from(i) + 0.5) / f64::from(k)).collect(),
        };
        Ok(clusters)
    }

    /// Clusters K.
    pub fn len(&self) -> usize {
        self.centroids.len()
    }

    /// Never: there is at least one cluster.
    pub fn is_empty(&self) -> bool {
        self.centroids.is_empty()
    }

    /// (K) centroids in units of z, ascending.
    pub fn centroids(&self) -> &[f64] {
        &self.centroids
    }

    /// The cluster of a time (microseconds); times outside the training range belong to the outer clusters.
    pub fn of(&self, time: i64) -> u32 {
        let z = self.z(time);
        // Among ascending centroids, pass on while the next one is strictly nearer.
        let (mut low, mut high) = (0, self.centroids.len().saturating_sub(1));
        while low < high {
            let middle = (low + high) / 2;
            if z > 0.5 * (self.centroids[middle] + self.centroids[middle + 1]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low as u32
    }

    fn z(&self, time: i64) -> f64 {
        // Exact but for spans of 292,000 years, which saturate.
        let span = self.last.saturating_sub(self.first) as f64;
        if span > 0.0 { time.saturating_sub(self.first) as f64 / span } else { 0.0 }
    }

    fn bisect(&self, sorted: &[i64], k: usize) -> Vec<f64> {
        let mut sums = Vec::with_capacity(sorted.len() + 1);
        sums.push(0.0);
        let mut sum = 0.0;
        for &t in sorted {
            sum += self.z(t);
            sums.push(sum);
        }
        let mean = |a: usize, b: usize| (sums[b] - sums[a]) / (b - a) as f64;
        let mut groups = vec![(0, sorted.len())];
        while groups.len() < k {
            let splittable = (0..groups.len()).filter(|&g| sorted[groups[g].0] < sorted[groups[g].1 - 1]);
            let Some(largest) = splittable.max_by_key(|&g| (groups[g].1 - groups[g].0, std::cmp::Reverse(groups[g].0))) else {
                break;
            };
            let (start, end) = groups[largest];
            let mut cut = start + (end - start) / 2;
            // 2-means moves the cut between two positions only finitely often; rounding could make it alternate.
            for _ in 0..300 {
                let middle = 0.5 * (mean(start, cut) + mean(cut, end));
                let next = start + sorted[start..end].partition_point(|&t| self.z(t) <= middle);
                if next == cut || next == start || next == end {
                    break;
                }
                cut = next;
            }
            // Halving first may have cut through equal times, which belong together.
            if sorted[cut - 1] == sorted[cut] {
                let t = sorted[cut];
                let below = start + sorted[start..end].partition_point(|&s| s < t);
                let above = start + sorted[start..end].partition_point(|&s| s <= t);
                cut = if below > start { below } else { above };
            }
            groups[largest] = (start, cut);
            groups.push((cut, end));
        }
        groups.sort_unstable();
        groups.into_iter().map(|(start, end)| mean(start, end)).collect()
    }

    /// Training events by cluster, for draws of a context.
    pub fn events(&self, data: &Interactions, split: &Split) -> ClusterEvents {
        let times = data.times().unwrap_or(&[]);
        let mut offsets = vec![0u64; self.len() + 1];
        let training = || (0..data.users() as u32).flat_map(|u| split.training(data, u));
        let clusters: Vec<u32> = training().map(|event| self.of(times[event])).collect();
        for &k in &clusters {
            offsets[k as usize + 1] += 1;
        }
        for k in 0..self.len() {
            offsets[k + 1] += offsets[k];
        }
        let mut next = offsets.clone();
        let mut events = vec![0u32; clusters.len()];
        for (event, &k) in training().zip(&clusters) {
            events[next[k as usize] as usize] = event as u32;
            next[k as usize] += 1;
        }
        ClusterEvents { offsets, events }
    }

    /// Training events of each item in each cluster.
    pub fn counts(&self, data: &Interactions, split: &Split) -> ClusterCounts {
        let events = self.events(data, split);
        let per_cluster: Vec<(Vec<u32>, Vec<u32>)> = (0..self.len() as u32)
            .into_par_iter()
            .map(|k| {
                let mut items: Vec<u32> = events.of(k).iter().map(|&e| data.event_items()[e as usize]).collect();
                items.par_sort_unstable();
                let counts = items.chunk_by(|a, b| a == b).map(|run| run.len() as u32).collect();
                items.dedup();
                (items, counts)
            })
            .collect();
        let mut all = ClusterCounts { offsets: vec![0], items: vec![], counts: vec![] };
        for (items, counts) in per_cluster {
            all.items.extend(items);
            all.counts.extend(counts);
            all.offsets.push(all.items.len() as u64);
        }
        all
    }
}

/// CSR positions of training events, by cluster; ascending within one.
#[derive(Clone)]
pub struct ClusterEvents {
    /// (K+1)
    pub offsets: Vec<u64>,
    pub events: Vec<u32>,
}

impl ClusterEvents {
    pub fn of(&self, cluster: u32) -> &[u32] {
        &self.events[self.offsets[cluster as usize] as usize..self.offsets[cluster as usize + 1] as usize]
    }
}

/// `n(k, i)`: training events of item `i` in cluster `k`, only those above zero.
#[derive(Clone)]
pub struct ClusterCounts {
    /// (K+1)
    pub offsets: Vec<u64>,
    /// Ascending within a cluster.
    pub items: Vec<u32>,
    pub counts: Vec<u32>,
}

impl ClusterCounts {
    /// The items of a cluster and their counts.
    pub fn of(&self, cluster: u32) -> (&[u32], &[u32]) {
        let range = self.offsets[cluster as usize] as usize..self.offsets[cluster as usize + 1] as usize;
        (&self.items[range.clone()], &self.counts[range])
    }
    pub fn count(&self, cluster: u32, item: u32) -> u32 {
        let (items, counts) = self.of(cluster);
        items.binary_search(&item).map_or(0, |at| counts[at])
    }
}

#[cfg(test)]
mod tests {
    use super::super::prepare::in_memory;
    use super::super::raw::{RawLog, Sides};
    use super::*;
    use crate::config;

    /// One user whose events have these times in seconds, and one later event that does not train (`gts` would cut; here
    /// the user trains wholly because the split is made by hand).
    fn data(seconds: &[i64], items: &[&str]) -> (Interactions, Split) {
        let mut raw = RawLog::default();
        for item in items {
            raw.users.push(raw.user_ids.intern(b"u"));
            raw.items.push(raw.item_ids.intern(item.as_bytes()));
        }
        raw.times = Some(seconds.iter().map(|s| s * 1_000_000).collect());
        let data = in_memory(raw, &config::Data::default(), Sides::default()).unwrap();
        let mut split = Split::new(&data, &config::Data::default(), 0).unwrap();
        split.train_end = vec![data.events() as u64];
        split.train_items = vec![0; data.items()];
        data.event_items().iter().for_each(|&i| split.train_items[i as usize] += 1);
        (data, split)
    }

    #[test]
    fn bisecting_finds_planted_groups_and_splits_the_largest_first() {
        // Groups at 0-2, 50-51 and 90-100 seconds with 3, 2 and 6 events.
        let times = [0, 1, 2, 50, 51, 90, 92, 94, 96, 98, 100];
        let items = ["a", "b", "a", "c", "a", "a", "b", "b", "b", "a", "c"];
        let (data, split) = data(&times, &items);
        let fit = |k| TimeClusters::fit(&data, &split, k, Method::Bisecting).unwrap();
        let one = fit(1);
        assert_eq!((one.len(), one.of(i64::MIN), one.of(i64::MAX)), (1, 0, 0));
        // First split: the means of the halves are .208 and .96 (cut .584), which 2-means keeps: 5 and 6 events.
        let two = fit(2);
        assert!((two.centroids()[0] - 0.208).abs() < 1e-12 && (two.centroids()[1] - 0.95).abs() < 1e-12, "{two:?}");
        // The right group is the larger one and is split next, then the left one.
        let three = fit(3);
        assert_eq!(three.len(), 3);
        assert!((three.centroids()[1] - 0.92).abs() < 1e-12 && (three.centroids()[2] - 0.98).abs() < 1e-12, "{three:?}");
        let four = fit(4);
        assert!((four.centroids()[0] - 0.01).abs() < 1e-12 && (four.centroids()[1] - 0.505).abs() < 1e-12, "{four:?}");
        let of: Vec<u32> = times.iter().map(|&s| four.of(s * 1_000_000)).collect();
        assert_eq!(of, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]);
        assert_eq!((four.of(-5), four.of(999_000_000)), (0, 3));

        let events = four.events(&data, &split);
        assert_eq!((events.of(0), events.of(1), events.of(3)), (&[0u32, 1, 2][..], &[3u32, 4][..], &[8u32, 9, 10][..]));
        let counts = four.counts(&data, &split);
        let item = |name: &str| data.find_item(name.as_bytes()).unwrap();
        let table: Vec<Vec<u32>> =
            (0..4).map(|k| ["a", "b", "c"].iter().map(|name| counts.count(k, item(name))).collect()).collect();
        assert_eq!(table, [[2, 1, 0], [1, 0, 1], [1, 2, 0], [1, 1, 1]]);
        assert_eq!(counts.of(1).0.len(), 2);
    }

    #[test]
    fn equal_times_stay_together_and_limit_the_number_of_clusters() {
        let (data, split) = data(&[5, 5, 5, 5, 5, 5, 9], &["a"; 7]);
        let clusters = TimeClusters::fit(&data, &split, 10, Method::Bisecting).unwrap();
        assert_eq!(clusters.centroids(), [0.0, 1.0]);
        assert_eq!(
            (clusters.of(6_900_000), clusters.of(7_000_000), clusters.of(7_100_000)),
            (0, 0, 1),
            "a tie goes to the earlier"
        );
        let (data, split) = self::data(&[3, 3, 3], &["a", "b", "a"]);
        let clusters = TimeClusters::fit(&data, &split, 4, Method::Bisecting).unwrap();
        assert_eq!((clusters.len(), clusters.of(0), clusters.of(i64::MAX)), (1, 0, 0));
    }

    #[test]
    fn intervals_have_equal_width() {
        let (data, split) = data(&[0, 1, 40], &["a"; 3]);
        let clusters = TimeClusters::fit(&data, &split, 4, Method::Interval).unwrap();
        assert_eq!(clusters.centroids(), [0.125, 0.375, 0.625, 0.875]);
        let of: Vec<u32> = [-1, 0, 9, 11, 19, 21, 29, 31, 40, 50].map(|s| clusters.of(s * 1_000_000)).to_vec();
        assert_eq!(of, [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]);
        let stored = serde_json::to_string(&clusters).unwrap();
        assert_eq!(serde_json::from_str::<TimeClusters>(&stored).unwrap(), clusters);
    }

    #[test]
    fn neither_zero_clusters_nor_a_log_without_times_will_do() {
        let (data, split) = data(&[0, 1, 40], &["a"; 3]);
        assert_eq!(TimeClusters::fit(&data, &split, 0, Method::Bisecting).unwrap_err().code(), Code::C0202);
        let mut raw = RawLog::default();
        raw.users.push(raw.user_ids.intern(b"u"));
        raw.items.push(raw.item_ids.intern(b"i"));
        let data = in_memory(raw, &config::Data::default(), Sides::default()).unwrap();
        let split = Split::new(&data, &config::Data::default(), 0).unwrap();
        assert_eq!(TimeClusters::fit(&data, &split, 2, Method::Bisecting).unwrap_err().code(), Code::D0404);
    }

    /// Every split of the largest group is a fixed point of 2-means: both sides lie nearer to their own mean.
    #[test]
    fn two_means_has_converged_on_irregular_times() {
        let draws = crate::rng::Draws::new(3, crate::rng::Stream::Test, 0, 0);
        let mut times: Vec<i64> = (0..997).map(|i| (draws.words64(i)[0] >> 44) as i64 * (1 + i as i64 % 3)).collect();
        times.sort_unstable();
        let (data, split) = data(&times, &vec!["a"; times.len()]);
        let clusters = TimeClusters::fit(&data, &split, 2, Method::Bisecting).unwrap();
        let events = clusters.events(&data, &split);
        for k in 0..2 {
            let z: Vec<f64> = events.of(k).iter().map(|&e| clusters.z(data.times().unwrap()[e as usize])).collect();
            let mean = z.iter().sum::<f64>() / z.len() as f64;
            // Sums of a thousand numbers below one.
            assert!((mean - clusters.centroids()[k as usize]).abs() < 1e-12);
        }
    }
}
