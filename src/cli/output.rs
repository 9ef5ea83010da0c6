//! Files that a command is asked to write: whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::train::durable::Replacement;

/// What is written for a path: a file that appears there when it is finished, or a device or a pipe, which is written to and not
/// replaced.
pub enum Target {
    File(Replacement),
    Stream(File, PathBuf),
}

impl Target {
    /// Nothing changes at `path` before [`Target::finish`], unless a device or a pipe is there. A link stays one: the file it leads to is
    /// replaced.
    ///
    /// # Errors
    /// F0801 or F0802 if it cannot be written.
    pub fn create(path: &Path) -> Result<Target> {
        let failed = |e: io::Error| Error::io("creating", path, &e);
        let facts = fs::metadata(path).ok();
        if facts.as_ref().is_some_and(|facts| !facts.is_file()) {
            return Ok(Target::Stream(File::create(path).map_err(failed)?, path.to_path_buf()));
        }
        let Some(facts) = facts else {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.is_dir());
            return Replacement::new(path).map(Target::File).map_err(|e| match parent {
                Some(parent) => e.help(format!("there is no folder {}; make it first", parent.display())),
                None => e,
            });
        };
        // What may not be written is not replaced either.
        OpenOptions::new().write(true).open(path).map_err(failed)?;
        let file = Replacement::new(&fs::canonicalize(path).map_err(failed)?)?;
        file.guard_as(facts.permissions()).map_err(failed)?;
        Ok(Target::File(file))
    }

    /// # Errors
    /// F0801 or F0802 if the content does not reach the file.
    pub fn finish(self) -> Result<()> {
        match self {
            Target::File(file) => file.finish(),
            Target::Stream(mut stream, path) => stream.flush().map_err(|e| Error::io("writing", &path, &e)),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::File(file) => file.write(bytes),
            Target::Stream(stream, _) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::File(file) => file.flush(),
            Target::Stream(stream, _) => stream.flush(),
        }
    }
}

/// Writes `bytes` to `path`.
///
/// # Errors
/// F0801 or F0802; a file that was there is then unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut target = Target::create(path)?;
    target.write_all(bytes).map_err(|e| Error::io("writing", path, &e))?;
    target.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_when_its_successor_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lists.csv");
        fs::write(&path, "old").unwrap();
        let mut half = Target::create(&path).unwrap();
        half.write_all(b"ne").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(half);
        let names = || fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!((fs::read(&path).unwrap(), names().len()), (b"old".to_vec(), 1));
        write(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), names().len()), (b"new".to_vec(), 1));
        let nowhere = write(&folder.path().join("absent/lists.csv"), b"new").unwrap_err();
        assert!(nowhere.to_string().contains("there is no folder"), "{nowhere}");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_outlast_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("lists.csv"), folder.path().join("link.csv"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().permissions().mode() & 0o777),
            (b"new".to_vec(), 0o600)
        );
    }
}
