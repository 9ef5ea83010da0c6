//! Every sampler on a real chain of parts: the synthetic log, prepared, split and gathered.

use std::sync::Arc;

use hardneg::config::{self, Config};
use hardneg::data::batch::Batch;
use hardneg::data::clusters::{Method, TimeClusters};
use hardneg::data::interactions::Interactions;
use hardneg::data::prepare::in_memory;
use hardneg::data::split::Split;
use hardneg::data::synthetic::generate;
use hardneg::data::training::TrainingSet;
use hardneg::device::{Buffer, Device};
use hardneg::ids::NONE;
use hardneg::loss::{self, Loss};
use hardneg::ops::full_softmax;
use hardneg::ops::negatives::Negatives;
use hardneg::ops::sampled_loss::{self, Gradients};
use hardneg::ops::score::{self, ScoreKind, Scoring};
use hardneg::rng::{Draws, Stream, normal2};
use hardneg::sampling::{Attributes, Clusters, Explicit, Knowledge, Moment, Sampler, presets};

use crate::statistics::{assert_law, count};

const DIM: usize = 8;

/// A log of 120 users and up to 400 items, of which some occur in the held-out part only.
struct World {
    data: Arc<Interactions>,
    split: Arc<Split>,
    set: TrainingSet,
    clusters: TimeClusters,
    /// Six explicit negatives of every user, said before the user's first event.
    unwanted: (Vec<u64>, Vec<u32>),
}

fn world() -> World {
    let synthetic = config::Synthetic { users: 120, items: 400, events_per_user: 12.0, seed: 5, ..Default::default() };
    let config = Config { data: config::Data { synthetic: synthetic.clone(), ..Default::default() }, ..Config::default() };
    let (raw, sides) = generate(&synthetic).unwrap();
    let data = Arc::new(in_memory(raw, &config.data, sides).unwrap());
    let split = Arc::new(Split::new(&data, &config.data, 1).unwrap());
    let clusters = TimeClusters::fit(&data, &split, 6, Method::Bisecting).unwrap();
    let set = TrainingSet::new(data.clone(), split.clone(), &config, None, Some(clusters.clone())).unwrap();
    let offsets = (0..=data.users() as u64).map(|u| 6 * u).collect();
    let unwanted = (0..6 * data.users()).map(|n| (n * 37 % data.items()) as u32).collect();
    World { data, split, set, clusters, unwanted: (offsets, unwanted) }
}

impl World {
    fn sampler(&self, config: &config::Sampler, seed: u64) -> Sampler {
        let (counts, events) = (self.clusters.counts(&self.data, &self.split), self.clusters.events(&self.data, &self.split));
        let knowledge = Knowledge {
            train_counts: &self.split.train_items,
            event_items: self.data.event_items(),
            offsets: self.data.offsets(),
            train_end: &self.split.train_end,
            clusters: Some(Clusters { counts: &counts, events: &events }),
            attributes: self.data.attributes().map(|a| Attributes { offsets: a.offsets, codes: a.codes }),
            graph: self.data.graph().map(|g| Attributes { offsets: g.offsets, codes: g.codes }),
            explicit: Some(Explicit { offsets: &self.unwanted.0, items: &self.unwanted.1, times: None }),
        };
        Sampler::new(config, &knowledge, seed).unwrap()
    }
    fn batch(&self, sequences: impl Iterator<Item = u32>) -> Batch {
        self.set.gather(&sequences.collect::<Vec<_>>(), 0, 1)
    }
    /// A random model: scores of every row of `batch`.
    fn scored<R>(&self, batch: &Batch, work: impl FnOnce(&Scoring) -> R) -> R {
        let noise = |lane: u8, n: usize| -> Buffer {
            let draws = Draws::new(3, Stream::Test, lane, 0);
            Device::HOST.reals(&(0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect::<Vec<_>>()).unwrap()
        };
        let (query, table) = (noise(0, batch.rows() * DIM), noise(1, self.data.items() * DIM));
        work(&Scoring { kind: ScoreKind::Dot, dim: DIM, items: self.data.items(), query: &query, context: None, table: &table })
    }
}

/// Popularity alone is known.
fn counted(train_counts: &[u32]) -> Knowledge<'_> {
    Knowledge { train_counts, ..Knowledge::default() }
}

fn moment(epoch: u64) -> Moment {
    Moment { epoch: epoch as f64, epoch_index: epoch, batch_index: 0 }
}

fn preset(name: &str) -> config::Sampler {
    config::Sampler { preset: name.into(), ..Default::default() }
}

#[test]
fn no_preset_draws_what_it_must_not() {
    let world = world();
    let batch = world.batch(0..world.set.len() as u32);
    let held_out: Vec<u32> = (0..world.data.items() as u32).filter(|&i| world.split.train_items[i as usize] == 0).collect();
    assert!(!held_out.is_empty(), "the log has items that occur in the held-out part only");
    for preset in presets().unwrap() {
        let sampler = world.sampler(&self::preset(&preset.name), 9);
        let negatives = world.scored(&batch, |s| sampler.draw(&Device::HOST, &batch, Some(s), moment(20))).unwrap();
        assert_eq!(negatives.n, sampler.negatives(), "{}", preset.name);
        assert_eq!(negatives.ids.len(), negatives.groups() * negatives.n, "{}: as many as were asked for", preset.name);
        assert_eq!(negatives.log_q.len(), if sampler.gives_log_q() { negatives.ids.len() } else { 0 });
        let sequences = batch.sequence_of_rows();
        let history = sampler.resolved().exclude.as_deref() == Some("history");
        let mut counted = 0;
        for g in 0..negatives.groups() {
            for r in negatives.range(g) {
                for (slot, &id) in negatives.ids_of(g).iter().enumerate() {
                    let dropped = negatives.drop.get(r * negatives.n + slot).copied().unwrap_or(false);
                    if id == NONE || dropped {
                        continue;
                    }
                    counted += 1;
                    assert!(!held_out.contains(&id), "{}: item {id} has no training event", preset.name);
                    assert_ne!(id, batch.targets[r], "{}", preset.name);
                    let seen = batch.seen_of(sequences[r] as usize).binary_search(&id).is_ok();
                    assert!(!(history && seen), "{}: item {id} was seen", preset.name);
                }
            }
        }
        // A row that weighs nothing needs no negatives.
        let rows = (0..batch.rows()).filter(|&r| negatives.row_weight.get(r).is_none_or(|w| *w > 0.0)).count();
        assert!(rows * 2 > batch.rows(), "{}: {rows} rows count", preset.name);
        assert!(counted * 10 > rows * negatives.n * 8, "{}: {counted} negatives count", preset.name);
        // Wrong contexts are of training events, never of what is to be predicted later.
        assert_eq!(negatives.wrong_context.len(), batch.rows() * sampler.wrong_contexts());
        for &event in &negatives.wrong_context {
            let user = world.data.offsets().partition_point(|&o| o <= event) - 1;
            assert!(event < world.split.train_end[user], "{}: event {event} is held out", preset.name);
        }
    }
}

#[test]
fn ids_no_score_touches_are_the_same_for_any_batching_and_threads() {
    let world = world();
    let all = world.batch(0..world.set.len() as u32);
    let of_the_batch = ["uniform", "gsasrec", "dross", "popularity", "log-popularity", "cans-items", "cans"];
    let of_the_data = ["same-attribute", "knn-attribute", "gnno", "user-walk", "predefined"];
    let presets = of_the_batch.into_iter().chain(of_the_data).map(|name| (name, preset(name)));
    // The preset prunes by scores; its walk alone does not.
    let walk = config::Kind { kind: "graph_walk".into(), params: Default::default() };
    let walk = config::Sampler {
        scope: Some("position".into()),
        negatives: Some(16),
        exclude: Some("history".into()),
        propose: Some(vec![walk]),
        weight: Some(config::Kind { kind: "log_q".into(), params: Default::default() }),
        ..Default::default()
    };
    for (name, config) in presets.chain([("graph_walk", walk)]) {
        let sampler = world.sampler(&config, 3);
        let whole = sampler.draw(&Device::HOST, &all, None, moment(2)).unwrap();
        for size in [1usize, 7, 32] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + size % 4).build().unwrap();
            let (mut ids, mut log_q, mut wrong) = (vec![], vec![], vec![]);
            for start in (0..world.set.len()).step_by(size) {
                let batch = world.batch(start as u32..world.set.len().min(start + size) as u32);
                let part = pool.install(|| sampler.draw(&Device::HOST, &batch, None, moment(2))).unwrap();
                ids.extend(part.ids);
                log_q.extend(part.log_q);
                wrong.extend(part.wrong_context);
            }
            assert!(ids == whole.ids && log_q == whole.log_q && wrong == whole.wrong_context, "{name} in batches of {size}");
        }
    }
}

/// One bucket of all rows and all items is the full softmax, in value and gradient; smaller buckets are the mean over the rows
/// that are in one, of the softmax over the positive and what the bucket shows.
#[test]
fn buckets_that_hold_everything_are_the_full_softmax() {
    const ITEMS: usize = 37;
    let (counts, device) = ([1; ITEMS], Device::ORACLE);
    let batch = Batch {
        users: vec![0, 1],
        offsets: vec![0, 11, 25],
        items: vec![0; 25],
        targets: (0..25).map(|r| r * r % 37).collect(),
        row_keys: (70..95).collect(),
        seen_offsets: vec![0, 0, 0],
        ..Batch::default()
    };
    let noise = |lane: u8, n: usize| {
        let draws = Draws::new(3, Stream::Test, lane, 0);
        device.reals(&(0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect::<Vec<_>>()).unwrap()
    };
    let (query, context, table) = (noise(0, 25 * DIM), noise(1, 25 * DIM), noise(2, ITEMS * DIM));
    let softmax = config::Kind { kind: "sampled_softmax".into(), params: Default::default() };
    for (kind, context) in [(ScoreKind::Dot, None), (ScoreKind::Cosine { temperature: 0.3 }, Some(&context))] {
        let scoring = Scoring { kind, dim: DIM, items: ITEMS, query: &query, context, table: &table };
        let drawn = |text: &str| {
            let sampler = Sampler::new(&toml::from_str(text).unwrap(), &counted(&counts), 5).unwrap();
            sampler.draw(&device, &batch, Some(&scoring), moment(0)).unwrap()
        };
        let graded = |negatives: Option<&Negatives>| {
            let (mut of_query, mut of_context, mut of_table) =
                (Buffer::empty(&device), Buffer::empty(&device), device.zeros(ITEMS * DIM).unwrap());
            let grads =
                Gradients { query: &mut of_query, context: context.map(|_| &mut of_context), wrong: None, table: &mut of_table };
            let targets = &batch.targets;
            let value = match negatives {
                None => full_softmax::forward_backward(&device, grads, &scoring, targets, 1.0 / 25.0),
                Some(negatives) => {
                    let Loss::Sampled(loss) = loss::build(&softmax, ITEMS, negatives.n, kind).unwrap() else { panic!() };
                    sampled_loss::forward_backward(&device, grads, &scoring, targets, negatives, None, &*loss, 1.0 / 25.0)
                }
            };
            let gradients = [of_query, of_context, of_table].map(|g| g.to_f64(&device).unwrap());
            [vec![value.unwrap().read(&device).unwrap()], gradients.concat()].concat()
        };
        let sce = "preset = 'sce'\nnegatives = 37\nselect = { kind = 'buckets', buckets = 0.2, rows = 5.0 }";
        let (whole, full) = (graded(Some(&drawn(sce))), graded(None));
        assert!(whole.len() == full.len() && full.iter().all(|x| x.is_finite()));
        whole.iter().zip(&full).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{kind:?}: {a} for {b}"));

        let few = drawn("preset = 'sce'\nnegatives = 6\nselect = { kind = 'buckets', buckets = 0.6, rows = 0.8 }");
        let mut scores = Buffer::empty(&device);
        score::all(&device, &mut scores, &scoring).unwrap();
        let scores = scores.to_f64(&device).unwrap();
        let row = |r: usize| {
            let s = &scores[r * ITEMS..(r + 1) * ITEMS];
            let given = few.ids_of(r).iter().filter(|&&i| i != NONE).map(|&i| s[i as usize].exp());
            let (positive, given) = (s[batch.targets[r] as usize], given.collect::<Vec<_>>());
            (!given.is_empty()).then(|| (given.iter().sum::<f64>() + positive.exp()).ln() - positive)
        };
        let rows: Vec<f64> = (0..25).filter_map(row).collect();
        assert!((4..25).contains(&rows.len()), "{} rows are in a bucket", rows.len());
        let mean = rows.iter().sum::<f64>() / rows.len() as f64;
        // Weights are f32.
        assert!((graded(Some(&few))[0] - mean).abs() < 1e-6 * mean, "{kind:?}");
        assert!((graded(Some(&Negatives { row_weight: vec![], ..few.clone() }))[0] - mean).abs() > 1e-2 * mean);
    }
}

/// A digest that only this file needs to agree with.
fn digest(ids: &[u32]) -> u64 {
    ids.iter().fold(0xcbf2_9ce4_8422_2325, |h, &i| (h ^ u64::from(i)).wrapping_mul(0x0100_0000_01b3))
}

/// Drawn ids are part of what a seed means: these numbers change only together with `rng::STREAM_VERSION`.
#[test]
fn a_seed_means_the_same_draws_in_every_version() {
    let n = 1009usize;
    let counts: Vec<u32> = (0..n as u32).map(|i| 1 + 5000 / (i + 1)).collect();
    let knowledge = counted(&counts);
    let batch = Batch {
        users: vec![11, 12],
        offsets: vec![0, 3, 5],
        items: vec![0; 5],
        targets: vec![1, 2, 3, 4, 5],
        row_keys: vec![100, 101, 102, 7_000_000_000, 7_000_000_001],
        seen_offsets: vec![0, 3, 5],
        seen: vec![1, 2, 3, 4, 5],
        ..Batch::default()
    };
    let drawn: Vec<(&str, u64)> = GOLDEN
        .iter()
        .map(|&(name, _)| {
            let sampler = Sampler::new(&preset(name), &knowledge, 1234).unwrap();
            (name, digest(&sampler.draw(&Device::HOST, &batch, None, moment(3)).unwrap().ids))
        })
        .collect();
    assert_eq!(drawn, GOLDEN);
}

const GOLDEN: &[(&str, u64)] = &[
    ("uniform", 0xf333_49ad_d7eb_a7d0),
    ("gsasrec", 0x316a_1a3f_3d07_5fdb),
    ("dross", 0x4b37_6240_ffd7_3927),
    ("popularity", 0xe346_ffe6_9e58_20a1),
    ("log-popularity", 0x9c76_9442_fad2_d7de),
    ("mns", 0x3449_1e64_6c24_258c),
];

#[test]
fn a_catalogue_of_millions_is_drawn_from_evenly() {
    // Contiguous ranges hide f32's faults, residues show them: 20 residues modulo a prime, a million draws.
    let n = (1usize << 24) + 1;
    let counts = vec![1u32; n];
    let knowledge = counted(&counts);
    let batch = Batch {
        users: vec![0; 1],
        offsets: vec![0, 1000],
        items: vec![0; 1000],
        targets: vec![0; 1000],
        row_keys: (0..1000).collect(),
        seen_offsets: vec![0, 1],
        seen: vec![0],
        ..Batch::default()
    };
    for propose in ["{ kind = 'uniform' }", "{ kind = 'popularity', alpha = 1.0 }"] {
        let config = format!("negatives = 1000\nexclude = 'target'\npropose = [{propose}]");
        let sampler = Sampler::new(&toml::from_str(&config).unwrap(), &knowledge, 5).unwrap();
        let ids = sampler.draw(&Device::HOST, &batch, None, moment(0)).unwrap().ids;
        for modulus in [2usize, 19, 256] {
            // Item 0 is excluded.
            let law: Vec<f64> =
                (0..modulus).map(|m| ((n - 1 - m) / modulus + usize::from(m > 0)) as f64 / (n - 1) as f64).collect();
            assert_law(propose, &count(modulus, ids.iter().map(|&i| i % modulus as u32)), &law);
        }
        let slices: Vec<f64> = (0..1000).map(|s| ((s + 1) * n / 1000 - s * n / 1000) as f64 / n as f64).collect();
        assert_law(propose, &count(1000, ids.iter().map(|&i| (((i as usize + 1) * 1000 - 1) / n) as u32)), &slices);
    }
}
