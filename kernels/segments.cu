// Sums over segments: each table row gathers what many rows of a batch add to it, without atomics.
//
//   out[rows[s]] = base[rows[s]] + scale * sum over p in segment s of w[p] x[positions[p]]
//
// The gradient of an embedding (base = out, no weights), and items from their attributes' rows and back.
//
// Shapes       out, base (V,D), x (n,D), rows (U) distinct, offsets (U+1), positions (P), w (P) or null for ones
// Defines      D
// Launch       256 threads; a block owns 8 segments. A short one belongs to one warp. A long one (above 64 positions: a
//              popular item, a position of every sequence) is cut into 8 equal parts, one per warp, so that the head of
//              a skewed distribution does not hold up the launch. Lanes are columns, 128 at a time
// Traffic      4 P D bytes of x, in whole rows at random, 8 U D of out, 4 to 8 P + 8 U of lists
//   segments_sum: reads at most 4 |x| + 4 |w| + 4 |base| + 4 |rows| + 4 |offsets| + 4 |positions| + 4 |out|, writes at most 4 |out|
// Numerics     f32; terms of a segment, or of each eighth of a long one, are added in the order of their positions
// Determinism  one owner per row, an order that depends on the segment's length alone
#if D < 128 && D != 64
#define ROOMY , 1  // at these widths the compiler would spill two registers (sm_80, 90) to keep 64 warps
#endif
#include "device.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr u32 LONG = 64;
// Columns of a lane in one sweep over a segment.
constexpr int PER = D >= 128 ? 4 : (D + 31) / 32, TILE = 32 * PER;

// r_sum[k] += sum over p in from .. to of w[p] x[positions[p]][column + 32 k]
__device__ __forceinline__ void add_positions(float (&r_sum)[PER], const float* __restrict__ x, const float* __restrict__ w,
                                              const u32* __restrict__ positions, u32 from, u32 to, u32 column) {
#pragma unroll 4
  for (u32 p = from; p < to; ++p) {
    const float* row = x + (u64)positions[p] * D;
    float weight = w ? w[p] : 1.0f;
#pragma unroll
    for (int k = 0; k < PER; ++k)
      if (column + 32 * k < D) r_sum[k] += weight * row[column + 32 * k];
  }
}

KERNEL(THREADS, segments_sum)
(float* out, const float* base, const float* __restrict__ x, const float* __restrict__ w, const u32* __restrict__ rows,
 const u32* __restrict__ offsets, const u32* __restrict__ positions, u32 U, float scale) {
  SHARED(float, s_part, [WARPS][TILE]);
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 first = blockIdx.x * WARPS, own = first + warp;
  if (!base) base = out;

  if (own < U && offsets[own + 1] - offsets[own] <= LONG) {
    u64 row = (u64)rows[own] * D;
    for (u32 tile = 0; tile < D; tile += TILE) {
      float r_sum[PER] = {};
      add_positions(r_sum, x, w, positions, offsets[own], offsets[own + 1], tile + lane);
#pragma unroll
      for (int k = 0; k < PER; ++k) {
        u32 column = tile + lane + 32 * k;
        if (column < D) out[row + column] = base[row + column] + scale * r_sum[k];
      }
    }
  }
  // All warps together, one long segment after the other; every thread takes the same way, so the barriers are met.
  for (u32 s = first; s < min(first + WARPS, U); ++s) {
    u32 from = offsets[s], length = offsets[s + 1] - from;
    if (length <= LONG) continue;
    u64 row = (u64)rows[s] * D;
    for (u32 tile = 0; tile < D; tile += TILE) {
      float r_sum[PER] = {};
      u32 begin = (u32)((u64)length * warp / WARPS), end = (u32)((u64)length * (warp + 1) / WARPS);
      add_positions(r_sum, x, w, positions, from + begin, from + end, tile + lane);
#pragma unroll
      for (int k = 0; k < PER; ++k) s_part[warp][lane + 32 * k] = r_sum[k];
      __syncthreads();
      u32 column = tile + threadIdx.x;
      if (threadIdx.x < TILE && column < D) {
        float sum = 0.0f;
        for (int i = 0; i < WARPS; ++i) sum += s_part[i][threadIdx.x];
        out[row + column] = base[row + column] + scale * sum;
      }
      __syncthreads();
    }
  }
}
