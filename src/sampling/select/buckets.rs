//! Gathers rows and items that lie in the same direction into buckets, and shows a row the items of one bucket: SCE.
//!
//! With `x (R,D)` the queries, `N` the negatives of a row, and `z` standard normal numbers,
//!
//! ```text
//! directions   B = buckets sqrt(R) of them:   b_k = sum over rows of z_rk x_r   (mixed),   or   b_k = z_k (D)   (gaussian)
//! bucket       the X = rows sqrt(R) queries and the N items that score highest against b_k, ties to the lower one
//! choice       of the buckets that hold row r, that of the largest   ln sum over its items of exp s_ri,
//!              without the row's target and what it excludes; ties to the first
//! weight       R / held for each of the `held` rows that are in a bucket, 0 for the others
//! ```
//!
//! so a softmax over the positive and its negatives is the mean, over the rows that are in a bucket, of the largest loss a row has
//! in any of its buckets (for a temperature of 1). One bucket of all rows and all items is the full softmax. Mixed directions
//! follow the queries and leave fewer rows out. Queries and items are placed without context; the choice looks at the scores.
//!
//! `z` is a function of (seed, epoch, row) when mixed, of (seed, epoch, batch, dimension) else; what is chosen follows scores and
//! the batch. On a machine the rankings and the scores are computed there; the queries come back for the directions, and so do the
//! `B (X + N)` members of the buckets and their `B X N` scores. Its kernels rank no more than 1,024 rows or items (G0502).
//!
//! Source: SCE (Mezentsev et al., RecSys 2024) and its released program, with X and B of 2 sqrt(R).

use rayon::prelude::*;

use super::{Candidates, Choice, Select, one_group_per_row};
use crate::data::batch::Batch;
use crate::data::column::Column;
use crate::device::Buffer;
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::candidates::Hidden;
use crate::ops::cost::{Cost, product};
use crate::ops::embedding::{self, Into};
use crate::ops::exclusion::Exclude;
use crate::ops::negatives::Negatives;
use crate::ops::score::{self, Scoring};
use crate::ops::{score_topk, vector};
use crate::rng::{Draws, Stream, normal2, slot_index};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lane of the words that make the directions.
const DIRECTION: u8 = 250;
/// Scores that are held at once.
pub(in crate::sampling) const BLOCK: usize = 1 << 22;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "buckets",
    help: "give a row the items of the hardest of its buckets, which hold the rows and items that lie in one random direction",
    source: "SCE (Mezentsev et al., RecSys 2024)",
    params: &[
        Param {
            name: "buckets",
            form: Form::Number { default: 2.0, low: 0.01, high: 16.0, curve: true },
            only_with: None,
            help: "buckets of a batch (B), in units of the square root of its rows; rounded up",
        },
        Param {
            name: "rows",
            form: Form::Number { default: 2.0, low: 0.01, high: 1e5, curve: true },
            only_with: None,
            help: "rows of a bucket (X), in units of the square root of the batch's rows; rounded up, all rows at most",
        },
        Param {
            name: "directions",
            form: Form::Word { words: &["mixed", "gaussian"] },
            only_with: None,
            help: "mixed: random sums of the batch's queries; gaussian: of the axes",
        },
    ],
    needs: &[Need::Scores, Need::Batch, Need::Catalogue],
    cost: "2B(2R+V)D + 2BXND flops, RB normal numbers",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Buckets { params: params.clone() })
}

/// Of R `rows` that are given `n` of `items` V, `dim` D: the directions, the rows and items that lie furthest in each, and the scores of
/// every bucket's rows against its items, which take so many `products`.
pub(in crate::sampling) fn cost(params: &Params, rows: usize, n: usize, items: usize, dim: usize, products: u64) -> Cost {
    let of_rows = |name: &str| (params.number(name, 0.0) * (rows as f64).sqrt()).ceil().max(1.0) as usize;
    let (count, width) = (of_rows("buckets"), of_rows("rows").min(rows));
    let directions = if params.word("directions") == "mixed" { product([count, rows, dim]) } else { 0 };
    let ranked = product([count, rows, dim]) + product([count, items, dim]);
    let scored = products * product([count * width, n, dim]);
    let moved = (rows + items + count) * dim + count * (width + n) + count * width * n + rows * (n + 1);
    Cost::new(directions + ranked + scored, moved)
}

struct Buckets {
    params: Params,
}

/// B buckets; `NONE` where there was nothing left to put in.
struct Filled {
    /// (B,X)
    rows: Vec<u32>,
    /// X
    width: usize,
    /// (B,N)
    items: Vec<u32>,
}

impl Buckets {
    /// What the parameter `name` makes of the rows.
    fn of_rows(&self, name: &str, choice: &Choice) -> usize {
        (self.params.number(name, choice.epoch) * (choice.batch.rows() as f64).sqrt()).ceil().max(1.0) as usize
    }

    /// The buckets of a batch with the queries `x (R,D)`.
    fn fill(&self, choice: &Choice, x: &[f64]) -> Result<Filled> {
        let (scoring, rows) = (choice.scoring()?, choice.batch.rows());
        let (count, width) = (self.of_rows("buckets", choice), self.of_rows("rows", choice).min(rows));
        let mixed = self.params.word("directions") == "mixed";
        let directions = choice.device.reals(&directions(choice, mixed.then_some(x), count, scoring.dim))?;
        // A direction is a row that hides nothing of its own.
        let none = Column::from(vec![0; count]);
        let (batch, sequences) = (Batch { items: none.clone(), targets: none, ..Batch::default() }, vec![0; count]);
        let highest = |table: &Buffer, items: usize, untrained: &[u32], k: usize| {
            let along = Scoring { query: &directions, context: None, table, items, ..*scoring };
            let hidden = Hidden { untrained, exclude: Exclude::None, batch: &batch, sequences: &sequences };
            let mut best = score_topk::of_catalogue(choice.device, &along, &hidden, k)?;
            best.fetch(choice.device)?;
            Ok::<_, Error>(best.ids)
        };
        Ok(Filled {
            rows: highest(scoring.query, rows, &[], width)?,
            width,
            items: highest(scoring.table, scoring.items, &choice.catalogue.untrained(), choice.negatives)?,
        })
    }

    /// (R) of the buckets that hold a row the hardest.
    fn hardest(&self, choice: &Choice, filled: &Filled, sequences: &[u32]) -> Result<Vec<Option<usize>>> {
        let (device, scoring, n) = (choice.device, choice.scoring()?, choice.negatives);
        let members = filled.rows.iter().enumerate().filter(|(_, row)| **row != NONE);
        let visits: Vec<(u32, usize)> = members.map(|(at, &row)| (row, at / filled.width)).collect();
        let mut hardest = vec![(f64::NEG_INFINITY, None); choice.batch.rows()];
        let (mut query, mut context, mut scores) = (Buffer::empty(device), Buffer::empty(device), Buffer::empty(device));
        for visits in visits.chunks((BLOCK / n).max(1)) {
            let rows: Vec<u32> = visits.iter().map(|visit| visit.0).collect();
            embedding::forward(device, &mut query, Into::Set, scoring.query, &rows, scoring.dim, 1.0)?;
            if let Some(of_rows) = scoring.context {
                embedding::forward(device, &mut context, Into::Set, of_rows, &rows, scoring.dim, 1.0)?;
            }
            let ids: Vec<u32> = visits.iter().flat_map(|&(row, k)| given(choice, sequences, row as usize, filled, k)).collect();
            let of_visits = Scoring { query: &query, context: scoring.context.map(|_| &context), ..*scoring };
            score::gather(device, &mut scores, &of_visits, &ids)?;
            let totals: Vec<f64> = scores.to_f64(device)?.par_chunks_mut(n).map(vector::softmax_in_place).collect();
            for (&(row, k), total) in visits.iter().zip(totals) {
                if total > hardest[row as usize].0 {
                    hardest[row as usize] = (total, Some(k));
                }
            }
        }
        Ok(hardest.into_iter().map(|(_, k)| k).collect())
    }
}

/// b (n,D): sums of the queries `x (R,D)` with random weights, or of the axes without any.
fn directions(choice: &Choice, x: Option<&[f64]>, n: usize, dim: usize) -> Vec<f64> {
    let draws = Draws::new(choice.seed, Stream::Select, DIRECTION, choice.epoch_index);
    let mut directions = vec![0.0; n * dim];
    directions.par_chunks_mut(2 * dim).enumerate().for_each(|(pair, two)| {
        let weights = |key| normal2(draws.words64(slot_index(key, pair)));
        match x {
            Some(x) => x.chunks_exact(dim).zip(&choice.batch.row_keys).for_each(|(x, &key)| {
                two.chunks_exact_mut(dim).zip(weights(key)).for_each(|(direction, z)| vector::axpy(direction, z, x));
            }),
            None => (0..dim).for_each(|axis| {
                let key = choice.batch_index * dim as u64 + axis as u64;
                two.chunks_exact_mut(dim).zip(weights(key)).for_each(|(direction, z)| direction[axis] = z);
            }),
        }
    });
    directions
}

/// (N) the items of bucket `k` as `row` may see them.
fn given<'a>(
    choice: &'a Choice,
    sequences: &[u32],
    row: usize,
    filled: &'a Filled,
    k: usize,
) -> impl Iterator<Item = u32> + use<'a> {
    let (target, n) = (choice.batch.targets[row], choice.negatives);
    let seen = choice.exclude.of_sequence(choice.batch, sequences[row] as usize);
    let hidden = move |item: u32| item == target || seen.binary_search(&item).is_ok();
    filled.items[k * n..(k + 1) * n].iter().map(move |&item| if hidden(item) { NONE } else { item })
}

impl Select for Buckets {
    fn params(&self) -> Option<&Params> {
        None
    }
    fn gives_log_q(&self) -> bool {
        false
    }
    fn takes_catalogue(&self) -> bool {
        true
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let Candidates::Catalogue = candidates else {
            return Err(Error::internal("buckets are filled from the whole catalogue only"));
        };
        let (rows, n) = (choice.batch.rows(), choice.negatives);
        if rows == 0 {
            return Ok(one_group_per_row(choice, Vec::new(), Vec::new()));
        }
        let x = choice.scoring()?.query.to_f64(choice.device)?;
        let sequences = choice.batch.sequence_of_rows();
        let filled = self.fill(choice, &x)?;
        let hardest = self.hardest(choice, &filled, &sequences)?;

        let mut taken = vec![NONE; rows * n];
        for (row, taken) in taken.chunks_exact_mut(n).enumerate() {
            if let Some(k) = hardest[row] {
                taken.iter_mut().zip(given(choice, &sequences, row, &filled, k)).for_each(|(slot, item)| *slot = item);
            }
        }
        let share = rows as f32 / hardest.iter().flatten().count() as f32;
        let mut row_weight: Vec<f32> = hardest.iter().map(|k| if k.is_some() { share } else { 0.0 }).collect();
        // Queries that are no numbers lie in no direction; the loss must not pass over them.
        if x.iter().any(|x| !x.is_finite()) {
            row_weight.fill(f32::NAN);
        }
        Ok(Negatives { row_weight, ..one_group_per_row(choice, taken, Vec::new()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::sampling::knowledge::Catalogue;

    /// Sums of the rows with independent normal weights have the covariance `sum x x^T`, the axes alone the unit matrix; what
    /// shares words, the two of a pair and the rows of a batch, does not move together.
    #[test]
    fn directions_are_normal_with_the_covariance_of_the_queries() {
        const N: usize = 200_000;
        let x = [0.5, -1.0, 2.0, 0.0, 0.3, 0.3, -0.7, 0.1];
        let batch =
            Batch { row_keys: (900..904).collect(), targets: vec![0; 4].into(), items: vec![0; 4].into(), ..Batch::default() };
        let catalogue = Catalogue::new(&[1]);
        let choice = Choice {
            device: &Device::ORACLE,
            batch: &batch,
            scoring: None,
            catalogue: &catalogue,
            priors: &[],
            exclude: Exclude::Target,
            negatives: 1,
            log_q: false,
            seed: 3,
            epoch: 0.0,
            epoch_index: 4,
            batch_index: 2,
        };
        let of = |rows: &[f64], i: usize, j: usize| rows.chunks(2).map(|x| x[i] * x[j]).sum::<f64>();
        // Whether `mean b_k b_k^T` is `wanted`, to five standard errors.
        let fits = |b: &[f64], lag: usize, wanted: &dyn Fn(usize, usize) -> f64, spread: &dyn Fn(usize, usize) -> f64| {
            (0..4).all(|at| {
                let (i, j) = (at / 2, at % 2);
                let pairs = b.chunks(2).zip(b[2 * lag..].chunks(2)).step_by(1 + lag);
                let products: Vec<f64> = pairs.map(|(a, b)| a[i] * b[j]).collect();
                let mean = products.iter().sum::<f64>() / products.len() as f64;
                (mean - wanted(i, j)).abs() < 5.0 * (spread(i, j) / products.len() as f64).sqrt()
            })
        };
        let unit = |i: usize, j: usize| f64::from(u8::from(i == j));
        let of_queries = |i: usize, j: usize| of(&x, i, j);
        for (given, law) in [(Some(&x[..]), &of_queries as &dyn Fn(usize, usize) -> f64), (None, &unit)] {
            let b = directions(&choice, given, N, 2);
            let spread = |i: usize, j: usize| law(i, i) * law(j, j) + law(i, j).powi(2);
            assert!(fits(&b, 0, law, &spread));
            assert!(fits(&b, 1, &|_, _| 0.0, &|i, j| law(i, i) * law(j, j)), "the two of a pair move together");
            // Of one weight for all rows, and of the other law.
            let sum = [x.iter().step_by(2).sum::<f64>(), x.iter().skip(1).step_by(2).sum()];
            assert!(!fits(&b, 0, &|i, j| sum[i] * sum[j], &spread));
            assert_eq!(fits(&b, 0, &unit, &spread), given.is_none());
        }
    }
}
