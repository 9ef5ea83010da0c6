//! From what a user wrote to four checked stages: presets, overrides, defaults, contradictions. Knows no data.
//!
//! A key of the user's replaces the preset's. A stage of the same kind keeps the preset's other parameters; a stage of another
//! kind starts from its defaults; a list of proposals replaces the preset's list. What does nothing or cannot hold together is
//! refused, because whoever wrote it expected an effect.

use crate::config::{self, Amount, Kind};
use crate::error::{Code, Error, Result, did_you_mean};
use crate::ops::exclusion::Exclude;
use crate::rng::SLOT_BITS;
use crate::sampling::registry::{Declared, Need, Params, check, find};
use crate::sampling::{Scope, mix, preset, propose, select, weight};

/// The four stages, checked.
pub struct Plan {
    pub preset: String,
    pub scope: Scope,
    pub exclude: Exclude,
    /// Negatives handed to the loss, per group.
    pub negatives: Amount,
    /// Empty: the whole catalogue.
    pub propose: Vec<(&'static propose::Entry, Params)>,
    pub distinct: bool,
    pub select: (&'static select::Entry, Params),
    pub mix: (&'static mix::Entry, Params),
    pub weight: (&'static weight::Entry, Params),
}

const SCOPES: [(&str, Scope); 3] = [("position", Scope::Position), ("sequence", Scope::Sequence), ("batch", Scope::Batch)];
const EXCLUDES: [(&str, Exclude); 3] = [("none", Exclude::None), ("target", Exclude::Target), ("history", Exclude::History)];

/// The value a word names, or the first one if nothing was written.
fn word<T: Copy>(written: Option<&str>, key: &str, words: &[(&'static str, T)], default: usize) -> Result<T> {
    let Some(written) = written else { return Ok(words[default].1) };
    words.iter().find(|(name, _)| *name == written).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        Error::new(Code::C0202, format!("`sampler.{key} = \"{written}\"` is not one of its words"))
            .help(did_you_mean(written, &names))
            .help(format!("one of: {}", names.join(", ")))
    })
}

/// `own` over `preset`, and the parameters the user wrote.
fn overridden(own: Option<&Kind>, preset: Option<&Kind>, default: &str) -> (Kind, Vec<String>) {
    let base = preset.cloned().unwrap_or_else(|| Kind { kind: default.to_string(), params: Default::default() });
    let written = own.map_or(Vec::new(), names);
    let kind = match own {
        None => base,
        Some(own) if own.kind == base.kind => {
            let mut merged = base;
            merged.params.extend(own.params.iter().map(|(name, value)| (name.clone(), value.clone())));
            merged
        }
        Some(own) => own.clone(),
    };
    (kind, written)
}

fn names(kind: &Kind) -> Vec<String> {
    kind.params.keys().cloned().collect()
}

impl Plan {
    /// Checks `config`; the errors are C0201 to C0205.
    pub fn new(config: &config::Sampler) -> Result<Plan> {
        let preset = match config.preset.as_str() {
            "" => None,
            name => Some(preset::find(name)?.sampler),
        };
        let preset = preset.as_ref();
        let of_preset = |field: fn(&config::Sampler) -> Option<&Kind>| preset.and_then(field);

        let scope = config.scope.as_deref().or(preset.and_then(|p| p.scope.as_deref()));
        let scope = word(scope, "scope", &SCOPES, 0)?;
        let exclude = config.exclude.as_deref().or(preset.and_then(|p| p.exclude.as_deref()));
        let exclude = word(exclude, "exclude", &EXCLUDES, 2)?;
        let negatives = config.negatives.clone().or(preset.and_then(|p| p.negatives.clone())).unwrap_or(Amount::Fixed(1));

        let uniform = [Kind { kind: "uniform".into(), params: Default::default() }];
        let written = config.propose.as_deref().or(preset.and_then(|p| p.propose.as_deref())).unwrap_or(&uniform);
        let siblings: Vec<&Declared> = propose::KINDS.iter().map(|e| e.declared).collect();
        let proposals: Vec<_> = written
            .iter()
            .enumerate()
            .map(|(i, kind)| {
                let place = if written.len() == 1 { "sampler.propose".into() } else { format!("sampler.propose[{i}]") };
                let entry = find(propose::KINDS, |e| e.declared, &kind.kind, &place)?;
                let own = if config.propose.is_some() { names(kind) } else { Vec::new() };
                Ok((entry, check(entry.declared, kind, &own, &place, &siblings)?))
            })
            .collect::<Result<_>>()?;

        let (kind, own) = overridden(config.select.as_ref(), of_preset(|p| p.select.as_ref()), "all");
        let entry = find(select::KINDS, |e| e.declared, &kind.kind, "sampler.select")?;
        let siblings: Vec<&Declared> = select::KINDS.iter().map(|e| e.declared).collect();
        let select = (entry, check(entry.declared, &kind, &own, "sampler.select", &siblings)?);

        let (kind, own) = overridden(config.mix.as_ref(), of_preset(|p| p.mix.as_ref()), "item");
        let entry = find(mix::KINDS, |e| e.declared, &kind.kind, "sampler.mix")?;
        let siblings: Vec<&Declared> = mix::KINDS.iter().map(|e| e.declared).collect();
        let mix = (entry, check(entry.declared, &kind, &own, "sampler.mix", &siblings)?);

        let (kind, own) = overridden(config.weight.as_ref(), of_preset(|p| p.weight.as_ref()), "one");
        let entry = find(weight::KINDS, |e| e.declared, &kind.kind, "sampler.weight")?;
        let siblings: Vec<&Declared> = weight::KINDS.iter().map(|e| e.declared).collect();
        let weight = (entry, check(entry.declared, &kind, &own, "sampler.weight", &siblings)?);

        let mut plan = Plan {
            preset: config.preset.clone(),
            scope,
            exclude,
            negatives,
            propose: proposals,
            distinct: false,
            select,
            mix,
            weight,
        };
        plan.agree()?;
        Ok(plan)
    }

    /// Refuses what does nothing and what contradicts itself.
    fn agree(&mut self) -> Result<()> {
        let contradiction = |what: String| Err(Error::new(Code::C0205, what));
        let (fewest, negatives) = (self.negatives.least(), self.negatives.most());
        let lasts = match &self.negatives {
            Amount::Fixed(_) => true,
            Amount::Moving(curve) => curve.is_sound(),
        };
        if fewest == 0 || negatives > 1 << SLOT_BITS || !lasts {
            return Err(Error::new(Code::C0202, format!("`sampler.negatives = {}` is out of range", self.negatives.text()))
                .help(format!("range: whole, 1 .. {}, or a curve", 1 << SLOT_BITS)));
        }
        if self.propose.is_empty() {
            return contradiction("`sampler.propose` is an empty list: nothing proposes negatives".into());
        }
        let whole = self.propose.iter().any(|(e, _)| e.build.is_none());
        let single = self.propose.len() == 1;
        if whole && !single {
            return contradiction("the proposal `catalogue` is every item already and cannot be mixed with others".into());
        }
        if single {
            let why = if whole { "the whole catalogue" } else { "a single proposal" };
            self.propose[0].1.without_effect("share", why)?;
        }
        if whole {
            self.propose[0].1.without_effect("distinct", "the whole catalogue")?;
            if self.select.0.declared.name == "all" {
                return contradiction("the proposal `catalogue` needs a select stage that chooses from it".into());
            }
            if !(self.select.0.build)(&self.select.1).takes_catalogue() {
                let name = self.select.0.declared.name;
                return contradiction(format!("`{name}` chooses from proposed items, not from the whole catalogue"));
            }
            self.select.1.without_effect("candidates", "the proposal `catalogue`")?;
            if self.scope != Scope::Position {
                return contradiction(
                    "the proposal `catalogue` is chosen from by every row: `scope` can only be \"position\"".into(),
                );
            }
        }
        if !whole && self.select.0.declared.needs.contains(&Need::Catalogue) {
            let name = self.select.0.declared.name;
            return Err(Error::new(Code::C0205, format!("`{name}` chooses from the whole catalogue, not from proposed items"))
                .help("use `sampler.propose.kind = \"catalogue\"`"));
        }
        if !whole && !single && self.propose.iter().all(|(_, p)| p.most("share") == 0.0) {
            return contradiction("all proposals of the mixture have a share of zero".into());
        }
        self.distinct = self.propose.iter().any(|(_, p)| p.flag("distinct"));
        if self.distinct && !self.propose.iter().all(|(_, p)| p.flag("distinct")) {
            return contradiction("the proposals of a mixture must agree on `distinct`".into());
        }
        for (entry, _) in &self.propose {
            match entry.declared.name {
                "in_batch" if self.exclude == Exclude::None => {
                    return Err(Error::new(
                        Code::C0205,
                        "`in_batch` with `exclude = \"none\"` would draw a row's own target as its negative",
                    )
                    .help("use `exclude = \"target\"` or `\"history\"`"));
                }
                "cluster" if self.scope != Scope::Position => {
                    return Err(Error::new(
                        Code::C0205,
                        "`cluster` follows the time of each position's target, so rows cannot share a draw",
                    )
                    .help("use `scope = \"position\"`"));
                }
                kind if entry.declared.needs.contains(&Need::Target) && self.scope != Scope::Position => {
                    return Err(Error::new(
                        Code::C0205,
                        format!("`{kind}` depends on the event to be predicted, so rows cannot share a draw"),
                    )
                    .help("use `scope = \"position\"`"));
                }
                kind if entry.declared.needs.contains(&Need::User) && self.scope == Scope::Batch => {
                    return Err(Error::new(Code::C0205, format!("`{kind}` starts from a user, so users cannot share a draw"))
                        .help("use `scope = \"position\"` or `\"sequence\"`"));
                }
                _ => {}
            }
        }
        let select = (self.select.0.build)(&self.select.1);
        let most = select.most_candidates(negatives);
        if most > 1 << SLOT_BITS {
            return contradiction(format!("{most} candidates per group; at most {} can be numbered", 1 << SLOT_BITS));
        }
        if select.most_draws(negatives) > 1 << SLOT_BITS {
            let (draws, name) = (select.most_draws(negatives), self.select.0.declared.name);
            return contradiction(format!("{draws} draws of `{name}` per row; at most {} can be numbered", 1 << SLOT_BITS));
        }
        if !whole && select.fewest_candidates(negatives) < negatives {
            let limits = ["candidates", "size", "from", "to"];
            let named = self.select.0.declared.params.iter().map(|param| param.name).filter(|name| limits.contains(name));
            let keys: Vec<String> = named.map(|name| format!("`sampler.select.{name}`")).collect();
            let help = format!("lower `sampler.negatives`, or let the selection have more by {}", keys.join(", "));
            let fewest = select.fewest_candidates(negatives);
            return contradiction(format!("{negatives} negatives cannot be kept of {fewest} candidates"))
                .map_err(|e| e.help(help));
        }
        if self.wants_log_q() && !select.gives_log_q() {
            return Err(Error::new(
                Code::C0205,
                format!(
                    "`{}` does not say with which probability it keeps an item, which `weight.kind = \"{}\"` needs",
                    self.select.0.declared.name, self.weight.0.declared.name
                ),
            )
            .help("use `weight.kind = \"one\"`, or `select.kind = \"softmax_draw\"`"));
        }
        Ok(())
    }

    /// Whether the loss gets log-probabilities.
    pub fn log_q(&self) -> bool {
        std::ptr::eq(self.weight.0.declared, &weight::LOG_Q)
    }
    /// Whether draws must come with them, for the loss or for a weight.
    pub fn wants_log_q(&self) -> bool {
        self.weight.0.declared.needs.contains(&Need::Probability)
    }

    /// Declarations of the stages in use.
    pub fn declared(&self) -> Vec<&'static Declared> {
        let proposals = self.propose.iter().map(|(e, _)| e.declared);
        proposals.chain([self.select.0.declared, self.mix.0.declared, self.weight.0.declared]).collect()
    }

    /// The configuration with everything written out; planning it again gives the same plan.
    pub fn spelled_out(&self) -> config::Sampler {
        fn named<T: PartialEq>(words: &[(&'static str, T)], value: T) -> Option<String> {
            words.iter().find(|(_, v)| *v == value).map(|(name, _)| name.to_string())
        }
        config::Sampler {
            preset: self.preset.clone(),
            scope: named(&SCOPES, self.scope),
            negatives: Some(self.negatives.clone()),
            exclude: named(&EXCLUDES, self.exclude),
            propose: Some(self.propose.iter().map(|(_, p)| p.spelled_out()).collect()),
            select: Some(self.select.1.spelled_out()),
            mix: Some(self.mix.1.spelled_out()),
            weight: Some(self.weight.1.spelled_out()),
        }
    }
}
