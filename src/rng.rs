//! All randomness: `philox(seed, stream, step, index)`, a function and not a state.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Because a draw depends only on
//! its four arguments, results do not depend on thread count, batch split or where a run was interrupted, and
//! `kernels/philox.cuh`, the twin of this file, draws the same bits on any machine.
//!
//! Counter layout, injective: word 0-1 `index`, word 2 low half of `step`, word 3 `stream << 16 | high half of step`.

/// One purpose of randomness each, so that no two purposes ever share a counter. The numbers are part of the format of
/// every run ([`STREAM_VERSION`]): append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Initial weights; step = parameter number, index = element.
    Init = 1,
    /// Order of the sequences; step = epoch.
    Order = 2,
    /// Dropout; step = training step, lane = site, index = element.
    Dropout = 3,
    /// Proposed negatives; step = epoch, index = (row key, slot).
    Propose = 4,
    /// Draws of the select stage.
    Select = 5,
    /// Draws of the mix stage (wrong contexts).
    Mix = 6,
    /// The synthetic log.
    Synthetic = 7,
    /// Random users of a split.
    Split = 8,
    /// Candidates of the sampled evaluation protocols.
    Candidates = 9,
    /// Augmentation of training sequences (random prefixes).
    Augment = 10,
    /// Test inputs.
    Test = 11,
    /// Random tie breaking in evaluation.
    Ties = 12,
    /// Items a diagnosis compares negatives with; step = training step, index = (row key, number).
    Diagnosis = 13,
}

/// Version of the meaning of streams and counters; stored in manifests and checkpoints.
pub const STREAM_VERSION: u32 = 1;

const MUL0: u32 = 0xD251_1F53;
const MUL1: u32 = 0xCD9E_8D57;
const WEYL0: u32 = 0x9E37_79B9;
const WEYL1: u32 = 0xBB67_AE85;

/// The bare generator: ten rounds over `counter` under `key`.
#[inline]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(MUL0) * u64::from(counter[0]);
        let p1 = u64::from(MUL1) * u64::from(counter[2]);
        counter = [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(WEYL0), key[1].wrapping_add(WEYL1)];
    }
    counter
}

/// Eight counters at once, `counters[lane][word]`: the same bits as [`philox4x32`], laid out so that a compiler can put a
/// lane of each into one vector register.
#[inline(always)]
fn philox4x32_by8(mut c: [[u32; 8]; 4], mut key: [u32; 2]) -> [[u32; 8]; 4] {
    for _ in 0..10 {
        let mut next = [[0u32; 8]; 4];
        for i in 0..8 {
            let p0 = u64::from(MUL0) * u64::from(c[0][i]);
            let p1 = u64::from(MUL1) * u64::from(c[2][i]);
            next[0][i] = (p1 >> 32) as u32 ^ c[1][i] ^ key[0];
            next[1][i] = p1 as u32;
            next[2][i] = (p0 >> 32) as u32 ^ c[3][i] ^ key[1];
            next[3][i] = p0 as u32;
        }
        c = next;
        key = [key[0].wrapping_add(WEYL0), key[1].wrapping_add(WEYL1)];
    }
    c
}

/// A stream of one seed at one step: everything but the index.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    key: [u32; 2],
    word2: u32,
    word3: u32,
}

impl Draws {
    /// `step` below 2^48; `lane` separates parallel uses of a stream (dropout sites, pipeline stages).
    #[inline]
    pub fn new(seed: u64, stream: Stream, lane: u8, step: u64) -> Draws {
        debug_assert!(step < 1 << 48);
        Draws {
            key: [seed as u32, (seed >> 32) as u32],
            word2: step as u32,
            word3: (stream as u32) << 24 | u32::from(lane) << 16 | (step >> 32) as u32,
        }
    }
    /// What a kernel needs to draw the same words: key (low, high), counter words 2 and 3.
    pub fn parts(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.word2, self.word3]
    }
    /// Four independent uniform words for `index`.
    #[inline]
    pub fn words(&self, index: u64) -> [u32; 4] {
        philox4x32([index as u32, (index >> 32) as u32, self.word2, self.word3], self.key)
    }
    /// The words of `index .. index + 8`, word-major: `[word][index]`.
    #[inline(always)]
    pub fn words_by8(&self, index: u64) -> [[u32; 8]; 4] {
        let mut counters = [[0; 8], [0; 8], [self.word2; 8], [self.word3; 8]];
        let [low, high, ..] = &mut counters;
        for (i, (low, high)) in low.iter_mut().zip(high).enumerate() {
            let index = index + i as u64;
            (*low, *high) = (index as u32, (index >> 32) as u32);
        }
        philox4x32_by8(counters, self.key)
    }
    /// The fields of the twin's `Draws`, in their order: what a kernel is given.
    pub fn fields(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.word2, self.word3]
    }
    /// Two independent uniform 64-bit words for `index`.
    #[inline]
    pub fn words64(&self, index: u64) -> [u64; 2] {
        let w = self.words(index);
        [u64::from(w[0]) | u64::from(w[1]) << 32, u64::from(w[2]) | u64::from(w[3]) << 32]
    }
}

/// Bits of an index that number the slots under one key.
pub const SLOT_BITS: u32 = 20;

/// The index of slot `slot` (below 2^20) of the row, sequence or batch with `key` (below 2^44).
#[inline]
pub fn slot_index(key: u64, slot: usize) -> u64 {
    key << SLOT_BITS | slot as u64
}

/// A uniform integer in `0..n` from a uniform 64-bit word by multiply-high: an item's probability is off by at most
/// `n / 2^64` relative, so every item of any catalogue is reachable. (f32 scaling would miss most of a 50M catalogue.)
#[inline]
pub fn below(word: u64, n: u64) -> u64 {
    ((u128::from(word) * u128::from(n)) >> 64) as u64
}

/// [`below`], and what the multiplication leaves: again a uniform word, so that one word serves two or three choices in a
/// row. Choices among `n` and then `m` give every pair the same probability to one part in `2^64 / (n m)`.
#[inline]
pub fn below_and_rest(word: u64, n: u64) -> (u64, u64) {
    let product = u128::from(word) * u128::from(n);
    ((product >> 64) as u64, product as u64)
}

/// A uniform f64 in the open interval (0, 1): the middle of one of 2^52 equal cells, so that its logarithm is finite.
#[inline]
pub fn open01(word: u64) -> f64 {
    ((word >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

/// Two independent standard normal numbers from two uniform words (Box and Muller 1958).
#[inline]
pub fn normal2(words: [u64; 2]) -> [f64; 2] {
    let radius = (-2.0 * open01(words[0]).ln()).sqrt();
    let angle = std::f64::consts::TAU * open01(words[1]);
    [radius * angle.cos(), radius * angle.sin()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn eight_at_once_are_the_same_draws() {
        let draws = Draws::new(0x1234_5678_9abc, Stream::Test, 3, 77);
        for first in [0, 5, u64::from(u32::MAX) - 3] {
            let eight = draws.words_by8(first);
            for i in 0..8u64 {
                assert_eq!(draws.words(first + i), eight.map(|word| word[i as usize]));
            }
        }
    }

    #[test]
    fn different_purposes_never_share_a_counter() {
        let mut seen = std::collections::HashSet::new();
        for stream in [Stream::Init, Stream::Order, Stream::Dropout, Stream::Propose] {
            for lane in [0, 1, 255] {
                for step in [0, 1, 1 << 32, (1 << 48) - 1] {
                    for index in [0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX] {
                        let d = Draws::new(7, stream, lane, step);
                        assert!(seen.insert([index as u32, (index >> 32) as u32, d.word2, d.word3]));
                    }
                }
            }
        }
    }

    #[test]
    fn below_is_exact_at_the_ends_and_reaches_everything() {
        assert_eq!(below(0, 10), 0);
        assert_eq!(below(u64::MAX, 10), 9);
        assert_eq!(below(u64::MAX, u64::from(u32::MAX)), u64::from(u32::MAX) - 1);
        let n = 50_000_000u64;
        for item in [0, 1, 16_777_217, 33_333_333, n - 1] {
            let word = ((u128::from(item) << 64) / u128::from(n) + 1) as u64;
            assert_eq!(below(word, n), item);
        }
    }

    #[test]
    fn open01_never_touches_its_ends() {
        assert!(open01(0) > 0.0 && open01(u64::MAX) < 1.0);
    }
}
