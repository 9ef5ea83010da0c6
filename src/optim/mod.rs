//! Optimizers: from gradients to new values. A new one is a file and a line in [`KINDS`].
//!
//! [`Optimizer::step`] takes the global norm, scales every gradient by the clipping factor, updates and clears, reading each
//! gradient twice in all. Tables may be updated lazily: only the rows the step touched, see `adamw.rs` for what that means.

mod adamw;
mod clip;
mod schedule;

pub use schedule::Schedule;

use crate::config;
use crate::device::{Buffer, Device, upload};
use crate::dispatch;
use crate::error::{Code, Error, Result, did_you_mean};
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::{Cost, Operation};
use crate::ops::param::{Param, Role};
use crate::ops::touched::Rows;
use adamw::{AdamW, Last, Moments};

/// What an optimizer says about itself.
pub struct Declared {
    pub name: &'static str,
    pub help: &'static str,
    pub source: &'static str,
}

/// The registry.
pub static KINDS: &[Declared] = &[Declared {
    name: "adamw",
    help: "Adam with bias correction and decoupled weight decay; tables dense or lazily by row",
    source: "Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019",
}];

/// Tables with more elements than this are updated lazily under `tables = "auto"`.
const LAZY_ABOVE: usize = 1 << 22;

/// The state of an optimizer: as many moments as parameters, in their order.
pub struct Optimizer {
    rule: AdamW,
    decay_tables: bool,
    weight_decay: f64,
    /// Largest global norm; 0: none.
    clip: f64,
    moments: Vec<Moments>,
}

/// One array of the optimizer's state, for a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The parameter's name and what the array holds: `items.first`, `items.second`, `items.age`.
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Optimizer {
    /// Zeroed state for `params`. C0202: a value of `optim` out of range.
    pub fn new(device: &Device, config: &config::Optim, params: &[Param]) -> Result<Optimizer> {
        let names: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
        choice("kind", &config.kind, &names)?;
        let tables = choice("tables", &config.tables, &["auto", "dense", "lazy"])?;
        let range = |key: &str, value: f64, ok: bool, range: &str| match ok && value.is_finite() {
            true => Ok(()),
            false => {
                Err(Error::new(Code::C0202, format!("`optim.{key} = {value}` is out of range")).help(format!("use {range}")))
            }
        };
        range("beta1", config.beta1, (0.0..1.0).contains(&config.beta1), "0 or more, below 1; 0.9 is usual")?;
        range("beta2", config.beta2, (0.0..1.0).contains(&config.beta2), "0 or more, below 1; 0.98 is usual")?;
        range("eps", config.eps, config.eps > 0.0, "more than 0; 1e-8 is usual")?;
        range("weight_decay", config.weight_decay, config.weight_decay >= 0.0, "0 or more; 0.01 is usual")?;
        range("clip", config.clip, config.clip >= 0.0, "0 for no clipping, or the largest norm; 1 is usual")?;
        let moments = params.iter().map(|p| {
            let lazy = p.role == Role::Table && p.shape.len() > 1 && Optimizer::lazily(tables, p.len());
            Moments::new(device, p.len(), lazy.then(|| p.shape[0]))
        });
        Ok(Optimizer {
            rule: AdamW { beta1: config.beta1, beta2: config.beta2, eps: config.eps },
            decay_tables: config.decay_tables,
            weight_decay: config.weight_decay,
            clip: config.clip,
            moments: moments.collect::<Result<_>>()?,
        })
    }

    /// Whether a table of so many elements is updated by row under `tables`.
    fn lazily(tables: &str, elements: usize) -> bool {
        tables == "lazy" || tables == "auto" && elements > LAZY_ABOVE
    }
    /// Bytes of the state on the plain path for a parameter of `shape`; `table`: whether its rows are addressed by id.
    pub fn bytes(config: &config::Optim, shape: &[usize], table: bool) -> u64 {
        let elements: usize = shape.iter().product();
        let lazy = table && shape.len() > 1 && Optimizer::lazily(&config.tables, elements);
        8 * elements as u64 + if lazy { 8 * shape[0] as u64 } else { 0 }
    }

    /// Of a step that updates a parameter of `shape`, `touched` rows of it where it is lazy and those are known: the norm reads
    /// the gradient, the update reads and writes value, gradient and both moments.
    pub fn cost(config: &config::Optim, shape: &[usize], table: bool, touched: Option<usize>) -> Cost {
        let elements: usize = shape.iter().product();
        let lazy = table && shape.len() > 1 && Optimizer::lazily(&config.tables, elements);
        let numbers = match lazy {
            false => 9 * elements,
            true => {
                let rows = touched.unwrap_or(shape[0]).min(shape[0]);
                // The id of a row, and the 8 bytes of the step that touched it last.
                rows * (9 * elements / shape[0].max(1) + 5)
            }
        };
        Cost::moved(numbers).of(Operation::Update, 4 * numbers as u64)
    }

    /// Whether parameter `i` is updated by row, so that [`Optimizer::step`] wants to know its touched rows.
    pub fn is_lazy(&self, i: usize) -> bool {
        self.moments.get(i).is_some_and(|m| m.last.is_some())
    }

    /// One update with learning rate `lr`; `step` counts from 1. Gradients are zero afterwards. Returns their global norm
    /// before clipping.
    ///
    /// `touched[i]`, for a lazy parameter, are the rows whose gradient may differ from zero, ascending and distinct; `None`
    /// or a missing entry means all rows. Other parameters ignore it.
    ///
    /// T0701: a gradient is not finite; nothing has been changed then.
    pub fn step(&mut self, device: &Device, params: &mut [Param], touched: &[Option<Rows>], step: u64, lr: f64) -> Result<f64> {
        if params.len() != self.moments.len() {
            return Err(Error::internal("optimizer: other parameters than at the start"));
        }
        let rows_of = |i: usize| touched.get(i).copied().flatten().filter(|_| self.is_lazy(i));
        let given: Vec<Option<Rows>> = (0..params.len()).map(rows_of).collect();
        for (i, (param, moments)) in params.iter().zip(&self.moments).enumerate() {
            check(param, moments, given[i])?;
        }
        let copied = given.iter().map(|rows| match (device, rows) {
            (Device::Machine(runtime), Some(Rows::Here(rows))) => upload(&**runtime, rows).map(Some),
            _ => Ok(None),
        });
        let copied: Vec<Option<Buffer>> = copied.collect::<Result<_>>()?;
        let there = |(rows, copied)| match (rows, copied) {
            (Some(rows), Some(copied)) => Some(Rows::There(copied, Rows::len(&rows))),
            (rows, _) => rows,
        };
        let rows: Vec<Option<Rows>> = given.into_iter().zip(copied.iter().map(Option::as_ref)).map(there).collect();
        let norm = clip::square(device, params, &rows)?.sqrt();
        if !norm.is_finite() {
            return Err(Error::new(Code::T0701, format!("the gradient's norm is {norm} in step {step}"))
                .help("a lower learning rate, a longer warm-up or clipping (`optim.clip = 1`) usually helps"));
        }
        let scale = clip::factor(norm, self.clip);
        for (i, (param, moments)) in params.iter_mut().zip(&mut self.moments).enumerate() {
            let decays = param.role == Role::Matrix || param.role == Role::Table && self.decay_tables;
            let now = adamw::Now { step, lr, scale, decay: if decays { self.weight_decay } else { 0.0 } };
            let (here, there) = match rows[i] {
                Some(Rows::Here(rows)) => (Some(rows), None),
                Some(Rows::There(rows, count)) => (None, Some((rows, count))),
                None => (None, None),
            };
            dispatch!(device, T => self.rule.update::<T>(param, moments, here, now)?, runtime => {
                self.rule.launch(&**runtime, param, moments, there, now)?;
            });
        }
        Ok(norm)
    }

    /// The state after `step` steps, in the order of the parameters.
    pub fn state(&self, device: &Device, params: &[Param], step: u64) -> Result<Vec<State>> {
        let mut state = Vec::new();
        for (param, moments) in params.iter().zip(&self.moments) {
            for (what, buffer) in [("first", &moments.first), ("second", &moments.second)] {
                let values = buffer.to_f64(device)?.iter().map(|&x| x as f32).collect();
                state.push(State { name: format!("{}.{what}", param.name), shape: param.shape.clone(), values });
            }
            if let Some(last) = &moments.last {
                let values = last.ages(device, step)?;
                state.push(State { name: format!("{}.age", param.name), shape: vec![values.len()], values });
            }
        }
        Ok(state)
    }

    /// Puts back what [`Optimizer::state`] returned after `step` steps; `find` looks an array up by name.
    /// M0402: an array is missing or has another length.
    pub fn restore<'a>(
        &mut self,
        device: &Device,
        params: &[Param],
        step: u64,
        find: impl Fn(&str) -> Option<&'a [f32]>,
    ) -> Result<()> {
        let array = |name: String, n: usize| match find(&name) {
            Some(values) if values.len() == n => Ok(values),
            Some(values) => {
                Err(Error::new(Code::M0402, format!("optimizer state `{name}` has {} values, not {n}", values.len())))
            }
            None => Err(Error::new(Code::M0402, format!("optimizer state `{name}` is missing"))),
        };
        for (param, moments) in params.iter().zip(&mut self.moments) {
            for (what, buffer) in [("first", &mut moments.first), ("second", &mut moments.second)] {
                let values = array(format!("{}.{what}", param.name), buffer.len())?;
                *buffer = device.reals(&values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>())?;
            }
            if let Some(last) = &mut moments.last {
                *last = Last::from_ages(device, array(format!("{}.age", param.name), param.shape[0])?, step)?;
            }
        }
        Ok(())
    }
}

fn check(param: &Param, moments: &Moments, rows: Option<Rows>) -> Result<()> {
    let lengths = [param.value.len(), param.grad.len(), moments.first.len()];
    let rows_fit = match rows {
        Some(Rows::Here(rows)) => {
            rows.windows(2).all(|w| w[0] < w[1]) && rows.last().is_none_or(|&r| (r as usize) < param.shape[0])
        }
        Some(Rows::There(_, count)) => count <= param.shape[0] && param.value.memory().is_ok(),
        None => true,
    };
    match lengths == [param.len(); 3] && rows_fit {
        true => Ok(()),
        false => Err(Error::internal(format!("optimizer: `{}` does not fit its shape or its touched rows", param.name))),
    }
}

/// One of `names`, or C0202.
fn choice<'a>(key: &str, value: &'a str, names: &[&str]) -> Result<&'a str> {
    match names.contains(&value) {
        true => Ok(value),
        false => {
            Err(Error::new(Code::C0202, format!("`optim.{key} = \"{value}\"` is not known")).help(did_you_mean(value, names)))
        }
    }
}

/// The cases of the optimizer's operations: some steps of a dense matrix, a dense vector and a lazy table.
pub fn cases() -> Vec<Case> {
    let case = |(rows, width, clip): (usize, usize, f64)| {
        Case::new("optimizer", format!("table ({rows},{width}), clip {clip}"), move |device| {
            let config =
                config::Optim { weight_decay: 0.1, decay_tables: true, tables: "lazy".into(), clip, ..config::Optim::default() };
            let param = |(lane, name, role, shape): (u8, &str, Role, Vec<usize>)| {
                let n = shape.iter().product();
                let (value, grad) = (device.reals(&case::noise(lane, n))?, device.zeros(n)?);
                Ok(Param { name: name.into(), shape, role, value, grad })
            };
            let shapes = [
                (0, "table", Role::Table, vec![rows, width]),
                (1, "matrix", Role::Matrix, vec![127, 131]),
                (2, "vector", Role::Vector, vec![1]),
            ];
            let mut params = shapes.into_iter().map(param).collect::<Result<Vec<Param>>>()?;
            let mut optimizer = Optimizer::new(device, &config, &params)?;
            let mut norms = Vec::new();
            // Every row, a third, none, all as "unknown": rows sleep from one to three steps and are caught up.
            for (step, touched) in [Some(1), Some(3), Some(usize::MAX), Some(2), None, Some(5)].into_iter().enumerate() {
                let list: Option<Vec<u32>> =
                    touched.map(|by| (0..rows as u32).step_by(by).skip(usize::from(by > rows)).collect());
                let noise = case::noise(10 + step as u8, rows * width);
                let mut grad = vec![0.0; rows * width];
                let meets = |row: usize| list.as_ref().is_none_or(|list| list.contains(&(row as u32)));
                for row in (0..rows).filter(|&row| meets(row)) {
                    grad[row * width..][..width].copy_from_slice(&noise[row * width..][..width]);
                }
                params[0].grad = device.reals(&grad)?;
                params[1].grad = device.reals(&case::noise(20 + step as u8, 127 * 131))?;
                params[2].grad = device.reals(&case::noise(30 + step as u8, 1))?;
                norms.push(optimizer.step(device, &mut params, &[list.as_deref().map(Rows::Here)], step as u64 + 1, 0.01)?);
            }
            let reals = |name: &'static str, values: Vec<f64>| Output { name, values: case::Values::Reals(values) };
            let state = optimizer.state(device, &params, 6)?;
            let mut outputs = vec![reals("norms", norms)];
            for (name, i) in [("table", 0), ("matrix", 1), ("vector", 2)] {
                outputs.push(Output::reals(name, device, &params[i].value)?);
                outputs.push(Output::reals("cleared", device, &params[i].grad)?);
            }
            let names = ["first", "second", "age", "first", "second", "first", "second"];
            for (name, state) in names.into_iter().zip(state) {
                outputs.push(reals(name, state.values.iter().map(|&x| f64::from(x)).collect()));
            }
            Ok(outputs)
        })
    };
    [(1, 1, 0.0), (37, 9, 1.0), (130, 64, 0.0)].map(case).into()
}

#[cfg(test)]
mod tests;
