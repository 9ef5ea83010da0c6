// Row-wise Adagrad; clears the gradient it has used.
//
//   g = scale grad,  sum = sum + mean of g^2 over the row,  x = keep x - lr g / (sqrt(sum) + eps),  keep = 1 - lr decay
//
// A scale of NaN, which clip.cu gives from the first gradient on that is not finite, changes nothing.
//
// Shapes       x, grad (V,width); sums (V) one number a row; scale (1); the first *count of rows, distinct, or null for all V = most
// Launch       256 threads: a warp to a row, 8 rows a block, for as many as there may be
// Traffic      16 bytes per element: two arrays read and written (of all rows there may be, where there are as many)
//   adagrad_rows: reads at most 8 most width + 8 most + 8, writes 8 most width + 4 most
// Numerics     f32
// Determinism  one warp per row, its squares added by a fixed tree
// Source       Duchi, Hazan and Singer, JMLR 2011; one number a row: FBGEMM's exact row-wise Adagrad, src/optim/adagrad.rs
#include "device.cuh"
#include "reduce.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;

KERNEL(THREADS, adagrad_rows)
(float* __restrict__ x, float* sums, float* __restrict__ grad, const float* __restrict__ scale_of,
 const u32* __restrict__ rows, const u32* __restrict__ count, u32 most, u32 width, float keep, float lr, float eps) {
  u32 lane = threadIdx.x % 32, r = blockIdx.x * WARPS + threadIdx.x / 32;
  float scale = *scale_of;
  if (r >= (rows ? *count : most) || !is_finite(scale)) return;
  u64 row = rows ? rows[r] : r, first = row * width;
  float squares = 0.0f;
  for (u32 c = lane; c < width; c += 32) {
    float g = grad[first + c] * scale;
    squares += g * g;
  }
  squares = warp_sum(squares);
  float sum = 0.0f;
  // One lane keeps the sum, so that none reads what another has written.
  if (lane == 0) sum = sums[row] += squares / (float)width;
  sum = __shfl_sync(~0u, sum, 0);
  float rate = lr / (sqrtf(sum) + eps);
  for (u32 c = lane; c < width; c += 32) {
    u64 i = first + c;
    x[i] = keep * x[i] - rate * (grad[i] * scale);
    grad[i] = 0.0f;
  }
}
