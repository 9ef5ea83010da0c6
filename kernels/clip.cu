// The squared length of a gradient, in blocks: the global norm before clipping.
//
//   partial[first + b] = sum over the elements (or rows) of block b of grad^2
//
// The host adds the partial sums of all parameters in order, once per step.
//
// Shapes       grad (n) or (.., width), rows (count) or null, partial: doubles
// Launch       256 threads; clip_square: 16,384 elements a block; clip_square_rows: 64 rows a block, a warp to a row
// Traffic      4 bytes per element
//   clip_square: reads 4 n, writes at most 4 |partial|
//   clip_square_rows: reads 4 count width + 4 count, writes at most 4 |partial|
// Numerics     f64 sums, which neither overflow nor drown a small gradient; one f64 addition per 4 bytes is still below the
//              memory's pace, even where f64 runs at 1/64 of f32
// Determinism  fixed trees that depend on the sizes alone
// Source       Pascanu, Mikolov, Bengio, ICML 2013
#include "device.cuh"
#include "reduce.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr u32 BLOCK = 16384, ROWS = 64;

__device__ __forceinline__ void store_block_sum(double* to, double sum) {
  SHARED(double, s_sum, [WARPS]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) s_sum[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < WARPS; ++w) sum += s_sum[w];
    *to = sum;
  }
}

KERNEL(THREADS, clip_square)(double* partial, const float* __restrict__ grad, u64 n, u32 first) {
  u64 base = (u64)blockIdx.x * BLOCK;
  double sum = 0.0;
#pragma unroll 8
  for (u32 i = threadIdx.x; i < BLOCK; i += THREADS) {
    double g = base + i < n ? (double)grad[base + i] : 0.0;
    sum += g * g;
  }
  store_block_sum(partial + first + blockIdx.x, sum);
}

KERNEL(THREADS, clip_square_rows)
(double* partial, const float* __restrict__ grad, const u32* __restrict__ rows, u32 count, u32 width, u32 first) {
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 start = blockIdx.x * ROWS, end = min(start + ROWS, count);
  double sum = 0.0;
#pragma unroll 2
  for (u32 r = start + warp; r < end; r += WARPS) {
    const float* row = grad + (u64)rows[r] * width;
#pragma unroll 4
    for (u32 c = lane; c < width; c += 32) sum += (double)row[c] * (double)row[c];
  }
  store_block_sum(partial + first + blockIdx.x, sum);
}
