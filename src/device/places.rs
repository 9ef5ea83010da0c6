//! Where libraries and caches lie on this computer, worked out from the environment that the command line hands down.
//!
//! CUDA's libraries come in three ways: with the system, with a CUDA toolkit, and in pip's `nvidia-*` wheels, which no
//! loader searches. "Found by Python, not by the loader" is the commonest complaint of programs like ours, so the folders
//! of all three are listed here and `doctor` prints them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// Folders to look into, best first, and the folder of compiled kernels.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub libraries: Vec<PathBuf>,
    /// None keeps nothing on disk.
    pub cache: Option<PathBuf>,
    pub rounding: Rounding,
}

/// How a machine rounds the operands of matrix products, and of attention where it has tensor cores for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Full f32.
    #[default]
    F32,
    /// To 10 bits of mantissa on the tensor cores, sums in f32: several times faster, errors near 1e-3 relative.
    Tf32,
    /// To 7 bits of mantissa, attention included; sums, softmax and everything stored stay f32. Errors near 3e-3 relative.
    Bf16,
}

impl Rounding {
    /// `x` as an operand.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Rounding::F32 => x,
            // To nearest, ties away from zero, as `cvt.rna.tf32.f32`; what is not finite has nothing to round.
            Rounding::Tf32 if x.is_finite() => f32::from_bits((x.to_bits() + 0x1000) & !0x1fff),
            Rounding::Tf32 => x,
            Rounding::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }
}

impl std::str::FromStr for Rounding {
    type Err = Error;
    fn from_str(text: &str) -> Result<Rounding> {
        match text {
            "f32" => Ok(Rounding::F32),
            "tf32" => Ok(Rounding::Tf32),
            "bf16" => Ok(Rounding::Bf16),
            other => Err(Error::new(Code::C0202, format!("`{other}` is not a rounding")).help("use `f32`, `tf32` or `bf16`")),
        }
    }
}

impl Places {
    /// From environment variables: `HARDNEG_NVRTC_DIR`, `CUDA_HOME`, `CUDA_PATH`, `VIRTUAL_ENV`, `CONDA_PREFIX`, `PATH` (the
    /// wheels of the first `python3`), `XDG_CACHE_HOME` and `HOME`.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Places {
        let path = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut libraries: Vec<PathBuf> = path("HARDNEG_NVRTC_DIR").into_iter().collect();
        // Conda's packages lie in its environment as in a toolkit.
        let toolkits = [path("CUDA_HOME"), path("CUDA_PATH"), path("CONDA_PREFIX"), Some("/usr/local/cuda".into())];
        for toolkit in toolkits.into_iter().flatten() {
            let target = if cfg!(target_arch = "aarch64") { "targets/sbsa-linux/lib" } else { "targets/x86_64-linux/lib" };
            libraries.extend(["lib64", target, "lib"].map(|folder| toolkit.join(folder)));
        }
        let environments = [path("VIRTUAL_ENV"), path("CONDA_PREFIX")].into_iter().flatten();
        let python = path("PATH").and_then(|path| {
            let programs = std::env::split_paths(&path).map(|folder| folder.join("python3")).find(|p| p.is_file());
            // bin/python3 of an installation or an environment: its libraries lie beside bin.
            programs.and_then(|p| Some(p.parent()?.parent()?.to_path_buf()))
        });
        let python = python.into_iter().chain(["/usr/local".into(), "/usr".into()]);
        let user = path("HOME").map(|home| home.join(".local"));
        for root in environments.chain(python).chain(user) {
            libraries.extend(wheels(&root));
        }
        let mut seen = vec![];
        // The folder that was asked for stays, so that `doctor` can say that there is none.
        let asked = path("HARDNEG_NVRTC_DIR");
        libraries.retain(|folder| {
            (folder.is_dir() || Some(folder) == asked.as_ref()) && !seen.contains(folder) && (seen.push(folder.clone()), true).1
        });
        let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache"))).map(|c| c.join("hardneg"));
        Places { libraries, cache, rounding: Rounding::default() }
    }

    /// The first file named `stem.so.MAJOR` or `stem.so.MAJOR.*` with the first of `majors` that any folder has.
    pub fn library(&self, stem: &str, majors: &[u32]) -> Option<PathBuf> {
        majors.iter().find_map(|major| self.libraries.iter().find_map(|folder| versioned(folder, stem, *major)))
    }
}

/// Why a library does not load, in the loader's words: the error's own text leaves them out.
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub fn loader_says(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// `stem.so.MAJOR[.*]` in `folder`; variants for other systems (`.alt.`) are not ours.
pub fn versioned(folder: &Path, stem: &str, major: u32) -> Option<PathBuf> {
    let plain = format!("{stem}.so.{major}");
    let longer = format!("{plain}.");
    let mut names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| *name == plain || name.starts_with(&longer) && !name.contains(".alt."))
        .collect();
    names.sort();
    names.first().map(|name| folder.join(name))
}

/// The `lib` folders of NVIDIA's wheels in the Python installations below `root`.
fn wheels(root: &Path) -> Vec<PathBuf> {
    let listed = |folder: PathBuf| -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
        entries.sort();
        entries
    };
    let pythons = [root.join("lib"), root.join("lib64")].into_iter().flat_map(listed);
    pythons
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")))
        .flat_map(|p| [p.join("site-packages/nvidia"), p.join("dist-packages/nvidia")])
        .flat_map(listed)
        .map(|package| package.join("lib"))
        .filter(|lib| lib.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_and_toolkits_are_found_and_the_major_version_decides_first() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("venv/lib/python3.12/site-packages/nvidia/cu13/lib");
        let toolkit = folder.path().join("cuda/lib64");
        for (lib, name) in [(&wheel, "libnvrtc.so.13"), (&wheel, "libnvrtc.so.13.alt.x"), (&toolkit, "libnvrtc.so.12.9.1")] {
            fs::create_dir_all(lib).unwrap();
            fs::write(lib.join(name), "").unwrap();
        }
        let places = Places::new(|name| match name {
            "CUDA_HOME" => Some(folder.path().join("cuda").into()),
            "VIRTUAL_ENV" => Some(folder.path().join("venv").into()),
            "HOME" => Some(folder.path().into()),
            _ => None,
        });
        assert!(places.libraries.contains(&wheel) && places.libraries.contains(&toolkit));
        assert_eq!(places.library("libnvrtc", &[13, 12]), Some(wheel.join("libnvrtc.so.13")));
        assert_eq!(places.library("libnvrtc", &[12]), Some(toolkit.join("libnvrtc.so.12.9.1")));
        assert_eq!(places.library("libcublasLt", &[13, 12]), None);
        assert_eq!(places.cache, Some(folder.path().join(".cache/hardneg")));
    }
}
