// Point-wise activations of the feed-forward layer.
//
//   relu: y = max(x, 0)                       dx = dy [x > 0]
//   gelu: y = x/2 (1 + tanh(u))               u = c (x + a x^3), c = sqrt(2/pi), a = 0.044715
//         dx = dy ((1 + t)/2 + x/2 (1 - t^2) u')        t = tanh(u), u' = c (1 + 3 a x^2)
//
// Shapes       x, y (n); d (n) holds dy and receives dx
// Defines      GELU 1 or 0 (relu)
// Launch       256 threads, 1,024 elements a block: four independent loads in flight per thread
// Traffic      8 n bytes forward, 12 n backward
//   activation_fwd: reads 4 n, writes 4 n
//   activation_bwd: reads 8 n, writes 4 n
// Numerics     tanh(u) = 1 - 2 / (exp(2u) + 1), u clamped to where tanh is 1 to the last bit, as on the plain path
// Determinism  one writer per element
// Source       Hendrycks and Gimpel, arXiv 1606.08415 (tanh form)
#include "device.cuh"

constexpr int THREADS = 256, PER = 4;

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
