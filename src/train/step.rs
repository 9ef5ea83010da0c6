//! One training step, top to bottom.

use std::sync::Arc;
use std::time::Instant;

use crate::config::{self, Config};
use crate::data::batch::Batch;
use crate::data::context::ContextEncoder;
use crate::data::order::Order;
use crate::data::training::TrainingSet;
use crate::device::{Buffer, Device, Mark, Runtime, Scalar, upload};
use crate::error::{Code, Error, Result};
use crate::loss::{self, Loss};
use crate::model::context::Rows;
use crate::model::{Masks, Model, Other, Queries, Sizes};
use crate::ops::attributes::AttributeLists;
use crate::ops::batch::{Part, Resident, Sequences};
use crate::ops::negatives::Negatives;
use crate::ops::param::Param;
use crate::ops::sampled_loss::{self, Gradients};
use crate::ops::score::ScoreKind;
use crate::ops::touched::{List, Touched};
use crate::ops::{contexts, full_softmax, whole_data};
use crate::optim::{Optimizer, Schedule, State};
use crate::sampling::diagnosis::{Deciles, Diagnosis, Evidence};
use crate::sampling::{self, Attributes, Clusters, Explicit, Knowledge, Moment, Sampler};
use crate::train::checkpoint::{self, Tensor};
use crate::train::fit::{Stages, StepReport, Training};

/// Steps that may be enqueued before their reports are waited for.
const AHEAD: usize = 256;

/// A model with everything that trains it.
pub struct Trainer {
    config: Config,
    data: Arc<TrainingSet>,
    device: Device,
    /// The data where the machine is.
    resident: Option<Resident>,
    /// The contexts of all events there.
    contexts: Option<contexts::All>,
    pub model: Model,
    sampler: Option<Sampler>,
    loss: Loss,
    /// The negatives of a row that the loss is built for.
    per_row: usize,
    optimizer: Optimizer,
    schedule: Schedule,
    queries: Queries,
    /// Present when the item tables are updated by row.
    touched: Option<Touched>,
    dquery: Buffer,
    dcontext: Buffer,
    dwrong: Buffer,
    /// Steps done.
    done: u64,
    /// Steps of the whole run.
    total: u64,
    deciles: Deciles,
    /// Of the last step of an epoch, until the loop takes it.
    diagnosis: Option<Diagnosis>,
    /// Steps enqueued whose reports nobody has asked for.
    pending: Vec<Enqueued>,
}

impl Trainer {
    /// Errors of the configuration and of what the log lacks for it are found here, before any training.
    pub fn new(config: &Config, data: Arc<TrainingSet>, device: &Device) -> Result<Trainer> {
        let seed = config.train.seed;
        let log = data.data();
        let model = Model::new(&config.model, sizes(&data), device, seed)?;
        let clusters = data.clusters().map(|c| (c.counts(log, data.split()), c.events(log, data.split())));
        let clusters = clusters.as_ref().map(|(counts, events)| Clusters { counts, events });
        let knowledge = Knowledge { clusters, ..knowledge(&data) };
        let full = !loss::find(&config.loss.kind)?.sampled;
        let sampler = (!full).then(|| Sampler::new(&config.sampler, &knowledge, seed)).transpose()?;
        if let Some(sampler) = sampler.as_ref().filter(|s| s.wrong_contexts(0.0) > 0 && !model.hyper.context) {
            return Err(Error::new(
                Code::D0303,
                format!("{} pairs items with wrong contexts, and the model sees none", sampler.describe()),
            )
            .help("use `--set model.kind=cans` with a log that has times"));
        }
        if let Some(sampler) = sampler.as_ref().filter(|s| s.wrong_contexts(0.0) > 0 && model.scoring().kind == ScoreKind::Dot) {
            let what = format!(
                "{} compares an item with itself in another context, and a dot product then sees the contexts alone",
                sampler.describe()
            );
            return Err(Error::new(Code::C0205, what).help("use `--set model.kind=cans`, or `--set model.score=cosine`"));
        }
        if let Some(sampler) = sampler.as_ref().filter(|s| s.needs_dot() && model.scoring().kind != ScoreKind::Dot) {
            let what = format!("{} mixes the vectors of items, and a cosine is not linear in them", sampler.describe());
            return Err(Error::new(Code::C0205, what).help("use `--set model.score=dot`, or `--set sampler.mix.kind=item`"));
        }
        let per_row = sampler.as_ref().map_or(0, |sampler| sampler.per_row(0.0));
        let loss = loss::build(&config.loss, log.items(), per_row, model.scoring().kind)?;
        if matches!(loss, Loss::WholeData { .. }) && (model.scoring().kind != ScoreKind::Dot || model.hyper.context) {
            let what = "the loss `whole_data` is a product of small matrices only for dot products without context";
            return Err(
                Error::new(Code::C0205, what).help("use `--set model.score=dot --set model.context=no`, or `--set loss=softmax`")
            );
        }
        let wants_log_q = matches!(&loss, Loss::Sampled(row_loss) if row_loss.needs_log_q());
        if let Some(sampler) = sampler.as_ref().filter(|s| wants_log_q && !s.gives_log_q()) {
            let what =
                format!("the loss corrects by the probability of each draw, and {} does not deliver it", sampler.describe());
            return Err(Error::new(Code::C0205, what).help("use `--set sampler.weight.kind=log_q`, or `--set loss.log_q=none`"));
        }
        let queries = match config.train.targets.as_str() {
            "all" if config.model.causal => Queries::All,
            "all" => {
                return Err(Error::new(Code::C0205, "an encoder that sees the future cannot train at every position")
                    .help("use `--set train.targets=last`, or `--set model.causal=true`"));
            }
            "last" => Queries::Last,
            other => return Err(Error::new(Code::C0202, format!("train.targets = \"{other}\"")).help("use `all` or `last`")),
        };
        let optimizer = Optimizer::new(device, &config.optim, model.params())?;
        let every_row = full || !model.rows_are_independent();
        if config.optim.tables == "lazy" && every_row {
            return Err(Error::new(Code::C0205, "every row of the item table changes in every step here, so none can be lazy")
                .note("losses over the whole catalogue and item attributes reach all rows")
                .help("use `--set optim.tables=dense`"));
        }
        let by_row = !every_row && optimizer.is_by_row(model.output_param());
        let touched = by_row.then(|| Touched::new(log.items()));
        let total = total_steps(&config.train, data.len());
        let schedule = Schedule::new(&config.optim, total)?;
        let empty = || Buffer::empty(device);
        let mut trainer = Trainer {
            config: config.clone(),
            device: device.clone(),
            resident: resident(&data, device, sampler.as_ref())?,
            contexts: all_contexts(&data, device, model.hyper.context)?,
            sampler,
            loss,
            per_row,
            optimizer,
            schedule,
            queries,
            touched,
            done: 0,
            total,
            deciles: Deciles::new(&data.split().train_items),
            diagnosis: None,
            pending: Vec::new(),
            data,
            model,
            dquery: empty(),
            dcontext: empty(),
            dwrong: empty(),
        };
        trainer.model.refresh_tables()?;
        Ok(trainer)
    }

    pub fn sampler(&self) -> Option<&Sampler> {
        self.sampler.as_ref()
    }
    pub fn config(&self) -> &Config {
        &self.config
    }
    pub fn data(&self) -> &Arc<TrainingSet> {
        &self.data
    }

    /// The sequences of step `step`: a slice of the epoch's order.
    fn gather(&self, epoch: u64, within: u64) -> Result<Batch> {
        let size = u64::from(self.config.train.batch_size);
        let n = self.data.len() as u64;
        let order = Order::new(self.config.train.seed, epoch, n);
        let begin = within * size;
        let indexes: Vec<u32> = (begin..(begin + size).min(n)).map(|i| order.at(i) as u32).collect();
        let batch = self.data.gather(&indexes, epoch, self.config.train.seed);
        if let (Some(resident), Device::Machine(runtime)) = (&self.resident, &self.device) {
            let cuts = self.data.cuts(self.config.train.seed, epoch);
            let (longest, from_start) = (self.data.max_len(), self.model.hyper.from_start);
            let part = Part { order: &order, begin, sequences: indexes.len(), cuts, longest, from_start };
            resident.gather(&self.device, &**runtime, part, &batch)?;
            if let Some(contexts) = &self.contexts {
                contexts.gather(&self.device, &**runtime, &batch)?;
            }
        }
        Ok(batch)
    }

    /// The rows that ask for a prediction, as a batch of their own: all of them, or the last of each sequence.
    fn asked(&self, batch: &Batch) -> Option<Batch> {
        (self.queries == Queries::Last).then(|| batch.last_rows())
    }

    /// Loss and gradients at the queries; leaves dquery, dcontext and the tables' gradients behind.
    fn loss_and_gradients(&mut self, batch: &Batch, asked: &Batch, negatives: Option<&Negatives>) -> Result<Scalar> {
        let scale = 1.0 / asked.rows().max(1) as f64;
        let mut table = self.model.take_table_grad();
        let scoring = self.model.scoring();
        let context = scoring.context.is_some();
        let value = match (&self.loss, negatives) {
            (Loss::Sampled(row_loss), Some(negatives)) => {
                let w = negatives.wrong_contexts();
                let wrong = self.data.context().filter(|_| w > 0).map(|encoder| self.wrong_contexts(encoder, negatives));
                let wrong = wrong.transpose()?;
                if let Some(touched) = &mut self.touched {
                    let drawn =
                        negatives.resident.as_ref().map_or(List::Here((&negatives.ids).into()), |there| List::There(&there.ids));
                    touched.collect(
                        &self.device,
                        &[List::Here((&batch.items).into()), List::Here((&asked.targets).into()), drawn],
                    )?;
                }
                let grads = Gradients {
                    query: &mut self.dquery,
                    context: context.then_some(&mut self.dcontext),
                    wrong: (w > 0).then_some(&mut self.dwrong),
                    table: &mut table,
                };
                let g = wrong.as_ref().map(|(g, _)| g);
                let value = sampled_loss::forward_backward(
                    &self.device,
                    grads,
                    &scoring,
                    &asked.targets,
                    negatives,
                    g,
                    &**row_loss,
                    scale,
                )?;
                if let Some((_, rows)) = &wrong {
                    self.model.other_backward(&self.dwrong, rows)?;
                }
                value
            }
            _ => {
                let grads = Gradients {
                    query: &mut self.dquery,
                    context: context.then_some(&mut self.dcontext),
                    wrong: None,
                    table: &mut table,
                };
                match self.loss {
                    Loss::WholeData { unseen } => {
                        whole_data::forward_backward(&self.device, grads, &scoring, &asked.targets, unseen, scale)?
                    }
                    _ => full_softmax::forward_backward(&self.device, grads, &scoring, &asked.targets, scale)?,
                }
            }
        };
        self.model.give_table_grad(table);
        Ok(value)
    }

    /// g of the wrong contexts, and what they are made of.
    fn wrong_contexts(&self, encoder: &ContextEncoder, negatives: &Negatives) -> Result<(Buffer, Rows)> {
        let events = &negatives.wrong_context;
        if let (Some(all), Device::Machine(runtime)) = (&self.contexts, &self.device) {
            let numeric = all.of(&self.device, &**runtime, &upload(&**runtime, events)?, negatives.wrong_contexts(), 0)?;
            return self.model.other_context(Other::There(Arc::new(numeric)), events.len());
        }
        self.model.other_context(Other::Here(&encoder.rows(self.data.data(), events)), events.len())
    }

    /// What the negatives of a step are like; draws nothing that training uses.
    fn diagnose(&self, asked: &Batch, negatives: &Negatives, step: u64) -> Result<Diagnosis> {
        let (log, split) = (self.data.data(), self.data.split());
        let future = |user: u32| {
            let (from, to) = (split.train_end[user as usize] as usize, log.offsets()[user as usize + 1] as usize);
            &log.event_items()[from..to]
        };
        let mut negatives = negatives.clone();
        negatives.fetch(&self.device)?;
        let (epoch_index, batch_index) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let moment = Moment { epoch: step as f64 / self.steps_per_epoch() as f64, epoch_index, batch_index };
        let rejected = self.sampler.as_ref().map_or(Ok(0.0), |sampler| sampler.rejected(asked, moment))?;
        let (device, batch, scoring, seed) = (&self.device, asked, &self.model.scoring(), self.config.train.seed);
        Evidence { device, batch, scoring, negatives: &negatives, deciles: &self.deciles, rejected, future, seed, step }
            .diagnose()
    }

    /// Step number `step`, with negatives drawn anew or those of an earlier call for the same step, to its end; gives what was
    /// used.
    pub fn step_on(&mut self, step: u64, negatives: Option<Negatives>) -> Result<(StepReport, Option<Negatives>)> {
        let (enqueued, negatives) = self.enqueue(step, negatives)?;
        self.ends()?;
        Ok((enqueued.report(&self.device)?, negatives))
    }

    /// Tells a machine that a step's calls are complete, and that what they made for the moment is let go of.
    fn ends(&self) -> Result<()> {
        if let Device::Machine(runtime) = &self.device { runtime.step() } else { Ok(()) }
    }

    /// The same without waiting for a machine.
    fn enqueue(&mut self, step: u64, negatives: Option<Negatives>) -> Result<(Enqueued, Option<Negatives>)> {
        let (started, mut lap) = (Instant::now(), Lap::new(&self.device)?);
        let per_epoch = self.steps_per_epoch();
        let (epoch, within) = (step / per_epoch, step % per_epoch);
        let batch = self.gather(epoch, within)?;
        lap.ends(|stages| &mut stages.gather)?;

        let masks = Masks::training(self.config.model.dropout, self.config.train.seed, step);
        self.model.forward(&batch, self.queries, &masks)?;
        lap.ends(|stages| &mut stages.forward)?;

        let last = self.asked(&batch);
        let asked = last.as_ref().unwrap_or(&batch);
        let moment = Moment { epoch: step as f64 / per_epoch as f64, epoch_index: epoch, batch_index: within };
        let scoring = self.model.scoring();
        let mut told = Ok(());
        let mut tell = || told = lap.ends(|stages| &mut stages.propose);
        let draw = |sampler: &Sampler| sampler.draw_telling(&self.device, asked, Some(&scoring), moment, &mut tell);
        let negatives = negatives.map_or_else(|| self.sampler.as_ref().map(draw).transpose(), |given| Ok(Some(given)))?;
        told?;
        lap.ends(|stages| &mut stages.sample)?;
        if let Some(negatives) = negatives.as_ref().filter(|_| step + 1 == self.total || (step + 1).is_multiple_of(per_epoch)) {
            self.diagnosis = Some(self.diagnose(asked, negatives, step)?);
            lap.skips()?;
        }

        let per_row = self.sampler.as_ref().map_or(0, |sampler| sampler.per_row(moment.epoch));
        if self.per_row != per_row {
            (self.loss, self.per_row) =
                (loss::build(&self.config.loss, self.data.data().items(), per_row, scoring.kind)?, per_row);
        }
        let loss = self.loss_and_gradients(&batch, asked, negatives.as_ref())?;
        lap.ends(|stages| &mut stages.loss)?;

        let context = self.model.hyper.context.then_some(&self.dcontext);
        self.model.backward(&batch, &mut self.dquery, context, &masks)?;
        lap.ends(|stages| &mut stages.backward)?;

        let lr = self.schedule.at(step + 1);
        let tables = [self.model.input_param(), self.model.output_param()];
        let rows_of = |i: usize| self.touched.as_ref().filter(|_| tables.contains(&i)).map(Touched::rows);
        let touched: Vec<_> = (0..self.model.params().len()).map(rows_of).collect();
        let grad_norm = self.optimizer.step(&self.device, self.model.params_mut(), &touched, step + 1, lr)?;
        self.done = step + 1;
        self.model.refresh_tables()?;
        lap.ends(|stages| &mut stages.update)?;
        let (rows, sequences) = (asked.rows() as u64, batch.sequences() as u64);
        let seconds = started.elapsed().as_secs_f64();
        let report = StepReport { rows, sequences, seconds, ..StepReport::default() };
        Ok((Enqueued { loss, grad_norm, lap, report }, negatives))
    }
}

/// Hands the training sequences to a machine.
fn resident(data: &TrainingSet, device: &Device, sampler: Option<&Sampler>) -> Result<Option<Resident>> {
    let Device::Machine(runtime) = device else { return Ok(None) };
    let ((starts, counts), clusters, (seen_starts, seen)) = (data.extents(), data.clusters_of_events(), data.seen());
    let of = Sequences {
        log: data.data().event_items(),
        clusters: &clusters,
        starts: &starts,
        counts: &counts,
        users: data.sequences(),
        seen_starts,
        seen: if sampler.is_some_and(Sampler::excludes_history) { seen } else { &[] },
    };
    Resident::new(&**runtime, &of).map(Some)
}

/// The contexts of all events, encoded and handed to a machine, where they are numbers alone and not too many.
fn all_contexts(data: &TrainingSet, device: &Device, wanted: bool) -> Result<Option<contexts::All>> {
    let (Device::Machine(runtime), Some(encoder), true) = (device, data.context(), wanted) else { return Ok(None) };
    let (width, events) = (encoder.numeric_width(), data.data().events());
    if contexts::resident_bytes(events, width, encoder.category_sizes().len()) == 0 {
        return Ok(None);
    }
    let rows = encoder.rows(data.data(), &(0..events as u64).collect::<Vec<_>>());
    contexts::All::new(&**runtime, &rows.numeric, width).map(Some)
}

/// A step that a machine may still be at.
struct Enqueued {
    loss: Scalar,
    grad_norm: Scalar,
    lap: Lap,
    /// Without these.
    report: StepReport,
}

impl Enqueued {
    /// Waits, which is part of the step's seconds.
    fn report(self, device: &Device) -> Result<StepReport> {
        let waiting = Instant::now();
        let (loss, grad_norm) = (self.loss.read(device)?, self.grad_norm.read(device)?);
        let stages = self.lap.done()?;
        let seconds = self.report.seconds + waiting.elapsed().as_secs_f64();
        Ok(StepReport { loss, grad_norm, stages, seconds, ..self.report })
    }
}

/// Where a stage's seconds are written.
type Of = fn(&mut Stages) -> &mut f64;

/// Times the stages of a step.
///
/// On the plain path by the host's clock. On a machine a stage is as long as the machine took from the mark at the border before
/// it to its own, whatever the host did meanwhile. Both gather, and the host or the machine proposes: whichever took longer counts,
/// since what the host does while the machine is still at the step before costs the machine nothing and the host all the same.
struct Lap {
    machine: Option<Arc<dyn Runtime>>,
    since: Instant,
    stages: Stages,
    /// On a machine: every border in order, and the stage that ends there; none for what belongs to no stage.
    borders: Vec<(Option<Of>, Mark)>,
}

impl Lap {
    fn new(device: &Device) -> Result<Lap> {
        let machine = match device {
            Device::Machine(runtime) => Some(runtime.clone()),
            Device::Host(_) => None,
        };
        let mut lap = Lap { machine, since: Instant::now(), stages: Stages::default(), borders: vec![] };
        lap.skips()?;
        Ok(lap)
    }
    /// A stage ends here.
    fn ends(&mut self, of: Of) -> Result<()> {
        *of(&mut self.stages) = self.since.elapsed().as_secs_f64();
        self.border(Some(of))
    }
    /// What was done since the last border belongs to no stage.
    fn skips(&mut self) -> Result<()> {
        self.border(None)
    }
    fn border(&mut self, of: Option<Of>) -> Result<()> {
        if let Some(machine) = &self.machine {
            self.borders.push((of, machine.mark()?));
        }
        self.since = Instant::now();
        Ok(())
    }
    /// The seconds of all stages, once a machine has come to the last one.
    fn done(self) -> Result<Stages> {
        let (host, mut stages) = (self.stages, self.stages);
        if let Some(machine) = &self.machine {
            for pair in self.borders.windows(2) {
                if let Some(of) = pair[1].0 {
                    *of(&mut stages) = machine.elapsed(&pair[0].1, &pair[1].1)?;
                }
            }
        }
        stages.gather = stages.gather.max(host.gather);
        stages.propose = stages.propose.max(host.propose);
        // Its last border is that of the stages behind the first.
        stages.sample += stages.propose;
        Ok(stages)
    }
}

impl Training for Trainer {
    fn steps_per_epoch(&self) -> u64 {
        (self.data.len() as u64).div_ceil(u64::from(self.config.train.batch_size))
    }

    fn step(&mut self, step: u64) -> Result<()> {
        let (enqueued, _) = self.enqueue(step, None)?;
        self.ends()?;
        self.pending.push(enqueued);
        Ok(())
    }

    fn reports(&mut self, wait: bool) -> Result<Vec<StepReport>> {
        let known = |step: &Enqueued| step.loss.is_known() && step.grad_norm.is_known();
        match wait || self.pending.len() >= AHEAD || self.pending.iter().all(known) {
            true => std::mem::take(&mut self.pending).into_iter().map(|step| step.report(&self.device)).collect(),
            false => Ok(Vec::new()),
        }
    }

    fn sampler_facts(&mut self) -> Option<serde_json::Value> {
        serde_json::to_value(self.diagnosis.take()?).ok()
    }

    fn tensors(&self) -> Result<Vec<Tensor>> {
        let mut tensors = Vec::new();
        for Param { name, shape, value, .. } in self.model.params() {
            let values = value.to_f64(&self.device)?.iter().map(|&x| x as f32).collect();
            tensors.push(Tensor { name: format!("model.{name}"), shape: shape.clone(), values });
        }
        for State { name, shape, values } in self.optimizer.state(&self.device, self.model.params(), self.done)? {
            tensors.push(Tensor { name: format!("optim.{name}"), shape, values });
        }
        for sampling::State { name, shape, values } in self.sampler.iter().flat_map(Sampler::state) {
            tensors.push(Tensor { name: format!("optim.sampler.{name}"), shape, values });
        }
        Ok(tensors)
    }

    fn restore(&mut self, step: u64, tensors: &[Tensor]) -> Result<()> {
        checkpoint::restore_params(self.model.params_mut(), &self.device, tensors)?;
        self.model.refresh_tables()?;
        let find = |name: &str| tensors.iter().find(|t| t.name.strip_prefix("optim.") == Some(name)).map(|t| &t.values[..]);
        self.optimizer.restore(&self.device, self.model.params(), step, find)?;
        if let Some(sampler) = &self.sampler {
            sampler.restore(&|name| find(&format!("sampler.{name}")))?;
        }
        self.done = step;
        Ok(())
    }
}

/// Steps of the whole run: what `train.epochs` and `train.steps` allow. Schedules end here.
pub fn total_steps(train: &config::Train, sequences: usize) -> u64 {
    let all = (sequences as u64).div_ceil(u64::from(train.batch_size.max(1))) * u64::from(train.epochs);
    if train.steps > 0 { all.min(train.steps) } else { all }
}

/// What the log tells a sampler, without its time clusters.
pub(super) fn knowledge(data: &TrainingSet) -> Knowledge<'_> {
    let log = data.data();
    Knowledge {
        train_counts: &data.split().train_items,
        event_items: log.event_items(),
        offsets: log.offsets(),
        train_end: &data.split().train_end,
        clusters: None,
        attributes: log.attributes().map(|a| Attributes { offsets: a.offsets, codes: a.codes }),
        graph: log.graph().map(|g| Attributes { offsets: g.offsets, codes: g.codes }),
        explicit: log.explicit().map(|e| Explicit { offsets: e.offsets, items: e.items, times: log.times().zip(e.times) }),
    }
}

/// What the data brings to the model.
pub fn sizes(data: &TrainingSet) -> Sizes {
    let attributes = data.data().attributes().map(|a| AttributeLists::new(a.offsets, a.codes, a.width()));
    let (numeric, categories) = data.context().map_or((0, vec![]), |c| (c.numeric_width(), c.category_sizes().to_vec()));
    Sizes { items: data.data().items(), numeric, categories, attributes }
}

#[cfg(test)]
mod tests;
