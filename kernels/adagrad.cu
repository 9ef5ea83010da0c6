// Row-wise Adagrad; clears the gradient it has used.
//
//   g = scale grad,  sum = sum + mean of g^2 over the row,  x = keep x - lr g / (sqrt(sum) + eps),  keep = 1 - lr decay
//
// Shapes       x, grad (V,width); sums (V) one number a row; rows (count) distinct, or null for all
// Launch       256 threads: a warp to a row, 8 rows a block
// Traffic      16 bytes per element: two arrays read and written
//   adagrad_rows: reads at most 8 count width + 8 count, writes 8 count width + 4 count
// Numerics     f32
// Determinism  one warp per row, its squares added by a fixed tree
// Source       Duchi, Hazan and Singer, JMLR 2011; one number a row: FBGEMM's exact row-wise Adagrad, src/optim/adagrad.rs
#include "device.cuh"
#include "reduce.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;

KERNEL(THREADS, adagrad_rows)
(float* __restrict__ x, float* sums, float* __restrict__ grad, const u32* __restrict__ rows, u32 count, u32 width,
 float scale, float keep, float lr, float eps) {
  u32 lane = threadIdx.x % 32, r = blockIdx.x * WARPS + threadIdx.x / 32;
  if (r >= count) return;
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
