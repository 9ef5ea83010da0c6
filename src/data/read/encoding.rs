//! From bytes to text: byte-order marks are dropped, UTF-16 and declared Latin-1 become UTF-8, all else passes unchanged.
//!
//! Ids are opaque bytes, so invalid UTF-8 is no error; decoding exists because delimiters and digits must be found.

use super::layout::Encoding;

/// Decodes a stream block by block; a character may straddle two blocks.
pub struct Decoder {
    encoding: Encoding,
    /// Bytes of an unfinished character, or of a byte-order mark not yet recognised.
    left: Vec<u8>,
    started: bool,
}

impl Decoder {
    pub fn new(encoding: Encoding) -> Decoder {
        Decoder { encoding, left: vec![], started: false }
    }
    /// `ended`: no more bytes will come.
    pub fn decode(&mut self, bytes: Vec<u8>, ended: bool) -> Vec<u8> {
        let mut bytes = if self.left.is_empty() {
            bytes
        } else {
            let mut joined = std::mem::take(&mut self.left);
            joined.extend_from_slice(&bytes);
            joined
        };
        if !self.started {
            if bytes.len() < 3 && !ended {
                self.left = bytes;
                return vec![];
            }
            self.started = true;
            let mark: &[u8] = match self.encoding {
                Encoding::Utf8 | Encoding::Bytes | Encoding::Latin1 => &[0xEF, 0xBB, 0xBF],
                Encoding::Utf16Le => &[0xFF, 0xFE],
                Encoding::Utf16Be => &[0xFE, 0xFF],
            };
            if bytes.starts_with(mark) {
                bytes.drain(..mark.len());
            }
        }
        match self.encoding {
            Encoding::Utf8 | Encoding::Bytes => bytes,
            Encoding::Latin1 => bytes.iter().map(|&b| b as char).collect::<String>().into_bytes(),
            Encoding::Utf16Le => self.utf16(&bytes, u16::from_le_bytes, ended),
            Encoding::Utf16Be => self.utf16(&bytes, u16::from_be_bytes, ended),
        }
    }
    fn utf16(&mut self, bytes: &[u8], unit: fn([u8; 2]) -> u16, ended: bool) -> Vec<u8> {
        let mut units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        let mut used = units.len() * 2;
        if !ended && units.last().is_some_and(|u| (0xD800..0xDC00).contains(u)) {
            units.pop();
            used -= 2;
        }
        if !ended {
            self.left = bytes[used..].to_vec();
        }
        String::from_utf16_lossy(&units).into_bytes()
    }
}

/// The encoding of a file from its first bytes, with the reason and a confidence.
pub fn detect(head: &[u8], whole: bool) -> (Encoding, String, f64) {
    match head {
        [0xFF, 0xFE, ..] => return (Encoding::Utf16Le, "it starts with the byte-order mark FF FE".into(), 1.0),
        [0xFE, 0xFF, ..] => return (Encoding::Utf16Be, "it starts with the byte-order mark FE FF".into(), 1.0),
        [0xEF, 0xBB, 0xBF, ..] => return (Encoding::Utf8, "it starts with the UTF-8 byte-order mark".into(), 1.0),
        _ => {}
    }
    // ASCII text in UTF-16 has a zero in every second byte.
    let sample = &head[..head.len().min(4096)];
    let zeros = |from: usize| sample.iter().skip(from).step_by(2).filter(|&&b| b == 0).count() * 2;
    let (even, odd) = (zeros(0), zeros(1));
    if sample.len() >= 8 && odd * 10 > sample.len() * 7 && even * 10 < sample.len() {
        return (Encoding::Utf16Le, "every second byte is zero".into(), 0.9);
    }
    if sample.len() >= 8 && even * 10 > sample.len() * 7 && odd * 10 < sample.len() {
        return (Encoding::Utf16Be, "every second byte is zero".into(), 0.9);
    }
    match std::str::from_utf8(head) {
        Ok(_) if head.is_ascii() => (Encoding::Utf8, "all sampled bytes are ASCII".into(), 1.0),
        Ok(_) => (Encoding::Utf8, "the sample is valid UTF-8".into(), 0.99),
        // A character cut by the end of the sample is no error.
        Err(e) if e.error_len().is_none() && !whole => (Encoding::Utf8, "the sample is valid UTF-8".into(), 0.99),
        Err(e) => {
            let because = format!("byte {} of the sample is not UTF-8 (Latin-1 or Windows-1252, probably)", e.valid_up_to());
            (Encoding::Bytes, because, 0.8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(encoding: Encoding, bytes: &[u8], block: usize) -> Vec<u8> {
        let mut decoder = Decoder::new(encoding);
        let mut out = vec![];
        for chunk in bytes.chunks(block) {
            out.extend(decoder.decode(chunk.to_vec(), false));
        }
        out.extend(decoder.decode(vec![], true));
        out
    }

    #[test]
    fn text_survives_any_encoding_and_block_size() {
        let text = "a,ü,😀,1\nb,é,𝄞,2\n";
        let little: Vec<u8> = [0xFEFFu16].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = [0xFEFFu16].into_iter().chain(text.encode_utf16()).flat_map(u16::to_be_bytes).collect();
        let marked = [&[0xEF, 0xBB, 0xBF][..], text.as_bytes()].concat();
        for block in 1..9 {
            assert_eq!(decoded(Encoding::Utf16Le, &little, block), text.as_bytes());
            assert_eq!(decoded(Encoding::Utf16Be, &big, block), text.as_bytes());
            assert_eq!(decoded(Encoding::Utf8, &marked, block), text.as_bytes());
            assert_eq!(decoded(Encoding::Latin1, b"caf\xE9", block), "café".as_bytes());
            assert_eq!(decoded(Encoding::Bytes, b"caf\xE9", block), b"caf\xE9");
        }
    }

    #[test]
    fn a_broken_utf16_tail_becomes_the_replacement_character() {
        assert_eq!(decoded(Encoding::Utf16Le, &[b'a', 0, 0x00, 0xD8], 2), "a\u{FFFD}".as_bytes());
        assert_eq!(decoded(Encoding::Utf16Le, &[b'a', 0, b'b'], 3), b"a");
    }

    #[test]
    fn encodings_are_recognised() {
        let text = "user,item\n1,2\n3,4\n";
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(detect(&little, true).0, Encoding::Utf16Le);
        assert_eq!(detect(&big, true).0, Encoding::Utf16Be);
        assert_eq!(detect(text.as_bytes(), true).0, Encoding::Utf8);
        assert_eq!(detect("é".as_bytes(), true).0, Encoding::Utf8);
        assert_eq!(detect(&"é".as_bytes()[..1], false).0, Encoding::Utf8);
        assert_eq!(detect(b"caf\xE9 au lait", true).0, Encoding::Bytes);
    }
}
