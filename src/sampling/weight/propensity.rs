//! Undoes the exposure that popular items enjoy: rows count by the inverse propensity of their target.
//!
//! ```text
//! theta_v = (f_v / max f)^eta          row weight  min(1 / theta_target, most), divided by its mean over the training events
//! ```
//!
//! UBPR weighs the pair of a positive `p` and an item `n` by `(1 / theta_p)(1 - Y_n / theta_n)`, clipped at 0. For an item the user
//! has not taken (`Y_n = 0`) that is the weight above; for one taken it is not above 0. So with `exclude = "history"` and the
//! pairwise loss the row weight is all of it. Source: UBPR (Saito, ICTIR 2020), eta = 0.5; `most` is a clip of ours.

use std::sync::Arc;

use super::{ByTarget, OfItems, Weigh, mean_one};
use crate::error::Result;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Form, Param, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Weight,
    name: "propensity",
    help: "rows count by the inverse propensity of their target, a power of its share of the most popular item's events",
    source: "UBPR (Saito, ICTIR 2020)",
    params: &[
        Param {
            name: "eta",
            form: Form::Number { default: 0.5, low: 0.0, high: 2.0, curve: true },
            only_with: None,
            help: "power of the popularity; 0 counts all rows alike; a curve moves from epoch to epoch",
        },
        Param {
            name: "most",
            form: Form::Number { default: 100.0, low: 1.0, high: 1e9, curve: true },
            only_with: None,
            help: "the largest weight before the division by the mean",
        },
    ],
    needs: &[],
    cost: "R reads",
};

pub fn build(params: &Params, knowledge: &Knowledge, _: &Catalogue) -> Result<Option<Box<dyn Weigh>>> {
    let moves = params.follows("eta") || params.follows("most");
    let (params, counts) = (params.clone(), knowledge.train_counts.to_vec());
    let of_epoch =
        move |epoch: u64| Ok(weights(params.number("eta", epoch as f64), params.number("most", epoch as f64), &counts));
    Ok(Some(Box::new(ByTarget { weights: OfItems::new(moves, of_epoch)? })))
}

fn weights(eta: f64, most: f64, counts: &[u32]) -> Arc<[f32]> {
    let top = f64::from(counts.iter().copied().max().unwrap_or(1).max(1));
    let inverse = |&f: &u32| (top / f64::from(f.max(1))).powf(eta).min(most);
    mean_one(&counts.iter().map(inverse).collect::<Vec<_>>(), counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_inverse_propensities_with_mean_one() {
        let counts = [16, 4, 1, 0];
        let got = weights(0.5, 3.0, &counts);
        // 1, 2 and 4 clipped to 3; mean over 21 events.
        let mean = (16.0 + 8.0 + 3.0) / 21.0;
        got.iter().zip([1.0, 2.0, 3.0]).for_each(|(g, w)| assert!((f64::from(*g) - w / mean).abs() < 1e-6, "{got:?}"));
        assert_eq!(weights(0.0, 9.0, &counts)[..], [1.0; 4]);
    }
}
