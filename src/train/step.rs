//! One training step, top to bottom.

use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::data::batch::Batch;
use crate::data::order::Order;
use crate::data::training::TrainingSet;
use crate::device::{Buffer, Device};
use crate::error::{Code, Error, Result};
use crate::ids::NONE;
use crate::loss::{self, Loss};
use crate::model::{Masks, Model, Queries, Sizes};
use crate::ops::attributes::AttributeLists;
use crate::ops::embedding::{self, Into};
use crate::ops::negatives::Negatives;
use crate::ops::param::Param;
use crate::ops::sampled_loss::{self, Gradients};
use crate::ops::score::Scoring;
use crate::ops::full_softmax;
use crate::optim::Optimizer;
use crate::sampling::{Clusters, Knowledge, Moment, Sampler};
use crate::train::checkpoint::Tensor;
use crate::train::fit::{StepReport, Training};

/// Tables of at least this many elements are updated lazily under `optim.tables = "auto"`.
const LAZY_ELEMENTS: usize = 1 << 22;

/// A model with everything that trains it.
pub struct Trainer {
    config: Config,
    data: Arc<TrainingSet>,
    device: Device,
    pub model: Model,
    sampler: Option<Sampler>,
    loss: Loss,
    optimizer: Optimizer,
    queries: Queries,
    /// Present when only the table rows a step uses are touched.
    lazy: Option<Touched>,
    dquery: Buffer,
    dcontext: Buffer,
    dwrong: Buffer,
}

/// The table rows a step uses: their ids and, for each id, its place among them.
struct Touched {
    /// Ascending.
    ids: Vec<u32>,
    /// (V) meaningful for `ids` only.
    place: Vec<u32>,
    /// (V) the last mark of each id.
    mark: Vec<u32>,
    round: u32,
    /// (n,D) the scoring table's rows.
    rows: Buffer,
}

impl Touched {
    fn new(items: usize, device: &Device) -> Touched {
        Touched { ids: Vec::new(), place: vec![0; items], mark: vec![0; items], round: 0, rows: Buffer::empty(device) }
    }
    fn collect<'a>(&mut self, lists: impl IntoIterator<Item = &'a [u32]>) {
        self.round += 1;
        self.ids.clear();
        for &id in lists.into_iter().flatten() {
            if id != NONE && self.mark[id as usize] != self.round {
                self.mark[id as usize] = self.round;
                self.ids.push(id);
            }
        }
        self.ids.sort_unstable();
        for (at, &id) in self.ids.iter().enumerate() {
            self.place[id as usize] = at as u32;
        }
    }
    fn places(&self, ids: &[u32]) -> Vec<u32> {
        ids.iter().map(|&id| if id == NONE { NONE } else { self.place[id as usize] }).collect()
    }
}

impl Trainer {
    /// Errors of the configuration and of what the log lacks for it are found here, before any training.
    pub fn new(config: &Config, data: Arc<TrainingSet>, device: &Device) -> Result<Trainer> {
        let seed = config.train.seed;
        let log = data.data();
        let model = Model::new(&config.model, sizes(&data), device, seed)?;
        let counts = data.split().train_items(log);
        let events = data.clusters().map(|c| c.events(log, data.split()));
        let knowledge = Knowledge {
            train_counts: &counts,
            event_items: log.event_items(),
            offsets: log.offsets(),
            train_end: &data.split().train_end,
            clusters: events.as_ref().map(|e| Clusters { offsets: &e.offsets, events: &e.events }),
        };
        let full = loss::is_full(&config.loss)?;
        let sampler = (!full).then(|| Sampler::new(&config.sampler, &knowledge, seed)).transpose()?;
        if let Some(sampler) = sampler.as_ref().filter(|s| s.wrong_contexts() > 0 && !model.hyper.context) {
            return Err(Error::new(Code::D0303, format!("{} pairs items with wrong contexts, and the model sees none", sampler.describe()))
                .help("use `--set model.kind=cans` or `--set model.context=yes` with a log that has times"));
        }
        let loss = loss::build(&config.loss, log.items(), sampler.as_ref().map_or(0, |s| s.negatives() + s.wrong_contexts()))?;
        let queries = match config.train.targets.as_str() {
            "all" if config.model.causal => Queries::All,
            "all" => {
                return Err(Error::new(Code::C0205, "an encoder that sees the future cannot train at every position")
                    .help("use `--set train.targets=last`, or `--set model.causal=true`"));
            }
            "last" => Queries::Last,
            other => return Err(Error::new(Code::C0202, format!("train.targets = \"{other}\"")).help("use `all` or `last`")),
        };
        let big = log.items() * model.hyper.dim >= LAZY_ELEMENTS;
        let possible = !full && model.rows_are_independent();
        let lazy = match config.optim.tables.as_str() {
            "auto" => big && possible,
            "dense" => false,
            "lazy" if possible => true,
            "lazy" => {
                return Err(Error::new(Code::C0205, "every row of the item table changes in every step here, so none can be lazy")
                    .note("full softmax and item attributes reach all rows")
                    .help("use `--set optim.tables=dense`"));
            }
            other => return Err(Error::new(Code::C0202, format!("optim.tables = \"{other}\"")).help("use `auto`, `dense` or `lazy`")),
        };
        let lazy_params: &[usize] = &[model.input_param(), model.output_param()];
        let optimizer = Optimizer::new(&config.optim, model.params(), if lazy { lazy_params } else { &[] })?;
        let empty = || Buffer::empty(device);
        let mut trainer = Trainer {
            config: config.clone(),
            device: device.clone(),
            sampler,
            loss,
            optimizer,
            queries,
            lazy: lazy.then(|| Touched::new(log.items(), device)),
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
    pub fn data(&self) -> &Arc<TrainingSet> {
        &self.data
    }

    /// The sequences of step `step`: a slice of the epoch's order.
    fn gather(&self, epoch: u64, within: u64) -> Batch {
        let size = u64::from(self.config.train.batch_size);
        let n = self.data.len() as u64;
        let order = Order::new(self.config.train.seed, epoch, n);
        let indexes: Vec<u32> = (within * size..((within + 1) * size).min(n)).map(|i| order.at(i) as u32).collect();
        self.data.gather(&indexes, epoch, self.config.train.seed)
    }

    /// The rows that ask for a prediction, as a batch of their own: all of them, or the last of each sequence.
    fn asked(&self, batch: &Batch) -> Option<Batch> {
        (self.queries == Queries::Last).then(|| batch.last_rows())
    }

    /// Loss and gradients at the queries; leaves dquery, dcontext and the tables' gradients behind.
    fn loss_and_gradients(&mut self, batch: &Batch, asked: &Batch, negatives: Option<&Negatives>) -> Result<f64> {
        let scale = 1.0 / asked.rows().max(1) as f64;
        let mut table = self.model.take_table_grad();
        let scoring = self.model.scoring();
        let context = scoring.context.is_some();
        let value = match (&self.loss, negatives) {
            (Loss::Sampled(row_loss), Some(negatives)) => {
                let w = negatives.wrong_contexts();
                let wrong = (w > 0).then(|| {
                    let events = self.data.context_of(&negatives.wrong_context);
                    self.model.other_context(&events, negatives.wrong_context.len())
                });
                let wrong = wrong.transpose()?;
                let mut compact = None;
                if let Some(touched) = &mut self.lazy {
                    touched.collect([&batch.items[..], &asked.targets, &negatives.ids]);
                    embedding::forward(&self.device, &mut touched.rows, Into::Set, scoring.table, &touched.ids, scoring.dim, 1.0)?;
                    table.resize(&self.device, touched.ids.len() * scoring.dim)?;
                    table.clear(&self.device)?;
                    let renamed = Negatives { ids: touched.places(&negatives.ids), ..negatives.clone() };
                    compact = Some((touched.places(&asked.targets), renamed));
                }
                let grads = Gradients {
                    query: &mut self.dquery,
                    context: context.then_some(&mut self.dcontext),
                    wrong: (w > 0).then_some(&mut self.dwrong),
                    table: &mut table,
                };
                let g = wrong.as_ref().map(|(g, _)| g);
                let value = match (&compact, &self.lazy) {
                    (Some((targets, negatives)), Some(touched)) => {
                        let scoring = Scoring { items: touched.ids.len(), table: &touched.rows, ..scoring };
                        sampled_loss::forward_backward(&self.device, grads, &scoring, targets, negatives, g, &**row_loss, scale)?
                    }
                    _ => sampled_loss::forward_backward(&self.device, grads, &scoring, &asked.targets, negatives, g, &**row_loss, scale)?,
                };
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
                full_softmax::forward_backward(&self.device, grads, &scoring, &asked.targets, scale)?
            }
        };
        self.model.give_table_grad(table);
        Ok(value)
    }
}

impl Training for Trainer {
    fn steps_per_epoch(&self) -> u64 {
        (self.data.len() as u64).div_ceil(u64::from(self.config.train.batch_size))
    }

    fn step(&mut self, step: u64) -> Result<StepReport> {
        let started = Instant::now();
        let per_epoch = self.steps_per_epoch();
        let (epoch, within) = (step / per_epoch, step % per_epoch);
        let batch = self.gather(epoch, within);
        let masks = Masks::training(self.config.model.dropout, self.config.train.seed, step);
        self.model.forward(&batch, self.queries, &masks)?;

        let drawing = Instant::now();
        let last = self.asked(&batch);
        let asked = last.as_ref().unwrap_or(&batch);
        let moment = Moment { epoch: step as f64 / per_epoch as f64, epoch_index: epoch, batch_index: within };
        let scoring = self.model.scoring();
        let negatives = self.sampler.as_ref().map(|s| s.draw(&self.device, asked, Some(&scoring), moment)).transpose()?;
        let sampling_seconds = drawing.elapsed().as_secs_f64();

        for param in self.model.params_mut() {
            param.grad.clear(&self.device)?;
        }
        let loss = self.loss_and_gradients(&batch, asked, negatives.as_ref())?;
        let input_ids = self.lazy.as_ref().map(|t| t.places(&batch.items));
        let context = self.model.hyper.context.then_some(&self.dcontext);
        self.model.backward(&batch, &mut self.dquery, context, input_ids.as_deref().unwrap_or(&batch.items), &masks)?;

        let touched = self.lazy.as_ref().map(|t| &t.ids[..]);
        let grad_norm = self.optimizer.step(&self.device, self.model.params_mut(), touched, step)?;
        self.model.refresh_tables()?;
        Ok(StepReport {
            loss,
            rows: asked.rows() as u64,
            sequences: batch.sequences() as u64,
            grad_norm,
            sampling_seconds,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn tensors(&self) -> Result<Vec<Tensor>> {
        let mut tensors = Vec::new();
        for Param { name, shape, value, .. } in self.model.params() {
            let values = value.to_f64(&self.device)?.iter().map(|&x| x as f32).collect();
            tensors.push(Tensor { name: format!("model.{name}"), shape: shape.clone(), values });
        }
        tensors.extend(self.optimizer.tensors(&self.device)?);
        Ok(tensors)
    }

    fn restore(&mut self, tensors: &[Tensor]) -> Result<()> {
        todo!()
    }
}

/// What the data brings to the model.
pub fn sizes(data: &TrainingSet) -> Sizes {
    let attributes = data.data().attributes().map(|a| AttributeLists::new(a.offsets, a.codes, a.width()));
    let (numeric, categories) = data.context().map_or((0, vec![]), |c| (c.numeric_width(), c.category_sizes().to_vec()));
    Sizes { items: data.data().items(), numeric, categories, attributes }
}
