//! TensorBoard's event files, written by hand: a frame per record, a message of protocol buffers in each.
//!
//! ```text
//! frame     length u64 | masked crc of the length u32 | message | masked crc of the message u32      all little-endian
//! masked    rotate_right(crc32c, 15) + 0xa282ead8
//! Event     1 wall_time double, 2 step int64, 3 file_version string, 5 summary Summary
//! Summary   1 value Value, repeated;   Value: 1 tag string, 2 simple_value float
//! ```
//!
//! Source: TensorFlow's `event.proto` and `summary.proto`, and the record format of its `record_writer`. CRC-32C is
//! Castagnoli's polynomial (RFC 3720, appendix B.4).

use serde_json::Value;

use crate::report::leaves;

/// Castagnoli's polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

pub fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize])
}

/// A checksum of data that hold checksums themselves is weak, so the format stores it turned.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn frame(message: &[u8], to: &mut Vec<u8>) {
    let length = (message.len() as u64).to_le_bytes();
    to.extend(length);
    to.extend(masked(&length));
    to.extend(message);
    to.extend(masked(message));
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A field of bytes: texts and messages.
fn field(number: u8, bytes: &[u8], to: &mut Vec<u8>) {
    to.push(number << 3 | 2);
    varint(bytes.len() as u64, to);
    to.extend(bytes);
}

/// The fields every event begins with.
fn begin(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(wall_time.to_le_bytes());
    event.push(2 << 3);
    varint(step, &mut event);
    event
}

/// One event file of all numbers in `records`, tagged `KIND/PATH`. A record's own `time` (seconds since 1970) is its wall
/// time; one without gets `started`, so that the same run gives the same bytes.
pub fn file(records: &[Value], started: f64) -> Vec<u8> {
    let mut to = vec![];
    let mut version = begin(started, 0);
    field(3, b"brain.Event:2", &mut version);
    frame(&version, &mut to);
    for record in records {
        let mut summary = vec![];
        for (path, value) in leaves(record, "/") {
            let Some(number) = value.as_f64().filter(|_| !["v", "step", "epoch", "time"].contains(&path.as_str())) else {
                continue;
            };
            let mut one = vec![];
            field(1, format!("{}/{path}", record["kind"].as_str().unwrap_or("record")).as_bytes(), &mut one);
            one.push(2 << 3 | 5);
            one.extend((number as f32).to_le_bytes());
            field(1, &one, &mut summary);
        }
        if summary.is_empty() {
            continue;
        }
        let step = record["step"].as_u64().or(record["epoch"].as_u64()).unwrap_or(0);
        let mut event = begin(record["time"].as_f64().unwrap_or(started), step);
        field(5, &summary, &mut event);
        frame(&event, &mut to);
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
    }

    #[test]
    fn an_event_is_the_bytes_the_format_asks_for() {
        let bytes = file(&[json!({ "v": 1, "kind": "e", "step": 300, "loss": 0.5, "name": "x", "none": null })], 2.0);
        // The first frame: 26 bytes of message that hold the version.
        assert_eq!(bytes[..8], 26u64.to_le_bytes());
        assert_eq!(bytes[12..38], *b"\x09\0\0\0\0\0\0\0\x40\x10\0\x1a\x0dbrain.Event:2");
        let second = &bytes[42..];
        let message = [
            &b"\x09\0\0\0\0\0\0\0\x40"[..], // wall time 2.0
            b"\x10\xac\x02",                // step 300
            b"\x2a\x0f",                    // summary of 15 bytes
            b"\x0a\x0d",                    // value of 13 bytes
            b"\x0a\x06e/loss",              // tag
            b"\x15\0\0\0\x3f",              // 0.5
        ]
        .concat();
        assert_eq!(second[..8], (message.len() as u64).to_le_bytes());
        assert_eq!(second[12..12 + message.len()], message);
        assert_eq!(second.len(), 12 + message.len() + 4);
        assert_eq!(second[8..12], masked(&second[..8]));
        assert_eq!(second[12 + message.len()..], masked(&message));
    }

    #[test]
    fn a_record_may_bring_its_own_time_and_one_without_numbers_is_no_event() {
        let one = file(&[json!({ "kind": "e", "step": 1, "time": 7.0, "loss": 1.0 })], 2.0);
        assert_eq!(one[42 + 12 + 1..42 + 12 + 9], 7.0f64.to_le_bytes());
        assert_eq!(file(&[json!({ "kind": "end", "step": 1, "reason": "finished" })], 2.0).len(), 42);
    }
}
