//! What a sampler really drew: the facts of one batch that say why it teaches well or badly.
//!
//! Measured on one batch per epoch and recorded beside its loss; nothing here flows back into training. The share of false
//! negatives looks at the held-out future of the users, which no sampler may see: it is a measurement made offline, like a
//! metric.
//!
//! | figure | meaning |
//! |---|---|
//! | `per_positive` | negatives a row really learns from: slots that are neither empty nor dropped, and wrong contexts |
//! | `empty`, `dropped` | shares of slots that hold nothing, or a shared item the row may not count |
//! | `repeated` | share of a row's negatives that repeat another of them |
//! | `rejected` | share of the propose stage's draws that hit an excluded item and were made again |
//! | `false_negatives` | share that the user takes in the held-out part |
//! | `popularity` (10) | share of draws by decile of the training catalogue, least popular first; uniform is .1 each |
//! | `hardness` | mean share of uniformly drawn items that score below the negative; .5 is random, 1 the hardest |
//! | `effective` | (sum w)^2 / (n sum w^2), averaged over rows: 1 when all count alike |
//! | `log_q` | least, mean and largest natural log-probability of a draw |

use serde::{Deserialize, Serialize};

use crate::data::batch::Batch;
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::ids::NONE;
use crate::ops::negatives::Negatives;
use crate::ops::score::{self, Scoring};
use crate::rng::{Draws, Stream, below, slot_index};

/// Rows looked at, spread over the batch.
pub const ROWS: usize = 1024;
/// Negatives of a row that are scored, and uniform items they are compared with.
const SCORED: usize = 8;
const REFERENCES: usize = 24;

/// The figures of one batch; see the table above.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub rows: usize,
    pub per_positive: f64,
    pub empty: f64,
    pub dropped: f64,
    pub repeated: f64,
    pub rejected: f64,
    pub false_negatives: f64,
    pub popularity: [f64; 10],
    pub hardness: f64,
    pub effective: f64,
    pub log_q: Option<[f64; 3]>,
}

/// The training catalogue in ten parts of as many items each, by popularity.
pub struct Deciles {
    /// (V) part of each item; of untrained items the first.
    part: Vec<u8>,
    /// The trained items.
    trained: Vec<u32>,
}

impl Deciles {
    pub fn new(train_counts: &[u32]) -> Deciles {
        let mut trained: Vec<u32> = (0..train_counts.len() as u32).filter(|&i| train_counts[i as usize] > 0).collect();
        trained.sort_by_key(|&i| (train_counts[i as usize], i));
        let mut part = vec![0; train_counts.len()];
        for (rank, &item) in trained.iter().enumerate() {
            part[item as usize] = (rank * 10 / trained.len()) as u8;
        }
        trained.sort_unstable();
        Deciles { part, trained }
    }
}

/// Everything a diagnosis looks at. `future` gives a user's held-out items.
pub struct Evidence<'a, F: Fn(u32) -> &'a [u32]> {
    pub device: &'a Device,
    pub batch: &'a Batch,
    pub scoring: &'a Scoring<'a>,
    pub negatives: &'a Negatives,
    pub deciles: &'a Deciles,
    /// What `Sampler::rejected` says of the batch.
    pub rejected: f64,
    pub future: F,
    pub seed: u64,
    pub step: u64,
}

impl<'a, F: Fn(u32) -> &'a [u32]> Evidence<'a, F> {
    pub fn diagnose(&self) -> Result<Diagnosis> {
        let (batch, negatives) = (self.batch, self.negatives);
        let (rows, n) = (batch.rows(), negatives.n);
        let stride = rows.div_ceil(ROWS).max(1);
        let sequences = batch.sequence_of_rows();
        let groups = negatives.groups_of_rows();

        let draws = Draws::new(self.seed, Stream::Diagnosis, 0, self.step);
        let width = SCORED.min(n) + REFERENCES;
        let mut listed = vec![NONE; rows * width];
        let mut d = Diagnosis { rejected: self.rejected, ..Diagnosis::default() };
        let (mut slots, mut kept, mut shown) = (0u64, 0u64, [0u64; 10]);
        let (mut empty, mut dropped, mut repeated, mut future) = (0u64, 0u64, 0u64, 0u64);
        let (mut effective, mut with_weights) = (0.0, 0u64);
        let mut log_q = [f64::INFINITY, 0.0, f64::NEG_INFINITY];
        for r in (0..rows).step_by(stride) {
            let g = groups[r] as usize;
            let own = (self.future)(batch.users[sequences[r] as usize]);
            let (mut sum, mut squares) = (0.0, 0.0);
            let mut items: Vec<u32> = Vec::with_capacity(n);
            for (j, &item) in negatives.ids_of(g).iter().enumerate() {
                slots += 1;
                if item == NONE {
                    empty += 1;
                    continue;
                }
                if negatives.drop.get(r * n + j).copied().unwrap_or(false) {
                    dropped += 1;
                    continue;
                }
                if items.len() < SCORED {
                    listed[r * width + items.len()] = item;
                }
                items.push(item);
                future += u64::from(own.contains(&item));
                shown[self.deciles.part[item as usize] as usize] += 1;
                let weight = negatives.weight.get(r * n + j).map_or(1.0, |&w| f64::from(w));
                (sum, squares) = (sum + weight, squares + weight * weight);
                if let Some(&q) = negatives.log_q.get(g * n + j) {
                    let q = f64::from(q);
                    log_q = [log_q[0].min(q), log_q[1] + q, log_q[2].max(q)];
                }
            }
            kept += items.len() as u64;
            if squares > 0.0 {
                effective += sum * sum / (items.len() as f64 * squares);
                with_weights += 1;
            }
            items.sort_unstable();
            repeated += items.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
            for (j, slot) in listed[r * width + SCORED.min(n)..(r + 1) * width].iter_mut().enumerate() {
                let word = draws.words64(slot_index(batch.row_keys[r], j))[0];
                *slot = self.deciles.trained[below(word, self.deciles.trained.len() as u64) as usize];
            }
            d.rows += 1;
        }
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        d.per_positive = share(kept, d.rows as u64)
            + (negatives.wrong_contexts() + negatives.generated.len() / (rows * self.scoring.dim).max(1)) as f64;
        (d.empty, d.dropped) = (share(empty, slots), share(dropped, slots));
        (d.repeated, d.false_negatives) = (share(repeated, kept), share(future, kept));
        d.popularity = shown.map(|x| share(x, kept));
        d.effective = effective / with_weights.max(1) as f64;
        let has_log_q = !negatives.log_q.is_empty() && kept > 0;
        d.log_q = has_log_q.then(|| [log_q[0], log_q[1] / kept as f64, log_q[2]]);
        d.hardness = self.hardness(&listed, width, stride)?;
        Ok(d)
    }

    /// Mean share of a row's references that score below its negatives; half of those that score alike.
    fn hardness(&self, listed: &[u32], width: usize, stride: usize) -> Result<f64> {
        let mut s = Buffer::empty(self.device);
        score::gather(self.device, &mut s, self.scoring, listed)?;
        let s = s.to_f64(self.device)?;
        let (mut total, mut count) = (0.0, 0u64);
        for r in (0..self.batch.rows()).step_by(stride) {
            let (own, references) = s[r * width..(r + 1) * width].split_at(width - REFERENCES);
            let ids = &listed[r * width..];
            for (x, _) in own.iter().zip(ids).filter(|(_, id)| **id != NONE) {
                let beaten = |y: &f64| if y < x { 1.0 } else { 0.5 * f64::from(u8::from(y == x)) };
                total += references.iter().map(beaten).sum::<f64>() / REFERENCES as f64;
                count += 1;
            }
        }
        Ok(total / count.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::score::ScoreKind;

    /// Twenty items whose score is their number, item `i` seen `i` times; one sequence.
    fn diagnose(negatives: &Negatives, future: &[u32]) -> Diagnosis {
        let (device, rows) = (Device::ORACLE, negatives.rows());
        let table = device.reals(&(0..20).map(f64::from).collect::<Vec<_>>()).unwrap();
        let query = device.reals(&vec![1.0; rows]).unwrap();
        let scoring = Scoring { kind: ScoreKind::Dot, dim: 1, items: 20, query: &query, context: None, table: &table };
        let batch = Batch {
            users: vec![0],
            offsets: vec![0, rows as u32].into(),
            items: vec![1; rows].into(),
            targets: vec![2; rows].into(),
            row_keys: (0..rows as u64).collect(),
            seen_extents: vec![[0, 0]],
            ..Batch::default()
        };
        let deciles = Deciles::new(&(0..20).collect::<Vec<u32>>());
        let future = |_| future;
        let (device, batch, scoring, deciles) = (&device, &batch, &scoring, &deciles);
        Evidence { device, batch, scoring, negatives, deciles, rejected: 0.25, future, seed: 1, step: 0 }.diagnose().unwrap()
    }

    #[test]
    fn figures_by_hand() {
        let negatives = Negatives {
            n: 4,
            group_offsets: vec![0, 1, 2],
            ids: vec![19, 19, 1, NONE, 19, 18, 17, 2],
            log_q: vec![-1.0, -1.0, -3.0, 0.0, -1.0, -2.0, -4.0, -2.0],
            drop: [vec![false; 7], vec![true]].concat(),
            weight: vec![1.0, 1.0, 2.0, 9.0, 1.0, 1.0, 1.0, 9.0],
            ..Negatives::default()
        };
        let d = diagnose(&negatives, &[17]);
        assert_eq!((d.rows, d.per_positive, d.empty, d.dropped), (2, 3.0, 0.125, 0.125));
        assert_eq!((d.repeated, d.rejected, d.false_negatives), (1.0 / 6.0, 0.25, 1.0 / 6.0));
        // Items 1..=19 are trained; ranks 0..19 in ten parts: 1 lies in the first, 17 to 19 in the last two.
        assert_eq!(d.popularity[0], 1.0 / 6.0);
        assert!((d.popularity[8] + d.popularity[9] - 5.0 / 6.0).abs() < 1e-12);
        assert!((d.effective - (16.0 / 18.0 + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(d.log_q, Some([-4.0, -2.0, -1.0]));
    }

    #[test]
    fn hardness_runs_from_the_easiest_to_the_hardest() {
        let of = |item: u32| {
            let ids = vec![item; 2];
            diagnose(&Negatives { n: 1, group_offsets: vec![0, 1, 2], ids, ..Negatives::default() }, &[]).hardness
        };
        assert!(of(1) < 0.1 && of(19) > 0.9, "{} {}", of(1), of(19));
        assert!((0.25..0.75).contains(&of(10)), "{}", of(10));
    }

    #[test]
    fn a_batch_shares_its_slots() {
        let shared = Negatives { n: 3, group_offsets: vec![0, 2], ids: vec![4, 5, 6], ..Negatives::default() };
        let d = diagnose(&shared, &[4, 5]);
        assert_eq!((d.per_positive, d.false_negatives, d.effective, d.log_q), (3.0, 2.0 / 3.0, 1.0, None));
        assert_eq!(diagnose(&Negatives { n: 0, group_offsets: vec![0, 1, 2], ..Negatives::default() }, &[]).per_positive, 0.0);
    }
    /// More rows than are looked at: figures per row are of those, and what belongs to all rows is counted once.
    #[test]
    fn of_a_large_batch_some_rows_are_looked_at() {
        let rows = 2 * ROWS + 1;
        let mut negatives = Negatives::of_rows(2, rows, [19, 18].repeat(rows), Vec::new());
        assert_eq!((diagnose(&negatives, &[]).rows, diagnose(&negatives, &[]).per_positive), (rows.div_ceil(3), 2.0));
        negatives.generated = vec![0.5; 3 * rows];
        assert_eq!(diagnose(&negatives, &[]).per_positive, 5.0);
        negatives = Negatives { generated: Vec::new(), wrong_context: vec![0; 4 * rows], ..negatives };
        assert_eq!(diagnose(&negatives, &[]).per_positive, 6.0);
    }
}
