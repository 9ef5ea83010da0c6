//! Interrupting real processes: whatever stops a run, the same command again ends as if nothing had happened.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hardneg::rng::{Draws, Stream, below};
use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Folder, SMALL, end_of, finish};

/// A checkpoint after every step, so that kills hit its writing too.
const OFTEN: &[&str] = &["--set", "checkpoint_steps=1"];

fn uninterrupted() -> (String, Vec<String>) {
    let folder = Folder::new();
    folder.run(SMALL).ok();
    end_of(&folder.path("run"))
}

/// Runs to the end, stopping every attempt by `signal` after a random while; gives the number of interruptions.
fn through(folder: &Folder, signal: Signal, seed: u64, most: usize) -> usize {
    let args = [SMALL, OFTEN].concat();
    let mut interruptions = 0;
    for attempt in 0..200 {
        let mut child = folder.command().args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let wait = below(Draws::new(seed, Stream::Test, 0, 0).words64(attempt)[0], 900);
        let until = Instant::now() + Duration::from_millis(10 + wait);
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(2));
        }
        if interruptions < most && child.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        let finished = finish(child.wait_with_output().unwrap(), &args);
        match finished.code {
            Some(0) => return interruptions,
            // Before training began a first signal ends the program at once.
            Some(75) | Some(129) | Some(130) | Some(143) => interruptions += 1,
            None if signal == Signal::KILL => interruptions += 1,
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
        interruptions += through(&folder, Signal::KILL, seed, 12);
        assert_eq!(end_of(&folder.path("run")), expected, "seed {seed}");
    }
    assert!(interruptions > 3, "only {interruptions} kills hit a running process");
}

#[test]
fn asked_to_stop_at_any_moment_a_run_ends_in_the_same_bits() {
    let expected = uninterrupted();
    let mut interruptions = 0;
    for (seed, signal) in [(10, Signal::TERM), (11, Signal::INT), (12, Signal::HUP)] {
        let folder = Folder::new();
        interruptions += through(&folder, signal, seed, 12);
        assert_eq!(end_of(&folder.path("run")), expected, "{signal:?}");
    }
    assert!(interruptions > 3, "only {interruptions} signals hit a running process");
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
        let steps = hardneg::train::checkpoint::steps(&folder.path("run/checkpoints")).unwrap();
        assert!(!steps.is_empty());
        hardneg::train::checkpoint::load(&folder.path(&format!("run/checkpoints/step-{}", steps.last().unwrap()))).unwrap();
    }
}

#[test]
fn a_time_limit_is_75_too() {
    let folder = Folder::new();
    let args = [SMALL, &["--time-limit", "0.01s"]].concat();
    folder.run(&args).fails(75, "S7501");
    // The limit is no part of what is trained: without it the run goes on.
    folder.run(SMALL).ok();
    assert_eq!(end_of(&folder.path("run")), uninterrupted());
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
    let before = hardneg::train::checkpoint::load_latest(&dir).unwrap().unwrap();
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
    let after = hardneg::train::checkpoint::load_latest(&dir).unwrap().unwrap();
    assert!(after.step >= before.step && after.notes.is_empty());
}
