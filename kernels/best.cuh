// The best k of a stream of (score, item), exactly: score falling, then item rising.
//
// A score and its item become one 64-bit key, larger = better, so that the order is total and the result does not depend on the
// order of arrival. A block keeps what passes a threshold (the k-th best so far) and cuts back to k by a bitonic sort of SORT
// keys when the memory is nearly full. The threshold never exceeds the final k-th key, so nothing that belongs is turned away.
//
// Defines  SORT, a power of two from k plus what may arrive between two looks, at most 32 keys a thread
// Launch   128 threads
#pragma once
#include "device.cuh"

// 0 is no key: it is below that of every score but a NaN with its sign set, which never passes a threshold.
__device__ inline u64 key_of(float score, u32 item) {
  u32 bits = __float_as_uint(score + 0.0f);  // -0 is equal to 0
  bits ^= bits >> 31 ? ~0u : 0x80000000u;
  return (u64)bits << 32 | (u32)~item;
}

__device__ inline u32 item_of(u64 key) { return ~(u32)key; }

__device__ inline float score_of(u64 key) {
  u32 bits = (u32)(key >> 32);
  return key == 0 ? -INF : __uint_as_float(bits ^ (bits >> 31 ? 0x80000000u : ~0u));
}

// Sorts s_keys (SORT), falling. Begins and ends with a barrier.
__device__ inline void sort_falling(u64* s_keys) {
  __syncthreads();
  for (u32 size = 2; size <= SORT; size *= 2)
    for (u32 step = size / 2; step > 0; step /= 2) {
      for (u32 x = threadIdx.x; x < SORT / 2; x += 128) {
        u32 low = 2 * x - (x & (step - 1)), high = low + step;
        u64 a = s_keys[low], b = s_keys[high];
        if ((a < b) == ((low & size) == 0)) s_keys[low] = b, s_keys[high] = a;
      }
      __syncthreads();
    }
}

// The same, each key once and zeros behind. The same item has the same score, so copies are neighbours.
__device__ inline void sort_distinct(u64* s_keys) {
  sort_falling(s_keys);
  u32 copies = 0, n = 0;
  for (u32 x = threadIdx.x; x < SORT; x += 128, ++n) copies |= (u32)(x > 0 && s_keys[x] != 0 && s_keys[x] == s_keys[x - 1]) << n;
  if (!__syncthreads_or(copies != 0)) return;
  n = 0;
  for (u32 x = threadIdx.x; x < SORT; x += 128, ++n)
    if (copies >> n & 1) s_keys[x] = 0;
  sort_falling(s_keys);
}
