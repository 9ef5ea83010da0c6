//! Every sampler on a real chain of parts: the synthetic log, prepared, split and gathered.

use std::collections::BTreeMap;
use std::sync::Arc;

use hardneg::config::{self, Config};
use hardneg::config::{Curve, CurveShape, Kind, Value};
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
use hardneg::rng::{Draws, Stream, below, normal2};
use hardneg::sampling::{self, Attributes, Clusters, Explicit, Form, Knowledge, Moment, OF_PROPOSALS, Sampler, State, presets};

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
    /// A model of eighths, whose products are exact in f32: every device has the same scores, and a row its own in any batch.
    fn scored<R>(&self, device: &Device, batch: &Batch, work: impl FnOnce(&Scoring) -> R) -> R {
        self.scored_by(0, device, batch, work)
    }
    /// The same with the queries of another `model`.
    fn scored_by<R>(&self, model: u8, device: &Device, batch: &Batch, work: impl FnOnce(&Scoring) -> R) -> R {
        let vector = |lane: u8, key: u64| -> Vec<f64> {
            let draws = Draws::new(3, Stream::Test, lane, key);
            (0..DIM as u64).map(|d| (below(draws.words64(d)[0], 33) as f64 - 16.0) / 8.0).collect()
        };
        let query: Vec<f64> = batch.row_keys.iter().flat_map(|&key| vector(2 * model, key)).collect();
        let table: Vec<f64> = (0..self.data.items() as u64).flat_map(|item| vector(1, item)).collect();
        let (query, table) = (device.reals(&query).unwrap(), device.reals(&table).unwrap());
        work(&Scoring { kind: ScoreKind::Dot, dim: DIM, items: self.data.items(), query: &query, context: None, table: &table })
    }
    /// What `sampler` draws for batches of `sequences`, row by row.
    fn drawn<'s>(&self, device: &Device, sampler: &Sampler, batches: impl Iterator<Item = &'s [u32]>) -> Drawn {
        self.drawn_at(2, device, sampler, batches)
    }
    fn drawn_at<'s>(&self, epoch: u64, device: &Device, sampler: &Sampler, batches: impl Iterator<Item = &'s [u32]>) -> Drawn {
        let mut rows = Drawn::new();
        for (batch_index, sequences) in batches.enumerate() {
            let batch = self.batch(sequences.iter().copied());
            let moment = Moment { batch_index: batch_index as u64, ..moment(epoch) };
            let mut negatives = self.scored(device, &batch, |s| sampler.draw(device, &batch, Some(s), moment)).unwrap();
            negatives.fetch(device).unwrap();
            let (n, w) = (negatives.n, negatives.wrong_contexts());
            for (r, &g) in negatives.groups_of_rows().iter().enumerate() {
                let dropped = |j: usize| negatives.drop.get(r * n + j).copied().unwrap_or(false);
                let ids = negatives.ids_of(g as usize).iter().enumerate().map(|(j, &id)| if dropped(j) { NONE } else { id });
                let log_q = negatives.log_q.get(g as usize * n..(g as usize + 1) * n).unwrap_or(&[]);
                let wrong = &negatives.wrong_context[r * w..(r + 1) * w];
                rows.insert(batch.row_keys[r], (ids.collect(), log_q.to_vec(), wrong.to_vec()));
            }
        }
        rows
    }
}

/// Per row the ids it may count, their log-probabilities, and the events of wrong contexts.
type Drawn = BTreeMap<u64, (Vec<u32>, Vec<f32>, Vec<u64>)>;

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
        let negatives =
            world.scored(&Device::HOST, &batch, |s| sampler.draw(&Device::HOST, &batch, Some(s), moment(20))).unwrap();
        assert_eq!(negatives.n, sampler.negatives(20.0), "{}", preset.name);
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
        assert_eq!(negatives.wrong_context.len(), batch.rows() * sampler.wrong_contexts(20.0));
        for &event in &negatives.wrong_context {
            let user = world.data.offsets().partition_point(|&o| o <= event) - 1;
            assert!(event < world.split.train_end[user], "{}: event {event} is held out", preset.name);
        }
    }
}

/// Presets whose draws depend on what else is in a batch, by their definition: they draw from its targets, by its number or
/// from its queries, or learn from every batch.
const OF_THE_BATCH: [&str; 11] =
    ["in-batch", "mns", "tron", "gru4rec", "amns", "genni", "kgpolicy", "kbgan", "irgan", "sce", "dens"];

/// However the sequences are cut into batches, dealt to processes and worked on by threads, a row is given the same: scores or none.
#[test]
fn rows_are_given_the_same_for_any_batching_threads_and_number_of_processes() {
    let world = world();
    let all: Vec<u32> = (0..world.set.len() as u32).collect();
    for preset in presets().unwrap() {
        let config = self::preset(&preset.name);
        let with_threads = |n: usize, work: &(dyn Fn() -> Drawn + Sync)| {
            rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(work)
        };
        let whole = world.drawn(&Device::HOST, &world.sampler(&config, 3), std::iter::once(&all[..]));
        assert_eq!(whole.len(), world.batch(all.iter().copied()).rows());
        let again = with_threads(16, &|| world.drawn(&Device::HOST, &world.sampler(&config, 3), std::iter::once(&all[..])));
        assert!(again == whole, "{}: sixteen threads", preset.name);
        let mut differ = vec![];
        for (size, threads) in [(1usize, 1), (7, 3), (32, 2)] {
            let cut = with_threads(threads, &|| world.drawn(&Device::HOST, &world.sampler(&config, 3), all.chunks(size)));
            differ.extend((cut != whole).then(|| format!("batches of {size}")));
        }
        for processes in [2usize, 4] {
            // Every process has every so many-th sequence, and a sampler of its own.
            let of = |first: usize| {
                let own: Vec<u32> = all.iter().copied().skip(first).step_by(processes).collect();
                world.drawn(&Device::HOST, &world.sampler(&config, 3), own.chunks(16))
            };
            let dealt: Drawn = (0..processes).flat_map(of).collect();
            differ.extend((dealt != whole).then(|| format!("{processes} processes")));
        }
        let expected = if OF_THE_BATCH.contains(&preset.name.as_str()) { 5 } else { 0 };
        assert_eq!(differ.len(), expected, "{}: {differ:?}", preset.name);
    }
}

/// Scores that are the same to the last bit give the same ids, so only rounding can tell a machine from the plain path. Samplers
/// that remember are asked twice.
#[cfg(feature = "emulator")]
#[test]
fn every_preset_draws_on_a_machine_what_it_draws_on_the_plain_path() {
    use hardneg::device::emulator::{self, Options};
    use hardneg::error::Code;
    let machine = match emulator::open(&Options::new(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels"))) {
        Err(error) if error.code() == Code::G0507 => return println!("SKIPPED: no C++ compiler"),
        machine => machine.unwrap(),
    };
    let world = world();
    let sequences: Vec<u32> = (0..24).collect();
    let agree = |name: &str, config: &config::Sampler, epochs: &[u64]| {
        let of = |device: &Device| {
            let sampler = world.sampler(config, 3);
            epochs.iter().map(|&epoch| world.drawn_at(epoch, device, &sampler, sequences.chunks(12))).collect::<Vec<_>>()
        };
        let (plain, there) = (of(&Device::HOST), of(&machine));
        for (plain, there) in plain.iter().zip(&there) {
            assert!(plain.keys().eq(there.keys()));
            for ((key, plain), there) in plain.iter().zip(there.values()) {
                assert_eq!((&plain.0, &plain.2), (&there.0, &there.2), "{name}, row {key}");
                let strays = plain.1.iter().zip(&there.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(plain.1.len() == there.1.len() && strays < 1e-4, "{name}, row {key}: log q strays {strays}");
            }
        }
    };
    for preset in presets().unwrap() {
        agree(&preset.name, &self::preset(&preset.name), &[2, 2]);
    }
    // Its table there is made anew, and again when an earlier epoch comes back.
    let mut moving = world.sampler(&preset("mns"), 3).resolved();
    moving.preset.clear();
    let params = [("alpha".to_string(), line(0.0, 2.0))].into();
    moving.propose.as_mut().unwrap().push(Kind { kind: "popularity".into(), params });
    agree("a moving popularity", &moving, &[0, 3, 3, 0]);
}

/// With `n ~ softmax(s)` the loss `s_n - s+` has the full softmax's gradient on average: GenNi at beta 1, nothing excluded, against
/// a hinge that is never at rest. Three standard errors along six directions; a difficulty of 1.3 is out of all doubt.
#[test]
fn the_mean_gradient_of_genni_is_that_of_the_full_softmax() {
    const ITEMS: usize = 37;
    const ROWS: usize = 25;
    let (counts, device) = ([1; ITEMS], Device::ORACLE);
    let batch = Batch {
        users: vec![0, 1],
        offsets: vec![0, 11, 25].into(),
        items: vec![0; ROWS].into(),
        targets: (0..ROWS as u32).map(|r| r * r % 37).collect(),
        row_keys: (70..95).collect(),
        seen_extents: vec![[0, 0]; 2],
        ..Batch::default()
    };
    let noise = |lane: u8, n: usize| -> Vec<f64> {
        let draws = Draws::new(3, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0]).collect()
    };
    let (query, table) = (device.reals(&noise(0, ROWS * DIM)).unwrap(), device.reals(&noise(2, ITEMS * DIM)).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: DIM, items: ITEMS, query: &query, context: None, table: &table };
    let hinge = toml::from_str("kind = 'hinge'\nmargin = 1e6").unwrap();
    let Loss::Sampled(hinge) = loss::build(&hinge, ITEMS, 4, ScoreKind::Dot).unwrap() else { panic!() };
    let gradient = |negatives: Option<&Negatives>| {
        let (mut of_query, mut of_table) = (Buffer::empty(&device), device.zeros(ITEMS * DIM).unwrap());
        let grads = Gradients { query: &mut of_query, context: None, wrong: None, table: &mut of_table };
        match negatives {
            None => full_softmax::forward_backward(&device, grads, &scoring, &batch.targets, 1.0),
            Some(drawn) => sampled_loss::forward_backward(&device, grads, &scoring, &batch.targets, drawn, None, &*hinge, 1.0),
        }
        .unwrap();
        [of_query, of_table].map(|g| g.to_f64(&device).unwrap()).concat()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let full = gradient(None);
    let directions: Vec<Vec<f64>> = std::iter::once(full.clone()).chain((10..15).map(|lane| noise(lane, full.len()))).collect();
    // How many standard errors the mean is away, along each direction.
    let away = |beta: f64| -> Vec<f64> {
        let text = format!(
            "preset = 'genni-full'\nexclude = 'none'\nnegatives = 4\nselect = {{ kind = 'softmax_draw', beta = {beta:?} }}"
        );
        let sampler = Sampler::new(&toml::from_str(&text).unwrap(), &counted(&counts), 5).unwrap();
        let drawn = |epoch| sampler.draw(&device, &batch, Some(&scoring), moment(epoch)).unwrap();
        let gradients: Vec<Vec<f64>> = (0..600).map(|epoch| gradient(Some(&drawn(epoch)))).collect();
        let along = |direction: &Vec<f64>| {
            let lengths: Vec<f64> = gradients.iter().map(|g| dot(g, direction)).collect();
            let n = lengths.len() as f64;
            let mean = lengths.iter().sum::<f64>() / n;
            let variance = lengths.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
            (mean - dot(&full, direction)).abs() / (variance / n).sqrt()
        };
        directions.iter().map(along).collect()
    };
    let unbiased = away(1.0);
    assert!(unbiased.iter().all(|z| *z < 3.0), "{unbiased:?}");
    let biased = away(1.3);
    assert!(biased.iter().any(|z| *z > 10.0), "{biased:?}");
}

/// One bucket of all rows and all items is the full softmax, in value and gradient; smaller buckets are the mean over the rows
/// that are in one, of the softmax over the positive and what the bucket shows.
#[test]
fn buckets_that_hold_everything_are_the_full_softmax() {
    const ITEMS: usize = 37;
    let (counts, device) = ([1; ITEMS], Device::ORACLE);
    let batch = Batch {
        users: vec![0, 1],
        offsets: vec![0, 11, 25].into(),
        items: vec![0; 25].into(),
        targets: (0..25).map(|r| r * r % 37).collect(),
        row_keys: (70..95).collect(),
        seen_extents: vec![[0, 0]; 2],
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
        offsets: vec![0, 3, 5].into(),
        items: vec![0; 5].into(),
        targets: vec![1, 2, 3, 4, 5].into(),
        row_keys: vec![100, 101, 102, 7_000_000_000, 7_000_000_001].into(),
        seen_extents: vec![[0, 3], [3, 5]],
        seen: vec![1, 2, 3, 4, 5].into(),
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
        offsets: vec![0, 1000].into(),
        items: vec![0; 1000].into(),
        targets: vec![0; 1000].into(),
        row_keys: (0..1000).collect(),
        seen_extents: vec![[0, 1]],
        seen: vec![0].into(),
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

/// Everything a draw hands over, and what the sampler remembers after it.
#[derive(PartialEq)]
struct Whole {
    ids: Vec<u32>,
    reals: [Vec<f32>; 5],
    wrong_context: Vec<u64>,
    drop: Vec<bool>,
    remembered: Vec<State>,
}

impl World {
    /// What a fresh sampler hands over at each of `epochs`, in order, every one of which has its own model.
    fn at(&self, config: &config::Sampler, batch: &Batch, epochs: &[u64]) -> Vec<Whole> {
        let sampler = self.sampler(config, 9);
        let draw = |&epoch: &u64| {
            let draw = |s: &Scoring| sampler.draw(&Device::HOST, batch, Some(s), moment(epoch));
            let drawn = self.scored_by(epoch as u8, &Device::HOST, batch, draw);
            let Negatives { ids, log_q, weight, row_weight, toward_positive, generated, wrong_context, drop, .. } =
                drawn.unwrap();
            let reals = [log_q, weight, row_weight, toward_positive, generated];
            Whole { ids, reals, wrong_context, drop, remembered: sampler.state() }
        };
        epochs.iter().map(draw).collect()
    }
}

/// A line from `from` to `to` over four epochs: at the second it is half way.
fn line(from: f64, to: f64) -> Value {
    Value::Curve(Curve { from, to, over: 4.0, shape: CurveShape::Linear })
}

/// The parameter `name` of the stage or proposal at `place` of a sampler with everything written out.
fn put(sampler: &config::Sampler, place: (&str, usize), name: &str, value: Value) -> config::Sampler {
    let mut sampler = config::Sampler { preset: String::new(), ..sampler.clone() };
    let kind: &mut Kind = match place {
        ("propose", i) => &mut sampler.propose.as_mut().unwrap()[i],
        ("select", _) => sampler.select.as_mut().unwrap(),
        ("mix", _) => sampler.mix.as_mut().unwrap(),
        _ => sampler.weight.as_mut().unwrap(),
    };
    kind.params.insert(name.into(), value);
    sampler
}

/// Every number of every stage follows a curve: at an epoch a sampler draws what one with the number draws that the curve has
/// reached. That a number does something at all is seen by its ends.
#[test]
fn any_number_follows_a_curve() {
    let world = world();
    let batch = world.batch(0..world.set.len() as u32);
    let (mut met, mut still) = (Vec::new(), Vec::new());
    for preset in presets().unwrap() {
        let whole = world.sampler(&self::preset(&preset.name), 9).resolved();
        let proposals = whole.propose.clone().unwrap().into_iter().enumerate().map(|(i, kind)| (("propose", i), kind));
        let stages = [("select", &whole.select), ("mix", &whole.mix), ("weight", &whole.weight)];
        let kinds = proposals.chain(stages.map(|(stage, kind)| ((stage, 0), kind.clone().unwrap())));
        for (place, kind) in kinds.collect::<Vec<_>>() {
            let declared = sampling::kinds().into_iter().find(|d| d.name == kind.kind && d.stage.name() == place.0).unwrap();
            let shared = if place.0 == "propose" { OF_PROPOSALS } else { &[] };
            for param in declared.params.iter().chain(shared).filter(|p| kind.params.contains_key(p.name)) {
                let (low, high, curve, whole_number) = match param.form {
                    Form::Number { low, high, curve, .. } => (low, high, curve, false),
                    Form::Count { low, high, curve, .. } => (low, high, curve, true),
                    _ => continue,
                };
                let name = format!("{}.{}", kind.kind, param.name);
                if met.contains(&name) {
                    continue;
                }
                met.push(name.clone());
                if !curve {
                    still.push(name);
                    continue;
                }
                let from = kind.params[param.name].at(0.0).unwrap();
                // A third of it, or thrice; the half way of whole numbers is whole.
                let to = match from * 3.0 <= high {
                    // The log fills no longer lists, and has no item as rare as that.
                    _ if ["neighbours", "most"].contains(&param.name) => from / 50.0,
                    true if from > 0.0 => 3.0 * from,
                    true => high.min(1.0),
                    false => (from / 3.0).max(low),
                };
                let half = (from + to) / 2.0;
                let half = if whole_number { half.round() } else { half };
                let of = |value: Value, epochs: &[u64]| world.at(&put(&whole, place, param.name, value), &batch, epochs);
                assert!(of(line(from, to), &[2]) == of(Value::Number(half), &[2]), "{}: {name} = {half}", preset.name);
                let [first, last] = [from, to].map(|end| of(Value::Number(end), &[0, 1, 2, 3, 4, 5, 6, 7]));
                assert!(first != last, "{}: {name} does nothing", preset.name);
            }
        }
    }
    // The width of a network is what a checkpoint holds.
    assert_eq!(still, ["generated.noise"]);
    let declared: Vec<String> = sampling::kinds()
        .iter()
        .flat_map(|d| d.params.iter().map(move |p| (d, p)))
        .filter(|(_, p)| matches!(p.form, Form::Number { .. } | Form::Count { .. }))
        .map(|(d, p)| format!("{}.{}", d.name, p.name))
        .collect();
    let unmet: Vec<&String> = declared.iter().filter(|name| !met.contains(name)).collect();
    assert!(unmet.is_empty(), "no preset has {unmet:?}");
}
