//! `hardneg profile`: what it says a part of a step does, held to numbers worked out here.

use serde_json::Value;

use crate::program::Folder;

const SMALL: &[&str] = &[
    "profile",
    "--items",
    "500",
    "--rounds",
    "1",
    "--warmup",
    "0",
    "--device",
    "host",
    "--set",
    "dim=16",
    "--set",
    "max_len=20",
];

#[test]
fn every_part_has_its_work_its_rates_and_a_floor() {
    let out = Folder::new().run(&[SMALL, &["--json", "--samplers", "dns", "--negatives", "2"]].concat()).ok();
    let profile: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(profile["schema"].as_u64(), Some(4));
    let [flops, bytes] = ["flops", "bytes"].map(|what| profile["ceilings"][what]["high"].as_f64().unwrap());
    let line = &profile["lines"][0];
    let rows = line["rows"].as_u64().unwrap();
    let work = line["work"].as_object().unwrap();
    assert_eq!(work.len(), 6);
    // 64 candidates of every row, one inner product each; then a target and two negatives: a score and two gradients each.
    assert_eq!(work["propose"]["bytes"].as_u64(), Some(4 * 64 * rows));
    assert_eq!(work["select"]["flops"].as_u64(), Some(2 * 64 * 16 * rows));
    assert_eq!(work["loss"]["flops"].as_u64(), Some(6 * 3 * 16 * rows));
    for (part, of) in work {
        let number = |name: &str| of[name].as_f64().unwrap();
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b;
        assert!(near(number("floor"), (number("flops") / flops).max(number("bytes") / bytes)), "{part}: {of}");
        assert!(near(number("floor_share") * number("seconds"), number("floor")), "{part}: {of}");
        assert!(near(number("bytes_per_second") * number("seconds"), number("bytes")), "{part}: {of}");
        assert!(near(number("predicted_share") * number("fastest"), number("predicted")), "{part}: {of}");
        assert!(number("predicted") > 0.0 && number("fastest") <= number("seconds"), "{part}: {of}");
    }
}

/// Without `--samplers`, and with those that need a model of another kind among them.
#[test]
fn the_samplers_it_measures_by_itself_can_be_measured() {
    let out = Folder::new().run(&[SMALL, &["--json"]].concat()).ok();
    let profile: Value = serde_json::from_str(out.trim()).unwrap();
    let named: Vec<&str> = profile["lines"].as_array().unwrap().iter().filter_map(|line| line["sampler"].as_str()).collect();
    assert_eq!(named, ["uniform", "popularity", "dns", "genni", "cans"]);
}

#[test]
fn a_base_of_another_version_is_refused() {
    let folder = Folder::new();
    folder.write("base.json", r#"{ "schema": 2, "lines": [] }"#);
    folder.run(&[SMALL, &["--samplers", "uniform", "--compare", "base.json"]].concat()).fails(2, "C0202");
}

#[test]
fn the_page_shows_every_stage_and_asks_for_nothing() {
    let folder = Folder::new();
    folder.run(&[SMALL, &["--samplers", "uniform,dns", "--page", "profile.html"]].concat()).ok();
    let page = std::fs::read_to_string(folder.path("profile.html")).unwrap();
    for word in ["gather", "forward", "sample", "loss", "backward", "update", "uniform 500", "dns 500", "of floor"] {
        assert!(page.contains(word), "{word}");
    }
    // The update in the legend and in the bars of both samplers.
    assert_eq!(page.matches("<rect class=\"f5\"").count(), 3);
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("href="));
}

/// On the plain path there is nothing to time, and a graph is timed as a whole only.
#[test]
fn calls_are_timed_on_a_machine_only_and_not_in_graphs() {
    let folder = Folder::new();
    folder.run(&[SMALL, &["--kernels"]].concat()).fails(2, "C0205");
    folder.run(&[SMALL, &["--kernels", "--set", "train.graph=yes"]].concat()).fails(2, "C0203");
    // A loss over the whole catalogue takes no sampler, so none may be named.
    for named in [["--samplers", "dns"], ["--negatives", "4"]] {
        let refused = folder.run(&[SMALL, &["--kernels", "--set", "loss=softmax"], &named].concat()).fails(2, "C0205");
        assert!(refused.err.contains("whole catalogue"), "{}", refused.err);
    }
}
