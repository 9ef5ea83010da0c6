//! The program from outside: every exit status, every command of the README, and manners.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

use crate::program::{Folder, SMALL, end_of, finish};

#[test]
fn success_is_0_and_a_run_leaves_everything_it_promises() {
    let folder = Folder::new();
    let out = folder.run(SMALL).ok();
    assert!(out.contains("ndcg@10") && out.contains("popularity") && out.contains("item-to-item"), "{out}");
    for name in [
        "config.resolved.toml",
        "manifest.json",
        "data.hardneg",
        "metrics.jsonl",
        "checkpoints",
        "best",
        "report.json",
        "report.md",
        "log.txt",
        "lock",
    ] {
        assert!(folder.path("run").join(name).exists(), "{name} is missing");
    }
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("run/report.json")).unwrap()).unwrap();
    assert!(report["model"]["ndcg@10"].as_f64().is_some_and(|v| (0.0..=1.0).contains(&v)));
    assert_eq!(report["baselines"].as_array().unwrap().len(), 2);
    // The same command again reports and changes nothing, not even a digit of what was recorded.
    let records = || fs::read_to_string(folder.path("run/metrics.jsonl")).unwrap();
    let before = (end_of(&folder.path("run")), records());
    let again = folder.run(SMALL);
    assert_eq!((again.code, (end_of(&folder.path("run")), records())), (Some(0), before));
    // What evaluation says is what training said.
    let evaluated = folder.run(&["evaluate", "run", "--json"]).ok();
    let evaluated: serde_json::Value = serde_json::from_str(&evaluated).unwrap();
    for (key, value) in report["model"].as_object().unwrap() {
        assert_eq!(&evaluated[key], value, "{key}");
    }
    // The resolved configuration reproduces the run bit for bit.
    folder.run(&["train", "--config", "run/config.resolved.toml", "--out", "again", "--progress", "none"]).ok();
    assert_eq!(end_of(&folder.path("again")).0, end_of(&folder.path("run")).0);
}

#[test]
fn misuse_is_2() {
    let folder = Folder::new();
    folder.write("bad.toml", "[model\n");
    for (args, code) in [
        (&["train", "--set", "model.dmi=3"][..], "C0201"),
        (&["train", "--set", "model.dim=three"], "C0202"),
        (&["train", "--sampler", "popularty"], "C0202"),
        (&["train", "--set", "loss=hinged"], "C0202"),
        (&["train", "--sampler", "dns", "--set", "sampler.select.foo=3"], "C0201"),
        (&["train", "--set", "train.metric=ndcg@11"], "C0202"),
        (&["train", "--set", "model.temperature=0.3"], "C0203"),
        (&["train", "--config", "bad.toml"], "C0204"),
        (&["train", "--set", "causal=false"], "C0205"),
        (&["train", "--device", "abacus"], "C0202"),
        (&["explain", "X1"], "C0202"),
        (&["samplers", "show", "popularty"], "C0202"),
        (&["check", "--only", "atention"], "C0202"),
        (&["check", "--repeat", "0"], "C0202"),
    ] {
        folder.run(args).fails(2, code);
    }
    for args in [&["trane"][..], &["train", "--epochs"], &["train", "--time-limit", "soon"], &["recommend", "run"], &[]] {
        assert_eq!(folder.run(args).code, Some(2), "{args:?}");
    }
    folder.run(SMALL).ok();
    let other = [SMALL, &["--set", "dim=9"]].concat();
    let refused = folder.run(&other).fails(2, "C0206");
    assert!(refused.err.contains("model.dim: 8 in the run, 9 now"), "{}", refused.err);
    folder.run(&[SMALL, &["--set", "dim=9", "--fresh"]].concat()).ok();
    folder.run(&["evaluate", "run", "--set", "model.dim=9"]).fails(2, "C0203");
}

/// Settings of evaluation cannot be changed once a run has begun, so it must not begin with bad ones.
#[test]
fn what_evaluation_would_refuse_is_refused_before_training() {
    let folder = Folder::new();
    for (sets, code) in [
        (&["--set", "eval.at=10,5000"][..], "C0202"),
        (&["--set", "eval.candidates=foo"], "C0202"),
        (&["--set", "eval.candidates=random:0"], "C0202"),
        (&["--set", "eval.candidates=random:10", "--set", "eval.items=trained"], "C0203"),
    ] {
        for every in ["eval_every=0", "eval_every=1"] {
            folder.run(&[SMALL, sets, &["--set", every]].concat()).fails(2, code);
            assert!(!folder.path("run").exists(), "{sets:?} {every}");
        }
    }
    // Users of two events, who leave nothing out; and a slice of time in which users only begin, so that nothing validates.
    let two = (0..30).map(|u| format!("u{u},i{}\nu{u},i{}\n", u % 7, (u * 3 + 1) % 7)).collect::<String>();
    folder.write("two.csv", format!("user,item\n{two}"));
    let slices = [("a", 11, 0), ("a", 11, 1), ("b", 8, 0), ("b", 8, 2), ("a", 2, 3)];
    let events =
        slices.iter().flat_map(|&(name, users, shift)| (0..users).map(move |u| format!("{name}{u},i{}", (u + shift) % 5)));
    let gts = events.enumerate().map(|(at, event)| format!("{event},{}\n", 1_000_000_000 + 1000 * at)).collect::<String>();
    folder.write("gts.csv", format!("user_id,item_id,timestamp\n{gts}"));
    let gts = ["gts.csv", "--set", "data.split=gts", "--set", "gts_quantile=0.75"];
    let own = ["--epochs", "1", "--set", "dim=8", "--device", "host", "-q", "--out"];
    for (log, out, every, cure) in [
        (&["two.csv"][..], "two-0", "eval_every=0", "three events"),
        (&["two.csv"], "two-1", "eval_every=1", "three events"),
        (&gts, "gts-1", "eval_every=1", "`--set eval_every=0`"),
    ] {
        let refused = folder.run(&[&["train"], log, &["--set", every], &own, &[out]].concat()).fails(3, "D0301");
        assert!(refused.err.contains(cure), "{}", refused.err);
        for name in ["metrics.jsonl", "checkpoints", "data.hardneg", "data.hardneg.new"] {
            assert!(!folder.path(out).join(name).exists(), "{out} has {name}");
        }
    }
    folder.run(&[&["train"], &gts[..], &["--set", "eval_every=0"], &own, &["gts-0"]].concat()).ok();
}

/// The files of a run, but for who holds it.
fn files_of(run: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(run).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.file_name() != "lock");
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap_or_default())).collect();
    files.sort();
    files
}

#[test]
fn fresh_removes_an_earlier_run_only_for_one_that_begins() {
    let folder = Folder::new();
    folder.run(SMALL).ok();
    let run = folder.path("run");
    let (end, files) = (end_of(&run), files_of(&run));
    folder.run(&[SMALL, &["--set", "synthetic.seed=2", "--fresh", "--dry-run"]].concat()).ok();
    let own = ["--out", "run", "--fresh", "--device", "host", "-q"];
    folder.run(&[&["train", "absent.csv"], &own[..]].concat()).fails(3, "D0101");
    folder.ratings("ratings.csv");
    let lacking = ["train", "ratings.csv", "--sampler", "kg-walk", "--set", "sampler.negatives=1"];
    folder.run(&[&lacking[..], &own].concat()).fails(3, "D0303");
    let refused = folder.run(&[&["train", "run/data.hardneg"], &own[..]].concat()).fails(2, "C0205");
    assert!(refused.err.contains("run/data.hardneg"), "{}", refused.err);
    assert!(files_of(&run) == files && end_of(&run) == end, "the run is as it was");
    folder.run(&[SMALL, &["--fresh", "--set", "eval_every=0"]].concat()).ok();
    let log = fs::read_to_string(run.join("log.txt")).unwrap();
    assert_eq!((log.matches("data: ").count(), log.matches("split ").count()), (1, 1), "{log}");
    assert!(!run.join("best").exists() && run.join("data.hardneg").exists() && !run.join("data.hardneg.new").exists());
    // A look ahead leaves no data where there was no run.
    folder.run(&[SMALL, &["--dry-run", "--out", "ahead"]].concat()).ok();
    assert!(files_of(&folder.path("ahead")).iter().all(|(name, _)| name == "log.txt"));
}

#[test]
fn bad_data_are_3() {
    let folder = Folder::new();
    folder.write("empty.csv", "");
    folder.write("header.csv", "user_id,item_id,timestamp\n");
    folder.write("prose.txt", "It was the best of times.\nIt was the worst of times, it was the age.\n");
    folder.run(&["train", "absent.csv"]).fails(3, "D0101");
    folder.run(&["train", "."]).fails(3, "D0101");
    folder.run(&["train", "empty.csv"]).fails(3, "D0102");
    folder.run(&["inspect", "header.csv"]).fails(3, "D0102");
    folder.run(&["inspect", "prose.txt"]).fails(3, "D0103");
    folder.run(SMALL).ok();
    folder.run(&["recommend", "run", "--users", "nobody"]).fails(3, "D0406");
}

#[test]
fn a_bad_model_is_4() {
    let folder = Folder::new();
    folder.write("model.pt", b"PK\x03\x04rest");
    folder.run(&["evaluate", "model.pt"]).fails(4, "M0403");
    folder.run(&["evaluate", "absent"]).fails(4, "M0403");
    folder.run(SMALL).ok();
    let best = fs::read_dir(folder.path("run/best")).unwrap().next().unwrap().unwrap().path();
    fs::write(best.join("model.safetensors"), [0xff; 64]).unwrap();
    let refused = folder.run(&["evaluate", "run"]).fails(4, "M0401");
    assert!(refused.err.contains("remove run/best"), "{}", refused.err);
    // The end of a training judges the last model instead, says so, and calls it not the best.
    let end = end_of(&folder.path("run"));
    folder.run(SMALL).ok();
    assert_eq!(end_of(&folder.path("run")), end);
    assert!(fs::read_to_string(folder.path("run/log.txt")).unwrap().contains("the last model is judged"));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path("run/report.json")).unwrap()).unwrap();
    assert!(report["best"].is_null() && report["model"]["ndcg@10"].is_number(), "{report}");
    fs::remove_dir_all(folder.path("run/best")).unwrap();
    let evaluated: serde_json::Value = serde_json::from_str(&folder.run(&["evaluate", "run", "--json"]).ok()).unwrap();
    assert_eq!((&evaluated["step"], &evaluated["ndcg@10"]), (&report["step"], &report["model"]["ndcg@10"]));
    // A manifest that cannot be read is no obstacle to training, which writes it anew.
    fs::write(folder.path("run/manifest.json"), "{}").unwrap();
    let refused = folder.run(&["evaluate", "run"]).fails(4, "M0403");
    assert!(refused.err.contains("run the command that trained it again"), "{}", refused.err);
    folder.run(SMALL).ok();
    assert_eq!(end_of(&folder.path("run")), end);
    fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    folder.run(&["evaluate", "run"]).fails(4, "M0405");
}

#[test]
fn a_device_that_is_not_there_is_5_and_auto_falls_back() {
    let folder = Folder::new();
    let refused = folder.run(&["train", "--device", "cuda:99"]);
    assert_eq!(refused.code, Some(5), "{}", refused.err);
    assert!(refused.err.contains("[G0501]") || refused.err.contains("[G0502]"), "{}", refused.err);
    let auto: Vec<&str> = SMALL.iter().map(|&a| if a == "host" { "auto" } else { a }).collect();
    folder.run(&auto).ok();
}

#[test]
fn divergence_is_7_and_leaves_no_broken_checkpoint() {
    let folder = Folder::new();
    folder
        .run(&[SMALL, &["--set", "lr=1e30", "--set", "checkpoint_steps=1", "--set", "eval_every=0"]].concat())
        .fails(7, "T0701");
    let manifest = fs::read_to_string(folder.path("run/manifest.json")).unwrap();
    assert!(manifest.contains("\"exit\": \"") && !manifest.contains("Finished"), "{manifest}");
    // Selections choose nothing by scores that are no numbers, and a row without negatives has a loss of 0; the step is seen through.
    for (sampler, loss) in [("dns", "sampled_softmax"), ("genni", "sampled_softmax"), ("genni-full", "bpr"), ("dns", "hinge")] {
        let folder = Folder::new();
        let loss = format!("loss={loss}");
        let own = ["--sampler", sampler, "--set", &loss, "--set", "lr=1e30", "--set", "eval_every=0"];
        folder.run(&[SMALL, &own].concat()).fails(7, "T0701");
    }
}

/// A log of users and items alone, and presets that need more: each names what is missing and the key that supplies it, and nothing
/// has been trained.
#[test]
fn a_sampler_that_needs_what_the_log_lacks_is_refused_before_training() {
    let folder = Folder::new();
    let rows = (0..24).flat_map(|user| (0..5 + user % 10).map(move |event| (user, (user * 7 + event * (1 + user % 3)) % 17)));
    folder.write("log.csv", rows.fold("user,item\n".to_string(), |text, (user, item)| text + &format!("u{user},i{item}\n")));
    let presets = [
        ("cans", "D0404", "`data.time_col`"),
        ("cans-items", "D0404", "`data.time_col`"),
        ("same-attribute", "D0303", "`data.items_path`"),
        ("knn-attribute", "D0303", "`data.items_path`"),
        ("geosan", "D0303", "`data.items_path`"),
        ("category-balance", "D0303", "`data.items_path`"),
        ("fairneg", "D0303", "`data.items_path`"),
        ("kg-walk", "D0303", "`data.graph_path`"),
        ("kgpolicy", "D0303", "`data.graph_path`"),
        ("predefined", "D0303", "`data.min_weight`"),
    ];
    for (preset, code, option) in presets {
        let out = format!("run-{preset}");
        let run = ["train", "log.csv", "--set", "dim=8", "--epochs", "1", "--device", "host", "--sampler", preset, "--out", &out];
        let refused = folder.run(&[&run[..], &["--set", "sampler.negatives=1"]].concat()).fails(3, code);
        assert!(refused.err.contains(option), "{preset}: {}", refused.err);
        assert!(!folder.path(&out).join("metrics.jsonl").exists() && !folder.path(&out).join("checkpoints").exists(), "{preset}");
    }
    // Those that need nothing train, on the same log.
    for preset in ["gnno", "user-walk", "tron", "bns"] {
        let run =
            ["train", "log.csv", "--set", "dim=8", "--epochs", "1", "--device", "host", "--sampler", preset, "--out", preset];
        folder.run(&[&run[..], &["--set", "sampler.negatives=1"]].concat()).ok();
    }
}

#[test]
fn trouble_with_files_is_8() {
    let folder = Folder::new();
    folder.write("file", "not a folder");
    folder.run(&["train", "--out", "file/run"]).fails(8, "F0801");
    folder.ratings("ratings.csv");
    folder.run(&["prepare", "ratings.csv", "-o", "."]).fails(8, "F0801");
    folder.run(SMALL).ok();
    folder.run(&["recommend", "run", "--users", "all", "-o", "/dev/full"]).fails(8, "F0802");
    fs::remove_dir_all(folder.path("run")).unwrap();
    // A second trainer in the same directory.
    let mut first =
        folder.command().args(SMALL).args(["--epochs", "100000"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !folder.path("run/metrics.jsonl").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = folder.run(SMALL);
    let pid = first.id().to_string();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(second.fails(8, "F0803").err.contains(&pid));
}

#[test]
fn errors_are_one_json_object_with_json() {
    let folder = Folder::new();
    let failed = folder.run(&["--json", "train", "absent.csv"]);
    let error: serde_json::Value = serde_json::from_str(failed.err.trim()).unwrap();
    assert_eq!((error["error"]["code"].as_str(), error["error"]["exit"].as_i64()), (Some("D0101"), Some(3)));
    let misuse: [(&[&str], &str); 4] = [
        (&["train", "--json", "--seed", "-1"], "train.seed = -1"),
        (&["train", "--json", "--time-limit", "abc"], "--time-limit"),
        (&["evaluate", "--json"], "<RUN>"),
        (&["--json"], "command"),
    ];
    for (args, what) in misuse {
        let failed = folder.run(args);
        let error: serde_json::Value = serde_json::from_str(failed.err.trim()).unwrap();
        assert_eq!((failed.code, error["error"]["code"].as_str()), (Some(2), Some("C0202")), "{error}");
        assert!(error["error"]["what"].as_str().unwrap().contains(what) && !failed.err.contains("-- -1"), "{error}");
    }
    let kinds = |args: &[&str]| -> Vec<String> {
        let lines = folder.run(&[SMALL, &["--json", "--fresh"], args].concat()).ok();
        let records = lines.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        records.map(|r| r["kind"].as_str().unwrap().to_string()).collect()
    };
    let all = kinds(&["--progress", "auto"]);
    let has = |kind: &str| all.iter().any(|k| k == kind);
    assert!(has("epoch") && has("evaluation") && all.last().is_some_and(|k| k == "report"), "{all:?}");
    // Only results, where nothing else is wanted.
    assert_eq!(kinds(&["--progress", "none"]), ["report"]);
    assert_eq!(kinds(&["--progress", "auto", "-q"]), ["report"]);
    let lists = folder.run(&["recommend", "run", "--users", "all", "-k", "2", "--device", "host", "--json"]).ok();
    assert!(lists.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok_and(|l| l["rank"].is_u64())), "{lists}");
    let lists = ["recommend", "run", "--users", "all", "-k", "2", "--device", "host", "--json", "--format", "csv"];
    assert!(folder.run(&lists).ok().starts_with("user_id,"));
}

#[test]
fn a_reader_that_hangs_up_is_no_failure() {
    let folder = Folder::new();
    folder.run(SMALL).ok();
    let mut child = folder
        .command()
        .args(["recommend", "run", "--users", "all", "-k", "30", "--device", "host"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    assert_eq!(first, "user_id,item_id,score,rank\n");
    drop(lines);
    let output = finish(child.wait_with_output().unwrap(), &["recommend"]);
    assert_eq!((output.code, &output.err[..]), (Some(0), ""));
}

#[test]
fn lists_name_items_of_the_log_in_order_and_leave_out_what_was_seen() {
    let folder = Folder::new();
    folder.ratings("ratings.csv");
    let train = ["train", "ratings.csv", "--out", "run", "--epochs", "2", "--set", "dim=8", "--device", "host", "-q"];
    folder.run(&train).ok();
    let rows =
        |text: &str| -> Vec<Vec<String>> { text.lines().skip(1).map(|l| l.split(',').map(str::to_string).collect()).collect() };
    let log = fs::read_to_string(folder.path("ratings.csv")).unwrap();
    let seen = |user: &str, item: &str| log.lines().any(|l| l.starts_with(&format!("{user},{item},")));
    let lists = folder.run(&["recommend", "run", "--users", "u3,u11", "-k", "4"]).ok();
    let lists = rows(&lists);
    assert_eq!(lists.len(), 8);
    for pair in lists.windows(2).filter(|p| p[0][0] == p[1][0]) {
        assert!(pair[0][2].parse::<f32>().unwrap() >= pair[1][2].parse::<f32>().unwrap());
    }
    assert!(lists.iter().all(|row| !seen(&row[0], &row[1])), "{lists:?}");
    folder.write("deny.txt", "i1\ni2\n");
    folder.write("allow.txt", "i1\ni3\n");
    let limited =
        folder.run(&["recommend", "run", "--users", "all", "--keep-seen", "--allow", "allow.txt", "--deny", "deny.txt"]).ok();
    assert!(rows(&limited).iter().all(|row| row[1] == "i3") && rows(&limited).len() == 24);
    // The same history by hand gives the same list as the user of the log.
    let items: Vec<&str> = log.lines().filter(|l| l.starts_with("u3,")).map(|l| l.split(',').nth(1).unwrap()).collect();
    let mut child = folder
        .command()
        .args(["recommend", "run", "--sequences", "-", "-k", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = serde_json::json!({ "user": "u3", "items": items });
    writeln!(child.stdin.take().unwrap(), "{line}\n{{\"items\":[\"unheard-of\"]}}").unwrap();
    let mut by_hand = String::new();
    child.stdout.take().unwrap().read_to_string(&mut by_hand).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let pick = |rows: &[Vec<String>]| rows.iter().filter(|r| r[0] == "u3").map(|r| r[1].clone()).collect::<Vec<_>>();
    assert_eq!(pick(&rows(&by_hand)), pick(&lists));
}

#[test]
fn lists_that_fail_leave_the_earlier_ones_where_they_are() {
    let folder = Folder::new();
    folder.run(SMALL).ok();
    let good = folder.run(&["recommend", "run", "--users", "all", "-o", "lists.csv", "--device", "host"]);
    assert_eq!(good.code, Some(0), "{}", good.err);
    let before = fs::read(folder.path("lists.csv")).unwrap();
    // The second history is refused when the output is open.
    let name = String::from_utf8(before.clone()).unwrap().lines().nth(1).unwrap().split(',').nth(1).unwrap().to_string();
    let line = |more: &str| format!("{{\"items\":[\"{name}\"]{more}}}\n");
    folder.write("asked.jsonl", line("") + &line(",\"context\":{\"device\":\"x\"}"));
    let asked = ["recommend", "run", "--sequences", "asked.jsonl", "--device", "host", "-o"];
    folder.run(&[&asked[..], &["lists.csv"]].concat()).fails(3, "D0406");
    folder.run(&[&asked[..], &["other.csv"]].concat()).fails(3, "D0406");
    assert_eq!(fs::read(folder.path("lists.csv")).unwrap(), before);
    assert!(
        !folder.path("other.csv").exists()
            && files_of(&folder.path("")).iter().all(|(name, _)| !name.to_string_lossy().ends_with(".tmp"))
    );
    // A pipe is written to as it is.
    folder.write("asked.jsonl", line(""));
    let piped = folder.run(&[&asked[..], &["/dev/stdout"]].concat()).ok();
    assert!(piped.starts_with("user_id,item_id,score,rank\n") && piped.lines().count() == 11, "{piped}");
    folder.run(&["evaluate", "run", "--per-user", "ranks.csv", "--device", "host"]).ok();
    assert!(fs::read_to_string(folder.path("ranks.csv")).unwrap().starts_with("user_id,item_id,rank,"));
    folder.run(&["evaluate", "run", "--per-user", "/dev/full", "--device", "host"]).fails(8, "F0802");
}

#[test]
fn a_changed_log_is_noticed() {
    let folder = Folder::new();
    folder.ratings("ratings.csv");
    let train = ["train", "ratings.csv", "--out", "run", "--epochs", "2", "--set", "dim=8", "--device", "host", "-q"];
    folder.run(&train).ok();
    let end = end_of(&folder.path("run"));
    let log = fs::read_to_string(folder.path("ratings.csv")).unwrap();
    folder.write("ratings.csv", log + "u0,i16,5,990000000\n");
    folder.run(&train).fails(2, "C0206");
    folder.run(&["evaluate", "run"]).ok();
    assert_eq!(end_of(&folder.path("run")), end, "the run keeps the data it was trained on");
    // Also where the manifest can no longer tell which those were.
    let kept = fs::read(folder.path("run/data.hardneg")).unwrap();
    fs::write(folder.path("run/manifest.json"), "{}").unwrap();
    folder.run(&train).fails(2, "C0206");
    assert_eq!(fs::read(folder.path("run/data.hardneg")).unwrap(), kept);
}

#[test]
fn print_config_shows_where_values_come_from_and_trains_nothing() {
    let folder = Folder::new();
    folder.write("train.toml", "[model]\ndim = 24\n");
    let mut command = folder.command();
    command.env("HARDNEG_OPTIM__LR", "0.01").args([
        "train",
        "x.csv",
        "--config",
        "train.toml",
        "--set",
        "maxlen=7",
        "--epochs",
        "2",
        "--print-config",
    ]);
    let shown = finish(command.output().unwrap(), &["--print-config"]).ok();
    for (key, value, from) in [
        ("data.path", "\"x.csv\"", "LOG"),
        ("model.dim", "24", "train.toml:2:1"),
        ("optim.lr", "0.01", "HARDNEG_OPTIM__LR"),
        ("model.max_len", "7", "--set maxlen=7"),
        ("train.epochs", "2", "--epochs"),
        ("model.layers", "2", "default"),
    ] {
        let line = shown.lines().find(|l| l.starts_with(&format!("{key} = "))).unwrap_or_else(|| panic!("{key} is missing"));
        assert!(line.starts_with(&format!("{key} = {value} ")) && line.contains(from), "{line}");
    }
    assert!(!folder.path("runs").exists());
}

#[test]
fn every_command_has_short_help_with_two_examples() {
    let folder = Folder::new();
    for command in [
        "train",
        "prepare",
        "inspect",
        "evaluate",
        "recommend",
        "report",
        "samplers",
        "explain",
        "doctor",
        "check",
        "compare",
        "profile",
        "plan",
        "sweep",
    ] {
        let help = folder.run(&[command, "-h"]).ok();
        assert!(help.matches(&format!("hardneg {command}")).count() >= 2, "{command}: {help}");
    }
    assert!(folder.run(&["--version"]).ok().contains(env!("CARGO_PKG_VERSION")));
    let explained = folder.run(&["explain", "all"]).ok();
    assert!(hardneg::error::Code::ALL.iter().all(|c| explained.contains(c.name())));
}

/// The README's table of commands: each example runs as it is printed, on a log of the name it uses.
#[test]
fn every_command_of_the_readme_runs() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("## Commands").nth(1).expect("a section of commands").split("\n## ").next().unwrap();
    let examples: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('|').nth(3)?.trim().strip_prefix('`')?.strip_suffix('`'))
        .collect();
    assert!(examples.len() >= 8, "only {} examples were found", examples.len());
    let folder = Folder::new();
    folder.ratings("ratings.csv");
    let small = ["HARDNEG_MODEL__DIM=8", "HARDNEG_TRAIN__BATCH_SIZE=8"];
    let mut commands = vec![];
    for example in examples {
        let words: Vec<&str> = example.split_whitespace().collect();
        assert_eq!(words[0], "hardneg", "{example}");
        let mut command = folder.command();
        command.args(&words[1..]).envs(small.iter().filter_map(|pair| pair.split_once('=')));
        if words.contains(&"emulator") {
            // A C++ compiler finds its parts by the path.
            command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
            if std::process::Command::new("c++").arg("--version").output().is_err() {
                println!("SKIPPED: no C++ compiler, so `{example}` was not run");
                commands.push(words[1].to_string());
                continue;
            }
        }
        let finished = finish(command.output().unwrap(), &words);
        assert_eq!(finished.code, Some(0), "{example}\n{}", finished.err);
        commands.push(words[1].to_string());
    }
    let help = folder.run(&["-h"]).ok();
    let listed = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    for command in listed.lines().filter_map(|l| l.split_whitespace().next()).filter(|c| *c != "help") {
        assert!(commands.iter().any(|c| c == command), "the README has no example of `hardneg {command}`");
    }
}
