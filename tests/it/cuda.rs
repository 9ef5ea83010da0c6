//! The CUDA runtime's own code, executed without a GPU: `tests/fake/cuda.cpp` answers as driver, compiler and matrix
//! library on top of the emulator, and fails on request. Every fault ends in its code, without a panic, and leaves the last
//! checkpoint intact. Skips, saying so, where there is no C++ compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use hardneg::train::checkpoint;

use crate::program::{Finished, Folder, end_of, finish};

const NAMES: [&str; 3] = ["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13"];

/// A folder below `target` for the fake libraries and what is compiled with them, by what they are made of.
fn folder_of_fakes() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("tests/fake/cuda.cpp")];
    for folder in ["kernels", "kernels/emulator"] {
        files.extend(
            std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()),
        );
    }
    files.sort();
    let mut hash = blake3::Hasher::new();
    hash.update(root.as_os_str().as_encoded_bytes());
    for file in files {
        hash.update(&std::fs::read(file).unwrap());
    }
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-{}", &hash.finalize().to_hex()[..16]))
}

/// A folder with the fake libraries, built once; None without a compiler.
fn libraries() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (kernels, folder) = (root.join("kernels"), folder_of_fakes());
        let library = folder.join("libfake.so");
        if library.exists() {
            return Some(folder);
        }
        std::fs::create_dir_all(&folder).unwrap();
        let machine = std::fs::read_dir(kernels.join("emulator")).unwrap().map(|e| e.unwrap().path());
        let unfinished = folder.join(format!("libfake-{}.so", std::process::id()));
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++20", "-O2", "-fPIC", "-shared", "-w", "-fno-strict-aliasing", "-fno-math-errno"]);
        compiler.arg(format!("-DFAKE_KERNELS={:?}", kernels)).arg("-I").arg(kernels.join("emulator")).arg("-o").arg(&unfinished);
        compiler.arg(root.join("tests/fake/cuda.cpp")).args(machine.filter(|p| p.extension().is_some_and(|e| e == "cpp")));
        match compiler.output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => {
                println!("SKIPPED: no C++ compiler, so the CUDA runtime was not executed");
                return None;
            }
        }
        for name in NAMES.iter().filter(|name| folder.join(name).symlink_metadata().is_err()) {
            std::os::unix::fs::symlink("libfake.so", folder.join(name)).unwrap();
        }
        std::fs::rename(unfinished, library).unwrap();
        Some(folder)
    });
    built.as_deref()
}

/// Compiled kernels, shared by all tests and kept: compiling is most of the time.
fn cache() -> PathBuf {
    folder_of_fakes().join("cache")
}

/// Runs the program with the fake libraries of `from` and the faults asked for.
fn run(folder: &Folder, from: &Path, args: &[&str], faults: &[(&str, &str)]) -> Finished {
    let mut command = folder.command();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("XDG_CACHE_HOME", cache());
    command.env("LD_LIBRARY_PATH", from).env("HARDNEG_NVRTC_DIR", from);
    command.envs(faults.iter().copied());
    finish(command.args(args).output().unwrap(), args)
}

/// 20 steps of a small model, with a checkpoint after every one.
const TRAIN: &[&str] = &[
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
    "--steps",
    "20",
    "--set",
    "checkpoint_steps=1",
    "--progress",
    "none",
    "--out",
    "run",
    "--device",
    "cuda",
];

fn last_step(run: &Path) -> Option<u64> {
    checkpoint::steps(&run.join("checkpoints")).ok()?.last().copied()
}

#[test]
fn the_cuda_runtime_finds_compiles_and_agrees_with_the_plain_path() {
    let Some(libraries) = libraries() else { return };
    let folder = Folder::new();
    let report = run(&folder, libraries, &["doctor", "--json"], &[]).ok();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["gpu"]["usable"], &report["gpu"]["name"]), (&true.into(), &"Fake GPU (sm_90a)".into()), "{report}");
    assert_eq!(report["gpu"]["graphs"], true, "{report}");
    let report = run(&folder, libraries, &["doctor"], &[("FAKE_GRAPH", "801")]).ok();
    assert!(report.contains("usable: Fake GPU") && report.contains("call by call, not as graphs"), "{report}");
    // All cases, twice each: products, launches, copies and the cache of cubins.
    run(&folder, libraries, &["check", "--device", "cuda", "--repeat", "2"], &[]).ok();
}

#[test]
fn twenty_steps_on_the_fake_gpu_follow_the_plain_path() {
    let Some(libraries) = libraries() else { return };
    let folder = Folder::new();
    run(&folder, libraries, TRAIN, &[]).ok();
    let on = |device: &'static str, out: &'static str| -> Vec<&'static str> {
        let swap = |word: &&'static str| match *word {
            "cuda" => device,
            "run" => out,
            other => other,
        };
        TRAIN.iter().map(swap).collect()
    };
    run(&folder, libraries, &on("host", "host"), &[]).ok();
    // Where no memory can be pinned, copies go another way to the same place.
    run(&folder, libraries, &on("cuda", "pageable"), &[("FAKE_PIN", "2")]).ok();
    assert_eq!(end_of(&folder.path("run")), end_of(&folder.path("pageable")));
    let rounded = ["--set", "train.rounding=bf16"];
    run(&folder, libraries, &[&on("cuda", "rounded")[..], &rounded].concat(), &[]).ok();
    run(&folder, libraries, &[&on("host", "refused")[..], &rounded].concat(), &[]).fails(2, "C0203");
    let losses = |name: &str| -> Vec<f64> {
        let text = std::fs::read_to_string(folder.path(name).join("metrics.jsonl")).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        records.filter_map(|record| record["loss"].as_f64()).collect()
    };
    let plain = losses("host");
    // Twenty steps of f32 stay within 1e-6 here; operands of 8 bits of mantissa move a loss by a part in a thousand.
    for (name, tolerance) in [("run", 1e-5), ("rounded", 1e-2)] {
        let gpu = losses(name);
        assert!(!gpu.is_empty() && gpu.len() == plain.len());
        for (gpu, plain) in gpu.iter().zip(&plain) {
            assert!((gpu - plain).abs() < tolerance * plain.abs(), "{name}: {gpu} against {plain}");
        }
    }
    assert_ne!(losses("rounded"), losses("run"), "the rounding had no effect");
}

/// Stages are timed by marks in the GPU's own time, of which the fake one knows a millisecond from mark to mark: in order, each
/// read against the one before it, and nothing waited for in between but a value that the step itself reads.
#[test]
fn stages_are_timed_by_marks_and_nothing_stops_between_them() {
    let Some(libraries) = libraries() else { return };
    let folder = Folder::new();
    let traced = |args: &[&str], name: &str| {
        let trace = folder.path(name);
        let out = run(&folder, libraries, args, &[("FAKE_TRACE", trace.to_str().unwrap())]).ok();
        (out, std::fs::read_to_string(trace).unwrap())
    };
    let small = ["--set", "dim=8", "--set", "max_len=10", "--set", "batch_size=8", "--items", "100", "--rounds", "2"];
    let args = [&["profile", "--json", "--device", "cuda", "--samplers", "dns"][..], &small].concat();
    let profiled = |more: &[&str], name: &str| {
        let (out, trace) = traced(&[&args[..], more].concat(), name);
        let profile: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
        for stage in ["forward", "loss", "backward", "update"] {
            assert_eq!(profile["lines"][0]["stages"][stage].as_f64(), Some(1e-3), "{stage} {more:?}");
        }
        // The stages behind the first take a mark's time too, the first no less.
        assert!(profile["lines"][0]["stages"]["sample"].as_f64().unwrap() >= 2e-3);
        trace
    };
    profiled(&[], "profile");
    // A mark is a node of a graph as well, and every replay sets marks of its own. Prices are measured between some steps, and those
    // after them find other places.
    let trace = profiled(&["--set", "train.graph=yes"], "graphs");
    let replays = trace.lines().filter(|line| line.starts_with("replayed")).count();
    assert!(replays >= 4, "{replays} steps were replayed");

    let (_, trace) =
        traced(&[TRAIN, &["--set", "loss=bpr", "--set", "sampler.preset=dns", "--set", "train.graph=no"]].concat(), "train");
    let lines: Vec<&str> = trace.lines().collect();
    let first = lines.iter().position(|line| line.starts_with("mark")).expect("marks");
    let timed = &lines[first..];
    for pair in timed.windows(2).filter(|pair| pair[1].starts_with("wait")) {
        // Times are read when a step has ended; after that the program may let go of the GPU, for which nothing is left to wait.
        let before = ["copy", "elapsed", "wait"].iter().any(|what| pair[0].starts_with(what));
        assert!(before, "a stage waited for the GPU after `{}`", pair[0]);
    }
    let count = |what: &str| timed.iter().filter(|line| line.starts_with(what)).count();
    assert!(timed.iter().all(|line| !line.starts_with("elapsed") || *line == "elapsed 1"), "marks out of order");
    // A border more than times between them, and one more where what was drawn is looked at.
    let steps = count("mark") - count("elapsed");
    assert!(steps >= 20 && count("mark") >= 6 * steps, "{steps} steps, {} marks", count("mark"));
}

/// Trains into `out` with some words of [`TRAIN`] changed and `more` after them; what the manifest says of its graphs, and the log.
fn trained(
    folder: &Folder,
    libraries: &Path,
    out: &str,
    changed: &[(&str, &str)],
    more: &[&str],
    faults: &[(&str, &str)],
) -> (serde_json::Value, String) {
    let swap = |word: &&'static str| changed.iter().find(|(from, _)| from == word).map_or(*word, |(_, to)| to);
    let words = TRAIN.iter().map(swap).map(|word| if word == "run" { out } else { word });
    let args: Vec<&str> = words.chain(more.iter().copied()).collect();
    run(folder, libraries, &args, faults).ok();
    let [manifest, log] = ["manifest.json", "log.txt"].map(|name| std::fs::read_to_string(folder.path(out).join(name)).unwrap());
    (serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["graph"].clone(), log)
}

/// A step that goes to the GPU as a graph is the step that goes there call by call, and where the driver makes no graph, a wrong one, or
/// changes none, steps go call by call.
#[test]
fn steps_as_graphs_are_the_same_steps() {
    let Some(libraries) = libraries() else { return };
    let folder = Folder::new();
    let train =
        |out: &str, more: &[&str], faults: &[(&str, &str)]| trained(&folder, libraries, out, &[("20", "60")], more, faults);
    let graph = ["--set", "train.graph=yes"];
    let trace = folder.path("trace");
    train("direct", &["--set", "train.graph=no"], &[]);
    let (steps, _) = train("graph", &graph, &[("FAKE_TRACE", trace.to_str().unwrap())]);
    assert_eq!(end_of(&folder.path("direct")), end_of(&folder.path("graph")));
    let text = std::fs::read_to_string(trace).unwrap();
    let count = |what: &str| text.lines().filter(|line| line.starts_with(what)).count() as u64;
    let said = |what: &str| steps[what].as_u64().unwrap();
    // A small step before all others proves that graphs are right: two recordings, of two places, and six replays.
    let proof = [count("replayed") - said("replayed"), count("recorded") - said("recorded")];
    assert_eq!(proof, [6, 2], "{steps}");
    assert!(said("replayed") >= 20 && count("amended") > said("amended") && steps["failed"].is_null(), "{steps}");
    // Where cuBLASLt adds no row to a product, a kernel does.
    let (steps, _) = train("rows", &graph, &[("FAKE_BLAS", "2")]);
    assert_eq!(end_of(&folder.path("direct")), end_of(&folder.path("rows")));
    assert!(steps["replayed"].as_u64().unwrap() >= 20, "{steps}");
    for (fault, value, out) in [
        ("FAKE_GRAPH", "801", "unrecorded"),
        ("FAKE_INSTANTIATE", "801", "recorded in vain"),
        ("FAKE_REPLAY", "2", "not replayed"),
        ("FAKE_AMEND", "1", "unchanged"),
        // A replay gives other numbers, and no error says so.
        ("FAKE_FORGET", "1", "forgotten"),
        // In the middle of a step: marks are among what was given already.
        ("FAKE_AMEND", "20", "half changed"),
    ] {
        let (steps, log) = train(out, &graph, &[(fault, value)]);
        assert_eq!(end_of(&folder.path("direct")), end_of(&folder.path(out)), "{fault}={value}");
        assert!(steps["direct"].as_u64().unwrap() >= 50 && steps["failed"].is_string(), "{fault}={value}: {steps}");
        assert!(log.contains("call by call"), "{fault}={value}: {log}");
        assert_eq!(log.contains("other numbers than its calls"), fault == "FAKE_FORGET", "{fault}={value}: {log}");
    }
    run(&folder, libraries, &["train", "--device", "host", "--set", "train.graph=yes"], &[]).fails(2, "C0203");
}

/// Where nobody says, both ways are tried and the faster is taken, which changes nothing else.
#[test]
fn steps_go_the_faster_way_and_stay_the_same_steps() {
    let Some(libraries) = libraries() else { return };
    let folder = Folder::new();
    let train = |out: &str, more: &[&str], faults: &[(&str, &str)]| {
        // As many rows in every batch, but for the last of an epoch.
        let changed = [("20", "200"), ("max_len=10", "max_len=4")];
        let more = [&["--epochs", "100", "--set", "train.patience=0"], more].concat();
        trained(&folder, libraries, out, &changed, &more, faults)
    };
    train("always", &["--set", "train.graph=yes"], &[]);
    let expected = end_of(&folder.path("always"));
    let trace = folder.path("trace");
    for (out, slower, way) in [("fast", "0", "as graphs"), ("slow", "90", "call by call")] {
        let (steps, log) = train(out, &[], &[("FAKE_SLOW", slower), ("FAKE_TRACE", trace.to_str().unwrap())]);
        assert_eq!(end_of(&folder.path(out)), expected, "{out}");
        let timed: Vec<f64> = serde_json::from_value(steps["timed"].clone()).unwrap();
        assert!(log.contains(&format!("steps went to the machine {way}")), "{out}: {log}");
        // The fake GPU knows a millisecond from mark to mark, and whatever a replay takes longer.
        let longer = slower.parse::<f64>().unwrap() / 1e3;
        assert!((0.7 * longer - 1e-9..longer + 1e-9).contains(&(timed[1] - timed[0])), "{out}: {timed:?}");
        let text = std::fs::read_to_string(&trace).unwrap();
        std::fs::remove_file(&trace).unwrap();
        let replayed = text.lines().filter(|line| line.starts_with("replayed")).count() as u64;
        let said = steps["replayed"].as_u64().unwrap();
        // Those of the proof as well.
        assert!(said < replayed && replayed < said + 8 && steps["failed"].is_null(), "{out}: {steps}, {replayed}");
        assert!(if slower == "0" { said > 100 } else { (16..100).contains(&said) }, "{out}: {steps}");
    }
}

#[test]
fn a_gpu_that_cannot_be_used_is_said_before_anything_starts() {
    let Some(libraries) = libraries() else { return };
    // (fault, exit, code)
    let faults: &[(&str, &str, i32, &str)] = &[
        ("FAKE_INIT", "100", 5, "G0501"),
        ("FAKE_INIT", "803", 5, "G0501"),
        ("FAKE_INIT", "34", 5, "G0501"),
        ("FAKE_DEVICES", "0", 5, "G0501"),
        ("FAKE_CAPABILITY", "75", 5, "G0501"),
        ("FAKE_CONTEXT", "201", 5, "G0505"),
        ("FAKE_STREAM", "999", 5, "G0505"),
        ("FAKE_OOM_AFTER", "0", 6, "G0601"),
        ("FAKE_COMPILE", "1", 5, "G0504"),
        ("FAKE_MODULE", "209", 5, "G0503"),
        ("FAKE_KNOWS", "89", 5, "G0503"),
        ("FAKE_BLAS_VERSION", "110401", 5, "G0503"),
        ("FAKE_COPY", "1", 5, "G0505"),
        ("FAKE_BLAS", "1", 5, "G0505"),
    ];
    for &(name, value, exit, code) in faults {
        let folder = Folder::new();
        // An empty cache, or the compiler would not be asked.
        let cache = folder.path("cache");
        let faults = [(name, value), ("XDG_CACHE_HOME", cache.to_str().unwrap())];
        let faults = if name == "FAKE_COMPILE" { &faults[..] } else { &faults[..1] };
        let finished = run(&folder, libraries, TRAIN, faults);
        assert_eq!(finished.code, Some(exit), "{name}={value}: {}\n{}", finished.out, finished.err);
        assert!(finished.err.contains(&format!("[{code}]")) && finished.err.contains("help"), "{name}: {}", finished.err);
        assert_eq!(last_step(&folder.path("run")), None, "{name}");
        // `auto` goes on without the GPU where none can be opened.
        if ["G0501", "G0503", "G0504"].contains(&code) {
            let auto: Vec<&str> = TRAIN.iter().map(|&a| if a == "cuda" { "auto" } else { a }).collect();
            run(&folder, libraries, &auto, faults).ok();
        }
    }
}

/// What others left free is what a plan has to fit into.
#[test]
fn a_gpu_that_is_full_is_said_with_the_plan_before_anything_is_taken() {
    let Some(libraries) = libraries() else { return };
    let folder = Folder::new();
    let finished = run(&folder, libraries, TRAIN, &[("FAKE_FREE_MIB", "0"), ("FAKE_OOM_AFTER", "1")]).fails(6, "G0601");
    for words in ["there are 0 B", "the plan:", "positions, blocks, norms", "needed"] {
        assert!(finished.err.contains(words), "{words}: {}", finished.err);
    }
    assert_eq!(last_step(&folder.path("run")), None);
    // As is using a model where there is no room for it, and measuring steps.
    run(&folder, libraries, TRAIN, &[]).ok();
    let full = [("FAKE_FREE_MIB", "0"), ("FAKE_OOM_AFTER", "1")];
    for args in [&["evaluate", "run", "--device", "cuda"][..], &["recommend", "run", "--users", "all", "--device", "cuda"]] {
        let finished = run(&folder, libraries, args, &full).fails(6, "G0601");
        for words in ["there are 0 B", "the plan:", "ranking of an evaluation", "--device host"] {
            assert!(finished.err.contains(words), "{args:?} {words}: {}", finished.err);
        }
        assert!(!finished.err.contains("optimizer"), "{args:?}: {}", finished.err);
    }
    let profile = ["profile", "--device", "cuda", "--items", "100", "--samplers", "uniform", "--set", "batch_size=8"];
    let finished = run(&folder, libraries, &profile, &full[..1]).fails(6, "G0601");
    assert!(finished.err.contains("the plan:"), "{}", finished.err);
}

/// A folder with some of the libraries.
fn some_of(libraries: &Path, names: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        std::os::unix::fs::symlink(libraries.join("libfake.so"), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_path_buf();
    (folder, path)
}

#[test]
fn a_missing_or_stub_library_is_named_with_its_cure() {
    let Some(libraries) = libraries() else { return };
    let cases: &[(&[&str], &str, &str)] = &[
        (&[], "G0501", "libcuda"),
        (&["libcuda.so.1"], "G0503", "nvidia-cuda-nvrtc"),
        (&["libcuda.so.1", "libnvrtc.so.13"], "G0503", "nvidia-cublas"),
    ];
    for (names, code, word) in cases {
        let (_kept, from) = some_of(libraries, names);
        let folder = Folder::new();
        let finished = run(&folder, &from, TRAIN, &[]).fails(5, code);
        assert!(finished.err.contains(word), "{names:?}: {}", finished.err);
    }
    // Another file of NVRTC's unversioned name, which the loader would find first, is not the one that was found.
    let (_kept, from) = some_of(libraries, &["libcuda.so.1", "libnvrtc.so.13", "libcublasLt.so.13"]);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let another = maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("/libc.so"));
    std::os::unix::fs::symlink(another.expect("a C library"), from.join("libnvrtc.so")).unwrap();
    run(&Folder::new(), &from, TRAIN, &[]).ok();
    // A card that NVRTC does not know yet is compiled for as for the one before it.
    run(&Folder::new(), libraries, TRAIN, &[("FAKE_CAPABILITY", "89"), ("FAKE_KNOWS", "86")]).ok();
    // A file that is no library is there and of no use, which the loader knows more of.
    let folder = Folder::new();
    let broken = folder.path("broken");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(
        broken.join("libcuda.so.1"),
        "not a library, though long enough to be taken for one at first sight ".repeat(9),
    )
    .unwrap();
    let finished = run(&folder, &broken, TRAIN, &[]).fails(5, "G0501");
    assert!(finished.err.contains("invalid ELF header"), "{}", finished.err);
    // A toolkit's stub has hardly any symbol.
    let folder = Folder::new();
    let stub = folder.path("stub");
    std::fs::create_dir_all(&stub).unwrap();
    folder.write("stub.c", "int cuInit(unsigned f) { return 34; }");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(stub.join("libcuda.so.1")).arg(folder.path("stub.c")).status();
    if built.is_ok_and(|status| status.success()) {
        let finished = run(&folder, &stub, TRAIN, &[]).fails(5, "G0501");
        assert!(finished.err.contains("lacks"), "{}", finished.err);
    }
}

#[test]
fn a_gpu_that_fails_in_training_leaves_the_last_checkpoint_and_the_run_continues() {
    let Some(libraries) = libraries() else { return };
    // In the step that is to prove graphs: the cure is not to try again, but to do without.
    let finished = run(&Folder::new(), libraries, TRAIN, &[("FAKE_FAULT_AFTER", "3")]).fails(5, "G0505");
    assert!(finished.err.contains("--set train.graph=no"), "{}", finished.err);
    let whole = Folder::new();
    run(&whole, libraries, TRAIN, &[]).ok();
    let expected = end_of(&whole.path("run"));
    for (name, counts, exit, code) in
        [("FAKE_FAULT_AFTER", [40, 400, 900], 5, "G0505"), ("FAKE_OOM_AFTER", [30, 300, 700], 6, "G0601")]
    {
        let folder = Folder::new();
        let mut failures = 0;
        for count in counts {
            let finished = run(&folder, libraries, TRAIN, &[(name, &count.to_string())]);
            if finished.code == Some(0) {
                break;
            }
            finished.fails(exit, code);
            failures += 1;
            if let Some(step) = last_step(&folder.path("run")) {
                checkpoint::load(&folder.path(&format!("run/checkpoints/step-{step}"))).unwrap();
            }
        }
        assert!(failures > 0, "{name} never struck");
        run(&folder, libraries, TRAIN, &[]).ok();
        assert_eq!(end_of(&folder.path("run")), expected, "{name}");
    }
}
