// Places grouped by key: a stable radix sort, eight bits a pass, and where each key's places begin and end.
//
//   group_count     counts[digit][block] = how many keys of the block's tile have the digit
//   group_scan      counts[digit][block] = how many keys with the digit stand in earlier tiles, totals[digit] = in all
//   group_scatter   keys and places moved to where their digit says; equal digits keep their order
//   group_extents   extents[key] = (first, end) in the sorted keys; a key that does not occur keeps what was there
//   group_items     the keys of a sampled loss: the item of each record, V for an empty or dropped slot
//
// Shapes       keys, places (n)  counts (256,blocks)  totals (256)  extents (V,2), of keys below V
//              targets, groups (R) or none  ids (G,N)  drop (R,N) bytes; records (R,1+N+W): target, negatives, W times the target
// Defines      none
// Launch       256 threads; count and scatter: a block per tile of 4,096; scan: a block per digit; the others: 1,024 a block
// Traffic      count 4 n, scatter 16 n (12 n in the first pass, whose places are their own indices), extents 4 n; items 8 n
//   group_count: reads 4 n, writes 4 |counts|
//   group_scan: reads 4 |counts|, writes 4 |counts| + 4 |totals|
//   group_scatter: reads 4 n + 4 |places| + 4 |counts| + 4 |totals|, writes 8 n
//   group_extents: reads 4 n, writes at most 8 V
//   group_items: reads at most 4 |targets| + 4 |groups| + 4 |ids| + 4 |drop|, writes 4 n
// Determinism  integers alone, and a stable order: a function of the keys
// Source       Satish, Harris and Garland 2009 (tiles, counts, scan, scatter); ranks within a warp by ballots
#include "device.cuh"
#include "prefix.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, ROUNDS = 16, TILE = THREADS * ROUNDS, DIGITS = 256;

KERNEL(THREADS, group_count)(u32* counts, const u32* __restrict__ keys, u32 n, u32 shift) {
  SHARED(u32, s_count, [DIGITS]);
  s_count[threadIdx.x] = 0;
  __syncthreads();
  u64 first = (u64)blockIdx.x * TILE + threadIdx.x;
#pragma unroll
  for (int k = 0; k < ROUNDS; ++k) {
    u64 at = first + k * THREADS;
    if (at < n) atomicAdd(&s_count[keys[at] >> shift & (DIGITS - 1)], 1u);
  }
  __syncthreads();
  counts[(u64)threadIdx.x * gridDim.x + blockIdx.x] = s_count[threadIdx.x];
}

KERNEL(THREADS, group_scan)(u32* counts, u32* totals, u32 blocks) {
  SHARED(u32, s_warps, [WARPS]);
  u32* row = counts + (u64)blockIdx.x * blocks;
  u32 carry = 0;
  for (u32 first = 0; first < blocks; first += THREADS) {
    u32 at = first + threadIdx.x, total;
    u32 count = at < blocks ? row[at] : 0;
    u32 before = sum_before<WARPS>(count, s_warps, total);
    if (at < blocks) row[at] = carry + before;
    carry += total;
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}

// `places` is null in the first pass.
KERNEL(THREADS, group_scatter)(u32* keys_to, u32* places_to, const u32* __restrict__ keys, const u32* __restrict__ places,
                               const u32* __restrict__ counts, const u32* __restrict__ totals, u32 n, u32 shift) {
  // First how often a warp has met a digit, then where its next key with the digit goes.
  SHARED(u32, s_next, [WARPS][DIGITS]);
  SHARED(u32, s_warps, [WARPS]);
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, digit_of_thread = threadIdx.x;
#pragma unroll
  for (int w = 0; w < WARPS; ++w) s_next[w][digit_of_thread] = 0;
  __syncthreads();

  u64 first = (u64)blockIdx.x * TILE + warp * (TILE / WARPS) + lane;
  u32 r_key[ROUNDS], r_rank[ROUNDS];
#pragma unroll
  for (int k = 0; k < ROUNDS; ++k) r_key[k] = first + k * 32 < n ? keys[first + k * 32] : 0;
#pragma unroll
  for (int k = 0; k < ROUNDS; ++k) {
    bool counts_here = first + k * 32 < n;
    u32 digit = r_key[k] >> shift & (DIGITS - 1);
    u32 peers = __ballot_sync(~0u, counts_here);
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
      u32 set = __ballot_sync(~0u, (int)(digit >> bit & 1));
      peers &= digit >> bit & 1 ? set : ~set;
    }
    u32 before = (u32)__popc(peers & ((1u << lane) - 1));
    u32 met = s_next[warp][digit];
    __syncwarp();
    if (counts_here && before == 0) s_next[warp][digit] = met + (u32)__popc(peers);
    __syncwarp();
    r_rank[k] = met + before;
  }
  u32 all;
  u32 next = sum_before<WARPS>(totals[digit_of_thread], s_warps, all) + counts[(u64)digit_of_thread * gridDim.x + blockIdx.x];
#pragma unroll
  for (int w = 0; w < WARPS; ++w) {
    u32 met = s_next[w][digit_of_thread];
    s_next[w][digit_of_thread] = next;
    next += met;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < ROUNDS; ++k) {
    u64 at = first + k * 32;
    if (at >= n) continue;
    u32 to = s_next[warp][r_key[k] >> shift & (DIGITS - 1)] + r_rank[k];
    keys_to[to] = r_key[k];
    places_to[to] = places ? places[at] : (u32)at;
  }
}

KERNEL(THREADS, group_extents)(u32* extents, const u32* __restrict__ keys, u32 n, u32 V) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    u64 at = (u64)blockIdx.x * (4 * THREADS) + k * THREADS + threadIdx.x;
    if (at >= n) continue;
    u32 key = keys[at];
    if (key >= V) continue;
    if (at == 0 || keys[at - 1] != key) extents[2 * (u64)key] = (u32)at;
    if (at + 1 == n || keys[at + 1] != key) extents[2 * (u64)key + 1] = (u32)at + 1;
  }
}

KERNEL(THREADS, group_items)(u32* keys, const u32* __restrict__ targets, const u32* __restrict__ groups,
                             const u32* __restrict__ ids, const u8* __restrict__ drop, u32 n, u32 N, u32 W, u32 V) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    u64 at = (u64)blockIdx.x * (4 * THREADS) + k * THREADS + threadIdx.x;
    if (at >= n) continue;
    u32 row = (u32)at / (1 + N + W), slot = (u32)at % (1 + N + W);
    u32 key = targets[row];
    if (slot > 0 && slot <= N) {
      key = ids[(u64)(groups ? groups[row] : row) * N + slot - 1];
      if (drop && drop[(u64)row * N + slot - 1]) key = V;
    }
    keys[at] = min(key, V);
  }
}
