// A block of owned vectors multiplied with a block of streamed ones: the inner loops of everything that scans a catalogue.
//
//   product[o,s] = x[o] . y[s]            out[o] += sum over s of w[o,s] y[s]
//
// Shapes   x (OWN,D), y (STREAM,D) in shared memory, rows padded with zeros to STRIDE floats; w (OWN,STREAM) rows STREAM + 4
// Defines  D; OWN, STREAM a multiple of 16 each, at most 64; STRIDE a multiple of 4 and an odd number of float4, at least D
// Launch   128 threads. Thread (ty, tx) = (t / 16, t % 16) has the owned rows ty + 8 i and, of scores, the streamed rows
//          tx + 16 j, of outputs the float4 columns tx + 16 c. An odd stride lets eight lanes read a float4 of eight rows
//          from 32 different banks.
// Numerics a product is a chain of fused multiply-adds over d (a sum of chains of 64 where D > 128), so that the same pair has
//          the same bits wherever it stands: what two kernels, or two tiles of one, say about a tie agrees.
#pragma once
#include "device.cuh"

static constexpr u32 NONE = ~0u;
static constexpr int THREADS = 128;
static constexpr int QUADS = (D + 3) / 4;             // float4 of a row
static constexpr int OWNED = OWN / 8;                 // owned rows of a thread
static constexpr int STREAMED = STREAM / 16;          // streamed rows of a thread
static constexpr int COLUMNS = (QUADS + 15) / 16;     // float4 columns of a thread
static constexpr int WEIGHTS = STREAM + 4;            // row length of w
static constexpr int CHAIN = QUADS <= 32 ? QUADS : 16;  // float4 of a row that are summed in one go

__device__ inline float4 zero4() { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }

__device__ inline float4 fma4(float w, float4 x, float4 y) {
  return make_float4(fmaf(w, x.x, y.x), fmaf(w, x.y, y.y), fmaf(w, x.z, y.z), fmaf(w, x.w, y.w));
}

__device__ inline float dot4(float4 x, float4 y, float sum) {
  return fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
}

__device__ inline float4 scale4(float w, float4 x) { return make_float4(w * x.x, w * x.y, w * x.z, w * x.w); }

// The float4 column `c` of a row of D floats in global memory; zeros past its end.
__device__ inline float4 load4(const float* row, int c) {
  if constexpr (D % 4 == 0) return reinterpret_cast<const float4*>(row)[c];
  float4 x = zero4();
  x.x = row[4 * c];
  if (4 * c + 1 < D) x.y = row[4 * c + 1];
  if (4 * c + 2 < D) x.z = row[4 * c + 2];
  if (4 * c + 3 < D) x.w = row[4 * c + 3];
  return x;
}

__device__ inline void store4(float* row, int c, float4 x) {
  if constexpr (D % 4 == 0) {
    reinterpret_cast<float4*>(row)[c] = x;
  } else {
    row[4 * c] = x.x;
    if (4 * c + 1 < D) row[4 * c + 1] = x.y;
    if (4 * c + 2 < D) row[4 * c + 2] = x.z;
    if (4 * c + 3 < D) row[4 * c + 3] = x.w;
  }
}

// 1 / sqrt(square), and zero for a vector that is zero but for rounding. One Newton step makes the fast root exact to a unit.
__device__ inline float inverse_norm(float square) {
  if (!(square > 1e-30f)) return 0.0f;
  float y = rsqrtf(square);
  return y * fmaf(-0.5f * square * y, y, 1.5f);
}

// 1 / |a + g| from the three products; |a|^2 + 2 g.a + |g|^2 cancels where a is nearly -g, and below this share of the sum it
// is rounding, not a norm.
__device__ inline float inverse_of_pair(float square_a, float meet, float square_g) {
  float sum = square_a + square_g;
  return inverse_norm(fmaxf(sum + meet + meet, 1e-6f * sum));
}

// s_to (n,STRIDE) = rows first .. first + n of `from`, those from `end` on zero.
template <int N> __device__ inline void load_rows(float* s_to, const float* from, u32 first, u32 end) {
  for (int x = threadIdx.x; x < N * QUADS; x += THREADS) {
    u32 row = x / QUADS, c = x % QUADS;
    float4 value = first + row < end ? load4(from + (u64)(first + row) * D, c) : zero4();
    *reinterpret_cast<float4*>(s_to + row * STRIDE + 4 * c) = value;
  }
}

// s_to (N) = the dot products of row n of s_x with row n of s_y.
template <int N> __device__ inline void row_dots(float* s_to, const float* s_x, const float* s_y) {
  constexpr int SHARE = THREADS / N;  // threads of a row, neighbours in a warp
  int row = threadIdx.x / SHARE, part = threadIdx.x % SHARE;
  float sum = 0.0f;
  for (int c = part; c < QUADS; c += SHARE) {
    int at = row * STRIDE + 4 * c;
    sum = dot4(*reinterpret_cast<const float4*>(s_x + at), *reinterpret_cast<const float4*>(s_y + at), sum);
  }
  for (int step = 1; step < SHARE; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (part == 0) s_to[row] = sum;
}

// r (N,STREAMED) = the products of this thread; N = OWNED, or less where the caller never comes here.
template <int N> __device__ inline void products(float (&r)[N][STREAMED], const float* s_x, const float* s_y) {
  const float* x = s_x + (threadIdx.x / 16) * STRIDE;
  const float* y = s_y + (threadIdx.x % 16) * STRIDE;
#pragma unroll
  for (int i = 0; i < N; ++i)
#pragma unroll
    for (int j = 0; j < STREAMED; ++j) r[i][j] = 0.0f;
  for (int first = 0; first < QUADS; first += CHAIN) {
    float chain[N][STREAMED];
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) chain[i][j] = 0.0f;
#pragma unroll 2
    for (int c = first; c < min(first + CHAIN, QUADS); ++c) {
      float4 own[N], stream[STREAMED];
#pragma unroll
      for (int i = 0; i < N; ++i) own[i] = *reinterpret_cast<const float4*>(x + 8 * i * STRIDE + 4 * c);
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) stream[j] = *reinterpret_cast<const float4*>(y + 16 * j * STRIDE + 4 * c);
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < STREAMED; ++j) chain[i][j] = dot4(own[i], stream[j], chain[i][j]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) r[i][j] += chain[i][j];
  }
}

// r_out (N,COLUMNS) += w y for this thread's rows and columns.
template <int N> __device__ inline void multiply_back(float4 (&r_out)[N][COLUMNS], const float* s_w, const float* s_y) {
  int tx = threadIdx.x % 16;
  const float* w = s_w + (threadIdx.x / 16) * WEIGHTS;
  for (int s = 0; s < STREAM; s += 4) {
    float4 weight[N];
#pragma unroll
    for (int i = 0; i < N; ++i) weight[i] = *reinterpret_cast<const float4*>(w + 8 * i * WEIGHTS + s);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      // The last column of a narrow or odd width belongs to some threads only.
      if (QUADS % 16 != 0 && tx + 16 * c >= QUADS) continue;
      const float* y = s_y + s * STRIDE + 4 * (tx + 16 * c);
      float4 y0 = *reinterpret_cast<const float4*>(y), y1 = *reinterpret_cast<const float4*>(y + STRIDE);
      float4 y2 = *reinterpret_cast<const float4*>(y + 2 * STRIDE), y3 = *reinterpret_cast<const float4*>(y + 3 * STRIDE);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float4 out = fma4(weight[i].x, y0, r_out[i][c]);
        out = fma4(weight[i].y, y1, out);
        out = fma4(weight[i].z, y2, out);
        r_out[i][c] = fma4(weight[i].w, y3, out);
      }
    }
  }
}

// Sums and maxima over the sixteen threads that share an owned row; the order is the same for all of them.
__device__ inline float row_sum(float x) {
  for (int step = 8; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ inline float row_max(float x) {
  for (int step = 8; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
