//! A log as a reader delivers it: columns in input order, ids as dense codes in order of first appearance.
//!
//! This is what every reader in `data/read/` produces and what `prepare` consumes.

use std::collections::BTreeMap;

use super::graph::RawGraph;

/// Interned byte strings: dense code <-> bytes.
#[derive(Default, Clone)]
pub struct Ids {
    bytes: Vec<u8>,
    /// (N+1) ends in `bytes`; starts with 0.
    ends: Vec<u64>,
    /// Open addressing: code + 1, or 0 for empty; a power of two long.
    slots: Vec<u32>,
}

impl Ids {
    pub fn new() -> Ids {
        Ids::default()
    }
    pub fn len(&self) -> usize {
        self.ends.len().saturating_sub(1)
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn get(&self, code: u32) -> &[u8] {
        let i = code as usize;
        &self.bytes[self.ends[i] as usize..self.ends[i + 1] as usize]
    }
    /// The code of `id`, if it was interned.
    pub fn find(&self, id: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        match self.slots[self.slot(id)] {
            0 => None,
            code => Some(code - 1),
        }
    }
    /// The code of `id`, new if it was never seen. The caller checks `len()` against `ids::LIMIT`.
    pub fn intern(&mut self, id: &[u8]) -> u32 {
        if self.slots.len() < 2 * (self.len() + 1) {
            self.grow();
        }
        let slot = self.slot(id);
        if self.slots[slot] != 0 {
            return self.slots[slot] - 1;
        }
        if self.ends.is_empty() {
            self.ends.push(0);
        }
        self.bytes.extend_from_slice(id);
        self.ends.push(self.bytes.len() as u64);
        let code = self.len() as u32 - 1;
        self.slots[slot] = code + 1;
        code
    }
    /// The slot that holds `id`, or the empty slot where it belongs.
    fn slot(&self, id: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(id) as usize & mask;
        while self.slots[slot] != 0 && self.get(self.slots[slot] - 1) != id {
            slot = (slot + 1) & mask;
        }
        slot
    }
    fn grow(&mut self) {
        self.slots = vec![0; (self.slots.len() * 2).max(64)];
        let mask = self.slots.len() - 1;
        for code in 0..self.len() as u32 {
            let mut slot = hash(self.get(code)) as usize & mask;
            while self.slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            self.slots[slot] = code + 1;
        }
    }
}

/// A mixing hash of short keys, eight bytes at a time (the finaliser of MurmurHash3). Collisions cost time only; input
/// made to collide can make reading slow, never wrong.
fn hash(id: &[u8]) -> u64 {
    let mut h = id.len() as u64 ^ 0x9E37_79B9_7F4A_7C15;
    for chunk in id.chunks(8) {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        h = (h ^ u64::from_le_bytes(word)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        h ^= h >> 32;
    }
    h ^= h >> 29;
    h.wrapping_mul(0xC4CE_B9FE_1A85_EC53) >> 20
}

/// A declared context column.
pub struct RawColumn {
    pub name: String,
    pub values: RawValues,
}

pub enum RawValues {
    /// A category per row, as code of `ids`.
    Categorical { codes: Vec<u32>, ids: Ids },
    /// A number per row; NaN where the field was empty.
    Numeric(Vec<f32>),
}

/// Rows that could not be used: how many per class of problem, and the first places.
#[derive(Default, Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Rejected {
    /// class (a short stable name such as `bad_time`) -> count and up to three first places (line numbers).
    pub classes: BTreeMap<String, RejectedClass>,
    /// Where the rows were kept, if any were.
    pub quarantine: Option<String>,
}

#[derive(Default, Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct RejectedClass {
    pub rows: u64,
    pub first: Vec<u64>,
}

impl Rejected {
    pub fn total(&self) -> u64 {
        self.classes.values().map(|c| c.rows).sum()
    }
    pub fn count(&mut self, class: &str, line: u64) {
        let entry = self.classes.entry(class.to_string()).or_default();
        entry.rows += 1;
        if entry.first.len() < 3 {
            entry.first.push(line);
        }
    }
}

/// Records that span several lines, because a quoted field holds line ends.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Spanning {
    pub records: u64,
    /// Of all of them.
    pub lines: u64,
    /// Where the first begins.
    pub first: Option<u64>,
}

impl Spanning {
    pub fn add(&mut self, line: u64, lines: u64) {
        self.first.get_or_insert(line);
        self.records += 1;
        self.lines += lines;
    }
    /// What to say of them in a log of `rows` rows: where nearly every record is one line, the others are hardly meant.
    pub fn warning(&self, rows: u64) -> Option<String> {
        let first = self.first.filter(|_| self.records * 100 < rows)?;
        Some(format!(
            "a record from line {first} on spans several lines ({} do, {} lines in all): after a stray quote all lines up to the \
             next one are a single field",
            self.records, self.lines
        ))
    }
}

/// A whole log in memory, columns in input order.
#[derive(Default)]
pub struct RawLog {
    /// (E) user codes.
    pub users: Vec<u32>,
    /// (E) item codes.
    pub items: Vec<u32>,
    /// (E) microseconds since 1970 UTC; absent when the log has no time column: then input order is the order.
    pub times: Option<Vec<i64>>,
    /// (E) ratings or weights; NaN where a row has none.
    pub weights: Option<Vec<f32>>,
    pub context: Vec<RawColumn>,
    pub user_ids: Ids,
    pub item_ids: Ids,
    pub rejected: Rejected,
    pub spanning: Spanning,
    /// How the file was understood (format, columns, units), as the reader describes it; kept in the prepared file.
    pub layout: serde_json::Value,
}

/// Item attributes as a side file gives them: `codes[offsets[i] .. offsets[i+1]]` are the attributes of `items.get(i)`,
/// as codes of `names`. Items that are not in the log are allowed, and so are items of the log that are missing here.
#[derive(Default)]
pub struct RawAttributes {
    pub items: Ids,
    /// (items+1), starts with 0.
    pub offsets: Vec<u64>,
    pub codes: Vec<u32>,
    pub names: Ids,
}

/// What is known of items besides the log.
#[derive(Default)]
pub struct Sides {
    pub attributes: Option<RawAttributes>,
    pub graph: Option<RawGraph>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interning_is_dense_stable_and_byte_exact() {
        let mut ids = Ids::new();
        let words: Vec<Vec<u8>> = (0..1000).map(|i| format!("id{}", i % 337).into_bytes()).collect();
        let codes: Vec<u32> = words.iter().map(|w| ids.intern(w)).collect();
        assert_eq!(ids.len(), 337);
        assert_eq!(codes[0], 0);
        for (word, &code) in words.iter().zip(&codes) {
            assert_eq!(ids.get(code), &word[..]);
            assert_eq!(ids.find(word), Some(code));
        }
        assert_eq!(ids.find(b"absent"), None);
        assert_eq!(Ids::new().find(b""), None);
        let empty = ids.intern(b"");
        assert_eq!(ids.get(empty), b"");
        assert_ne!(ids.intern(b"7"), ids.intern(b"007"));
    }
}
