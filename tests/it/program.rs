//! Running the built program in a folder of its own, with small data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A small run: a few seconds in an unoptimised build, several epochs, evaluations and checkpoints.
pub const SMALL: &[&str] = &[
    "train",
    "--set",
    "synthetic.users=60",
    "--set",
    "synthetic.items=40",
    "--set",
    "synthetic.clusters=4",
    "--set",
    "synthetic.events_per_user=12",
    "--set",
    "dim=8",
    "--set",
    "max_len=10",
    "--batch-size",
    "8",
    "--epochs",
    "3",
    "--device",
    "host",
    "--progress",
    "none",
    "--out",
    "run",
];

pub struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Folder {
        Folder { root: tempfile::tempdir().unwrap() }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }
    /// The program in this folder, apart from the user's own settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardneg"));
        command.current_dir(self.root.path()).env_clear().env("HOME", self.root.path()).stdin(Stdio::null());
        command
    }
    /// Runs it; whatever happens, nobody ever sees a panic.
    pub fn run(&self, args: &[&str]) -> Finished {
        finish(self.command().args(args).output().unwrap(), args)
    }
    /// Two hundred events in a file people have: users with histories of 5 to 14 items, an hour apart.
    pub fn ratings(&self, name: &str) {
        let mut text = String::from("user_id,item_id,rating,timestamp\n");
        for user in 0..24u64 {
            for event in 0..5 + user % 10 {
                let item = (user * 7 + event * (1 + user % 3)) % 17;
                text += &format!("u{user},i{item},{},{}\n", 1 + (user + event) % 5, 978_300_000 + user * 1000 + event * 3600);
            }
        }
        self.write(name, text);
    }
}

pub struct Finished {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Finished {
    /// Standard output of a run that must have gone well.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }
    /// Asserts an exit status and an error code.
    pub fn fails(self, code: i32, error: &str) -> Finished {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(self.err.contains(&format!("[{error}]")), "expected {error}: {}", self.err);
        self
    }
}

pub fn finish(output: Output, args: &[&str]) -> Finished {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let finished = Finished { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!finished.err.contains("panicked"), "{args:?}: {}", finished.err);
    finished
}

/// The state hash a run ended with, and everything that must be equal between runs that end alike.
pub fn end_of(run: &Path) -> (String, Vec<String>) {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(run.join("manifest.json")).unwrap()).unwrap();
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lasting = metrics.lines().map(|line| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        for clock in ["seconds", "sampling_share", "stage_seconds"] {
            record.as_object_mut().unwrap().remove(clock);
        }
        record.to_string()
    });
    (manifest["state_hash"].as_str().expect("a finished run").to_string(), lasting.collect())
}
