//! Losses: how a row's positive and negatives become one number. One file each; a new one is a file and a line in [`KINDS`].
//!
//! `softmax` and `whole_data` see the whole catalogue (`ops/full_softmax.rs`, `ops/whole_data.rs`); the others see what a sampler hands over
//! (`ops/sampled_loss.rs`) and are functions of one row's scores. With `s+` the positive's score, `s_n` the negatives' and
//! `w_n` their weights (one unless the sampler gives others):
//!
//! | loss | row |
//! |---|---|
//! | `softmax` | `ln sum over all items i of exp s_i  -  s+` |
//! | `whole_data` | `(s+ - 1)^2 + c sum over the other items i of s_i^2` |
//! | `sampled_softmax` | the same over the positive and its negatives, see `sampled_softmax.rs` |
//! | `bce` | `softplus(-s+) + sum w_n softplus(s_n) / sum w_n` |
//! | `gbce` | `(beta softplus(-s+) + sum w_n softplus(s_n)) / (1 + sum w_n)` |
//! | `bpr` | `sum w_n softplus(s_n - s+) / sum w_n` |
//! | `bpr_max` | `-ln sum v_n sigma(s+ - s_n) + lambda sum v_n s_n^2`, `v` the softmax of the negatives |
//! | `contrastive` | `ln(exp s+ + M g) - s+`, `g` a debiased mean of `exp s_n` that may favour the hard ones, see `contrastive.rs` |
//! | `hinge` | `sum w_n max(0, margin + s_n - s+) / sum w_n` |
//! | `pu` | `prior softplus(-s+) + max(0, sum w_n softplus(s_n) / sum w_n - prior softplus(s+))` |
//! | `hard_bpr` | `sum w_n f(s+ - s_n) / sum w_n`, `f(x) = ln(1 + a) - ln(sigma(c x + b) + a)` |

mod bce;
mod bpr;
mod bpr_max;
mod cases;
mod contrastive;
mod gbce;
mod hard_bpr;
mod hinge;
mod pu;
mod sampled_softmax;
#[cfg(test)]
mod tests;

use crate::config::{Kind, Value};
use crate::device::Real;
use crate::error::{Code, Error, Result, did_you_mean};
use crate::ops::sampled_loss::{RowFacts, RowLoss};
use crate::ops::score::ScoreKind;
use crate::ops::vector;

pub use cases::{cases, rounded_cases};

/// A loss, ready to run.
pub enum Loss {
    /// Cross-entropy over the whole catalogue.
    Full,
    /// Squared error over the whole catalogue, in which an item that is not the target weighs `unseen`.
    WholeData { unseen: f64 },
    /// A function of the positive and sampled negatives.
    Sampled(Box<dyn RowLoss>),
}

/// What a loss says about itself.
pub struct Declared {
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    pub source: &'static str,
    pub params: &'static [Param],
    /// Whether it sees sampled negatives.
    pub sampled: bool,
    build: fn(&Params) -> Loss,
}

pub struct Param {
    pub name: &'static str,
    pub form: Form,
    pub help: &'static str,
}

pub enum Form {
    /// A real in `low..=high`.
    Number { default: f64, low: f64, high: f64 },
    /// A real in `low..=high` that follows from the model where it is not given.
    Derived { default: &'static str, low: f64, high: f64 },
    /// One of these; the first is the default.
    Word(&'static [&'static str]),
}

impl Form {
    /// As help prints it.
    pub fn range(&self) -> String {
        match self {
            Form::Number { default, low, high } => format!("{low} .. {high}, default {default}"),
            Form::Derived { default, low, high } => format!("{low} .. {high}, default {default}"),
            Form::Word(words) => format!("{}, default {}", words.join(" | "), words[0]),
        }
    }
}

/// The registry.
pub static KINDS: &[Declared] = &[
    Declared {
        name: "softmax",
        help: "cross-entropy over the whole catalogue; needs no sampler",
        source: "GRU4Rec's and BERT4Rec's loss; Klenitskiy and Vasilev (RecSys 2023) for SASRec",
        params: &[],
        sampled: false,
        build: |_| Loss::Full,
    },
    Declared {
        name: "whole_data",
        help: "squared error over the whole catalogue, by products of small matrices; needs no sampler, a dot product and no context",
        source: "ENMF (Chen et al., TOIS 2020), constant weights",
        params: &[Param {
            name: "unseen",
            form: Form::Number { default: 0.1, low: 0.0, high: 1.0 },
            help: "what the square of another item's score weighs beside that of the target's error (c0)",
        }],
        sampled: false,
        build: |p| Loss::WholeData { unseen: p.number("unseen") },
    },
    sampled_softmax::DECLARED,
    bce::DECLARED,
    gbce::DECLARED,
    bpr::DECLARED,
    contrastive::DECLARED,
    bpr_max::DECLARED,
    hinge::DECLARED,
    hard_bpr::DECLARED,
    pu::DECLARED,
];

/// The parameters a user wrote, checked, with the numbers a loss may depend on.
struct Params<'a> {
    declared: &'static Declared,
    given: &'a Kind,
    items: usize,
    negatives: usize,
    score: ScoreKind,
}

impl Params<'_> {
    /// A number, if it was given.
    fn given(&self, name: &str) -> Option<f64> {
        match self.given.params.get(name) {
            Some(Value::Number(x)) => Some(*x),
            _ => None,
        }
    }
    fn number(&self, name: &str) -> f64 {
        match (self.given.params.get(name), self.declared.params.iter().find(|p| p.name == name).map(|p| &p.form)) {
            (Some(Value::Number(x)), _) => *x,
            (_, Some(Form::Number { default, .. })) => *default,
            _ => f64::NAN,
        }
    }
    fn word(&self, name: &str) -> &str {
        match (self.given.params.get(name), self.declared.params.iter().find(|p| p.name == name).map(|p| &p.form)) {
            (Some(Value::Word(word)), _) => word,
            (_, Some(Form::Word(words))) => words[0],
            _ => "",
        }
    }
}

/// The declaration of the loss a user named.
pub fn find(kind: &str) -> Result<&'static Declared> {
    KINDS.iter().find(|d| d.name == kind).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|d| d.name).collect();
        Error::new(Code::C0202, format!("`{kind}` is not a loss")).at("loss.kind").help(did_you_mean(kind, &names))
    })
}

/// Builds the configured loss for a catalogue of `items`, `negatives` per row and a model that scores by `score`. C0202: unknown kind, or a value out of
/// range; C0201: unknown parameter; C0203: a parameter of another loss.
pub fn build(kind: &Kind, items: usize, negatives: usize, score: ScoreKind) -> Result<Loss> {
    let declared = find(&kind.kind)?;
    for (name, value) in &kind.params {
        check(declared, name, value)?;
    }
    Ok((declared.build)(&Params { declared, given: kind, items, negatives, score }))
}

fn check(declared: &Declared, name: &str, value: &Value) -> Result<()> {
    let place = format!("loss.{name}");
    let Some(param) = declared.params.iter().find(|p| p.name == name) else {
        let owner = KINDS.iter().find(|d| d.params.iter().any(|p| p.name == name));
        return Err(match owner {
            Some(owner) => Error::new(Code::C0203, format!("`{name}` has no effect with the loss `{}`", declared.name))
                .at(place)
                .help(format!("remove it, or use the loss `{}`", owner.name)),
            None => {
                let names: Vec<&str> = declared.params.iter().map(|p| p.name).collect();
                let help = match names.is_empty() {
                    true => format!("the loss `{}` has no parameters", declared.name),
                    false => did_you_mean(name, &names),
                };
                Error::new(Code::C0201, format!("the loss `{}` has no parameter `{name}`", declared.name)).at(place).help(help)
            }
        });
    };
    let accepted = match (&param.form, value) {
        (Form::Number { low, high, .. } | Form::Derived { low, high, .. }, Value::Number(x)) => (low..=high).contains(&x),
        (Form::Word(words), Value::Word(word)) => words.contains(&word.as_str()),
        _ => false,
    };
    if accepted {
        return Ok(());
    }
    Err(Error::new(Code::C0202, format!("`{name}` of the loss `{}` cannot take this value", declared.name))
        .at(place)
        .note(param.help)
        .help(format!("range: {}", param.form.range())))
}

/// A row of a loss that is the weighted mean of `f(s_n - s+)`, zero without weight: the loss and its gradients. `f` gives its value
/// and its slope.
fn mean_of_pairs<T: Real>(s: T, negatives: &[T], facts: RowFacts, d: &mut [T], f: impl Fn(T) -> (T, T)) -> (T, T) {
    vector::fast(
        #[inline(always)]
        || {
            let (mut loss, mut total) = (T::ZERO, T::ZERO);
            for (n, (d, &negative)) in d.iter_mut().zip(negatives).enumerate() {
                let w = facts.weight.get(n).map_or(T::ONE, |&w| T::from_f64(f64::from(w)));
                let (value, slope) = f(negative - s);
                loss += w * value;
                total += w;
                *d = w * slope;
            }
            let share = if total > T::ZERO { T::ONE / total } else { T::ZERO };
            vector::scale(d, share);
            (loss * share, -vector::sum(d))
        },
    )
}

/// Implements [`RowLoss`] for a loss written once as `fn row<T: Real>(&self, ...) -> (T, T)`.
macro_rules! row_loss {
    ($loss:ty, twin: $twin:expr $(, needs_log_q: $needs:expr)?) => {
        impl $crate::ops::sampled_loss::RowLoss for $loss {
            fn row_f32(&self, s: f32, negatives: &[f32], facts: RowFacts, d: &mut [f32]) -> (f32, f32) {
                self.row(s, negatives, facts, d)
            }
            fn row_f64(&self, s: f64, negatives: &[f64], facts: RowFacts, d: &mut [f64]) -> (f64, f64) {
                self.row(s, negatives, facts, d)
            }
            fn twin(&self) -> $crate::ops::sampled_loss::Twin {
                ($twin)(self)
            }
            $(fn needs_log_q(&self) -> bool {
                ($needs)(self)
            })?
        }
    };
}
pub(crate) use row_loss;
