//! What a stage declares about itself, and how what a user wrote is checked against it.
//!
//! Every kind of every stage has one [`Declared`]: it feeds `hardneg samplers`, the messages for misspelt names, the
//! defaults and the ranges. A parameter nobody declared is an error, never ignored.

use std::collections::BTreeMap;

use crate::config::{CurveShape, Kind, Value};
use crate::error::{Code, Error, Result, did_you_mean};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Propose,
    Select,
    Mix,
    Weight,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Propose, Stage::Select, Stage::Mix, Stage::Weight];
    pub fn name(self) -> &'static str {
        match self {
            Stage::Propose => "propose",
            Stage::Select => "select",
            Stage::Mix => "mix",
            Stage::Weight => "weight",
        }
    }
}

/// What a kind needs besides the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Times in the log, clustered (`data.clusters`).
    Clusters,
    /// Scores of the current model.
    Scores,
    /// The other rows of the batch.
    Batch,
    /// A model that sees context.
    Context,
    /// Attributes of items (`data.items_path`).
    Attributes,
    /// Entities around the items in a knowledge graph (`data.graph_path`).
    Graph,
    /// What users are known not to want (`data.min_weight`).
    Explicit,
    /// The event to be predicted, so a draw is of one row.
    Target,
    /// A selection whose draws have a probability.
    Probability,
    /// A model that scores by the dot product.
    Dot,
    /// The user, so a draw is of one sequence at most.
    User,
    /// The whole catalogue to choose from, not a list of proposed items.
    Catalogue,
}

/// One kind of one stage.
#[derive(Debug)]
pub struct Declared {
    pub stage: Stage,
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    pub source: &'static str,
    pub params: &'static [Param],
    pub needs: &'static [Need],
    /// Work per step, in the architecture's letters.
    pub cost: &'static str,
}

#[derive(Debug)]
pub struct Param {
    pub name: &'static str,
    pub form: Form,
    /// Has an effect only where this other parameter is this word.
    pub only_with: Option<(&'static str, &'static str)>,
    pub help: &'static str,
}

/// Type, default and range of a parameter.
#[derive(Debug)]
pub enum Form {
    /// A real in `low..=high`; `curve` tells whether it may move with the epoch.
    Number {
        default: f64,
        low: f64,
        high: f64,
        curve: bool,
    },
    /// A whole number in `low..=high`.
    Count {
        default: f64,
        low: f64,
        high: f64,
        curve: bool,
    },
    /// One of `words`; the first is the default.
    Word {
        words: &'static [&'static str],
    },
    Flag {
        default: bool,
    },
}

/// Parameters that every proposal has.
pub const OF_PROPOSALS: &[Param] = &[
    Param {
        name: "share",
        form: Form::Number { default: 1.0, low: 0.0, high: 1e9, curve: true },
        only_with: None,
        help: "weight of this proposal in the mixture; shares are divided by their sum",
    },
    Param {
        name: "distinct",
        form: Form::Flag { default: false },
        only_with: None,
        help: "draw the negatives of a group without repetition; all proposals of a mixture must agree",
    },
];

impl Form {
    pub fn default(&self) -> Value {
        match self {
            Form::Number { default, .. } | Form::Count { default, .. } => Value::Number(*default),
            Form::Word { words } => Value::Word(words[0].to_string()),
            Form::Flag { default } => Value::Flag(*default),
        }
    }
    /// As help prints it.
    pub fn range(&self) -> String {
        match self {
            Form::Number { low, high, curve, .. } => format!("{low} .. {high}{}", if *curve { ", or a curve" } else { "" }),
            Form::Count { low, high, curve, .. } => {
                format!("whole, {low} .. {high}{}", if *curve { ", or a curve" } else { "" })
            }
            Form::Word { words } => words.join(" | "),
            Form::Flag { .. } => "true | false".into(),
        }
    }
    fn accepts(&self, value: &Value) -> bool {
        let number = |low: f64, high: f64, whole: bool, curve: bool| match value {
            Value::Number(x) => (low..=high).contains(x) && !(whole && x.fract() != 0.0),
            Value::Curve(c) => curve && [c.from, c.to].iter().all(|x| (low..=high).contains(x)) && c.is_sound(),
            _ => false,
        };
        match self {
            Form::Number { low, high, curve, .. } => number(*low, *high, false, *curve),
            Form::Count { low, high, curve, .. } => number(*low, *high, true, *curve),
            Form::Word { words } => matches!(value, Value::Word(w) if words.contains(&w.as_str())),
            Form::Flag { .. } => matches!(value, Value::Flag(_)),
        }
    }
}

/// The checked parameters of a kind: every declared one has a value of its form.
#[derive(Clone)]
pub struct Params {
    /// Where the parameters stand in the configuration, e.g. `sampler.select`.
    pub place: String,
    pub kind: &'static str,
    given: Vec<String>,
    values: BTreeMap<String, Value>,
}

impl Params {
    /// A number at `epoch`.
    pub fn number(&self, name: &str, epoch: f64) -> f64 {
        self.values.get(name).and_then(|v| v.at(epoch)).unwrap_or(f64::NAN)
    }
    /// A whole number at `epoch`; a curve is rounded.
    pub fn count(&self, name: &str, epoch: f64) -> usize {
        self.number(name, epoch).round() as usize
    }
    /// The largest a parameter becomes.
    pub fn most(&self, name: &str) -> f64 {
        let (from, to) = self.ends(name);
        from.max(to)
    }
    /// The smallest a parameter becomes.
    pub fn least(&self, name: &str) -> f64 {
        let (from, to) = self.ends(name);
        from.min(to)
    }
    /// Whether a parameter changes from one moment to another.
    pub fn follows(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some(Value::Curve(c)) if c.from != c.to)
    }
    fn ends(&self, name: &str) -> (f64, f64) {
        match self.values.get(name) {
            Some(Value::Curve(c)) => (c.from, c.to),
            Some(Value::Number(x)) => (*x, *x),
            _ => (f64::NAN, f64::NAN),
        }
    }
    pub fn word(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some(Value::Word(w)) => w,
            _ => "",
        }
    }
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some(Value::Flag(true)))
    }
    /// Refuses `name` if the user wrote it although `why` makes it do nothing.
    pub fn without_effect(&mut self, name: &str, why: &str) -> Result<()> {
        self.values.remove(name);
        match self.given.iter().any(|g| g == name) {
            true => Err(Error::new(Code::C0203, format!("`{}.{name}` has no effect with {why}", self.place))
                .help(format!("remove `{name}`"))),
            false => Ok(()),
        }
    }
    /// The kind with every parameter that matters written out.
    pub fn spelled_out(&self) -> Kind {
        Kind { kind: self.kind.to_string(), params: self.values.clone() }
    }
}

/// Finds the kind of `stage` a user named.
pub fn find<T>(kinds: &'static [T], declared: fn(&T) -> &'static Declared, name: &str, place: &str) -> Result<&'static T> {
    kinds.iter().find(|k| declared(k).name == name).ok_or_else(|| {
        let names: Vec<&str> = kinds.iter().map(|k| declared(k).name).collect();
        Error::new(Code::C0202, format!("`{place}.kind = \"{name}\"` is not a kind of this stage"))
            .help(did_you_mean(name, &names))
    })
}

/// Checks `kind`'s parameters against `declared` and fills in the defaults. `own` are the parameters the user wrote (the
/// others come from a preset); `siblings` are the other kinds of the stage, to tell a parameter that belongs elsewhere from a
/// misspelt one.
pub fn check(
    declared: &'static Declared,
    kind: &Kind,
    own: &[String],
    place: &str,
    siblings: &[&'static Declared],
) -> Result<Params> {
    let shared: &[Param] = if declared.stage == Stage::Propose { OF_PROPOSALS } else { &[] };
    let known = |d: &'static Declared| d.params.iter();
    let mut values = BTreeMap::new();
    for (name, value) in &kind.params {
        let Some(param) = known(declared).chain(shared).find(|p| p.name == name) else {
            let owners: Vec<&str> = siblings.iter().filter(|d| known(d).any(|p| p.name == name)).map(|d| d.name).collect();
            if !owners.is_empty() {
                return Err(Error::new(
                    Code::C0203,
                    format!("`{place}.{name}` has no effect with `kind = \"{}\"`", declared.name),
                )
                .help(format!("remove it, or use `kind = \"{}\"`", owners.join("\" or \""))));
            }
            let names: Vec<&str> = known(declared).chain(shared).map(|p| p.name).collect();
            return Err(Error::new(Code::C0201, format!("unknown key `{place}.{name}`")).help(match names.is_empty() {
                true => format!("`{}` has no parameters", declared.name),
                false => did_you_mean(name, &names),
            }));
        };
        if !param.form.accepts(value) {
            return Err(Error::new(Code::C0202, format!("`{place}.{name} = {}` is out of range", written(value)))
                .note(format!("{name}: {}", param.help))
                .help(match value {
                    Value::Curve(c) if c.shape == CurveShape::Exponential && c.from * c.to <= 0.0 => {
                        "an exponential curve goes by equal factors, which lead neither from zero nor to it: begin at 0.01, say"
                            .into()
                    }
                    _ => format!("range: {}", param.form.range()),
                }));
        }
        values.insert(name.clone(), value.clone());
    }
    for param in known(declared).chain(shared) {
        values.entry(param.name.to_string()).or_insert_with(|| param.form.default());
    }
    let mut params = Params { place: place.to_string(), kind: declared.name, given: own.to_vec(), values };
    for param in known(declared) {
        if let Some((other, word)) = param.only_with.filter(|(other, word)| params.word(other) != *word) {
            let why = format!("`{other} = \"{}\"` (it belongs to `{word}`)", params.word(other));
            params.without_effect(param.name, &why)?;
        }
    }
    Ok(params)
}

fn written(value: &Value) -> String {
    match value {
        Value::Flag(b) => b.to_string(),
        Value::Number(x) => x.to_string(),
        Value::Word(w) => format!("{w:?}"),
        Value::Curve(curve) => curve.text(),
    }
}
