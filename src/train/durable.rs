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
    let mut file = Replacement::new(path)?;
    file.write_all(bytes).map_err(|e| Error::io("writing", path, &e))?;
    file.finish()
}

/// A file that takes the place of the one at `path` when it is finished. Until then it lies beside it, as `NAME.tmp`; dropped before, it
/// is removed, and what was at `path` has not changed.
pub struct Replacement {
    file: fs::File,
    temporary: PathBuf,
    path: PathBuf,
    renamed: bool,
}

impl Replacement {
    /// # Errors
    /// F0801 or F0802 if no file can be made beside `path`.
    pub fn new(path: &Path) -> Result<Replacement> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = fs::File::create(&temporary).map_err(|e| Error::io("writing", path, &e))?;
        Ok(Replacement { file, temporary, path: path.to_path_buf(), renamed: false })
    }

    /// Lets nobody read or write the file who may not read or write the one it replaces.
    pub fn guard_as(&self, permissions: fs::Permissions) -> io::Result<()> {
        self.file.set_permissions(permissions)
    }

    /// Forces the content to the medium and takes the place at the path.
    ///
    /// # Errors
    /// F0801 or F0802, and the old file is still there, unless only the directory could not be forced.
    pub fn finish(mut self) -> Result<()> {
        let mut work = || {
            self.file.sync_all()?;
            FileSystem.rename(&self.temporary, &self.path)?;
            self.renamed = true;
            FileSystem.sync_dir(self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        };
        work().map_err(|e| Error::io("writing", &self.path, &e))
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
