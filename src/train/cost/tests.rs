//! The counts against a counter inside the one call to a matrix product, and against numbers worked by hand.

use std::sync::Arc;

use super::*;
use crate::config;
use crate::data::training::TrainingSet;
use crate::device::{Device, made_by};
use crate::ops::cost::Operation;
use crate::train::fit::Training;
use crate::train::profile::log;
use crate::train::step::Trainer;

/// Users of 12 events, 9 of which train: sequences of 8 rows.
const LENGTH: u32 = 11;
const ROWS: usize = 8;

fn small() -> Config {
    let mut config = Config::default();
    config.model = config::Model { dim: 8, heads: 2, layers: 2, max_len: 10, ffn_mult: 3, ..config.model };
    config.train.batch_size = 4;
    config.data.temporal = "no".into();
    config
}

fn set(config: &Config) -> Arc<TrainingSet> {
    let raw = log(60, 4, LENGTH, 1).unwrap();
    let data = Arc::new(crate::data::prepare::in_memory(raw, &config.data, Default::default()).unwrap());
    let split = Arc::new(crate::data::split::Split::new(&data, &config.data, 1).unwrap());
    Arc::new(TrainingSet::new(data, split, config, None, None).unwrap())
}

/// What a step of `config` should take, and the flops of the products it makes.
fn counted(config: &Config) -> (StepCost, u64) {
    let set = set(config);
    let rows = set.extent([0], config.model.max_len as usize).0;
    let lengths = Lengths::of([rows; 4]);
    let cost = StepCost::new(config, &Counts::of(&set, config).unwrap(), lengths).unwrap();
    // All work of a pool of one thread is on that thread.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let made = pool.install(|| {
        let mut trainer = Trainer::new(config, set, &Device::HOST).unwrap();
        assert!(trainer.steps_per_epoch() > 1, "the last step of an epoch does more");
        made_by(|| trainer.step_on(0, None).unwrap()).1
    });
    (cost, made)
}

fn flops(cost: &StepCost) -> u64 {
    cost.parts.iter().map(|part| part.flops).sum()
}

#[test]
fn counted_flops_are_those_of_the_products_a_step_makes() {
    // Attention that sees everything has no half-empty tile.
    let mut config = small();
    config.model.causal = false;
    config.train.targets = "last".into();
    let (cost, made) = counted(&config);
    assert_eq!((flops(&cost), cost.uncounted.len()), (made, 0), "full softmax");
    config.model.tied = false;
    config.model.norm = "post".into();
    let (cost, made) = counted(&config);
    assert_eq!(flops(&cost), made, "another encoder");

    // Negatives of a whole batch and a scan of the catalogue are products; the target of a row is not.
    config.loss.kind = "sampled_softmax".into();
    config.sampler = config::Sampler {
        scope: Some("batch".into()),
        negatives: Some(5.into()),
        exclude: Some("none".into()),
        ..config::Sampler::default()
    };
    let (cost, made) = counted(&config);
    assert_eq!(flops(&cost), made + 6 * 4 * 8, "shared negatives");
    config.loss.kind = "bce".into();
    config.sampler = config::Sampler {
        negatives: Some(5.into()),
        propose: Some(vec![kind("catalogue")]),
        select: Some(kind("top_k")),
        ..config::Sampler::default()
    };
    let (cost, made) = counted(&config);
    // Chosen by every row for itself: gathered, with the target.
    assert_eq!(flops(&cost), made + 6 * 4 * 6 * 8, "the catalogue");
    assert_eq!(cost.parts[2].flops, 2 * 4 * 60 * 8);
}

/// Stages that learn with products of their own, against the counter; what is gathered row by row is beside it.
#[test]
fn counted_flops_are_those_of_the_stages_that_learn() {
    let of_preset = |preset: &str, loss: &str, settings: &dyn Fn(&mut config::Sampler)| {
        let mut config = small();
        config.model.causal = false;
        config.train.targets = "last".into();
        config.loss.kind = loss.into();
        config.sampler = config::Sampler { preset: preset.into(), ..config::Sampler::default() };
        settings(&mut config.sampler);
        let (cost, made) = counted(&config);
        assert_eq!(cost.uncounted.len(), 0, "{preset}");
        flops(&cost) - made
    };
    // R = 4 rows of D = 8: a sampled loss gathers each row's target and N negatives three times.
    let (rows, dim) = (4, 8);
    let loss = |n: u64| 6 * rows * (n + 1) * dim;
    // Items without a training event are taken for drawn all the same, each with a product of its vector and the gates.
    let trained = Counts::of(&set(&small()), &small()).unwrap().trained as u64;
    assert!((50..=60).contains(&trained));
    // Every one of 60 items is among 1000 candidates of a row: two parts of the score of each, four of the pair that is kept.
    let all = |sampler: &mut config::Sampler| {
        sampler.exclude = Some("none".into());
        sampler.select = Some(with("gates", "candidates", 1000.0));
    };
    assert_eq!(of_preset("dens", "bpr", &all), loss(1) + rows * 60 * 4 * dim + rows * 8 * dim + (60 - trained) * 2 * dim * dim);
    // The rewards: scores of the draw and the target.
    assert_eq!(of_preset("irgan", "bce", &|_| {}), loss(1) + rows * 2 * 2 * dim);
    // 4 candidates: two laws, a gradient and the rewards.
    let few = |sampler: &mut config::Sampler| sampler.select = Some(with("generator", "candidates", 4.0));
    assert_eq!(of_preset("kbgan", "bpr", &few), loss(1) + rows * 4 * 6 * dim + rows * 2 * 2 * dim);
    // Seven products of vectors for each fake, and the loss's two.
    assert_eq!(of_preset("pure", "pu", &|_| {}), loss(16) + rows * 14 * dim + rows * 4 * dim);
    // 2 sqrt(R) = 4 buckets of all 4 rows: random sums of the queries, and 7 items for each.
    let seven = |sampler: &mut config::Sampler| sampler.negatives = Some(7.into());
    assert_eq!(of_preset("sce", "sampled_softmax", &seven), loss(7) + 4 * rows * 2 * dim + 4 * rows * 7 * 2 * dim);
}

/// R = 4 rows of 4 sequences, D = 8, V = 60, N = 2 of M = 5 candidates.
#[test]
fn what_the_other_stages_score_and_remember() {
    let select = |text: &str| {
        let mut config = small();
        config.loss.kind = "bce".into();
        config.train.targets = "last".into();
        config.sampler = toml::from_str(&format!("negatives = 2\n{text}")).unwrap();
        let counts = Counts { items: 60, sequences: 4, ..Counts::default() };
        let cost = StepCost::new(&config, &counts, Lengths::of([ROWS; 4])).unwrap();
        assert!(cost.uncounted.is_empty(), "{text}");
        (cost.parts[2].flops, cost.parts[2].bytes / 4)
    };
    // 2 D flops a score; queries, ids and the vectors of so many distinct of 60 items are read.
    let distinct = |draws: i32| (60.0 * (1.0 - (1.0f64 - 1.0 / 60.0).powi(draws))).round() as u64;
    let scored = |width: u64| (4 * width * 16, 32 + 4 * width + 8 * distinct(4 * width as i32));
    let (flops, read) = scored(6);
    // Scores of candidates and target, and what was taken; with it the law of the proposals, or the group of a target and two log q.
    assert_eq!(select("select = { kind = 'metropolis', candidates = 5 }"), (flops, read + 4 * 8 + 20));
    assert_eq!(select("select = { kind = 'fair', candidates = 5 }"), (flops, read + 4 * 8 + 4 * 3));
    // A target, 8 remembered items and 5 candidates; four numbers of each remembered one are read and written.
    let (flops, read) = scored(14);
    assert_eq!(select("select = { kind = 'memory', candidates = 5, size = 8 }"), (flops, read + 4 * 16 + 2 * 4 * 8 * 4));
    // The last row of each sequence against 5 candidates, their log q and scores, pools of 10 and two draws with their log q.
    let (flops, read) = scored(5);
    assert_eq!(select("select = { kind = 'pool', candidates = 5, size = 10 }"), (flops, read + 2 * 20 + 2 * 4 * 10 + 2 * 4 * 2));
    // Weights by score look at both negatives and the target again; the others at one number of each row, or of each negative.
    let scored = (4 * 3 * 16, 4 * 3 * 9 + 8);
    assert_eq!(select("weight = { kind = 'attention' }"), scored);
    assert_eq!(select("weight = { kind = 'divergence' }"), scored);
    assert_eq!(select("weight = { kind = 'propensity' }"), (0, 12));
    assert_eq!(select("weight = { kind = 'category_balance', of = 'negative' }"), (0, 24));
    assert_eq!(select("mix = { kind = 'interpolate' }"), (0, 4));
}

fn with(name: &str, key: &str, value: f64) -> config::Kind {
    config::Kind { kind: name.into(), params: [(key.to_string(), config::Value::Number(value))].into() }
}

fn kind(name: &str) -> config::Kind {
    config::Kind { kind: name.into(), params: Default::default() }
}

#[test]
fn causal_attention_is_counted_by_the_pairs_it_needs() {
    let (cost, made) = counted(&small());
    // One tile holds all 8 keys, so the plain path multiplies the hidden half too: 28 pairs of a row and a later key in each of 4
    // sequences and 2 blocks, 2 products forward and 5 backward of 2 D flops a pair.
    assert_eq!(made - flops(&cost), 4 * 2 * 28 * 7 * 2 * 8);
}

/// B = 1 sequence of R = 3 rows, D = 4, one head, F = 8, one block with pre-norm, learned positions of 10, V = 6, bce against
/// N = 2 uniform negatives of each row.
#[test]
fn a_step_worked_by_hand() {
    let mut config = small();
    config.model = config::Model { dim: 4, heads: 1, layers: 1, ffn_mult: 2, ..config.model };
    config.loss.kind = "bce".into();
    config.sampler.negatives = Some(2.into());
    let counts = Counts { items: 6, sequences: 1, ..Counts::default() };
    let cost = StepCost::new(&config, &counts, Lengths::of([3])).unwrap();
    let [forward, propose, select, loss, backward, update] = cost.parts;

    // qkv, project, expand, contract: 2 R (4 12 + 4 4 + 4 8 + 8 4); attention of 1 + 2 + 3 pairs: 4 D each.
    assert_eq!(forward.flops, 2 * 3 * (48 + 16 + 32 + 32) + 6 * 16);
    assert_eq!(backward.flops, 2 * 2 * 3 * 128 + 6 * 40);
    // Score, gradient of the query and of the item: 2 D each for a target and two negatives of every row.
    assert_eq!(loss.flops, 3 * 8 * 9);
    assert_eq!((propose.flops, select, update.flops), (0, Cost::default(), 0));

    // 3 rows of 6 items are expected to be 2.53 distinct ones, of 10 positions 2.71: 3 either way; 9 of 6 are 4.84: 5.
    let embedding = (3 + 3 * 4 + 12) + (3 + 3 * 4 + 2 * 12);
    let block = 2 * (24 + 6 + 8)
        + 2 * 36
        + (36 + 12 + 3)
        + 2 * 24
        + (12 + 48 + 12 + 36)
        + (12 + 16 + 4 + 12)
        + (12 + 32 + 8 + 24)
        + (24 + 32 + 4 + 12);
    let queries = 24 + 6 + 8;
    assert_eq!(forward.bytes, 4 * (embedding + 24 + block + queries));
    assert_eq!(propose.bytes, 4 * 6);
    assert_eq!(loss.bytes, 4 * (2 * 12 + 3 * 5 * 4 + 6 + 3));
    // Units: the flops of layers and of attention; three norms' bytes; what is dropped is the input and two branches; rows sorted
    // are 3 of 6 items and 3 of 10 positions.
    let units = |cost: Cost, of: &[Operation]| of.iter().map(|&o| cost.units[o as usize]).collect::<Vec<_>>();
    let encoder = [Operation::Layer, Operation::Attention, Operation::Norm, Operation::Dropout, Operation::Activation];
    assert_eq!(units(forward, &encoder), [768, 96, 4 * 3 * 38, 36, 4 * 48]);
    assert_eq!(units(backward, &[Operation::Layer, Operation::Attention, Operation::Group]), [1536, 240, 9 + 13]);
    assert_eq!(units(loss, &[Operation::Pairs, Operation::Pass]), [9, 0]);
    assert_eq!((units(propose, &[Operation::Propose]), units(update, &[Operation::Update])), (vec![6], vec![update.bytes]));
    // Dense: the norm reads g; x, g, m, v are read and written. 6 4 of the table, 10 4 positions, 128 weights, 12 + 4 + 8 + 4 of
    // their biases, 3 norms of 8.
    assert_eq!(update.bytes, 4 * 9 * (24 + 40 + 128 + 28 + 24));
}

#[test]
fn a_table_by_row_is_updated_by_the_rows_a_step_meets() {
    let mut config = small();
    config.loss.kind = "bce".into();
    let counts = Counts { items: 1000, sequences: 4, ..Counts::default() };
    let update = |tables: &str| {
        let config = Config { optim: config::Optim { tables: tables.into(), ..config.optim.clone() }, ..config.clone() };
        StepCost::new(&config, &counts, Lengths::of([ROWS; 4])).unwrap().parts[5].bytes
    };
    // Histories, targets and negatives, 96 draws of 1000 items: 91.6 rows of D = 8, with 5 numbers of bookkeeping each. The ten
    // positions are a table as well, and all of them are asked for.
    assert_eq!(update("dense") - update("lazy"), 4 * (9 * 8 * 1000 - 92 * (9 * 8 + 5)) - 4 * 10 * 5);
    // Of a row by Adagrad x and g, and 3 numbers of bookkeeping.
    assert_eq!(update("dense") - update("adagrad"), 4 * (9 * 8 * 1000 - 92 * (5 * 8 + 3)) + 4 * 10 * (4 * 8 - 3));
}
