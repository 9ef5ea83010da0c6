use super::*;
use crate::data::clusters::{Method, TimeClusters};
use crate::data::context::ContextEncoder;
use crate::data::prepare::prepare;
use crate::data::raw::Sides;
use crate::data::split::Split;
use crate::data::synthetic;
use crate::device::emulator::{Emulator, Options};
use crate::device::watched::Watched;
use crate::device::{Numbers, download, numbers};

/// A small synthetic log, ready to train on.
fn data(config: &Config) -> Arc<TrainingSet> {
    let folder = tempfile::tempdir().unwrap();
    let (raw, sides) = synthetic::generate(&config.data.synthetic).unwrap();
    // Attributes join the vectors of items, so they are there only for the sampler that asks for them.
    let sides = match config.sampler.preset.as_str() {
        "fairneg" => sides,
        "kgpolicy" => Sides { graph: sides.graph, ..Sides::default() },
        _ => Sides::default(),
    };
    let log = Arc::new(prepare(raw, &config.data, sides, &folder.path().join("data")).unwrap());
    let split = Arc::new(Split::new(&log, &config.data, 1).unwrap());
    let context = ContextEncoder::fit(&log, &split, config).unwrap();
    let clusters = Some(TimeClusters::fit(&log, &split, 3, Method::Bisecting).unwrap());
    Arc::new(TrainingSet::new(log, split, config, context, clusters).unwrap())
}

fn small() -> Config {
    let mut config = Config::default();
    config.data.synthetic = config::Synthetic { users: 60, items: 50, events_per_user: 9.0, ..config.data.synthetic };
    config.model = config::Model { dim: 8, heads: 2, layers: 1, max_len: 7, ..config.model };
    config.train.batch_size = 16;
    config
}

fn kind(name: &str) -> config::Kind {
    config::Kind { kind: name.into(), params: Default::default() }
}

/// Every loss and the samplers that touch the step in different ways.
fn variants() -> Vec<(&'static str, Config)> {
    let base = small();
    let sampled = |loss: &str, preset: &str| {
        let mut config = base.clone();
        config.loss = kind(loss);
        config.sampler.preset = preset.into();
        config
    };
    let mut lazy = sampled("bce", "uniform");
    lazy.optim.tables = "lazy".into();
    let mut adagrad = sampled("bce", "uniform");
    adagrad.optim.tables = "adagrad".into();
    let mut adagrad_of_all = base.clone();
    adagrad_of_all.optim.tables = "adagrad".into();
    let mut cans = sampled("sampled_softmax", "cans");
    cans.model.kind = "cans".into();
    cans.model.causal = false;
    cans.train.targets = "last".into();
    cans.train.random_prefix = true;
    cans.sampler.negatives = Some(9.into());
    let mut separate = sampled("gbce", "gsasrec");
    separate.model.tied = false;
    separate.sampler.negatives = Some(5.into());
    let line = |from: f64, to: f64| config::Curve { from, to, over: 1.0, shape: config::CurveShape::Linear };
    let mut moving = sampled("bpr", "adasir");
    moving.sampler.negatives = Some(config::Amount::Moving(line(2.0, 7.0)));
    let size = [("size".to_string(), config::Value::Curve(line(30.0, 9.0)))].into();
    moving.sampler.select = Some(config::Kind { kind: "pool".into(), params: size });
    vec![
        ("softmax", base.clone()),
        ("adasir along curves", moving),
        ("whole data", Config { loss: kind("whole_data"), ..base.clone() }),
        ("lazy bce", lazy),
        ("adagrad bce", adagrad),
        ("adagrad of every row", adagrad_of_all),
        ("cans", cans),
        ("separate gbce", separate),
        ("genni", sampled("bce", "genni")),
        ("srns", sampled("bpr", "srns")),
        ("kbgan", sampled("bpr", "kbgan")),
        ("pure", sampled("pu", "pure")),
        ("fairneg", sampled("bpr", "fairneg")),
        ("adasir", sampled("bpr", "adasir")),
        ("dens", sampled("bpr", "dens")),
        ("kgpolicy", sampled("bpr", "kgpolicy")),
        ("mixgcf", sampled("sampled_softmax", "mixgcf")),
        ("pris", sampled("bpr", "pris")),
        ("mcns", sampled("hinge", "mcns")),
    ]
}

#[test]
fn a_restored_trainer_continues_bit_for_bit() {
    for (name, config) in variants() {
        let data = data(&config);
        let trainer = || Trainer::new(&config, data.clone(), &Device::HOST).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut whole = trainer();
        for step in 0..3 {
            whole.step_on(step, None).unwrap();
        }
        let saved = whole.tensors().unwrap();
        let mut continued = trainer();
        continued.restore(3, &saved).unwrap();
        for step in 3..7 {
            let [a, b] = [&mut whole, &mut continued].map(|trainer| trainer.step_on(step, None).unwrap().0);
            assert_eq!(
                (a.loss.to_bits(), a.grad_norm.to_bits(), a.rows),
                (b.loss.to_bits(), b.grad_norm.to_bits(), b.rows),
                "{name}"
            );
        }
        assert!(whole.tensors().unwrap() == continued.tensors().unwrap(), "{name}");
    }
}

#[test]
fn a_loss_counts_the_negatives_of_its_epoch() {
    let with = |negatives: config::Amount| {
        let mut config = small();
        config.loss = kind("gbce");
        config.sampler.negatives = Some(negatives);
        config
    };
    let curve = config::Curve { from: 2.0, to: 6.0, over: 1.0, shape: config::CurveShape::Linear };
    let [moving, six] = [config::Amount::Moving(curve), 6.into()].map(with);
    let data = data(&six);
    let [mut moving, mut six] = [moving, six].map(|config| Trainer::new(&config, data.clone(), &Device::HOST).unwrap());
    let epoch = moving.steps_per_epoch();
    assert_ne!(moving.step_on(0, None).unwrap().0.loss, six.step_on(0, None).unwrap().0.loss);
    (1..epoch).for_each(|step| drop(moving.step_on(step, None).unwrap()));
    six.restore(epoch, &moving.tensors().unwrap()).unwrap();
    let [(a, drawn), (b, _)] = [&mut moving, &mut six].map(|trainer| trainer.step_on(epoch, None).unwrap());
    assert_eq!((a.loss.to_bits(), drawn.unwrap().n), (b.loss.to_bits(), 6));
    assert!(moving.tensors().unwrap() == six.tensors().unwrap());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (name, config) in variants() {
        let data = data(&config);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = Trainer::new(&config, data.clone(), &Device::HOST).unwrap();
                (0..4).for_each(|step| assert!(trainer.step_on(step, None).unwrap().0.loss.is_finite()));
                trainer.tensors().unwrap()
            })
        };
        assert!(run(1) == run(3), "{name}");
    }
}

#[test]
fn the_loss_falls() {
    for (name, mut config) in variants() {
        config.optim.lr = 1e-2;
        let mut trainer = Trainer::new(&config, data(&config), &Device::HOST).unwrap();
        let losses: Vec<f64> = (0..60).map(|step| trainer.step_on(step, None).unwrap().0.loss).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(mean(&losses[50..]) < 0.97 * mean(&losses[..5]), "{name}: {:?}", losses);
    }
}

#[test]
fn contradictions_are_found_before_training() {
    let code = |change: &dyn Fn(&mut Config)| {
        let mut config = small();
        change(&mut config);
        Trainer::new(&config, data(&small()), &Device::HOST).err().map(|e| e.code())
    };
    assert_eq!(code(&|_| ()), None);
    assert_eq!(code(&|c| c.model.causal = false), Some(Code::C0205));
    assert_eq!(code(&|c| c.optim.tables = "lazy".into()), Some(Code::C0205));
    assert_eq!(code(&|c| c.model.heads = 3), Some(Code::C0202));
    let whole_data_of_cosines = |c: &mut Config| (c.loss, c.model.score) = (kind("whole_data"), "cosine".into());
    assert_eq!(code(&whole_data_of_cosines), Some(Code::C0205));
    let cans_without_context = |c: &mut Config| {
        c.sampler.preset = "cans".into();
        c.sampler.negatives = Some(9.into());
        c.loss = kind("sampled_softmax");
    };
    assert_eq!(code(&cans_without_context), Some(Code::D0303));
}

/// Only dot scores are linear in the items that are mixed.
#[test]
fn mixing_items_is_refused_for_a_cosine() {
    let mut config = small();
    config.loss = kind("sampled_softmax");
    config.sampler.preset = "mixgcf".into();
    config.model.score = "cosine".into();
    let error = Trainer::new(&config, data(&config), &Device::HOST).err().unwrap();
    assert_eq!(error.code(), Code::C0205);
    config.model.score = "dot".into();
    assert!(Trainer::new(&config, data(&config), &Device::HOST).is_ok());
}

/// The emulator, watched; none, saying so, without a C++ compiler.
fn watched() -> Option<(Arc<Watched>, Device)> {
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    match Emulator::open(&Options::new(cache)) {
        Ok(machine) => {
            let machine = Arc::new(Watched::new(machine));
            Some((machine.clone(), Device::Machine(machine)))
        }
        Err(e) => {
            println!("SKIPPED: {e}");
            None
        }
    }
}

#[test]
fn steps_on_a_machine_wait_for_nothing_until_they_are_asked_for() {
    let Some((machine, device)) = watched() else { return };
    let mut clipped = small();
    clipped.optim.clip = 0.5;
    let variant = |name| variants().into_iter().find(|(known, _)| *known == name).unwrap().1;
    let mut dns = variant("lazy bce");
    dns.sampler.preset = "dns".into();
    for config in [clipped, variant("lazy bce"), variant("genni"), variant("cans"), dns] {
        let data = data(&config);
        let mut behind = Trainer::new(&config, data.clone(), &device).unwrap();
        let before = machine.waits();
        let steps = 3.min(behind.steps_per_epoch() - 1);
        for step in 0..steps {
            behind.step(step).unwrap();
            assert!(behind.reports(false).unwrap().is_empty());
        }
        assert_eq!(machine.waits(), before, "{}", config.sampler.preset);
        let reports = behind.reports(true).unwrap();
        let mut beside = Trainer::new(&config, data, &device).unwrap();
        for (step, report) in (0..steps).zip(&reports) {
            let (alone, _) = beside.step_on(step, None).unwrap();
            assert_eq!((alone.loss, alone.grad_norm, alone.rows), (report.loss, report.grad_norm, report.rows));
        }
        assert!(reports.len() as u64 == steps && beside.tensors().unwrap() == behind.tensors().unwrap());
    }
}

#[test]
fn a_machine_stops_at_the_first_gradient_that_is_not_finite() {
    let Some((_, device)) = watched() else { return };
    for tables in ["dense", "lazy"] {
        let mut config = small();
        config.loss = kind("bce");
        config.optim.tables = tables.into();
        let mut trainer = Trainer::new(&config, data(&config), &device).unwrap();
        trainer.step(0).unwrap();
        let before = trainer.tensors().unwrap();
        let last = trainer.model.params().len() - 1;
        let n = trainer.model.params()[last].len();
        trainer.model.params_mut()[last].grad = device.reals(&vec![f64::NAN; n]).unwrap();
        (1..3).for_each(|step| trainer.step(step).unwrap());
        let norms: Vec<bool> = trainer.reports(true).unwrap().iter().map(|report| report.grad_norm.is_finite()).collect();
        assert_eq!(norms[..2], [true, false], "{tables}");
        let values = |tensors: Vec<Tensor>| tensors.into_iter().filter(|t| !t.name.ends_with(".age"));
        assert!(values(before).eq(values(trainer.tensors().unwrap())), "{tables}");
    }
}

#[test]
fn a_machine_gathers_the_batches_of_the_host() {
    let Some((machine, device)) = watched() else { return };
    let variant = |name| variants().into_iter().find(|(known, _)| *known == name).unwrap().1;
    let mut history = variant("lazy bce");
    history.sampler.exclude = Some("history".into());
    history.model.positions = "start".into();
    for (config, contexts) in [(variant("softmax"), false), (history, false), (variant("cans"), true)] {
        let data = data(&config);
        let trainer = Trainer::new(&config, data.clone(), &device).unwrap();
        let (runtime, from_start) = (&*machine as &dyn Runtime, trainer.model.hyper.from_start);
        assert_eq!((trainer.contexts.is_some(), trainer.model.hyper.from_start), (contexts, config.model.positions == "start"));
        for step in [0, 2, trainer.steps_per_epoch() - 1] {
            let there = trainer.gather(1, step).unwrap();
            let waits = machine.waits();
            let words = |numbers: Numbers| -> Vec<u32> {
                let buffer = numbers.on(runtime).unwrap();
                download(runtime, &buffer, buffer.len()).unwrap()
            };
            let size = u64::from(config.train.batch_size);
            let order = Order::new(config.train.seed, 1, data.len() as u64);
            let places = step * size..((step + 1) * size).min(data.len() as u64);
            let indexes: Vec<u32> = places.map(|place| order.at(place) as u32).collect();
            let here = data.gather(&indexes, 1, config.train.seed);
            let columns = [
                (&there.offsets, &here.offsets),
                (&there.items, &here.items),
                (&there.targets, &here.targets),
                (&there.target_clusters, &here.target_clusters),
                (there.places(from_start), here.places(from_start)),
                (there.extents(), here.extents()),
                (there.extents_of_rows(), here.extents_of_rows()),
            ];
            for (i, (there, here)) in columns.into_iter().enumerate() {
                assert!(there.copy().get().is_some() && words(there.into()) == here[..], "column {i} of step {step}");
            }
            let keys = Numbers::from(&there.row_keys).on(runtime).unwrap();
            assert_eq!(download::<u64>(runtime, &keys, here.rows()).unwrap(), here.row_keys[..]);
            assert_eq!(machine.waits() - waits, 8, "the copies alone were waited for");
            let seen = trainer.sampler().is_some_and(Sampler::excludes_history);
            assert_eq!(there.seen.copy().get().is_some(), seen);
            assert!(!seen || words((&there.seen).into()) == here.seen[..]);
            for (there, here) in [(&there.context, &here.context), (&there.target_context, &here.target_context)] {
                let numbers = numbers::copied(there.copy(), runtime).unwrap();
                assert_eq!(numbers.is_some(), contexts);
                assert!(numbers.is_none_or(|n| download::<f32>(runtime, &n, n.len()).unwrap() == here.numeric));
            }
        }
    }
}

/// A row of a batch takes 28 bytes; the longest sequences first, for attention, and what a law is take a few of a sequence.
#[test]
fn a_step_sends_a_machine_nothing_of_its_rows() {
    let Some((machine, device)) = watched() else { return };
    let mut config = small();
    // From so many rows on they are sorted there, too.
    config.data.synthetic = config::Synthetic { users: 140, items: 300, events_per_user: 70.0, ..config.data.synthetic };
    (config.model.max_len, config.train.batch_size) = (60, 128);
    for (loss, sampler) in [("softmax", "uniform"), ("sampled_softmax", "uniform"), ("bpr", "dns"), ("bce", "genni")] {
        config.loss = kind(loss);
        config.sampler.preset = sampler.into();
        let mut trainer = Trainer::new(&config, data(&config), &device).unwrap();
        let before = machine.sent();
        trainer.step(0).unwrap();
        let (rows, sent) = (trainer.gather(0, 0).unwrap().rows() as u64, machine.sent() - before);
        assert!(rows > 4096 && sent < rows, "{loss} with {sampler}: {sent} bytes for {rows} rows");
    }
}
