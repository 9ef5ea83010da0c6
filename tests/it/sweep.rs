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

/// What a sweep leaves as JSON.
fn runs(folder: &Folder, words: &[&str]) -> Vec<serde_json::Value> {
    let said: serde_json::Value = serde_json::from_str(&folder.run(&[words, &["--json"]].concat()).ok()).unwrap();
    said["runs"].as_array().unwrap().clone()
}

#[test]
fn results_of_other_settings_or_of_another_log_are_not_taken_for_ones_own() {
    let folder = Folder::new();
    let grid = sweep(&["--grid", "dim=4,8"]);
    folder.run(&grid).ok();
    for other in ["epochs=3", "lr=0.01"] {
        let refused = folder.run(&[&grid[..], &["--set", other]].concat()).fails(2, "C0206");
        assert!(refused.err.contains(other.split('=').next().unwrap()), "{}", refused.err);
        assert!(!refused.err.contains("--fresh"), "a sweep has no such option: {}", refused.err);
    }
    folder.run(&[&grid[..], &["--set", "synthetic.seed=9"]].concat()).fails(2, "C0206");
    // What changes no bit of a run may change.
    folder.run(&[&grid[..], &["--set", "train.keep=2"]].concat()).ok();

    folder.ratings("one.csv");
    let log = fs::read_to_string(folder.path("one.csv")).unwrap();
    folder.write("same.csv", &log);
    folder.write("other.csv", log.replace("u1,", "v1,"));
    let sets = ["dim=4", "max_len=10", "epochs=1", "eval_every=1", "batch_size=8"];
    let on = |log| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        ["sweep", log, "--out", "logs", "--device", "host", "--grid", "dropout=0.1,0.2"]
            .into_iter()
            .chain(sets)
            .collect::<Vec<_>>()
    };
    let first = runs(&folder, &on("one.csv"));
    assert_eq!(runs(&folder, &on("same.csv")), first, "a log counts by what it holds");
    let refused = folder.run(&on("other.csv")).fails(2, "C0206");
    assert!(refused.err.contains("data"), "{}", refused.err);
    let names = fs::read_dir(folder.path("logs")).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.starts_with("reading")), "what a log was read into is gone");

    // Where the log has gone, what is finished is shown all the same; what is not finished lacks its log.
    for name in ["one.csv", "same.csv"] {
        fs::remove_file(folder.path(name)).unwrap();
    }
    let shown = folder.run(&on("one.csv"));
    assert!(shown.err.matches("note: ").count() == 1 && shown.err.contains("one.csv"), "{}", shown.err);
    assert!(shown.ok().contains("dropout=0.2"));
    assert_eq!(runs(&folder, &on("one.csv")), first);
    for (grid, after) in [("dropout=0.1,0.2,0.3", "finished ones"), ("dropout=0.3,0.1,0.2", "nothing")] {
        let words: Vec<&str> =
            on("one.csv").into_iter().map(|word| if word == "dropout=0.1,0.2" { grid } else { word }).collect();
        let refused = folder.run(&words).fails(3, "D0101");
        assert!(!refused.out.contains("failed"), "after {after}: {}", refused.out);
    }
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("logs/sweep.json")).unwrap()).unwrap();
    assert_eq!(kept["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn runs_that_came_to_nothing_begin_anew_with_other_settings() {
    let folder = Folder::new();
    let grid = sweep(&["--grid", "optim.lr=1e30,1e31"]);
    // Neither gets as far as a checkpoint: their gradients are not finite.
    let clips = |clip: &str| {
        let entries = fs::read_dir(folder.path("all")).unwrap().flatten().map(|entry| entry.path());
        let left: Vec<_> = entries.filter(|path| path.is_dir()).collect();
        assert!(left.len() == 2 && left.iter().all(|run| !run.join("report.json").exists()));
        left.iter().all(|run| fs::read_to_string(run.join("config.resolved.toml")).unwrap().contains(clip))
    };
    folder.run(&grid).fails(2, "C0205");
    assert!(clips("\nclip = 0"));
    folder.run(&[&grid[..], &["--set", "optim.clip=1"]].concat()).fails(2, "C0205");
    assert!(clips("\nclip = 1"));
}

#[test]
fn a_sweep_is_shown_and_compared_by_its_own_metric() {
    let folder = Folder::new();
    let said = folder.run(&sweep(&["--grid", "dim=4,8", "--set", "eval.at=5,20", "--set", "metric=ndcg@5"])).ok();
    assert!(said.contains("ndcg@5") && said.contains("coverage@5") && said.contains("sign test p"), "{said}");
    assert!(!said.contains("failed") && !said.contains("@10"), "{said}");
    folder.run(&sweep(&["--grid", "metric=ndcg@5,ndcg@10"])).fails(2, "C0205");
    folder.run(&sweep(&["--grid", "dim=4,8", "--set", "metric=ndcg@7"])).fails(2, "C0202");
}

#[test]
fn runs_that_share_no_request_end_a_sweep_in_a_note() {
    let folder = Folder::new();
    let small = ["--set", "synthetic.users=3", "--set", "synthetic.items=400"];
    let said = folder.run(&sweep(&[&small[..], &["--grid", "synthetic.seed=1,2"]].concat())).ok();
    assert!(said.contains("note: not compared") && said.contains("no request in common"), "{said}");
}

#[test]
fn what_cannot_be_swept_is_refused_before_the_first_run() {
    let folder = Folder::new();
    let nothing = ["--grid", "dim=4,8", "--set", "eval_every=0"];
    folder.run(&sweep(&nothing)).fails(2, "C0205");
    for seeds in ["train.seed=1,2", "seed=1,2"] {
        let refused = folder.run(&sweep(&["--grid", seeds])).fails(2, "C0205");
        assert!(refused.err.contains("--seeds"), "{}", refused.err);
    }
    folder.run(&sweep(&["--grid", "dim=4,8", "--set", "seed=7", "--seeds", "1"])).fails(2, "C0203");
    // A first round as long as the last one has no better half to keep.
    for least in ["2", "50"] {
        folder.run(&sweep(&["--grid", "dim=4,8", "--halving", "2", "--min-epochs", least])).fails(2, "C0205");
    }
    assert!(!folder.path("all").exists());
}

#[test]
fn seeds_and_epochs_are_those_of_each_run() {
    let folder = Folder::new();
    let of = |runs: &[serde_json::Value], what: &str| runs.iter().map(|run| run[what].as_u64().unwrap()).collect::<Vec<_>>();
    let set = runs(&folder, &sweep(&["--grid", "dim=4,8", "--set", "seed=7"]));
    assert_eq!(of(&set, "seed"), [7, 7]);
    let config =
        fs::read_to_string(folder.path("all").join(set[0]["run"].as_str().unwrap()).join("config.resolved.toml")).unwrap();
    assert!(config.contains("\nseed = 7\n"), "{config}");
    let mut epochs = of(&runs(&folder, &sweep(&["--grid", "epochs=1,3"])), "epochs");
    epochs.sort_unstable();
    assert_eq!(epochs, [1, 3]);
    assert_eq!(of(&runs(&folder, &sweep(&["--grid", "dim=4", "--seeds", "1,2"])), "seed"), [1, 2]);
}

#[test]
fn a_budget_below_a_tenth_of_a_second_is_one() {
    let folder = Folder::new();
    // Longer than the budget by far, and evaluated at its end.
    let long = ["--grid", "dim=4,8", "--set", "epochs=2000", "--set", "eval_every=2000", "--budget", "0.04s"];
    let spent = folder.run(&sweep(&long));
    assert_eq!(spent.code, Some(75), "{}", spent.err);
    let through = |run: fs::DirEntry| run.path().join("report.json").exists();
    assert!(!fs::read_dir(folder.path("all")).unwrap().flatten().any(through), "{}", spent.out);
}
