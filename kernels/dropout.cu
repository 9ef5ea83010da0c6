// Dropout by counter, plain and fused with the residual connection that follows every sub-layer.
//
//   dropout_fwd:       y = x * f                       also its own backward pass: dx = dy * f
//   dropout_residual:  out = x + branch * f            f = 0 or 1 / (1 - p), a function of (seed, site, step, element)
//
// Shapes       x, branch, y, out (n)
// Defines      DROP 1, or 0 for f = 1: a copy, and a sum
// Launch       256 threads; 8 threads own a block of 64 elements, so 2,048 elements a block of threads
// Traffic      8 n bytes (12 n with the residual); no mask is ever stored
//   dropout_fwd: reads 4 n, writes 4 n
//   dropout_residual: reads 8 n, writes 4 n
// Numerics     f32; the mask equals the plain path's bit for bit
// Determinism  one writer per element
// Source       Srivastava et al., JMLR 2014 (inverted form); Philox: Salmon et al., SC 2011
#include "device.cuh"
#include "philox.cuh"
#include "dropout.cuh"

constexpr int THREADS = 256;

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
