// Layer normalisation over the last dimension.
//
//   y = n * gain + bias,   n = (x - mean) rstd,   rstd = 1 / sqrt(variance + EPS)
//   with u = dy * gain:    dx = rstd (u - mean(u) - n mean(u n))     dgain += sum_r dy n     dbias += sum_r dy
//   residual_norm_fwd:     x = past + branch * f, and y of it        f: the factors of dropout.cu
//
// Shapes       x, y, dx, dy, past, branch (R,D), gain, bias (D), stats (R,2) = mean, rstd; dgain, dbias here (chunks,D) of rows
//              `stride` apart, the partial sums of 64 rows each, which column_sum.cu adds up
// Defines      D; backward: ADD 1 (dx is added to) or 0; residual_norm_fwd, whose D is 64, 128 or 256: DROP as in dropout.cu
// Launch       256 threads; a warp owns a row, and short rows come several to a warp so that enough loads are in flight.
//              Forward: grid-stride over rows; backward: one block per chunk of 64 rows. residual_norm_fwd: D / 8 threads own a
//              row and keep it in registers, 2,048 elements a block
// Traffic      8 R D bytes forward, 12 R D backward and 4 more with ADD; a row is read again from the nearest cache, not from
//              memory. 16 R D with the residual, where two kernels would move 20
//   layer_norm_fwd: reads 4 R D + 8 D, writes 4 R D + 4 |stats|
//   layer_norm_bwd: reads 8 R D + 4 ADD R D + 4 |stats| + 4 D, writes 4 R D + R / 64 8 D
//   residual_norm_fwd: reads 8 R D + 8 D, writes 8 R D + 4 |stats|
// Numerics     f32; variance around the mean, in a second sweep over the row, because E[x^2] - mean^2 cancels
//              u is rounded before it is used: fused into u - mean(u), an exact u would leave the rounding error of the mean,
//              times rstd, where the difference is 0
// Determinism  fixed trees; the parameters' sums depend on R alone
// Source       Ba, Kiros, Hinton, arXiv 1607.06450
#include "device.cuh"
#include "reduce.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, CHUNK = 64;
constexpr float EPS = 1e-5f, INVERSE = 1.0f / D;

#ifdef DROP
#include "philox.cuh"
#include "dropout.cuh"

// Threads of a row.
constexpr int OWNERS = D / 8;

__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
  for (int step = OWNERS / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

KERNEL(THREADS, residual_norm_fwd)
(float* x, float* y, float* stats, const float* __restrict__ past, const float* __restrict__ branch,
 const float* __restrict__ gain, const float* __restrict__ bias, u32 R, DROPOUT_PARAMETERS) {
  Dropout dropout = DROPOUT_ARGUMENTS;
  u64 thread = (u64)blockIdx.x * THREADS + threadIdx.x;
  // The elements of a thread: first + 8 j, as dropout counts them.
  u64 first = thread / 8 * 64 + thread % 8, row = first / D;
  u32 column = (u32)(first % D);
  // Behind the last row there is nothing to do but to take part in the sums.
  bool inside = row < R;
  float r_x[8] = {};
  if (inside) {
    Words bits = dropout_words(dropout, thread / 8, (u32)(thread % 8));
#pragma unroll
    for (int j = 0; j < 8; ++j) r_x[j] = past[first + 8 * j] + branch[first + 8 * j] * dropout_factor(dropout, bits, j);
  }
  float sum = 0.0f, square = 0.0f;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += r_x[j];
  float mean = row_sum(sum) * INVERSE;
#pragma unroll
  for (int j = 0; j < 8; ++j) square += (r_x[j] - mean) * (r_x[j] - mean);
  float rstd = 1.0f / sqrtf(row_sum(square) * INVERSE + EPS);
  if (!inside) return;
  if (column < 2) stats[row * 2 + column] = column == 0 ? mean : rstd;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    x[first + 8 * j] = r_x[j];
    y[first + 8 * j] = (r_x[j] - mean) * rstd * gain[column + 8 * j] + bias[column + 8 * j];
  }
}
#else
// Columns of a lane, and rows a warp treats at once: at least four loads in flight per lane.
constexpr int PER = (D + 31) / 32, ROWS = PER >= 4 ? 1 : 4 / PER;

#ifndef ADD
KERNEL(THREADS, layer_norm_fwd)
(float* y, float* stats, const float* __restrict__ x, const float* __restrict__ gain, const float* __restrict__ bias, u32 R) {
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (u64 first = (blockIdx.x * WARPS + warp) * ROWS; first < R; first += (u64)gridDim.x * WARPS * ROWS) {
    float r_sum[ROWS] = {}, r_square[ROWS] = {};
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
      if (first + k >= R) continue;
      const float* row = x + (first + k) * D;
#pragma unroll 16
      for (u32 c = lane; c < D; c += 32) r_sum[k] += row[c];
    }
#pragma unroll
    for (int k = 0; k < ROWS; ++k) r_sum[k] = __fmul_rn(warp_sum(r_sum[k]), INVERSE);
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
      if (first + k >= R) continue;
      const float* row = x + (first + k) * D;
#pragma unroll 16
      for (u32 c = lane; c < D; c += 32) r_square[k] += (row[c] - r_sum[k]) * (row[c] - r_sum[k]);
    }
#pragma unroll
    for (int k = 0; k < ROWS; ++k) r_square[k] = warp_sum(r_square[k]);
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
      if (first + k >= R) continue;
      const float* row = x + (first + k) * D;
      float mean = r_sum[k], rstd = 1.0f / sqrtf(r_square[k] * INVERSE + EPS);
      if (lane < 2) stats[(first + k) * 2 + lane] = lane == 0 ? mean : rstd;
#pragma unroll 16
      for (u32 c = lane; c < D; c += 32) y[(first + k) * D + c] = (row[c] - mean) * rstd * gain[c] + bias[c];
    }
  }
}
#else
KERNEL(THREADS, layer_norm_bwd)
(float* dx, float* dgain, float* dbias, const float* __restrict__ dy, const float* __restrict__ stats,
 const float* __restrict__ x, const float* __restrict__ gain, u32 R, u32 stride) {
  SHARED(float, s_gain, [WARPS][32]);
  SHARED(float, s_bias, [WARPS][32]);
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u64 start = (u64)blockIdx.x * CHUNK;
  u64 end = min(start + CHUNK, (u64)R);

  for (u64 first = start + warp * ROWS; first < end; first += WARPS * ROWS) {
    float r_u[ROWS] = {}, r_un[ROWS] = {};
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
      u64 row = first + k;
      if (row >= end) continue;
      float mean = stats[row * 2], rstd = stats[row * 2 + 1];
#pragma unroll 16
      for (u32 c = lane; c < D; c += 32) {
        float u = __fmul_rn(dy[row * D + c], gain[c]);
        r_u[k] += u;
        r_un[k] += u * ((x[row * D + c] - mean) * rstd);
      }
    }
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
      r_u[k] = __fmul_rn(warp_sum(r_u[k]), INVERSE);
      r_un[k] = warp_sum(r_un[k]) * INVERSE;
    }
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
      u64 row = first + k;
      if (row >= end) continue;
      float mean = stats[row * 2], rstd = stats[row * 2 + 1];
#pragma unroll 16
      for (u32 c = lane; c < D; c += 32) {
        float n = (x[row * D + c] - mean) * rstd;
        float d = rstd * (__fmul_rn(dy[row * D + c], gain[c]) - r_u[k] - n * r_un[k]);
#if ADD
        dx[row * D + c] += d;
#else
        dx[row * D + c] = d;
#endif
      }
    }
  }

  // The same rows by columns, out of the cache: a lane is a column, a warp takes every eighth row.
  for (u32 tile = 0; tile < D; tile += 32) {
    u32 column = tile + lane;
    float r_gain = 0.0f, r_bias = 0.0f;
    if (column < D) {
#pragma unroll 8
      for (u64 row = start + warp; row < end; row += WARPS) {
        float d = dy[row * D + column];
        r_gain += d * ((x[row * D + column] - stats[row * 2]) * stats[row * 2 + 1]);
        r_bias += d;
      }
    }
    __syncthreads();
    s_gain[warp][lane] = r_gain;
    s_bias[warp][lane] = r_bias;
    __syncthreads();
    if (warp < 2 && column < D) {
      float sum = 0.0f;
      for (int w = 0; w < WARPS; ++w) sum += warp == 0 ? s_gain[w][lane] : s_bias[w][lane];
      (warp == 0 ? dgain : dbias)[(u64)blockIdx.x * stride + column] = sum;
    }
  }
}
#endif
#endif
