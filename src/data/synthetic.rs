//! The built-in log: users who walk along planted chains of items, with popularity that depends on the period of the day.
//!
//! Item `i` belongs to cluster `i mod C` and has three successors in the next cluster. A user's next item is, with
//! probability `markov`, a successor of the last one (.6, .3, .1); otherwise an item of some cluster, by Zipf's law within
//! it: the user's favourite cluster (.3), one that is popular in the current period of the day (.5), or any (.2). So order
//! predicts far better than popularity, and time better than no time. Every draw is keyed by (user, event), so users are
//! independent of how many there are and of threads.

use rayon::prelude::*;

use super::graph::RawGraph;
use super::raw::{Ids, RawAttributes, RawLog, Sides};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::ids::{LIMIT, NONE};
use crate::rng::{Draws, Stream, below, open01};

/// Lanes of [`Stream::Synthetic`]: a user's traits, an item's successors, an event's item, an event's time and period.
const TRAITS: u8 = 0;
const SUCCESSORS: u8 = 1;
const CHOICE: u8 = 2;
const PLACE: u8 = 3;

/// 2021-01-01 UTC, in seconds; users start within half a year of it.
const BEGIN: i64 = 1_609_459_200;
const WINDOW: u64 = 180 * 86_400;
/// Mean seconds between events of a user; not a divisor of a day, so that users pass through all periods.
const GAP: f64 = 17.0 * 3600.0;
/// Shortest history, where the mean allows: one event each for training, validation and test.
const SHORTEST: f64 = 3.0;
const CHUNK: usize = 512;

/// The log; one attribute per item, the planted cluster; and as graph each item's triples with its cluster and its three
/// successors.
pub fn generate(config: &config::Synthetic) -> Result<(RawLog, Sides)> {
    check(config)?;
    let world = World::new(config);
    let users: Vec<u32> = (0..config.users).collect();
    let parts: Vec<Vec<(u32, u32, i64)>> = users
        .par_chunks(CHUNK)
        .map(|part| {
            let mut events = vec![];
            part.iter().for_each(|&user| world.walk(user, &mut events));
            events
        })
        .collect();
    let rows: usize = parts.iter().map(Vec::len).sum();
    let mut log = RawLog { layout: serde_json::json!({ "format": "synthetic", "settings": config }), ..RawLog::default() };
    let mut times = Vec::with_capacity(rows);
    log.users.reserve_exact(rows);
    log.items.reserve_exact(rows);
    for user in users {
        log.user_ids.intern(format!("user{user}").as_bytes());
    }
    let mut codes = vec![NONE; config.items as usize];
    for (user, item, time) in parts.into_iter().flatten() {
        if codes[item as usize] == NONE {
            codes[item as usize] = log.item_ids.intern(format!("item{item}").as_bytes());
        }
        log.users.push(user);
        log.items.push(codes[item as usize]);
        times.push(time * 1_000_000);
    }
    log.times = Some(times);
    let mut attributes = RawAttributes { offsets: vec![0], ..RawAttributes::default() };
    attributes.names = (0..config.clusters).fold(Ids::new(), |mut names, c| {
        names.intern(format!("cluster{c}").as_bytes());
        names
    });
    let mut graph = RawGraph::default();
    for item in 0..config.items {
        let name = format!("item{item}");
        attributes.items.intern(name.as_bytes());
        attributes.codes.push(item % config.clusters);
        attributes.offsets.push(u64::from(item) + 1);
        // An item that nobody met is of no use as a head.
        if codes[item as usize] != NONE {
            let head = graph.nodes.intern(name.as_bytes());
            let successors = (0..3).map(|which| format!("item{}", world.planted(item, which)));
            for tail in successors.chain([format!("cluster{}", item % config.clusters)]) {
                let tail = graph.nodes.intern(tail.as_bytes());
                graph.triples.push([head, tail]);
            }
        }
    }
    Ok((log, Sides { attributes: Some(attributes), graph: Some(graph) }))
}

fn check(c: &config::Synthetic) -> Result<()> {
    let fine = |x: f64, low: f64, high: f64| x >= low && x <= high;
    let wrong = [
        (c.users == 0 || c.users as usize >= LIMIT, "users", "at least 1"),
        (c.items < 2 || c.items as usize >= LIMIT, "items", "at least 2"),
        (!fine(c.events_per_user, 1.0, 1e6), "events_per_user", "between 1 and 1,000,000"),
        (c.clusters == 0, "clusters", "at least 1"),
        (!fine(c.zipf, 0.0, 10.0), "zipf", "between 0 and 10"),
        (!fine(c.markov, 0.0, 1.0), "markov", "between 0 and 1"),
        (c.periods == 0 || c.periods > 24, "periods", "between 1 and 24"),
    ];
    if let Some((_, key, range)) = wrong.iter().find(|w| w.0) {
        return Err(Error::new(Code::C0202, format!("`data.synthetic.{key}` is {range}")));
    }
    if c.clusters > c.items {
        let what = format!("{} items cannot be parted into {} clusters", c.items, c.clusters);
        return Err(Error::new(Code::C0202, what)
            .help(format!("lower `data.synthetic.clusters` to {} or less, or raise `data.synthetic.items`", c.items)));
    }
    // The number of rows is random; twice its mean is never reached by logs of this size.
    if f64::from(c.users) * c.events_per_user * 2.0 > LIMIT as f64 {
        return Err(Error::new(Code::D0405, "the synthetic log would have more rows than can be numbered"));
    }
    Ok(())
}

struct World<'a> {
    config: &'a config::Synthetic,
    /// Sums of `(rank + 1)^-zipf` over the ranks of the largest cluster.
    zipf: Vec<f64>,
}

impl World<'_> {
    fn new(config: &config::Synthetic) -> World<'_> {
        let mut sum = 0.0;
        let largest = config.items.div_ceil(config.clusters);
        let weight = |rank: u32| {
            sum += f64::from(rank + 1).powf(-config.zipf);
            sum
        };
        World { config, zipf: (0..largest).map(weight).collect() }
    }

    fn draws(&self, lane: u8, step: u32) -> Draws {
        Draws::new(self.config.seed, Stream::Synthetic, lane, u64::from(step))
    }

    /// Items of a cluster: those `i` with `i mod C = cluster`.
    fn size(&self, cluster: u32) -> u32 {
        (self.config.items - cluster).div_ceil(self.config.clusters)
    }

    /// An item of `cluster` by Zipf's law.
    fn popular(&self, cluster: u32, word: u64) -> u32 {
        let sums = &self.zipf[..self.size(cluster) as usize];
        let aim = open01(word) * sums[sums.len() - 1];
        let rank = sums.partition_point(|&s| s < aim).min(sums.len() - 1) as u32;
        rank * self.config.clusters + cluster
    }

    /// One of the three successors of `item`, each anywhere in the next cluster.
    fn successor(&self, item: u32, word: u64) -> u32 {
        let which = match open01(word) {
            u if u < 0.6 => 0,
            u if u < 0.9 => 1,
            _ => 2,
        };
        self.planted(item, which)
    }

    /// Successor `which` of `item`, the likeliest first.
    fn planted(&self, item: u32, which: u64) -> u32 {
        let cluster = (item % self.config.clusters + 1) % self.config.clusters;
        let rank = below(self.draws(SUCCESSORS, item).words64(which)[0], u64::from(self.size(cluster))) as u32;
        rank * self.config.clusters + cluster
    }

    /// A cluster of the user's taste at this time.
    fn taste(&self, favourite: u32, time: i64, words: [u64; 2]) -> u32 {
        let (clusters, periods) = (self.config.clusters, self.config.periods);
        let period = (time.rem_euclid(86_400) * i64::from(periods) / 86_400) as u32;
        let popular_now = if period < clusters { (clusters - period).div_ceil(periods) } else { 0 };
        match open01(words[0]) {
            u if u < 0.3 => favourite,
            u if u < 0.8 && popular_now > 0 => period + periods * below(words[1], u64::from(popular_now)) as u32,
            _ => below(words[1], u64::from(clusters)) as u32,
        }
    }

    /// The events of a user: (user, item, seconds).
    fn walk(&self, user: u32, to: &mut Vec<(u32, u32, i64)>) {
        let traits = self.draws(TRAITS, user);
        let [length, start] = traits.words64(0);
        let favourite = below(traits.words64(1)[0], u64::from(self.config.clusters)) as u32;
        let mean = self.config.events_per_user;
        let events = if mean > SHORTEST {
            (SHORTEST + ((SHORTEST - mean) * open01(length).ln()).min(50.0 * mean)).round()
        } else {
            mean.round()
        };
        let (choice, place) = (self.draws(CHOICE, user), self.draws(PLACE, user));
        let mut time = BEGIN + below(start, WINDOW) as i64;
        let mut last = NONE;
        for event in 0..events as u64 {
            let [follow, which] = choice.words64(event);
            let taste = place.words64(2 * event);
            let [pause, rank] = place.words64(2 * event + 1);
            last = if last != NONE && open01(follow) < self.config.markov {
                self.successor(last, which)
            } else {
                self.popular(self.taste(favourite, time, taste), rank)
            };
            to.push((user, last, time));
            time += 1 + (-GAP * open01(pause).ln()) as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::interactions::Interactions;
    use super::super::prepare::in_memory;
    use super::*;

    fn log(change: impl Fn(&mut config::Synthetic)) -> Interactions {
        let mut settings = config::Synthetic::default();
        change(&mut settings);
        let (raw, sides) = generate(&settings).unwrap();
        in_memory(raw, &config::Data::default(), sides).unwrap()
    }

    #[test]
    fn the_log_has_the_size_asked_for() {
        let data = log(|_| {});
        assert_eq!(data.users(), 2000);
        assert!(data.items() > 950 && data.items() <= 1000, "{}", data.items());
        let s = &data.meta().statistics;
        // Lengths are 3 plus an exponential of mean 27: the mean of 2000 has standard error .6.
        assert!((s.mean_length - 30.0).abs() < 2.5, "{}", s.mean_length);
        assert!(s.min_length >= 3);
        assert_eq!(data.attributes().unwrap().width(), 20);
        let item = data.find_item(b"item17").unwrap();
        assert_eq!(data.attributes().unwrap().names.get(data.attributes().unwrap().of(item)[0]), b"cluster17");
        let graph = data.graph().unwrap();
        let entities: Vec<&[u8]> = graph.of(item).iter().map(|&e| graph.names.get(e)).collect();
        assert!(entities.contains(&&b"cluster17"[..]) && entities.iter().any(|e| e.starts_with(b"item")), "{entities:?}");
    }

    #[test]
    fn users_do_not_depend_on_each_other() {
        let (few, many) = (log(|s| s.users = 10), log(|s| s.users = 600));
        for user in 0..10 {
            let of = |data: &Interactions| {
                let names: Vec<Vec<u8>> = data.history(user).iter().map(|&i| data.item_name(i).to_vec()).collect();
                (names, data.times().unwrap()[data.range(user)].to_vec())
            };
            assert_eq!(of(&few), of(&many));
        }
        assert_ne!(log(|s| s.users = 10).content_hash(), log(|s| (s.users, s.seed) = (10, 2)).content_hash());
    }

    /// Counting which item followed which in all but the last event of each user, and ranking by it, beats popularity.
    #[test]
    fn the_order_predicts_far_better_than_popularity() {
        let data = log(|_| {});
        let mut follow = std::collections::BTreeMap::<(u32, u32), u32>::new();
        for user in 0..2000 {
            let history = data.history(user);
            history[..history.len() - 1].windows(2).for_each(|w| *follow.entry((w[0], w[1])).or_default() += 1);
        }
        let (mut by_order, mut by_popularity) = (0, 0);
        for user in 0..2000 {
            let history = data.history(user);
            let (last, target) = (history[history.len() - 2], history[history.len() - 1]);
            let mut ranked: Vec<(u32, u32)> = follow.range((last, 0)..(last + 1, 0)).map(|(k, n)| (u32::MAX - n, k.1)).collect();
            ranked.sort_unstable();
            by_order += u32::from(ranked.iter().take(10).any(|r| r.1 == target));
            // Items are numbered by descending frequency.
            by_popularity += u32::from(target < 10);
        }
        assert!(by_order > 3 * by_popularity && by_order > 1000, "order {by_order}, popularity {by_popularity} of 2000");
    }

    /// Items of clusters `c mod 4 = p` are more frequent in period p than outside it.
    #[test]
    fn popularity_depends_on_the_time_of_day() {
        let data = log(|s| s.markov = 0.0);
        let mut counts = [[0f64; 4]; 4];
        for (event, &item) in data.event_items().iter().enumerate() {
            let cluster = data.attributes().unwrap().of(item)[0] as usize;
            let period = (data.times().unwrap()[event] / 1_000_000 % 86_400 / 21_600) as usize;
            counts[period][cluster % 4] += 1.0;
        }
        for (p, row) in counts.iter().enumerate() {
            let share = row[p] / row.iter().sum::<f64>();
            // .5 by the period, a quarter of the other half by chance.
            assert!((share - 0.625).abs() < 0.03, "period {p}: {share}");
        }
    }

    #[test]
    fn odd_settings_work_and_impossible_ones_are_refused() {
        for (users, items, clusters, periods, mean) in [(1, 2, 1, 1, 1.0), (3, 7, 7, 24, 2.0), (5, 11, 3, 5, 4.0)] {
            let data = log(|s| {
                (s.users, s.items, s.clusters, s.periods, s.events_per_user) = (users, items, clusters, periods, mean);
            });
            assert_eq!(data.users(), users as usize);
        }
        let refused = |change: fn(&mut config::Synthetic)| {
            let mut settings = config::Synthetic::default();
            change(&mut settings);
            generate(&settings).err().map(|e| e.code())
        };
        let few = config::Synthetic { items: 3, ..config::Synthetic::default() };
        let error = generate(&few).err().unwrap().to_string();
        assert!(error.contains("lower `data.synthetic.clusters` to 3") && error.contains("`data.synthetic.items`"), "{error}");
        assert_eq!(refused(|s| s.users = 0), Some(Code::C0202));
        assert_eq!(refused(|s| s.items = 1), Some(Code::C0202));
        assert_eq!(refused(|s| s.clusters = 1001), Some(Code::C0202));
        assert_eq!(refused(|s| s.periods = 0), Some(Code::C0202));
        assert_eq!(refused(|s| s.markov = f64::NAN), Some(Code::C0202));
        assert_eq!(refused(|s| (s.users, s.events_per_user) = (u32::MAX - 1, 30.0)), Some(Code::D0405));
    }
}
