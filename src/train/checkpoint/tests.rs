//! A checkpoint against flipped bits, cuts, failing writes and power cuts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;

use super::*;
use crate::rng::{Draws, Stream, below};
use crate::train::durable::FileSystem;

fn tensors(step: u64) -> Vec<Tensor> {
    let values = |n: usize| (0..n).map(|i| i as f32 * 0.25 - step as f32).collect();
    vec![
        Tensor { name: "model.table".into(), shape: vec![3, 2], values: values(6) },
        Tensor { name: "model.block0.bias".into(), shape: vec![3], values: values(3) },
        Tensor { name: "optim.table.first".into(), shape: vec![3, 2], values: values(6) },
    ]
}

fn expected() -> Vec<(String, Vec<usize>)> {
    tensors(0).into_iter().map(|t| (t.name, t.shape)).collect()
}

fn put(disk: &dyn Disk, dir: &Path, step: u64) -> Result<()> {
    save(disk, dir, step, &tensors(step), &json!({ "step": step }), 2)
}

fn same(loaded: &Loaded) -> bool {
    let mut theirs = loaded.tensors.clone();
    let mut ours = tensors(loaded.step);
    theirs.sort_by(|a, b| a.name.cmp(&b.name));
    ours.sort_by(|a, b| a.name.cmp(&b.name));
    theirs == ours && loaded.state == json!({ "step": loaded.step })
}

#[test]
fn what_is_saved_is_loaded_and_only_the_newest_stay() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("checkpoints");
    assert!(load_latest(&dir).unwrap().is_none());
    for step in [1, 9, 10, 100] {
        put(&FileSystem, &dir, step).unwrap();
    }
    let loaded = load_latest(&dir).unwrap().unwrap();
    assert!(loaded.step == 100 && same(&loaded) && loaded.notes.is_empty());
    assert_eq!(steps(&dir).unwrap(), [10, 100]);
    must_fit(&loaded.tensors, &expected()).unwrap();
    // An older step saved again (a run that fell back) must not be dropped as the oldest.
    put(&FileSystem, &dir, 10).unwrap();
    put(&FileSystem, &dir, 9).unwrap();
    assert!(steps(&dir).unwrap().contains(&9));
}

#[test]
fn every_flipped_bit_pattern_of_every_byte_is_found() {
    let root = tempfile::tempdir().unwrap();
    put(&FileSystem, root.path(), 7).unwrap();
    let place = root.path().join("step-7");
    for file in ["model.safetensors", "optim.safetensors", "state.json", "COMMIT"] {
        let path = place.join(file);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for flip in [0x01, 0x20, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                fs::write(&path, &bad).unwrap();
                let error = load(&place).unwrap_err();
                assert_eq!(error.code(), Code::M0401, "{file} byte {at}: {error}");
            }
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(load(&place).unwrap_err().code(), Code::M0401, "{file} cut to {length}");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert_eq!(load(&place).unwrap_err().code(), Code::M0401, "{file} grown");
        fs::write(&path, &good).unwrap();
        assert!(same(&load(&place).unwrap()));
    }
    fs::rename(&place, root.path().join("step-8")).unwrap();
    assert_eq!(load(&root.path().join("step-8")).unwrap_err().code(), Code::M0401);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_said_so() {
    let root = tempfile::tempdir().unwrap();
    put(&FileSystem, root.path(), 1).unwrap();
    put(&FileSystem, root.path(), 2).unwrap();
    fs::write(root.path().join("step-2/state.json"), "{}").unwrap();
    let loaded = load_latest(root.path()).unwrap().unwrap();
    assert!(loaded.step == 1 && same(&loaded));
    assert!(loaded.notes.len() == 1 && loaded.notes[0].contains("step-2"));
    fs::remove_file(root.path().join("step-1/COMMIT")).unwrap();
    assert_eq!(load_latest(root.path()).unwrap_err().code(), Code::M0401);
}

/// Files a stranger could hand us, sealed or bare: always a typed refusal, and nothing larger than the file is allocated.
#[test]
fn hostile_tensor_files_are_refused() {
    let entry =
        |shape: &str, from: u64, to: u64| format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#);
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("seven bytes", vec![1; 7]),
        ("header beyond the file", u64::MAX.to_le_bytes().to_vec()),
        ("header of 2^56 bytes", file("{}", 3).iter().enumerate().map(|(i, &b)| if i == 7 { 1 } else { b }).collect()),
        ("not JSON", file("{\"x\":", 4)),
        ("nested too deep", file(&deep, 4)),
        ("shape overflow", file(&entry("[4294967296,4294967296,4294967296]", 0, 4), 4)),
        ("shape against offsets", file(&entry("[2]", 0, 4), 4)),
        ("offsets beyond the file", file(&entry("[1000]", 0, 4000), 4)),
        ("offsets reversed", file(&entry("[1]", 4, 0), 4)),
        ("a hole before the data", file(&entry("[1]", 4, 8), 8)),
        ("trailing bytes", file(&entry("[1]", 0, 4), 12)),
        ("another type", file(r#"{"x":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#, 8)),
        ("a pickle", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins".to_vec()),
    ];
    for (what, bytes) in cases {
        let error = read_tensors(Path::new("x.safetensors"), "model", &bytes, &mut vec![]).expect_err(what);
        assert_eq!(error.code(), Code::M0403, "{what}: {error}");
    }
    let mut nan = file(&entry("[1]", 0, 4), 0);
    nan.extend(f32::NAN.to_le_bytes());
    let error = read_tensors(Path::new("x.safetensors"), "model", &nan, &mut vec![]).unwrap_err();
    assert_eq!(error.code(), Code::M0404);
}

#[test]
fn tensors_of_another_model_are_refused_by_name_and_shape() {
    let change = |edit: &dyn Fn(&mut Vec<Tensor>)| {
        let mut t = tensors(1);
        edit(&mut t);
        must_fit(&t, &expected()).map_err(|e| e.code())
    };
    assert_eq!(change(&|_| {}), Ok(()));
    assert_eq!(change(&|t| t[0].shape = vec![2, 3]), Err(Code::M0402));
    assert_eq!(change(&|t| t[1].name += "x"), Err(Code::M0402));
    assert_eq!(change(&|t| drop(t.pop())), Err(Code::M0402));
    assert_eq!(change(&|t| t.push(t[0].clone())), Err(Code::M0402));
}

/// A disk that fails from the n-th operation on; a failing write leaves half of its bytes.
struct Failing {
    left: Cell<usize>,
}

impl Failing {
    fn spend(&self) -> io::Result<()> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for Failing {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.spend().and_then(|()| FileSystem.make_dir(path))
    }
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        self.spend().or_else(|e| {
            let all = parts.concat();
            fs::write(path, &all[..all.len() / 2])?;
            Err(e)
        })?;
        FileSystem.write(path, parts)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.spend().and_then(|()| FileSystem.rename(from, to))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.spend().and_then(|()| FileSystem.sync_dir(path))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.spend().and_then(|()| FileSystem.remove_dir(path))
    }
}

#[test]
fn a_failure_at_any_operation_leaves_the_old_or_the_new_checkpoint_and_the_next_start_cleans_up() {
    let mut outcomes = BTreeMap::new();
    for n in 0.. {
        let root = tempfile::tempdir().unwrap();
        for step in [1, 2] {
            put(&FileSystem, root.path(), step).unwrap();
        }
        let result = put(&Failing { left: Cell::new(n) }, root.path(), 3);
        let loaded = load_latest(root.path()).unwrap().unwrap();
        assert!(same(&loaded) && loaded.step >= 2 && loaded.notes.is_empty(), "after operation {n}: {loaded:?}");
        recover(&FileSystem, root.path()).unwrap();
        let recovered = load_latest(root.path()).unwrap().unwrap();
        assert!(same(&recovered) && recovered.step >= loaded.step, "recovered after operation {n}");
        let strangers: Vec<_> =
            fs::read_dir(root.path()).unwrap().filter(|e| step_of(&e.as_ref().unwrap().path()).is_none()).collect();
        assert!(strangers.is_empty(), "left over after operation {n}: {strangers:?}");
        *outcomes.entry((loaded.step, recovered.step)).or_insert(0) += 1;
        match result {
            Ok(()) => break,
            Err(error) => assert_eq!(error.code(), Code::F0802),
        }
    }
    assert!(outcomes.contains_key(&(2, 2)) && outcomes.contains_key(&(2, 3)) && outcomes.contains_key(&(3, 3)), "{outcomes:?}");
}

/// What a power cut may keep of one operation: names live in directories, data in files, both by inode.
#[derive(Clone)]
enum Change {
    Name { dir: usize, name: String, inode: usize },
    Unname { dir: usize, name: String },
    Rename { dir: usize, from: String, to: String },
    Data { inode: usize, bytes: Vec<u8> },
}

/// Records the changes of a save, and at which later moment each was forced to the medium.
#[derive(Default)]
struct Trace {
    /// (change, moment it was forced or `usize::MAX`)
    log: RefCell<Vec<(Change, usize)>>,
    paths: RefCell<BTreeMap<PathBuf, usize>>,
    next: Cell<usize>,
}

impl Trace {
    fn inode(&self, path: &Path) -> usize {
        *self.paths.borrow_mut().entry(path.to_path_buf()).or_insert_with(|| {
            self.next.set(self.next.get() + 1);
            self.next.get()
        })
    }
    fn place(&self, path: &Path) -> (usize, String) {
        (self.inode(path.parent().unwrap()), path.file_name().unwrap().to_str().unwrap().to_string())
    }
    fn add(&self, change: Change) {
        self.log.borrow_mut().push((change, usize::MAX));
    }
    fn force(&self, touches: impl Fn(&Change) -> bool) {
        let mut log = self.log.borrow_mut();
        let now = log.len();
        log.iter_mut().filter(|(change, at)| *at == usize::MAX && touches(change)).for_each(|(_, at)| *at = now);
    }
    fn add_name(&self, path: &Path) {
        let (dir, name) = self.place(path);
        self.add(Change::Name { dir, name, inode: self.inode(path) });
    }
    fn unname(&self, path: &Path) {
        let (dir, name) = self.place(path);
        self.add(Change::Unname { dir, name });
    }
    /// What the medium holds if power fails after `moment` changes, with `keep` deciding about each unforced change.
    fn after(&self, moment: usize, root: &Path, mut keep: impl FnMut() -> u64, to: &Path) {
        let mut names: BTreeMap<usize, BTreeMap<String, usize>> = BTreeMap::new();
        let mut data: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (change, forced) in self.log.borrow().iter().take(moment) {
            let choice = keep();
            if *forced > moment && choice == 0 {
                continue;
            }
            match change.clone() {
                Change::Name { dir, name, inode } => drop(names.entry(dir).or_default().insert(name, inode)),
                Change::Unname { dir, name } => drop(names.entry(dir).or_default().remove(&name)),
                Change::Rename { dir, from, to } => {
                    let dir = names.entry(dir).or_default();
                    if let Some(inode) = dir.remove(&from) {
                        dir.insert(to, inode);
                    }
                }
                Change::Data { inode, mut bytes } => {
                    if *forced > moment && choice == 1 {
                        bytes.truncate(bytes.len() / 2);
                    }
                    data.insert(inode, bytes);
                }
            }
        }
        fn build(
            inode: usize,
            at: &Path,
            names: &BTreeMap<usize, BTreeMap<String, usize>>,
            data: &BTreeMap<usize, Vec<u8>>,
            files: &[usize],
        ) {
            if files.contains(&inode) {
                return fs::write(at, data.get(&inode).map_or(&[][..], |d| d)).unwrap();
            }
            fs::create_dir_all(at).unwrap();
            for (name, &child) in names.get(&inode).into_iter().flatten() {
                build(child, &at.join(name), names, data, files);
            }
        }
        let files: Vec<usize> = self
            .log
            .borrow()
            .iter()
            .filter_map(|(c, _)| if let Change::Data { inode, .. } = c { Some(*inode) } else { None })
            .collect();
        build(self.inode(root), to, &names, &data, &files);
    }
}

impl Disk for Trace {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.add_name(path);
        FileSystem.make_dir(path)
    }
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        self.add_name(path);
        let inode = self.inode(path);
        self.add(Change::Data { inode, bytes: parts.concat() });
        self.force(|c| matches!(c, Change::Data { inode: i, .. } if *i == inode));
        FileSystem.write(path, parts)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((dir, old), (_, new)) = (self.place(from), self.place(to));
        self.add(Change::Rename { dir, from: old, to: new });
        let mut paths = self.paths.borrow_mut();
        let moved: Vec<PathBuf> = paths.keys().filter(|p| p.starts_with(from)).cloned().collect();
        for path in moved {
            let inode = paths.remove(&path).unwrap();
            paths.insert(if path == from { to.to_path_buf() } else { to.join(path.strip_prefix(from).unwrap()) }, inode);
        }
        FileSystem.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let at = self.inode(path);
        self.force(|c| match c {
            Change::Name { dir, .. } | Change::Unname { dir, .. } | Change::Rename { dir, .. } => *dir == at,
            Change::Data { .. } => false,
        });
        FileSystem.sync_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            self.unname(&entry?.path());
        }
        self.unname(path);
        self.paths.borrow_mut().retain(|p, _| !p.starts_with(path));
        FileSystem.remove_dir(path)
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_old_or_the_new_checkpoint() {
    let live = tempfile::tempdir().unwrap();
    let trace = Trace::default();
    for step in [1, 2] {
        put(&trace, live.path(), step).unwrap();
    }
    trace.force(|_| true);
    let start = trace.log.borrow().len();
    put(&trace, live.path(), 3).unwrap();
    let end = trace.log.borrow().len();
    assert!(end - start > 12, "the trace is too short to mean anything: {}", end - start);
    let mut seen = BTreeMap::new();
    for moment in start..=end {
        for variant in 0..24u64 {
            let draws = Draws::new(variant, Stream::Test, 0, moment as u64);
            let mut index = 0;
            let keep = || match variant {
                0 => 0,
                1 => 2,
                _ => {
                    index += 1;
                    below(draws.words64(index)[0], 3)
                }
            };
            let medium = tempfile::tempdir().unwrap();
            trace.after(moment, live.path(), keep, medium.path());
            let loaded = load_latest(medium.path()).unwrap().unwrap();
            assert!(same(&loaded) && loaded.step >= 2, "moment {moment} variant {variant}: {loaded:?}");
            assert!(loaded.notes.is_empty(), "a half-written checkpoint was visible: moment {moment} variant {variant}");
            recover(&FileSystem, medium.path()).unwrap();
            assert!(same(&load_latest(medium.path()).unwrap().unwrap()));
            *seen.entry(loaded.step).or_insert(0) += 1;
        }
    }
    assert!(seen.contains_key(&2) && seen.contains_key(&3), "{seen:?}");
}

/// A run that was begun by a version which left out columns it had not been told of goes on without them.
#[test]
fn a_model_without_contexts_is_left_without() {
    let tensor = |name: &str| Tensor { name: name.into(), shape: vec![1], values: vec![0.0] };
    for (asked, names, expected) in [
        ("auto", ["model.items", "model.positions"], "no"),
        ("auto", ["model.items", "model.context.weight"], "auto"),
        ("yes", ["model.items", "model.positions"], "yes"),
    ] {
        let mut config = Config::default();
        config.model.context = asked.into();
        settle_context(&mut config, &names.map(tensor));
        assert_eq!(config.model.context, expected, "{names:?}");
    }
}
