//! The run directory: everything a run leaves and everything needed to continue, judge or use it. Its one description:
//!
//! ```text
//! config.resolved.toml   every setting; with the same data it gives the same bits
//! manifest.json          who made this: version, arguments, data fingerprint, random stream version, device, host, exit
//! data.hardneg           the prepared data, when `train` did the preparing
//! metrics.jsonl          one record per line: epochs, evaluations, the end; versioned by `v`
//! checkpoints/step-N/    training state (checkpoint.rs)
//! best/step-N/           the model alone, at the best validation score
//! report.json report.md  final metrics beside the baselines, with the protocol
//! report.html            the page of `hardneg report`
//! log.txt                what was said on the terminal
//! lock                   held while a process trains here; the holder's process id
//! ```

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Config;
use crate::device::recorded::Steps;
use crate::error::{Code, Error, Result};
use crate::train::durable;

/// Version of the records of `metrics.jsonl` and of `manifest.json`.
pub const RECORD_VERSION: u32 = 1;

/// Everything `--fresh` removes: names of ours only, never what someone else put there.
const NAMES: &[&str] = &[
    "config.resolved.toml",
    "manifest.json",
    "data.hardneg",
    "metrics.jsonl",
    "checkpoints",
    "best",
    "report.json",
    "report.md",
    "report.html",
    "log.txt",
];

/// Of these, what a training makes of its data and settings, beside its checkpoints.
const RESULTS: &[&str] = &["metrics.jsonl", "best", "report.json", "report.md", "report.html"];

/// Who made a run, from what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub v: u32,
    pub version: String,
    pub argv: Vec<String>,
    /// BLAKE3 of the prepared data.
    pub data_fingerprint: String,
    /// The prepared data file, absolute, or relative to the run directory.
    pub data_file: String,
    pub random_stream_version: u32,
    pub device: String,
    pub threads: usize,
    /// Facts about the machine, as `doctor` prints them.
    pub host: Value,
    /// Seconds since 1970 UTC.
    pub started: u64,
    pub finished: Option<u64>,
    /// Absent while running (or after a kill): `finished`, `stopped early`, `interrupted`, or an error's headline.
    pub exit: Option<String>,
    /// BLAKE3 of the training state at the end.
    pub state_hash: Option<String>,
    /// With `train.graph`: how many steps were replayed, since this process began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<Steps>,
}

/// A run directory, held by this process if `lock` is there.
pub struct RunDir {
    path: PathBuf,
    lock: Option<fs::File>,
}

impl Drop for RunDir {
    /// Gives the lock back by name. Closing the file alone is not enough: a child process that was being started at this
    /// moment (the emulator's compiler) holds a copy of it until it runs its own program.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = flock(lock, FlockOperation::Unlock);
        }
    }
}

impl RunDir {
    /// Makes or opens the directory for training and takes its lock.
    ///
    /// # Errors
    /// F0803 while another process holds the lock; F08 for what the operating system refuses.
    pub fn create(path: &Path) -> Result<RunDir> {
        fs::create_dir_all(path).map_err(|e| Error::io("creating", path, &e))?;
        let mut run = RunDir { path: path.to_path_buf(), lock: None };
        run.lock = Some(run.take_lock()?);
        Ok(run)
    }

    /// Removes an earlier run, whatever it was.
    ///
    /// # Errors
    /// F08 for what the operating system refuses.
    pub fn clear(&self) -> Result<()> {
        NAMES.iter().try_for_each(|name| self.remove(name).map(drop))
    }
    /// Whether [`RunDir::clear`] would remove the file at `path`.
    pub fn would_clear(&self, path: &Path) -> bool {
        let (Ok(path), Ok(root)) = (path.canonicalize(), self.path.canonicalize()) else { return false };
        NAMES.iter().any(|name| path.starts_with(root.join(name)))
    }
    /// Removes what an attempt found out that left no checkpoint: the next one begins anew, perhaps with other settings, and must
    /// not be taken for it. Gives whether there was anything.
    ///
    /// # Errors
    /// F08 for what the operating system refuses.
    pub fn forget_results(&self) -> Result<bool> {
        RESULTS.iter().try_fold(false, |any, name| Ok(self.remove(name)? || any))
    }
    fn remove(&self, name: &str) -> Result<bool> {
        let victim = self.path.join(name);
        let gone = if victim.is_dir() { fs::remove_dir_all(&victim) } else { fs::remove_file(&victim) };
        match gone {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            gone => gone.map(|()| true).map_err(|e| Error::io("removing", &victim, &e)),
        }
    }

    /// Opens an existing run for reading.
    pub fn open(path: &Path) -> Result<RunDir> {
        let refuse = |why: &str| Err(Error::new(Code::M0403, format!("{}: {why}", path.display())));
        if path.is_file() {
            let mut head = [0u8; 2];
            let read = fs::File::open(path).and_then(|mut f| f.read(&mut head)).map_err(|e| Error::io("reading", path, &e))?;
            // Pickles start with 0x80; torch archives and .npz are zip files.
            return match &head[..read] {
                [0x80, _] | b"PK" => refuse("a Python pickle or archive").map_err(|e| {
                    e.note("loading one can run any code, so it is never read")
                        .help("convert it to safetensors where it was made")
                }),
                _ => refuse("is a file; a run directory was expected"),
            };
        }
        if !path.is_dir() {
            return refuse("there is no such run directory");
        }
        if !path.join("config.resolved.toml").is_file() {
            return refuse("holds no config.resolved.toml, so it is not a run directory")
                .map_err(|e| e.help("`hardneg train LOG --out DIR` makes one"));
        }
        Ok(RunDir { path: path.to_path_buf(), lock: None })
    }

    fn take_lock(&self) -> Result<fs::File> {
        let path = self.path.join("lock");
        let io = |e: std::io::Error| Error::io("locking", &path, &e);
        let mut file = fs::File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(io(e.into()));
            }
            let mut holder = String::new();
            let _ = file.take(32).read_to_string(&mut holder);
            let who = if holder.trim().is_empty() { "another process".to_string() } else { format!("process {}", holder.trim()) };
            return Err(Error::new(Code::F0803, format!("{} is in use by {who}", self.path.display()))
                .help("wait for it, or choose another `--out`"));
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
        Ok(file)
    }

    /// Whether this process may write here.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
    pub fn best(&self) -> PathBuf {
        self.path.join("best")
    }
    pub fn data(&self) -> PathBuf {
        self.path.join("data.hardneg")
    }
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Replaces a file of the run, whole or not at all.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        durable::replace(&self.path.join(name), bytes)
    }

    pub fn write_config(&self, config: &Config) -> Result<()> {
        let text = toml::to_string(config).map_err(|e| Error::internal(format!("the configuration cannot be written: {e}")))?;
        self.write("config.resolved.toml", text.as_bytes())
    }
    /// The run's configuration; `None` before the first training.
    pub fn read_config(&self) -> Result<Option<Config>> {
        let path = self.path.join("config.resolved.toml");
        let Some(text) = read_capped(&path)? else { return Ok(None) };
        toml::from_str(&text)
            .map(Some)
            .map_err(|e| Error::new(Code::C0204, e.message().to_string()).at(path.display().to_string()))
    }

    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let text = serde_json::to_string_pretty(manifest).map_err(|e| Error::internal(e.to_string()))?;
        self.write("manifest.json", text.as_bytes())
    }
    pub fn read_manifest(&self) -> Result<Option<Manifest>> {
        let path = self.path.join("manifest.json");
        let cure = |error: Error| match error.code() {
            Code::M0403 => error
                .help("run the command that trained it again: it writes the file anew and goes on from the newest checkpoint"),
            _ => error,
        };
        let Some(text) = read_capped(&path).map_err(cure)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|e| cure(Error::new(Code::M0403, format!("{}: {e}", path.display()))))
    }

    /// Appends one record to `metrics.jsonl`.
    pub fn record(&self, record: &Value) -> Result<()> {
        let path = self.metrics();
        let append = || fs::File::options().create(true).append(true).open(&path)?.write_all(format!("{record}\n").as_bytes());
        append().map_err(|e| Error::io("writing", &path, &e))
    }
    /// The records of `metrics.jsonl`; a last line cut by a crash is dropped.
    pub fn records(&self) -> Result<Vec<Value>> {
        Ok(self.records_and_broken()?.0)
    }
    /// The records of `metrics.jsonl`, and how many lines are none.
    pub fn records_and_broken(&self) -> Result<(Vec<Value>, usize)> {
        let bytes = self.read_metrics()?;
        let records: Vec<Value> = lines(&bytes).filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let broken = lines(&bytes).count() - records.len();
        Ok((records, broken))
    }
    /// The bytes of `metrics.jsonl`; none if it is not there.
    fn read_metrics(&self) -> Result<Vec<u8>> {
        match fs::read(self.metrics()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
            read => read.map_err(|e| Error::io("reading", &self.metrics(), &e)),
        }
    }
    /// A JSON file of the run as it stands; `None` if it is not there.
    pub fn read_json(&self, name: &str) -> Result<Option<Value>> {
        let path = self.path.join(name);
        let Some(text) = read_capped(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|e| Error::new(Code::M0403, format!("{}: {e}", path.display())))
    }
    /// Forgets records after `step`: a resumed run writes them again. Those that stay keep their bytes.
    pub fn rewind_records(&self, step: u64) -> Result<()> {
        if !self.metrics().exists() {
            return Ok(());
        }
        let stays = |r: Value| r["step"].as_u64().is_some_and(|s| s <= step) && r["kind"] != "end";
        let bytes = self.read_metrics()?;
        let kept = lines(&bytes).filter(|line| serde_json::from_slice(line).is_ok_and(&stays));
        let text: Vec<u8> = kept.flat_map(|line| [line, &b"\n"[..]].concat()).collect();
        self.write("metrics.jsonl", &text)
    }
}

/// The lines that hold something.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty())
}

/// A text file of at most 1 MiB; `None` if it is not there.
fn read_capped(path: &Path) -> Result<Option<String>> {
    let size = match fs::metadata(path) {
        Ok(facts) => facts.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("reading", path, &e)),
    };
    if size > 1 << 20 {
        return Err(Error::new(Code::M0403, format!("{} has {size} bytes; at most 1 MiB was expected", path.display())));
    }
    fs::read_to_string(path).map(Some).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => Error::new(Code::M0403, format!("{}: {e}", path.display())),
        _ => Error::io("reading", path, &e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Draws, Stream, open01};

    #[test]
    fn a_second_holder_is_refused_by_name_until_the_first_lets_go() {
        let root = tempfile::tempdir().unwrap();
        let first = RunDir::create(root.path()).unwrap();
        let error = RunDir::create(root.path()).err().unwrap();
        assert_eq!(error.code(), Code::F0803);
        assert!(error.what().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        RunDir::create(root.path()).unwrap();
    }

    #[test]
    fn configuration_and_manifest_come_back_as_written() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path()).unwrap();
        assert!(run.read_config().unwrap().is_none() && run.read_manifest().unwrap().is_none());
        let mut config = Config::default();
        config.model.dim = 31;
        run.write_config(&config).unwrap();
        assert_eq!(run.read_config().unwrap().unwrap(), config);
        let manifest = Manifest { v: RECORD_VERSION, argv: vec!["hardneg".into(), "train".into()], ..Manifest::default() };
        run.write_manifest(&manifest).unwrap();
        assert_eq!(run.read_manifest().unwrap().unwrap(), manifest);
        for damaged in [&b"{}"[..], b"", b"\xff\xfe"] {
            fs::write(root.path().join("manifest.json"), damaged).unwrap();
            assert_eq!(run.read_manifest().unwrap_err().code(), Code::M0403, "{damaged:?}");
        }
    }

    #[test]
    fn fresh_removes_what_is_ours_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path()).unwrap();
        run.write_config(&Config::default()).unwrap();
        fs::create_dir(run.checkpoints()).unwrap();
        let notes = root.path().join("notes.md");
        fs::write(&notes, "mine").unwrap();
        fs::write(run.data(), "data").unwrap();
        assert!(run.would_clear(&run.data()) && !run.would_clear(&notes) && !run.would_clear(Path::new("absent")));
        run.clear().unwrap();
        assert!(run.read_config().unwrap().is_none() && !run.checkpoints().exists() && !run.data().exists());
        assert!(notes.exists());
    }

    #[test]
    fn results_are_forgotten_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path()).unwrap();
        assert!(!run.forget_results().unwrap());
        fs::create_dir_all(run.best().join("step-7")).unwrap();
        fs::create_dir_all(run.checkpoints().join("step-7")).unwrap();
        let (result, stays) = (["metrics.jsonl", "report.json", "report.md", "report.html"], ["log.txt", "data.hardneg"]);
        result.iter().chain(&stays).for_each(|name| fs::write(root.path().join(name), "x").unwrap());
        assert!(run.forget_results().unwrap() && !run.best().exists() && run.checkpoints().join("step-7").exists());
        assert!(result.iter().all(|name| !root.path().join(name).exists()));
        assert!(stays.iter().all(|name| root.path().join(name).exists()));
    }

    #[test]
    fn records_rewind_to_a_step_and_survive_a_cut_line() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path()).unwrap();
        for step in [10, 20, 30] {
            run.record(&serde_json::json!({ "v": 1, "kind": "epoch", "step": step })).unwrap();
        }
        run.record(&serde_json::json!({ "v": 1, "kind": "end", "step": 20 })).unwrap();
        fs::File::options().append(true).open(run.metrics()).unwrap().write_all(b"{\"v\":1,\"ki").unwrap();
        assert_eq!((run.records().unwrap().len(), run.records_and_broken().unwrap().1), (4, 1));
        run.rewind_records(20).unwrap();
        assert_eq!(run.records().unwrap().iter().map(|r| r["step"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 20]);
    }

    /// Also where a number would be printed with other digits than it was read with.
    #[test]
    fn records_that_stay_keep_their_bytes() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path()).unwrap();
        let stays = "{\"v\":1, \"kind\":\"epoch\",\"step\":10,\"seconds\":0.29999999999999998890}\n";
        fs::write(run.metrics(), format!("{stays}{{\"v\":1,\"kind\":\"end\",\"step\":10}}\n")).unwrap();
        run.rewind_records(10).unwrap();
        assert_eq!(fs::read_to_string(run.metrics()).unwrap(), stays);
    }

    /// What is written is read back with the same bits: rates and means of a report are those of the records.
    #[test]
    fn reals_come_back_from_records_bit_for_bit() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path()).unwrap();
        let draws = Draws::new(1, Stream::Test, 0, 0);
        let reals: Vec<f64> = (0..2000).map(|i| open01(draws.words64(i)[0]).powi(3) * 1e3).collect();
        run.record(&serde_json::json!({ "step": 1, "reals": reals })).unwrap();
        let back: Vec<f64> = serde_json::from_value(run.records().unwrap()[0]["reals"].clone()).unwrap();
        assert_eq!(back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), reals.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    }

    #[test]
    fn files_and_folders_that_are_no_runs_are_named_for_what_they_are() {
        let root = tempfile::tempdir().unwrap();
        let pickle = root.path().join("model.pt");
        fs::write(&pickle, b"PK\x03\x04").unwrap();
        let error = RunDir::open(&pickle).err().unwrap();
        assert!(error.code() == Code::M0403 && error.to_string().contains("pickle"), "{error}");
        assert_eq!(RunDir::open(root.path()).err().unwrap().code(), Code::M0403);
        assert_eq!(RunDir::open(&root.path().join("absent")).err().unwrap().code(), Code::M0403);
    }
}
