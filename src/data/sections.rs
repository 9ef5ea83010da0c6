//! A file of aligned sections that can be used straight from a memory map: what prepared interactions are stored in.
//!
//! ```text
//! 0    magic "hardneg\0" | 8 version u32 | 12 sections u32 | 16 file length u64 | 24 table position u64
//! 32   content hash (32) | 64 seal (32) | 96 zeros (32)
//! 128  sections, each at a multiple of 64, zeros between
//! ...  table: per section kind u32, zero u32, position u64, length u64, BLAKE3 of its bytes (32), zeros (8)
//! ```
//!
//! Everything little-endian. The seal is BLAKE3 over the first 64 bytes and the table; it is checked on opening, so a
//! damaged header never steers a read. The content hash covers kind, length and hash of every section but the
//! description, so it names the data and not where or when they were made. Section bytes are only hashed by
//! [`Sections::verify`], because opening must not read a file that may be larger than memory.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use rayon::prelude::*;

use crate::error::{Code, Error, Result};

#[cfg(not(target_endian = "little"))]
compile_error!("prepared files are used in place and are little-endian");

const MAGIC: [u8; 8] = *b"hardneg\0";
const VERSION: u32 = 1;
const HEADER: usize = 128;
const ENTRY: usize = 64;
const ALIGN: usize = 64;
/// More sections than any data set needs; bounds what a hostile header can make us allocate.
const MOST_SECTIONS: u32 = 4096;
/// The section that describes the data without being part of them (JSON); not covered by the content hash.
pub const DESCRIPTION: u32 = 1;

enum Backing {
    Map(memmap2::Mmap),
    /// Words, so that the bytes are aligned for every element type.
    Memory(Vec<u64>, usize),
}

struct Entry {
    kind: u32,
    range: Range<usize>,
    hash: [u8; 32],
}

/// An open file of sections.
pub struct Sections {
    backing: Backing,
    table: Vec<Entry>,
    content: [u8; 32],
    /// The path in messages.
    place: String,
}

impl Sections {
    /// Maps `path`. Checks the header, the table and every bound, not the sections' bytes.
    pub fn open(path: &Path) -> Result<Sections> {
        let file = File::open(path).map_err(|e| Error::new(Code::D0101, format!("opening {}: {e}", path.display())))?;
        let length = file.metadata().map_err(|e| Error::io("reading", path, &e))?.len();
        if length < HEADER as u64 {
            return Err(not_ours(&path.display().to_string(), "it is too short"));
        }
        let map = map(&file).map_err(|e| Error::io("mapping", path, &e))?;
        Sections::new(Backing::Map(map), path.display().to_string())
    }

    /// The same over bytes in memory, which are copied.
    pub fn from_bytes(bytes: &[u8]) -> Result<Sections> {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Sections::new(Backing::Memory(words, bytes.len()), "memory".into())
    }

    fn new(backing: Backing, place: String) -> Result<Sections> {
        let bytes = whole(&backing);
        if bytes.len() < HEADER || bytes[..8] != MAGIC {
            return Err(not_ours(&place, "it does not start with the mark of a prepared file"));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(not_ours(&place, &format!("its layout has version {version}, this program reads {VERSION}")));
        }
        let count = u32_at(bytes, 12);
        let table = usize::try_from(u64_at(bytes, 24)).unwrap_or(usize::MAX);
        let table_end = table.checked_add(count as usize * ENTRY);
        if u64_at(bytes, 16) != bytes.len() as u64 || count > MOST_SECTIONS || table < HEADER || table_end != Some(bytes.len()) {
            return Err(damaged(&place, "its length differs from what its header says"));
        }
        if seal(&bytes[..64], &bytes[table..]) != bytes[64..96] || bytes[96..HEADER].iter().any(|&b| b != 0) {
            return Err(damaged(&place, "its header fails its checksum"));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count as usize);
        let mut free = HEADER;
        for raw in bytes[table..].chunks_exact(ENTRY) {
            let (kind, start, length) = (u32_at(raw, 0), u64_at(raw, 8) as usize, u64_at(raw, 16) as usize);
            let end = start.checked_add(length).filter(|&end| end <= table);
            let (Some(end), true) = (end, start >= free && start % ALIGN == 0) else {
                return Err(damaged(&place, &format!("section {kind} lies outside the file or over another")));
            };
            if entries.iter().any(|e| e.kind == kind) {
                return Err(damaged(&place, &format!("section {kind} occurs twice")));
            }
            free = end;
            let mut hash = [0; 32];
            hash.copy_from_slice(&raw[24..56]);
            entries.push(Entry { kind, range: start..end, hash });
        }
        let content = content(&entries);
        if content != bytes[32..64] {
            return Err(damaged(&place, "its content hash is not that of its sections"));
        }
        Ok(Sections { backing, table: entries, content, place })
    }

    /// Where section `kind` lies, if it is there.
    pub fn find(&self, kind: u32) -> Option<Range<usize>> {
        self.table.iter().find(|e| e.kind == kind).map(|e| e.range.clone())
    }

    /// Section `kind` as whole elements of `T`; an error where it is missing or its length is not a multiple.
    pub fn require<T: Pod>(&self, kind: u32, name: &str) -> Result<Range<usize>> {
        self.optional::<T>(kind, name)?.ok_or_else(|| self.damaged(&format!("it has no {name}")))
    }

    /// As [`Sections::require`], but the section may be missing.
    pub fn optional<T: Pod>(&self, kind: u32, name: &str) -> Result<Option<Range<usize>>> {
        match self.find(kind) {
            Some(range) if range.len() % size_of::<T>() != 0 => Err(self.damaged(&format!("its {name} have a broken length"))),
            found => Ok(found),
        }
    }

    /// The elements in `range`, which came from [`Sections::require`] or [`Sections::optional`] with the same `T`.
    pub fn view<T: Pod>(&self, range: &Range<usize>) -> &[T] {
        bytemuck::cast_slice(&whole(&self.backing)[range.clone()])
    }

    /// Names the data, whatever file they lie in.
    pub fn content_hash(&self) -> [u8; 32] {
        self.content
    }

    /// Reads everything and compares every section with its hash.
    pub fn verify(&self) -> Result<()> {
        for entry in &self.table {
            if *blake3::hash(&whole(&self.backing)[entry.range.clone()]).as_bytes() != entry.hash {
                return Err(self.damaged(&format!("section {} fails its checksum", entry.kind)));
            }
        }
        Ok(())
    }

    /// The error for contents that do not fit together.
    pub fn damaged(&self, why: &str) -> Error {
        damaged(&self.place, why)
    }
}

fn whole(backing: &Backing) -> &[u8] {
    match backing {
        Backing::Map(map) => map,
        Backing::Memory(words, length) => &bytemuck::cast_slice(words)[..*length],
    }
}

/// Maps a file read-only.
fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the map is private to this process and read-only. The standing danger of file maps is another process
    // that changes or shortens the file while it is mapped; prepared files are only ever replaced by renaming a new
    // file over the name, which leaves the mapped one as it was.
    unsafe { memmap2::Mmap::map(file) }
}

fn damaged(place: &str, why: &str) -> Error {
    Error::new(Code::D0401, format!("the prepared file is damaged: {why}")).at(place).help("prepare it again from the log")
}

fn not_ours(place: &str, why: &str) -> Error {
    Error::new(Code::D0402, format!("not a prepared file: {why}")).at(place).help("prepare it again from the log")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytemuck::pod_read_unaligned(&bytes[at..at + 4])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytemuck::pod_read_unaligned(&bytes[at..at + 8])
}

fn seal(head: &[u8], table: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(head).update(table).finalize().as_bytes()
}

fn content(entries: &[Entry]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for entry in entries.iter().filter(|e| e.kind != DESCRIPTION) {
        hasher.update(&entry.kind.to_le_bytes()).update(&(entry.range.len() as u64).to_le_bytes()).update(&entry.hash);
    }
    *hasher.finalize().as_bytes()
}

/// Writes sections one after the other; nothing is kept in memory but a buffer.
pub struct SectionWriter<W: Write + Seek> {
    to: W,
    at: usize,
    table: Vec<Entry>,
}

impl<W: Write + Seek> SectionWriter<W> {
    pub fn new(mut to: W) -> io::Result<Self> {
        to.write_all(&[0; HEADER])?;
        Ok(SectionWriter { to, at: HEADER, table: vec![] })
    }

    /// A section of bytes.
    pub fn bytes(&mut self, kind: u32, bytes: &[u8]) -> io::Result<()> {
        self.gather(kind, bytes.len(), |i| bytes[i])
    }

    /// A section of `n` elements, element `i` being `of(i)`. Filled in parallel, one bounded buffer at a time.
    pub fn gather<T: Pod + Send + Sync>(&mut self, kind: u32, n: usize, of: impl Fn(usize) -> T + Sync) -> io::Result<()> {
        const BUFFER: usize = 1 << 18;
        const CHUNK: usize = 1 << 14;
        self.pad(ALIGN)?;
        let start = self.at;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![T::zeroed(); n.min(BUFFER)];
        for first in (0..n).step_by(BUFFER) {
            let part = &mut buffer[..BUFFER.min(n - first)];
            part.par_chunks_mut(CHUNK).enumerate().for_each(|(c, chunk)| {
                for (j, slot) in chunk.iter_mut().enumerate() {
                    *slot = of(first + c * CHUNK + j);
                }
            });
            let bytes = bytemuck::cast_slice(part);
            hasher.update(bytes);
            self.to.write_all(bytes)?;
            self.at += bytes.len();
        }
        self.table.push(Entry { kind, range: start..self.at, hash: *hasher.finalize().as_bytes() });
        Ok(())
    }

    /// Writes the table and the header.
    pub fn finish(mut self) -> io::Result<W> {
        self.pad(ALIGN)?;
        let mut table = Vec::with_capacity(self.table.len() * ENTRY);
        for entry in &self.table {
            table.extend_from_slice(&u64::from(entry.kind).to_le_bytes());
            table.extend_from_slice(&(entry.range.start as u64).to_le_bytes());
            table.extend_from_slice(&(entry.range.len() as u64).to_le_bytes());
            table.extend_from_slice(&entry.hash);
            table.extend_from_slice(&[0; 8]);
        }
        let mut head = [0; HEADER];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&(self.table.len() as u32).to_le_bytes());
        head[16..24].copy_from_slice(&((self.at + table.len()) as u64).to_le_bytes());
        head[24..32].copy_from_slice(&(self.at as u64).to_le_bytes());
        head[32..64].copy_from_slice(&content(&self.table));
        let seal = seal(&head[..64], &table);
        head[64..96].copy_from_slice(&seal);
        self.to.write_all(&table)?;
        self.to.seek(SeekFrom::Start(0))?;
        self.to.write_all(&head)?;
        Ok(self.to)
    }

    fn pad(&mut self, to: usize) -> io::Result<()> {
        let zeros = self.at.next_multiple_of(to) - self.at;
        self.at += zeros;
        self.to.write_all(&[0; ALIGN][..zeros])
    }
}

/// The file a path stands for: where it is a link, what it points to, which may still be missing.
fn behind_links(path: &Path) -> PathBuf {
    if !path.is_symlink() {
        return path.to_path_buf();
    }
    let pointed = || std::fs::read_link(path).map(|to| path.parent().unwrap_or(Path::new("")).join(to));
    path.canonicalize().or_else(|_| pointed()).unwrap_or_else(|_| path.to_path_buf())
}

/// Writes a file so that a crash at any moment leaves the old file or the whole new one: a temporary file beside it,
/// synced, renamed over the name, and the folder synced. Where the name is a link, its target is written and the link stays.
///
/// Errors: F0801 where `path` is no file or cannot be written, F0802 where the disk is full.
pub fn write_durably(path: &Path, write: impl FnOnce(&mut SectionWriter<BufWriter<File>>) -> io::Result<()>) -> Result<()> {
    let path = &behind_links(path);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let Some(name) = path.file_name() else {
        return Err(Error::new(Code::F0801, format!("{} is not a file name", path.display())));
    };
    // Renaming over a device or a folder would put a file in its place.
    if std::fs::metadata(path).is_ok_and(|facts| !facts.is_file()) {
        return Err(Error::new(Code::F0801, format!("{} exists and is not a file", path.display())));
    }
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", std::process::id()));
    let part = folder.join(hidden);
    let written = (|| {
        let mut writer = SectionWriter::new(BufWriter::with_capacity(1 << 20, File::create(&part)?))?;
        write(&mut writer)?;
        let file = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        File::open(&folder)?.sync_all()
    })();
    written.map_err(|e| {
        // Best effort: the write has already failed, and a leftover part file is harmless.
        let _ = std::fs::remove_file(&part);
        Error::io("writing", path, &e)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = SectionWriter::new(Cursor::new(vec![])).unwrap();
        writer.gather(2, 5, |i| i as u64 * 3).unwrap();
        writer.bytes(3, b"names").unwrap();
        writer.bytes(4, b"").unwrap();
        writer.bytes(DESCRIPTION, b"{\"where\":\"here\"}").unwrap();
        writer.finish().unwrap().into_inner()
    }

    /// Everything a reader can see.
    fn visible(s: &Sections) -> Vec<(u32, Vec<u8>)> {
        s.table.iter().map(|e| (e.kind, whole(&s.backing)[e.range.clone()].to_vec())).collect()
    }

    #[test]
    fn sections_come_back_as_written_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.hn");
        write_durably(&path, |w| {
            w.gather(2, 5, |i| i as u64 * 3)?;
            w.bytes(3, b"names")?;
            w.bytes(4, b"")?;
            w.bytes(DESCRIPTION, b"{\"where\":\"here\"}")
        })
        .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), sample());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
        let file = Sections::open(&path).unwrap();
        let memory = Sections::from_bytes(&sample()).unwrap();
        assert_eq!(visible(&file), visible(&memory));
        assert_eq!(file.view::<u64>(&file.require::<u64>(2, "numbers").unwrap()), &[0, 3, 6, 9, 12]);
        assert!(file.require::<u64>(3, "names").is_err(), "five bytes are no u64s");
        assert_eq!(file.require::<u64>(9, "x").unwrap_err().code(), Code::D0401);
        file.verify().unwrap();
        assert_eq!(file.content_hash(), memory.content_hash());
    }

    #[test]
    fn every_flipped_bit_is_detected_or_changes_nothing_visible() {
        let good = sample();
        let expected = visible(&Sections::from_bytes(&good).unwrap());
        for at in 0..good.len() {
            for bit in [0, 3, 7] {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok(s) = Sections::from_bytes(&bad)
                    && s.verify().is_ok()
                {
                    assert_eq!(visible(&s), expected, "flip at {at} went unnoticed");
                }
            }
        }
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let good = sample();
        for length in 0..good.len() {
            assert!(Sections::from_bytes(&good[..length]).is_err(), "cut at {length}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(Sections::from_bytes(&longer).err().map(|e| e.code()), Some(Code::D0401));
    }

    #[test]
    fn the_description_does_not_change_the_content_hash_but_any_section_does() {
        let build = |bytes: &[u8], description: &[u8], kind| {
            let mut writer = SectionWriter::new(Cursor::new(vec![])).unwrap();
            writer.bytes(kind, bytes).unwrap();
            writer.bytes(DESCRIPTION, description).unwrap();
            Sections::from_bytes(&writer.finish().unwrap().into_inner()).unwrap().content_hash()
        };
        assert_eq!(build(b"a", b"x", 5), build(b"a", b"yy", 5));
        assert_ne!(build(b"a", b"x", 5), build(b"b", b"x", 5));
        assert_ne!(build(b"a", b"x", 5), build(b"a", b"x", 6));
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.hn");
        std::fs::write(&path, b"old").unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = write_durably(&path, |w| w.bytes(2, b"half").and(Err(full()))).unwrap_err();
        assert_eq!(error.code(), Code::F0802);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_its_target_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link.hn"), folder.path().join("there").join("x.hn"));
        std::fs::create_dir(folder.path().join("there")).unwrap();
        std::os::unix::fs::symlink("there/x.hn", &link).unwrap();
        for _ in ["missing", "there"] {
            write_durably(&link, |w| w.bytes(2, b"whole")).unwrap();
            assert!(link.symlink_metadata().unwrap().is_symlink() && target.is_file());
            Sections::open(&target).unwrap().verify().unwrap();
        }
        assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    proptest! {
        /// A header that seals itself but lies about its sections: an error or views that stay inside, never a panic.
        #[test]
        fn hostile_tables_are_refused_without_a_panic(
            count in 0u32..6, words in prop::collection::vec((0u32..5, prop::num::u64::ANY, prop::num::u64::ANY), 0..6), small in any::<bool>()
        ) {
            let mut bytes = vec![0u8; 512];
            let table = bytes.len();
            for (kind, start, length) in &words {
                let (start, length) = if small { ((start % 12) * 64, length % 300) } else { (*start, *length) };
                bytes.extend_from_slice(&u64::from(*kind).to_le_bytes());
                bytes.extend_from_slice(&start.to_le_bytes());
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(&[0; 40]);
            }
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            let count = if small { words.len() as u32 } else { count };
            bytes[12..16].copy_from_slice(&count.to_le_bytes());
            let length = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&length.to_le_bytes());
            bytes[24..32].copy_from_slice(&(table as u64).to_le_bytes());
            let entries: Vec<Entry> = bytes[table..].chunks_exact(ENTRY).map(|raw| {
                let length = (u64_at(raw, 16) as usize).min(1 << 40);
                Entry { kind: u32_at(raw, 0), range: 0..length, hash: [0; 32] }
            }).collect();
            let hash = content(&entries);
            bytes[32..64].copy_from_slice(&hash);
            let mark = seal(&bytes[..64], &bytes[table..]);
            bytes[64..96].copy_from_slice(&mark);
            if let Ok(s) = Sections::from_bytes(&bytes) {
                for entry in &s.table {
                    prop_assert!(entry.range.end <= table);
                }
            }
        }
    }
}
