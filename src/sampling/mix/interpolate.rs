//! Moves a row's negatives towards its positive: MixGCF's positive mixing.
//!
//! ```text
//! a ~ U(0, most), one per row          e_n' = a e_p + (1 - a) e_n,   so   s_n' = a s+ + (1 - a) s_n
//! ```
//!
//! The score of the virtual negative is linear in the two vectors, so the loss mixes scores and never builds the vector; the gradient
//! still reaches `e_p` through every negative, as in the source. Only dot scores are linear: cosine is refused before training. One
//! `a` for all candidates of a row cannot change which of them scores highest, so choosing (`select`) may come before mixing. The
//! source mixes and chooses once per layer of a graph network; a sequence model has one vector per item, hence one layer.
//!
//! Source: MixGCF (Huang et al., KDD 2021), equation of positive mixing. Draws: stream Mix, index = row key, slot 0.

use super::Mix;
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::rng::{Draws, Stream, open01, slot_index};
use crate::sampling::knowledge::Knowledge;
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};
use crate::sampling::select::Choice;

pub static DECLARED: Declared = Declared {
    stage: Stage::Mix,
    name: "interpolate",
    help: "move every negative towards the positive by a random share of the way, one share per row",
    source: "MixGCF (Huang et al., KDD 2021)",
    params: &[Param {
        name: "most",
        form: Form::Number { default: 1.0, low: 0.0, high: 1.0, curve: true },
        only_with: None,
        help: "the largest share of the way; 0 leaves the negatives where they are",
    }],
    needs: &[Need::Dot],
    cost: "RN multiplications",
};

pub fn build(params: &Params, _: &Knowledge) -> Result<Option<Box<dyn Mix>>> {
    Ok(Some(Box::new(Interpolate { params: params.clone() })))
}

struct Interpolate {
    params: Params,
}

impl Mix for Interpolate {
    fn mix(&self, choice: &Choice, negatives: &mut Negatives) -> Result<()> {
        let most = self.params.number("most", choice.epoch);
        let draws = Draws::new(choice.seed, Stream::Mix, 0, choice.epoch_index);
        let share = |&key: &u64| (most * open01(draws.words64(slot_index(key, 0))[0])) as f32;
        negatives.toward_positive = choice.batch.row_keys.iter().map(share).collect();
        Ok(())
    }
    fn needs_dot(&self) -> bool {
        true
    }
}
