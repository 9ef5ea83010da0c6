//! Files that are recognised only to say why they are not read and how to convert them.

use std::path::Path;

use crate::error::{Code, Error, Result};

/// First bytes, what they belong to, and the way out.
const MAGIC: &[(&[u8], &str, &str)] = &[
    (b"\x93NUMPY", "a NumPy array", "write it as text: numpy.savetxt(\"log.tsv\", array, fmt=\"%d\", delimiter=\"\\t\")"),
    (b"PK\x03\x04", "a zip archive (.zip, .npz, .xlsx, or a PyTorch file)", "unpack it, or export its table as CSV or Parquet"),
    (b"\x89HDF", "an HDF5 file", "export its table, for example pandas.read_hdf(...).to_parquet(\"log.parquet\")"),
    (b"ARROW1", "an Arrow or Feather file", "export it, for example pandas.read_feather(...).to_parquet(\"log.parquet\")"),
    (b"FEA1", "a Feather file", "export it, for example pandas.read_feather(...).to_parquet(\"log.parquet\")"),
    (b"ORC", "an ORC file", "export it as Parquet or CSV"),
    (b"Obj\x01", "an Avro file", "export it as Parquet or JSON lines"),
    (b"SQLite format 3", "an SQLite database", "export the table: sqlite3 -header -csv FILE \"select ...\" > log.csv"),
    (b"BZh", "bzip2 data", "decompress it with bunzip2, or recompress with gzip or zstd"),
    (b"\xFD7zXZ", "xz data", "decompress it with unxz, or recompress with gzip or zstd"),
    (b"\x04\x22\x4D\x18", "lz4 data", "decompress it with lz4 -d, or recompress with gzip or zstd"),
    (b"7z\xBC\xAF", "a 7z archive", "unpack it"),
    (b"\xD0\xCF\x11\xE0", "an old Excel workbook", "save it as CSV"),
    (b"%PDF", "a PDF document", "name the log file"),
];

/// Refuses what can never be a log: the formats above, pickles, and binary content. `head` is decompressed.
pub fn refuse(path: &Path, head: &[u8]) -> Result<()> {
    let refused = |what: &str, help: &str| {
        Err(Error::new(Code::D0110, format!("{} is {what}, which hardneg does not read", path.display())).help(help))
    };
    if head.starts_with(b"hardneg\0") {
        return Err(Error::new(Code::D0110, format!("{} is prepared already, and no log", path.display())).help(
            "train on it as it is (`hardneg train FILE`), or name the log it was made from: `hardneg inspect FILE` tells it",
        ));
    }
    if let Some((_, what, help)) = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return refused(what, help);
    }
    // A pickle states its protocol first; from protocol 4 on a frame follows. A text file never starts with byte 0x80.
    if matches!(head, [0x80, 0x02..=0x05, ..]) {
        let help =
            "loading a pickle runs code, so it is never read; in Python: pandas.read_pickle(...).to_parquet(\"log.parquet\")";
        return refused("a Python pickle", help);
    }
    let sample = &head[..head.len().min(65_536)];
    let utf16 =
        matches!(super::encoding::detect(sample, false).0, super::layout::Encoding::Utf16Le | super::layout::Encoding::Utf16Be);
    let binary = sample.iter().filter(|&&b| b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0C | 0x1B)).count();
    if head.starts_with(b"PAR1") && !cfg!(feature = "parquet") {
        return refused("a Parquet file", "this build was made without the feature `parquet`; use one with it, or export CSV");
    }
    if !utf16 && !head.starts_with(b"PAR1") && binary * 20 > sample.len() {
        return refused("binary data of an unknown kind", "export it as CSV, TSV, JSON lines or Parquet");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_are_named_and_text_passes() {
        for (bytes, named) in [
            (&b"\x80\x04\x95\x10\0\0\0\0\0\0\0"[..], "pickle"),
            (b"\x93NUMPY\x01\0v\0", "NumPy"),
            (b"PK\x03\x04....", "zip"),
            (b"\x00\x01\x02\x03\x00\x01\x02\x03\x05", "binary"),
        ] {
            let error = refuse(Path::new("log"), bytes).unwrap_err();
            assert_eq!(error.code(), Code::D0110);
            assert!(error.to_string().contains(named) && error.to_string().contains("help"), "{error}");
        }
        for text in [&b"1\t2\t3\n"[..], b"caf\xE9,1\n", b"\xFF\xFEa\0,\0b\0\n\0"] {
            assert!(refuse(Path::new("log"), text).is_ok(), "{}", String::from_utf8_lossy(text));
        }
    }
}
