// The global norm of a gradient before clipping, and what clipping multiplies it by.
//
//   partial[first + b] = sum over the elements (or rows) of block b of grad^2
//   norm = sqrt(sum of partial),   factor = min(1, clip / norm), or 1 if clip is 0
//
// A norm that is not finite makes the factor NaN, and NaN it stays: adamw.cu takes it as a halt.
//
// Shapes       grad (n) or (.., width), the first *count of rows, partial: doubles; norm (1) double, factor (1)
// Launch       256 threads; clip_square: 16,384 elements a block; clip_square_rows: 64 rows a block, a warp to a row, as many
//              blocks as there may be rows (one without leaves 0); clip_factor: one block
// Traffic      4 bytes per element
//   clip_square: reads 4 n, writes at most 4 |partial|
//   clip_square_rows: reads 4 |rows| width + 4 |rows| + 4, writes at most 4 |partial|
//   clip_factor: reads 8 blocks + 4, writes 12
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
(double* partial, const float* __restrict__ grad, const u32* __restrict__ rows, const u32* __restrict__ count, u32 width,
 u32 first) {
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 start = blockIdx.x * ROWS, end = min(start + ROWS, *count);
  double sum = 0.0;
#pragma unroll 2
  for (u32 r = start + warp; r < end; r += WARPS) {
    const float* row = grad + (u64)rows[r] * width;
#pragma unroll 4
    for (u32 c = lane; c < width; c += 32) sum += (double)row[c] * (double)row[c];
  }
  store_block_sum(partial + first + blockIdx.x, sum);
}

KERNEL(THREADS, clip_factor)(double* norm, float* factor, const double* __restrict__ partial, u32 blocks, u64 clip_bits) {
  SHARED(double, s_sum, [THREADS]);
  double sum = 0.0;
  for (u32 b = threadIdx.x; b < blocks; b += THREADS) sum += partial[b];
  s_sum[threadIdx.x] = sum;
  for (int step = THREADS / 2; step > 0; step /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < step) s_sum[threadIdx.x] += s_sum[threadIdx.x + step];
  }
  if (threadIdx.x != 0) return;
  double length = __dsqrt_rn(s_sum[0]), clip = __longlong_as_double((i64)clip_bits);
  *norm = length;
  if (!is_finite(*factor)) return;
  bool finite = length - length == 0.0;
  *factor = !finite ? __int_as_float(0x7fc00000) : clip > 0.0 && length > clip ? (float)(clip / length) : 1.0f;
}
