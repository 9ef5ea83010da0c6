//! Which items a target is ranked among, under which rules, and how a report states it.
//!
//! `full` ranks everything. `random:N` ranks the target among N items drawn without replacement from those the user never
//! interacted with; `popular:N` among the N of those with most training events (equal counts by index). Sampled figures
//! exist for comparison with papers that used them: they order models differently from full ranking (Krichene and Rendle
//! 2020), and the report says so.
//!
//! Candidates are a pure function of (fixed seed, target event), which is the same as drawing them once and storing
//! them: no model, run or epoch sees other candidates.

use crate::config;
/// Seeds candidates and random ties too.
pub use crate::data::split::SEED;
use crate::data::split::Target;
use crate::error::{Code, Error, Result};
use crate::eval::Facts;
use crate::ops::rank::Ties;
use crate::rng::{Draws, Stream, below};

/// Longest list evaluated.
const LONGEST: u32 = 1000;

/// What a target is ranked among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidates {
    Full,
    Random(usize),
    Popular(usize),
}

impl Candidates {
    pub fn name(self) -> String {
        match self {
            Candidates::Full => "full".into(),
            Candidates::Random(n) => format!("random:{n}"),
            Candidates::Popular(n) => format!("popular:{n}"),
        }
    }
}

/// The `[eval]` section, checked.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Rising, distinct.
    pub at: Vec<u32>,
    pub exclude_seen: bool,
    pub ties: Ties,
    pub candidates: Candidates,
    pub trained_only: bool,
}

const TIES: [(&str, Ties); 5] = [
    ("pessimistic", Ties::Pessimistic),
    ("optimistic", Ties::Optimistic),
    ("average", Ties::Average),
    ("random", Ties::Random),
    ("listed", Ties::Listed),
];

impl Rules {
    /// # Errors
    /// C0202 for a value without meaning, C0203 for options that sampled candidates make ineffective.
    pub fn read(config: &config::Eval) -> Result<Rules> {
        let refuse = |key: &str, value: &str, allowed: &str| {
            Err(Error::new(Code::C0202, format!("`eval.{key} = {value}` is not allowed")).help(format!("use {allowed}")))
        };
        let mut at = config.at.clone();
        at.sort_unstable();
        at.dedup();
        if at.is_empty() || at[0] == 0 || at[at.len() - 1] > LONGEST {
            return refuse("at", &format!("{:?}", config.at), &format!("list lengths from 1 to {LONGEST}"));
        }
        let Some(&(_, ties)) = TIES.iter().find(|(name, _)| *name == config.ties) else {
            return refuse("ties", &config.ties, &TIES.map(|(name, _)| format!("`{name}`")).join(", "));
        };
        let sampled = |kind: &str| -> Option<usize> {
            let n = config.candidates.strip_prefix(kind)?.strip_prefix(':')?.parse().ok()?;
            (1..=1_000_000).contains(&n).then_some(n)
        };
        let candidates = match (config.candidates.as_str(), sampled("random"), sampled("popular")) {
            ("full", ..) => Candidates::Full,
            (_, Some(n), _) => Candidates::Random(n),
            (_, _, Some(n)) => Candidates::Popular(n),
            (other, ..) => return refuse("candidates", other, "`full`, `random:N` or `popular:N`, for example `random:100`"),
        };
        let trained_only = match config.items.as_str() {
            "all" => false,
            "trained" => true,
            other => return refuse("items", other, "`all` or `trained`"),
        };
        if candidates != Candidates::Full && trained_only {
            return Err(Error::new(Code::C0203, "`eval.items = trained` has no effect on sampled candidates")
                .help("rank all items (`eval.candidates = full`), or leave `eval.items` at `all`"));
        }
        Ok(Rules { at, exclude_seen: config.exclude_seen, ties, candidates, trained_only })
    }

    pub fn longest(&self) -> usize {
        self.at.last().map_or(0, |&k| k as usize)
    }

    pub fn ties_name(&self) -> &'static str {
        TIES.iter().find(|(_, ties)| *ties == self.ties).map_or("", |(name, _)| name)
    }
}

/// How an evaluation was made; printed with every figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Protocol {
    pub split: String,
    pub candidates: String,
    pub ties: String,
    pub exclude_seen: bool,
    pub items: String,
    pub items_ranked: u64,
    pub requests: u64,
    pub users: u64,
    pub left_out: Vec<(String, u64)>,
    /// Requests by the popularity group of their target.
    pub targets: Vec<(String, u64)>,
    /// Targets without a training event.
    pub cold_targets: u64,
    /// Targets with an equal among their rivals: where tie rules differ.
    pub tied_targets: u64,
    pub targets_in_history: u64,
    /// Requests with fewer candidates than asked for, because the user has interacted with the rest.
    pub short_lists: u64,
    pub seed: u64,
    pub data_hash: String,
}

impl Protocol {
    /// What a reader must know before comparing the figures.
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = vec![];
        if self.candidates != "full" {
            caveats.push(format!(
                "ranked among {} sampled candidates: comparable only with figures of the same protocol, and models can come \
                 out in another order than in full ranking",
                self.candidates
            ));
        }
        if self.exclude_seen && self.candidates == "full" && self.targets_in_history > 0 {
            caveats.push(format!(
                "{} of {} targets are in their own visible history, which is left out, so they are misses: where people \
                 repeat themselves use `eval.exclude_seen = false`",
                self.targets_in_history, self.requests
            ));
        }
        caveats
    }

    /// Whether figures made under both mean the same: all but the tied targets, which are the model's doing.
    pub fn agrees(&self, other: &Protocol) -> bool {
        Protocol { tied_targets: other.tied_targets, ..self.clone() } == *other
    }

    /// The object under `protocol` in a report.
    pub fn json(&self) -> serde_json::Value {
        let counts = |pairs: &[(String, u64)]| {
            pairs.iter().map(|(name, n)| (name.clone(), (*n).into())).collect::<serde_json::Map<String, serde_json::Value>>()
        };
        serde_json::json!({
            "split": self.split,
            "candidates": self.candidates,
            "ties": self.ties,
            "exclude_seen": self.exclude_seen,
            "items": self.items,
            "items_ranked": self.items_ranked,
            "requests": self.requests,
            "users": self.users,
            "users_left_out": counts(&self.left_out),
            "targets": counts(&self.targets),
            "cold_targets": self.cold_targets,
            "tied_targets": self.tied_targets,
            "targets_in_history": self.targets_in_history,
            "short_lists": self.short_lists,
            "seed": self.seed,
            "data_hash": self.data_hash,
            "caveats": self.caveats(),
        })
    }
}

/// Draws the candidate list of a request.
pub(super) struct Drawer<'a> {
    kind: Candidates,
    facts: &'a Facts<'a>,
    items: usize,
    /// Items by falling training count, for `popular:N`.
    order: Vec<u32>,
}

/// The candidates of one request.
pub(super) struct Among {
    /// Ascending, distinct, the target included.
    pub items: Vec<u32>,
    /// Index of the target in `items`.
    pub place: u32,
    /// Fewer than asked for.
    pub short: bool,
}

impl<'a> Drawer<'a> {
    pub fn new(kind: Candidates, facts: &'a Facts<'a>, items: usize) -> Drawer<'a> {
        let mut order: Vec<u32> = vec![];
        if let Candidates::Popular(_) = kind {
            order = (0..items as u32).collect();
            order.sort_unstable_by_key(|&i| (std::cmp::Reverse(facts.train_counts[i as usize]), i));
        }
        Drawer { kind, facts, items, order }
    }

    /// The candidates for `target`, whose item is `item`.
    pub fn of(&self, target: Target, item: u32) -> Among {
        let mut known = self.facts.interacted(target.user).to_vec();
        known.push(item);
        known.sort_unstable();
        known.dedup();
        let free = |i: &u32| known.binary_search(i).is_err();
        let (mut items, n): (Vec<u32>, usize) = match self.kind {
            Candidates::Full => (vec![], 0),
            Candidates::Popular(n) => (self.order.iter().copied().filter(free).take(n).collect(), n),
            Candidates::Random(n) => (self.random(target, &known, n), n),
        };
        let short = items.len() < n;
        items.push(item);
        items.sort_unstable();
        let place = items.partition_point(|&i| i < item) as u32;
        Among { items, place, short }
    }

    /// `n` distinct items outside `known` (ascending), or all of them if there are no more.
    fn random(&self, target: Target, known: &[u32], n: usize) -> Vec<u32> {
        let draws = Draws::new(SEED, Stream::Candidates, 0, target.at);
        let free = self.items - known.len();
        if free >= 4 * n {
            // At most (known + n) / V of the draws are rejected, and a draw that keeps failing ends in the list below.
            let mut chosen = std::collections::BTreeSet::new();
            for slot in 0..64 * n as u64 {
                let i = below(draws.words64(slot)[0], self.items as u64) as u32;
                if known.binary_search(&i).is_err() {
                    chosen.insert(i);
                    if chosen.len() == n {
                        return chosen.into_iter().collect();
                    }
                }
            }
        }
        // The head of a shuffle of the complement (Fisher and Yates).
        let mut rest: Vec<u32> = (0..self.items as u32).filter(|i| known.binary_search(i).is_err()).collect();
        let take = n.min(rest.len());
        for slot in 0..take {
            let other = slot + below(draws.words64(1 << 40 | slot as u64)[1], (rest.len() - slot) as u64) as usize;
            rest.swap(slot, other);
        }
        rest.truncate(take);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(train_counts: &'a [u32], offsets: &'a [u64], event_items: &'a [u32]) -> Facts<'a> {
        let (split, data_hash) = (String::new(), String::new());
        Facts { train_counts, attributes: None, offsets, event_items, split, data_hash, left_out: vec![] }
    }

    #[test]
    fn settings_are_checked() {
        let read = |change: &dyn Fn(&mut config::Eval)| {
            let mut eval = config::Eval::default();
            change(&mut eval);
            Rules::read(&eval)
        };
        let rules = read(&|e| e.at = vec![20, 5, 20]).unwrap();
        assert_eq!((rules.at, rules.candidates, rules.ties), (vec![5, 20], Candidates::Full, Ties::Pessimistic));
        assert_eq!(read(&|e| e.candidates = "random:100".into()).unwrap().candidates, Candidates::Random(100));
        assert_eq!(read(&|e| e.candidates = "popular:7".into()).unwrap().candidates, Candidates::Popular(7));
        let bad: [&dyn Fn(&mut config::Eval); 9] = [
            &|e| e.at = vec![],
            &|e| e.at = vec![0, 10],
            &|e| e.at = vec![1001],
            &|e| e.ties = "favourable".into(),
            &|e| e.items = "some".into(),
            &|e| e.candidates = "random".into(),
            &|e| e.candidates = "random:0".into(),
            &|e| e.candidates = "random:-1".into(),
            &|e| e.candidates = "popular:1e3".into(),
        ];
        for change in bad {
            assert_eq!(read(change).unwrap_err().code(), Code::C0202);
        }
        let both = read(&|e| (e.candidates, e.items) = ("random:9".into(), "trained".into()));
        assert_eq!(both.unwrap_err().code(), Code::C0203);
    }

    #[test]
    fn candidates_are_distinct_never_interacted_and_the_same_on_every_call() {
        let items = 211usize;
        let counts: Vec<u32> = (0..items as u32).map(|i| i * 7 % 13).collect();
        // User u has interacted with the first 30 u items and with the last one.
        let (mut offsets, mut event_items) = (vec![0], vec![]);
        for user in 0..8 {
            event_items.extend((0..30 * user).chain([items as u32 - 1]));
            offsets.push(event_items.len() as u64);
        }
        let facts = facts(&counts, &offsets, &event_items);
        for kind in [Candidates::Random(10), Candidates::Random(40), Candidates::Popular(25)] {
            let n = if let Candidates::Random(n) | Candidates::Popular(n) = kind { n } else { 0 };
            for user in 0..8u32 {
                let target = Target { user, history_end: 0, at: 1000 + u64::from(user) };
                let item = if user == 0 { 5 } else { 30 * user - 1 };
                let among = Drawer::new(kind, &facts, items).of(target, item);
                assert_eq!(among.items[among.place as usize], item);
                assert!(among.items.windows(2).all(|w| w[0] < w[1]), "ascending and distinct");
                let rivals: Vec<u32> = among.items.iter().copied().filter(|&i| i != item).collect();
                assert!(rivals.iter().all(|&i| i >= 30 * user && (i as usize) < items - 1));
                let free = items - 1 - (30 * user as usize).max(usize::from(user == 0));
                assert_eq!((rivals.len(), among.short), (n.min(free), free < n), "{kind:?} user {user}");
                assert_eq!(Drawer::new(kind, &facts, items).of(target, item).items, among.items);
                if let Candidates::Popular(_) = kind {
                    let least = rivals.iter().map(|&i| counts[i as usize]).min().unwrap_or(0);
                    let missed = (30 * user..items as u32 - 1).filter(|i| !among.items.contains(i));
                    assert!(missed.into_iter().all(|i| counts[i as usize] <= least));
                }
            }
        }
    }

    /// Every item that is free is drawn with the same probability: counts over many targets against the mean, five
    /// standard deviations, on both ways of drawing.
    #[test]
    fn random_candidates_are_uniform() {
        for (items, n) in [(101usize, 7usize), (12, 7)] {
            let counts = vec![1; items];
            let facts = facts(&counts, &[0, 2], &[0, 3]);
            let drawer = Drawer::new(Candidates::Random(n), &facts, items);
            let (mut drawn, rounds) = (vec![0u32; items], 20_000u64);
            for at in 0..rounds {
                for i in drawer.of(Target { user: 0, history_end: 0, at }, 3).items {
                    drawn[i as usize] += 1;
                }
            }
            let p = n as f64 / (items - 2) as f64;
            let (mean, deviation) = (rounds as f64 * p, (rounds as f64 * p * (1.0 - p)).sqrt());
            for (i, &count) in drawn.iter().enumerate() {
                match i {
                    0 => assert_eq!(count, 0),
                    3 => assert_eq!(u64::from(count), rounds),
                    _ => assert!((f64::from(count) - mean).abs() < 5.0 * deviation, "item {i}: {count} against {mean}"),
                }
            }
        }
    }
}
