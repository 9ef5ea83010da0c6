//! Walks from the target through the knowledge graph as a learned policy likes, and keeps the hardest end: KGPolicy.
//!
//! A walk of a row goes from its target `t` to an entity around it, and on to a candidate around that entity. With `h` the row's
//! query, `e_i` the model's vector of an item, not in context, `v_k (D)` one of the policy's own for every entity, zero before
//! training, and `leaky(x) = max(x, x/100)`,
//!
//! ```text
//! E      entities of t around which there is a candidate
//! C_k    candidates around k, and those around no entity of t: random items that every neighbourhood has
//! P(k)   ~ exp(sum over d of h_d leaky(e_td v_kd) / sqrt(D))          for k in E      first hop
//! P(j|k) ~ exp(sum over d of h_d leaky(v_kd e_jd) / sqrt(D))          for j in C_k    second hop
//! P(j)   = sum over k of P(k) P(j|k)
//! prune    N times, of W walks the end with the highest score, ties to the lower item:   q(j) = F(j)^W - (F(j) - P(j))^W,
//!          F(j) the sum of P over the candidates that j beats, and j
//! R      = s_j + similarity e_j . e_t                                 of every walk, pruned or not
//! G_k    = sum over rows of  1/NW sum over walks of (R - b) d ln (P(x) P(y|x)) / d v_k
//! ```
//!
//! and `v` and `b` follow as the generator's do (`learned.rs`). The candidates are the random part of the neighbours to which the method prunes every
//! node: what the proposals draw, such as half `graph_walk` and half `uniform`. A candidate counts once. An unlearned policy is
//! uniform at both hops; where no candidate is around an entity of the target, the walk is uniform over the candidates and
//! teaches nothing. Everything is decided on the host, where `R M` scores and the batch's different vectors are copied to.
//!
//! Sources: KGPolicy (Wang et al., WWW 2020) and its released program, whose reward, attention and random neighbours these are;
//! REINFORCE (Williams 1992). A reconstruction: the released program refines its vectors by two graph convolutions, takes the
//! likeliest entity and the 32 likeliest of 128 ends for certain, teaches by the end that is kept alone, and walks twice, the second
//! time from where the first ended. Here both hops are drawn, so that what is reported is the law and the gradient is that of
//! the expected reward, and there is one walk of two hops.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::generator::{place, softmax};
use super::learned::{Learned, WINDOW};
use super::{CANDIDATES, Candidates, Choice, Select, one_group_per_row, ranked, scored_beside_targets, vectors_of};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::negatives::Negatives;
use crate::rng::{Draws, Stream, open01, slot_index};
use crate::sampling::State;
use crate::sampling::knowledge::{Catalogue, Codes, Groups, Knowledge};
use crate::sampling::registry::{Declared, Form, Need, Param, Params, Stage};

/// Lane of the words that draw the two hops.
const HOPS: u8 = 211;
/// Before the names of what it keeps in a checkpoint.
const OWNER: &str = "policy";
/// What `leaky` leaves of a negative number.
const LEAK: f64 = 0.01;
/// Rows whose part of the gradient is held at once.
const BLOCK: usize = 512;

pub static DECLARED: Declared = Declared {
    stage: Stage::Select,
    name: "policy",
    help: "the highest-scored end of walks over the knowledge graph, drawn by a policy that learns where hard items are",
    source: "KGPolicy (Wang et al., WWW 2020), a reconstruction that draws both hops and has no graph convolution",
    params: &[
        Param {
            name: "walks",
            form: Form::Count { default: 8.0, low: 1.0, high: 4096.0, curve: true },
            only_with: None,
            help: "walks per negative (W), of which the end with the highest score is kept",
        },
        Param {
            name: "similarity",
            form: Form::Number { default: 1.0, low: 0.0, high: 100.0, curve: true },
            only_with: None,
            help: "what the product of an end's vector with the positive's is worth beside the score, in the reward",
        },
        Param {
            name: "rate",
            form: Form::Number { default: 0.05, low: 0.0, high: 10.0, curve: true },
            only_with: None,
            help: "learning rate of the policy (Adagrad by entity)",
        },
        WINDOW,
        CANDIDATES,
    ],
    needs: &[Need::Scores, Need::Graph],
    cost: "2RMD flops, and 12RD(Z+YM) on the host for a target of Z entities, Y of them walked to; 4(D+1) bytes per entity",
};

pub fn build(params: &Params) -> Box<dyn Select> {
    Box::new(Policy { params: params.clone(), entities: Groups::default(), learned: Mutex::default() })
}

struct Policy {
    params: Params,
    entities: Groups,
    learned: Mutex<Learned>,
}

/// What the memory it draws in depends on: `rows` R of a batch, `n` negatives kept of `m` candidates, of which the share `walked` was
/// proposed by a walk over the graph, `different` items among all of them and the targets, vectors of `dim` D, and on average so many
/// `entities` around a target.
pub(in crate::sampling) struct Drawing {
    pub rows: usize,
    pub n: usize,
    pub m: usize,
    pub walked: f64,
    pub different: usize,
    pub dim: usize,
    pub entities: f64,
    pub log_q: bool,
}

impl Drawing {
    /// Bytes at the largest, result included: the candidates beside the targets and the vectors of both, what became of every row, and
    /// the gradient of a block of rows. A walk met a candidate around each entity of the target, if there are so many.
    pub fn bytes(&self, params: &Params, codes: &Codes) -> usize {
        let Drawing { rows, n, m, dim, different, .. } = *self;
        let (beside, walks) = (rows * (m + 1), n * params.most("walks") as usize);
        let listed = |len: usize| if len == 0 { 0 } else { len.next_power_of_two().max(4) };
        let (around, others) = ((self.walked * m as f64).ceil() as usize, ((1.0 - self.walked) * m as f64).ceil() as usize);
        let entities = self.entities.min(around as f64);
        let of_entity =
            size_of::<u32>() + size_of::<Vec<usize>>() + 8 * listed(around.div_ceil(entities.ceil().max(1.0) as usize));
        let of_row = size_of::<Walked>()
            + size_of::<Candidate>() * m
            + 8 * listed(others)
            + (entities * of_entity as f64) as usize
            + size_of::<Walk>() * listed(walks)
            + 8 * walks
            + if self.log_q { 8 * m } else { 0 };
        let given = rows * n * if self.log_q { 8 } else { 4 };
        let kept = 16 * beside + 8 * dim * (different + rows) + 8 * rows + rows * of_row + given;
        // The rewards as one list and what they are above the baseline; then an average of `entities` gradients for each row of a block.
        let rewards = 8 * (rows * walks).next_power_of_two() + 8 * rows * walks;
        let parts = (rows.min(BLOCK) as f64 * entities * (size_of::<Vec<f64>>() + 8 * dim) as f64) as usize;
        let sums = codes.codes.min((rows as f64 * entities) as usize) * (8 * dim + 2 * size_of::<(u32, Vec<f64>)>());
        (kept + rewards + parts + sums).max(16 * beside + 4 * beside + 12 * different * dim)
    }
}

/// Something a row may be given.
struct Candidate {
    item: u32,
    score: f64,
    /// Its place among the vectors.
    place: usize,
}

/// Where the walks of a row may go.
struct Ways {
    /// The highest score first, ties to the lower item; each item once.
    candidates: Vec<Candidate>,
    /// E, ascending.
    entities: Vec<u32>,
    /// Per entity of E the candidates around it, ascending.
    around: Vec<Vec<usize>>,
    /// The candidates around no entity of the target, ascending.
    others: Vec<usize>,
}

impl Ways {
    fn new(candidates: Vec<Candidate>, entities: &Groups, target: u32) -> Ways {
        let of_target = entities.of_item(target);
        let (mut around, mut others) = (BTreeMap::<u32, Vec<usize>>::new(), Vec::new());
        for (at, candidate) in candidates.iter().enumerate() {
            let shared = entities.of_item(candidate.item).iter().filter(|k| of_target.binary_search(k).is_ok());
            if shared.map(|&k| around.entry(k).or_default().push(at)).count() == 0 {
                others.push(at);
            }
        }
        let (entities, around) = around.into_iter().unzip();
        Ways { candidates, entities, around, others }
    }
    /// First hops; without an entity there is one, to nowhere.
    fn hops(&self) -> usize {
        self.entities.len().max(1)
    }
    /// C_k of the `hop`-th entity.
    fn ends(&self, hop: usize) -> impl Iterator<Item = usize> {
        self.around.get(hop).into_iter().flatten().chain(&self.others).copied()
    }
}

/// A first hop, by its number among those of the row, and the candidate the second leads to.
type Walk = (usize, usize);

/// What became of a row.
struct Walked {
    ways: Ways,
    /// (NW), or none where nothing is left to walk to.
    walks: Vec<Walk>,
    /// R of each walk.
    rewards: Vec<f64>,
    /// q of each candidate; empty unless asked for.
    law: Vec<f64>,
}

/// The policy over the rows of a batch and its different items.
struct View<'a> {
    dim: usize,
    /// h (R,D)
    query: &'a [f64],
    /// e (K,D)
    vectors: &'a [f64],
    /// (R) places of the targets among the vectors.
    targets: &'a [usize],
    /// v (Z,D)
    table: &'a [f32],
}

impl View<'_> {
    fn vector(&self, place: usize) -> &[f64] {
        &self.vectors[place * self.dim..(place + 1) * self.dim]
    }
    /// (h_d / sqrt(D), e_d, v_kd) of a row, an item and an entity.
    fn triples(&self, row: usize, place: usize, entity: u32) -> impl Iterator<Item = (f64, f64, f64)> {
        let (scale, table) = (1.0 / (self.dim as f64).sqrt(), &self.table[entity as usize * self.dim..]);
        let h = &self.query[row * self.dim..(row + 1) * self.dim];
        h.iter().zip(self.vector(place)).zip(table).map(move |((h, e), &v)| (h * scale, *e, f64::from(v)))
    }
    /// The logit of a hop between an item and an entity, either way.
    fn attention(&self, row: usize, place: usize, entity: u32) -> f64 {
        self.triples(row, place, entity).map(|(h, e, v)| h * (e * v).max(LEAK * e * v)).sum()
    }
    /// into += share d attention / d v_k
    fn pull(&self, into: &mut [f64], share: f64, row: usize, place: usize, entity: u32) {
        for (into, (h, e, v)) in into.iter_mut().zip(self.triples(row, place, entity)) {
            *into += share * h * e * if e * v < 0.0 { LEAK } else { 1.0 };
        }
    }
    /// P(k) of each entity.
    fn first(&self, row: usize, ways: &Ways) -> Vec<f64> {
        match ways.entities.is_empty() {
            true => vec![1.0],
            false => softmax(ways.entities.iter().map(|&k| self.attention(row, self.targets[row], k)).collect()),
        }
    }
    /// P(j|k) of the ends of the `hop`-th entity.
    fn second(&self, row: usize, ways: &Ways, hop: usize) -> Vec<f64> {
        let logit = |end: usize| match ways.entities.get(hop) {
            Some(&entity) => self.attention(row, ways.candidates[end].place, entity),
            None => 0.0,
        };
        softmax(ways.ends(hop).map(logit).collect())
    }
    /// P(j) of each candidate.
    fn law(&self, row: usize, ways: &Ways) -> Vec<f64> {
        let mut law = vec![0.0; ways.candidates.len()];
        for (hop, p) in self.first(row, ways).into_iter().enumerate() {
            ways.ends(hop).zip(self.second(row, ways, hop)).for_each(|(end, q)| law[end] += p * q);
        }
        law
    }
    /// The walk of each pair of words, as (hop, end).
    fn walks(&self, row: usize, ways: &Ways, words: impl Iterator<Item = [u64; 2]>) -> Vec<Walk> {
        let (first, mut second) = (self.first(row, ways), vec![None; ways.hops()]);
        let walk = |words: [u64; 2]| {
            let hop = place(&first, open01(words[0]))?;
            let law = second[hop].get_or_insert_with(|| self.second(row, ways, hop));
            Some((hop, ways.ends(hop).nth(place(law, open01(words[1]))?)?))
        };
        words.map_while(walk).collect()
    }
    /// d / d v_k, for each k in E, of the mean over the walks of their advantage times ln (P(k) P(j|k)).
    fn gradient(&self, row: usize, ways: &Ways, walks: &[Walk], advantages: &[f64]) -> Vec<Vec<f64>> {
        let n = walks.len() as f64;
        let won = |of: &dyn Fn(&Walk) -> bool| {
            walks.iter().zip(advantages).filter(|(walk, _)| of(walk)).map(|(_, advantage)| advantage / n).sum::<f64>()
        };
        let (first, all) = (self.first(row, ways), won(&|_| true));
        let of_hop = |(hop, &entity): (usize, &u32)| {
            let mut gradient = vec![0.0; self.dim];
            let here = won(&|walk| walk.0 == hop);
            self.pull(&mut gradient, here - first[hop] * all, row, self.targets[row], entity);
            if walks.iter().any(|walk| walk.0 == hop) {
                for (end, p) in ways.ends(hop).zip(self.second(row, ways, hop)) {
                    let share = won(&|walk| *walk == (hop, end)) - p * here;
                    self.pull(&mut gradient, share, row, ways.candidates[end].place, entity);
                }
            }
            gradient
        };
        ways.entities.iter().enumerate().map(of_hop).collect()
    }
    /// The sum over the rows, by entity, in the order of the rows: the same for any number of threads.
    fn gradients(&self, walked: &[Walked], advantages: &[f64]) -> BTreeMap<u32, Vec<f32>> {
        let mut sums = BTreeMap::<u32, Vec<f64>>::new();
        let mut rest = advantages;
        for (block, first) in walked.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
            let own: Vec<&[f64]> = block.iter().map(|walked| rest.split_off(..walked.walks.len()).unwrap_or(&[])).collect();
            let of_row = |(at, walked): (usize, &Walked)| self.gradient(first + at, &walked.ways, &walked.walks, own[at]);
            let parts: Vec<Vec<Vec<f64>>> = block.par_iter().enumerate().map(of_row).collect();
            for (&entity, part) in block.iter().zip(&parts).flat_map(|(walked, parts)| walked.ways.entities.iter().zip(parts)) {
                let sum = sums.entry(entity).or_insert_with(|| vec![0.0; self.dim]);
                sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
        }
        sums.into_iter().map(|(entity, sum)| (entity, sum.iter().map(|&x| x as f32).collect())).collect()
    }
}

/// The law of the first to come in this order among `walks` draws of `law`.
fn of_the_first(law: &[f64], walks: usize) -> Vec<f64> {
    let mut beaten = 0.0;
    let mut first: Vec<f64> = law
        .iter()
        .rev()
        .map(|p| {
            let below = f64::powi(beaten, walks as i32);
            beaten += p;
            f64::powi(beaten, walks as i32) - below
        })
        .collect();
    first.reverse();
    first
}

impl Select for Policy {
    fn params(&self) -> Option<&Params> {
        Some(&self.params)
    }
    fn fewest_candidates(&self, negatives: usize) -> usize {
        // With replacement any number can be drawn from any list.
        negatives
    }
    fn most_draws(&self, negatives: usize) -> usize {
        negatives * self.params.most("walks") as usize
    }
    fn learn_about(&mut self, knowledge: &Knowledge, catalogue: &Catalogue) -> Result<()> {
        self.entities = Groups::by_entity(knowledge, catalogue, "the selection `policy`")?;
        Ok(())
    }
    fn select(&self, choice: &Choice, candidates: Candidates) -> Result<Negatives> {
        let Candidates::Listed(lists) = candidates else {
            return Err(Error::internal("a policy walks to proposed items only"));
        };
        let (batch, scoring, n) = (choice.batch, choice.scoring()?, choice.negatives);
        let (rows, dim, per) = (batch.rows(), scoring.dim, self.params.count("walks", choice.epoch));
        let (ids, scores, width) = scored_beside_targets(choice, &lists)?;
        let ((items, vectors), query) = (vectors_of(choice, &ids)?, scoring.query.to_f64(choice.device)?);
        let place = |item: u32| items.partition_point(|&other| other < item);
        let targets: Vec<usize> = batch.targets.iter().map(|&target| place(target)).collect();

        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.fit(self.entities.width(), dim, OWNER)?;
        let view = View { dim, query: &query, vectors: &vectors, targets: &targets, table: &learned.table };
        let ways = |row: usize| {
            let own = row * width + 1..(row + 1) * width;
            let candidate = |(item, score)| Candidate { item, score, place: place(item) };
            let own = ranked(&ids[own.clone()], &scores[own]).into_iter().map(candidate).collect();
            Ways::new(own, &self.entities, batch.targets[row])
        };
        let draws = Draws::new(choice.seed, Stream::Select, HOPS, choice.epoch_index);
        let (similarity, asked) = (self.params.number("similarity", choice.epoch), choice.log_q);
        let of_row = |row: usize| {
            let (ways, target) = (ways(row), view.vector(targets[row]));
            let words = (0..n * per).map(|slot| draws.words64(slot_index(batch.row_keys[row], slot)));
            let walks = view.walks(row, &ways, words);
            let reward = |walk: &Walk| {
                let end = &ways.candidates[walk.1];
                let likeness: f64 = view.vector(end.place).iter().zip(target).map(|(a, b)| a * b).sum();
                f64::from((end.score + similarity * likeness) as f32)
            };
            let rewards = walks.iter().map(reward).collect();
            let law = if asked { of_the_first(&view.law(row, &ways), per) } else { Vec::new() };
            Walked { ways, walks, rewards, law }
        };
        let walked: Vec<Walked> = (0..rows).into_par_iter().map(of_row).collect();

        let (mut taken, mut log_q) = (vec![NONE; rows * n], vec![0.0; if asked { rows * n } else { 0 }]);
        for (row, Walked { ways, walks, law, .. }) in walked.iter().enumerate() {
            let first = |walks: &[Walk]| walks.iter().map(|walk| walk.1).min();
            for (slot, end) in (row * n..).zip(walks.chunks_exact(per).filter_map(first)) {
                taken[slot] = ways.candidates[end].item;
                if asked {
                    log_q[slot] = law[end].max(f64::MIN_POSITIVE).ln() as f32;
                }
            }
        }

        let rewards: Vec<f64> = walked.iter().flat_map(|walked| &walked.rewards).copied().collect();
        if let Some((advantages, baseline)) = learned.advantages(&rewards, self.params.number("window", choice.epoch)) {
            let gradient = view.gradients(&walked, &advantages);
            for (&entity, gradient) in &gradient {
                learned.climb(entity as usize, gradient, self.params.number("rate", choice.epoch));
            }
            learned.baseline = Some(baseline);
        }
        Ok(one_group_per_row(choice, taken, log_q))
    }

    fn state(&self) -> Vec<State> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).state(OWNER)
    }

    fn restore<'t>(&self, find: &dyn Fn(&str) -> Option<&'t [f32]>) -> Result<()> {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Learned::restored(OWNER, find)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::normal2;

    const D: usize = 3;

    fn noise(lane: u8, n: usize) -> Vec<f64> {
        let draws = Draws::new(4, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect()
    }
    /// A target (place 0) with entities 1, 2 and 4, around which are the candidates 0 and 1, 1 and 3, and 2; 4 and 5 are others.
    fn ways() -> Ways {
        let candidate = |at: usize| Candidate { item: at as u32, score: -(at as f64), place: at + 1 };
        Ways {
            candidates: (0..6).map(candidate).collect(),
            entities: vec![1, 2, 4],
            around: vec![vec![0, 1], vec![1, 3], vec![2]],
            others: vec![4, 5],
        }
    }
    /// ln (P(k) P(j|k)) by the formula, number by number.
    fn log_prob(v: &[f32], h: &[f64], e: &[f64], (hop, end): Walk) -> f64 {
        let ways = ways();
        let logit = |place: usize, k: u32| -> f64 {
            let leaky = |x: f64| if x < 0.0 { x / 100.0 } else { x };
            (0..D).map(|d| h[d] * leaky(e[place * D + d] * f64::from(v[k as usize * D + d])) / (D as f64).sqrt()).sum()
        };
        let log_sum = |logits: &[f64]| logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        let first: Vec<f64> = ways.entities.iter().map(|&k| logit(0, k)).collect();
        let reached: Vec<usize> = ways.around[hop].iter().chain(&[4, 5]).copied().collect();
        let second: Vec<f64> = reached.iter().map(|end| logit(end + 1, ways.entities[hop])).collect();
        let at = reached.iter().position(|&other| other == end).unwrap();
        first[hop] - log_sum(&first) + second[at] - log_sum(&second)
    }
    fn all_walks() -> Vec<Walk> {
        (0..3).flat_map(|hop| ways().ends(hop).map(move |end| (hop, end)).collect::<Vec<_>>()).collect()
    }
    /// (value up - value down) / the way between, for each number of v; in f32, as the policy keeps it.
    fn central(v: &[f32], value: impl Fn(&[f32]) -> f64) -> Vec<f64> {
        let nudged = |at: usize, by: f32| {
            let mut v = v.to_vec();
            v[at] += by;
            (f64::from(v[at]), value(&v))
        };
        let slope = |at: usize| {
            let ((x, up), (y, down)) = (nudged(at, 1e-3), nudged(at, -1e-3));
            (up - down) / (x - y)
        };
        (0..v.len()).map(slope).collect()
    }
    /// The gradient of the rows of E, put where they stand in v.
    fn placed(parts: Vec<Vec<f64>>) -> Vec<f64> {
        let mut whole = vec![0.0; 5 * D];
        for (k, part) in ways().entities.iter().zip(parts) {
            whole[*k as usize * D..][..D].copy_from_slice(&part);
        }
        whole
    }

    #[test]
    fn the_gradient_is_that_of_the_log_probability_and_of_the_expected_reward() {
        let (h, e) = (noise(0, 2 * D), noise(1, 7 * D));
        let v: Vec<f32> = noise(2, 5 * D).iter().map(|&x| x as f32).collect();
        let view = View { dim: D, query: &h, vectors: &e, targets: &[3, 0], table: &v };
        let (row, own) = (1, &h[D..]);
        let rewards: Vec<f64> = noise(3, 6);
        let mut mean = vec![0.0; 5 * D];
        for walk in all_walks() {
            let got = placed(view.gradient(row, &ways(), &[walk], &[1.0]));
            let want = central(&v, |v| log_prob(v, own, &e, walk));
            assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-5), "{walk:?}: {got:?} against {want:?}");
            assert!(got.iter().filter(|g| g.abs() > 1e-4).count() > D, "more than one entity moves");
            // Two walks, of which the other teaches nothing.
            let with = placed(view.gradient(row, &ways(), &[walk, (2, 5)], &[rewards[walk.1] - 0.3, 0.0]));
            let p = log_prob(&v, own, &e, walk).exp();
            mean.iter_mut().zip(with).for_each(|(mean, g)| *mean += 2.0 * p * g);
        }
        let expected = |v: &[f32]| all_walks().iter().map(|&w| log_prob(v, own, &e, w).exp() * rewards[w.1]).sum::<f64>();
        let want = central(&v, expected);
        assert!(mean.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-5), "{mean:?} against {want:?}");
        let all: f64 = all_walks().iter().map(|&w| log_prob(&v, own, &e, w).exp()).sum();
        assert!((all - 1.0).abs() < 1e-12, "walks are everything that may happen");
    }

    #[test]
    fn the_law_of_the_first_is_that_of_all_draws() {
        let law = [0.1, 0.0, 0.5, 0.4];
        let mut counted = [0.0; 4];
        for draws in 0..64 {
            let draws: [usize; 3] = [draws % 4, draws / 4 % 4, draws / 16];
            counted[*draws.iter().min().unwrap()] += draws.iter().map(|&m| law[m]).product::<f64>();
        }
        assert!(of_the_first(&law, 3).iter().zip(counted).all(|(p, q)| (p - q).abs() < 1e-15));
        assert_eq!(of_the_first(&[0.25, 0.75], 1), [0.25, 0.75]);
    }
}
