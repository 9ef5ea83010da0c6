//! Walks over the candidates until the walk has forgotten where it began: Metropolis and Hastings, as in MCNS.
//!
//! ```text
//! wanted law     P(v) ~ exp(power s_v)                       the model's own law of positives, to a power below one
//! start          the first candidate
//! at y, after x  go to y with probability min(1, exp(power (s_y - s_x)) q_x / q_y), otherwise stay at x
//! keep           where the walk stands at its last N steps
//! ```
//!
//! The candidates are the proposals, so `q` is their law and what is kept follows the wanted law the better the more of them there
//! are; no normaliser over the catalogue is ever computed. Since the law is reached only in the limit, no log-probability is
//! reported. Source: MCNS (Yang et al., KDD 2020). Its proposals are half near the current state, and its walk goes on from node
//! to node; here proposals do not know the state and every row walks for itself, so that rows stay independent.
//!
//! Draws: stream Select, lane 201, index = (row key, step).

use rayon::prelude::*;

use super::{CANDIDATES, Candidates, Choice, Select, one_group_per_row, scored_beside_targets};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::negatives::Negatives;
use crate::rng::{Draws, Stream, open01, slot_index};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lane of the words that accept or stay.
const ACCEPT: u8 = 201;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "metropolis",
    help: "walk over the candidates, accepting by score, and keep where the walk ends",
    source: "MCNS (Yang et al., KDD 2020), without proposals near the current state",
    params: &[
        Param {
            name: "power",
            form: Form::Number { default: 0.75, low: 0.0, high: 100.0, curve: true },
            only_with: None,
            help: "power of the model's own law that the walk is after; 0 is uniform",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "2RMD flops, RM acceptances",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Metropolis { params: params.clone() })
}

struct Metropolis {
    params: Params,
}

impl Select for Metropolis {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn needs_proposal_log_q(&self) -> bool {
        true
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let Candidates::Listed(lists) = candidates else {
            return Err(Error::internal("a walk goes over proposed items only"));
        };
        let power = self.params.number("power", choice.epoch);
        let (ids, s, width) = scored_beside_targets(choice, &lists)?;
        let groups = lists.groups_of_rows();
        let (m, n) = (lists.n, choice.negatives);
        let draws = Draws::new(choice.seed, Stream::Select, ACCEPT, choice.epoch_index);
        let mut taken = vec![NONE; choice.batch.rows() * n];
        taken.par_chunks_mut(n.max(1)).enumerate().for_each(|(r, taken)| {
            let (ids, s) = (&ids[r * width + 1..(r + 1) * width], &s[r * width + 1..(r + 1) * width]);
            let group = groups[r] as usize;
            let log_q = &lists.log_q[group * m..(group + 1) * m];
            // How much the wanted law prefers a candidate to the law it came from.
            let worth = |j: usize| power * s[j] - f64::from(log_q[j]);
            let mut stands: Option<usize> = None;
            let mut walk = Vec::with_capacity(m);
            for j in (0..m).filter(|&j| ids[j] != NONE) {
                let word = draws.words64(slot_index(choice.batch.row_keys[r], j))[0];
                if stands.is_none_or(|x| open01(word).ln() < worth(j) - worth(x)) {
                    stands = Some(j);
                }
                walk.extend(stands.map(|x| ids[x]));
            }
            let last = &walk[walk.len().saturating_sub(n)..];
            taken.iter_mut().zip(last).for_each(|(slot, &item)| *slot = item);
        });
        Ok(one_group_per_row(choice, taken, Vec::new()))
    }
}
