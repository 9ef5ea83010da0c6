//! The bytes of a file, decompressed and decoded on a thread of their own, in blocks.
//!
//! Compression is known by its magic bytes, never by the file's name. Whatever the file claims about its size is not
//! believed: nothing is allocated by it, zstd windows are limited to 128 MiB, and a file that expands more than 500-fold
//! past the first GiB is refused as a decompression bomb (logs of interactions compress 3- to 30-fold).

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::{Code, Error, Result};

use super::encoding::Decoder;
use super::layout::{Compression, Encoding};

/// Bytes per block after decompression.
pub const BLOCK: usize = 1 << 20;
const BOMB_BYTES: u64 = 1 << 30;
const BOMB_RATIO: u64 = 500;

/// Opens a file that is to be read as data; directories, missing and special files are refused with the reason.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let refuse = |what: String, help: &str| Err(Error::new(Code::D0101, what).help(help));
    if path.as_os_str().is_empty() {
        return refuse("no input file was given".into(), "set `data.path`, or name the file on the command line");
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return refuse(format!("{} cannot be opened: {e}", path.display()), "check the path and its permissions"),
    };
    let facts = file.metadata().map_err(|e| Error::io("reading", path, &e))?;
    if facts.is_dir() {
        return refuse(format!("{} is a directory", path.display()), "name the log file inside it");
    }
    if !facts.is_file() {
        return refuse(
            format!("{} is not a regular file", path.display()),
            "write the stream to a file first: its start is looked at before it is read",
        );
    }
    if facts.len() == 0 {
        let what = format!("{} is empty (0 bytes)", path.display());
        return Err(Error::new(Code::D0102, what).help("check that the export that wrote it ended properly"));
    }
    Ok((file, facts.len()))
}

/// Compression by magic bytes.
pub fn detect(head: &[u8]) -> Compression {
    match head {
        [0x1F, 0x8B, ..] => Compression::Gzip,
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Compression::Zstd,
        // A skippable frame may come before the first zstd frame.
        [low, 0x2A, 0x4D, 0x18, ..] if (0x50..=0x5F).contains(low) => Compression::Zstd,
        _ => Compression::Plain,
    }
}

/// The first bytes of a file as they lie on disk.
pub fn head(path: &Path, length: usize) -> Result<Vec<u8>> {
    let (file, _) = open(path)?;
    let mut head = vec![];
    file.take(length as u64).read_to_end(&mut head).map_err(|e| Error::io("reading", path, &e))?;
    Ok(head)
}

/// Counts what is taken from the file: progress, and the place of a damage.
struct Counted {
    file: File,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.taken.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A file as a stream of decoded blocks.
pub struct Source {
    blocks: Receiver<Result<Vec<u8>>>,
    taken: Arc<AtomicU64>,
    pub total: u64,
}

impl Source {
    pub fn open(path: &Path, encoding: Encoding, block: usize) -> Result<Source> {
        let compression = detect(&head(path, 4)?);
        let (file, total) = open(path)?;
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Counted { file, taken: taken.clone() };
        let damaged = |e: std::io::Error| Error::io("opening", path, &e);
        let stream: Box<dyn Read + Send> = match compression {
            Compression::Plain => Box::new(counted),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(std::io::BufReader::with_capacity(1 << 16, counted))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(counted).map_err(damaged)?;
                decoder.window_log_max(27).map_err(damaged)?;
                Box::new(decoder)
            }
        };
        // Three blocks in flight keep the decompressor busy while rows are parsed.
        let (send, blocks) = sync_channel(3);
        let pump = Pump { stream, send, path: path.to_path_buf(), compression, taken: taken.clone(), block: block.max(1) };
        std::thread::Builder::new()
            .name("read".into())
            .spawn(move || pump.run(Decoder::new(encoding)))
            .map_err(|e| Error::io("starting a thread to read", path, &e))?;
        Ok(Source { blocks, taken, total })
    }
    /// The next block, never empty; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>> {
        match self.blocks.recv() {
            Ok(block) => block.map(Some),
            Err(_) => Ok(None),
        }
    }
    /// Bytes of the file taken so far (of `total`).
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed).min(self.total)
    }
}

struct Pump {
    stream: Box<dyn Read + Send>,
    send: SyncSender<Result<Vec<u8>>>,
    path: std::path::PathBuf,
    compression: Compression,
    taken: Arc<AtomicU64>,
    block: usize,
}

impl Pump {
    /// Until the end, a failure, or until nobody wants more.
    fn run(mut self, mut decoder: Decoder) {
        let mut given = 0u64;
        loop {
            let mut bytes = vec![0u8; self.block];
            let mut filled = 0;
            let mut failure = None;
            let mut ended = false;
            while filled < bytes.len() {
                match self.stream.read(&mut bytes[filled..]) {
                    Ok(0) => {
                        ended = true;
                        break;
                    }
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        failure = Some(self.damage(&e, given + filled as u64));
                        break;
                    }
                }
            }
            bytes.truncate(filled);
            given += filled as u64;
            let taken = self.taken.load(Ordering::Relaxed);
            if given > BOMB_BYTES && given / taken.max(1) > BOMB_RATIO {
                failure = Some(
                    Error::new(
                        Code::D0108,
                        format!("{} expands more than {BOMB_RATIO}-fold past {given} bytes", self.path.display()),
                    )
                    .help("if it really is a log, decompress it first"),
                );
            }
            let text = decoder.decode(bytes, ended || failure.is_some());
            if failure.is_none() && !text.is_empty() && self.send.send(Ok(text)).is_err() {
                return;
            }
            if let Some(error) = failure {
                // Nobody listening means nobody to tell.
                let _ = self.send.send(Err(error));
                return;
            }
            if ended {
                return;
            }
        }
    }
    fn damage(&self, error: &std::io::Error, given: u64) -> Error {
        let kind = match self.compression {
            Compression::Plain => return Error::io("reading", &self.path, error),
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        let taken = self.taken.load(Ordering::Relaxed);
        let cut = error.kind() == std::io::ErrorKind::UnexpectedEof;
        let what = if cut { "ends in the middle of its compressed data" } else { "holds damaged compressed data" };
        Error::new(Code::D0105, format!("{} {what}", self.path.display()))
            .at(format!("{}: near byte {taken} of the file, byte {given} of its content", self.path.display()))
            .note(format!("{kind}: {error}"))
            .help("copy or download the file again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(path: &Path, block: usize) -> Result<Vec<u8>> {
        let mut source = Source::open(path, Encoding::Utf8, block)?;
        let mut out = vec![];
        while let Some(bytes) = source.next()? {
            out.extend(bytes);
        }
        Ok(out)
    }
    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn compression_is_found_by_magic_and_any_block_size_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let text: Vec<u8> = (0..5000u32).flat_map(|i| format!("{}\t{}\n", i % 97, i * 7919 % 1009).into_bytes()).collect();
        let twice = [gzip(&text[..1000]), gzip(&text[1000..])].concat();
        for (name, bytes) in
            [("plain.gz", text.clone()), ("one", gzip(&text)), ("members", twice), ("z", zstd::encode_all(&text[..], 3).unwrap())]
        {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            for block in [1usize << 20, 777, 3] {
                assert!(all(&path, block).unwrap() == text, "{name} in blocks of {block}");
            }
        }
    }

    #[test]
    fn a_truncated_or_damaged_stream_is_an_error_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: Vec<u8> = (0..5000u32).flat_map(|i| format!("{}\n", i.wrapping_mul(2_654_435_761)).into_bytes()).collect();
        for whole in [gzip(&text), zstd::encode_all(&text[..], 3).unwrap()] {
            for cut in [5, whole.len() / 2, whole.len() - 1] {
                std::fs::write(&path, &whole[..cut]).unwrap();
                let error = all(&path, BLOCK).unwrap_err();
                assert_eq!(error.code(), Code::D0105, "{error}");
                assert!(error.to_string().contains("byte"), "{error}");
            }
            let mut flipped = whole.clone();
            let middle = flipped.len() / 2;
            flipped[middle..middle + 8].fill(0xFF);
            std::fs::write(&path, &flipped).unwrap();
            assert!(all(&path, BLOCK).is_err() || whole[0] == 0x28, "gzip has a checksum, so damage shows");
        }
    }

    #[test]
    fn what_is_not_a_file_with_content_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert_eq!(open(Path::new("")).unwrap_err().code(), Code::D0101);
        assert_eq!(open(&folder.path().join("absent")).unwrap_err().code(), Code::D0101);
        assert_eq!(open(folder.path()).unwrap_err().code(), Code::D0101);
        assert_eq!(open(&empty).unwrap_err().code(), Code::D0102);
        assert_eq!(open(Path::new("/dev/null")).unwrap_err().code(), Code::D0101);
    }

    #[test]
    fn a_decompression_bomb_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.zst");
        // 2 GiB of zeros as zstd: some tens of kilobytes.
        let mut encoder = zstd::stream::write::Encoder::new(File::create(&path).unwrap(), 1).unwrap();
        let zeros = vec![0u8; 1 << 24];
        for _ in 0..128 {
            encoder.write_all(&zeros).unwrap();
        }
        encoder.finish().unwrap();
        let mut source = Source::open(&path, Encoding::Utf8, BLOCK).unwrap();
        let error = loop {
            match source.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the bomb was read to its end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Code::D0108);
    }
}
