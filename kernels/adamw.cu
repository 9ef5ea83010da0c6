// AdamW, dense or lazily by row; clears the gradient it has used.
//
//   g = scale grad,  m = keep1 m + take1 g,  v = keep2 v + take2 g^2,  x = keep x - rate m / (sqrt(v) root + eps)
//
//   keep1 = beta1^(k+1), keep2 = beta2^(k+1), keep = (1 - lr decay)^(k+1)     k = steps missed by a lazy row, else 0
//   take1 = 1 - beta1,  take2 = 1 - beta2,  rate = lr / (1 - beta1^t),  root = 1 / sqrt(1 - beta2^t)
//
// A scale of NaN, which clip.cu gives from the first gradient on that is not finite, changes nothing.
//
// Shapes       x, m, v, grad (n) or (V,width); scale (1); the first *count of rows, distinct, or null for all V = most; last (V)
//              the step that touched a row;
//              powers (3,25): beta1, beta2, 1 - lr decay to the powers 2^0 .. 2^24, doubles
// Launch       256 threads; dense: 1,024 elements a block; rows: a warp to a row, 8 rows a block, for as many
//              as there may be
// Traffic      32 bytes per element: four arrays read and written (of all rows there may be, where there are as many)
//   adamw_dense: reads 16 n + 4, writes 16 n
//   adamw_rows: reads at most 16 most width + 8 most + 4 |powers| + 8, writes 16 most width + 4 most
// Numerics     f32; the powers of a row that slept are products of doubles, as exact as the host's
// Determinism  one writer per element
// Source       Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019; what lazy means: src/optim/adamw.rs
#include "device.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, PER = 4;
constexpr int POWERS = 25;

struct Factors { float keep1, take1, keep2, take2, keep, rate, root, eps, scale; };

#define FACTOR_PARAMETERS \
  float keep1, float take1, float keep2, float take2, float keep, float rate, float root, float eps
#define FACTOR_ARGUMENTS Factors{keep1, take1, keep2, take2, keep, rate, root, eps, *scale}

__device__ __forceinline__ void move_by(float& x, float& m, float& v, float& grad, const Factors& f) {
  float g = grad * f.scale;
  grad = 0.0f;
  m = f.keep1 * m + f.take1 * g;
  v = f.keep2 * v + f.take2 * g * g;
  x = f.keep * x - f.rate * m / (sqrtf(v) * f.root + f.eps);
}

KERNEL(THREADS, adamw_dense)
(float* __restrict__ x, float* __restrict__ m, float* __restrict__ v, float* __restrict__ grad, const float* __restrict__ scale,
 u64 n, FACTOR_PARAMETERS) {
  Factors factors = FACTOR_ARGUMENTS;
  if (!is_finite(factors.scale)) return;
  u64 first = (u64)blockIdx.x * (THREADS * PER) + threadIdx.x;
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u64 i = first + k * THREADS;
    if (i < n) move_by(x[i], m[i], v[i], grad[i], factors);
  }
}

// base^e from its squares.
__device__ __forceinline__ float power(const double* __restrict__ squares, u32 e) {
  double product = 1.0;
  for (int j = 0; e; ++j, e >>= 1)
    if (e & 1) product *= squares[j];
  return (float)product;
}

KERNEL(THREADS, adamw_rows)
(float* __restrict__ x, float* __restrict__ m, float* __restrict__ v, float* __restrict__ grad, u32* last,
 const float* __restrict__ scale, const u32* __restrict__ rows, const u32* __restrict__ count,
 const double* __restrict__ powers, u32 most, u32 width, u32 step, FACTOR_PARAMETERS) {
  u32 lane = threadIdx.x % 32, r = blockIdx.x * WARPS + threadIdx.x / 32;
  if (r >= (rows ? *count : most)) return;
  u64 row = rows ? rows[r] : r;
  Factors factors = FACTOR_ARGUMENTS;
  if (!is_finite(factors.scale)) return;
  u32 met = last[row];
  u32 missed = min(step > met ? step - met - 1 : 0u, 1u << 24);
  if (missed > 0) {
    factors.keep1 = power(powers, missed + 1);
    factors.keep2 = power(powers + POWERS, missed + 1);
    factors.keep = power(powers + 2 * POWERS, missed + 1);
  }
  // Every lane has read the step before one of them writes it.
  __syncwarp();
  if (lane == 0) last[row] = step;
#pragma unroll 2
  for (u32 c = lane; c < width; c += 32) {
    u64 i = row * width + c;
    move_by(x[i], m[i], v[i], grad[i], factors);
  }
}
