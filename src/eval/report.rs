//! The result of an evaluation: figures by name, how they were made, and the rank of every request.

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::eval::protocol::Protocol;
use crate::metrics::ranking::ACCURACY;

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub user: u32,
    /// The target.
    pub item: u32,
    /// From 1; half-integer under average ties; infinite where the target could not be ranked.
    pub rank: f64,
    /// Rivals with the target's score.
    pub tied: u32,
    /// The target is in its own visible history.
    pub in_history: bool,
}

/// Figures of one ranker on one set of requests.
#[derive(Clone, Debug)]
pub struct Evaluation {
    pub model: String,
    /// List lengths, rising.
    pub at: Vec<u32>,
    /// Name (`ndcg@10`, `ndcg@10_se`) and value, in the order of reports. What does not apply is absent: the distance
    /// within lists without attributes, accuracy of a popularity group without targets, the error of one request.
    pub values: Vec<(String, f64)>,
    pub protocol: Protocol,
    /// In the order of the targets.
    pub outcomes: Vec<Outcome>,
}

impl Evaluation {
    /// A figure by name, in any case: `ndcg@10`, `NDCG@10`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|&(_, value)| value)
    }

    /// All figures by name, then `protocol`.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("model".into(), self.model.clone().into());
        object.extend(self.values.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        object.insert("protocol".into(), self.protocol.json());
        Value::Object(object)
    }
}

/// Checks that `name` is a metric of accuracy with a list length of `at` (`eval.at`), as early stopping needs.
///
/// # Errors
/// C0202 naming the metrics there are.
pub fn check_metric(name: &str, at: &[u32]) -> Result<()> {
    let known = name.split_once('@').is_some_and(|(metric, k)| {
        ACCURACY.iter().any(|(n, _)| n.eq_ignore_ascii_case(metric)) && k.parse().is_ok_and(|k: u32| at.contains(&k))
    });
    if known {
        return Ok(());
    }
    let metrics: Vec<String> = ACCURACY.iter().flat_map(|(n, _)| at.iter().map(move |k| format!("{n}@{k}"))).collect();
    Err(Error::new(Code::C0202, format!("`{name}` is not a metric that is computed"))
        .help(format!("use one of {}; other list lengths are set with `eval.at`", metrics.join(", "))))
}

/// Names that hold the same number when every request has one target are printed once.
const SAME: [(&str, &str); 2] = [("hr", "recall"), ("mrr", "map")];

/// The figures of several rankers side by side, one line per metric, with standard errors where there are any; then
/// the protocol of the first and its caveats. Accuracy is shown at every list length, all else at 10 (or the longest)
/// only; the JSON report holds everything.
pub fn table(evaluations: &[&Evaluation]) -> String {
    let Some(first) = evaluations.first() else { return String::new() };
    let one_length = first.at.iter().copied().find(|&k| k == 10).or(first.at.last().copied()).unwrap_or(0).to_string();
    let mut names: Vec<&str> = vec![];
    for (name, _) in evaluations.iter().flat_map(|e| &e.values) {
        let (metric, k) = name.split_once('@').unwrap_or((name, ""));
        let repeated = SAME.iter().any(|(_, alias)| *alias == metric);
        let here = ACCURACY.iter().any(|(n, _)| *n == metric) || k == one_length;
        if !name.ends_with("_se") && !repeated && here && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut rows: Vec<Vec<String>> = vec![vec!["metric".into()]];
    rows[0].extend(evaluations.iter().map(|e| e.model.clone()));
    for name in names {
        let (metric, k) = name.split_once('@').unwrap_or((name, ""));
        let title = match SAME.iter().find(|(n, _)| *n == metric) {
            Some((_, alias)) => format!("{metric}@{k} = {alias}@{k}"),
            None => name.to_string(),
        };
        let mut row = vec![title];
        for e in evaluations {
            row.push(match (e.get(name), e.get(&format!("{name}_se"))) {
                (Some(value), Some(error)) => format!("{value:.4} ± {error:.4}"),
                (Some(value), None) => format!("{value:.4}         "),
                (None, _) => "-         ".into(),
            });
        }
        rows.push(row);
    }
    let columns = rows[0].len();
    let width: Vec<usize> = (0..columns).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = format!("{:<w$}", row[0], w = width[0]);
        for c in 1..columns {
            line += &format!("  {:>w$}", row[c], w = width[c]);
        }
        text += line.trim_end();
        text.push('\n');
    }
    let p = &first.protocol;
    text += &format!(
        "\n{}: {} requests of {} users ranked among {} items ({}), candidates {}, ties {}, seen items {}\n",
        p.split,
        p.requests,
        p.users,
        p.items_ranked,
        p.items,
        p.candidates,
        p.ties,
        if p.candidates != "full" {
            "never candidates"
        } else if p.exclude_seen {
            "left out"
        } else {
            "ranked"
        }
    );
    let left_out: Vec<String> = p.left_out.iter().filter(|(_, n)| *n > 0).map(|(why, n)| format!("{n} {why}")).collect();
    if !left_out.is_empty() {
        text += &format!("users left out: {}\n", left_out.join(", "));
    }
    for (n, what) in [(p.cold_targets, "targets without a training event"), (p.short_lists, "candidate lists cut short")] {
        if n > 0 {
            text += &format!("{n} {what}\n");
        }
    }
    for e in evaluations {
        if e.protocol.tied_targets > 0 {
            text += &format!("{}: {} targets share their score with another item\n", e.model, e.protocol.tied_targets);
        }
    }
    for caveat in p.caveats() {
        text += &format!("caveat: {caveat}\n");
    }
    text
}
