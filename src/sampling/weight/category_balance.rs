//! Lets rare categories count more, by their effective number of events.
//!
//! ```text
//! w_c = (1 - b) / (1 - b^{n_c})          n_c training events of items with attribute c
//! w_v = mean of w_c over the attributes of v; an item without attributes has the mean over the training events
//! of = target     the row counts w_target               of = negative     each negative counts w_n, mean one over the row
//! ```
//!
//! `b` = 0 counts all alike, `b` towards 1 in inverse proportion to `n_c`. Source: the class-balanced weight that DGRec (WSDM 2023)
//! puts on samples by category; `of = negative` is ours. Needs attributes of items (`data.items_path`).

use std::sync::Arc;

use super::{ByTarget, OfItems, Weigh, mean_one};
use crate::error::Result;
use crate::ids::NONE;
use crate::ops::negatives::Negatives;
use crate::sampling::knowledge::{Catalogue, Groups, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};
use crate::sampling::select::{Choice, beside_targets};

pub static DECLARED: Declared = Declared {
    stage: Stage::Weight,
    name: "category_balance",
    help: "rows or negatives of rare categories count more, by the effective number of a category's events",
    source: "the class-balanced weight of DGRec (WSDM 2023)",
    params: &[
        Param {
            name: "of",
            form: Form::Word { words: &["target", "negative"] },
            only_with: None,
            help: "target: a row counts by the event to be predicted; negative: each negative by its own categories",
        },
        Param {
            name: "b",
            form: Form::Number { default: 0.99, low: 0.0, high: 0.999999, curve: true },
            only_with: None,
            help: "0 counts all categories alike, towards 1 in inverse proportion to their events; a curve moves from epoch to epoch",
        },
    ],
    needs: &[Need::Attributes],
    cost: "RN reads",
};

pub fn build(params: &Params, knowledge: &Knowledge, catalogue: &Catalogue) -> Result<Option<Box<dyn Weigh>>> {
    let groups = Groups::by_attribute(knowledge, catalogue, "the weight `category_balance`")?;
    let (of, counts) = (params.clone(), knowledge.train_counts.to_vec());
    let weights = OfItems::new(params.follows("b"), move |epoch| Ok(weights(of.number("b", epoch as f64), &groups, &counts)))?;
    Ok(Some(match params.word("of") {
        "target" => Box::new(ByTarget { weights }),
        _ => Box::new(ByNegative { weights }),
    }))
}

/// (V) with mean one over the training events.
fn weights(b: f64, groups: &Groups, counts: &[u32]) -> Arc<[f32]> {
    let events = |item: u32| f64::from(counts[item as usize]);
    // ln b is minus infinity at 0, and every category counts one.
    let effective = |n: f64| -(n * b.ln()).exp_m1() / (1.0 - b);
    let of_code = |code: u32| {
        let n: f64 = groups.of_code(code).iter().map(|&item| events(item)).sum();
        if n > 0.0 { 1.0 / effective(n) } else { 0.0 }
    };
    let of_code: Vec<f64> = (0..groups.width() as u32).map(of_code).collect();
    let of_item: Vec<Option<f64>> = (0..counts.len() as u32)
        .map(|item| groups.of_item(item))
        .map(|codes| (!codes.is_empty()).then(|| codes.iter().map(|&c| of_code[c as usize]).sum::<f64>() / codes.len() as f64))
        .collect();
    let known = || (0..).zip(&of_item).filter_map(|(item, w)| Some((w.as_ref()?, events(item))));
    let mean = known().map(|(w, f)| w * f).sum::<f64>() / known().map(|(_, f)| f).sum::<f64>().max(1.0);
    mean_one(&of_item.iter().map(|w| w.unwrap_or(mean)).collect::<Vec<_>>(), counts)
}

struct ByNegative {
    weights: OfItems,
}

impl Weigh for ByNegative {
    fn weigh(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()> {
        let of_items = self.weights.at(choice.epoch_index)?;
        let (ids, width) = beside_targets(choice.batch, negatives);
        let mut weight = vec![1.0f32; choice.batch.rows() * negatives.n];
        for (weight, ids) in weight.chunks_mut(negatives.n.max(1)).zip(ids.chunks(width)) {
            let filled = || ids[1..].iter().filter(|id| **id != NONE).map(|&id| of_items[id as usize]);
            let mean = filled().map(f64::from).sum::<f64>() / filled().count().max(1) as f64;
            let slots = weight.iter_mut().zip(&ids[1..]).filter(|(_, id)| **id != NONE && mean > 0.0);
            slots.for_each(|(w, &id)| *w = (f64::from(of_items[id as usize]) / mean) as f32);
        }
        negatives.weight = weight;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Attributes;

    fn of(b: f64, counts: &[u32], offsets: &[u64], codes: &[u32]) -> Arc<[f32]> {
        let knowledge = Knowledge { attributes: Some(Attributes { offsets, codes }), ..Knowledge::of_counts(counts) };
        weights(b, &Groups::by_attribute(&knowledge, &Catalogue::new(counts), "the test").unwrap(), counts)
    }

    #[test]
    fn weights_are_the_effective_numbers() {
        // Items 0 and 1 in category 0 (6 events), item 1 named there twice, item 2 in 0 and 1, item 3 without.
        let (counts, offsets, codes) = ([1, 2, 3, 4], [0, 1, 3, 5, 5], [0, 0, 0, 0, 1]);
        let b: f64 = 0.9;
        let got = of(b, &counts, &offsets, &codes);
        let w = |n: i32| (1.0 - b) / (1.0 - b.powi(n));
        let both = (w(6) + w(3)) / 2.0;
        let mean = (3.0 * w(6) + 3.0 * both) / 6.0;
        let want = [w(6) / mean, w(6) / mean, both / mean, 1.0];
        got.iter().zip(want).for_each(|(g, w)| assert!((f64::from(*g) - w).abs() < 1e-6, "{got:?} {want:?}"));
    }

    #[test]
    fn without_b_all_count_alike() {
        let (counts, offsets, codes) = ([1, 2, 3, 4], [0, 1, 2, 4, 4], [0, 0, 0, 1]);
        assert_eq!(of(0.0, &counts, &offsets, &codes)[..], [1.0; 4]);
    }
}
