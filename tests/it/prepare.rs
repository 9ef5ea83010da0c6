//! The public logs that are at hand, prepared and split: the published counts come out, whatever file they came from.

use std::path::PathBuf;
use std::sync::Arc;

use hardneg::config::{Config, Data};
use hardneg::data::clusters::{Method, TimeClusters};
use hardneg::data::context::ContextEncoder;
use hardneg::data::interactions::Interactions;
use hardneg::data::prepare::{in_memory, prepare};
use hardneg::data::raw::Sides;
use hardneg::data::read::read;
use hardneg::data::split::{Split, leakage};
use hardneg::data::training::TrainingSet;

use crate::program::{Folder, end_of, finish};

/// Settings that read a file of the shared data, if it is there; says so when it is not.
fn shared(name: &str) -> Option<Data> {
    let folders = [
        std::env::var_os("HARDNEG_DATA").map(PathBuf::from),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data")),
    ];
    let found = folders.into_iter().flatten().map(|f| f.join(name)).find(|p| p.is_file());
    if found.is_none() {
        println!("skipped: {name} is not in ../shared/data nor in HARDNEG_DATA");
    }
    found.map(|path| Data { path: path.display().to_string(), ..Data::default() })
}

fn prepared(config: &Data) -> Interactions {
    in_memory(read(config, None, &mut |_| {}).unwrap(), config, Sides::default()).unwrap()
}

fn counts(data: &Interactions) -> (usize, usize, usize) {
    (data.users(), data.items(), data.events())
}

#[test]
fn beauty_from_two_formats_is_the_same_prepared_log_and_a_five_core() {
    let Some(config) = shared("amazon-beauty/beauty.tsv.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    let raw = read(&config, None, &mut |_| {}).unwrap();
    let data = prepare(raw, &config, Sides::default(), &folder.path().join("beauty.hn")).unwrap();
    data.verify().unwrap();
    assert_eq!(counts(&data), (22_363, 12_101, 198_502));
    let statistics = &data.meta().statistics;
    assert_eq!((statistics.ties, statistics.repeated, statistics.min_length), (77_402, 0, 5));
    let popularity: Vec<usize> = {
        let mut n = vec![0; data.items()];
        data.event_items().iter().for_each(|&i| n[i as usize] += 1);
        n
    };
    assert!(popularity.is_sorted_by(|a, b| a >= b) && popularity[12_100] >= 5);

    let core = Data { min_user: 5, min_item: 5, ..config.clone() };
    assert_eq!(prepared(&core).content_hash(), data.content_hash(), "the log already is a 5-core");
    if let Some(ragged) = shared("amazon-beauty/Beauty_item_org_rank.txt.gz") {
        assert_eq!(prepared(&ragged).content_hash(), data.content_hash());
    }

    let split = Split::new(&data, &config, 1).unwrap();
    assert_eq!((split.valid.len(), split.test.len(), split.training_events()), (22_363, 22_363, 198_502 - 2 * 22_363));
    let leakage = leakage(&split, &data);
    assert_eq!((leakage.targets, leakage.repeated_targets), (22_363, 0));
    let few = Split::new(&data, &Data { split: "loo_512".into(), ..config.clone() }, 1).unwrap();
    assert_eq!((few.valid.len(), few.test.len(), few.training_events()), (512, 22_363, 198_502 - 2 * 22_363));

    let set = TrainingSet::new(Arc::new(data), Arc::new(split), &Config::default(), None, None).unwrap();
    let all: Vec<u32> = (0..set.len() as u32).collect();
    let batch = set.gather(&all, 0, 1);
    // Every user trains on all but two events, one pair fewer; the longest has 204 events and one pair more than fits.
    assert_eq!(set.data().meta().statistics.max_length, 204);
    assert_eq!((batch.sequences(), batch.rows()), (22_363, 198_502 - 3 * 22_363 - 1));
    assert_eq!(set.rows(), batch.rows() as u64);
}

#[test]
fn movielens_1m_in_sasrec_order() {
    let Some(config) = shared("ml-1m/ml-1m_sas.txt.gz") else { return };
    let data = prepared(&config);
    assert_eq!(counts(&data), (6_040, 3_416, 999_611));
    assert!(data.times().is_none());
    let split = Split::new(&data, &config, 1).unwrap();
    assert_eq!((split.test.len(), split.training_events()), (6_040, 999_611 - 2 * 6_040));
    assert_eq!(leakage(&split, &data).later_training_share, None);
}

#[test]
fn movielens_ratings_4_and_5_with_times() {
    let Some(config) = shared("ml-1m/ratings_ge4.dat.gz") else { return };
    let config = Data { min_weight: Some(4.0), ..config };
    let data = prepared(&config);
    assert_eq!(counts(&data), (6_038, 3_533, 575_281));
    let split = Split::new(&data, &config, 1).unwrap();
    assert_eq!(split.test.len(), 6_035, "three users have fewer than three rows and only train");
    let fives = prepared(&Data { min_weight: Some(5.0), ..config.clone() });
    assert_eq!(fives.events(), 226_310);
    assert_eq!((fives.meta().filters[0].before.events, fives.meta().filters[0].after.events), (575_281, 226_310));

    let gts = Split::new(&data, &Data { split: "gts".into(), ..config.clone() }, 1).unwrap();
    assert_eq!(leakage(&gts, &data).later_training_share, Some(0.0));
    let times = data.times().unwrap();
    let latest = (0..data.users() as u32).flat_map(|u| gts.training(&data, u)).map(|e| times[e]).max().unwrap();
    let first_valid = gts.valid.iter().map(|t| times[t.at as usize]).min().unwrap();
    let last_valid = gts.valid.iter().map(|t| times[t.at as usize]).max().unwrap();
    let first_test = gts.test.iter().map(|t| times[t.at as usize]).min().unwrap();
    assert!(latest < first_valid && last_valid < first_test);
    let share = gts.training_events() as f64 / data.events() as f64;
    // .9 of .9, but for ties at the two cuts.
    assert!((share - 0.81).abs() < 1e-4, "{share}");

    let mut settings = Config { data: config, ..Config::default() };
    settings.model.kind = "cans".into();
    let encoder = ContextEncoder::fit(&data, &split, &settings).unwrap().unwrap();
    let clusters = TimeClusters::fit(&data, &split, 10, Method::Bisecting).unwrap();
    assert_eq!((encoder.numeric_width(), clusters.len()), (23, 10));
    let counts = clusters.counts(&data, &split);
    let total: u64 = counts.counts.iter().map(|&n| u64::from(n)).sum();
    assert_eq!(total, split.training_events());
    let set = TrainingSet::new(Arc::new(data), Arc::new(split), &settings, Some(encoder), Some(clusters)).unwrap();
    let batch = set.gather(&[0, 5, 77], 0, 1);
    assert_eq!((batch.target_clusters.len(), batch.context.numeric.len()), (batch.rows(), 23 * batch.rows()));
    assert!(batch.context.numeric.iter().all(|x| (-1.0..=1.0).contains(x)));
}

#[test]
fn movielens_100k_is_the_same_from_the_original_and_the_recbole_file() {
    let (Some(original), Some(recbole)) = (shared("ml-100k/u.data"), shared("ml-100k-kg/ml-100k.inter.gz")) else { return };
    let data = prepared(&original);
    assert_eq!(counts(&data), (943, 1_682, 100_000));
    assert_eq!(data.content_hash(), prepared(&recbole).content_hash());
    let core = prepared(&Data { min_user: 20, min_item: 20, ..original });
    let mut n = vec![0; core.items()];
    core.event_items().iter().for_each(|&i| n[i as usize] += 1);
    assert!(n.iter().all(|&n| n >= 20) && core.meta().statistics.min_length >= 20);
}

#[test]
fn foursquare_has_458_duplicate_rows() {
    let Some(config) = shared("foursquare-nyc/checkins.tsv.gz") else { return };
    assert_eq!(counts(&prepared(&config)), (1_083, 5_135, 147_938));
    let once = prepared(&Data { dedup: "exact".into(), ..config });
    assert_eq!(once.events(), 147_938 - 458);
}

#[test]
fn a_log_is_never_written_over() {
    let folder = Folder::new();
    folder.ratings("own.csv");
    folder.write("items.csv", "item_id,genre\ni1,a\ni2,b\ni3,a\n");
    folder.write("empty", "");
    let before = ["own.csv", "items.csv"].map(|name| std::fs::read(folder.path(name)).unwrap());
    for args in [
        &["prepare", "own.csv", "-o", "own.csv"][..],
        &["prepare", "own.csv", "-o", "./own.csv"],
        &["prepare", "own.csv", "-o", "items.csv", "--set", "data.items_path=items.csv"],
        &["prepare", "own.csv", "-o", "items.csv"],
        &["prepare", "-o", "own.csv"],
    ] {
        folder.run(args).fails(2, "C0205");
        assert_eq!(["own.csv", "items.csv"].map(|name| std::fs::read(folder.path(name)).unwrap()), before, "{args:?}");
    }
    for out in ["new.hn", "new.hn", "empty"] {
        folder.run(&["prepare", "own.csv", "-o", out]).ok();
    }
}

#[test]
fn declared_context_is_used_from_a_log_and_from_a_prepared_file() {
    let folder = Folder::new();
    for (name, columns) in [("declared.csv", "device,price"), ("named.csv", "c_device_c,c_price_f")] {
        let mut text = format!("user_id,item_id,timestamp,{columns}\n");
        for event in 0..160 {
            let (user, item, second) = (event % 16, event * 7 % 13, 1_500_000_000 + event * 600);
            text += &format!("u{user},i{item},{second},{},{}\n", ["phone", "tv"][event % 2], event % 5);
        }
        folder.write(name, text);
    }
    folder.write("items.csv", "item_id,genre\ni1,a\ni2,b\ni3,a\nelsewhere,b\n");
    let declared = ["--set", "data.context=[\"device:cat\", \"price:num\"]"];
    let train = |log: &str, more: &[&str], run: &str| {
        let args = ["train", log, "--set", "dim=8", "--epochs", "1", "--device", "host", "--progress", "none", "--out", run];
        folder.run(&[&args[..], more].concat()).ok();
        end_of(&folder.path(run)).0
    };
    let from_log = train("declared.csv", &declared, "log");
    let items = ["--set", "data.items_path=items.csv"];
    folder.run(&[&["prepare", "declared.csv", "-o", "cx.hn"][..], &declared].concat()).ok();
    assert_eq!(train("cx.hn", &[], "prepared"), from_log);
    assert_ne!(train("cx.hn", &["--set", "model.context=no"], "without"), from_log);
    assert_eq!(train("named.csv", &[], "named"), from_log, "columns named c_ are declared by that");

    let prepared = folder.run(&[&["prepare", "named.csv", "-o", "named.hn"][..], &items].concat());
    assert!(prepared.err.contains("attributes: 3 of 13 items"), "{}", prepared.err);
    prepared.ok();
    let shown = folder.run(&["inspect", "named.hn"]).ok();
    for part in ["c_device_c: 2 categories", "c_price_f: numbers", "3 of 13 items have some of 2 attributes"] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    let json: serde_json::Value = serde_json::from_str(&folder.run(&["inspect", "named.hn", "--json"]).ok()).unwrap();
    assert_eq!(json["context"][0], serde_json::json!({ "name": "c_device_c", "kind": "cat", "categories": 2 }));
    assert_eq!(json["attributes"], serde_json::json!({ "items": 3, "different": 2 }));
    assert!(json["graph"].is_null());
}

#[test]
fn settings_are_read_whatever_is_inspected() {
    let folder = Folder::new();
    folder.ratings("ratings.csv");
    folder.run(&["prepare", "ratings.csv", "-o", "x.hn"]).ok();
    std::fs::create_dir(folder.path("run")).unwrap();
    for file in ["ratings.csv", "x.hn", "run"] {
        folder.run(&["inspect", file, "--set", "nonsense=1"]).fails(2, "C0201");
        folder.run(&["inspect", file, "--config", "absent.toml"]).fails(2, "C0204");
    }
    // Those that nobody typed concern a log alone.
    let train =
        ["train", "ratings.csv", "--set", "dim=8", "--epochs", "1", "--device", "host", "--progress", "none", "--out", "trained"];
    folder.run(&train).ok();
    std::fs::create_dir_all(folder.path(".config/hardneg")).unwrap();
    for (file, name) in [("[model]\nnonsense = 1\n", "HARDNEG_MODEL__DIM"), ("", "HARDNEG_MODEL__NONSENSE")] {
        folder.write(".config/hardneg/config.toml", file);
        let inspect = |of: &str| {
            let args = ["inspect", of];
            finish(folder.command().env(name, "9").args(args).output().unwrap(), &args)
        };
        inspect("x.hn").ok();
        inspect("trained").ok();
        inspect("ratings.csv").fails(2, "C0201");
    }
}
