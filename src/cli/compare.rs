//! `hardneg compare A B ...`: whether runs differ, request by request, and in what they were made to differ.
//!
//! The best model of each run is ranked again on the test events, so nothing depends on what an older version wrote down. Requests
//! are matched by the ids of user and item, repeats of a pair by their place from the last one back; the first run is the base.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::arguments::Machine;
use crate::cli::display::{Display, Style};
use crate::cli::measure::{Ground, Part};
use crate::cli::settings::flat;
use crate::cli::terminal;
use crate::cli::trained::Trained;
use crate::error::{Code, Error, Result, did_you_mean};
use crate::eval::{Encoder, Evaluation, Outcome};
use crate::metrics::paired::{Paired, paired};
use crate::metrics::ranking::ACCURACY;
use crate::metrics::significance::Mean;
use crate::train::run_dir::{Manifest, RunDir};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  hardneg compare runs/uniform runs/dns\n  hardneg compare runs/base runs/new --metric ndcg@10 --fail-if 'ndcg@10 < 0.99*base'"
)]
pub struct Args {
    /// Run directories; the first is the base
    #[arg(num_args = 2.., required = true, value_name = "RUN")]
    pub(super) runs: Vec<PathBuf>,
    /// Metrics, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = trimmed, value_name = "NAMES", default_value = "ndcg@10,hr@10,coverage@10")]
    pub(super) metric: Vec<String>,
    /// Exit with 1 if this holds for any run but the base: METRIC, one of < <= > >=, and NUMBER, `base` or `NUMBER*base`
    #[arg(long, value_name = "CONDITION")]
    pub(super) fail_if: Vec<String>,
    /// Which events to predict
    #[arg(long, value_enum, default_value = "test")]
    pub(super) split: Part,
    #[command(flatten)]
    pub(super) machine: Machine,
}

/// A name without the blanks around it, as after a comma.
fn trimmed(name: &str) -> std::result::Result<String, std::convert::Infallible> {
    Ok(name.trim().to_string())
}

/// What a request is known by in every run: user and item, and how many later requests have the same.
type Key = (Vec<u8>, Vec<u8>, u32);

/// A run, ranked.
struct Ranked {
    path: String,
    config: BTreeMap<String, String>,
    manifest: Manifest,
    evaluation: Evaluation,
    ranks: HashMap<Key, f64>,
}

pub fn run(args: &Args, json: bool) -> Result<()> {
    let conditions = args.fail_if.iter().map(|text| Condition::parse(text)).collect::<Result<Vec<_>>>()?;
    let mut runs = vec![];
    for path in &args.runs {
        runs.push(rank(args, path, json).map_err(|e| e.note(format!("while opening {}", path.display())))?);
    }
    let (base, others) = (&runs[0], &runs[1..]);
    let names = args.metric.iter().chain(conditions.iter().map(|c| &c.metric));
    for name in names {
        if let Some(run) = runs.iter().find(|run| run.evaluation.get(name).is_none()) {
            let known: Vec<&str> =
                run.evaluation.values.iter().map(|(name, _)| name.as_str()).filter(|n| !n.ends_with("_se")).collect();
            return Err(Error::new(Code::C0202, format!("{} has no metric `{name}`", run.path)).help(did_you_mean(name, &known)));
        }
    }
    let notes = notes(&runs);
    let mut table = vec![
        ["run", "metric", "base", "value", "difference", "95 % interval", "wins", "losses", "sign test p"]
            .map(String::from)
            .to_vec(),
    ];
    let mut objects = vec![];
    for other in others {
        for name in &args.metric {
            let (before, after) = (value(base, name), value(other, name));
            let pair = per_request(name).map(|metric| compare(base, other, &metric)).transpose()?;
            let mut row = vec![other.path.clone(), name.clone(), format!("{before:.4}"), format!("{after:.4}")];
            row.push(format!("{:+.4}", after - before));
            match &pair {
                Some(p) => row.extend([
                    format!("{:+.4} .. {:+.4}", p.low, p.high),
                    p.wins.to_string(),
                    p.losses.to_string(),
                    if p.p < 1e-4 { "< 0.0001".into() } else { format!("{:.4}", p.p) },
                ]),
                None => row.extend(["-"; 4].map(String::from)),
            }
            table.push(row);
            let paired = pair.map(|p| {
                json!({ "difference": p.difference, "low": p.low, "high": p.high, "wins": p.wins, "losses": p.losses, "p": p.p })
            });
            objects.push(json!({ "run": other.path, "metric": name, "base": before, "value": after, "paired": paired }));
        }
    }
    let differences = differences(&runs);
    let spread = spread(&runs, &differences, &args.metric);
    if json {
        let settings: serde_json::Map<String, Value> = differences.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let all: Vec<&String> = runs.iter().map(|r| &r.path).collect();
        let what = json!({ "v": 1, "kind": "compare", "runs": all, "metrics": objects, "settings": settings, "seeds": spread, "notes": notes });
        terminal::out(&what.to_string())?;
    } else {
        terminal::out(&terminal::escape(terminal::table(&table).trim_end()))?;
        if !differences.is_empty() {
            let mut table = vec![std::iter::once("setting".to_string()).chain(runs.iter().map(|r| r.path.clone())).collect()];
            table.extend(
                differences.iter().map(|(key, values)| std::iter::once(key.clone()).chain(values.iter().cloned()).collect()),
            );
            terminal::out(&format!("\n{}", terminal::escape(terminal::table(&table).trim_end())))?;
        }
        for (name, mean, deviation) in &spread {
            terminal::out(&format!("over {} seeds: {name} {mean:.4}, standard deviation {deviation:.4}", runs.len()))?;
        }
        for note in &notes {
            terminal::out(&format!("note: {}", terminal::escape(note)))?;
        }
    }
    let broken: Vec<String> = others.iter().flat_map(|other| conditions.iter().filter_map(|c| c.holds(base, other))).collect();
    match broken.is_empty() {
        true => Ok(()),
        false => {
            let error = Error::new(Code::A0102, format!("{} condition(s) of `--fail-if` hold", broken.len()));
            Err(broken.into_iter().fold(error, |error, what| error.note(what)))
        }
    }
}

fn rank(args: &Args, path: &Path, json: bool) -> Result<Ranked> {
    let Trained { config, set, mut model, device, .. } = Trained::alone(path, &args.machine)?;
    let ground = Ground::new(&set, args.split);
    let mut display = Display::new(Style::Auto, json, false);
    display.start("ranking", args.split.targets(&set).len() as u64);
    let mut ranker = Encoder::new(&mut model, &device, &config.model.kind)?;
    let evaluation = ground.evaluate(&mut ranker, &config.eval, &mut |done, _| display.at(done as u64, String::new));
    display.stop();
    let evaluation = evaluation?;
    let data = set.data();
    let ranks = evaluation.outcomes.iter().zip(later(&evaluation.outcomes));
    let key = |o: &Outcome, later: u32| (data.user_name(o.user).to_vec(), data.item_name(o.item).to_vec(), later);
    let ranks = ranks.map(|(o, later)| (key(o, later), o.rank)).collect();
    let manifest = RunDir::open(path)?.read_manifest()?.unwrap_or_default();
    let config = flat(&config)?.into_iter().map(|(key, value)| (key, value.to_string())).collect();
    Ok(Ranked { path: path.display().to_string(), config, manifest, evaluation, ranks })
}

/// For each request, how many after it have the same user and item. Counted from the end, because a user's last events are asked for
/// wherever a split cuts.
fn later(outcomes: &[Outcome]) -> Vec<u32> {
    let mut seen: HashMap<(u32, u32), u32> = HashMap::new();
    let mut later: Vec<u32> = outcomes
        .iter()
        .rev()
        .map(|o| {
            let times = seen.entry((o.user, o.item)).or_insert(0);
            *times += 1;
            *times - 1
        })
        .collect();
    later.reverse();
    later
}

fn value(run: &Ranked, metric: &str) -> f64 {
    run.evaluation.get(metric).unwrap_or(f64::NAN)
}

/// The metric as a function of a request's rank; none for those of whole lists.
fn per_request(name: &str) -> Option<impl Fn(f64) -> f64 + use<>> {
    let (metric, k) = name.split_once('@')?;
    let k: u32 = k.parse().ok()?;
    let of = ACCURACY.iter().find(|(n, _)| n.eq_ignore_ascii_case(metric))?.1;
    Some(move |rank| of(rank, k))
}

fn compare(base: &Ranked, other: &Ranked, metric: &dyn Fn(f64) -> f64) -> Result<Paired> {
    let mut common: Vec<_> = base.ranks.iter().filter_map(|(id, rank)| Some((id, *rank, *other.ranks.get(id)?))).collect();
    // A map has no order, and the bootstrap's draws do.
    common.sort_unstable_by(|a, b| a.0.cmp(b.0));
    let of = |pick: &dyn Fn(&(&Key, f64, f64)) -> f64| common.iter().map(|c| metric(pick(c))).collect::<Vec<_>>();
    let (a, b) = (of(&|c| c.1), of(&|c| c.2));
    paired(&a, &b, 1).ok_or_else(|| {
        Error::new(Code::C0205, format!("{} and {} have no request in common", base.path, other.path))
            .help("compare runs that were trained on the same log with the same split")
    })
}

/// Settings that are not the same in all runs: key and the value in each.
fn differences(runs: &[Ranked]) -> Vec<(String, Vec<String>)> {
    let keys: std::collections::BTreeSet<&String> = runs.iter().flat_map(|r| r.config.keys()).collect();
    let of =
        |key: &str| -> Vec<String> { runs.iter().map(|r| r.config.get(key).cloned().unwrap_or_else(|| "-".into())).collect() };
    keys.into_iter().map(|key| (key.clone(), of(key))).filter(|(_, v)| v.iter().any(|x| *x != v[0])).collect()
}

/// Mean and standard deviation of the metrics where the runs differ in their seed alone.
fn spread(runs: &[Ranked], differences: &[(String, Vec<String>)], metrics: &[String]) -> Vec<(String, f64, f64)> {
    if differences.len() != 1 || differences[0].0 != "train.seed" {
        return vec![];
    }
    let of = |name: &String| {
        let mean: Mean = runs.iter().map(|run| value(run, name)).collect();
        Some((name.clone(), mean.mean()?, mean.error()? * (runs.len() as f64).sqrt()))
    };
    metrics.iter().filter_map(of).collect()
}

/// What makes the figures less comparable than they look.
fn notes(runs: &[Ranked]) -> Vec<String> {
    let mut notes = vec![];
    let base = &runs[0];
    for run in &runs[1..] {
        let mut differ = |what: &str, same: bool| {
            if !same {
                notes.push(format!("{} and {} differ in {what}", base.path, run.path));
            }
        };
        differ("their data", base.manifest.data_fingerprint == run.manifest.data_fingerprint);
        differ("the protocol of evaluation", base.evaluation.protocol.agrees(&run.evaluation.protocol));
        differ("the version of hardneg that trained them", base.manifest.version == run.manifest.version);
        differ("the device that trained them", base.manifest.device == run.manifest.device);
        let common = base.ranks.keys().filter(|id| run.ranks.contains_key(*id)).count();
        if common < base.ranks.len() || common < run.ranks.len() {
            notes.push(format!(
                "{} and {} share {common} of {} and {} requests",
                base.path,
                run.path,
                base.ranks.len(),
                run.ranks.len()
            ));
        }
    }
    notes
}

/// `ndcg@10 < 0.99*base`
#[derive(Debug, PartialEq)]
struct Condition {
    text: String,
    metric: String,
    sign: &'static str,
    factor: f64,
    /// Whether the factor multiplies the base's value or stands for itself.
    of_base: bool,
}

impl Condition {
    fn parse(text: &str) -> Result<Condition> {
        let wrong = |why: &str| {
            Error::new(Code::C0202, format!("`--fail-if '{text}'`: {why}"))
                .help("for example --fail-if 'ndcg@10 < 0.99*base', or --fail-if 'coverage@10 <= 0.2'")
        };
        let sign = ["<=", ">=", "<", ">"]
            .into_iter()
            .find(|sign| text.contains(sign))
            .ok_or_else(|| wrong("there is no <, <=, > or >="))?;
        let (metric, bound) = text.split_once(sign).unwrap_or_default();
        let (metric, bound) = (metric.trim(), bound.trim());
        if metric.is_empty() || metric.contains(char::is_whitespace) {
            return Err(wrong("the left side is one metric, like ndcg@10"));
        }
        let number = |x: &str| x.trim().parse::<f64>().ok().filter(|x| x.is_finite());
        let product = bound.split_once('*').map(|(a, b)| if a.trim() == "base" { (b, a) } else { (a, b) });
        let (factor, of_base) = match product {
            Some((factor, base)) if base.trim() == "base" => (number(factor), true),
            Some(_) => (None, true),
            None if bound == "base" => (Some(1.0), true),
            None => (number(bound), false),
        };
        let factor = factor.ok_or_else(|| wrong("the right side is a number, `base`, or a number times `base`"))?;
        Ok(Condition { text: text.into(), metric: metric.into(), sign, factor, of_base })
    }

    /// What it says where it holds.
    fn holds(&self, base: &Ranked, other: &Ranked) -> Option<String> {
        let (own, before) = (value(other, &self.metric), value(base, &self.metric));
        let bound = if self.of_base { self.factor * before } else { self.factor };
        self.compare(own, bound)
            .then(|| format!("{}: {} is {own:.6}, the bound {bound:.6} ({})", other.path, self.metric, self.text))
    }

    fn compare(&self, own: f64, bound: f64) -> bool {
        match self.sign {
            "<" => own < bound,
            "<=" => own <= bound,
            ">" => own > bound,
            _ => own >= bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read() {
        let c = Condition::parse("ndcg@10 < 0.99*base").unwrap();
        assert_eq!((c.metric.as_str(), c.sign, c.factor, c.of_base), ("ndcg@10", "<", 0.99, true));
        assert!(c.compare(0.9, 0.99) && !c.compare(0.99, 0.99));
        assert_eq!(Condition::parse("hr@10>=base * 1.1").unwrap().factor, 1.1);
        assert!(Condition::parse("hr@10>=base").unwrap().compare(0.5, 0.5));
        let fixed = Condition::parse(" coverage@10 <= .2 ").unwrap();
        assert_eq!((fixed.factor, fixed.of_base), (0.2, false));
        for bad in ["", "ndcg@10", "< 1", "ndcg@10 < ", "ndcg@10 < x", "a b < 1", "ndcg@10 < 2*3", "ndcg@10 < nan"] {
            assert_eq!(Condition::parse(bad).unwrap_err().code(), Code::C0202, "{bad}");
        }
    }

    #[test]
    fn requests_for_the_same_item_are_told_apart_from_the_last_one_back() {
        let asked = |user, item| Outcome { user, item, rank: 1.0, tied: 0, in_history: false };
        let all = [asked(0, 5), asked(0, 6), asked(0, 5), asked(1, 5), asked(1, 5), asked(1, 5)];
        assert_eq!(later(&all), [1, 0, 0, 2, 1, 0]);
        assert_eq!(later(&all[2..]), [0, 2, 1, 0], "a split that asks for fewer events names these as before");
    }

    #[test]
    fn metrics_of_lists_are_not_paired() {
        assert!(per_request("coverage@10").is_none() && per_request("ndcg").is_none());
        let hit = per_request("HR@10").unwrap();
        assert_eq!((hit(10.0), hit(11.0), hit(f64::INFINITY)), (1.0, 0.0, 0.0));
    }
}
