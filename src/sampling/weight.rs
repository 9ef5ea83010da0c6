//! The weight stage: how much does a negative count?
//!
//! `one` hands over the items alone. `log_q` also hands over the natural logarithm of the probability with which each slot was
//! drawn; the loss subtracts it from the score (sampled softmax, in the variant chosen there), so that the expected loss is
//! that of the whole catalogue whatever the sampler prefers. Where no probability exists (an arg-max), `log_q` is refused.

use crate::sampling::registry::{Declared, Stage};

/// The registry.
pub const KINDS: &[&Declared] = &[&ONE, &LOG_Q];

pub static ONE: Declared = Declared {
    stage: Stage::Weight,
    name: "one",
    help: "every negative counts the same",
    source: "BPR (Rendle et al., UAI 2009)",
    params: &[],
    needs: &[],
    cost: "none",
};

pub static LOG_Q: Declared = Declared {
    stage: Stage::Weight,
    name: "log_q",
    help: "hand the log-probability of each draw to the loss, which corrects for it",
    source: "Bengio and Senecal (2008); Yi et al. (RecSys 2019); Khrylchenko et al. (RecSys 2025)",
    params: &[],
    needs: &[],
    cost: "RN probabilities",
};
