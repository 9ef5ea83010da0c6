//! Puts the commit into `--version` and the run manifests, and lists the kernels' sources for embedding. Looks for no CUDA
//! and no C++ compiler: kernels are compiled at run time, so the build is the same on every machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    embed_kernels();
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=HARDNEG_COMMIT={commit}");
    println!("cargo:rerun-if-changed=build.rs");
    if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={head}");
    }
}

/// Writes `ALL: &[(name below kernels/, text)]`, sorted by name.
fn embed_kernels() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("kernels");
    let mut names = vec![];
    for folder in ["", "emulator/"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for entry in entries.flatten().filter(|e| e.path().is_file()) {
            names.push(format!("{folder}{}", entry.file_name().to_string_lossy()));
        }
        println!("cargo:rerun-if-changed={}", root.join(folder).display());
    }
    names.sort();
    let mut text = String::from("/// (name below `kernels/`, text), sorted by name.\npub const ALL: &[(&str, &str)] = &[\n");
    for name in names {
        text += &format!("    ({name:?}, include_str!({:?})),\n", root.join(&name));
    }
    text += "];\n";
    let out = Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("kernel_sources.rs");
    fs::write(out, text).expect("the build folder can be written");
}
