//! Writing that survives a power cut: the few file operations everything in a run directory is made of.
//!
//! A name becomes visible only after its content is on the medium: write a temporary, force it, rename it, force the
//! directory. The operations stand behind [`Disk`] so that tests can stop after any of them, or lose what was not forced.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file operations of a save.
pub trait Disk {
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates `path`, writes the parts one after another and forces the content to the medium.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Forces the names created, renamed or removed in directory `path` to the medium.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and what it holds.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// The file system.
pub struct FileSystem;

impl Disk for FileSystem {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
        for part in parts {
            file.write_all(part)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}

/// Replaces the file at `path` by `bytes`, whole or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let work = || {
        FileSystem.write(&temporary, &[bytes])?;
        FileSystem.rename(&temporary, path)?;
        FileSystem.sync_dir(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    };
    work().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::io("writing", path, &e)
    })
}
