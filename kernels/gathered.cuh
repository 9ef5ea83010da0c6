// One query against item rows that lie anywhere: a few lanes of a warp share an item, the warp takes several at a time.
//
//   product = p . e,  square = |e|^2,  e = a + g          score = product [heat / (|p| |e|) for the cosine]
//
// Defines  D; LANES of an item (8, 16 or 32, so that a lane holds at most four float4 where D <= 512); COSINE; CONTEXT;
//          HALF: rows that are gathered are kept as bf16, which are half the bytes (D a multiple of 4)
// Numerics a lane adds its columns in order, lanes are added in a fixed tree: the bits depend on nothing else
#pragma once
#include "device.cuh"

#ifdef HALF
using Stored = bf16;
#else
using Stored = float;
#endif

static constexpr u32 NONE = ~0u;
static constexpr int QUADS = (D + 3) / 4;                      // float4 of a row
static constexpr int MINE = (QUADS + LANES - 1) / LANES;       // float4 of a lane
static constexpr int LISTS = 32 / LANES;                       // items a warp takes at a time

__device__ inline float4 fma4(float w, float4 x, float4 y) {
  return make_float4(fmaf(w, x.x, y.x), fmaf(w, x.y, y.y), fmaf(w, x.z, y.z), fmaf(w, x.w, y.w));
}

__device__ inline float4 add4(float4 x, float4 y) { return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w); }

__device__ inline float dot4(float4 x, float4 y, float sum) {
  return fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
}

// 1 / sqrt(square), and zero for a vector that is zero but for rounding. Rows come from far, so exactness costs nothing here.
__device__ inline float inverse_norm(float square) { return square > 1e-30f ? 1.0f / sqrtf(square) : 0.0f; }

// The float4 of a row that belong to one lane: columns lane, lane + LANES, ...; zeros past the end.
struct Part {
  float4 at[MINE];

  __device__ static Part zero() {
    Part part;
#pragma unroll
    for (int c = 0; c < MINE; ++c) part.at[c] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return part;
  }
  __device__ static Part load(const float* row, int lane) {
    Part part = zero();
    if (row == nullptr) return part;
#pragma unroll
    for (int c = 0; c < MINE; ++c) {
      int column = lane + LANES * c;
      if (QUADS % LANES != 0 && column >= QUADS) continue;
      if constexpr (D % 4 == 0) {
        part.at[c] = reinterpret_cast<const float4*>(row)[column];
      } else {
        part.at[c].x = row[4 * column];
        if (4 * column + 1 < D) part.at[c].y = row[4 * column + 1];
        if (4 * column + 2 < D) part.at[c].z = row[4 * column + 2];
        if (4 * column + 3 < D) part.at[c].w = row[4 * column + 3];
      }
    }
    return part;
  }
  // The same columns of a row of bf16.
  __device__ static Part load(const bf16* row, int lane) {
    Part part = zero();
    if (row == nullptr) return part;
    auto low = [](u32 two) { return __uint_as_float(two << 16); };
    auto high = [](u32 two) { return __uint_as_float(two & 0xffff0000u); };
#pragma unroll
    for (int c = 0; c < MINE; ++c) {
      int column = lane + LANES * c;
      if (QUADS % LANES != 0 && column >= QUADS) continue;
      uint2 four = reinterpret_cast<const uint2*>(row)[column];
      part.at[c] = make_float4(low(four.x), high(four.x), low(four.y), high(four.y));
    }
    return part;
  }
  __device__ void store(float* row, int lane) const {
#pragma unroll
    for (int c = 0; c < MINE; ++c) {
      int column = lane + LANES * c;
      if (QUADS % LANES != 0 && column >= QUADS) continue;
      if constexpr (D % 4 == 0) {
        reinterpret_cast<float4*>(row)[column] = at[c];
      } else {
        row[4 * column] = at[c].x;
        if (4 * column + 1 < D) row[4 * column + 1] = at[c].y;
        if (4 * column + 2 < D) row[4 * column + 2] = at[c].z;
        if (4 * column + 3 < D) row[4 * column + 3] = at[c].w;
      }
    }
  }
  __device__ void add(float w, const Part& x) {
#pragma unroll
    for (int c = 0; c < MINE; ++c) at[c] = fma4(w, x.at[c], at[c]);
  }
  __device__ void scale(float w) {
#pragma unroll
    for (int c = 0; c < MINE; ++c) at[c] = make_float4(w * at[c].x, w * at[c].y, w * at[c].z, w * at[c].w);
  }
  // The sum over the lists of a warp, the same in all of them.
  __device__ void sum_lists() {
#pragma unroll
    for (int c = 0; c < MINE; ++c)
      for (int step = LANES; step < 32; step *= 2) {
        float4 other;
        other.x = __shfl_xor_sync(~0u, at[c].x, step);
        other.y = __shfl_xor_sync(~0u, at[c].y, step);
        other.z = __shfl_xor_sync(~0u, at[c].z, step);
        other.w = __shfl_xor_sync(~0u, at[c].w, step);
        at[c] = add4(at[c], other);
      }
  }
};

__device__ inline float sum_lanes(float x) {
  for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ inline float sum_lists(float x) {
  for (int step = LANES; step < 32; step *= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ inline float dot(const Part& x, const Part& y) {
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < MINE; ++c) sum = dot4(x.at[c], y.at[c], sum);
  return sum_lanes(sum);
}

struct Scored {
  float score, inverse;  // inverse = 1/|e|, one for the dot product
};

// A row's query with its context, spread over the lanes of every list. All lanes of the warp come along.
struct Query {
  int list, lane;
  Part p, g;             // g is zero without a context
  float norm, factor;    // 1/|p| and heat / |p|; one for the dot product

  __device__ Query(const float* all_p, const float* all_g, u32 row, float heat) {
    list = threadIdx.x % 32 / LANES, lane = threadIdx.x % LANES;
    p = Part::load(all_p + (u64)row * D, lane);
    g = CONTEXT ? Part::load(all_g + (u64)row * D, lane) : Part::zero();
    norm = factor = 1.0f;
    if (COSINE) norm = inverse_norm(dot(p, p)), factor = norm * heat;
  }
  // The score of e = a + context, given e.
  __device__ Scored of_encoded(const Part& e) const {
    Scored scored{dot(p, e), 1.0f};
    if (COSINE) {
      scored.inverse = inverse_norm(dot(e, e));
      scored.score *= factor * scored.inverse;
    }
    return scored;
  }
  __device__ Part encode(const Part& a) const {
    Part e = a;
    if (CONTEXT)
#pragma unroll
      for (int c = 0; c < MINE; ++c) e.at[c] = add4(a.at[c], g.at[c]);
    return e;
  }
  // `row` differs from list to list; the null pointer scores a row of zeros.
  __device__ Scored score(const float* row) const { return of_encoded(encode(Part::load(row, lane))); }
};
