// The k best-scored items of every row: of the whole catalogue without its scores being written, or of a list with scores.
//
//   out[r] = the first k by (s falling, item rising) of what the row may choose, each item once; NONE where there are fewer
//
// `scan` takes OWN rows over a share of the catalogue. Nearly every score fails one comparison with its row's threshold; the
// others become keys in the row's memory (SORT keys in global memory, which stays in L2). A row with fewer than STREAM free
// places is cut back to k before the next tile, so memory never overflows and nothing is scanned twice. Items come in rising
// order, so an equal score after the k-th is worse and the comparison can be strict. `merge` joins the shares.
// Scores that are not numbers and minus infinity are never chosen.
//
// Shapes   p, g (R,D)  a (V,D)  barred (V) bits  extents (R,2)  targets (R)  kept (blocks,OWN,SORT)  best (R,splits,k)
//          lists: s, candidates (R,M)  out: ids (R,k), scores (R,k) or null
// Defines  scan: those of scan.cuh, SORT >= 2 k + STREAM; dynamic shared memory SORT keys more. merge, lists: SORT >= k + 128
// Launch   128 threads. scan: (ceil(R/OWN), splits) blocks; merge and lists: a block per row
// Traffic  the table once per block of rows from L2; about k ln(V/k) keys of 8 bytes per row
//   topk_scan: reads at most 4 |p| + 4 |g| + 4 |a| + 4 |barred| + 4 |extents| + 4 |seen| + 4 |targets| + 4 |kept|, writes at most 4 |best| + 4 |kept|
//   topk_merge: reads 4 |best|, writes 4 |ids| + 4 |scores|
//   topk_lists: reads at most 4 |s| + 4 |candidates|, writes at most 4 |ids|
// Numerics scores as in score.cu
// Determinism  the order of arrival in `kept` is not fixed, the keys' order is
// Source   dynamic negative sampling (Zhang et al., SIGIR 2013); threshold filter: FAISS WarpSelect (Johnson et al., 2017)
#ifdef OWN
#define ROOMY , 3  // the shared memory of wide vectors admits few more blocks
#endif
#include "best.cuh"

#ifdef OWN

#include "scan.cuh"

KERNEL(128, topk_scan)(u64* best, u64* kept, const float* p, const float* g, const float* a, const u32* barred,
                       const u32* extents, const u32* seen, const u32* targets, u32 R, u32 V, u32 k, float heat) {
  SHARED_DYN(float, s_all);
  u64* s_keys = reinterpret_cast<u64*>(s_all + (OWN * (1 + PAIRED) + STREAM) * STRIDE);
  SHARED(u32, s_count, [OWN]);
  SHARED(float, s_floor, [OWN]);
  u32 first = blockIdx.x * OWN, splits = gridDim.y, tiles = (V + STREAM - 1) / STREAM;
  u32 begin = (u32)((u64)tiles * blockIdx.y / splits) * STREAM, end = (u32)((u64)tiles * (blockIdx.y + 1) / splits) * STREAM;
  u64* mine = kept + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * OWN * SORT;
  if (threadIdx.x < OWN) s_count[threadIdx.x] = 0, s_floor[threadIdx.x] = -INF;
  Queries queries(s_all, p, g, first, R, heat);
  Hidden hidden(barred, extents, seen, targets, first, R, begin);
  float r_floor[OWNED];
#pragma unroll
  for (int i = 0; i < OWNED; ++i) r_floor[i] = -INF;

  // Cuts the memory of a row back to its best k, which are then in s_keys.
  auto cut = [&](u32 row) {
    u32 count = s_count[row];
    for (u32 x = threadIdx.x; x < SORT; x += 128) s_keys[x] = x < count ? mine[(u64)row * SORT + x] : 0;
    sort_falling(s_keys);
    for (u32 x = threadIdx.x; x < min(k, count); x += 128) mine[(u64)row * SORT + x] = s_keys[x];
    if (threadIdx.x == 0 && count >= k) s_count[row] = k, s_floor[row] = score_of(s_keys[k - 1]);
    __syncthreads();
  };

  for (u32 item = begin; item < end && item < V; item += STREAM) {
    hidden.tile(item, V);
    float s[OWNED][STREAMED];
    queries.score(s, a, item, V);
    bool full = false;
#pragma unroll
    for (int i = 0; i < OWNED; ++i)
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) {
        if (!(s[i][j] > r_floor[i]) || hidden.hides(i, j) || queries.row(i) >= R) continue;
        u32 row = threadIdx.x / 16 + 8 * i, at = atomicAdd(&s_count[row], 1u);
        mine[(u64)row * SORT + at] = key_of(s[i][j], item + threadIdx.x % 16 + 16 * j);
        full |= at + 1 > SORT - STREAM;
      }
    if (!__syncthreads_or(full)) continue;
    for (u32 row = 0; row < OWN; ++row)
      if (s_count[row] > SORT - STREAM) cut(row);
#pragma unroll
    for (int i = 0; i < OWNED; ++i) r_floor[i] = s_floor[threadIdx.x / 16 + 8 * i];
  }
  for (u32 row = 0; row < OWN && first + row < R; ++row) {
    cut(row);
    u64* to = best + ((u64)(first + row) * splits + blockIdx.y) * k;
    for (u32 x = threadIdx.x; x < k; x += 128) to[x] = s_keys[x];
  }
}

#else

// Keeps the best k distinct of the `n` keys that `next` gives, in s_keys.
template <class Next> __device__ inline void select(u64* s_keys, u32 n, u32 k, Next next) {
  SHARED(u32, s_count, [1]);
  u64 floor = 0;
  for (u32 x = threadIdx.x; x < SORT; x += 128) s_keys[x] = 0;
  if (threadIdx.x == 0) s_count[0] = 0;
  __syncthreads();
  for (u32 base = 0; base < n; base += 128) {
    u64 key = base + threadIdx.x < n ? next(base + threadIdx.x) : 0;
    bool full = false;
    if (key > floor) {
      u32 at = atomicAdd(&s_count[0], 1u);
      s_keys[at] = key;
      full = at + 1 > SORT - 128;
    }
    if (!__syncthreads_or(full)) continue;
    sort_distinct(s_keys);
    floor = s_keys[k - 1];
    // Keys behind the best k stay until others are written over them; they are below the floor, or copies once more.
    if (threadIdx.x == 0) s_count[0] = k;
    __syncthreads();
  }
  sort_distinct(s_keys);
}

__device__ inline void write(u32* ids, float* scores, const u64* s_keys, u32 k) {
  for (u32 x = threadIdx.x; x < k; x += 128) {
    u64 key = s_keys[x], at = (u64)blockIdx.x * k + x;
    ids[at] = key == 0 ? ~0u : item_of(key);
    if (scores) scores[at] = score_of(key);
  }
}

KERNEL(128, topk_merge)(u32* ids, float* scores, const u64* best, u32 n, u32 k) {
  SHARED_DYN(u64, s_keys);
  select(s_keys, n, k, [&](u32 x) { return best[(u64)blockIdx.x * n + x]; });
  write(ids, scores, s_keys, k);
}

KERNEL(128, topk_lists)(u32* ids, const float* s, const u32* candidates, u32 M, u32 k) {
  SHARED_DYN(u64, s_keys);
  select(s_keys, M, k, [&](u32 x) {
    float score = s[(u64)blockIdx.x * M + x];
    return score > -INF ? key_of(score, candidates[(u64)blockIdx.x * M + x]) : 0;
  });
  write(ids, nullptr, s_keys, k);
}

#endif
