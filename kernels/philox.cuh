// Philox4x32-10, the twin of src/rng.rs: the same words for the same (seed, stream, lane, step, index) on every machine.
//
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Counter layout: words 0-1 `index`,
// word 2 low half of `step`, word 3 `stream << 24 | lane << 16 | high 16 bits of step`; key = seed.
// Header-free on purpose: NVRTC needs no include path, and a C++ compiler reads the same file
// (it defines __device__ as nothing and __umulhi as the high half of a product).
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

struct Words { u32 w[4]; };

__device__ inline Words philox4x32(Words c, u32 key0, u32 key1) {
  for (int round = 0; round < 10; ++round) {
    u32 hi0 = __umulhi(0xD2511F53u, c.w[0]), lo0 = 0xD2511F53u * c.w[0];
    u32 hi1 = __umulhi(0xCD9E8D57u, c.w[2]), lo1 = 0xCD9E8D57u * c.w[2];
    c = Words{{hi1 ^ c.w[1] ^ key0, lo1, hi0 ^ c.w[3] ^ key1, lo0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// Everything but the index of a draw.
struct Draws { u32 key0, key1, word2, word3; };

__device__ inline Draws draws(u64 seed, u32 stream, u32 lane, u64 step) {
  return Draws{(u32)seed, (u32)(seed >> 32), (u32)step, stream << 24 | lane << 16 | (u32)(step >> 32)};
}

__device__ inline Words words(Draws d, u64 index) {
  return philox4x32(Words{{(u32)index, (u32)(index >> 32), d.word2, d.word3}}, d.key0, d.key1);
}

// A uniform integer below n from a uniform 64-bit word, by multiply-high (rng::below).
__device__ inline u64 below(u64 word, u64 n) {
  u64 lo = (word & 0xffffffffull) * (n & 0xffffffffull);
  u64 mid1 = (word >> 32) * (n & 0xffffffffull), mid2 = (word & 0xffffffffull) * (n >> 32);
  u64 carry = ((lo >> 32) + (mid1 & 0xffffffffull) + (mid2 & 0xffffffffull)) >> 32;
  return (word >> 32) * (n >> 32) + (mid1 >> 32) + (mid2 >> 32) + carry;
}

// A uniform f64 in the open interval (0, 1): the middle of one of 2^52 equal cells (rng::open01).
__device__ inline double open01(u64 word) { return ((double)(word >> 12) + 0.5) * (1.0 / 4503599627370496.0); }
