//! Measuring a ranker on a part of the split, and the two baselines it has to beat.

use crate::config;
use crate::data::split::Target;
use crate::data::training::TrainingSet;
use crate::error::Result;
use crate::eval::{self, Evaluation, Facts, ItemToItem, Popularity, Ranker};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    Test,
    Valid,
}

impl Part {
    pub fn targets(self, set: &TrainingSet) -> &[Target] {
        match self {
            Part::Test => &set.split().test,
            Part::Valid => &set.split().valid,
        }
    }
}

/// What evaluation asks about the data, gathered once.
pub struct Ground<'a> {
    set: &'a TrainingSet,
    part: Part,
    facts: Facts<'a>,
}

impl<'a> Ground<'a> {
    pub fn new(set: &'a TrainingSet, part: Part) -> Ground<'a> {
        let named = match part {
            Part::Test => eval::Part::Test,
            Part::Valid => eval::Part::Valid,
        };
        Ground { set, part, facts: Facts::new(set.data(), set.split(), named) }
    }

    pub fn evaluate(
        &self,
        ranker: &mut dyn Ranker,
        config: &config::Eval,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Evaluation> {
        let mut requests = |targets: &[Target]| Ok(self.set.requests(targets));
        eval::evaluate(ranker, &mut requests, self.part.targets(self.set), &self.facts, config, progress)
    }

    /// Popularity and the linear item-to-item model on the same requests.
    pub fn baselines(&self, config: &config::Eval) -> Result<Vec<Evaluation>> {
        let (data, split) = (self.set.data(), self.set.split());
        let starts = &data.offsets()[..data.users()];
        let mut linear = ItemToItem::fit(data.event_items(), starts, &split.train_end, &split.train_items)?;
        let popular = self.evaluate(&mut Popularity::new(&split.train_items), config, &mut |_, _| {})?;
        Ok(vec![popular, self.evaluate(&mut linear, config, &mut |_, _| {})?])
    }
}
