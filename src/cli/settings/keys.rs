//! Which keys exist, what they may hold, and the names users of other libraries type for them.

use toml::{Table, Value};

use crate::config::{Config, Kind, Sampler};
use crate::error::{Code, Error, Result};
use crate::optim;

/// Tables whose keys beside `kind` are declared by the registered kind, not here.
pub const OPEN: &[&str] = &["loss", "sampler.select", "sampler.mix", "sampler.weight"];

/// Other names for a key: those of RecBole, RecTools, SASRec's and gSASRec's code, and our own shorthands.
const ALIASES: &[(&str, &str)] = &[
    ("maxlen", "model.max_len"),
    ("session_max_len", "model.max_len"),
    ("max_item_list_length", "model.max_len"),
    ("max_seq_length", "model.max_len"),
    ("n_factors", "model.dim"),
    ("hidden_size", "model.dim"),
    ("hidden_units", "model.dim"),
    ("embedding_dim", "model.dim"),
    ("embedding_size", "model.dim"),
    ("n_blocks", "model.layers"),
    ("num_blocks", "model.layers"),
    ("n_layers", "model.layers"),
    ("n_heads", "model.heads"),
    ("num_heads", "model.heads"),
    ("dropout_rate", "model.dropout"),
    ("hidden_dropout_prob", "model.dropout"),
    ("model", "model.kind"),
    ("n_negatives", "sampler.negatives"),
    ("sample_num", "sampler.negatives"),
    ("negs_per_pos", "sampler.negatives"),
    ("num_neg", "sampler.negatives"),
    ("train_neg_sample_args.sample_num", "sampler.negatives"),
    ("train_neg_sample_args.distribution", "sampler.preset"),
    ("sampler", "sampler.preset"),
    ("gbce_t", "loss.t"),
    ("loss_type", "loss.kind"),
    ("optimizer", "optim.kind"),
    ("learning_rate", "optim.lr"),
    ("train.lr", "optim.lr"),
    ("train_batch_size", "train.batch_size"),
    ("stopping_step", "train.patience"),
    ("early_stop", "train.patience"),
    ("valid_metric", "train.metric"),
    ("eval_step", "train.eval_every"),
    ("eval_args.mode", "eval.candidates"),
    ("seed", "train.seed"),
    ("topk", "eval.at"),
    ("filter_viewed", "eval.exclude_seen"),
    ("filter_seen", "eval.exclude_seen"),
    ("filter_rated", "eval.exclude_seen"),
];

/// Words a key may hold.
const CHOICES: &[(&str, &[&str])] = &[
    ("data.header", &["auto", "yes", "no"]),
    ("data.time_unit", &["auto", "s", "ms", "us", "ns", "minutes", "days", "iso", "none"]),
    ("data.encoding", &["auto", "utf-8", "utf-16", "latin-1"]),
    ("data.on_bad_row", &["fail", "skip", "quarantine"]),
    ("data.filter", &["k_core", "one_pass"]),
    ("data.dedup", &["none", "first", "last", "exact"]),
    ("data.split", &["loo", "loo_512", "gts"]),
    ("data.gts_target", &["last", "first", "random", "all"]),
    ("data.temporal", &["auto", "yes", "no"]),
    ("model.kind", &["sasrec", "cans"]),
    ("model.norm", &["pre", "sasrec", "post"]),
    ("model.activation", &["relu", "gelu"]),
    ("model.positions", &["auto", "learned", "start", "none"]),
    ("model.score", &["auto", "dot", "cosine"]),
    ("model.context", &["auto", "yes", "no"]),
    ("model.init_weights", &["normal", "attention", "glorot"]),
    ("sampler.scope", &["position", "sequence", "batch"]),
    ("sampler.exclude", &["none", "target", "history"]),
    ("optim.kind", &["adamw"]),
    ("optim.schedule", &["constant", "linear", "cosine"]),
    ("optim.tables", optim::TABLES),
    ("train.targets", &["all", "last"]),
    ("train.rounding", &["f32", "tf32", "bf16"]),
    ("train.graph", &["auto", "yes", "no"]),
    ("eval.ties", &["pessimistic", "optimistic", "average", "random", "listed"]),
    ("eval.items", &["all", "trained"]),
];

/// Smallest and largest value of a number; every number not listed must be zero or more.
const RANGES: &[(&str, f64, f64)] = &[
    ("data.max_bad_share", 0.0, 1.0),
    ("data.min_weight", f64::MIN, f64::MAX),
    ("data.gts_quantile", 0.0, 1.0),
    ("data.clusters", 1.0, 4096.0),
    ("data.synthetic.users", 1.0, 1e8),
    ("data.synthetic.items", 2.0, 1e8),
    ("data.synthetic.events_per_user", 1.0, 1e6),
    ("data.synthetic.clusters", 1.0, 1e8),
    ("data.synthetic.markov", 0.0, 1.0),
    ("data.synthetic.periods", 1.0, 24.0),
    ("model.dim", 1.0, 16384.0),
    ("model.layers", 0.0, 1000.0),
    ("model.heads", 1.0, 16384.0),
    ("model.max_len", 1.0, 1e6),
    ("model.ffn_mult", 1.0, 64.0),
    ("model.dropout", 0.0, 0.999),
    ("model.temperature", 1e-6, 1e6),
    ("sampler.negatives", 1.0, 1e7),
    ("optim.beta1", 0.0, 0.999_999_9),
    ("optim.beta2", 0.0, 0.999_999_999),
    ("optim.eps", 1e-30, 1.0),
    ("train.batch_size", 1.0, 1e7),
    ("train.epochs", 1.0, 1e6),
    ("train.keep", 1.0, 1e6),
    ("eval.at", 1.0, 1e6),
];

/// Keys outside the kinds whose number may follow a curve.
const CURVES: &[&str] = &["sampler.negatives"];

/// Every key with a value of its type: the default, or an example where the default is "not set".
pub fn schema() -> Vec<(String, Value)> {
    let kind = || Kind { kind: "x".into(), params: Default::default() };
    let whole = Config {
        data: crate::config::Data {
            min_weight: Some(0.0),
            context: vec!["x".into()],
            attributes: vec!["x".into()],
            ..Default::default()
        },
        sampler: Sampler {
            preset: String::new(),
            scope: Some("x".into()),
            negatives: Some(1.into()),
            exclude: Some("x".into()),
            propose: Some(vec![kind()]),
            select: Some(kind()),
            mix: Some(kind()),
            weight: Some(kind()),
        },
        ..Config::default()
    };
    flatten(&Table::try_from(whole).unwrap_or_default())
}

/// Dotted leaves of a table, in order.
pub fn flatten(table: &Table) -> Vec<(String, Value)> {
    fn walk(prefix: &str, table: &Table, into: &mut Vec<(String, Value)>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) if !is_parameter(&path) && !CURVES.contains(&path.as_str()) => walk(&path, inner, into),
                value => into.push((path, value.clone())),
            }
        }
    }
    let mut leaves = vec![];
    walk("", table, &mut leaves);
    leaves
}

/// Whether `key` is a parameter of a registered kind, such as `loss.t`; a table there is a curve, one value.
pub fn is_parameter(key: &str) -> bool {
    key.rsplit_once('.').is_some_and(|(table, leaf)| OPEN.contains(&table) && leaf != "kind")
}

/// The key that `typed` means, and a note if it was another name for it.
pub fn resolve(typed: &str, schema: &[(String, Value)]) -> std::result::Result<(String, Option<String>), String> {
    let known = |key: &str| schema.iter().any(|(k, _)| k == key);
    let lower = typed.to_ascii_lowercase().replace('-', "_");
    let exact = if known(typed) || is_parameter(typed) { typed } else { lower.as_str() };
    if known(exact) || is_parameter(exact) {
        return Ok((exact.to_string(), None));
    }
    if OPEN.contains(&exact) {
        return Ok((format!("{exact}.kind"), None));
    }
    // Another name counts with or without its section: `maxlen` and `model.maxlen`.
    let bare =
        |alias: &str, key: &str| alias == exact || exact == format!("{}.{alias}", key.split('.').next().unwrap_or_default());
    if let Some((_, key)) = ALIASES.iter().find(|(alias, key)| bare(alias, key)) {
        return Ok(((*key).to_string(), Some(format!("`{typed}` is read as `{key}`"))));
    }
    let mut matches: Vec<&str> = schema.iter().map(|(k, _)| k.as_str()).filter(|k| k.ends_with(&format!(".{exact}"))).collect();
    let depth = |key: &str| key.matches('.').count();
    let shallowest = matches.iter().map(|k| depth(k)).min().unwrap_or(0);
    matches.retain(|k| depth(k) == shallowest);
    match matches[..] {
        [one] => Ok((one.to_string(), None)),
        [] => Err(match nearest(exact, schema) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "`hardneg train --print-config` lists every key".to_string(),
        }),
        _ => Err(format!("it could be any of {}", matches.iter().map(|m| format!("`{m}`")).collect::<Vec<_>>().join(", "))),
    }
}

/// The known name closest to `typed`, if it is close.
fn nearest(typed: &str, schema: &[(String, Value)]) -> Option<String> {
    let leaf = |key: &str| key.rsplit('.').next().unwrap_or(key).to_string();
    let names =
        schema.iter().map(|(k, _)| (k.clone(), k.clone())).chain(ALIASES.iter().map(|&(a, k)| (a.to_string(), k.to_string())));
    let whole = names.map(|(name, key)| {
        let apart = distance(typed, &name)
            .min(distance(&leaf(typed), &leaf(&name)) + usize::from(leaf(typed) == typed || !same_section(typed, &name)));
        (apart, key)
    });
    whole.min_by_key(|(apart, _)| *apart).filter(|(apart, _)| *apart <= 1 + leaf(typed).len() / 3).map(|(_, key)| key)
}

fn same_section(a: &str, b: &str) -> bool {
    a.rsplit_once('.').map(|x| x.0) == b.rsplit_once('.').map(|x| x.0)
}

/// Optimal string alignment distance: insertions, deletions, substitutions, swaps of neighbours.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// `value` as the type `key` holds, or why it cannot be.
pub fn check(key: &str, value: Value, schema: &[(String, Value)]) -> Result<Value> {
    let refuse = |want: &str| Err(Error::new(Code::C0202, format!("`{key} = {value}` is not {want}")));
    let Some((_, example)) = schema.iter().find(|(k, _)| k == key) else {
        return match &value {
            Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::String(_) | Value::Table(_) => Ok(value),
            _ => refuse("a number, a word, a flag or a curve"),
        };
    };
    let (low, high) = RANGES.iter().find(|(k, _, _)| *k == key).map_or((0.0, f64::MAX), |&(_, low, high)| (low, high));
    let in_range = |x: f64| x.is_finite() && x >= low && x <= high;
    let range = if high == f64::MAX { format!("at least {low}") } else { format!("from {low} to {high}") };
    match (example, value.clone()) {
        (Value::Boolean(_), Value::Boolean(b)) => Ok(Value::Boolean(b)),
        (Value::Boolean(_), _) => refuse("`true` or `false`"),
        (Value::Integer(_), Value::Integer(i)) if in_range(i as f64) => Ok(Value::Integer(i)),
        (Value::Integer(_), Value::Float(x)) if x.fract() == 0.0 && x.abs() < 9e15 && in_range(x) => Ok(Value::Integer(x as i64)),
        (Value::Integer(_), Value::Table(curve)) if CURVES.contains(&key) => Ok(Value::Table(curve)),
        (Value::Integer(_), _) => refuse(&format!("a whole number {range}")),
        (Value::Float(_), Value::Float(x)) if in_range(x) => Ok(Value::Float(x)),
        (Value::Float(_), Value::Integer(i)) if in_range(i as f64) => Ok(Value::Float(i as f64)),
        (Value::Float(_), _) => refuse(&format!("a number {range}")),
        // What was a flag before it could be `auto`, and is so in the files of older runs.
        (Value::String(_), Value::Boolean(yes)) if key == "train.graph" => {
            Ok(Value::String(if yes { "yes" } else { "no" }.into()))
        }
        (Value::String(_), Value::String(s)) => match CHOICES.iter().find(|(k, _)| *k == key) {
            Some((_, words)) if !words.contains(&s.as_str()) => {
                let near = words.iter().map(|w| (distance(&s, w), w)).min().filter(|(apart, _)| *apart <= 2);
                let error = refuse(&format!("one of {}", words.join(", ")));
                error.map_err(|e| near.map_or(e.clone(), |(_, word)| e.help(format!("did you mean `{word}`?"))))
            }
            _ if key == "train.metric" => Ok(Value::String(s.to_ascii_lowercase())),
            _ => Ok(Value::String(s)),
        },
        (Value::String(_), _) => refuse("a word in quotes"),
        (Value::Array(of), Value::Array(given)) => {
            let whole = given.iter().all(|g| match (&of[0], g) {
                (Value::Integer(_), Value::Integer(i)) => in_range(*i as f64),
                (Value::String(_), Value::String(_)) => true,
                (Value::Table(_), Value::Table(t)) => t.get("kind").is_some_and(Value::is_str),
                _ => false,
            });
            if whole { Ok(Value::Array(given)) } else { refuse("a list of the right kind") }
        }
        (Value::Array(of), Value::Integer(i)) if of[0].is_integer() && in_range(i as f64) => {
            Ok(Value::Array(vec![Value::Integer(i)]))
        }
        (Value::Array(of), Value::String(s)) if of[0].is_str() => {
            Ok(Value::Array(s.split(',').filter(|w| !w.is_empty()).map(|w| Value::String(w.trim().into())).collect()))
        }
        (Value::Array(of), Value::String(s)) if of[0].is_table() => Ok(Value::Array(
            s.split(',')
                .map(|w| Value::Table([("kind".to_string(), Value::String(w.trim().into()))].into_iter().collect()))
                .collect(),
        )),
        (Value::Array(_), _) => refuse("a list"),
        _ => refuse("a value this key can hold"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_here_names_keys_that_exist() {
        let schema = schema();
        let known = |key: &str| schema.iter().any(|(k, _)| k == key) || is_parameter(key);
        for (alias, key) in ALIASES {
            assert!(known(key), "{alias} -> {key}");
            assert!(!schema.iter().any(|(k, _)| k == alias), "{alias} is a key and an alias");
        }
        for (key, words) in CHOICES {
            assert!(known(key), "{key}");
            if let Some((_, Value::String(default))) = schema.iter().find(|(k, _)| k == key) {
                assert!(words.contains(&default.as_str()) || default == "x", "{key}: {default}");
            }
        }
        for (key, _, _) in RANGES {
            assert!(known(key), "{key}");
        }
        assert!(schema.len() > 70, "{}", schema.len());
    }

    #[test]
    fn defaults_pass_their_own_checks() {
        let schema = schema();
        for (key, value) in flatten(&Table::try_from(Config::default()).unwrap()) {
            assert_eq!(check(&key, value.clone(), &schema).unwrap(), value, "{key}");
        }
    }

    #[test]
    fn distance_counts_single_edits() {
        for (a, b, apart) in
            [("", "", 0), ("a", "", 1), ("dim", "dmi", 1), ("negative", "negatives", 1), ("lr", "clip", 3), ("ab", "ba", 1)]
        {
            assert_eq!(distance(a, b), apart, "{a} {b}");
            assert_eq!(distance(b, a), apart, "{b} {a}");
        }
    }
}
