//! The items most like the target by their attributes: GeoSAN's nearest-neighbour sampler for items without places.
//!
//! ```text
//! cos(t,j) = sum over c in A_t and A_j of v_c^2  /  (|x_t| |x_j|),     |x_i|^2 = sum over c in A_i of v_c^2
//! P(j | t) = 1/|N(t)|     for the `neighbours` trained items j != t of highest cosine above 0, ties by id
//! ```
//!
//! `v_c` is 1, or with `weighting = "idf"` it is `ln(T / T_c)`, `T_c` of the `T` trained items carrying `c`: then a rare
//! attribute says more, and one that all items carry says nothing. A target that shares no attribute with anything gets the
//! uniform law; one whose neighbours are all excluded leaves its slots empty (`neighbours.rs`). Source: GeoSAN (Lian et al.,
//! KDD 2020), where nearness is distance on the map. The table is built once, over all items in parallel; item `t` costs
//! `sum over c in A_t of T_c`, so a few attributes that all items share make it quadratic in the catalogue.

use std::sync::Arc;

use rayon::prelude::*;

use super::Proposal;
use super::neighbours::{Neighbours, highest};
use super::uniform::Uniform;
use crate::error::Result;
use crate::sampling::knowledge::{Catalogue, Groups, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

pub static DECLARED: Declared = Declared {
    stage: Stage::Propose,
    name: "attribute_neighbours",
    help: "the items most like the one to be predicted by their attributes, each with the same probability",
    source: "GeoSAN (Lian et al., KDD 2020), with attributes in the place of distance on the map",
    params: &[
        Param {
            name: "neighbours",
            form: Form::Count { default: 100.0, low: 1.0, high: 10_000.0, curve: true },
            only_with: None,
            help: "neighbours kept for each item; a curve moves from epoch to epoch",
        },
        Param {
            name: "weighting",
            form: Form::Word { words: &["equal", "idf"] },
            only_with: None,
            help: "equal: every attribute counts the same; idf: rare ones count more",
        },
    ],
    needs: &[Need::Attributes, Need::Target],
    cost: "RN integer draws and table reads; 20 bytes per neighbour",
};

pub fn build(params: &Params, knowledge: &Knowledge, catalogue: &Arc<Catalogue>) -> Result<Proposal> {
    let groups = Groups::by_attribute(knowledge, catalogue, "the proposal `attribute_neighbours`")?;
    let most = params.most("neighbours").round() as usize;
    let nearest = nearest(&groups, catalogue, most, params.word("weighting") == "idf");
    let (moves, params, catalogue) = (params.follows("neighbours"), params.clone(), catalogue.clone());
    Proposal::new(moves, move |epoch| {
        let kept = params.count("neighbours", epoch as f64);
        let lists = nearest.iter().map(|list| list.iter().take(kept).map(|&(_, item)| (0.0, item)).collect()).collect();
        Ok(Arc::new(Neighbours::new(Uniform::new(&catalogue), lists, |_| 1.0, None)))
    })
}

/// Bytes of the lists of `items` V that hold so many neighbours together; where `neighbours` follows a curve what all epochs' lists
/// are made of, and those of the epoch before beside them.
pub(in crate::sampling) fn bytes(params: &Params, items: usize, neighbours: usize) -> usize {
    let lists = size_of::<Vec<(f64, u32)>>() * items;
    match params.follows("neighbours") {
        true => 2 * (Neighbours::bytes(items, neighbours) + lists + size_of::<(f64, u32)>() * neighbours),
        false => Neighbours::bytes(items, neighbours),
    }
}

/// Neighbours of all items together; of an item no more are looked at than are kept.
pub(in crate::sampling) fn count(params: &Params, knowledge: &Knowledge, catalogue: &Catalogue) -> Result<usize> {
    let groups = Groups::by_attribute(knowledge, catalogue, "the proposal `attribute_neighbours`")?;
    let (most, idf) = (params.most("neighbours").round() as usize, params.word("weighting") == "idf");
    // What all carry has no weight then.
    let joins = |code: u32| !(idf && groups.of_code(code).len() == catalogue.len());
    let of_item = |met: &mut Vec<u32>, target: u32| {
        let others = groups.of_item(target).iter().filter(|&&code| joins(code)).flat_map(|&code| groups.of_code(code));
        let new = others.filter(|&&i| i != target && std::mem::replace(&mut met[i as usize], target + 1) != target + 1);
        new.take(most).count()
    };
    let items = catalogue.items();
    Ok((0..items as u32).into_par_iter().map_init(|| vec![0; items], of_item).sum())
}

/// Per item its nearest as (cosine, item), best first.
fn nearest(groups: &Groups, catalogue: &Catalogue, most: usize, idf: bool) -> Vec<Vec<(f64, u32)>> {
    let trained = catalogue.len() as f64;
    // Squares of the weights; a code no trained item carries joins nothing.
    let square: Vec<f64> = (0..groups.width() as u32)
        .map(|code| match groups.of_code(code).len() {
            0 => 0.0,
            carriers if idf => (trained / carriers as f64).ln().powi(2),
            _ => 1.0,
        })
        .collect();
    let norms: Vec<f64> = (0..catalogue.items() as u32)
        .map(|item| groups.of_item(item).iter().map(|&code| square[code as usize]).sum::<f64>().sqrt())
        .collect();
    (0..catalogue.items() as u32)
        .into_par_iter()
        .map_init(
            || vec![0f64; catalogue.items()],
            |shared, target| {
                let mut met = Vec::new();
                for &code in groups.of_item(target) {
                    let square = square[code as usize];
                    if square > 0.0 {
                        for &item in groups.of_code(code).iter().filter(|&&i| i != target) {
                            if shared[item as usize] == 0.0 {
                                met.push(item);
                            }
                            shared[item as usize] += square;
                        }
                    }
                }
                let scored = met.into_iter().map(|item| {
                    let shared = std::mem::take(&mut shared[item as usize]);
                    (shared / (norms[target as usize] * norms[item as usize]), item)
                });
                highest(scored.collect(), most)
            },
        )
        .collect()
}
