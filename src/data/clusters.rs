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
        let span = (i128::from(self.last) - i128::from(self.first)) as f64;
        if span > 0.0 { (i128::from(time) - i128::from(self.first)) as f64 / span } else { 0.0 }
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
