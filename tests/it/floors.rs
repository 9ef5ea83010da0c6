//! The architecture as a test: modules import only downward, and only the places meant for it use `unsafe`, the CUDA
//! bindings, the terminal, the environment or the exit.

use std::fs;
use std::path::{Path, PathBuf};

/// Floor of each module; on the ground the list order counts too.
const FLOORS: &[(&str, u32)] = &[
    ("error", 0),
    ("rng", 0),
    ("ids", 0),
    ("config", 0),
    ("data", 0),
    ("metrics", 0),
    ("device", 1),
    ("ops", 2),
    ("model", 3),
    ("loss", 3),
    ("sampling", 3),
    ("optim", 3),
    ("train", 4),
    ("eval", 4),
    ("report", 4),
    ("cli", 5),
];

fn may_import(from: &str, to: &str) -> bool {
    let floor = |name: &str| FLOORS.iter().position(|(n, _)| *n == name).map(|at| (FLOORS[at].1, at));
    let (Some((a, at_a)), Some((b, at_b))) = (floor(from), floor(to)) else { return false };
    match (from, to) {
        _ if from == to => true,
        ("train", "eval") => true,
        ("data" | "metrics", _) | ("config", _) if a == b => at_b < at_a && to != "data",
        _ if a == 0 && b == 0 => at_b < at_a,
        _ => b < a,
    }
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// (path below src, module, code without comments), in order.
fn files() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = vec![];
    sources(&src, &mut paths);
    paths.sort();
    let file = |path: &PathBuf| {
        let place = path.strip_prefix(&src).unwrap().to_str().unwrap().to_string();
        let module = place.split(['/', '.']).next().unwrap().to_string();
        let code: Vec<String> = fs::read_to_string(path).unwrap().lines().map(without_comment).collect();
        (place, module, code.join("\n"))
    };
    paths.iter().map(file).filter(|(_, module, _)| module != "lib" && module != "main").collect()
}

/// The line up to `//` outside a string.
fn without_comment(line: &str) -> String {
    let mut quoted = false;
    let bytes = line.as_bytes();
    for at in 0..bytes.len() {
        match bytes[at] {
            b'"' if at == 0 || bytes[at - 1] != b'\\' => quoted = !quoted,
            b'/' if !quoted && bytes.get(at + 1) == Some(&b'/') => return line[..at].to_string(),
            _ => {}
        }
    }
    line.to_string()
}

/// The first names of all `crate::` paths.
fn imports(code: &str) -> Vec<String> {
    let mut names = vec![];
    for (at, _) in code.match_indices("crate::") {
        if at > 0 && code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let end = group.find(|c: char| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0
            });
            let mut depth = 0;
            let outer: String = group[..end.unwrap_or(group.len())]
                .chars()
                .filter(|&c| {
                    depth += i32::from(c == '{');
                    let keep = depth == 0;
                    depth -= i32::from(c == '}');
                    keep
                })
                .collect();
            names.extend(outer.split(',').map(first_name));
        } else {
            names.push(first_name(rest));
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn imports_only_point_downward() {
    let mut seen = 0;
    for (place, module, code) in files() {
        assert!(FLOORS.iter().any(|(name, _)| *name == module), "src/{place}: module `{module}` has no floor");
        for to in imports(&code) {
            // Macros of this crate are called by path from its root.
            if to == "dispatch" {
                continue;
            }
            assert!(may_import(&module, &to), "src/{place} imports `crate::{to}`: `{module}` may not know `{to}`");
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} imports were found; the reader of this test is broken");
}

#[test]
fn the_rule_refuses_what_it_should() {
    for (from, to) in [
        ("ops", "model"),
        ("loss", "sampling"),
        ("sampling", "model"),
        ("eval", "train"),
        ("data", "device"),
        ("rng", "config"),
        ("error", "rng"),
        ("metrics", "data"),
        ("data", "metrics"),
        ("config", "data"),
        ("device", "ops"),
        ("train", "cli"),
    ] {
        assert!(!may_import(from, to), "{from} -> {to}");
    }
    for (from, to) in [
        ("train", "eval"),
        ("train", "sampling"),
        ("data", "config"),
        ("metrics", "error"),
        ("ops", "device"),
        ("cli", "train"),
        ("eval", "model"),
    ] {
        assert!(may_import(from, to), "{from} -> {to}");
    }
    assert_eq!(imports("use crate::{a, b::{c, d}, e}; crate::f::g(); $crate::h"), ["a", "b", "e", "f", "h"]);
    assert_eq!(without_comment("a \"//\" b // c"), "a \"//\" b ");
}

/// Whether `word` stands in `code` as a whole word.
fn has_word(code: &str, word: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
    code.match_indices(word).any(|(at, _)| edge(code[..at].chars().next_back()) && edge(code[at + word.len()..].chars().next()))
}

/// A closure that is not inlined into `vector::fast` is compiled for the plainest processor, and every register operation in it
/// becomes a call: right, and up to eighteen times slower (a layer norm was).
#[test]
fn closures_of_inner_loops_are_inlined() {
    let mut met = 0;
    for (place, _, code) in files() {
        for (at, _) in code.match_indices("vector::fast(") {
            let argument = code[at + "vector::fast(".len()..].trim_start();
            assert!(!argument.starts_with('|'), "{place}: a closure without #[inline(always)] in vector::fast");
            met += usize::from(argument.starts_with("#[inline(always)]"));
        }
    }
    assert!(met > 30, "only {met} closures found");
}

#[test]
fn unsafe_and_the_cuda_bindings_have_one_door() {
    let mut maps = 0;
    for (place, module, code) in files() {
        if module == "device" {
            continue;
        }
        assert!(!has_word(&code, "cudarc"), "src/{place} uses cudarc; only src/device/ may");
        let count = code.lines().filter(|line| has_word(line, "unsafe")).count();
        if module == "data" && code.contains("Mmap") {
            maps += count;
        } else {
            assert_eq!(count, 0, "src/{place} uses `unsafe`");
        }
    }
    assert_eq!(maps, 1, "the memory map is the one line of `unsafe` outside src/device/");
}

#[test]
fn nothing_below_the_face_speaks_listens_or_exits() {
    for (place, module, code) in files() {
        if module == "cli" || place.ends_with("tests.rs") || place.contains("/tests/") {
            continue;
        }
        let tests = ["#[cfg(test)]", "#[cfg(all(test"].into_iter().filter_map(|start| code.find(start)).min();
        let code = &code[..tests.unwrap_or(code.len())];
        for word in [
            "println!",
            "eprintln!",
            "print!",
            "eprint!",
            "dbg!",
            "todo!",
            "unimplemented!",
            "env::var",
            "env::args",
            "process::exit",
            "io::stdout",
            "io::stderr",
            "io::stdin",
        ] {
            assert!(!code.contains(word), "src/{place} says `{word}`; only src/cli/ may");
        }
    }
}
