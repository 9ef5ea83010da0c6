// The distinct ids of lists, ascending: which rows of a table a step touches.
//
//   touched_mark    sets the bit of every id of a list; the others (empty slots) have none
//   touched_count   counts[block] = how many bits are set in the block's 256 words
//   touched_list    the ids of the set bits, from counts[block] on, which group_scan (group.cu) has made the bits before the block
//
// Shapes       bits (ceil(V/32)), ids (n)  counts (ceil(words/256))  list (at most V)
// Defines      none
// Launch       256 threads; mark: 1,024 ids a block; count and list: a thread per word
// Traffic      each list once, three times the bits, each id once
//   touched_mark: reads at most 4 n + 4 |bits|, writes at most 4 |bits|
//   touched_count: reads 4 words, writes 4 |counts|
//   touched_list: reads 4 words + 4 |counts|, writes at most 4 |list|
// Determinism  a set of bits, whatever the order in which they are set
#include "device.cuh"
#include "prefix.cuh"

constexpr int THREADS = 256;

KERNEL(THREADS, touched_mark)(u32* bits, const u32* __restrict__ ids, u32 n, u32 V) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    u64 at = (u64)blockIdx.x * (4 * THREADS) + k * THREADS + threadIdx.x;
    u32 id = at < n ? ids[at] : V;
    if (id < V) atomicOr(&bits[id / 32], 1u << id % 32);
  }
}

KERNEL(THREADS, touched_count)(u32* counts, const u32* __restrict__ bits, u32 words) {
  SHARED(u32, s_warps, [THREADS / 32]);
  u32 at = blockIdx.x * THREADS + threadIdx.x, total;
  sum_before<THREADS / 32>(at < words ? (u32)__popc(bits[at]) : 0, s_warps, total);
  if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

KERNEL(THREADS, touched_list)(u32* list, const u32* __restrict__ bits, const u32* __restrict__ counts, u32 words) {
  SHARED(u32, s_warps, [THREADS / 32]);
  u32 at = blockIdx.x * THREADS + threadIdx.x, word = at < words ? bits[at] : 0, total;
  u32 to = counts[blockIdx.x] + sum_before<THREADS / 32>((u32)__popc(word), s_warps, total);
  for (; word != 0; word &= word - 1) list[to++] = 32 * at + (u32)__ffs((int)word) - 1;
}
