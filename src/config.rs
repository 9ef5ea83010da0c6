//! Every setting of a run, with its default: the one list of configuration keys.
//!
//! Plain data, no behaviour: parts read their own section. Layering (defaults < file < environment < `--set` < flags),
//! provenance and the messages for unknown keys live in `cli/settings.rs`. Parameters of sampler stages and losses are
//! free-form here ([`Kind`]), because each kind declares its own in the registry of its part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A whole configuration; `config.resolved.toml` in a run directory is this, written out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub config_version: u32,
    pub data: Data,
    pub model: Model,
    pub sampler: Sampler,
    pub loss: Kind,
    pub optim: Optim,
    pub train: Train,
    pub eval: Eval,
}

/// A registered kind and its parameters: `{ kind = "popularity", alpha = 0.75 }`. Which parameters exist, their defaults
/// and ranges are declared where the kind is registered; any other key is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kind {
    pub kind: String,
    #[serde(flatten)]
    pub params: BTreeMap<String, Value>,
}

/// A parameter: a number, a flag, a word, or a number bound to a warm-up curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Flag(bool),
    Number(f64),
    Word(String),
    Curve(Curve),
}

/// A number that moves from `from` to `to` over the first `over` epochs and stays there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    pub from: f64,
    pub to: f64,
    /// Epochs; fractions allowed.
    pub over: f64,
    #[serde(default)]
    pub shape: CurveShape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CurveShape {
    #[default]
    Linear,
    Cosine,
    Exponential,
}

impl Curve {
    /// The value at `epoch`; a fraction counts steps within the epoch.
    pub fn at(&self, epoch: f64) -> f64 {
        let f = if self.over > 0.0 { (epoch / self.over).clamp(0.0, 1.0) } else { 1.0 };
        match self.shape {
            CurveShape::Linear => self.from + (self.to - self.from) * f,
            CurveShape::Cosine => self.from + (self.to - self.from) * 0.5 * (1.0 - (std::f64::consts::PI * f).cos()),
            CurveShape::Exponential => self.from * (self.to / self.from).powf(f),
        }
    }
    /// Whether it has a value everywhere: equal factors lead neither from zero nor to it.
    pub fn is_sound(&self) -> bool {
        let ends = self.from.is_finite() && self.to.is_finite() && self.over.is_finite() && self.over >= 0.0;
        ends && (self.shape != CurveShape::Exponential || self.from * self.to > 0.0)
    }
    /// As a settings file has it.
    pub fn text(&self) -> String {
        let shape = match self.shape {
            CurveShape::Linear => "",
            CurveShape::Cosine => ", shape = \"cosine\"",
            CurveShape::Exponential => ", shape = \"exponential\"",
        };
        format!("{{ from = {}, to = {}, over = {}{shape} }}", self.from, self.to, self.over)
    }
}

impl Value {
    /// The value at `epoch`; words and flags have none.
    pub fn at(&self, epoch: f64) -> Option<f64> {
        match self {
            Value::Number(x) => Some(*x),
            Value::Curve(curve) => Some(curve.at(epoch)),
            _ => None,
        }
    }
}

/// A whole number, or one that follows a curve and is rounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    Fixed(u32),
    Moving(Curve),
}

impl From<u32> for Amount {
    fn from(n: u32) -> Amount {
        Amount::Fixed(n)
    }
}

impl Amount {
    pub fn at(&self, epoch: f64) -> usize {
        match self {
            Amount::Fixed(n) => *n as usize,
            Amount::Moving(curve) => curve.at(epoch).round() as usize,
        }
    }
    pub fn most(&self) -> usize {
        let [from, to] = self.ends();
        from.max(to)
    }
    pub fn least(&self) -> usize {
        let [from, to] = self.ends();
        from.min(to)
    }
    /// As a settings file has it.
    pub fn text(&self) -> String {
        match self {
            Amount::Fixed(n) => n.to_string(),
            Amount::Moving(curve) => curve.text(),
        }
    }
    fn ends(&self) -> [usize; 2] {
        match self {
            Amount::Fixed(n) => [*n as usize; 2],
            Amount::Moving(curve) => [curve.from, curve.to].map(|x| x.round() as usize),
        }
    }
}

/// Which log, how it is cleaned, and how it is split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// A log or a prepared file; empty: the synthetic log.
    pub path: String,
    /// `auto` or a reader's name.
    pub format: String,
    /// Times aligned with S3Rec ragged lines; empty: none.
    pub times_path: String,
    /// One character, `tab`, or `::`; empty: detected.
    pub delimiter: String,
    /// `auto`, `yes` or `no`.
    pub header: String,
    /// Column names or 1-based numbers; empty: detected; `none` for a time or weight: go without.
    pub user_col: String,
    pub item_col: String,
    pub time_col: String,
    pub weight_col: String,
    /// `auto`, `s`, `ms`, `us`, `ns`, `minutes`, `days`, `iso` or `none`.
    pub time_unit: String,
    /// `auto`, `utf-8`, `utf-16` or `latin-1`. Ids are bytes either way.
    pub encoding: String,
    /// Declared context columns, `name:cat` or `name:num`. Columns whose name begins with `c_` are declared by that.
    pub context: Vec<String>,
    /// Item side file with attributes; empty: none.
    pub items_path: String,
    /// Columns of the side file to use as attributes; empty: all but the id and free text.
    pub attributes: Vec<String>,
    /// Knowledge graph, rows of head, relation, tail; empty: none.
    pub graph_path: String,
    /// Which node of the graph an item is, rows of item and node; empty: the node of its name.
    pub link_path: String,
    /// `fail`, `skip` or `quarantine`.
    pub on_bad_row: String,
    /// More bad rows than this share of the log is an error.
    pub max_bad_share: f64,
    /// Keep rows whose weight is at least this, the rest as explicit negatives; absent: keep all.
    pub min_weight: Option<f64>,
    /// Fewest events of a user and of an item.
    pub min_user: u32,
    pub min_item: u32,
    /// `k_core` repeats the two filters until nothing changes; `one_pass` drops items, then users, once.
    pub filter: String,
    /// Repeated (user, item) pairs: `none`, `first`, `last`, or `exact` (drops rows equal in user, item and time).
    pub dedup: String,
    /// `loo`, `loo_512` or `gts`.
    pub split: String,
    /// Quantile of time at which `gts` cuts.
    pub gts_quantile: f64,
    /// Which events after the cut are targets: `last`, `first`, `random` or `all`.
    pub gts_target: String,
    /// `auto`, `yes`, `no`: the 23 temporal features. `auto`: when the model uses context and the log has times.
    pub temporal: String,
    /// Time clusters for context-aware sampling.
    pub clusters: u32,
    pub synthetic: Synthetic,
}

/// The built-in generator: context-dependent popularity, Markov users, planted clusters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Synthetic {
    pub users: u32,
    pub items: u32,
    /// Mean events per user.
    pub events_per_user: f64,
    /// Planted item clusters.
    pub clusters: u32,
    /// Exponent of item popularity within a cluster.
    pub zipf: f64,
    /// Probability that the next item follows the Markov chain rather than popularity.
    pub markov: f64,
    /// Periods (of day) with their own popular clusters.
    pub periods: u32,
    pub seed: u64,
}

/// The encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// `sasrec` or `cans`: each sets the defaults of the keys below that are left at `auto`.
    pub kind: String,
    pub dim: u32,
    pub layers: u32,
    pub heads: u32,
    /// Longest sequence, in events; the last ones are kept.
    pub max_len: u32,
    /// Width of the feed-forward layer as a multiple of `dim`.
    pub ffn_mult: u32,
    pub dropout: f64,
    /// `pre`, `post`, or `sasrec`: the block of that model's program, which normalises queries alone.
    pub norm: String,
    /// `relu` or `gelu`.
    pub activation: String,
    /// Attend to earlier events only. Without it only the last position trains (`targets = "last"`).
    pub causal: bool,
    /// `auto`, `learned` (counted back from the last event), `start` (from the first) or `none`.
    pub positions: String,
    /// Output table equal to the input table.
    pub tied: bool,
    /// `auto`, `dot` or `cosine`.
    pub score: String,
    /// Temperature of the cosine score.
    pub temperature: f64,
    /// `auto`, `yes` or `no`: the item-in-context encoder.
    pub context: String,
    /// Multiply embeddings by sqrt(dim) on input (SASRec does).
    pub scale_embeddings: bool,
    /// Standard deviation of initial embeddings, and of initial weights that are `normal`.
    pub init_std: f64,
    /// Initial weights of linear layers: `normal`, small beside the embeddings so that a block starts as almost the identity
    /// (BERT, S3Rec); `glorot`; or `attention`: normal but for Glorot's into attention, as PyTorch's attention layer begins.
    pub init_weights: String,
}

/// The four stages of the negative sampler; see `hardneg samplers list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampler {
    /// A named composition; the keys below override it. Empty: only the keys below.
    pub preset: String,
    /// `position`, `sequence` or `batch`: who shares a draw.
    pub scope: Option<String>,
    /// Negatives kept per group; may follow a curve.
    pub negatives: Option<Amount>,
    /// `none`, `target` or `history`.
    pub exclude: Option<String>,
    /// Mixture of proposals; each has a `share` besides its own parameters.
    pub propose: Option<Vec<Kind>>,
    pub select: Option<Kind>,
    pub mix: Option<Kind>,
    pub weight: Option<Kind>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optim {
    /// `adamw`.
    pub kind: String,
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled decay, applied to matrices and not to biases, norms or tables unless `decay_tables`.
    pub weight_decay: f64,
    pub decay_tables: bool,
    /// `constant`, `linear` or `cosine` after the warm-up.
    pub schedule: String,
    pub warmup_steps: u64,
    /// Largest global gradient norm; 0: no clipping.
    pub clip: f64,
    /// How tables are updated: `dense`, `lazy` (by row), `auto` (lazy above 2^22 elements touched sparsely), or `adagrad`:
    /// row-wise Adagrad, whose state is 4 bytes a row.
    pub tables: String,
}

/// A word, or what was a flag in older files.
fn word_or_flag<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Word(String),
        Flag(bool),
    }
    Ok(match Either::deserialize(from)? {
        Either::Word(word) => word,
        Either::Flag(yes) => if yes { "yes" } else { "no" }.into(),
    })
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Sequences per step.
    pub batch_size: u32,
    pub epochs: u32,
    /// Stop after so many steps; 0: no limit.
    pub steps: u64,
    /// Stop at a checkpoint after so many seconds; 0: no limit.
    pub time_limit: f64,
    pub seed: u64,
    /// `all` positions or the `last` one of each sequence.
    pub targets: String,
    /// How a GPU rounds the operands of matrix products and attention: `f32`, `tf32` or `bf16`, and with `bf16` the rows that sampled
    /// losses gather; sums and weights stay f32.
    pub rounding: String,
    /// `auto`, `yes` or `no`: whether a GPU is given a step like an earlier one as one recorded graph (CUDA graphs) instead of call by
    /// call. `auto`: if that is found to be faster there.
    #[serde(deserialize_with = "word_or_flag")]
    pub graph: String,
    /// Cut each sequence at a random prefix (CaNS), last-position training only.
    pub random_prefix: bool,
    /// Epochs between evaluations on the validation targets; 0: never.
    pub eval_every: u32,
    /// Metric of early stopping and of the best checkpoint.
    pub metric: String,
    /// Evaluations without improvement before stopping; 0: never stop early.
    pub patience: u32,
    /// Seconds between checkpoints.
    pub checkpoint_every: f64,
    /// Steps between checkpoints; 0: by time only.
    pub checkpoint_steps: u64,
    /// Checkpoints kept besides the best.
    pub keep: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// Lengths of the ranked list.
    pub at: Vec<u32>,
    /// Leave items of the user's visible history out of the ranking.
    pub exclude_seen: bool,
    /// `pessimistic`, `optimistic`, `average`, `random`, or `listed` (as a recommendation list orders them): an item scoring
    /// the same as the target.
    pub ties: String,
    /// `full`, `random:N` or `popular:N`.
    pub candidates: String,
    /// `all` or `trained`: items without a training event may be ranked, or not.
    pub items: String,
    /// Print popularity and the linear item-to-item model beside the model.
    pub baselines: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            config_version: 1,
            data: Data::default(),
            model: Model::default(),
            sampler: Sampler::default(),
            loss: Kind { kind: "softmax".into(), params: BTreeMap::new() },
            optim: Optim::default(),
            train: Train::default(),
            eval: Eval::default(),
        }
    }
}

impl Data {
    /// The files that are read; empty where none is given.
    pub fn inputs(&self) -> [&str; 5] {
        [&self.path, &self.times_path, &self.items_path, &self.graph_path, &self.link_path].map(String::as_str)
    }
}

impl Default for Data {
    fn default() -> Self {
        Data {
            path: String::new(),
            format: "auto".into(),
            times_path: String::new(),
            delimiter: String::new(),
            header: "auto".into(),
            user_col: String::new(),
            item_col: String::new(),
            time_col: String::new(),
            weight_col: String::new(),
            time_unit: "auto".into(),
            encoding: "auto".into(),
            context: vec![],
            items_path: String::new(),
            attributes: vec![],
            graph_path: String::new(),
            link_path: String::new(),
            on_bad_row: "quarantine".into(),
            max_bad_share: 0.25,
            min_weight: None,
            min_user: 0,
            min_item: 0,
            filter: "k_core".into(),
            dedup: "none".into(),
            split: "loo".into(),
            gts_quantile: 0.9,
            gts_target: "last".into(),
            temporal: "auto".into(),
            clusters: 10,
            synthetic: Synthetic::default(),
        }
    }
}

impl Default for Synthetic {
    fn default() -> Self {
        Synthetic { users: 2000, items: 1000, events_per_user: 30.0, clusters: 20, zipf: 1.0, markov: 0.6, periods: 4, seed: 1 }
    }
}

impl Default for Model {
    fn default() -> Self {
        Model {
            kind: "sasrec".into(),
            dim: 64,
            layers: 2,
            heads: 1,
            max_len: 200,
            ffn_mult: 1,
            dropout: 0.2,
            norm: "pre".into(),
            activation: "relu".into(),
            causal: true,
            positions: "auto".into(),
            tied: true,
            score: "auto".into(),
            temperature: 0.1,
            context: "auto".into(),
            scale_embeddings: true,
            init_std: 0.02,
            init_weights: "normal".into(),
        }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler {
            preset: "uniform".into(),
            scope: None,
            negatives: None,
            exclude: None,
            propose: None,
            select: None,
            mix: None,
            weight: None,
        }
    }
}

impl Default for Optim {
    fn default() -> Self {
        Optim {
            kind: "adamw".into(),
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay: 0.0,
            decay_tables: false,
            schedule: "constant".into(),
            warmup_steps: 0,
            clip: 0.0,
            tables: "auto".into(),
        }
    }
}

impl Default for Train {
    fn default() -> Self {
        Train {
            batch_size: 128,
            epochs: 100,
            steps: 0,
            time_limit: 0.0,
            seed: 42,
            targets: "all".into(),
            rounding: "f32".into(),
            graph: "auto".into(),
            random_prefix: false,
            eval_every: 1,
            metric: "ndcg@10".into(),
            patience: 10,
            checkpoint_every: 60.0,
            checkpoint_steps: 0,
            keep: 2,
        }
    }
}

impl Default for Eval {
    fn default() -> Self {
        Eval {
            at: vec![5, 10, 20],
            exclude_seen: true,
            ties: "pessimistic".into(),
            candidates: "full".into(),
            items: "all".into(),
            baselines: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_survives_a_round_trip_through_toml() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    }

    #[test]
    fn curves_start_and_end_where_they_say() {
        for shape in [CurveShape::Linear, CurveShape::Cosine, CurveShape::Exponential] {
            let v = Value::Curve(Curve { from: 0.5, to: 2.0, over: 4.0, shape });
            assert!((v.at(0.0).unwrap() - 0.5).abs() < 1e-12);
            assert!((v.at(4.0).unwrap() - 2.0).abs() < 1e-12);
            assert!((v.at(9.0).unwrap() - 2.0).abs() < 1e-12);
            assert!(v.at(1.0).unwrap() < v.at(3.0).unwrap());
        }
        let from_zero = |shape| Curve { from: 0.0, to: 2.0, over: 4.0, shape }.is_sound();
        assert!(from_zero(CurveShape::Linear) && from_zero(CurveShape::Cosine) && !from_zero(CurveShape::Exponential));
    }
}
