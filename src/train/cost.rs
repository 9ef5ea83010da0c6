//! What a training step does, part by part: the `cost` functions beside the operations, added up for a configuration.
//!
//! ```text
//! floor of a step = sum over its parts of max(flops / product rate, bytes / memory rate)
//! ```
//!
//! No step can be faster where products are no faster than the measured one (`train/ceilings.rs`) and what an operation leaves
//! is beyond the caches when the next one wants it; a small model on a large cache can beat the second half. Real steps are above
//! it, each part by a factor of its own; what they are predicted to take is in `train/prices.rs`. Gathering a batch is the host's
//! and has no price here.

use serde::Serialize;

use crate::config::Config;
use crate::error::Result;
use crate::model::cost::{self, Lengths};
use crate::model::{Queries, memory};
use crate::ops::cost::{Cost, Operation, Pass, distinct, product};
use crate::ops::{attributes, full_softmax, sampled_loss, score, whole_data};
use crate::optim::Optimizer;
use crate::sampling::{self, cost::Draw};
use crate::train::ceilings::Ceilings;
use crate::train::plan::{Counts, Shape};
use crate::train::prices::Prices;

/// Work of a step.
#[derive(Clone, Debug)]
pub struct StepCost {
    /// In the order of [`StepCost::PARTS`].
    pub parts: [Cost; 6],
    /// Of the sampler, where there is one.
    pub draw: Option<Draw>,
    /// Rows of the item tables that a step meets, where the others need no update.
    pub met: Option<usize>,
    /// Stages of the sampler that do more than is counted, and what makes sequences shorter than they are taken for.
    pub uncounted: Vec<&'static str>,
}

/// The work of a part, the least time it can take, and the time it is predicted to take.
#[derive(Clone, Debug, Serialize)]
pub struct Floor {
    pub part: &'static str,
    #[serde(flatten)]
    pub cost: Cost,
    /// Seconds.
    pub floor: f64,
    /// Seconds.
    pub predicted: f64,
    /// Seconds of the fastest and of the median step, where some were made.
    pub fastest: Option<f64>,
    pub median: Option<f64>,
}

impl StepCost {
    /// The stages of a step that have a price; the sampler's first stage and the others are two of them.
    pub const PARTS: [&'static str; 6] = ["forward", "propose", "select", "loss", "backward", "update"];

    /// Of a batch of these `lengths`; errors are those of training.
    pub fn new(config: &Config, counts: &Counts, lengths: Lengths) -> Result<StepCost> {
        let Shape { hyper, sizes, asked, sampled } = Shape::new(config, counts)?;
        let (items, d) = (counts.items, hyper.dim);
        let rows = if asked == Queries::All { lengths.rows } else { lengths.sequences };
        let products = score::products(hyper.score, hyper.context);
        let of = sampling::memory::Extent { items, rows, sequences: lengths.sequences, dim: d, ..Default::default() };
        let draw = if sampled { Some(sampling::cost::draw(&config.sampler, &of, products)?) } else { None };

        let encoder = cost::encoder(&hyper, &sizes, lengths, asked);
        let loss = match &draw {
            Some(Draw { groups, negatives, wrong, generated, .. }) => {
                let Pass { forward, backward } = cost::context(&hyper, &sizes, rows * wrong);
                let contexts = if *wrong > 0 { forward + backward } else { Cost::default() };
                // A vector that is no item is scored and moves the query, and is not moved itself.
                let fakes = Cost::new(2 * product([rows, *generated, d]), rows * generated * d);
                let fakes = fakes.of(Operation::Pairs, (rows * generated) as u64);
                contexts + fakes + sampled_loss::cost(rows, *groups, *negatives, *wrong, items, d, hyper.context, products)
            }
            None if config.loss.kind == "whole_data" => whole_data::cost(rows, items, d),
            None => full_softmax::cost(rows, items, d, hyper.context, products),
        };
        let tables = if hyper.tied { 1 } else { 2 };
        let with_attributes = attributes::cost(items, counts.attributes, counts.attribute_pairs, d) * tables;
        let made = if counts.attributes > 0 { with_attributes } else { Pass::default() };
        // Rows of the item tables that a step meets: histories, targets, negatives.
        let met = draw.as_ref().filter(|_| counts.attributes == 0);
        let met = met.map(|draw| distinct(lengths.rows + rows + draw.groups * draw.negatives, items));
        let update = memory::parameters(&hyper, &sizes).into_iter().map(|p| {
            let known = met.filter(|_| ["items", "output"].contains(&p.name.as_str()));
            Optimizer::cost(&config.optim, &p.shape, p.table, known)
        });
        let [propose, select] = draw.as_ref().map_or([Cost::default(); 2], |draw| [draw.propose, draw.select]);
        let backward = encoder.backward + made.backward;
        let update = update.sum::<Cost>() + made.forward;
        let mut uncounted = draw.as_ref().map_or(vec![], |draw| draw.uncounted.clone());
        if config.train.random_prefix {
            uncounted.push("train.random_prefix");
        }
        Ok(StepCost { parts: [encoder.forward, propose, select, loss, backward, update], draw, met, uncounted })
    }

    /// The parts with the least time each takes, and the predicted one.
    pub fn floors(&self, ceilings: &Ceilings, prices: &Prices) -> Vec<Floor> {
        let floor = |(part, cost)| Floor {
            part,
            cost,
            floor: ceilings.floor(cost),
            predicted: prices.predicted(cost),
            fastest: None,
            median: None,
        };
        StepCost::PARTS.into_iter().zip(self.parts).map(floor).collect()
    }
}

#[cfg(test)]
mod tests;
