// A batch of an epoch, gathered from the training sequences in the machine's memory: nothing of it is copied there.
//
//   batch_order   the sequence at place i of the epoch is a keyed bijection of i; of its history, cut at random or whole, the last
//                 `longest` pairs (event, next event) are its rows
//   batch_rows    item, target, key, place, time cluster and seen items of every row
//
// Shapes       starts, counts, users (S)  seen_starts (S+1)  log, clusters (E)  B sequences from place `begin` of the epoch on
//              out: offsets (B+1)  events (B) u64, the first of each  extents (B,2)  of rows: keys (R) u64  extents_of_rows (R,2)
// Defines      none
// Launch       order: one block of 256 threads; rows: 128 threads, a block per sequence
// Traffic      every event of the batch once, every column once
//   batch_order: reads at most 4 |starts| + 4 |counts| + 4 |users| + 4 |seen_starts|, writes 4 |offsets| + 4 |events| + 4 |extents|
//   batch_rows: reads at most 4 |offsets| + 4 |events| + 4 |extents| + 4 |log| + 4 |clusters|, writes 4 |items| + 4 |targets| + 4 |keys| + 4 |places| + 4 |extents_of_rows| + 4 |clusters_of_rows|
// Numerics     integers
// Determinism  a function of the place in the epoch
// Source       order: src/data/order.rs (Luby & Rackoff 1988; Black & Rogaway 2002); rows: src/data/training.rs
#include "device.cuh"
#include "philox.cuh"
#include "prefix.cuh"

constexpr u32 THREADS = 256;
constexpr u32 ROUNDS = 6;

// The element at place `code` of a bijection of 0 .. n: a Feistel network over 2 `half` bits, walked until it is below n.
__device__ inline u64 shuffled(u64 code, u64 n, u32 half, Draws draws) {
  u64 mask = (1ull << half) - 1;
  do {
    u64 left = code >> half, right = code & mask;
    for (u32 round = 0; round < ROUNDS; ++round) {
      Draws of_round = draws;
      of_round.word3 |= round << 16;
      u64 next = left ^ (words(of_round, right).w[0] & mask);
      left = right;
      right = next;
    }
    code = left << half | right;
  } while (code >= n);
  return code;
}

KERNEL(THREADS, batch_order)(u32* offsets, u64* events, u32* extents, const u64* starts, const u32* counts, const u32* users,
                             const u32* seen_starts, u64 n, u64 begin, u32 B, u32 longest, u32 half, u32 cuts, u32 key0, u32 key1,
                             u32 order2, u32 order3, u32 cut2, u32 cut3) {
  SHARED(u32, s_warps, [THREADS / 32]);
  u32 first = 0;
  for (u32 base = 0; base < B; base += THREADS) {
    u32 b = base + threadIdx.x, rows = 0, total;
    if (b < B) {
      u64 s = shuffled(begin + b, n, half, Draws{key0, key1, order2, order3});
      u32 length = counts[s];
      if (cuts) {
        Words cut = words(Draws{key0, key1, cut2, cut3}, users[s]);
        length = 2 + (u32)below(cut.w[0] | (u64)cut.w[1] << 32, length - 1);
      }
      rows = min(length - 1, longest);
      events[b] = starts[s] + (length - 1 - rows);
      extents[2 * b] = seen_starts[s];
      extents[2 * b + 1] = seen_starts[s + 1];
    }
    u32 before = sum_before<THREADS / 32>(rows, s_warps, total);
    if (b < B) offsets[b] = first + before;
    first += total;
  }
  if (threadIdx.x == 0) offsets[B] = first;
}

KERNEL(128, batch_rows)(u32* items, u32* targets, u64* keys, u32* places, u32* extents_of_rows, u32* clusters_of_rows,
                        const u32* offsets, const u64* events, const u32* extents, const u32* log, const u32* clusters,
                        u32 from_start) {
  u32 b = blockIdx.x, first = offsets[b], end = offsets[b + 1], seen = extents[2 * b], seen_end = extents[2 * b + 1];
  for (u32 r = first + threadIdx.x; r < end; r += 128) {
    u64 event = events[b] + (r - first);
    items[r] = log[event];
    targets[r] = log[event + 1];
    keys[r] = event + 1;
    places[r] = from_start ? r - first : end - 1 - r;
    extents_of_rows[2 * (u64)r] = seen;
    extents_of_rows[2 * (u64)r + 1] = seen_end;
    if (clusters) clusters_of_rows[r] = clusters[event + 1];
  }
}
