//! Draws at random among the candidates of a band of ranks: neither always the hardest, nor any.
//!
//! Of `M` candidates, ranked by the current model, `N` different ones are drawn uniformly from places `from .. to` (counted
//! from 1, both included). `1 .. N` is the arg-max of `top_k`; `1 .. M` is a uniform choice; `1 .. K` is DNS(M,N) of Shi et al., who
//! show that it bounds a one-way partial AUC and with it the head of the ranking; a band that begins below the top leaves out
//! what is most likely a false negative. A row with fewer candidates than the band takes what there is of it. The choice is
//! one of many, but its probability depends on a ranking, so no log-probability is handed on.

use super::{CANDIDATES, Candidates, Choice, Select, choose_ranked, places_by_key};
use crate::error::Result;
use crate::ops::negatives::Negatives;
use crate::rng::{Draws, Stream, open01, slot_index};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lane of the words that order a band.
const ORDER: u8 = 201;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "rank_band",
    help: "draw uniformly among the candidates whose rank by score lies in a band",
    source: "DNS(M,N) (Shi et al., WWW 2023); bands below the top: PinSage (Ying et al., KDD 2018), EBR (Huang et al., KDD 2020)",
    params: &[
        Param {
            name: "from",
            form: Form::Count { default: 1.0, low: 1.0, high: 1048576.0, curve: true },
            only_with: None,
            help: "first rank of the band; 1 is the highest score",
        },
        Param {
            name: "to",
            form: Form::Count { default: 10.0, low: 1.0, high: 1048576.0, curve: true },
            only_with: None,
            help: "last rank of the band",
        },
        CANDIDATES,
    ],
    needs: &[Need::Scores],
    cost: "2RMD flops, a sort of M per row",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(RankBand { params: params.clone() })
}

struct RankBand {
    params: Params,
}

impl Select for RankBand {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn fewest_candidates(&self, _: usize) -> usize {
        let band = self.params.least("to") - self.params.most("from") + 1.0;
        band.max(0.0).min(self.params.least("candidates")) as usize
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let (from, to) = (self.params.count("from", choice.epoch), self.params.count("to", choice.epoch));
        let draws = Draws::new(choice.seed, Stream::Select, ORDER, choice.epoch_index);
        choose_ranked(choice, candidates, |row| {
            let to = to.min(row.ranked.len());
            // A short row is drawn from as far down as it reaches.
            let from = (from - 1).min(to.saturating_sub(choice.negatives));
            let word = |place: usize| draws.words64(slot_index(choice.batch.row_keys[row.row], place))[0];
            let keys: Vec<f64> = (from..to).map(|place| open01(word(place))).collect();
            places_by_key(&keys, choice.negatives).into_iter().map(|place| from + place).collect()
        })
    }
}
