//! Files that a command is asked to write: whole or not at all, where the place allows it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::train::durable::Replacement;

/// What is written for a path: a file that appears there when it is finished, or what is written to and not replaced: a device, a pipe,
/// or a file in a place where nothing can be put beside it.
pub enum Target {
    File(Replacement),
    Stream(File, PathBuf),
}

impl Target {
    /// Nothing changes at `path` before [`Target::finish`], unless a device or a pipe is there, or the file may be written and its folder
    /// may not. A link stays one: the file it leads to is replaced.
    ///
    /// # Errors
    /// F0801 or F0802 if it cannot be written.
    pub fn create(path: &Path) -> Result<Target> {
        let failed = |e: io::Error| Error::io("creating", path, &e);
        let facts = fs::metadata(path).ok();
        let in_place = || File::create(path).map(|file| Target::Stream(file, path.to_path_buf()));
        if facts.as_ref().is_some_and(|facts| !facts.is_file()) {
            return in_place().map_err(failed);
        }
        let beside = || {
            let Some(facts) = facts else { return Replacement::new(path) };
            // What may not be written is not replaced either.
            OpenOptions::new().write(true).open(path)?;
            let file = Replacement::new(&fs::canonicalize(path)?)?;
            file.guard_as(facts.permissions())?;
            Ok(file)
        };
        let target = match beside() {
            Err(e) if is_of_the_place(&e) => in_place(),
            file => file.map(Target::File),
        };
        target.map_err(failed).map_err(|e| match path.parent().filter(|p| !p.as_os_str().is_empty() && !p.is_dir()) {
            Some(parent) => e.help(format!("there is no folder {}; make it first", parent.display())),
            None => e,
        })
    }

    /// # Errors
    /// F0801 or F0802 if the content does not reach the file.
    pub fn finish(self) -> Result<()> {
        match self {
            Target::File(mut file) => {
                let finished = match file.finish() {
                    Err(e) if is_of_the_place(&e) => file.overwrite(),
                    finished => finished,
                };
                finished.map_err(|e| Error::io("writing", file.path(), &e))
            }
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

/// Whether a file cannot be put beside another, or in its place, because of where that lies: a folder one may not write to, a file that is
/// a mount of its own, a name that must not become longer. The file itself may be writable all the same.
fn is_of_the_place(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, CrossesDevices, InvalidFilename, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(
        error.kind(),
        AlreadyExists | CrossesDevices | InvalidFilename | PermissionDenied | ReadOnlyFilesystem | ResourceBusy
    )
}

/// Writes `bytes` to `path`.
///
/// # Errors
/// F0801 or F0802; a file that was there is then unchanged, unless it had to be written in place.
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

    #[test]
    fn files_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lists.csv");
        let theirs = folder.path().join("lists.csv.tmp");
        fs::write(&theirs, "theirs").unwrap();
        // Two commands for one file: each result is whole, and the later one stays.
        let (mut first, mut second) = (Target::create(&path).unwrap(), Target::create(&path).unwrap());
        first.write_all(b"the first, longer").unwrap();
        second.write_all(b"the second").unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the first, longer");
        second.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&theirs).unwrap()), (b"the second".to_vec(), b"theirs".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_replaced_is_written_in_place() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        // No name beside this one is short enough.
        let long = folder.path().join("l".repeat(255));
        write(&long, b"old").unwrap();
        write(&long, b"new").unwrap();
        assert_eq!(fs::read(&long).unwrap(), b"new");
        // A writable file in a folder that is not; nothing stops an administrator, for whom it is replaced.
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("lists.csv"), "older and longer").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        let written = write(&closed.join("lists.csv"), b"new");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
        written.unwrap();
        assert_eq!(fs::read(closed.join("lists.csv")).unwrap(), b"new");
        // A place that cannot be taken, as that of a mounted file.
        let path = folder.path().join("lists.csv");
        fs::write(&path, "older and longer").unwrap();
        let mut file = Replacement::new(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.overwrite().unwrap();
        drop(file);
        assert_eq!((fs::read(&path).unwrap(), fs::read_dir(folder.path()).unwrap().count()), (b"new".to_vec(), 3));
        let kinds = [io::ErrorKind::ResourceBusy, io::ErrorKind::CrossesDevices, io::ErrorKind::PermissionDenied];
        assert!(kinds.into_iter().all(|kind| is_of_the_place(&kind.into())));
        assert!(!is_of_the_place(&io::ErrorKind::StorageFull.into()), "an old file is not given up for half a new one");
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
