//! Which events train, validate and test.
//!
//! - `loo`: a user's last event is its test target, the last but one its validation target, the rest trains.
//! - `loo_512`: as `loo`, but only 512 random users have a validation target; the last two events of everybody stay out
//!   of training.
//! - `gts`: cuts in time. With the times of all E events sorted, events before the one at `floor(q E)` lie before the cut,
//!   all others (ties included) after it; test targets are a user's last, first, a random, or all events after the cut.
//!   The last slice before the cut is taken in the same proportion for validation: the events before the cut are cut
//!   again at q, what lies between the two cuts gives the validation targets by the same rule, and only what lies before
//!   both trains. A target needs at least one earlier event of its user, from either side of a cut.
//!
//! What is random is drawn from [`SEED`], not from the seed of a run, so runs that differ in their seed are asked the same. The name
//! of the split records it.
//!
//! In every protocol a target's visible history is everything the user did before it, and a user with fewer than three
//! events only trains (`loo`, `loo_512`).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::interactions::{Interactions, needs_times};
use crate::config;
use crate::error::{Code, Error, Result};
use crate::rng::{Draws, Stream, below};

/// Seed of whatever belongs to a protocol and is random: a constant, so that evaluations of differently seeded runs are comparable.
pub const SEED: u64 = 20_231_109;

/// Users validated by `loo_512`.
const VALIDATED: usize = 512;
/// Lanes of [`Stream::Split`].
const PICK_USERS: u8 = 0;
const PICK_EVENT: u8 = 1;

/// One event to be predicted, and how much of its user's past may be seen for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub user: u32,
    /// Events `offsets[user] .. history_end` of the CSR are the visible history.
    pub history_end: u64,
    /// CSR position of the event to be predicted (its item, time and context).
    pub at: u64,
}

/// A split of prepared interactions.
pub struct Split {
    /// Protocol name as reports print it, e.g. `loo`, `gts q=0.9 target=last` or, where something was drawn, `loo_512 seed=20231109`.
    pub name: String,
    /// The seed of whatever was drawn at random; none where nothing was.
    pub seed: Option<u64>,
    /// (U) events `offsets[u] .. train_end[u]` train.
    pub train_end: Vec<u64>,
    /// Ascending by position, as `test`.
    pub valid: Vec<Target>,
    pub test: Vec<Target>,
    /// (V) training events of each item.
    pub train_items: Vec<u32>,
}

impl Split {
    /// Splits as `config.split` says; `seed`, for runs [`SEED`], serves the random choices of `loo_512` and of
    /// `gts_target = "random"`.
    pub fn new(data: &Interactions, config: &config::Data, seed: u64) -> Result<Split> {
        let mut split = match config.split.as_str() {
            "loo" => leave_one_out(data, None),
            "loo_512" => leave_one_out(data, Some(seed)),
            "gts" => by_time(data, config.gts_quantile, &config.gts_target, seed)?,
            other => return Err(Error::new(Code::C0202, format!("`data.split` is loo, loo_512 or gts, not \"{other}\""))),
        };
        if let Some(seed) = split.seed {
            split.name += &format!(" seed={seed}");
        }
        split.train_end.shrink_to_fit();
        split.valid.shrink_to_fit();
        split.test.shrink_to_fit();
        split.train_items = vec![0; data.items()];
        for user in 0..data.users() as u32 {
            for &item in &data.event_items()[split.training(data, user)] {
                split.train_items[item as usize] += 1;
            }
        }
        Ok(split)
    }

    /// Positions of user `u`'s training events.
    pub fn training(&self, data: &Interactions, user: u32) -> std::ops::Range<usize> {
        data.offsets()[user as usize] as usize..self.train_end[user as usize] as usize
    }

    /// Training events of all users.
    pub fn training_events(&self) -> u64 {
        self.train_items.iter().map(|&n| u64::from(n)).sum()
    }
}

fn leave_one_out(data: &Interactions, sampled: Option<u64>) -> Split {
    let mut split = Split {
        name: if sampled.is_some() { "loo_512".into() } else { "loo".into() },
        seed: sampled,
        train_end: vec![],
        valid: vec![],
        test: vec![],
        train_items: vec![],
    };
    for user in 0..data.users() as u32 {
        let range = data.range(user);
        let end = range.end as u64;
        if range.len() < 3 {
            split.train_end.push(end);
            continue;
        }
        split.train_end.push(end - 2);
        split.valid.push(Target { user, history_end: end - 2, at: end - 2 });
        split.test.push(Target { user, history_end: end - 1, at: end - 1 });
    }
    if let Some(seed) = sampled
        && split.valid.len() > VALIDATED
    {
        // The users with the smallest random words: a uniform subset that does not depend on any order.
        let draws = Draws::new(seed, Stream::Split, PICK_USERS, 0);
        split.valid.sort_by_cached_key(|t| (draws.words64(u64::from(t.user))[0], t.user));
        split.valid.truncate(VALIDATED);
        split.valid.sort_unstable_by_key(|t| t.at);
    }
    split
}

/// Which events between two cuts are targets.
#[derive(Clone, Copy, PartialEq)]
enum Pick {
    Last,
    First,
    Random,
    All,
}

fn by_time(data: &Interactions, quantile: f64, target: &str, seed: u64) -> Result<Split> {
    let times = data.times().ok_or_else(|| needs_times("`data.split = \"gts\"`"))?;
    if !(quantile > 0.0 && quantile < 1.0) {
        return Err(Error::new(Code::C0202, format!("`data.gts_quantile` lies between 0 and 1, not at {quantile}")));
    }
    let pick = match target {
        "last" => Pick::Last,
        "first" => Pick::First,
        "random" => Pick::Random,
        "all" => Pick::All,
        other => {
            return Err(Error::new(Code::C0202, format!("`data.gts_target` is last, first, random or all, not \"{other}\"")));
        }
    };
    let mut sorted = times.to_vec();
    let cut = time_at(&mut sorted, quantile);
    sorted.retain(|&t| t < cut);
    if sorted.is_empty() {
        let what = format!("no event lies before the cut of the global temporal split at quantile {quantile}");
        return Err(Error::new(Code::D0404, what).help("raise `data.gts_quantile`, or use `data.split = \"loo\"`"));
    }
    let inner = time_at(&mut sorted, quantile);
    let mut split = Split {
        name: format!("gts q={quantile} target={target}"),
        seed: (pick == Pick::Random).then_some(seed),
        train_end: Vec::with_capacity(data.users()),
        valid: vec![],
        test: vec![],
        train_items: vec![],
    };
    for user in 0..data.users() as u32 {
        let range = data.range(user);
        let mine = &times[range.clone()];
        let train_end = range.start + mine.partition_point(|&t| t < inner);
        let test_start = range.start + mine.partition_point(|&t| t < cut);
        split.train_end.push(train_end as u64);
        targets(&mut split.valid, user, range.start, train_end..test_start, pick, Draws::new(seed, Stream::Split, PICK_EVENT, 0));
        targets(&mut split.test, user, range.start, test_start..range.end, pick, Draws::new(seed, Stream::Split, PICK_EVENT, 1));
    }
    Ok(split)
}

/// The time at `floor(quantile n)` of `times` in order.
fn time_at(times: &mut [i64], quantile: f64) -> i64 {
    let at = ((quantile * times.len() as f64) as usize).min(times.len() - 1);
    *times.select_nth_unstable(at).1
}

/// Adds the targets `pick`ed from the positions `held` of a user whose first event is at `start`.
fn targets(to: &mut Vec<Target>, user: u32, start: usize, held: std::ops::Range<usize>, pick: Pick, draws: Draws) {
    let held = held.start.max(start + 1)..held.end;
    if held.is_empty() {
        return;
    }
    let chosen = match pick {
        Pick::Last => held.end - 1..held.end,
        Pick::First => held.start..held.start + 1,
        Pick::Random => {
            let at = held.start + below(draws.words64(u64::from(user))[0], held.len() as u64) as usize;
            at..at + 1
        }
        Pick::All => held,
    };
    to.extend(chosen.map(|at| Target { user, history_end: at as u64, at: at as u64 }));
}

/// How far the past of a split knows its future; for reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Leakage {
    /// Share of training events later than the earliest test target; none without times.
    pub later_training_share: Option<f64>,
    /// Test targets, and those whose item is in the visible history.
    pub targets: u64,
    pub repeated_targets: u64,
    /// Those that are in the visible history with the same item and the same time: duplicate rows of the log.
    pub duplicate_targets: u64,
    /// Test targets whose item has no training event, and how many such items there are.
    pub cold_targets: u64,
    pub cold_items: u64,
}

/// Measures the leakage of the test targets.
pub fn leakage(split: &Split, data: &Interactions) -> Leakage {
    let (items, times) = (data.event_items(), data.times());
    let first_test = times.and_then(|t| split.test.iter().map(|target| t[target.at as usize]).min());
    let later = times.zip(first_test).map(|(times, first)| {
        let later: u64 = (0..data.users() as u32)
            .into_par_iter()
            .map(|user| {
                let mine = &times[split.training(data, user)];
                (mine.len() - mine.partition_point(|&t| t <= first)) as u64
            })
            .sum();
        later as f64 / split.training_events().max(1) as f64
    });
    let mut cold: Vec<u32> =
        split.test.iter().map(|t| items[t.at as usize]).filter(|&i| split.train_items[i as usize] == 0).collect();
    let cold_targets = cold.len() as u64;
    cold.sort_unstable();
    cold.dedup();
    let (repeated, duplicate) = split
        .test
        .par_iter()
        .map(|t| {
            let history = data.offsets()[t.user as usize] as usize..t.history_end as usize;
            let at = t.at as usize;
            let mut same = history.filter(|&e| items[e] == items[at]).peekable();
            let repeated = u64::from(same.peek().is_some());
            (repeated, u64::from(times.is_some_and(|times| same.any(|e| times[e] == times[at]))))
        })
        .reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    Leakage {
        later_training_share: later,
        targets: split.test.len() as u64,
        repeated_targets: repeated,
        duplicate_targets: duplicate,
        cold_targets,
        cold_items: cold.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::super::prepare::in_memory;
    use super::super::raw::{RawLog, Sides};
    use super::*;

    /// Users with their (item, time) events, in this order.
    fn data(users: &[&[(&str, i64)]]) -> Interactions {
        let (mut raw, mut times) = (RawLog::default(), vec![]);
        for (u, events) in users.iter().enumerate() {
            for (item, time) in *events {
                raw.users.push(raw.user_ids.intern(u.to_string().as_bytes()));
                raw.items.push(raw.item_ids.intern(item.as_bytes()));
                times.push(*time);
            }
        }
        raw.times = Some(times);
        in_memory(raw, &config::Data::default(), Sides::default()).unwrap()
    }

    fn config(split: &str, quantile: f64, target: &str) -> config::Data {
        config::Data { split: split.into(), gts_quantile: quantile, gts_target: target.into(), ..config::Data::default() }
    }

    fn at(user: u32, at: u64) -> Target {
        Target { user, history_end: at, at }
    }

    #[test]
    fn leave_one_out_keeps_two_events_of_users_with_three() {
        let data = data(&[
            &[("a", 1), ("b", 2), ("c", 3), ("a", 4)],
            &[("a", 1), ("b", 2)],
            &[("b", 1)],
            &[("a", 5), ("a", 6), ("d", 7)],
        ]);
        let split = Split::new(&data, &config("loo", 0.5, "last"), 1).unwrap();
        assert_eq!((split.name.as_str(), split.seed), ("loo", None));
        assert_eq!(split.train_end, [2, 6, 7, 8]);
        assert_eq!(split.valid, [at(0, 2), at(3, 8)]);
        assert_eq!(split.test, [at(0, 3), at(3, 9)]);
        let count = |name: &str| split.train_items[data.find_item(name.as_bytes()).unwrap() as usize];
        assert_eq!(["a", "b", "c", "d"].map(count), [3, 3, 0, 0]);
        assert_eq!(split.training_events(), 6);
        // The first test target is at time 4: of six training events only user 3's first (time 5) is later. The targets
        // are a (in the history at another time) and d (never trained).
        let expected = Leakage {
            later_training_share: Some(1.0 / 6.0),
            targets: 2,
            repeated_targets: 1,
            duplicate_targets: 0,
            cold_targets: 1,
            cold_items: 1,
        };
        assert_eq!(leakage(&split, &data), expected);
    }

    #[test]
    fn duplicate_rows_are_told_from_repeats() {
        let data = data(&[&[("a", 1), ("b", 2), ("b", 2)], &[("a", 1), ("a", 2), ("a", 3)]]);
        let split = Split::new(&data, &config("loo", 0.5, "last"), 1).unwrap();
        let leakage = leakage(&split, &data);
        assert_eq!((leakage.repeated_targets, leakage.duplicate_targets), (2, 1));
    }

    #[test]
    fn loo_512_validates_a_random_subset_and_trains_on_no_more() {
        let events: Vec<Vec<(String, i64)>> =
            (0..700).map(|u| (0..3 + u % 2).map(|t| (format!("{}", (u + t) % 9), i64::from(t))).collect()).collect();
        let borrowed: Vec<Vec<(&str, i64)>> = events.iter().map(|e| e.iter().map(|(i, t)| (&i[..], *t)).collect()).collect();
        let data = data(&borrowed.iter().map(|e| &e[..]).collect::<Vec<_>>());
        let all = Split::new(&data, &config("loo", 0.5, "last"), 1).unwrap();
        let one = Split::new(&data, &config("loo_512", 0.5, "last"), 1).unwrap();
        let two = Split::new(&data, &config("loo_512", 0.5, "last"), 2).unwrap();
        assert_eq!((one.valid.len(), one.seed, one.name.as_str()), (512, Some(1), "loo_512 seed=1"));
        assert!(one.valid.is_sorted_by_key(|t| t.at) && one.valid.iter().all(|t| all.valid.contains(t)));
        assert_ne!(one.valid, two.valid);
        assert_eq!((one.train_end, one.test), (all.train_end, all.test));
        // 512 of 700 users: a user is left out by both seeds with probability (188/700)^2; 50 expected.
        let missed = all.valid.iter().filter(|t| !one.valid.contains(t) && !two.valid.contains(t)).count();
        assert!((20..90).contains(&missed), "{missed}");
    }

    /// Ten events at times 0..10 in four users; q = .7 cuts at time 7, and the seven before at floor(4.9) = time 4.
    fn timed() -> Interactions {
        data(&[&[("a", 0), ("b", 1), ("c", 5), ("d", 8), ("e", 9)], &[("a", 2), ("b", 6)], &[("a", 3), ("c", 4)], &[("b", 7)]])
    }

    #[test]
    fn the_global_split_cuts_time_twice() {
        let data = timed();
        let split = |target: &str| Split::new(&data, &config("gts", 0.7, target), 1).unwrap();
        let last = split("last");
        assert_eq!(last.name, "gts q=0.7 target=last");
        // User 0: events 0..5, user 1: 5, 6, user 2: 7, 8, user 3: 9. User 3 has no earlier event: no target.
        assert_eq!(last.train_end, [2, 6, 8, 9]);
        assert_eq!(last.valid, [at(0, 2), at(1, 6), at(2, 8)]);
        assert_eq!(last.test, [at(0, 4)]);
        assert_eq!(split("first").test, [at(0, 3)]);
        assert_eq!(split("all").test, [at(0, 3), at(0, 4)]);
        assert_eq!((split("random").seed, split("last").seed), (Some(1), None));
        let random: Vec<u64> = (0..40).map(|s| Split::new(&data, &config("gts", 0.7, "random"), s).unwrap().test[0].at).collect();
        assert!(random.contains(&3) && random.contains(&4));
        assert_eq!(leakage(&last, &data).later_training_share, Some(0.0));
    }

    #[test]
    fn nothing_trains_at_or_after_the_cut_even_with_ties() {
        let data = data(&[&[("a", 1), ("b", 2), ("c", 2), ("d", 2)], &[("a", 1), ("b", 1), ("d", 2)]]);
        let split = Split::new(&data, &config("gts", 0.9, "all"), 1).unwrap();
        // Both cuts fall on ties: the outer at 2, the inner at 1, so nothing trains; the training set says so later.
        assert_eq!(split.training_events(), 0);
        assert_eq!(split.test.len(), 4);
        assert_eq!(split.valid, [at(1, 5)]);
    }

    #[test]
    fn settings_that_cannot_hold_are_refused() {
        let data = timed();
        let code = |c: &config::Data| Split::new(&data, c, 1).err().map(|e| e.code());
        assert_eq!(code(&config("weekly", 0.5, "last")), Some(Code::C0202));
        assert_eq!(code(&config("gts", 0.5, "middle")), Some(Code::C0202));
        for quantile in [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(code(&config("gts", quantile, "last")), Some(Code::C0202));
        }
        assert_eq!(code(&config("gts", 0.05, "last")), Some(Code::D0404), "nothing lies before the first event");
        let mut raw = RawLog::default();
        raw.users.push(raw.user_ids.intern(b"u"));
        raw.items.push(raw.item_ids.intern(b"i"));
        let untimed = in_memory(raw, &config::Data::default(), Sides::default()).unwrap();
        assert_eq!(Split::new(&untimed, &config("gts", 0.5, "last"), 1).err().map(|e| e.code()), Some(Code::D0404));
    }
}
