//! Interrupting real processes: whatever stops a run, the same command again ends as if nothing had happened.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use hardneg::rng::{Draws, Stream, below};
use hardneg::train::checkpoint;
use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Folder, SMALL, end_of, finish};

/// A longer run with a checkpoint after every step, so that kills hit its writing too.
const OFTEN: &[&str] = &["--epochs", "9", "--set", "checkpoint_steps=1"];

/// How the run ends when left alone, however often it writes checkpoints.
fn uninterrupted() -> (String, Vec<String>) {
    let folder = Folder::new();
    folder.run(&[SMALL, OFTEN, &["--set", "checkpoint_steps=0"]].concat()).ok();
    let end = end_of(&folder.path("run"));
    folder.run(&[SMALL, OFTEN, &["--fresh"]].concat()).ok();
    assert_eq!(end_of(&folder.path("run")), end);
    end
}

fn last_step(folder: &Folder) -> u64 {
    checkpoint::steps(&folder.path("run/checkpoints")).unwrap().last().copied().unwrap_or(0)
}

/// Runs to the end, sending every attempt `signal` after a random number of further steps (none: before or while it
/// starts) and a random while; gives the number of interruptions.
fn through(folder: &Folder, signal: Signal, seed: u64) -> usize {
    let args = [SMALL, OFTEN].concat();
    let mut interruptions = 0;
    for attempt in 0..200 {
        let words = Draws::new(seed, Stream::Test, 0, 0).words64(attempt);
        let goal = last_step(folder) + below(words[0], 7);
        let mut child = folder.command().args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while last_step(folder) < goal && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(200));
        }
        sleep(Duration::from_micros(below(words[1], 8000)));
        if child.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        let finished = finish(child.wait_with_output().unwrap(), &args);
        match finished.code {
            Some(0) => return interruptions,
            // Before training began a first signal ends the program at once: by the handler, or without one yet.
            Some(75) | Some(129) | Some(130) | Some(143) | None => interruptions += 1,
            other => panic!("{other:?}: {}", finished.err),
        }
    }
    panic!("the run never ended");
}

#[test]
fn killed_at_any_moment_a_run_ends_in_the_same_bits() {
    let expected = uninterrupted();
    let mut interruptions = 0;
    for seed in 0..3 {
        let folder = Folder::new();
        interruptions += through(&folder, Signal::KILL, seed);
        assert_eq!(end_of(&folder.path("run")), expected, "seed {seed}");
    }
    assert!(interruptions > 6, "only {interruptions} kills hit a running process");
}

#[test]
fn asked_to_stop_at_any_moment_a_run_ends_in_the_same_bits() {
    let expected = uninterrupted();
    let mut interruptions = 0;
    for (seed, signal) in [(10, Signal::TERM), (11, Signal::INT), (12, Signal::HUP)] {
        let folder = Folder::new();
        interruptions += through(&folder, signal, seed);
        assert_eq!(end_of(&folder.path("run")), expected, "{signal:?}");
    }
    assert!(interruptions > 6, "only {interruptions} signals hit a running process");
}

/// Starts a long run and waits until it trains.
fn long_run(folder: &Folder) -> std::process::Child {
    let child = folder
        .command()
        .args(SMALL)
        .args(["--epochs", "100000", "--set", "patience=0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !folder.path("run/metrics.jsonl").exists() {
        sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn a_signal_in_training_is_75_with_a_checkpoint_and_the_words_to_continue() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let folder = Folder::new();
        let child = long_run(&folder);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let stopped = finish(child.wait_with_output().unwrap(), &["train"]).fails(75, "S7501");
        assert!(stopped.err.contains("run the same command again"), "{}", stopped.err);
        let manifest = std::fs::read_to_string(folder.path("run/manifest.json")).unwrap();
        assert!(manifest.contains("Interrupted"), "{manifest}");
        let steps = checkpoint::steps(&folder.path("run/checkpoints")).unwrap();
        assert!(!steps.is_empty());
        checkpoint::load(&folder.path(&format!("run/checkpoints/step-{}", steps.last().unwrap()))).unwrap();
    }
}

/// Best models and reports of an attempt that was killed before its first checkpoint belong to no run that can go on.
#[test]
fn what_an_attempt_without_a_checkpoint_left_is_not_taken_for_the_next() {
    let (folder, clean) = (Folder::new(), Folder::new());
    folder.run(SMALL).ok();
    std::fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    let other = [SMALL, &["--epochs", "1", "--seed", "7", "--set", "eval_every=0"]].concat();
    folder.run(&other).ok();
    clean.run(&other).ok();
    let report = |folder: &Folder| -> serde_json::Value {
        let mut report: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.path("run/report.json")).unwrap()).unwrap();
        report.as_object_mut().unwrap().remove("run");
        report
    };
    assert_eq!(report(&folder), report(&clean));
    assert_eq!(end_of(&folder.path("run")), end_of(&clean.path("run")));
    let judged = |folder: &Folder| folder.run(&["evaluate", "run", "--device", "host", "--json"]).ok();
    assert_eq!(judged(&folder), judged(&clean));
    assert!(std::fs::read_to_string(folder.path("run/log.txt")).unwrap().contains("begins anew"));
    // With another model, what is left would not even fit.
    std::fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    std::fs::create_dir_all(folder.path("run/best")).unwrap();
    folder.run(&[SMALL, &["--set", "dim=4"]].concat()).ok();
}

#[test]
fn a_time_limit_is_75_too() {
    let folder = Folder::new();
    // A nanosecond is over after the first step of any machine; ten milliseconds can outlast this whole run.
    let args = [SMALL, &["--time-limit", "0.000000001s"]].concat();
    folder.run(&args).fails(75, "S7501");
    // The limit is no part of what is trained: without it the run goes on.
    folder.run(SMALL).ok();
    let alone = Folder::new();
    alone.run(SMALL).ok();
    assert_eq!(end_of(&folder.path("run")), end_of(&alone.path("run")));
}

/// What a sampler remembers or learns is in the checkpoint: stopped after the first step and continued, a run draws on as one left
/// alone.
#[test]
fn samplers_with_a_memory_are_continued_too() {
    for preset in ["srns", "adasir", "fairneg", "kbgan", "irgan", "pure", "dens"] {
        // The synthetic log has attributes of items.
        let args = [SMALL, &["--sampler", preset]].concat();
        let (folder, alone) = (Folder::new(), Folder::new());
        folder.run(&[&args[..], &["--time-limit", "0.000000001s"]].concat()).fails(75, "S7501");
        folder.run(&args).ok();
        alone.run(&args).ok();
        assert_eq!(end_of(&folder.path("run")), end_of(&alone.path("run")), "{preset}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let end = |threads: &str| {
        let folder = Folder::new();
        folder.run(&[SMALL, &["--threads", threads]].concat()).ok();
        end_of(&folder.path("run"))
    };
    let one = end("1");
    assert_eq!(end("2"), one);
    assert_eq!(end("5"), one);
}

#[test]
fn a_full_disk_is_8_and_the_earlier_checkpoint_goes_on() {
    let folder = Folder::new();
    let child = long_run(&folder);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    finish(child.wait_with_output().unwrap(), &["train"]).fails(75, "S7501");
    let dir = folder.path("run/checkpoints");
    let before = checkpoint::load_latest(&dir).unwrap().unwrap();
    // A limit on file sizes below the size of the model's file stands for a disk that is full.
    let largest = std::fs::metadata(dir.join(format!("step-{}/model.safetensors", before.step))).unwrap().len();
    let program = env!("CARGO_BIN_EXE_hardneg");
    let words: Vec<String> = SMALL
        .iter()
        .map(|a| a.to_string())
        .chain(["--epochs", "100000", "--set", "patience=0", "--set", "checkpoint_steps=1"].map(String::from))
        .collect();
    let script = format!("ulimit -f {}; exec {program} {}", largest / 2 / 512, words.join(" "));
    let mut limited = Command::new("bash");
    limited.current_dir(folder.path("")).args(["-c", &script]).stdin(Stdio::null());
    let full = finish(limited.output().unwrap(), &["train"]);
    assert_eq!(full.code, Some(8), "{}\n{}", full.out, full.err);
    let after = checkpoint::load_latest(&dir).unwrap().unwrap();
    assert!(after.step >= before.step && after.notes.is_empty());
}

/// What was a flag is a word now: a folder from before goes on, and the same command finds it.
#[test]
fn a_run_from_before_graphs_had_three_words_goes_on() {
    let folder = Folder::new();
    assert_eq!(folder.run(&[SMALL, &["--set", "train.time_limit=0.000001"]].concat()).code, Some(75));
    let path = folder.path("run/config.resolved.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let older = text.replace("graph = \"auto\"", "graph = false");
    assert_ne!(older, text);
    std::fs::write(&path, older).unwrap();
    folder.run(&["evaluate", "run", "--device", "host"]).ok();
    folder.run(SMALL).ok();
    let whole = Folder::new();
    whole.run(SMALL).ok();
    assert_eq!(end_of(&folder.path("run")), end_of(&whole.path("run")));
}
