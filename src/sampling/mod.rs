//! Negative samplers: four stages, each a registry of kinds, each answering for its probabilities.
//!
//! ```text
//! propose ──► select ──► mix ──► weight ──► Negatives
//! ```
//!
//! `propose` draws items from a law no score enters (uniform, popularity, the batch, the target's time, attributes or
//! neighbours, what the user is known not to want, walks over users or a graph, mixtures), `select` keeps what the current model,
//! or a generator or a policy of its own, finds informative, `mix` adds the target in wrong contexts or vectors that are no items,
//! or moves negatives towards the positive, `weight` decides how much each counts and whether the loss is told the probability of
//! each draw. A method of the literature is a preset: a short file naming one kind per stage, and the loss it is made for
//! (`preset.rs`).
//!
//! The promise: ids that no score touches are a pure function of (stream version, seed, epoch, row, slot, training part), the
//! same for any batch split, order or thread count; and the log-probability reported is that of the draw that was made,
//! exclusion and mixture included. `propose/draw.rs` says how.

mod alias;
mod cases;
pub mod cost;
pub mod diagnosis;
mod knowledge;
pub mod memory;
mod mix;
mod per_epoch;
mod plan;
mod preset;
mod propose;
mod registry;
mod select;
#[cfg(test)]
mod tests;
mod weight;

use std::sync::{Arc, Mutex};

pub use cases::cases;
pub use knowledge::{Attributes, Clusters, Explicit, Knowledge};
pub use plan::Plan;
pub use preset::Preset;
pub use registry::{Declared, Form, Need, OF_PROPOSALS, Param, Stage};

use crate::config;
use crate::data::batch::Batch;
use crate::device::Device;
use crate::error::{Code, Error, Result, did_you_mean};
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::propose::{Laws, Mixed};
use crate::ops::score::Scoring;
use knowledge::Catalogue;
use mix::Mix;
use propose::{Mixture, Proposal, Propose, Rules};
use select::{Candidates, Choice, Select};
use weight::Weigh;

/// Who shares a draw of the propose stage. A select stage that scores chooses for every row by itself either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every row has its own.
    Position,
    /// All rows of a sequence.
    Sequence,
    /// All rows of a batch.
    Batch,
}

/// A sampler ready to draw: tables built, everything checked.
pub struct Sampler {
    plan: Plan,
    seed: u64,
    catalogue: Arc<Catalogue>,
    /// One per proposal of the plan; empty for the whole catalogue.
    proposals: Vec<Proposal>,
    /// The laws of the proposals in the memory of the machine that drew last, and their versions.
    laws: Mutex<Option<(Vec<u64>, Arc<Laws>)>>,
    select: Box<dyn Select>,
    /// (V) see `Choice::priors`.
    priors: Vec<f32>,
    mix: Option<Box<dyn Mix>>,
    weigh: Option<Box<dyn Weigh>>,
}

/// The moment of training a draw belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Epochs done, as a fraction: where curves stand.
    pub epoch: f64,
    /// Number of the epoch: part of the key of every draw.
    pub epoch_index: u64,
    /// Number of the batch within the epoch: the key of draws shared by a batch, and of nothing else.
    pub batch_index: u64,
}

/// Something a stage remembers, as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Sampler {
    /// Checks `config` (C0201 to C0205), builds the tables from `knowledge` (D0302 to D0304).
    pub fn new(config: &config::Sampler, knowledge: &Knowledge, seed: u64) -> Result<Sampler> {
        let plan = Plan::new(config)?;
        let catalogue = Arc::new(Catalogue::new(knowledge.train_counts));
        if catalogue.is_empty() {
            return Err(Error::new(Code::D0302, "the training part has no events, so there is no item to draw"));
        }
        let mut select = (plan.select.0.build)(&plan.select.1);
        select.learn_about(knowledge, &catalogue)?;
        let negatives = plan.negatives.most();
        let most = select.most_candidates(negatives);
        if (plan.distinct && most > catalogue.len()) || (plan.propose[0].0.build.is_none() && negatives > catalogue.len()) {
            return Err(Error::new(
                Code::C0205,
                format!("{} different negatives cannot be drawn from {} items", most.max(negatives), catalogue.len()),
            )
            .help(format!("use `sampler.negatives` below {}", catalogue.len())));
        }
        let mut proposals = Vec::new();
        for (entry, params) in &plan.propose {
            if let Some(build) = entry.build {
                proposals.push(build(params, knowledge, &catalogue)?);
            }
        }
        let mix = (plan.mix.0.build)(&plan.mix.1, knowledge)?;
        let weigh = (plan.weight.0.build)(&plan.weight.1, knowledge, &catalogue)?;
        let users = knowledge.train_end.len().max(1) as f64;
        let prior = |&events: &u32| (f64::from(events) / users).min(0.999) as f32;
        let priors = if select.needs_priors() { knowledge.train_counts.iter().map(prior).collect() } else { Vec::new() };
        Ok(Sampler { plan, seed, catalogue, proposals, laws: Mutex::new(None), select, priors, mix, weigh })
    }

    /// Whether `draw` must be given the current model's scoring.
    pub fn needs_scores(&self) -> bool {
        self.select.needs_scores()
            || self.mix.as_ref().is_some_and(|mix| mix.needs_scores())
            || self.weigh.as_ref().is_some_and(|weigh| weigh.needs_scores())
    }
    /// Whether draws leave out what the user has seen.
    pub fn excludes_history(&self) -> bool {
        self.plan.exclude == Exclude::History
    }
    /// Whether `Batch::target_clusters` must be filled.
    pub fn needs_clusters(&self) -> bool {
        self.plan.propose.iter().any(|(entry, _)| std::ptr::eq(entry.declared, &propose::cluster::DECLARED))
    }
    /// Wrong-context negatives per row at `epoch`, which only a model that sees context can score.
    pub fn wrong_contexts(&self, epoch: f64) -> usize {
        self.mix.as_ref().map_or(0, |mix| mix.wrong_contexts(epoch))
    }
    /// Negatives a row is compared with at `epoch`: items, wrong contexts, and vectors that are no items.
    pub fn per_row(&self, epoch: f64) -> usize {
        self.negatives(epoch) + self.wrong_contexts(epoch) + self.mix.as_ref().map_or(0, |mix| mix.generated(epoch))
    }
    /// Whether only a model that scores by the dot product can use its negatives.
    pub fn needs_dot(&self) -> bool {
        self.mix.as_ref().is_some_and(|mix| mix.needs_dot())
    }
    /// Whether `Negatives::log_q` is delivered.
    pub fn gives_log_q(&self) -> bool {
        self.plan.log_q()
    }
    /// Negatives per group at `epoch`, N.
    pub fn negatives(&self, epoch: f64) -> usize {
        self.plan.negatives.at(epoch)
    }
    pub fn scope(&self) -> Scope {
        self.plan.scope
    }
    /// The configuration with every stage and parameter written out.
    pub fn resolved(&self) -> config::Sampler {
        self.plan.spelled_out()
    }
    /// What the stages remember from draw to draw; empty for all that remember nothing.
    pub fn state(&self) -> Vec<State> {
        self.select.state().into_iter().chain(self.mix.iter().flat_map(|mix| mix.state())).collect()
    }
    /// Takes back what `state` gave. M0402: it does not fit.
    pub fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        self.select.restore(find)?;
        self.mix.as_ref().map_or(Ok(()), |mix| mix.restore(find))
    }
    /// One line for logs and reports.
    pub fn describe(&self) -> String {
        describe(&self.plan)
    }

    /// The negatives of `batch`. Those that a machine makes stay in its memory, unless a later stage needs them on the host.
    /// Errors: D0302 when a user has seen the whole catalogue; G0502 when the device has no kernel for a stage that scores.
    pub fn draw(&self, device: &Device, batch: &Batch, scoring: Option<&Scoring>, moment: Moment) -> Result<Negatives> {
        self.draw_telling(device, batch, scoring, moment, &mut || {})
    }

    /// [`Sampler::draw`], which tells when the propose stage is done and nothing is scored yet.
    pub fn draw_telling(
        &self,
        device: &Device,
        batch: &Batch,
        scoring: Option<&Scoring>,
        moment: Moment,
        proposed: &mut dyn FnMut(),
    ) -> Result<Negatives> {
        if self.needs_scores() && scoring.is_none() {
            return Err(Error::internal("this sampler needs scores and was given none"));
        }
        let candidates = match self.proposals.is_empty() {
            true => Candidates::Catalogue,
            false => Candidates::Listed(self.propose(device, batch, moment)?),
        };
        proposed();
        let choice = Choice {
            device,
            batch,
            scoring,
            catalogue: &self.catalogue,
            priors: &self.priors,
            exclude: self.plan.exclude,
            negatives: self.negatives(moment.epoch),
            log_q: self.plan.wants_log_q(),
            seed: self.seed,
            epoch: moment.epoch,
            epoch_index: moment.epoch_index,
            batch_index: moment.batch_index,
        };
        let mut negatives = self.select.select(&choice, candidates)?;
        if let Some(mix) = &self.mix {
            mix.mix(&choice, &mut negatives)?;
        }
        if let Some(weigh) = &self.weigh {
            negatives.fetch(device)?;
            weigh.weigh(&choice, &mut negatives)?;
        }
        if !self.plan.log_q() {
            negatives.forget_log_q();
        }
        Ok(negatives)
    }

    /// What governs the propose stage's draws.
    fn rules(&self, moment: Moment) -> Rules<'_> {
        Rules {
            catalogue: &self.catalogue,
            scope: self.plan.scope,
            exclude: self.plan.exclude,
            distinct: self.plan.distinct,
            log_q: self.plan.wants_log_q() || self.select.needs_proposal_log_q(),
            n: self.select.candidates(self.negatives(moment.epoch), moment.epoch),
            seed: self.seed,
            epoch_index: moment.epoch_index,
            batch_index: moment.batch_index,
        }
    }

    /// Does `work` with the law proposed from: the only one, or the mixture of all.
    fn of_law<R>(&self, moment: Moment, work: impl FnOnce(&dyn Propose, Option<Mixed>) -> Result<R>) -> Result<R> {
        match &self.laws_of(moment)?[..] {
            [single] => work(single.as_ref(), None),
            several => {
                let shares: Vec<f64> = self.plan.propose.iter().map(|(_, p)| p.number("share", moment.epoch)).collect();
                if shares.iter().sum::<f64>() <= 0.0 {
                    return Err(Error::new(Code::C0205, format!("all shares of the mixture are zero at epoch {}", moment.epoch)));
                }
                let mixture = Mixture::new(several.iter().map(AsRef::as_ref).collect(), &shares);
                work(&mixture, Some(mixture.mixed()))
            }
        }
    }

    /// The proposals' laws as they stand in an epoch.
    fn laws_of(&self, moment: Moment) -> Result<Vec<Arc<dyn Propose>>> {
        self.proposals.iter().map(|proposal| proposal.at(moment.epoch_index)).collect()
    }

    /// The propose stage alone.
    fn propose(&self, device: &Device, batch: &Batch, moment: Moment) -> Result<Negatives> {
        let rules = self.rules(moment);
        let there = if self.select.takes_resident() { self.laws_on(device, moment)? } else { None };
        self.of_law(moment, |law, mixed| {
            let drawn = there.as_ref().map(|laws| propose::propose_there(device, laws, law, mixed, &rules, batch)).transpose()?;
            drawn.flatten().map_or_else(|| propose::propose(law, &rules, batch), Ok)
        })
    }

    /// The share of the propose stage's draws that hit what they must not and were made again. Drawn once more, on the host, for as
    /// many rows as a diagnosis looks at; 0 where the whole catalogue is scanned.
    pub fn rejected(&self, batch: &Batch, moment: Moment) -> Result<f64> {
        if self.proposals.is_empty() {
            return Ok(0.0);
        }
        let rules = Rules { log_q: false, ..self.rules(moment) };
        self.of_law(moment, |law, _| propose::rejected(law, &rules, batch, diagnosis::ROWS))
    }

    /// The proposals' laws in a machine's memory, copied there once; none for the plain path, or where a law is the host's alone.
    fn laws_on(&self, device: &Device, moment: Moment) -> Result<Option<Arc<Laws>>> {
        let Device::Machine(runtime) = device else { return Ok(None) };
        let of_epoch = self.laws_of(moment)?;
        // A law of its own may report another's probability, which follows it.
        let reported = if let [single] = &of_epoch[..] { single.reported() } else { None };
        let laws = of_epoch.iter().map(AsRef::as_ref).chain(reported);
        let Some(twins) = laws.map(Propose::twin).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let versions: Vec<u64> = self.proposals.iter().map(|proposal| proposal.version(moment.epoch_index)).collect();
        let mut kept = self.laws.lock().map_err(|_| Error::internal("a thread that drew negatives failed"))?;
        if let Some((_, laws)) = kept.as_ref().filter(|(of, laws)| *of == versions && laws.are_on(runtime)) {
            return Ok(Some(laws.clone()));
        }
        *kept = None;
        let trained: Vec<u32> =
            if self.catalogue.len() < self.catalogue.items() { self.catalogue.iter().collect() } else { Vec::new() };
        let laws = Arc::new(Laws::new(runtime, &twins, &trained, self.catalogue.len())?);
        *kept = Some((versions, laws.clone()));
        Ok(Some(laws))
    }
}

fn describe(plan: &Plan) -> String {
    let resolved = plan.spelled_out();
    let proposals: Vec<&str> = plan.propose.iter().map(|(e, _)| e.declared.name).collect();
    format!(
        "{}: {} negatives per {}, exclude {}, propose {}, select {}, mix {}, weight {}",
        if plan.preset.is_empty() { "own" } else { &plan.preset },
        plan.negatives.text(),
        resolved.scope.unwrap_or_default(),
        resolved.exclude.unwrap_or_default(),
        proposals.join(" + "),
        plan.select.0.declared.name,
        plan.mix.0.declared.name,
        plan.weight.0.declared.name
    )
}

/// All presets.
pub fn presets() -> Result<Vec<Preset>> {
    preset::all()
}

/// All kinds, stage by stage.
pub fn kinds() -> Vec<&'static Declared> {
    let proposals = propose::KINDS.iter().map(|e| e.declared);
    let selects = select::KINDS.iter().map(|e| e.declared);
    let mixes = mix::KINDS.iter().map(|e| e.declared);
    proposals.chain(selects).chain(mixes).chain(weight::KINDS.iter().map(|e| e.declared)).collect()
}

/// What a name of a preset or a kind stands for.
pub enum Shown {
    /// A preset, its sampler with every parameter written out, and the declarations of its kinds.
    Preset {
        preset: Box<Preset>,
        resolved: Box<config::Sampler>,
        kinds: Vec<&'static Declared>,
    },
    Kind(&'static Declared),
}

/// Finds a preset or a kind by name, presets first.
pub fn show(name: &str) -> Result<Shown> {
    let presets = preset::all()?;
    if let Some(preset) = presets.iter().find(|p| p.name == name) {
        let plan = Plan::new(&config::Sampler { preset: name.into(), ..config::Sampler::default() })?;
        let (resolved, kinds) = (Box::new(plan.spelled_out()), plan.declared());
        return Ok(Shown::Preset { preset: Box::new(preset.clone()), resolved, kinds });
    }
    let kinds = kinds();
    if let Some(kind) = kinds.iter().find(|k| k.name == name) {
        return Ok(Shown::Kind(kind));
    }
    let names: Vec<&str> = presets.iter().map(|p| p.name.as_str()).chain(kinds.iter().map(|k| k.name)).collect();
    Err(Error::new(Code::C0202, format!("there is no sampler or stage `{name}`")).help(did_you_mean(name, &names)))
}
