//! `hardneg sweep` from outside: what it trains, what it keeps, and where it ends.

use std::fs;

use crate::program::{Folder, SMALL};

/// A sweep of settings that train in no time.
fn sweep<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let settings = SMALL[1..].iter().copied().filter(|word| *word != "--out" && *word != "run");
    let mut words = vec!["sweep", "--out", "all"];
    // `train`'s flags as settings, which every combination shares.
    let mut settings = settings.peekable();
    while let Some(word) = settings.next() {
        match word {
            "--set" => words.extend(["--set", settings.next().unwrap()]),
            "--batch-size" | "--epochs" | "--progress" => drop(settings.next()),
            other => words.push(other),
        }
    }
    words.extend(["--set", "batch_size=8", "--set", "epochs=2", "--set", "eval_every=1"]);
    [&words[..], more].concat()
}

#[test]
fn a_sweep_ends_in_a_table_a_page_and_a_comparison() {
    let folder = Folder::new();
    let words = sweep(&["--grid", "sampler.preset=uniform,dns", "--grid", "sampler.negatives=1,3", "--set", "loss=bce"]);
    let said = folder.run(&words).ok();
    assert!(said.contains("page all/report.html") && said.contains("the best against the next 3"), "{said}");
    assert!(said.contains("sign test p"), "{said}");
    let page = fs::read_to_string(folder.path("all/report.html")).unwrap();
    assert!(page.contains("Accuracy against coverage") && page.len() < 2_000_000);
    let results: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("all/sweep.json")).unwrap()).unwrap();
    assert_eq!(results["runs"].as_array().unwrap().len(), 4);
    // The same command again trains nothing and says the same.
    let before = fs::metadata(folder.path("all").join(results["runs"][0]["run"].as_str().unwrap()).join("report.json")).unwrap();
    let again = folder.run(&[&words[..], &["--json"]].concat()).ok();
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((again["runs"].as_array().unwrap().len(), again["page"].as_str()), (4, Some("all/report.html")));
    let after = fs::metadata(folder.path("all").join(results["runs"][0]["run"].as_str().unwrap()).join("report.json")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

#[test]
fn halving_goes_on_with_the_better_half_and_a_spent_budget_continues() {
    let folder = Folder::new();
    let grid = ["--grid", "optim.lr=1e-5,3e-3,1e-2,1e-4", "--halving", "2", "--min-epochs", "1", "--json"];
    // Nothing fits into no time; what is there afterwards is the same command's to continue.
    let spent = folder.run(&[&sweep(&grid)[..], &["--budget", "0s"]].concat());
    assert_eq!(spent.code, Some(75), "{}", spent.err);
    let through: serde_json::Value = serde_json::from_str(&folder.run(&sweep(&grid)).ok()).unwrap();
    let runs = through["runs"].as_array().unwrap();
    let of = |epochs: u64| runs.iter().filter(|run| run["epochs"] == epochs).count();
    assert_eq!((of(1), of(2), runs.len()), (4, 2, 6), "one epoch for all, two for the better half");
    let value = |run: &&serde_json::Value| run["value"].as_f64().unwrap();
    let first: Vec<&serde_json::Value> = runs.iter().filter(|run| run["epochs"] == 1).collect();
    let mut values: Vec<f64> = first.iter().map(value).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    for run in runs.iter().filter(|run| run["epochs"] == 2) {
        let before = first.iter().find(|one| one["settings"] == run["settings"]).unwrap();
        assert!(value(before) >= values[1], "only the best two go on");
    }
}
