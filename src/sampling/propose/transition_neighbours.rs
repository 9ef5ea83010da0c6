//! Items that stand near the target in histories, from distant relatives to close ones: GNNO's neighbourhood negatives.
//!
//! ```text
//! w(i,j) = sum of 1/gap over the times j stands 1, 2 or 3 events before or after i in a training history,   j != i
//! N(i)   = the `neighbours` items of greatest w(i,j), ties by id
//! J(i,j) = |N(i) and N(j)| / |N(i) or N(j)|
//! P(j|t) = exp J(t,j) / sum,     over the j in N(t) with J(t,j) <= hardness
//! ```
//!
//! `hardness` may follow a curve: items whose surroundings are nearly those of the target are likely to be positives in
//! disguise, and are let in last. It stands still within an epoch. A target with no neighbour under the bound gets the uniform
//! law; one whose neighbours are all excluded leaves its slots empty (`neighbours.rs`). Source: GNNO (Fan et al., SIGIR 2023),
//! whose graph keeps every edge and draws from all items with an overlap; the cut to the strongest edges is ours, and bounds
//! both the table (V n) and the time to fill it (V n^2). Six times the weight is whole, so sums are exact in any order.

use std::sync::Arc;

use rayon::prelude::*;

use super::Proposal;
use super::neighbours::{Neighbours, highest};
use super::uniform::Uniform;
use crate::data::nearby::{self, Near};
use crate::error::Result;
use crate::sampling::knowledge::{Catalogue, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "transition_neighbours",
    help: "items met near the one to be predicted in training histories, those with the same surroundings last",
    source: "GNNO (Fan et al., SIGIR 2023)",
    params: &[
        Param {
            name: "neighbours",
            form: Form::Count { default: 100.0, low: 1.0, high: 10_000.0, curve: true },
            only_with: None,
            help: "neighbours kept for each item, by how often and how near they stand; a curve moves from epoch to epoch",
        },
        Param {
            name: "hardness",
            form: Form::Number { default: 0.7, low: 0.0, high: 1.0, curve: true },
            only_with: None,
            help: "largest overlap of surroundings that is let in; a curve moves from epoch to epoch",
        },
    ],
    needs: &[Need::Target],
    cost: "RN integer draws and table reads; 20 bytes per neighbour",
};

/// Weights of the gaps 1, 2 and 3, times six.
const SIXTHS: [u64; 3] = [6, 3, 2];

pub fn build(params: &Params, knowledge: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    let strongest = strongest(knowledge, catalogue.items(), params.most("neighbours").round() as usize);
    let (moves, params, catalogue) = (params.follows("neighbours"), params.clone(), catalogue.clone());
    Proposal::new(moves, move |epoch| {
        let kept = params.count("neighbours", epoch as f64);
        let ascending = |list: &Vec<u32>| {
            let mut set: Vec<u32> = list.iter().copied().take(kept).collect();
            set.sort_unstable();
            set
        };
        let sets: Vec<Vec<u32>> = strongest.par_iter().map(ascending).collect();
        let lists = sets.par_iter().map(|set| set.iter().map(|&j| (jaccard(set, &sets[j as usize]), j)).collect()).collect();
        Ok(Arc::new(Neighbours::new(Uniform::new(&catalogue), lists, f64::exp, Some((params.clone(), "hardness")))))
    })
}

/// Neighbours of all items together.
pub(in crate::sampling) fn count(params: &Params, knowledge: &Knowledge) -> usize {
    let near = Near { back: SIXTHS.len(), ahead: SIXTHS.len(), itself: false, most: params.most("neighbours").round() as usize };
    nearby::count(knowledge.event_items, knowledge.histories(), knowledge.train_counts.len(), near)
}

/// Bytes of the lists of `items` V that hold so many neighbours together; where `neighbours` follows a curve what all epochs' lists
/// are made of, and those of the epoch before beside them.
pub(in crate::sampling) fn bytes(params: &Params, items: usize, neighbours: usize) -> usize {
    let lists = size_of::<Vec<u32>>() * items;
    match params.follows("neighbours") {
        true => 2 * Neighbours::bytes(items, neighbours) + 3 * lists + (4 + 4 + 16) * neighbours,
        false => Neighbours::bytes(items, neighbours),
    }
}

/// N(i) of every item, the strongest first.
fn strongest(knowledge: &Knowledge, items: usize, most: usize) -> Vec<Vec<u32>> {
    // Where each item stands: (user, place in the user's history).
    let mut stands: Vec<Vec<(u32, u32)>> = vec![Vec::new(); items];
    for user in 0..knowledge.users() as u32 {
        for (at, &item) in knowledge.history(user).iter().enumerate() {
            stands[item as usize].push((user, at as u32));
        }
    }
    (0..items as u32)
        .into_par_iter()
        .map_init(
            || vec![0u64; items],
            |weights, item| {
                let mut met = Vec::new();
                for &(user, at) in &stands[item as usize] {
                    let (history, at) = (knowledge.history(user), at as usize);
                    for (gap, sixths) in (1..).zip(SIXTHS) {
                        let before = at.checked_sub(gap).map(|b| history[b]);
                        for other in before.into_iter().chain(history.get(at + gap).copied()).filter(|&j| j != item) {
                            if weights[other as usize] == 0 {
                                met.push(other);
                            }
                            weights[other as usize] += sixths;
                        }
                    }
                }
                let scored = met.into_iter().map(|j| (std::mem::take(&mut weights[j as usize]) as f64, j)).collect();
                // Copied: collected in place it would keep the room of what was cut.
                highest(scored, most).iter().map(|&(_, j)| j).collect()
            },
        )
        .collect()
}

/// Overlap of two ascending sets, of which one at least is not empty.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                i += 1;
                j += 1;
            }
        }
    }
    common as f64 / (a.len() + b.len() - common) as f64
}
