//! `hardneg report` and `hardneg compare` from outside: what they write, what they refuse, and what they tolerate.

use std::fs;
use std::io::Write;

use crate::program::{Folder, SMALL};

/// A finished run with a sampler, so that there are diagnostics.
fn trained() -> Folder {
    let folder = Folder::new();
    folder.run(&[SMALL, &["--sampler", "dns"]].concat()).ok();
    folder
}

#[test]
fn a_run_gives_a_page_events_and_a_table() {
    let folder = trained();
    let said = folder.run(&["report", "run"]).ok();
    assert!(said.contains("run/report.html"), "{said}");
    let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
    for title in
        ["Loss", "Validation ndcg@10", "Seconds per epoch by stage", "Popularity of the draws", "Test ndcg@10 by segment"]
    {
        assert!(page.contains(&format!("<figcaption>{title}</figcaption>")), "{title}");
    }
    assert!(page.contains("sampler.preset") && page.contains("item-to-item") && page.len() < 300_000);
    fs::remove_file(folder.path("run/report.html")).unwrap();
    folder.run(&["report", "run", "--csv", "run.csv", "--tensorboard", "events"]).ok();
    assert!(!folder.path("run/report.html").exists(), "no page was asked for");
    let records = fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap().lines().count();
    let csv = fs::read_to_string(folder.path("run.csv")).unwrap();
    assert_eq!(csv.lines().count(), records + 1);
    assert!(csv.starts_with("run,v,kind,step,epoch,loss,") && csv.contains("negatives.popularity.9"), "{csv}");
    let event = fs::read_dir(folder.path("events/run")).unwrap().next().unwrap().unwrap();
    assert!(event.file_name().to_string_lossy().starts_with("events.out.tfevents."));
    let bytes = fs::read(event.path()).unwrap();
    let mut words = bytes.windows(19);
    assert!(words.any(|w| w == b"evaluation/metrics/"));
    // Two runs: their curves, and the plane.
    folder.run(&["report", "run", "run", "--out", "two.html"]).ok();
    assert!(fs::read_to_string(folder.path("two.html")).unwrap().contains("Accuracy against coverage"));
    folder.run(&["report", "run", "run", "--picture", "two.svg"]).ok();
    let picture = fs::read_to_string(folder.path("two.svg")).unwrap();
    assert!(picture.starts_with("<svg xmlns=") && picture.matches("<circle").count() == 2 && picture.ends_with("</svg>\n"));
    folder.run(&["report", "run", "--picture", "one.svg"]).fails(2, "C0205");
    let json = folder.run(&["report", "run", "--json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["files"]["page"], "run/report.html");
}

#[test]
fn what_is_no_run_is_refused_and_a_cut_line_is_told() {
    let folder = trained();
    folder.run(&["report", "absent"]).fails(4, "M0403");
    folder.run(&["report", "."]).fails(4, "M0403");
    let refused = folder.run(&["report", "run", "--out", "absent/x.html"]).fails(8, "F0801");
    assert!(refused.err.contains("there is no folder absent"), "{}", refused.err);
    let metrics = folder.path("run/metrics.jsonl");
    fs::File::options().append(true).open(&metrics).unwrap().write_all(b"{\"v\":1,\"ki").unwrap();
    let told = folder.run(&["report", "run"]);
    assert!(told.code == Some(0) && told.err.contains("1 line(s) of metrics.jsonl"), "{}", told.err);
    fs::write(&metrics, "{\"v\":9,\"kind\":\"epoch\"}\n").unwrap();
    let other = folder.run(&["report", "run"]).fails(4, "M0407");
    assert!(other.err.contains("version 9"), "{}", other.err);
    fs::write(&metrics, "").unwrap();
    fs::remove_file(folder.path("run/report.json")).unwrap();
    folder.run(&["report", "run"]).fails(4, "M0406");
}

#[test]
fn hostile_names_reach_neither_the_page_nor_the_terminal_raw() {
    let folder = trained();
    let name = "<script>'\"\u{1b}[31m";
    fs::rename(folder.path("run"), folder.path(name)).unwrap();
    let said = folder.run(&["report", name, "--csv", "x.csv", "--out", "x.html"]);
    let page = fs::read_to_string(folder.path("x.html")).unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;") && !page.contains('\u{1b}'));
    let json = folder.run(&["report", name, "--json"]).ok();
    let own = folder.run(&["report", name]).ok();
    assert!(![said.out, said.err, json, own].iter().any(|text| text.contains('\u{1b}')));
}

/// `hardneg compare` of two runs that differ in their seed, on the split with `sets`.
fn seeds_compared(folder: &Folder, sets: &[&str], metric: &str) -> serde_json::Value {
    for seed in ["42", "3"] {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        folder.run(&[SMALL, &sets, &["--seed", seed, "--out", seed]].concat()).ok();
    }
    let said = folder.run(&["compare", "42", "3", "--device", "host", "--metric", metric, "--json"]).ok();
    serde_json::from_str(&said).unwrap()
}

#[test]
fn an_item_that_a_user_is_asked_for_twice_is_paired_with_itself() {
    let folder = Folder::new();
    let sets = ["data.split=gts", "gts_target=all", "eval.exclude_seen=false"];
    let said = seeds_compared(&folder, &sets, "ndcg@10, hr@10");
    let metrics = said["metrics"].as_array().unwrap();
    assert_eq!(metrics.iter().map(|m| &m["metric"]).collect::<Vec<_>>(), ["ndcg@10", "hr@10"]);
    for metric in metrics {
        let of = |value: &serde_json::Value| value.as_f64().unwrap();
        let (shown, paired) = (of(&metric["value"]) - of(&metric["base"]), of(&metric["paired"]["difference"]));
        assert!((shown - paired).abs() < 1e-12, "over the same requests the means differ by the mean difference: {metric}");
    }
    assert_eq!(said["notes"], serde_json::json!([]));
}

#[test]
fn runs_of_different_seeds_are_asked_the_same() {
    let folder = Folder::new();
    let said = seeds_compared(&folder, &["data.split=gts", "gts_target=random"], "ndcg@10");
    assert_eq!(said["notes"], serde_json::json!([]), "no request is another");
    assert_eq!(said["seeds"].as_array().unwrap().len(), 1);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("3/report.json")).unwrap()).unwrap();
    let split = report["model"]["protocol"]["split"].as_str().unwrap().to_string();
    assert!(split.contains(&format!("seed={}", hardneg::data::split::SEED)), "{split}");
}
