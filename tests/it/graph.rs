//! A knowledge graph beside a log, from its files to what is drawn: on invented data through the program, and on the public
//! graph of MovieLens 100K, where it is at hand, against a walk over the text of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use hardneg::config::{self, Data};
use hardneg::data::batch::Batch;
use hardneg::data::prepare::in_memory;
use hardneg::data::raw::Sides;
use hardneg::data::read::{read, read_graph};
use hardneg::data::split::Split;
use hardneg::device::Device;
use hardneg::sampling::{Attributes, Knowledge, Moment, Sampler};

use crate::program::{Folder, SMALL};
use crate::statistics::{assert_law, count};

/// A folder of the shared data, if it is there; says so when it is not.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folders = [std::env::var_os("HARDNEG_DATA").map(PathBuf::from), Some(beside)];
    let found = folders.into_iter().flatten().map(|f| f.join(name)).find(|p| p.is_dir());
    if found.is_none() {
        println!("SKIPPED: {name} is not in ../shared/data nor in HARDNEG_DATA, so no real graph was walked");
    }
    found
}

/// Neighbours of each node by a pass over the text.
fn neighbours(triples: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut of = BTreeMap::<&str, BTreeSet<&str>>::new();
    for line in triples.lines().skip(1) {
        let (head, tail) = (line.split('\t').next().unwrap(), line.split('\t').nth(2).unwrap());
        of.entry(head).or_default().insert(tail);
        of.entry(tail).or_default().insert(head);
    }
    of
}

#[test]
fn the_graph_of_movielens_100k_is_walked_as_its_text_says() {
    let Some(folder) = shared("ml-100k-kg") else { return };
    let config = Data { path: folder.join("ml-100k.inter.gz").display().to_string(), ..Data::default() };
    let graph = read_graph(&folder.join("ml-100k.kg.gz"), Some(&folder.join("ml-100k.link")), &config).unwrap();
    let (linked, nodes) = graph.links.as_ref().unwrap();
    assert_eq!((graph.triples.len(), graph.nodes.len(), linked.len(), graph.bad), (91_631, 34_628, 1_598, 0));
    assert!(nodes.iter().all(|&node| (node as usize) < graph.nodes.len()), "every linked node is in the graph");
    let log = read(&config, None, &mut |_| {}).unwrap();
    let data = in_memory(log, &config, Sides { graph: Some(graph), ..Sides::default() }).unwrap();
    let split = Split::new(&data, &config, 1).unwrap();
    let around = data.graph().unwrap();

    let mut text = String::new();
    let packed = std::fs::File::open(folder.join("ml-100k.kg.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let neighbours = neighbours(&text);
    let links = std::fs::read_to_string(folder.join("ml-100k.link")).unwrap();
    let links: BTreeMap<&str, &str> = links.lines().skip(1).map(|line| line.split_once('\t').unwrap()).collect();
    let entities: Vec<BTreeSet<&str>> = (0..data.items() as u32)
        .map(|item| {
            let node = links.get(std::str::from_utf8(data.item_name(item)).unwrap());
            node.map_or(BTreeSet::new(), |node| neighbours[node].iter().copied().filter(|e| e != node).collect())
        })
        .collect();
    for item in 0..data.items() as u32 {
        let found = around.of(item).iter().map(|&e| std::str::from_utf8(around.names.get(e)).unwrap());
        assert_eq!(found.collect::<BTreeSet<_>>(), entities[item as usize]);
    }

    let trained = |item: usize| split.train_items[item] > 0;
    let walk = |target: usize| {
        let items = |e: &str| (0..data.items()).filter(|&i| i != target && trained(i) && entities[i].contains(e)).collect();
        let ways: Vec<Vec<usize>> = entities[target].iter().map(|e| items(e)).filter(|i: &Vec<usize>| !i.is_empty()).collect();
        let mut law = vec![0f64; data.items()];
        if ways.is_empty() {
            (0..data.items()).filter(|&i| i != target && trained(i)).for_each(|i| law[i] = 1.0);
        }
        for way in &ways {
            way.iter().for_each(|&i| law[i] += 1.0 / ways.len() as f64 / way.len() as f64);
        }
        law
    };
    let knowledge = Knowledge {
        train_counts: &split.train_items,
        event_items: data.event_items(),
        offsets: data.offsets(),
        train_end: &split.train_end,
        graph: Some(Attributes { offsets: around.offsets, codes: around.codes }),
        ..Knowledge::default()
    };
    let kind = |name: &str| config::Kind { kind: name.into(), params: Default::default() };
    let sampler = config::Sampler {
        scope: Some("position".into()),
        negatives: Some(64.into()),
        exclude: Some("history".into()),
        propose: Some(vec![kind("graph_walk")]),
        weight: Some(kind("log_q")),
        ..config::Sampler::default()
    };
    let sampler = Sampler::new(&sampler, &knowledge, 3).unwrap();
    // From the most popular item to rare ones, and one outside the graph; histories of none, of 50 popular items, and of all
    // but a few relatives.
    let outside = entities.iter().position(BTreeSet::is_empty).unwrap();
    let within = (0..data.items()).step_by(290).filter_map(|from| (from..data.items()).find(|&i| !entities[i].is_empty()));
    for target in within.chain([outside]) {
        let free = walk(target);
        let reached: Vec<u32> = (0..data.items() as u32).filter(|&i| free[i as usize] > 0.0).collect();
        assert!(reached.len() > 6, "target {target} reaches {} items", reached.len());
        let most = reached[..reached.len() - 5].to_vec();
        for seen in [vec![], (1..51).collect(), most] {
            let mut law = free.clone();
            seen.iter().for_each(|&i| law[i as usize] = 0.0);
            let left: f64 = law.iter().sum();
            law.iter_mut().for_each(|p| *p /= left);
            let rows = 400;
            let batch = Batch {
                users: vec![0],
                offsets: vec![0, rows].into(),
                items: vec![0; rows as usize].into(),
                targets: vec![target as u32; rows as usize].into(),
                row_keys: (0..u64::from(rows)).collect(),
                seen_extents: vec![[0, seen.len() as u64]],
                seen: seen.into(),
                ..Batch::default()
            };
            let moment = Moment { epoch: 0.0, epoch_index: 0, batch_index: 0 };
            let drawn = sampler.draw(&Device::HOST, &batch, None, moment).unwrap();
            assert_law(&format!("target {target}"), &count(law.len(), drawn.ids.iter().copied()), &law);
            let mut mean = 0.0;
            for (&item, &log_q) in drawn.ids.iter().zip(&drawn.log_q) {
                let truth = law[item as usize].ln();
                assert!((f64::from(log_q) - truth).abs() < 1e-6 * (1.0 + truth.abs()), "{item} of {target}: {log_q}, {truth}");
                mean += 1.0 / f64::from(log_q).exp() / drawn.ids.len() as f64;
            }
            // E[1/q] is the number of items that can be drawn; its variance comes from the law itself.
            let size = law.iter().filter(|&&p| p > 0.0).count() as f64;
            let square: f64 = law.iter().filter(|&&p| p > 0.0).map(|p| 1.0 / p).sum();
            let spread = ((square - size * size).max(0.0) / drawn.ids.len() as f64).sqrt();
            assert!((mean - size).abs() < 5.0 * spread + 1e-5 * size, "target {target}: E[1/q] = {mean} for {size} +- {spread}");
        }
    }
}

/// A log of 17 items, of which `i0` to `i11` are linked to nodes that share makers.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.ratings("log.csv");
    let mut triples = String::from("head_id:token\trelation_id:token\ttail_id:token\n");
    let mut links = String::from("item_id:token\tentity_id:token\nabsent\tn3\n");
    for i in 0..12 {
        triples += &format!("n{i}\tmade_by\tmaker{}\n", i % 3);
        triples += &format!("place{}\tplace_of\tn{i}\n", i / 4);
        links += &format!("i{i}\tn{i}\n");
    }
    folder.write("log.kg", triples + "n1\tmade_by\n");
    folder.write("log.link", links);
    folder
}

const WALK: &[&str] = &["train", "log.csv", "--set", "dim=8", "--epochs", "1", "--device", "host"];

#[test]
fn a_graph_is_read_prepared_and_trained_on() {
    let folder = folder();
    let walk = |more: &[&str]| folder.run(&[WALK, &["--sampler", "kg-walk"], more].concat());
    let with = ["--set", "data.graph_path=log.kg", "--set", "data.link_path=log.link"];
    let done = walk(&[&with[..], &["--out", "run"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.err);
    for line in ["1 bad rows of the knowledge graph left out", "graph: 12 of 17 items are joined to 6 entities"] {
        assert!(done.err.contains(line), "{}", done.err);
    }
    // The same from a prepared file, which keeps the graph.
    folder.run(&[&["prepare", "log.csv", "--out", "log.hn"][..], &with].concat()).ok();
    let prepared = ["train", "log.hn", "--set", "dim=8", "--epochs", "1", "--device", "host", "--sampler", "kg-walk"];
    folder.run(&[&prepared[..], &["--out", "again"]].concat()).ok();
    let record = |run: &str| std::fs::read_to_string(folder.path(run).join("metrics.jsonl")).unwrap();
    let loss =
        |run: &str| serde_json::from_str::<serde_json::Value>(record(run).lines().next().unwrap()).unwrap()["loss"].clone();
    assert!(loss("run").as_f64().is_some_and(f64::is_finite));
    assert_eq!(loss("run"), loss("again"));
}

#[test]
fn a_walk_without_its_graph_is_refused_before_training() {
    let folder = folder();
    for sampler in ["kg-walk", "kgpolicy"] {
        let none = folder.run(&[WALK, &["--sampler", sampler, "--out", "run"]].concat()).err;
        assert!(none.contains("D0303") && none.contains("`data.graph_path`"), "{none}");
    }
    let walk = |more: &[&str]| folder.run(&[WALK, &["--sampler", "kg-walk", "--out", "run"], more].concat()).err;
    let unlinked = walk(&["--set", "data.graph_path=log.kg"]);
    assert!(unlinked.contains("D0404") && unlinked.contains("`data.link_path`"), "{unlinked}");
    let alone = walk(&["--set", "data.link_path=log.link"]);
    assert!(alone.contains("C0203") && alone.contains("no graph is given"), "{alone}");
    let generated = folder.run(&[SMALL, &["--set", "data.graph_path=log.kg"]].concat()).err;
    assert!(generated.contains("C0203"), "{generated}");
}

#[test]
fn inspect_finds_a_graph_beside_a_log() {
    let folder = folder();
    folder.write("log.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\ti1\t1000000000\n1\ti2\t1000000001\n");
    let shown = folder.run(&["inspect", "log.inter"]).ok();
    assert!(shown.contains("`data.graph_path`") && shown.contains("`data.link_path`"), "{shown}");
}
