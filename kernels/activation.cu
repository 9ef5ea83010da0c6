// Point-wise activations of the feed-forward layer.
//
//   relu: y = max(x, 0)                       dx = dy [x > 0]
//   gelu: y = x/2 (1 + tanh(u))               u = c (x + a x^3), c = sqrt(2/pi), a = 0.044715
//         dx = dy ((1 + t)/2 + x/2 (1 - t^2) u')        t = tanh(u), u' = c (1 + 3 a x^2)
//
//   activation_bwd_sum: dx, and sums[c] = sum over the 64 rows of chunk c of dx: the gradient of a bias before the activation
//
// Shapes       x, y (n), or (R,N); d the same, holds dy and receives dx; sums (chunks,N) of rows `stride` apart, which
//              column_sum.cu adds up
// Defines      GELU 1 or 0 (relu)
// Launch       256 threads, 1,024 elements a block: four independent loads in flight per thread; with sums, grid (chunks,
//              ceil(N / 32)): lanes are columns, each of the 8 warps takes every eighth row of the chunk
// Traffic      8 n bytes forward, 12 n backward
//   activation_fwd: reads 4 n, writes 4 n
//   activation_bwd: reads 8 n, writes 4 n
//   activation_bwd_sum: reads 8 R N, writes 4 R N + R / 64 4 N
// Numerics     tanh(u) = 1 - 2 / (exp(2u) + 1), u clamped to where tanh is 1 to the last bit, as on the plain path
// Determinism  one writer per element
// Source       Hendrycks and Gimpel, arXiv 1606.08415 (tanh form)
#include "device.cuh"
#include "reduce.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, PER = 4, CHUNK = 64;

struct Activated { float value, slope; };

__device__ __forceinline__ Activated activate(float x) {
#if GELU
  constexpr float C = 0.797884561f, A = 0.044715f;
  float u = fminf(fmaxf(C * (x + A * x * x * x), -20.0f), 20.0f);
  float t = 1.0f - 2.0f / (expf(u + u) + 1.0f);
  float du = C * (1.0f + 3.0f * A * x * x);
  return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * du};
#else
  return {x > 0.0f ? x : 0.0f, x > 0.0f ? 1.0f : 0.0f};
#endif
}

KERNEL(THREADS, activation_fwd)(float* y, const float* __restrict__ x, u64 n) {
  u64 first = (u64)blockIdx.x * (THREADS * PER) + threadIdx.x;
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u64 i = first + k * THREADS;
    if (i < n) y[i] = activate(x[i]).value;
  }
}

KERNEL(THREADS, activation_bwd)(float* d, const float* __restrict__ x, u64 n) {
  u64 first = (u64)blockIdx.x * (THREADS * PER) + threadIdx.x;
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u64 i = first + k * THREADS;
    if (i < n) d[i] *= activate(x[i]).slope;
  }
}

KERNEL(THREADS, activation_bwd_sum)
(float* d, float* sums, const float* __restrict__ x, u32 R, u32 N, u32 stride) {
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 column = blockIdx.y * 32 + lane;
  u32 first = blockIdx.x * CHUNK, last = min(first + CHUNK, R);
  float sum = 0.0f;
  if (column < N) {
#pragma unroll 8
    for (u32 row = first + warp; row < last; row += WARPS) {
      u64 i = (u64)row * N + column;
      float dx = d[i] * activate(x[i]).slope;
      d[i] = dx;
      sum += dx;
    }
  }
  sum = warps_sum<WARPS>(sum);
  if (warp == 0 && column < N) sums[(u64)blockIdx.x * stride + column] = sum;
}
