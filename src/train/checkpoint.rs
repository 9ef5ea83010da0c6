//! Checkpoints: a directory per step that is there whole or not at all.
//!
//! ```text
//! step-120/  model.safetensors  optim.safetensors  state.json  COMMIT
//! ```
//!
//! A tensor `model.x` is stored as `x` in `model.safetensors`. COMMIT is written last and lists size and BLAKE3 of every
//! file and of itself, so a flipped bit or a cut anywhere is found before anything is parsed. The directory is built as
//! `step-120.tmp` and renamed; [`recover`] finishes or removes what an interruption left. Files are untrusted: sizes are
//! checked before memory is taken, headers have a cap of their own, and a tensor that does not fit the model is refused.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::config::Config;
use crate::device::Device;
use crate::error::{Code, Error, Result};
use crate::ops::param::Param;
use crate::train::durable::Disk;

/// Longest header of a tensor file, and most tensors in it: far above any model of ours, far below what could hurt.
const HEADER_LIMIT: u64 = 1 << 20;
const TENSOR_LIMIT: usize = 10_000;
/// Longest COMMIT and state file.
const TEXT_LIMIT: u64 = 1 << 20;

/// A named array of the training state; names start with the file they live in: `model.` or `optim.`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major, as many as the product of `shape`.
    pub values: Vec<f32>,
}

/// A checkpoint read back and verified.
#[derive(Debug)]
pub struct Loaded {
    pub step: u64,
    pub tensors: Vec<Tensor>,
    pub state: Value,
    /// What was passed over to find it: newer checkpoints that were damaged.
    pub notes: Vec<String>,
}

/// BLAKE3 of the whole training state after `step` steps: equal hashes mean equal bits.
pub fn state_hash(step: u64, tensors: &[Tensor]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(&step.to_le_bytes());
    for tensor in tensors {
        hash.update(&(tensor.name.len() as u64).to_le_bytes());
        hash.update(tensor.name.as_bytes());
        hash.update(&(tensor.shape.len() as u64).to_le_bytes());
        for &extent in &tensor.shape {
            hash.update(&(extent as u64).to_le_bytes());
        }
        hash.update(bytemuck::cast_slice(&tensor.values));
    }
    *hash.finalize().as_bytes()
}

/// Writes the checkpoint of `step` into `dir` and forces it to the medium, then drops all but the `keep` newest.
/// On failure nothing that was there before is lost.
pub fn save(disk: &dyn Disk, dir: &Path, step: u64, tensors: &[Tensor], state: &Value, keep: usize) -> Result<()> {
    let name = format!("step-{step}");
    let temporary = dir.join(format!("{name}.tmp"));
    let io = |e: std::io::Error| Error::io("writing checkpoint", &dir.join(&name), &e).note("earlier checkpoints are intact");
    if !dir.exists() {
        disk.make_dir(dir).map_err(io)?;
        disk.sync_dir(dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))).map_err(io)?;
    }
    if temporary.exists() {
        disk.remove_dir(&temporary).map_err(io)?;
    }
    disk.make_dir(&temporary).map_err(io)?;
    let mut commit = format!("hardneg checkpoint 1\nstep {step}\n");
    let files: BTreeSet<&str> = tensors.iter().map(|t| t.name.split('.').next().unwrap_or_default()).collect();
    for file in files {
        let members: Vec<(&str, &Tensor)> =
            tensors.iter().filter_map(|t| Some((t.name.strip_prefix(file)?.strip_prefix('.')?, t))).collect();
        let header = tensor_header(&members)?;
        let mut parts: Vec<&[u8]> = vec![&header];
        parts.extend(members.iter().map(|(_, t)| bytemuck::cast_slice::<f32, u8>(&t.values)));
        write_part(disk, &temporary, &format!("{file}.safetensors"), &parts, &mut commit).map_err(io)?;
    }
    write_part(disk, &temporary, "state.json", &[state.to_string().as_bytes()], &mut commit).map_err(io)?;
    let commit = sealed(commit);
    disk.write(&temporary.join("COMMIT"), &[commit.as_bytes()]).map_err(io)?;
    disk.sync_dir(&temporary).map_err(io)?;
    let place = dir.join(&name);
    if place.exists() {
        retire(disk, dir, &name).map_err(io)?;
    }
    disk.rename(&temporary, &place).map_err(io)?;
    disk.sync_dir(dir).map_err(io)?;
    for &old in steps(dir)?.iter().rev().filter(|&&s| s != step).skip(keep.max(1) - 1) {
        retire(disk, dir, &format!("step-{old}")).map_err(io)?;
    }
    Ok(())
}

/// Removes a checkpoint so that it never looks damaged: out of sight first, then file by file.
fn retire(disk: &dyn Disk, dir: &Path, name: &str) -> std::io::Result<()> {
    let aside = dir.join(format!("{name}.old"));
    if aside.exists() {
        disk.remove_dir(&aside)?;
    }
    disk.rename(&dir.join(name), &aside)?;
    disk.sync_dir(dir)?;
    disk.remove_dir(&aside)
}

fn write_part(disk: &dyn Disk, dir: &Path, name: &str, parts: &[&[u8]], commit: &mut String) -> std::io::Result<()> {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(part);
    }
    let size: usize = parts.iter().map(|p| p.len()).sum();
    *commit += &format!("{name} {size} {}\n", hash.finalize().to_hex());
    disk.write(&dir.join(name), parts)
}

fn sealed(commit: String) -> String {
    let seal = blake3::hash(commit.as_bytes()).to_hex();
    format!("{commit}commit {seal}\n")
}

/// The safetensors header: length, then JSON padded with blanks to eight bytes.
fn tensor_header(members: &[(&str, &Tensor)]) -> Result<Vec<u8>> {
    let mut entries = serde_json::Map::new();
    let mut at = 0usize;
    for (name, tensor) in members {
        if tensor.values.len() != tensor.shape.iter().product::<usize>() {
            return Err(Error::internal(format!(
                "tensor {} holds {} values for shape {:?}",
                tensor.name,
                tensor.values.len(),
                tensor.shape
            )));
        }
        let end = at + 4 * tensor.values.len();
        entries.insert((*name).into(), json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > HEADER_LIMIT || members.len() > TENSOR_LIMIT {
        return Err(Error::internal("more tensors than a checkpoint may hold"));
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    Ok(header)
}

/// Finishes a checkpoint that was complete but not yet renamed, and removes what else an interruption left. Call while
/// holding the run's lock.
pub fn recover(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    let io = |e: std::io::Error| Error::io("cleaning", dir, &e);
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let place = path.with_extension("");
        let complete = |path: &Path| step_of(&place).is_some_and(|step| verify(path, step).is_ok());
        match path.extension().and_then(|e| e.to_str()) {
            Some("tmp") if !place.exists() && complete(&path) => disk.rename(&path, &place).map_err(io)?,
            Some("tmp" | "old") if step_of(&place).is_some() => disk.remove_dir(&path).map_err(io)?,
            _ => continue,
        }
        disk.sync_dir(dir).map_err(io)?;
    }
    Ok(())
}

/// The newest checkpoint in `dir` that is whole; `None` if there is no checkpoint at all.
///
/// # Errors
/// M0401 if all are damaged, for which the cure depends on what `dir` is; F08 or G0601 where they cannot be read.
pub fn load_latest(dir: &Path) -> Result<Option<Loaded>> {
    let mut notes = vec![];
    let mut last = None;
    for step in steps(dir)?.into_iter().rev() {
        match load(&dir.join(format!("step-{step}"))) {
            Ok(loaded) => return Ok(Some(Loaded { notes, ..loaded })),
            Err(error) => {
                notes.push(format!("passed over checkpoint step-{step}: {}", error.what()));
                last = Some(error);
            }
        }
    }
    match last {
        None => Ok(None),
        Some(error) => Err(notes.iter().skip(1).fold(error, |e, note| e.note(note))),
    }
}

/// Reads and verifies one checkpoint directory `.../step-N`.
pub fn load(path: &Path) -> Result<Loaded> {
    let step = step_of(path).ok_or_else(|| damaged(path, "the directory is not named step-N"))?;
    let mut tensors = vec![];
    let mut state = None;
    for part in verify(path, step)? {
        let file = path.join(&part.name);
        if let Some(prefix) = part.name.strip_suffix(".safetensors") {
            read_tensors(&file, prefix, &read_part(path, &part)?, &mut tensors)?;
        } else if part.name == "state.json" && part.size <= TEXT_LIMIT {
            let text = read_part(path, &part)?;
            state = Some(serde_json::from_slice(&text).map_err(|e| damaged(&file, &format!("not JSON: {e}")))?);
        } else {
            return Err(damaged(&file, "not a part of a checkpoint"));
        }
    }
    let state = state.ok_or_else(|| damaged(path, "state.json is missing"))?;
    Ok(Loaded { step, tensors, state, notes: vec![] })
}

/// Leaves `model.context = "auto"` to what the model of these tensors takes: earlier versions left out columns they had not been told of.
pub fn settle_context(config: &mut Config, tensors: &[Tensor]) {
    if config.model.context == "auto" && !tensors.iter().any(|tensor| tensor.name.starts_with("model.context.")) {
        config.model.context = "no".into();
    }
}

/// Refuses tensors whose names or shapes differ from the model's, in either direction.
pub fn must_fit(loaded: &[Tensor], expected: &[(String, Vec<usize>)]) -> Result<()> {
    let describe = |name: &str, shape: &[usize]| format!("{name} {shape:?}");
    let ours: BTreeSet<String> = expected.iter().map(|(n, s)| describe(n, s)).collect();
    let theirs: BTreeSet<String> = loaded.iter().map(|t| describe(&t.name, &t.shape)).collect();
    if ours == theirs && loaded.len() == expected.len() {
        return Ok(());
    }
    let list = |of: &BTreeSet<String>, without: &BTreeSet<String>| {
        let names: Vec<&str> = of.difference(without).take(4).map(String::as_str).collect();
        if names.is_empty() { "nothing".to_string() } else { names.join(", ") }
    };
    Err(Error::new(Code::M0402, "the checkpoint holds other tensors than the model")
        .note(format!("only in the model: {}", list(&ours, &theirs)))
        .note(format!("only in the checkpoint: {}", list(&theirs, &ours))))
}

/// Gives a model's parameters the values of the `model.*` tensors; refuses other names or shapes. Whatever is derived
/// from parameters must be refreshed afterwards.
pub fn restore_params(params: &mut [Param], device: &Device, tensors: &[Tensor]) -> Result<()> {
    let stored: Vec<Tensor> = tensors.iter().filter(|t| t.name.starts_with("model.")).cloned().collect();
    let expected: Vec<(String, Vec<usize>)> = params.iter().map(|p| (format!("model.{}", p.name), p.shape.clone())).collect();
    must_fit(&stored, &expected)?;
    for (param, (name, _)) in params.iter_mut().zip(&expected) {
        if let Some(tensor) = stored.iter().find(|t| t.name == *name) {
            let values: Vec<f64> = tensor.values.iter().map(|&v| f64::from(v)).collect();
            param.value.set(device, &values)?;
        }
    }
    Ok(())
}

/// Steps of the checkpoints in `dir`, ascending; empty if the directory is absent.
pub fn steps(dir: &Path) -> Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("reading", dir, &e)),
    };
    let mut steps: Vec<u64> = entries.filter_map(|e| step_of(&e.ok()?.path())).collect();
    steps.sort_unstable();
    Ok(steps)
}

fn step_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix("step-")?;
    let step = digits.parse().ok()?;
    (format!("{step}") == digits).then_some(step)
}

struct Part {
    name: String,
    size: u64,
    hash: String,
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(Code::M0401, format!("{}: {why}", path.display()))
}

/// Reads COMMIT and compares it and every file's size; hashes are compared as the files are read.
fn verify(path: &Path, step: u64) -> Result<Vec<Part>> {
    let commit_path = path.join("COMMIT");
    let size = fs::metadata(&commit_path).map_err(|e| damaged(&commit_path, &e.to_string()))?.len();
    if size > TEXT_LIMIT {
        return Err(damaged(&commit_path, &format!("{size} bytes are too many")));
    }
    let text = fs::read_to_string(&commit_path).map_err(|e| damaged(&commit_path, &e.to_string()))?;
    let broken = || damaged(&commit_path, "fails its checksum");
    let body = text.rfind("commit ").map(|at| &text[..at]).ok_or_else(broken)?;
    if sealed(body.to_string()) != text {
        return Err(broken());
    }
    let mut lines = body.lines();
    if lines.next() != Some("hardneg checkpoint 1") {
        return Err(damaged(&commit_path, "written in a format this version does not know"));
    }
    if lines.next() != Some(&format!("step {step}")) {
        return Err(damaged(&commit_path, "belongs to another step"));
    }
    let mut parts = vec![];
    for line in lines {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, size, hash] = fields[..] else { return Err(broken()) };
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_') && !name.starts_with('.');
        let size = size.parse::<u64>().ok().filter(|_| plain).ok_or_else(broken)?;
        let file = path.join(name);
        let found = fs::metadata(&file).map_err(|e| damaged(&file, &e.to_string()))?.len();
        if found != size {
            return Err(damaged(&file, &format!("has {found} bytes, {size} were written")));
        }
        parts.push(Part { name: name.into(), size, hash: hash.into() });
    }
    Ok(parts)
}

/// A part's bytes, no more than its size, after comparing its hash.
fn read_part(path: &Path, part: &Part) -> Result<Vec<u8>> {
    let file = path.join(&part.name);
    let mut bytes = vec![];
    let length = usize::try_from(part.size).map_err(|_| damaged(&file, "is larger than memory"))?;
    bytes
        .try_reserve_exact(length)
        .map_err(|_| Error::new(Code::G0601, format!("{} needs {} MiB of memory", file.display(), part.size >> 20)))?;
    let open = fs::File::open(&file).map_err(|e| Error::io("reading", &file, &e))?;
    open.take(part.size).read_to_end(&mut bytes).map_err(|e| Error::io("reading", &file, &e))?;
    if blake3::hash(&bytes).to_hex().as_str() != part.hash {
        return Err(damaged(&file, "fails its checksum"));
    }
    Ok(bytes)
}

/// Appends the tensors of a safetensors file, in the order of their data.
pub fn read_tensors(file: &Path, prefix: &str, bytes: &[u8], into: &mut Vec<Tensor>) -> Result<()> {
    let refuse = |why: String| Error::new(Code::M0403, format!("{}: {why}", file.display()));
    let claimed = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    match claimed {
        None => return Err(refuse(format!("{} bytes are too few for a safetensors file", bytes.len()))),
        Some(n) if n > HEADER_LIMIT || n > bytes.len() as u64 - 8 => {
            return Err(
                refuse(format!("the header claims {n} bytes, the file has {}", bytes.len())).note("nothing was allocated")
            );
        }
        Some(_) => {}
    }
    let parsed = SafeTensors::deserialize(bytes).map_err(|e| refuse(format!("not a valid safetensors file: {e}")))?;
    if parsed.len() > TENSOR_LIMIT {
        return Err(refuse(format!("{} tensors are more than a model of ours has", parsed.len())));
    }
    let mut views: Vec<_> = parsed.iter().collect();
    views.sort_by_key(|(name, view)| (view.data().as_ptr() as usize, view.data().len(), name.to_string()));
    for (name, view) in views {
        if view.dtype() != Dtype::F32 {
            return Err(refuse(format!("tensor {name} is {:?}, F32 was expected", view.dtype())));
        }
        let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::new(
                Code::M0404,
                format!("{}: tensor {name} holds {} at element {at}", file.display(), values[at]),
            ));
        }
        into.push(Tensor { name: format!("{prefix}.{name}"), shape: view.shape().to_vec(), values });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
