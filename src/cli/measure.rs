//! Measuring a ranker on a part of the split, and the two baselines it has to beat.

use crate::config;
use crate::data::batch::Batch;
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
        self.evaluate_asked(ranker, &|requests, _| requests, config, progress)
    }

    /// The same where `asked` makes the requests for some targets into what the ranker looks at.
    fn evaluate_asked(
        &self,
        ranker: &mut dyn Ranker,
        asked: &dyn Fn(Batch, &[Target]) -> Batch,
        config: &config::Eval,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Evaluation> {
        let mut requests = |targets: &[Target]| Ok(asked(self.set.requests(targets), targets));
        eval::evaluate(ranker, &mut requests, self.part.targets(self.set), &self.facts, config, progress)
    }

    /// Popularity and the linear item-to-item model on the same requests.
    pub fn baselines(&self, config: &config::Eval) -> Result<Vec<Evaluation>> {
        let (data, split) = (self.set.data(), self.set.split());
        let starts = &data.offsets()[..data.users()];
        let mut linear = ItemToItem::fit(data.event_items(), starts, &split.train_end, &split.train_items)?;
        let popular = self.evaluate(&mut Popularity::new(&split.train_items), config, &mut |_, _| {})?;
        let asked = |requests, targets: &[Target]| ItemToItem::asked(requests, targets, data);
        Ok(vec![popular, self.evaluate_asked(&mut linear, &asked, config, &mut |_, _| {})?])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::data::split::Split;
    use crate::data::{prepare, synthetic};

    #[test]
    fn baselines_do_not_depend_on_how_long_histories_the_encoder_takes() {
        let mut config = Config::default();
        config.data.synthetic =
            config::Synthetic { users: 80, items: 50, clusters: 4, events_per_user: 40.0, ..config::Synthetic::default() };
        let (log, sides) = synthetic::generate(&config.data.synthetic).unwrap();
        let data = Arc::new(prepare::in_memory(log, &config.data, sides).unwrap());
        let split = Arc::new(Split::new(&data, &config.data, 1).unwrap());
        let mut baselines = |max_len| {
            config.model.max_len = max_len;
            let set = TrainingSet::new(data.clone(), split.clone(), &config, None, None).unwrap();
            Ground::new(&set, Part::Test).baselines(&config.eval).unwrap()
        };
        let long = baselines(200);
        assert!(long[1].get("ndcg@10").unwrap() > 0.0);
        for max_len in [1, 5, 20, 21] {
            for (short, long) in baselines(max_len).iter().zip(&long) {
                assert_eq!((&short.values, &short.outcomes), (&long.values, &long.outcomes), "{}, {max_len}", long.model);
            }
        }
    }
}
