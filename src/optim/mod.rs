//! Optimizers: from gradients to new values. A new one is a file and a line in [`KINDS`].
//!
//! [`Optimizer::step`] takes the global norm, scales every gradient by the clipping factor, updates and clears, reading each
//! gradient twice in all. On a machine one launch goes through all parameters that lie side by side and are updated alike, and through
//! the zeros between them. Tables may be updated by row, only those the step touched: by lazy AdamW (`adamw.rs`) or, in a
//! small part of its memory, by row-wise Adagrad (`adagrad.rs`); each file says what happens to the other rows.

mod adagrad;
mod adamw;
mod clip;
mod schedule;

pub use schedule::Schedule;

use std::collections::BTreeMap;

use crate::config;
use crate::device::{Buffer, Device, Scalar, upload};
use crate::dispatch;
use crate::error::{Code, Error, Result, did_you_mean};
use crate::ops::case::{self, Case, Output};
use crate::ops::cost::{Cost, Operation};
use crate::ops::param::{Param, Role};
use crate::ops::touched::{Rows, RowsThere};
use adagrad::Adagrad;
use adamw::{AdamW, Last, Moments};
use clip::Squares;

/// What an optimizer says about itself.
pub struct Declared {
    pub name: &'static str,
    pub help: &'static str,
    pub source: &'static str,
}

/// The registry.
pub static KINDS: &[Declared] = &[Declared {
    name: "adamw",
    help: "Adam with bias correction and decoupled weight decay; tables dense, lazily by row, or by row-wise Adagrad",
    source: "Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019; tables: Duchi, Hazan and Singer, JMLR 2011",
}];

/// The choices of `optim.tables`.
pub const TABLES: &[&str] = &["auto", "dense", "lazy", "adagrad"];

/// Tables with more elements than this are updated lazily under `tables = "auto"`.
const LAZY_ABOVE: usize = 1 << 22;

/// How a parameter is updated.
#[derive(Clone, Copy, PartialEq)]
enum Update {
    Dense,
    /// AdamW by row.
    Lazy,
    Adagrad,
}

impl Update {
    /// Of a parameter of `shape` under `tables`; `table`: whether its rows are addressed by id.
    fn of(tables: &str, shape: &[usize], table: bool) -> Update {
        let elements: usize = shape.iter().product();
        match tables {
            _ if !table || shape.len() < 2 => Update::Dense,
            "adagrad" => Update::Adagrad,
            "lazy" => Update::Lazy,
            "auto" if elements > LAZY_ABOVE => Update::Lazy,
            _ => Update::Dense,
        }
    }
}

/// What the rule of a parameter remembers of it.
enum Memory {
    Moments(Moments),
    /// Row-wise Adagrad's sum of each row (V).
    Sums(Buffer),
}

/// What is particular to one step.
#[derive(Clone, Copy)]
pub struct Now {
    /// Counts from 1.
    pub step: u64,
    pub lr: f64,
    /// Clipping factor of the gradient.
    pub scale: f64,
    pub decay: f64,
}

/// The state of an optimizer: a memory for each parameter, in their order.
pub struct Optimizer {
    rule: AdamW,
    by_row: Adagrad,
    decay_tables: bool,
    weight_decay: f64,
    /// Largest global norm; 0: none.
    clip: f64,
    /// (1) On a machine: what the last gradient was multiplied by; NaN once one was not finite.
    factor: Buffer,
    memories: Vec<Memory>,
}

/// One array of the optimizer's state, for a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The parameter's name and what the array holds: `items.first`, `items.second`, `items.age`, or `items.sum`.
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Optimizer {
    /// Zeroed state for `params`. C0202: a value of `optim` out of range.
    pub fn new(device: &Device, config: &config::Optim, params: &[Param]) -> Result<Optimizer> {
        let names: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
        choice("kind", &config.kind, &names)?;
        let tables = choice("tables", &config.tables, TABLES)?;
        let range = |key: &str, value: f64, ok: bool, range: &str| match ok && value.is_finite() {
            true => Ok(()),
            false => {
                Err(Error::new(Code::C0202, format!("`optim.{key} = {value}` is out of range")).help(format!("use {range}")))
            }
        };
        range("beta1", config.beta1, (0.0..1.0).contains(&config.beta1), "0 or more, below 1; 0.9 is usual")?;
        range("beta2", config.beta2, (0.0..1.0).contains(&config.beta2), "0 or more, below 1; 0.98 is usual")?;
        range("eps", config.eps, config.eps as f32 > 0.0, "more than 0 as f32, which holds 1e-45; 1e-8 is usual")?;
        range("weight_decay", config.weight_decay, config.weight_decay >= 0.0, "0 or more; 0.01 is usual")?;
        range("clip", config.clip, config.clip >= 0.0, "0 for no clipping, or the largest norm; 1 is usual")?;
        let rule_of = |p: &Param| Update::of(tables, &p.shape, p.role == Role::Table);
        let dense: Vec<usize> = by_place(params).into_iter().filter(|&i| rule_of(&params[i]) == Update::Dense).collect();
        let sizes: Vec<usize> = dense.iter().map(|&i| params[i].len()).collect();
        let moments = Buffer::side_by_side(device, &sizes)?.into_iter().zip(Buffer::side_by_side(device, &sizes)?);
        let mut dense: BTreeMap<usize, (Buffer, Buffer)> = dense.into_iter().zip(moments).collect();
        let memory = |(i, p): (usize, &Param)| match (dense.remove(&i), rule_of(p)) {
            (Some((first, second)), _) => Ok(Memory::Moments(Moments { first, second, last: None })),
            (None, Update::Adagrad) => device.zeros(p.shape[0]).map(Memory::Sums),
            (None, _) => Moments::lazy(device, p.len(), p.shape[0]).map(Memory::Moments),
        };
        let memories = params.iter().enumerate().map(memory).collect::<Result<_>>()?;
        Ok(Optimizer {
            rule: AdamW { beta1: config.beta1, beta2: config.beta2, eps: config.eps },
            by_row: Adagrad { eps: config.eps },
            decay_tables: config.decay_tables,
            weight_decay: config.weight_decay,
            clip: config.clip,
            factor: device.reals(&[1.0])?,
            memories,
        })
    }

    /// Bytes of the state on the plain path for a parameter of `shape`; `table`: whether its rows are addressed by id.
    pub fn bytes(config: &config::Optim, shape: &[usize], table: bool) -> u64 {
        let elements: usize = shape.iter().product();
        match Update::of(&config.tables, shape, table) {
            Update::Dense => 8 * elements as u64,
            Update::Lazy => 8 * (elements + shape[0]) as u64,
            Update::Adagrad => 4 * shape[0] as u64,
        }
    }

    /// Bytes of what [`Optimizer::state`] returns of it: a lazy row's step becomes an age, in half the bytes.
    pub fn saved(config: &config::Optim, shape: &[usize], table: bool) -> u64 {
        let ages = if Update::of(&config.tables, shape, table) == Update::Lazy { 4 * shape[0] as u64 } else { 0 };
        Optimizer::bytes(config, shape, table) - ages
    }

    /// Whether a parameter of `shape` is updated by row.
    pub fn goes_by_row(config: &config::Optim, shape: &[usize], table: bool) -> bool {
        Update::of(&config.tables, shape, table) != Update::Dense
    }

    /// Of a step that updates a parameter of `shape`, `touched` rows of it where it is updated by row and those are known: the
    /// norm reads the gradient, the update reads and writes value, gradient and state.
    pub fn cost(config: &config::Optim, shape: &[usize], table: bool, touched: Option<usize>) -> Cost {
        let elements: usize = shape.iter().product();
        let rows = shape.first().copied().unwrap_or(0);
        let (met, width) = (touched.unwrap_or(rows).min(rows), elements / rows.max(1));
        let numbers = match Update::of(&config.tables, shape, table) {
            Update::Dense => 9 * elements,
            // The id of a row, and the 8 bytes of the step that touched it last.
            Update::Lazy => met * (9 * width + 5),
            // The id of a row, and its sum.
            Update::Adagrad => met * (5 * width + 3),
        };
        Cost::moved(numbers).of(Operation::Update, 4 * numbers as u64)
    }

    /// Whether parameter `i` is updated by row, so that [`Optimizer::step`] wants to know its touched rows.
    pub fn is_by_row(&self, i: usize) -> bool {
        self.memories.get(i).is_some_and(|memory| match memory {
            Memory::Moments(moments) => moments.last.is_some(),
            Memory::Sums(_) => true,
        })
    }

    /// One update with learning rate `lr`; `step` counts from 1. Gradients are zero afterwards. Gives their global norm
    /// before clipping.
    ///
    /// `touched[i]`, for a parameter updated by row, are the rows whose gradient may differ from zero, ascending and distinct; `None`
    /// or a missing entry means all rows. Other parameters ignore it.
    ///
    /// T0701: a gradient is not finite; nothing has been changed then. A machine, which nobody waits for here, says so by the norm
    /// alone; it changes nothing in this step and in no later one.
    pub fn step(
        &mut self,
        device: &Device,
        params: &mut [Param],
        touched: &[Option<Rows>],
        step: u64,
        lr: f64,
    ) -> Result<Scalar> {
        if params.len() != self.memories.len() {
            return Err(Error::internal("optimizer: other parameters than at the start"));
        }
        let rows_of = |i: usize| touched.get(i).copied().flatten().filter(|_| self.is_by_row(i));
        let given: Vec<Option<Rows>> = (0..params.len()).map(rows_of).collect();
        for (i, (param, memory)) in params.iter().zip(&self.memories).enumerate() {
            check(param, memory, given[i])?;
        }
        let (decay_tables, weight_decay) = (self.decay_tables, self.weight_decay);
        let now = |param: &Param, scale: f64| {
            let decays = param.role == Role::Matrix || param.role == Role::Table && decay_tables;
            Now { step, lr, scale, decay: if decays { weight_decay } else { 0.0 } }
        };
        dispatch!(device, T => {
            let norm = clip::square::<T>(params, &given)?.sqrt();
            if !norm.is_finite() {
                return Err(Error::new(Code::T0701, format!("the gradient's norm is {norm} in step {step}"))
                    .help("a lower learning rate, a longer warm-up or clipping (`optim.clip = 1`) usually helps"));
            }
            let scale = clip::factor(norm, self.clip);
            for ((param, memory), rows) in params.iter_mut().zip(&mut self.memories).zip(&given) {
                let rows = match rows {
                    Some(Rows::Here(rows)) => Some(*rows),
                    _ => None,
                };
                let now = now(param, scale);
                match memory {
                    Memory::Moments(moments) => self.rule.update::<T>(param, moments, rows, now)?,
                    Memory::Sums(sums) => self.by_row.update::<T>(param, sums, rows, now)?,
                }
            }
            Ok(Scalar::Here(norm))
        }, runtime => {
            let copied = given.iter().map(|rows| match rows {
                Some(Rows::Here(rows)) => Ok(Some((upload(&**runtime, rows)?, upload(&**runtime, &[rows.len() as u32])?))),
                _ => Ok(None),
            });
            let copied: Vec<Option<(Buffer, Buffer)>> = copied.collect::<Result<_>>()?;
            let there = given.iter().zip(&copied).map(|both| match both {
                (Some(Rows::Here(rows)), Some((ids, count))) => Some(RowsThere { ids, count, most: rows.len() }),
                (Some(Rows::There(rows)), _) => Some(*rows),
                _ => None,
            });
            let rows: Vec<Option<RowsThere>> = there.collect();
            let norm = clip::launch(device, &**runtime, &mut self.factor, &squares(params, &rows)?, self.clip)?;
            for (first, mut state) in self.dense(params, |param| now(param, 1.0).decay)? {
                self.rule.launch_dense(&**runtime, &mut state, &self.factor, now(&params[first], 1.0))?;
            }
            for ((param, memory), rows) in params.iter_mut().zip(&mut self.memories).zip(rows) {
                let now = now(param, 1.0);
                match memory {
                    Memory::Moments(Moments { last: None, .. }) => {}
                    Memory::Moments(moments) => self.rule.launch_rows(&**runtime, param, moments, rows, &self.factor, now)?,
                    Memory::Sums(sums) => self.by_row.launch(&**runtime, param, sums, rows, &self.factor, now)?,
                }
            }
            Ok(norm)
        })
    }

    /// x, m, v and gradient of stretches of dense parameters in a machine's memory, each of one `decay`, and the number of its first one.
    fn dense(&self, params: &[Param], decay: impl Fn(&Param) -> f64) -> Result<Vec<(usize, [Buffer; 4])>> {
        let arrays = |i: usize| match &self.memories[i] {
            Memory::Moments(Moments { first, second, last: None }) => Some([&params[i].value, first, second, &params[i].grad]),
            _ => None,
        };
        let alike = |a: usize, b: usize| match (arrays(a), arrays(b)) {
            (Some(x), Some(y)) => x.iter().zip(y).all(|(x, y)| x.goes_on_in(y)) && decay(&params[a]) == decay(&params[b]),
            _ => false,
        };
        let stretches = stretches(&by_place(params), |i| arrays(i).is_some(), alike);
        let ends =
            stretches.into_iter().filter_map(|s| arrays(s.first).zip(arrays(s.last)).map(|(from, to)| (s.first, from, to)));
        ends.map(|(first, from, to)| {
            let [x, m, v, g] = [0, 1, 2, 3].map(|k| from[k].through(to[k]));
            Ok((first, [x?, m?, v?, g?]))
        })
        .collect()
    }

    /// The state after `step` steps, in the order of the parameters.
    pub fn state(&self, device: &Device, params: &[Param], step: u64) -> Result<Vec<State>> {
        let mut state = Vec::new();
        for (param, memory) in params.iter().zip(&self.memories) {
            let mut save = |what: &str, shape: &[usize], values: Vec<f32>| {
                state.push(State { name: format!("{}.{what}", param.name), shape: shape.to_vec(), values });
            };
            let reals = |buffer: &Buffer| Ok::<_, Error>(buffer.to_f64(device)?.iter().map(|&x| x as f32).collect());
            match memory {
                Memory::Moments(moments) => {
                    save("first", &param.shape, reals(&moments.first)?);
                    save("second", &param.shape, reals(&moments.second)?);
                    if let Some(last) = &moments.last {
                        save("age", &param.shape[..1], last.ages(device, step)?);
                    }
                }
                Memory::Sums(sums) => save("sum", &param.shape[..1], reals(sums)?),
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
        self.factor = device.reals(&[1.0])?;
        for (param, memory) in params.iter().zip(&mut self.memories) {
            let reals = |what: &str, buffer: &mut Buffer| {
                let values = array(format!("{}.{what}", param.name), buffer.len())?;
                buffer.set(device, &values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>())
            };
            match memory {
                Memory::Moments(moments) => {
                    reals("first", &mut moments.first)?;
                    reals("second", &mut moments.second)?;
                    if let Some(last) = &mut moments.last {
                        *last = Last::from_ages(device, array(format!("{}.age", param.name), param.shape[0])?, step)?;
                    }
                }
                Memory::Sums(sums) => reals("sum", sums)?,
            }
        }
        Ok(())
    }
}

/// Numbers of the parameters as they lie in a machine's memory.
fn by_place(params: &[Param]) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..params.len()).collect();
    numbers.sort_by_key(|&i| params[i].value.memory().map_or(0, |memory| memory.address));
    numbers
}

/// What the norm is of: gradients side by side, and the given rows of others.
fn squares<'a>(params: &'a [Param], rows: &[Option<RowsThere<'a>>]) -> Result<Vec<Squares<'a>>> {
    let behind = |a: usize, b: usize| params[a].grad.goes_on_in(&params[b].grad);
    let whole = stretches(&by_place(params), |i| rows[i].is_none(), behind);
    let whole = whole.into_iter().map(|s| params[s.first].grad.through(&params[s.last].grad).map(Squares::All));
    let by_row = params.iter().zip(rows).filter_map(|(param, rows)| rows.map(|rows| Ok(Squares::Rows(param, rows))));
    whole.chain(by_row).collect()
}

/// Parameters that one launch goes through, from the first to the last in their memory.
struct Stretch {
    first: usize,
    last: usize,
}

/// The longest stretches of the `wanted` in which each may follow the one before it; in the order of the parameters' numbers, since
/// the norm is summed in it and where a machine places pieces of memory is chance.
fn stretches(by_place: &[usize], wanted: impl Fn(usize) -> bool, follows: impl Fn(usize, usize) -> bool) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for &i in by_place.iter().filter(|&&i| wanted(i)) {
        match all.last_mut().filter(|stretch| follows(stretch.last, i)) {
            Some(stretch) => stretch.last = i,
            None => all.push(Stretch { first: i, last: i }),
        }
    }
    all.sort_by_key(|stretch| stretch.first);
    all
}

fn check(param: &Param, memory: &Memory, rows: Option<Rows>) -> Result<()> {
    let remembered = match memory {
        Memory::Moments(moments) => moments.first.len() == param.len(),
        Memory::Sums(sums) => sums.len() == param.shape[0],
    };
    let lengths = [param.value.len(), param.grad.len()];
    let rows_fit = match rows {
        Some(Rows::Here(rows)) => {
            rows.windows(2).all(|w| w[0] < w[1]) && rows.last().is_none_or(|&r| (r as usize) < param.shape[0])
        }
        Some(Rows::There(rows)) => rows.most <= param.shape[0] && param.value.memory().is_ok(),
        None => true,
    };
    match lengths == [param.len(); 2] && remembered && rows_fit {
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

/// The cases of the optimizer's operations: some steps of a dense matrix, a dense vector and a table by row.
pub fn cases() -> Vec<Case> {
    let case = |(tables, rows, width, clip): (&'static str, usize, usize, f64)| {
        Case::new("optimizer", format!("{tables} table ({rows},{width}), clip {clip}"), move |device| {
            let config =
                config::Optim { weight_decay: 0.1, decay_tables: true, tables: tables.into(), clip, ..config::Optim::default() };
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
                let norm = optimizer.step(device, &mut params, &[list.as_deref().map(Rows::Here)], step as u64 + 1, 0.01)?;
                norms.push(norm.read(device)?);
            }
            let reals = |name: &'static str, values: Vec<f64>| Output { name, values: case::Values::Reals(values) };
            let state = optimizer.state(device, &params, 6)?;
            let mut outputs = vec![reals("norms", norms)];
            for (name, i) in [("table", 0), ("matrix", 1), ("vector", 2)] {
                outputs.push(Output::reals(name, device, &params[i].value)?);
                outputs.push(Output::reals("cleared", device, &params[i].grad)?);
            }
            let of_table = if tables == "lazy" { &["first", "second", "age"][..] } else { &["sum"] };
            for (name, state) in of_table.iter().chain(&["first", "second", "first", "second"]).zip(state) {
                outputs.push(reals(name, state.values.iter().map(|&x| f64::from(x)).collect()));
            }
            Ok(outputs)
        })
    };
    let shapes = [(1, 1, 0.0), (37, 9, 1.0), (130, 64, 0.0)];
    let lazy = shapes.map(|(rows, width, clip)| case(("lazy", rows, width, clip)));
    // Odd widths above a warp's lanes as well: a row's tail belongs to its mean.
    let adagrad = [(1, 1, 0.0), (37, 9, 1.0), (130, 64, 0.0), (19, 67, 1.0)]
        .map(|(rows, width, clip)| case(("adagrad", rows, width, clip)));
    lazy.into_iter().chain(adagrad).collect()
}

#[cfg(test)]
mod tests;
