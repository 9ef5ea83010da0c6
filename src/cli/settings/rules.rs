//! Which settings mean nothing in which company. Whoever sets such a key expects an effect, so it is refused rather than
//! ignored. A key left at its default is never refused: a resolved configuration names all of them.

use std::collections::BTreeMap;

use toml::Value;

use super::{Entry, Layers, Source};
use crate::cli::intake;
use crate::config::{Config, Kind};
use crate::data::context;
use crate::error::{Code, Error, Result};
use crate::loss;
use crate::sampling::{self, Shown};

/// A key (or, with a trailing dot, a section) and when it has no effect: the condition as text, and how to make it count.
struct Rule {
    keys: &'static [&'static str],
    idle: fn(&Layers) -> bool,
    because: &'static str,
    cure: &'static str,
}

fn word<'a>(layers: &'a Layers, key: &str) -> &'a str {
    layers.entries.get(key).and_then(|e| e.value.as_str()).unwrap_or_default()
}

fn number(layers: &Layers, key: &str) -> f64 {
    let value = layers.entries.get(key).map(|e| &e.value);
    value.and_then(|v| v.as_float().or_else(|| v.as_integer().map(|i| i as f64))).unwrap_or(0.0)
}

fn scores_by_dot(layers: &Layers) -> bool {
    match word(layers, "model.score") {
        "auto" => word(layers, "model.kind") != "cans",
        score => score == "dot",
    }
}

/// Whether the whole configuration, as far as it can be read, is one of which `holds` is true.
fn whole(layers: &Layers, holds: impl Fn(&Config) -> bool) -> bool {
    layers.config().is_ok_and(|config| holds(&config))
}

/// Whether the model takes no context, whatever columns a log may have.
fn takes_no_context(layers: &Layers) -> bool {
    whole(layers, |c| !context::uses_context(c, !c.data.path.is_empty()))
}

fn is_without_blocks(layers: &Layers) -> bool {
    number(layers, "model.layers") == 0.0
}

const RULES: &[Rule] = &[
    Rule {
        keys: &["model.temperature"],
        idle: scores_by_dot,
        because: "the score is a dot product",
        cure: "`--set model.score=cosine`",
    },
    Rule {
        keys: &["model.heads", "model.ffn_mult", "model.activation", "model.causal"],
        idle: is_without_blocks,
        because: "the encoder has no blocks",
        cure: "`--set model.layers=2`",
    },
    Rule {
        keys: &["model.init_weights"],
        // Contexts enter by a linear layer, which is none of attention's.
        idle: |l| is_without_blocks(l) && (word(l, "model.init_weights") == "attention" || takes_no_context(l)),
        because: "the encoder has no such linear layers",
        cure: "`--set model.layers=2`",
    },
    Rule {
        keys: &["data.temporal"],
        idle: takes_no_context,
        because: "the model takes no context",
        cure: "`--set model.context=yes`",
    },
    Rule {
        keys: &["data.clusters"],
        idle: |l| whole(l, |c| matches!(intake::cluster_method(c), Ok(None))),
        because: "no stage of the sampler knows time clusters",
        cure: "a sampler that does, such as `--sampler cans-items`",
    },
    Rule {
        keys: &["eval.exclude_seen"],
        idle: |l| ["random:", "popular:"].iter().any(|kind| word(l, "eval.candidates").starts_with(kind)),
        because: "sampled candidates are items the user has not seen",
        cure: "`--set eval.candidates=full`",
    },
    Rule {
        keys: &["data.gts_quantile", "data.gts_target"],
        idle: |l| word(l, "data.split") != "gts",
        because: "only the split `gts` cuts by time",
        cure: "`--set data.split=gts`",
    },
    Rule {
        keys: &["sampler."],
        idle: |l| loss::find(word(l, "loss.kind")).is_ok_and(|loss| !loss.sampled),
        because: "the loss compares with every item and draws no negatives",
        cure: "a loss that samples, such as `--set loss=sampled_softmax`",
    },
    Rule {
        keys: &["data.synthetic."],
        idle: |l| !word(l, "data.path").is_empty(),
        because: "a log is given, so none is generated",
        cure: "leave the log away",
    },
    Rule {
        keys: &[
            "data.format",
            "data.times_path",
            "data.delimiter",
            "data.header",
            "data.user_col",
            "data.item_col",
            "data.time_col",
            "data.weight_col",
            "data.time_unit",
            "data.encoding",
            "data.context",
            "data.on_bad_row",
            "data.max_bad_share",
            "data.items_path",
            "data.graph_path",
        ],
        idle: |l| word(l, "data.path").is_empty(),
        because: "no log is given, and the generated one needs no reading",
        cure: "a log, such as `hardneg train ratings.csv`",
    },
    Rule {
        keys: &["data.attributes"],
        idle: |l| word(l, "data.items_path").is_empty(),
        because: "no item file is given",
        cure: "`--set data.items_path=FILE`",
    },
    Rule {
        keys: &["data.link_path"],
        idle: |l| word(l, "data.graph_path").is_empty(),
        because: "no graph is given",
        cure: "`--set data.graph_path=FILE`",
    },
    Rule {
        keys: &["data.max_bad_share"],
        idle: |l| word(l, "data.on_bad_row") == "fail",
        because: "the first bad row already fails",
        cure: "`--set data.on_bad_row=quarantine`",
    },
    Rule {
        keys: &["data.filter"],
        idle: |l| number(l, "data.min_user") <= 1.0 && number(l, "data.min_item") <= 1.0,
        because: "nothing is filtered",
        cure: "`--set data.min_user=5 --set data.min_item=5`",
    },
    Rule {
        keys: &["train.random_prefix"],
        idle: |l| word(l, "train.targets") != "last",
        because: "all positions train, so every prefix is used already",
        cure: "`--set train.targets=last`",
    },
    Rule {
        keys: &["train.metric", "train.patience"],
        idle: |l| number(l, "train.eval_every") == 0.0,
        because: "nothing is evaluated during training",
        cure: "`--set train.eval_every=1`",
    },
    Rule {
        keys: &["optim.decay_tables"],
        idle: |l| number(l, "optim.weight_decay") == 0.0,
        because: "nothing decays",
        cure: "`--set optim.weight_decay=0.01`",
    },
];

/// What the generated log is learnt with: enough to pass the item-to-item model within seconds on two processors.
fn for_the_generated_log() -> [(&'static str, Value); 6] {
    [
        ("model.layers", Value::Integer(1)),
        ("model.max_len", Value::Integer(32)),
        ("model.dropout", Value::Float(0.1)),
        ("optim.lr", Value::Float(3e-3)),
        ("train.batch_size", Value::Integer(64)),
        ("train.epochs", Value::Integer(12)),
    ]
}

/// Choices that follow from others: whoever names a sampler and no loss wants the one it is made for, or at least one that
/// samples; and whoever gives no log wants to see something soon.
pub fn derive(layers: &mut Layers) -> Result<()> {
    let free = |key: &str, layers: &Layers| layers.entries.get(key).is_some_and(|e| e.source == Source::Default);
    // Whoever names the default sampler wants that one, and not none.
    let sampler = layers.entries.iter().find(|(k, e)| k.starts_with("sampler.") && e.source != Source::Default);
    if let Some(key) = sampler.map(|(k, _)| k.clone()).filter(|_| free("loss.kind", layers)) {
        let preset = word(layers, "sampler.preset").to_string();
        let made_for = match sampling::show(&preset) {
            Ok(Shown::Preset { preset, .. }) => preset.loss,
            _ => None,
        };
        let (loss, why) = match made_for {
            Some(loss) => (loss, format!("because the preset `{preset}` is made for it")),
            None => (Kind { kind: "sampled_softmax".into(), params: BTreeMap::new() }, format!("because `{key}` is set")),
        };
        layers.notes.push(format!("the loss is `{}` {why}; choose another with `--set loss=NAME`", loss.kind));
        put_below(layers, "loss", &loss, &Source::Derived(why))?;
    }
    if word(layers, "data.path").is_empty() {
        for (key, value) in for_the_generated_log() {
            if free(key, layers) {
                layers.put(key, value, Source::Derived("for the generated log".into()), 6)?;
            }
        }
    }
    Ok(())
}

/// A parameter of a stage without its kind means the kind the preset names, with the preset's other parameters.
pub fn complete_from_preset(layers: &mut Layers) -> Result<()> {
    for stage in ["select", "mix", "weight"] {
        let table = format!("sampler.{stage}");
        let has = |key: &str| layers.entries.contains_key(key);
        if has(&format!("{table}.kind")) || !layers.entries.keys().any(|k| k.starts_with(&format!("{table}."))) {
            continue;
        }
        let preset = word(layers, "sampler.preset").to_string();
        let Ok(Shown::Preset { resolved, .. }) = sampling::show(&preset) else { continue };
        let kind = match stage {
            "select" => resolved.select,
            "mix" => resolved.mix,
            _ => resolved.weight,
        };
        let Some(kind) = kind else { continue };
        put_below(layers, &table, &kind, &Source::Derived(format!("the preset `{preset}`")))?;
    }
    Ok(())
}

/// Puts a kind with its parameters below every other layer, so that what somebody set stays and is not taken for a former
/// kind's.
fn put_below(layers: &mut Layers, table: &str, kind: &Kind, source: &Source) -> Result<()> {
    let whole = Value::try_from(kind).map_err(|e| Error::internal(e.to_string()))?;
    for (name, value) in whole.as_table().into_iter().flatten() {
        let key = format!("{table}.{name}");
        if layers.entries.get(&key).is_none_or(|e| e.source == Source::Default) {
            layers.put(&key, value.clone(), source.clone(), 0)?;
        }
    }
    Ok(())
}

/// Whether a setting is somebody's choice: set, and to something other than the default.
fn counts(layers: &Layers, key: &str, value: &Value, source: &Source) -> bool {
    *source != Source::Default && !layers.is_default(key, value)
}

pub fn refuse_without_effect(layers: &Layers) -> Result<()> {
    for rule in RULES {
        let named = |key: &str| rule.keys.iter().any(|&k| k == key || k.ends_with('.') && key.starts_with(k));
        let refusable = |key: &str, e: &Entry| counts(layers, key, &e.value, &e.source) && !layers.is_of_run(&e.source);
        let found = layers.entries.iter().find(|(key, e)| named(key) && refusable(key, e));
        if let Some((key, entry)) = found.filter(|_| (rule.idle)(layers)) {
            return Err(Error::new(Code::C0203, format!("`{key} = {}` has no effect: {}", entry.value, rule.because))
                .at(entry.source.to_string())
                .help(format!("remove it, or use {}", rule.cure)));
        }
    }
    Ok(())
}
