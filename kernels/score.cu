// Scores of items for queries: all items, or each row's own list.
//
//   dot:     s[r,i] = p[r] . (a[i] + g[r])
//   cosine:  s[r,i] = p[r] . (a[i] + g[r]) heat / (|p[r]| |a[i] + g[r]|)          heat = 1 / temperature
//
// Shapes   p, g (R,D)  a (V,D)  s (R,V) or (R,M)  ids (R,M), NONE scores minus infinity
// Defines  those of scan.cuh (all) or gathered.cuh (gather)
// Launch   all: (ceil(V/STREAM), ceil(R/OWN)) blocks of 128 threads. gather: a warp takes RUN entries of one row's list, four
//          warps a block: ceil(R ceil(M/RUN) / 4) blocks
// Traffic  all: 4 R V bytes written, each query read V/STREAM and each item R/OWN times, from L2. gather: 4 R M D bytes of rows
//   score_all: reads 4 |p| + 4 |g| + 4 |a|, writes 4 R V
//   score_gather: reads at most 4 |p| + 4 |g| + 4 |a| + 4 |ids|, writes 4 R M
// Numerics f32. `all` takes |a+g|^2 from |a|^2 + 2 a.g + |g|^2, `gather` from the sum itself
// Determinism  each score is one chain of additions
// Source   CaNS (Seol and Choi, IEEE Access 2025) for the cosine under a context
#ifdef LANES

#include "gathered.cuh"

static constexpr u32 RUN = 64;

KERNEL(128, score_gather)(float* s, const float* p, const float* g, const float* a, const u32* ids, u32 R, u32 M, float heat) {
  u64 warp = (u64)blockIdx.x * 4 + threadIdx.x / 32;
  u32 runs = (M + RUN - 1) / RUN, row = (u32)(warp / runs), run = (u32)(warp % runs);
  if (row >= R) return;  // whole warps
  Query query(p, g, row, heat);
  u32 end = min(M, (run + 1) * RUN);
  for (u32 base = run * RUN; base < end; base += LISTS) {
    u32 j = base + query.list;
    u32 id = j < end ? ids[(u64)row * M + j] : NONE;
    Scored scored = query.score(id == NONE ? nullptr : a + (u64)id * D);
    if (query.lane == 0 && j < end) s[(u64)row * M + j] = id == NONE ? -INF : scored.score;
  }
}

#else

#define ROOMY , 3  // as many blocks as the shared memory of wide vectors admits, or nearly
#include "scan.cuh"

KERNEL(128, score_all)(float* s, const float* p, const float* g, const float* a, u32 R, u32 V, float heat) {
  SHARED_DYN(float, s_all);
  Queries queries(s_all, p, g, blockIdx.y * OWN, R, heat);
  u32 item = blockIdx.x * STREAM;
  float r_score[OWNED][STREAMED];
  queries.score(r_score, a, item, V);
#pragma unroll
  for (int i = 0; i < OWNED; ++i)
#pragma unroll
    for (int j = 0; j < STREAMED; ++j) {
      u32 r = queries.row(i), x = item + threadIdx.x % 16 + 16 * j;
      if (r < R && x < V) s[(u64)r * V + x] = r_score[i][j];
    }
}

#endif
