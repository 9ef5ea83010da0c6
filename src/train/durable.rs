//! Writing that survives a power cut: the few file operations everything in a run directory is made of.
//!
//! A name becomes visible only after its content is on the medium: write a temporary, force it, rename it, force the
//! directory. The operations stand behind [`Disk`] so that tests can stop after any of them, or lose what was not forced.

use std::fs;
use std::io::{self, Seek, Write};
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

/// Replaces the file at `path` by `bytes`, whole or not at all. For folders of our own: what lies at `NAME.tmp` is taken for the rest of
/// an interrupted call.
///
/// # Errors
/// F0801 or F0802.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = beside(path, ".tmp");
    let work = || {
        FileSystem.write(&temporary, &[bytes])?;
        FileSystem.rename(&temporary, path)?;
        FileSystem.sync_dir(folder_of(path))
    };
    work().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::io("writing", path, &e)
    })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that takes the place of the one at `path` when it is finished. Until then it lies beside it, under a name that nobody else has;
/// dropped before, it is removed, and what was at `path` has not changed.
pub struct Replacement {
    file: fs::File,
    temporary: PathBuf,
    path: PathBuf,
    renamed: bool,
}

impl Replacement {
    /// # Errors
    /// Those of the system if no file can be made beside `path`.
    pub fn new(path: &Path) -> io::Result<Replacement> {
        // The number of the process is not enough: containers repeat it, and an end by force leaves the file of an earlier one.
        for number in 1..=1000 {
            let temporary = beside(path, &format!(".{}-{number}.tmp", std::process::id()));
            match fs::OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Replacement { file, temporary, path: path.to_path_buf(), renamed: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Lets nobody read or write the file who may not read or write the one it replaces.
    pub fn guard_as(&self, permissions: fs::Permissions) -> io::Result<()> {
        self.file.set_permissions(permissions)
    }

    /// Whose place it takes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forces the content to the medium and takes the place at the path.
    ///
    /// # Errors
    /// Those of the system, and the old file is still there, unless only the directory could not be forced.
    pub fn finish(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        FileSystem.rename(&self.temporary, &self.path)?;
        self.renamed = true;
        FileSystem.sync_dir(folder_of(&self.path))
    }

    /// Where the place cannot be taken: writes the content over the file that has it.
    ///
    /// # Errors
    /// Those of the system, and what was in the file may be lost.
    pub fn overwrite(&mut self) -> io::Result<()> {
        if self.renamed {
            return Ok(());
        }
        self.file.rewind()?;
        let mut old = fs::File::create(&self.path)?;
        io::copy(&mut self.file, &mut old)?;
        old.sync_all()
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
