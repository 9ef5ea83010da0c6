// Layer normalisation over the last dimension.
//
//   y = n * gain + bias,   n = (x - mean) rstd,   rstd = 1 / sqrt(variance + EPS)
//   with u = dy * gain:    dx = rstd (u - mean(u) - n mean(u n))     dgain += sum_r dy n     dbias += sum_r dy
//
// Shapes       x, y, dx, dy (R,D), gain, bias (D), stats (R,2) = mean, rstd; dgain, dbias here (chunks,D), the partial
//              sums of 64 rows each, which column_sum.cu adds up
// Defines      D
// Launch       256 threads; a warp owns a row, and short rows come several to a warp so that enough loads are in flight.
//              Forward: grid-stride over rows; backward: one block per chunk of 64 rows
// Traffic      8 R D bytes forward, 12 R D backward; a row is read again from the nearest cache, not from memory
//   layer_norm_fwd: reads 4 R D + 8 D, writes 4 R D + 4 |stats|
//   layer_norm_bwd: reads 8 R D + 4 |stats| + 4 D, writes 4 R D + 4 |dgain| + 4 |dbias|
// Numerics     f32; variance around the mean, in a second sweep over the row, because E[x^2] - mean^2 cancels
//              u is rounded before it is used: fused into u - mean(u), an exact u would leave the rounding error of the mean,
//              times rstd, where the difference is 0
// Determinism  fixed trees; the parameters' sums depend on R alone
// Source       Ba, Kiros, Hinton, arXiv 1607.06450
#include "device.cuh"
#include "reduce.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, CHUNK = 64;
constexpr float EPS = 1e-5f, INVERSE = 1.0f / D;
// Columns of a lane, and rows a warp treats at once: at least four loads in flight per lane.
constexpr int PER = (D + 31) / 32, ROWS = PER >= 4 ? 1 : 4 / PER;

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
    for (int k = 0; k < ROWS; ++k) r_sum[k] = warp_sum(r_sum[k]) * INVERSE;
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

KERNEL(THREADS, layer_norm_bwd)
(float* dx, float* dgain, float* dbias, const float* __restrict__ dy, const float* __restrict__ stats,
 const float* __restrict__ x, const float* __restrict__ gain, u32 R) {
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
      r_u[k] = warp_sum(r_u[k]) * INVERSE;
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
        dx[row * D + c] = rstd * (__fmul_rn(dy[row * D + c], gain[c]) - r_u[k] - n * r_un[k]);
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
      (warp == 0 ? dgain : dbias)[(u64)blockIdx.x * D + column] = sum;
    }
  }
}
