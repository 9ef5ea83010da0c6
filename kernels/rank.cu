// Where each row's target stands in the catalogue, without its scores being written.
//
//   above = #{i : s[i] > s[t]}    tied = #{i : s[i] = s[t]}, the target among them    before = #{i < t : s[i] = s[t]}
//
// Hidden items are not counted. The target's own score comes from the same tile arithmetic as all others: a tie is a tie of bits.
//
// Shapes   p, g (R,D)  a (V,D)  barred (V) bits  extents (R,2)  targets (R)
//          counts (R,4), zeros before: above, tied, before, scores that are not numbers
// Defines  those of scan.cuh
// Launch   (ceil(R/OWN), splits) blocks of 128 threads
// Traffic  the table once per block of rows from L2; 16 R bytes
//   rank_standings: reads at most 4 |counts| + 4 |p| + 4 |g| + 4 |a| + 4 |barred| + 4 |extents| + 4 |seen| + 4 |targets|, writes 4 |counts|
// Numerics scores as in score.cu; counts are integers
// Determinism  integer sums only
#include "scan.cuh"

KERNEL(128, rank_standings)(u32* counts, const float* p, const float* g, const float* a, const u32* barred, const u32* extents,
                            const u32* seen, const u32* targets, u32 R, u32 V, float heat) {
  SHARED_DYN(float, s_all);
  SHARED(float, s_own, [OWN]);
  static_assert(OWN <= STREAM, "the targets of a block are a tile");
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  u32 first = blockIdx.x * OWN, splits = gridDim.y, tiles = (V + STREAM - 1) / STREAM;
  u32 begin = (u32)((u64)tiles * blockIdx.y / splits) * STREAM, end = (u32)((u64)tiles * (blockIdx.y + 1) / splits) * STREAM;
  Queries queries(s_all, p, g, first, R, heat);
  Hidden hidden(barred, extents, seen, nullptr, first, R, begin);

  for (int x = threadIdx.x; x < STREAM * QUADS; x += 128) {
    u32 row = x / QUADS, c = x % QUADS;
    bool exists = row < OWN && first + row < R;
    float4 value = exists ? load4(a + (u64)targets[first + row] * D, c) : zero4();
    *reinterpret_cast<float4*>(queries.s_a + row * STRIDE + 4 * c) = value;
  }
  __syncthreads();
  float s[OWNED][STREAMED], r_own[OWNED];
  u32 r_target[OWNED], above[OWNED], tied[OWNED], before[OWNED], wrong[OWNED];
  queries.score_loaded(s);
#pragma unroll
  for (int i = 0; i < OWNED; ++i)
#pragma unroll
    for (int j = 0; j < STREAMED; ++j)
      if (ty + 8 * i == tx + 16 * j) s_own[ty + 8 * i] = s[i][j];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < OWNED; ++i) {
    r_own[i] = s_own[ty + 8 * i];
    r_target[i] = queries.row(i) < R ? targets[queries.row(i)] : NONE;
    above[i] = tied[i] = before[i] = wrong[i] = 0;
  }

  for (u32 item = begin; item < end && item < V; item += STREAM) {
    hidden.tile(item, V);
    queries.score(s, a, item, V);
#pragma unroll
    for (int i = 0; i < OWNED; ++i)
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) {
        if (hidden.hides(i, j)) continue;
        above[i] += s[i][j] > r_own[i];
        tied[i] += s[i][j] == r_own[i];
        before[i] += s[i][j] == r_own[i] && item + tx + 16 * j < r_target[i];
        wrong[i] += s[i][j] != s[i][j];
      }
  }
#pragma unroll
  for (int i = 0; i < OWNED; ++i)
    for (int step = 8; step > 0; step /= 2) {
      above[i] += __shfl_xor_sync(~0u, above[i], step);
      tied[i] += __shfl_xor_sync(~0u, tied[i], step);
      before[i] += __shfl_xor_sync(~0u, before[i], step);
      wrong[i] += __shfl_xor_sync(~0u, wrong[i], step);
    }
#pragma unroll
  for (int i = 0; i < OWNED; ++i) {
    u32* to = counts + 4ull * queries.row(i);
    if (tx != 0 || queries.row(i) >= R) continue;
    atomicAdd(to, above[i]);
    atomicAdd(to + 1, tied[i]);
    atomicAdd(to + 2, before[i]);
    atomicAdd(to + 3, wrong[i]);
  }
}
