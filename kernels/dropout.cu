// Dropout by counter, plain and fused with the residual connection that follows every sub-layer.
//
//   dropout_fwd:       y = x * f                       also its own backward pass: dx = dy * f
//   dropout_residual:  out = x + branch * f            f = 0 or 1 / (1 - p), a function of (seed, site, step, element)
//   dropout_bwd_sum:   y = x * f, and sums[c] = sum over the 64 rows of chunk c of y: the gradient of a bias before the dropout
//
// Shapes       x, branch, y, out (n), or (R,D); sums (chunks,D) of rows `stride` apart, which column_sum.cu adds up
// Defines      DROP 1, or 0 for f = 1: a copy, and a sum; D for dropout_bwd_sum alone, 64, 128 or 256
// Launch       256 threads; 8 threads own a block of 64 elements, so 2,048 elements a block of threads; with sums, a block of
//              threads to a chunk, in which a thread stays in its eight columns
// Traffic      8 n bytes (12 n with the residual); no mask is ever stored
//   dropout_fwd: reads 4 n, writes 4 n
//   dropout_residual: reads 8 n, writes 4 n
//   dropout_bwd_sum: reads 4 R D, writes 4 R D + R / 64 4 D
// Numerics     f32; the mask equals the plain path's bit for bit
// Determinism  one writer per element
// Source       Srivastava et al., JMLR 2014 (inverted form); Philox: Salmon et al., SC 2011
#include "device.cuh"
#include "philox.cuh"
#include "dropout.cuh"

constexpr int THREADS = 256;

#ifdef D
constexpr int CHUNK = 64, GROUPS = THREADS / 8;

KERNEL(THREADS, dropout_bwd_sum)
(float* y, float* sums, const float* __restrict__ x, u32 R, u32 stride, DROPOUT_PARAMETERS) {
  Dropout dropout = DROPOUT_ARGUMENTS;
  SHARED(float, s_sum, [GROUPS][64]);
  u32 group = threadIdx.x / 8, lane = threadIdx.x % 8;
  float r_sum[8] = {};
#pragma unroll 2
  for (u32 at = 0; at < CHUNK * D / 64; at += GROUPS) {
    u64 block = (u64)blockIdx.x * (CHUNK * D / 64) + at + group, first = block * 64 + lane;
    if (first / D >= R) continue;
    Words bits = dropout_words(dropout, block, lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float kept = x[first + 8 * j] * dropout_factor(dropout, bits, j);
      y[first + 8 * j] = kept;
      r_sum[j] += kept;
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) s_sum[group][lane + 8 * j] = r_sum[j];
  __syncthreads();
  // Groups D / 64 apart hold the same columns.
  if (threadIdx.x < D) {
    float sum = 0.0f;
    for (u32 g = threadIdx.x / 64; g < GROUPS; g += D / 64) sum += s_sum[g][threadIdx.x % 64];
    sums[(u64)blockIdx.x * stride + threadIdx.x] = sum;
  }
}
#else
KERNEL(THREADS, dropout_fwd)(float* y, const float* __restrict__ x, u64 n, DROPOUT_PARAMETERS) {
  Dropout dropout = DROPOUT_ARGUMENTS;
  u64 thread = (u64)blockIdx.x * THREADS + threadIdx.x;
  u64 first = thread / 8 * 64 + thread % 8;
  if (first >= n) return;
  float r_x[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) r_x[j] = first + 8 * j < n ? x[first + 8 * j] : 0.0f;
  Words bits = dropout_words(dropout, thread / 8, (u32)(thread % 8));
#pragma unroll
  for (int j = 0; j < 8; ++j)
    if (first + 8 * j < n) y[first + 8 * j] = r_x[j] * dropout_factor(dropout, bits, j);
}

KERNEL(THREADS, dropout_residual)
(float* out, const float* __restrict__ x, const float* __restrict__ branch, u64 n, DROPOUT_PARAMETERS) {
  Dropout dropout = DROPOUT_ARGUMENTS;
  u64 thread = (u64)blockIdx.x * THREADS + threadIdx.x;
  u64 first = thread / 8 * 64 + thread % 8;
  if (first >= n) return;
  float r_x[8], r_branch[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    bool inside = first + 8 * j < n;
    r_x[j] = inside ? x[first + 8 * j] : 0.0f;
    r_branch[j] = inside ? branch[first + 8 * j] : 0.0f;
  }
  Words bits = dropout_words(dropout, thread / 8, (u32)(thread % 8));
#pragma unroll
  for (int j = 0; j < 8; ++j)
    if (first + 8 * j < n) out[first + 8 * j] = r_x[j] + r_branch[j] * dropout_factor(dropout, bits, j);
}
#endif
