// The k best-scored items of the whole catalogue for every row, by the dot product on Hopper's tensor cores.
//
//   best[r, split] = the k largest keys of (p[r] . a[i], i) over the items i of the split that row r may choose; 0 where there are fewer
//
// `round` writes table and queries once as bf16, in tiles of 128 rows as they lie in shared memory, so that one copy brings a tile.
// `threshold` has one warp that copies and two warpgroups that multiply: each owns 64 rows, which stay in shared memory, and meets
// tile after tile in a ring of PLACES. A warp has the scores of its own 16 rows in registers, and nearly all of them fail one
// comparison with their row's threshold; the others become keys in the row's memory (`kept`, as in score_topk.cu), whether the row
// may choose them or not. A row with fewer than a tile's free places is cut back: its warp throws out what is hidden and, by counting
// digits of the keys from the top, all but the best k. Items come in rising order, so an equal score after the k-th is worse and the
// comparison can be strict. `topk_merge` of score_topk.cu joins the splits.
// Scores that are not numbers and minus infinity are never chosen.
//
// Shapes   from (n,D)  to (ceil(n/128),128,DP) bf16  p (ceil(R/128),128,DP)  a (ceil(V/128),128,DP)  barred (V) bits  extents (R,2)
//          targets (R)  kept (splits,blocks,128,SORT)  best (R,splits,k)
// Defines  D; DP, D padded to 64 or 128; SORT >= k + 128
// Launch   round: 256 threads for 256 pieces of 16 bytes of `to`. threshold: 288 threads, (ceil(R/128), splits) blocks, of which none is
//          without a tile; dynamic shared memory of 1 + PLACES tiles
// Traffic  the table in bf16 once per block of rows from L2; about k ln(V/k) keys of 8 bytes per row
//   topk_round: reads 4 n D, writes 4 |to|
//   topk_threshold_wgmma: reads at most 4 |p| + 4 |a| + 4 |barred| + 4 |extents| + 4 |seen| + 4 |targets| + 4 |kept|, writes at most 4 |best| + 4 |kept|
// Numerics operands rounded to bf16, sums in f32
// Determinism  the order of arrival in `kept` is not fixed, the keys' order is
// Source   as score_topk.cu; a producer warp beside consumer warpgroups: CUTLASS ("warp-specialized persistent" kernels, NVIDIA, 2022)
#define SHARED_ALIGNMENT 1024
#include "best.cuh"

constexpr u32 TILE = 128, PLACES = 4, BYTES = TILE * DP * 2;

KERNEL(256, topk_round)(uint4* to, const float* from, u32 n) {
  u32 i = blockIdx.x * 256 + threadIdx.x;
  if (i >= (n + TILE - 1) / TILE * (BYTES / 16)) return;
  // The first 64 columns of all rows of a tile, then the others; pieces of a row as wgmma_tile says.
  u32 row = i / 8 % TILE, column = i / (8 * TILE) % (DP / 64) * 64 + (i % 8 ^ row % 8) * 8, at = i / (BYTES / 16) * TILE + row;
  auto value = [&](u32 c) { return at < n && column + c < D ? from[(u64)at * D + column + c] : 0.0f; };
  auto pair = [&](u32 c) { return pack_bf16(value(c), value(c + 1)); };
  to[i] = make_uint4(pair(0), pair(2), pair(4), pair(6));
}

// What a row may not choose.
struct Hidden {
  const u32 *barred, *extents, *seen, *targets;  // one bit per item, for all rows; two per row; ascending for each row; each may be null

  __device__ bool hides(u32 row, u32 item) const {
    if (barred && barred[item / 32] >> item % 32 & 1) return true;
    if (targets && targets[row] == item) return true;
    if (!extents) return false;
    u32 at = extents[2 * row], end = extents[2 * row + 1];
    for (u32 above = end; at < above;) {  // the first one not before `item`
      u32 middle = at + (above - at) / 2;
      if (seen[middle] < item) at = middle + 1;
      else above = middle;
    }
    return at < end && seen[at] == item;
  }
};

// Moves the keys that `keep` wants to the front, by one warp; how many there are.
template <class Keep>
__device__ inline u32 compact(u64* keys, u32 count, Keep keep) {
  u32 lane = threadIdx.x % 32, n = 0;
  for (u32 x = lane; x - lane < count; x += 32) {
    u64 key = x < count ? keys[x] : 0;
    bool wanted = key != 0 && keep(key);
    u32 votes = __ballot_sync(~0u, wanted);
    __syncwarp();
    if (wanted) keys[n + (u32)__popc(votes & ((1u << lane) - 1))] = key;
    n += (u32)__popc(votes);
  }
  __syncwarp();
  return n;
}

// A bound that the k largest of more than k keys reach and no other does, by one warp.
__device__ inline u64 bound_of(const u64* keys, u32 count, u32 k, u32* s_bins) {
  u32 lane = threadIdx.x % 32, wanted = k;  // of the keys that begin as the bound does
  u64 bound = 0;
  for (u32 shift = 64; shift > 0;) {
    for (u32 bin = lane; bin < 256; bin += 32) s_bins[bin] = 0;
    __syncwarp();
    for (u32 x = lane; x < count; x += 32) {
      u64 key = keys[x];
      if (shift == 64 || (key ^ bound) >> shift == 0) atomicAdd(&s_bins[key >> (shift - 8) & 255], 1u);
    }
    __syncwarp();
    shift -= 8;
    // Lane l has the digits 255 - 8 l and 7 below.
    u32 top = 255 - 8 * lane, sum = 0, through;
#pragma unroll
    for (u32 j = 0; j < 8; ++j) sum += s_bins[top - j];
    through = sum;
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
      u32 other = __shfl_up_sync(~0u, through, step);
      if (lane >= step) through += other;
    }
    int whose = __ffs((int)__ballot_sync(~0u, through >= wanted)) - 1;
    u32 left = wanted - (through - sum), digit = top, size = s_bins[top];
    // In other lanes this ends somewhere below, and says nothing.
    while (left > size && digit > top - 7) left -= size, size = s_bins[--digit];
    bound |= (u64)__shfl_sync(~0u, digit, whose) << shift;
    wanted = __shfl_sync(~0u, left, whose);
    if (__shfl_sync(~0u, size, whose) == wanted) break;
    __syncwarp();
  }
  return bound;
}

KERNEL(288, topk_threshold_wgmma)(u64* best, u64* kept, const u32* p, const u32* a, const u32* barred, const u32* extents,
                                  const u32* seen, const u32* targets, u32 R, u32 V, u32 k) {
  SHARED_DYN(u8, s_tiles);  // of the queries, then the ring
  SHARED(u64, s_full, [1 + PLACES]);
  SHARED(u64, s_empty, [PLACES]);
  SHARED(u32, s_count, [TILE]);
  SHARED(float, s_floor, [TILE]);
  SHARED(u32, s_bins, [8][256]);
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * TILE, splits = gridDim.y;
  u32 tiles = (V + TILE - 1) / TILE, begin = (u32)((u64)tiles * blockIdx.y / splits), end = (u32)((u64)tiles * (blockIdx.y + 1) / splits);
  if (threadIdx.x == 0) {
    for (u32 i = 0; i <= PLACES; ++i) mbarrier_init(&s_full[i], 1);
    for (u32 i = 0; i < PLACES; ++i) mbarrier_init(&s_empty[i], 8);
    mbarrier_init_fence();
  }
  if (threadIdx.x < TILE) s_count[threadIdx.x] = 0, s_floor[threadIdx.x] = first + threadIdx.x < R ? -INF : INF;
  __syncthreads();

  if (warp == 8) {
    if (lane != 0) return;
    mbarrier_arrive_expect_tx(&s_full[PLACES], BYTES);
    copy_bulk(s_tiles, p + (u64)blockIdx.x * (BYTES / 4), BYTES, &s_full[PLACES]);
    for (u32 tile = begin; tile < end; ++tile) {
      u32 place = (tile - begin) % PLACES, parity = (tile - begin) / PLACES % 2;
      mbarrier_wait(&s_empty[place], parity ^ 1);
      mbarrier_arrive_expect_tx(&s_full[place], BYTES);
      copy_bulk(s_tiles + (1 + place) * BYTES, a + (u64)tile * (BYTES / 4), BYTES, &s_full[place]);
    }
    return;
  }

  // Sums d[4 j + 2 h] and d[4 j + 2 h + 1] of this thread are of row own + 8 h, items 8 j + 2 (lane % 4) and the next.
  u32 own = warp * 16 + lane / 4;
  u64* mine = kept + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * TILE * SORT;
  Hidden hidden{barred, extents, seen, targets};
  float r_floor[2] = {s_floor[own], s_floor[own + 8]};
  mbarrier_wait(&s_full[PLACES], 0);
  for (u32 tile = begin; tile < end; ++tile) {
    u32 place = (tile - begin) % PLACES, parity = (tile - begin) / PLACES % 2;
    float s[64];
    mbarrier_wait(&s_full[place], parity);
    wgmma_fence(s);
#pragma unroll
    for (u32 c = 0; c < DP / 16; ++c) {
      u32 half = c / 4 * TILE * 128, step = c % 4 * 32;
      wgmma_bf16_64x128x16(s, wgmma_tile(s_tiles + half + warp / 4 * 64 * 128 + step), wgmma_tile(s_tiles + (1 + place) * BYTES + half + step), c > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(s);
    if (lane == 0) mbarrier_arrive(&s_empty[place]);

    float most[2] = {-INF, -INF};
#pragma unroll
    for (u32 j = 0; j < 64; ++j) most[j / 2 % 2] = fmaxf(most[j / 2 % 2], s[j]);
    bool passes = most[0] > r_floor[0] || most[1] > r_floor[1], last = tile + 1 == end;
    if (passes) {
#pragma unroll
      for (u32 j = 0; j < 64; ++j) {
        if (!(s[j] > r_floor[j / 2 % 2])) continue;
        u32 row = own + j / 2 % 2 * 8, at = atomicAdd(&s_count[row], 1u);
        mine[(u64)row * SORT + at] = key_of(s[j], tile * TILE + j / 4 * 8 + lane % 4 * 2 + j % 2);
      }
    }
    if (!__any_sync(~0u, passes) && !last) continue;
    __syncwarp();
    u32 full = __ballot_sync(~0u, lane < 16 && (last || s_count[warp * 16 + lane % 16] > SORT - TILE));
    for (; full; full &= full - 1) {
      u32 row = warp * 16 + (u32)__ffs((int)full) - 1, least = ~0u;
      if (first + row >= R) break;
      u64* keys = mine + (u64)row * SORT;
      u32 n = compact(keys, s_count[row], [&](u64 key) { return item_of(key) < V && !hidden.hides(first + row, item_of(key)); });
      if (n >= k) {
        u64 bound = n > k ? bound_of(keys, n, k, s_bins[warp]) : 0;
        n = compact(keys, n, [&](u64 key) {
          if (key >= bound) least = min(least, (u32)(key >> 32));
          return key >= bound;
        });
        least = __reduce_min_sync(~0u, least);
      }
      if (lane == 0) s_count[row] = n, s_floor[row] = n >= k ? score_of((u64)least << 32) : -INF;
      if (!last) continue;
      u64* to = best + ((u64)(first + row) * splits + blockIdx.y) * k;
      for (u32 x = lane; x < k; x += 32) to[x] = x < n ? keys[x] : 0;
    }
    __syncwarp();
    r_floor[0] = s_floor[own], r_floor[1] = s_floor[own + 8];
  }
}
