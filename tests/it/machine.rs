//! Training on the emulator: a hundred steps with every kind of work a step may have follow the plain path, and a model
//! trained there is evaluated and recommends as one trained on the plain path. Skips, saying so, without a C++ compiler.

use std::process::Command;

use crate::program::{Folder, finish};

/// A small log with times and attributes.
const MADE: &[&str] = &[
    "--set",
    "synthetic.users=60",
    "--set",
    "synthetic.items=40",
    "--set",
    "synthetic.clusters=4",
    "--set",
    "synthetic.events_per_user=12",
];

/// A hundred steps of a small model.
const SMALL: &[&str] = &[
    "--set",
    "dim=8",
    "--set",
    "max_len=10",
    "--batch-size",
    "8",
    "--epochs",
    "20",
    "--steps",
    "100",
    "--set",
    "eval_every=0",
    "--set",
    "eval.baselines=false",
    "--progress",
    "none",
];

/// What a step may consist of: each loss, kind of score, sampler and shape of the block at least once.
const KINDS: &[&[&str]] = &[
    &["loss.kind=softmax", "model.kind=cans"],
    &["loss.kind=whole_data", "loss.unseen=0.02"],
    &["loss.kind=bce", "sampler.preset=uniform"],
    &["loss.kind=bpr", "sampler.preset=dns", "model.norm=post", "activation=gelu", "heads=2"],
    &["loss.kind=bce", "model.norm=sasrec", "model.positions=start", "dropout=0.1"],
    &["loss.kind=bpr", "sampler.preset=srns"],
    &["loss.kind=bpr", "sampler.preset=kg-walk"],
    &["sampler.preset=kgpolicy", "sampler.negatives=2"],
    &["loss.kind=bce", "sampler.preset=dns-mn", "sampler.scope=sequence"],
    &["loss.kind=sampled_softmax", "sampler.preset=mixgcf", "sampler.negatives=3", "sampler.weight.kind=propensity"],
    &["loss.kind=bpr_max", "sampler.preset=pris", "sampler.negatives=9", "sampler.scope=sequence"],
    &["loss.kind=hinge", "sampler.preset=mcns", "sampler.negatives=2"],
    &["loss.kind=contrastive", "loss.tau_plus=0.05", "loss.beta=0.5", "sampler.preset=softmax-rho", "sampler.negatives=9"],
    &["loss.kind=hard_bpr", "sampler.preset=ahns"],
    &["loss.kind=bpr", "sampler.preset=bns"],
    &["sampler.preset=kbgan", "sampler.negatives=2"],
    &["sampler.preset=irgan"],
    &["sampler.preset=fairneg", "sampler.negatives=2"],
    &["sampler.preset=adasir", "sampler.select.size=9", "sampler.select.candidates=20"],
    &["sampler.preset=pure", "sampler.negatives=2", "sampler.mix.count=2"],
    &["sampler.preset=sce", "sampler.negatives=30"],
    &["sampler.preset=dens", "sampler.negatives=2"],
    &["sampler.preset=hcl", "sampler.negatives=9", "model.score=cosine"],
    &["loss.kind=gbce", "sampler.preset=popularity", "sampler.negatives=7", "model.tied=false", "optim.clip=0.1"],
    &["loss.kind=sampled_softmax", "sampler.preset=genni", "sampler.negatives=3"],
    &["loss.kind=sampled_softmax", "sampler.preset=mns", "sampler.negatives=16", "train.targets=last"],
    &["loss.kind=sampled_softmax", "sampler.preset=cans", "model.kind=cans", "sampler.negatives=9", "model.dropout=0"],
];

/// Tables updated by row, which attributes rule out: the log is a bare one.
const BY_ROW: &[&[&str]] = &[
    &["optim.tables=lazy", "loss.kind=bce", "sampler.preset=popularity", "sampler.negatives=5"],
    &["optim.tables=lazy", "loss.kind=bpr", "sampler.preset=dns", "model.tied=false"],
    &["optim.tables=lazy", "loss.kind=bpr", "sampler.preset=ahns", "optim.clip=0.1"],
    &["optim.tables=adagrad", "loss.kind=bce", "sampler.preset=popularity", "optim.decay_tables=true", "optim.weight_decay=0.1"],
];

/// Sixty users with a dozen events each; some of the ninety items are rare.
fn bare_log(folder: &Folder) {
    let event = |n: u32| format!("{},{},{}\n", n / 12, (n * n % 97 + n / 12) % 90, 1_000_000 + 3600 * n);
    let lines: String = (0..720).map(event).collect();
    std::fs::write(folder.path("bare.csv"), format!("user,item,time\n{lines}")).unwrap();
}

/// What the epochs' records say of the negatives: shares of their ids, which one other draw would change.
fn drawn(folder: &Folder, run: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.path(run).join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let shares = |of: serde_json::Value| ["popularity", "repeated", "false_negatives"].map(|what| of[what].clone());
    let all: Vec<_> = records.filter(|r| r["negatives"].is_object()).flat_map(|r| shares(r["negatives"].clone())).collect();
    assert!(all.iter().all(|share| !share.is_null()), "{all:?}");
    all
}

fn losses(folder: &Folder, run: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(folder.path(run).join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    records.filter_map(|record| record["loss"].as_f64()).collect()
}

#[test]
fn a_hundred_steps_on_the_emulator_follow_the_plain_path() {
    if Command::new("c++").arg("--version").output().is_err() {
        return println!("SKIPPED: no C++ compiler, so nothing was trained on the emulator");
    }
    let folder = Folder::new();
    let cache = std::env::temp_dir().join("hardneg-test-cache");
    bare_log(&folder);
    let on = |device: &str, out: &str, kind: &[&str]| {
        let mut command = folder.command();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("XDG_CACHE_HOME", &cache);
        let log = if kind[0].starts_with("optim.tables=") { &["bare.csv"][..] } else { MADE };
        command.arg("train").args(log).args(SMALL).args(["--device", device, "--out", out]);
        for setting in kind {
            command.args(["--set", setting]);
        }
        finish(command.output().unwrap(), kind).ok()
    };
    for (number, kind) in KINDS.iter().chain(BY_ROW).enumerate() {
        let (machine, host) = (format!("machine{number}"), format!("host{number}"));
        on("emulator", &machine, kind);
        on("host", &host, kind);
        // Where no score decides what is drawn, the ids are the same ones.
        if ["popularity", "mns", "cans"].iter().any(|name| kind.contains(&format!("sampler.preset={name}").as_str())) {
            assert_eq!(drawn(&folder, &machine), drawn(&folder, &host), "{kind:?}");
            assert!(!drawn(&folder, &machine).is_empty());
        }
        let (machine, host) = (losses(&folder, &machine), losses(&folder, &host));
        assert!(machine.len() > 10 && machine.len() == host.len(), "{kind:?}");
        for (epoch, (machine, host)) in machine.iter().zip(&host).enumerate() {
            // Rounding grows with the steps; a draw that fell otherwise would show in the second digit.
            assert!((machine - host).abs() < 1e-3 * host.abs(), "{kind:?} epoch {epoch}: {machine} against {host}");
        }
    }
    // The first run, judged and used on the machine and on the plain path.
    let judged = |device: &str| {
        let mut command = folder.command();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("XDG_CACHE_HOME", &cache);
        let report = command.args(["evaluate", "machine0", "--device", device, "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_str(&finish(report, &["evaluate"]).ok()).unwrap();
        report["ndcg@10"].as_f64().unwrap()
    };
    assert!((judged("emulator") - judged("host")).abs() < 1e-6);
}

/// What stays on a machine from the batch to the update, and samplers that read scores in between, which no recording can hold.
const RECORDED: &[(bool, &[&str])] = &[
    (true, &["loss.kind=softmax"]),
    (true, &["loss.kind=softmax", "model.score=cosine", "model.norm=post", "dropout=0.1", "train.targets=last"]),
    (true, &["loss.kind=bce", "sampler.preset=uniform", "sampler.negatives=4"]),
    (true, &["loss.kind=gbce", "sampler.preset=popularity", "sampler.negatives=7", "model.tied=false", "optim.clip=0.1"]),
    (true, &["loss.kind=bpr", "sampler.preset=dns", "model.positions=start", "model.norm=sasrec"]),
    (true, &["loss.kind=sampled_softmax", "sampler.preset=genni", "sampler.negatives=3"]),
    (true, &["loss.kind=bce", "sampler.preset=popularity", "sampler.negatives=5", "optim.tables=lazy"]),
    (true, &["loss.kind=sampled_softmax", "model.kind=cans", "sampler.preset=cans", "sampler.negatives=9", "data.clusters=4"]),
    (false, &["loss.kind=bpr", "sampler.preset=srns"]),
];

/// Batches of 70 to 100 rows, each its own number: products are made of rounded numbers of rows, and everything else of the steps' own.
#[test]
fn recorded_steps_are_those_of_a_machine_that_records_nothing() {
    if Command::new("c++").arg("--version").output().is_err() {
        return println!("SKIPPED: no C++ compiler, so nothing was trained on the emulator");
    }
    let folder = Folder::new();
    let cache = std::env::temp_dir().join("hardneg-test-cache");
    let events =
        |user: u32| (0..10 + user * 7 % 6).map(move |n| (user, (n * n + 13 * user) % 90, 1_000_000 + 3600 * (n + 50 * user)));
    let lines: String = (0..120).flat_map(events).map(|(user, item, time)| format!("{user},{item},{time}\n")).collect();
    std::fs::write(folder.path("uneven.csv"), format!("user,item,time\n{lines}")).unwrap();
    const SIZES: &[&str] = &["dim=8", "max_len=16", "batch_size=8", "train.steps=60", "eval_every=0", "eval.baselines=false"];
    let train = |out: &str, kind: &[&str]| {
        let mut command = folder.command();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("XDG_CACHE_HOME", &cache);
        command.args(["train", "uneven.csv", "--progress", "none", "--device", "emulator", "--out", out]);
        for setting in SIZES.iter().chain(kind) {
            command.args(["--set", setting]);
        }
        finish(command.output().unwrap(), kind).ok()
    };
    for (number, (stays, kind)) in RECORDED.iter().enumerate() {
        let (direct, graph) = (format!("direct{number}"), format!("graph{number}"));
        train(&direct, &[kind, &["train.graph=no"][..]].concat());
        train(&graph, &[kind, &["train.graph=yes"][..]].concat());
        let manifest = std::fs::read_to_string(folder.path(&graph).join("manifest.json")).unwrap();
        let steps = &serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["graph"];
        let count = |what: &str| steps[what].as_u64().unwrap();
        println!("{kind:?}: {steps}");
        assert!(steps["failed"].is_null() && count("replayed") + count("direct") == 60, "{kind:?}: {steps}");
        assert!(if *stays { count("replayed") >= 20 } else { count("replayed") == 0 }, "{kind:?}: {steps}");
        let (direct, graph) = (losses(&folder, &direct), losses(&folder, &graph));
        assert!(graph.len() > 2 && graph.len() == direct.len(), "{kind:?}");
        for (graph, direct) in graph.iter().zip(&direct) {
            assert!((graph - direct).abs() < 1e-5 * direct.abs(), "{kind:?}: {graph} against {direct}");
        }
    }
}

/// A step of one block over 8 sequences of 10 rows, D 64, 200 items: which calls there are, and what they move and multiply.
#[test]
fn every_call_of_a_step_is_listed_with_what_it_moves() {
    if Command::new("c++").arg("--version").output().is_err() {
        return println!("SKIPPED: no C++ compiler, so no call was timed");
    }
    let folder = Folder::new();
    let mut command = folder.command();
    let cache = std::env::temp_dir().join("hardneg-test-cache");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("XDG_CACHE_HOME", &cache);
    command.args(["profile", "--kernels", "--json", "--device", "emulator", "--rounds", "2", "--warmup", "0"]);
    command.args(["--items", "200", "--set", "loss=softmax", "--set", "max_len=10", "--set", "dim=64", "--set", "batch_size=8"]);
    let out = finish(command.output().unwrap(), &[]).ok();
    let all: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    let line = &all["lines"][0];
    assert_eq!((line["sampler"].is_null(), line["rows"].as_u64()), (true, Some(80)));
    let kinds = line["kinds"].as_array().unwrap();
    let find = |call: &str| kinds.iter().find(|kind| kind["call"] == call).unwrap_or_else(|| panic!("no {call}"));
    let of = |call: &str, what: &str| find(call)[what].as_u64();
    let (rows, d) = (80, 64);
    // Of the three norms the lowest alone: x and y of (R,D), a mean and a deviation a row, gain and bias. The others are one pass with
    // the residual connection before them.
    assert_eq!(of("layer_norm_fwd", "count"), Some(1));
    assert_eq!(of("layer_norm_fwd", "bytes"), Some(4 * (2 * rows * d + 2 * rows + 2 * d)));
    assert_eq!(of("residual_norm_fwd", "count"), Some(2));
    // Queries, keys and values in one product, which adds their bias.
    assert_eq!(of("product 80x192x64", "flops"), Some(2 * rows * 3 * d * d));
    assert_eq!(of("product 80x192x64", "bytes"), Some(4 * (rows * d + 3 * d * d + 3 * rows * d + 3 * d)));
    // One launch for all parameters, none of which decays here, and one that finishes the sums of all biases and gains.
    for (call, count) in [("input_fwd", 1), ("dropout_bwd_sum", 2), ("activation_bwd_sum", 1), ("column_sum", 2)] {
        assert_eq!(of(call, "count"), Some(count), "{call}");
    }
    for call in ["clip_square", "clip_factor", "adamw_dense"] {
        assert_eq!(of(call, "count"), Some(1), "{call}");
    }
    assert!(kinds.iter().all(|kind| kind["seconds"]["median"].as_f64().unwrap() > 0.0));
    assert_eq!(line["count"].as_u64(), kinds.iter().map(|kind| kind["count"].as_u64()).sum());
}

#[test]
fn heads_that_no_kernel_knows_are_refused_before_a_run_begins() {
    if Command::new("c++").arg("--version").output().is_err() {
        return println!("SKIPPED: no C++ compiler, so the emulator was not asked");
    }
    let folder = Folder::new();
    bare_log(&folder);
    let mut command = folder.command();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("XDG_CACHE_HOME", std::env::temp_dir().join("hardneg-test-cache"));
    command.args(["train", "bare.csv", "--device", "emulator", "--out", "wide", "--set", "dim=200", "--steps", "1"]);
    let finished = finish(command.output().unwrap(), &["dim=200"]).fails(5, "G0502");
    assert!(finished.err.contains("2 heads or more"), "{}", finished.err);
    assert!(!folder.path("wide/manifest.json").exists());
}

#[test]
fn a_compiler_that_is_too_old_is_said_to_be() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let old = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'c++ 9.5.0' && exit\n\
               echo \"c++: error: unrecognized command line option '-std=c++20'; did you mean '-std=c++2a'?\" >&2\nexit 1\n";
    folder.write("c++", old);
    std::fs::set_permissions(folder.path("c++"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = folder.command();
    command.env("PATH", folder.path("")).env("XDG_CACHE_HOME", folder.path("cache"));
    let args = ["check", "--device", "emulator", "--only", "rows"];
    let finished = finish(command.args(args).output().unwrap(), &args).fails(5, "G0507");
    assert!(finished.err.contains("C++20") && finished.err.contains("GCC 10"), "{}", finished.err);
}
