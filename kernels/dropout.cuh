// Dropout factors by counter, the twin of `Dropout::factors` in src/ops/dropout.rs: the same bits on every machine.
//
// Elements come in blocks of 64. One Philox call gives the eight factors of the elements 64 block + lane + 8 j, j = 0 .. 7:
// 16 bits each, word j / 2, its low half for even j and its high half for odd j. Eight neighbouring threads with
// lane = 0 .. 7 therefore own a block, and their accesses at one j are 32 bytes in a row: one whole sector.
//
// Defines: DROP 1, or 0 where nothing is dropped; every factor is then the constant 1 and costs nothing.
#pragma once

// Where elements are dropped: four words of the counter, and the share dropped in 1/65,536.
struct Dropout { Draws draws; u32 threshold; float scale; };

// As the launcher passes it (`Dropout::arguments`).
#define DROPOUT_PARAMETERS u32 key0, u32 key1, u32 word2, u32 word3, u32 threshold, float scale
#define DROPOUT_ARGUMENTS Dropout{Draws{key0, key1, word2, word3}, threshold, scale}

// The bits of elements 64 block + lane + 8 j, lane in 0 .. 7.
__device__ __forceinline__ Words dropout_words(const Dropout& dropout, u64 block, u32 lane) {
#if DROP
  return words(dropout.draws, block * 8 + lane);
#else
  return Words{};
#endif
}

// 0 or 1 / (1 - p) of element j.
__device__ __forceinline__ float dropout_factor(const Dropout& dropout, const Words& bits, int j) {
#if DROP
  u32 half = (j & 1) ? bits.w[j >> 1] >> 16 : bits.w[j >> 1] & 0xffffu;
  return half < dropout.threshold ? 0.0f : dropout.scale;
#else
  return 1.0f;
#endif
}
