//! The rows of a raw log grouped by user and ordered by time, and the cleaning steps that drop some of them.

use rayon::prelude::*;

use super::interactions::{Count, Statistics};
use super::raw::RawLog;

/// Users that are worked on together; fixed, so results never depend on threads.
const USERS: usize = 1024;

/// Row numbers of a log, grouped by user code and ordered by (time, row).
pub(super) struct Rows {
    order: Vec<u32>,
    /// (users+1), also for users without rows.
    offsets: Vec<u64>,
}

impl Rows {
    /// All rows but those lighter than `least` (or of weight NaN).
    pub fn new(raw: &RawLog, least: Option<f64>) -> Rows {
        match (least, &raw.weights) {
            (Some(least), Some(weights)) => Rows::of_kept(raw, |row| f64::from(weights[row]) >= least),
            _ => Rows::of_kept(raw, |_| true),
        }
    }

    /// The rows lighter than `least` whose user and item `kept` holds: what is known not to be wanted.
    pub fn lighter(raw: &RawLog, least: f64, kept: &Rows) -> Rows {
        let weights = raw.weights.as_deref().unwrap_or(&[]);
        let items = kept.item_counts(raw);
        Rows::of_kept(raw, |row| {
            weights.get(row).is_some_and(|&w| f64::from(w) < least)
                && items[raw.items[row] as usize] > 0
                && !kept.of(raw.users[row]).is_empty()
        })
    }

    /// Counting sort by user, then each user by time.
    fn of_kept(raw: &RawLog, keep: impl Fn(usize) -> bool) -> Rows {
        let mut offsets = vec![0u64; raw.user_ids.len() + 1];
        for (row, &user) in raw.users.iter().enumerate() {
            offsets[user as usize + 1] += u64::from(keep(row));
        }
        for u in 0..raw.user_ids.len() {
            offsets[u + 1] += offsets[u];
        }
        let mut order = vec![0u32; offsets[raw.user_ids.len()] as usize];
        let mut next = offsets.clone();
        for (row, &user) in raw.users.iter().enumerate() {
            if keep(row) {
                order[next[user as usize] as usize] = row as u32;
                next[user as usize] += 1;
            }
        }
        let mut rows = Rows { order, offsets };
        if let Some(times) = &raw.times {
            rows.rewrite(|_, part| {
                // Rows ascend here, so the row number as second key makes the unstable sort stable.
                if !part.is_sorted_by_key(|&row| times[row as usize]) {
                    part.sort_unstable_by_key(|&row| (times[row as usize], row));
                }
                part.len()
            });
        }
        rows
    }

    /// Lets `f` reorder each user's rows and say how many of the first ones stay; then closes the gaps.
    fn rewrite(&mut self, f: impl Fn(u32, &mut [u32]) -> usize + Sync) {
        let users = self.offsets.len() - 1;
        let mut parts = Vec::with_capacity(users.div_ceil(USERS));
        let mut rest = &mut self.order[..];
        for first in (0..users).step_by(USERS) {
            let last = (first + USERS).min(users);
            let (part, after) = std::mem::take(&mut rest).split_at_mut((self.offsets[last] - self.offsets[first]) as usize);
            parts.push((first, last, part));
            rest = after;
        }
        let offsets = &self.offsets;
        let kept: Vec<Vec<usize>> = parts
            .into_par_iter()
            .map(|(first, last, mut part)| {
                (first..last)
                    .map(|u| {
                        let (mine, after) = std::mem::take(&mut part).split_at_mut((offsets[u + 1] - offsets[u]) as usize);
                        part = after;
                        f(u as u32, mine)
                    })
                    .collect()
            })
            .collect();
        let mut end = 0;
        for (u, kept) in kept.into_iter().flatten().enumerate() {
            let start = self.offsets[u] as usize;
            self.order.copy_within(start..start + kept, end);
            self.offsets[u] = end as u64;
            end += kept;
        }
        self.offsets[users] = end as u64;
        self.order.truncate(end);
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }
    pub fn order(&self) -> &[u32] {
        &self.order
    }
    pub fn of(&self, user: u32) -> &[u32] {
        &self.order[self.offsets[user as usize] as usize..self.offsets[user as usize + 1] as usize]
    }
    /// Where the rows of `user` end.
    pub fn end(&self, user: u32) -> u64 {
        self.offsets[user as usize + 1]
    }

    /// Keeps one of the rows of a user that share an item: the `first` or `last` in order; `exact` drops only rows whose
    /// time is equal too.
    pub fn drop_repeats(&mut self, raw: &RawLog, kind: &str) {
        let times = raw.times.as_deref().unwrap_or(&[]);
        self.rewrite(|_, part| {
            let mut by_item: Vec<(u32, u32)> =
                part.iter().enumerate().map(|(at, &row)| (raw.items[row as usize], at as u32)).collect();
            by_item.sort_unstable();
            let mut stay = vec![true; part.len()];
            for pair in by_item.windows(2) {
                let ((a, first), (b, second)) = (pair[0], pair[1]);
                let (first, second) = (first as usize, second as usize);
                if a == b {
                    match kind {
                        "last" => stay[first] = false,
                        "exact" => stay[second] = times[part[first] as usize] != times[part[second] as usize],
                        _ => stay[second] = false,
                    }
                }
            }
            retain(part, |at, _| stay[at])
        });
    }

    /// Drops items with fewer than `item` rows, then users with fewer than `user` of what is left, once (as CaNS does).
    pub fn one_pass(&mut self, raw: &RawLog, user: u32, item: u32) {
        let counts = self.item_counts(raw);
        self.rewrite(|_, part| {
            let kept = retain(part, |_, row| counts[raw.items[row as usize] as usize] >= item);
            if kept >= user as usize { kept } else { 0 }
        });
    }

    /// Repeats both filters until nothing changes. The result, the largest set in which every user and item has enough
    /// rows, does not depend on the order of removal, so it is peeled with a work list in time linear in the rows.
    pub fn k_core(&mut self, raw: &RawLog, user: u32, item: u32) {
        let users = raw.user_ids.len();
        let mut item_rows = vec![0u32; self.order.len()];
        let mut item_degree = self.item_counts(raw);
        let mut next = Vec::with_capacity(item_degree.len() + 1);
        next.push(0u64);
        for (i, &n) in item_degree.iter().enumerate() {
            next.push(next[i] + u64::from(n));
        }
        let item_offsets = next.clone();
        for &row in &self.order {
            let slot = &mut next[raw.items[row as usize] as usize];
            item_rows[*slot as usize] = row;
            *slot += 1;
        }
        let mut user_degree: Vec<u32> = (0..users as u32).map(|u| self.of(u).len() as u32).collect();
        let mut gone = vec![false; raw.items.len()];
        // Work list: users below `users`, items after them.
        let mut poor: Vec<usize> = (0..users).filter(|&u| user_degree[u] < user).collect();
        poor.extend((0..item_degree.len()).filter(|&i| item_degree[i] < item).map(|i| users + i));
        while let Some(node) = poor.pop() {
            let mine = if node < users {
                self.of(node as u32)
            } else {
                &item_rows[item_offsets[node - users] as usize..item_offsets[node - users + 1] as usize]
            };
            for &row in mine {
                if std::mem::replace(&mut gone[row as usize], true) {
                    continue;
                }
                let (u, i) = (raw.users[row as usize] as usize, raw.items[row as usize] as usize);
                user_degree[u] -= 1;
                item_degree[i] -= 1;
                // Each side enters the list once: at the start, or when it falls just below its threshold.
                if user_degree[u] + 1 == user {
                    poor.push(u);
                }
                if item_degree[i] + 1 == item {
                    poor.push(users + i);
                }
            }
        }
        self.rewrite(|_, part| retain(part, |_, row| !gone[row as usize]));
    }

    /// (items of the log) rows of each item.
    pub fn item_counts(&self, raw: &RawLog) -> Vec<u32> {
        let mut counts = vec![0u32; raw.item_ids.len()];
        for &row in &self.order {
            counts[raw.items[row as usize] as usize] += 1;
        }
        counts
    }

    /// Of the log before any cleaning.
    pub fn total(raw: &RawLog) -> Count {
        Count { events: raw.items.len() as u64, users: raw.user_ids.len() as u64, items: raw.item_ids.len() as u64 }
    }

    pub fn count(&self, raw: &RawLog) -> Count {
        Count {
            events: self.order.len() as u64,
            users: self.offsets.windows(2).filter(|w| w[0] < w[1]).count() as u64,
            items: self.item_counts(raw).iter().filter(|&&n| n > 0).count() as u64,
        }
    }

    /// Everything but the density. At least one row must be left.
    pub fn statistics(&self, raw: &RawLog) -> Statistics {
        let Count { events, users, items } = self.count(raw);
        let mut lengths: Vec<u64> = self.offsets.windows(2).map(|w| w[1] - w[0]).filter(|&n| n > 0).collect();
        lengths.sort_unstable();
        let times = raw.times.as_deref();
        let per_user = |u: usize| {
            let mine = self.of(u as u32);
            let mut distinct: Vec<u32> = mine.iter().map(|&row| raw.items[row as usize]).collect();
            distinct.sort_unstable();
            distinct.dedup();
            let ties = times.map_or(0, |t| mine.windows(2).filter(|w| t[w[0] as usize] == t[w[1] as usize]).count());
            (ties as u64, (mine.len() - distinct.len()) as u64)
        };
        let (ties, repeated) = (0..self.offsets.len() - 1)
            .into_par_iter()
            .with_min_len(USERS)
            .map(per_user)
            .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let time = |row: &u32| times.map(|t| t[*row as usize]);
        Statistics {
            events,
            users,
            items,
            mean_length: events as f64 / users.max(1) as f64,
            median_length: lengths.get(lengths.len() / 2).copied().unwrap_or(0),
            min_length: lengths.first().copied().unwrap_or(0),
            max_length: lengths.last().copied().unwrap_or(0),
            first_time: self.order.iter().filter_map(time).min(),
            last_time: self.order.iter().filter_map(time).max(),
            ties,
            repeated,
            density: 0.0,
        }
    }
}

/// Moves the rows that stay to the front, in order; how many.
fn retain(part: &mut [u32], stay: impl Fn(usize, u32) -> bool) -> usize {
    let mut kept = 0;
    for at in 0..part.len() {
        let row = part[at];
        if stay(at, row) {
            part[kept] = row;
            kept += 1;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(pairs: &[(u32, u32)], times: Option<Vec<i64>>) -> RawLog {
        let mut raw = RawLog::default();
        for (user, item) in pairs {
            raw.users.push(raw.user_ids.intern(&user.to_le_bytes()));
            raw.items.push(raw.item_ids.intern(&item.to_le_bytes()));
        }
        raw.times = times;
        raw
    }

    fn left(rows: &Rows) -> Vec<u32> {
        let mut left = rows.order.clone();
        left.sort_unstable();
        left
    }

    /// Filters again and again, as the definition says.
    fn brute_force(pairs: &[(u32, u32)], user: usize, item: usize) -> Vec<u32> {
        let mut left: Vec<u32> = (0..pairs.len() as u32).collect();
        loop {
            let before = left.len();
            let pair = |row: &u32| pairs[*row as usize];
            let poor_items: Vec<u32> =
                left.iter().map(|r| pair(r).1).filter(|i| left.iter().filter(|r| pair(r).1 == *i).count() < item).collect();
            left.retain(|r| !poor_items.contains(&pair(r).1));
            let poor_users: Vec<u32> =
                left.iter().map(|r| pair(r).0).filter(|u| left.iter().filter(|r| pair(r).0 == *u).count() < user).collect();
            left.retain(|r| !poor_users.contains(&pair(r).0));
            if left.len() == before {
                return left;
            }
        }
    }

    proptest! {
        #[test]
        fn the_k_core_is_what_repeated_filtering_leaves(
            pairs in prop::collection::vec((0u32..9, 0u32..9), 1..70), user in 0u32..5, item in 0u32..5
        ) {
            let raw = log(&pairs, None);
            let mut rows = Rows::new(&raw, None);
            rows.k_core(&raw, user, item);
            prop_assert_eq!(left(&rows), brute_force(&pairs, user as usize, item as usize));
        }

        #[test]
        fn rows_are_ordered_by_time_then_input(pairs in prop::collection::vec((0u32..4, 0u32..9), 1..60), seed in any::<u64>()) {
            let draws = crate::rng::Draws::new(seed, crate::rng::Stream::Test, 0, 0);
            let times: Vec<i64> = (0..pairs.len() as u64).map(|i| (draws.words64(i)[0] % 5) as i64 - 2).collect();
            let raw = log(&pairs, Some(times.clone()));
            let rows = Rows::new(&raw, None);
            let mut expected: Vec<u32> = (0..pairs.len() as u32).collect();
            // A stable sort by user, then time: equal times keep the order of the input.
            expected.sort_by_key(|&r| (raw.users[r as usize], times[r as usize]));
            prop_assert_eq!(&rows.order, &expected);
        }
    }

    #[test]
    fn a_long_chain_is_peeled_whole() {
        // Users and items in one long path: a 2-core takes as many rounds as half the path, one row at each end per round.
        let pairs: Vec<(u32, u32)> = (0..50_000).flat_map(|i| [(i, i), (i, i + 1)]).collect();
        let raw = log(&pairs, None);
        let mut rows = Rows::new(&raw, None);
        rows.k_core(&raw, 2, 2);
        assert_eq!(rows.len(), 0);
        // Closed to a ring, nothing is poor.
        let ring: Vec<(u32, u32)> = (0..5000).flat_map(|i| [(i, i), (i, (i + 1) % 5000)]).collect();
        let raw = log(&ring, None);
        let mut rows = Rows::new(&raw, None);
        rows.k_core(&raw, 2, 2);
        assert_eq!(rows.len(), 10_000);
    }

    #[test]
    fn one_pass_filters_items_then_users_and_never_looks_back() {
        // Item 2 is rare; without it user 1 is too short, and with user 1 gone item 1 would be rare as well.
        let pairs = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2)];
        let raw = log(&pairs, None);
        let mut rows = Rows::new(&raw, None);
        rows.one_pass(&raw, 2, 2);
        assert_eq!(left(&rows), [0, 1, 2]);
        let mut rows = Rows::new(&raw, None);
        rows.k_core(&raw, 2, 2);
        assert_eq!(left(&rows), [0, 1]);
    }

    #[test]
    fn repeats_are_dropped_as_asked() {
        // In time order: (5, a), (5, b), (5, a), (6, a), (7, b); rows given in another order.
        let pairs = [(0, 1), (0, 2), (0, 1), (0, 2), (0, 1)];
        let raw = log(&pairs, Some(vec![6, 5, 5, 7, 5]));
        let kept = |kind| {
            let mut rows = Rows::new(&raw, None);
            rows.drop_repeats(&raw, kind);
            rows.order
        };
        assert_eq!(Rows::new(&raw, None).order, [1, 2, 4, 0, 3]);
        assert_eq!(kept("first"), [1, 2]);
        assert_eq!(kept("last"), [0, 3]);
        assert_eq!(kept("exact"), [1, 2, 0, 3]);
    }

    #[test]
    fn light_rows_and_rows_without_a_weight_are_left_out() {
        let mut raw = log(&[(0, 0), (0, 1), (1, 0), (1, 1)], None);
        raw.weights = Some(vec![4.0, 3.9, f32::NAN, 5.0]);
        assert_eq!(Rows::new(&raw, Some(4.0)).order, [0, 3]);
        assert_eq!(Rows::new(&raw, None).order, [0, 1, 2, 3]);
    }

    #[test]
    fn statistics_by_hand() {
        let raw = log(&[(0, 0), (0, 0), (0, 1), (1, 2), (2, 0), (2, 1)], Some(vec![3, 3, 4, 9, 1, 1]));
        let s = Rows::new(&raw, None).statistics(&raw);
        assert_eq!((s.events, s.users, s.items), (6, 3, 3));
        assert_eq!((s.min_length, s.median_length, s.max_length, s.mean_length), (1, 2, 3, 2.0));
        assert_eq!((s.first_time, s.last_time, s.ties, s.repeated), (Some(1), Some(9), 2, 1));
    }
}
