// Cross-entropy over the whole catalogue on tensor cores: full_softmax.cu with operands rounded to bf16, without contexts.
//
//   s = p . a [heat / (|p| |a|)]      ds = scale (softmax(s) - one-hot)      (full_softmax.cu has the whole story)
//   rows    dp[r] = sum_i alpha a - (sum_i ds s / |p|^2) p         alpha = ds [heat / (|p| |a|)]
//   items   da[i] += sum_r alpha p + (sum_r beta) a                beta = -ds s / |a|^2, cosine only
//
// Shapes   p, dp (R,D)  a, da (V,D)  targets (R)  row_factor (R) heat / |p|, item_inverse (V) 1 / |a|; null for the dot product
//          saved (R): the largest score in units of ln 2, scale / sum  losses (R)  partial (splits,V,D)
// Defines  D at most 128; COSINE
// Launch   256 threads. A warp owns 16 vectors as fragments in registers and their sums; 64 vectors of the other side at a time
//          pass by in shared memory, shared by the block's eight warps. rows: ceil(R/128) blocks; items: (ceil(V/128), splits)
//          blocks, parts added by parts.cu. norms: a warp per vector
// Traffic  per block the other side once, 4 D bytes a vector, from L2; scores and probabilities never leave the registers
//   full_softmax_mma_norms: reads 4 n D, writes 4 n
//   full_softmax_mma_rows: reads 4 |p| + 4 |a| + 4 |targets| + 4 |row_factor| + 4 |item_inverse|, writes 4 |dp| + 4 |saved| + 4 |losses|
//   full_softmax_mma_items: reads at most 4 |da| + 4 |p| + 4 |a| + 4 |targets| + 4 |saved| + 4 |row_factor| + 4 |item_inverse|, writes at most 4 |da| + 4 |partial|
// Numerics bf16 operands (p, a, probabilities), f32 sums, norms and softmax; exponentials of the hardware
// Determinism  tiles in order, one owner per result
// Source   FlashAttention-2 (Dao, arXiv 2307.08691): owner of rows in registers; fragments: the PTX manual, mma.m16n8k16
#include "device.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, OWN = 16 * WARPS, STREAM = 64;
constexpr int STEPS = (D + 15) / 16, PADDED = 16 * STEPS;  // width in steps of 16, padded with zeros
constexpr int STRIDE = PADDED + 8;                          // of a shared row: ldmatrix meets no bank twice
constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;
constexpr u32 NONE = ~0u;
static_assert(D <= 128, "fragments and sums of a wider vector do not fit the registers");

struct Owned { u32 part[STEPS][4]; };         // 16 vectors: the left operand of a product
struct Sums { float part[2 * STEPS][4]; };    // 16 vectors of sums
struct Scores { float part[STREAM / 8][4]; }; // against 64 streamed vectors

// The thread's place in fragments: rows g and g + 8 of its warp's 16, columns 2 t and 2 t + 1 of every 8.
struct Place {
  u32 warp, lane, g, t;
  __device__ Place() : warp(threadIdx.x / 32), lane(threadIdx.x % 32), g(lane / 4), t(lane % 4) {}
};

// Numbers c and c + 1 of a row, zeros past its end.
__device__ inline float2 two(const float* row, u32 c) {
  if constexpr (D % 2 == 0) {
    if (c < D) return *reinterpret_cast<const float2*>(row + c);
    return make_float2(0.0f, 0.0f);
  }
  return make_float2(c < D ? row[c] : 0.0f, c + 1 < D ? row[c + 1] : 0.0f);
}

__device__ inline void put(float* row, u32 c, float x, float y) {
  if constexpr (D % 2 == 0) {
    if (c < D) *reinterpret_cast<float2*>(row + c) = make_float2(x, y);
  } else {
    if (c < D) row[c] = x;
    if (c + 1 < D) row[c + 1] = y;
  }
}

__device__ inline Owned load_owned(const float* x, u32 first, u32 end, const Place& at) {
  Owned own;
#pragma unroll
  for (int k = 0; k < STEPS; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u32 row = first + at.g + i % 2 * 8;
      float2 x2 = row < end ? two(x + (u64)row * D, 16 * k + 2 * at.t + i / 2 * 8) : make_float2(0.0f, 0.0f);
      own.part[k][i] = pack_bf16(x2.x, x2.y);
    }
  return own;
}

// s_tile (STREAM,PADDED) = vectors first .. first + STREAM, zeros from `end` on.
__device__ inline void load_tile(u16* s_tile, const float* x, u32 first, u32 end) {
#pragma unroll 4
  for (u32 i = threadIdx.x; i < STREAM * PADDED / 4; i += THREADS) {
    u32 row = i / (PADDED / 4), c = i % (PADDED / 4) * 4;
    float2 low = make_float2(0.0f, 0.0f), high = low;
    if (first + row < end) low = two(x + (u64)(first + row) * D, c), high = two(x + (u64)(first + row) * D, c + 2);
    *reinterpret_cast<uint2*>(s_tile + row * STRIDE + c) = make_uint2(pack_bf16(low.x, low.y), pack_bf16(high.x, high.y));
  }
}

// own (16,D) times the transpose of the tile.
__device__ inline void products(Scores& s, const Owned& own, const u16* s_tile, const Place& at) {
#pragma unroll
  for (int n = 0; n < STREAM / 16; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s.part[2 * n][i] = s.part[2 * n + 1][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < STEPS; ++k) {
      // Four matrices: vectors 0-7 and columns 0-7, columns 8-15, then vectors 8-15.
      u32 r[4], vector = 16 * n + at.lane / 16 * 8 + at.lane % 8, column = 16 * k + at.lane / 8 % 2 * 8;
      ldmatrix_x4(r, s_tile + vector * STRIDE + column);
      u32 low[2] = {r[0], r[1]}, high[2] = {r[2], r[3]};
      mma_bf16_16x8x16(s.part[2 * n], own.part[k], low);
      mma_bf16_16x8x16(s.part[2 * n + 1], own.part[k], high);
    }
  }
}

// sums (16,D) += weights (16,STREAM) times the tile.
__device__ inline void multiply_back(Sums& sums, const Scores& weights, const u16* s_tile, const Place& at) {
#pragma unroll
  for (int k = 0; k < STREAM / 16; ++k) {
    const float(&x)[4] = weights.part[2 * k];
    const float(&y)[4] = weights.part[2 * k + 1];
    u32 left[4] = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3])};
#pragma unroll
    for (int n = 0; n < STEPS; ++n) {
      // Four matrices: vectors 0-7 and columns 0-7, vectors 8-15, then columns 8-15.
      u32 r[4], vector = 16 * k + at.lane / 8 % 2 * 8 + at.lane % 8, column = 16 * n + at.lane / 16 * 8;
      ldmatrix_x4_trans(r, s_tile + vector * STRIDE + column);
      u32 low[2] = {r[0], r[1]}, high[2] = {r[2], r[3]};
      mma_bf16_16x8x16(sums.part[2 * n], left, low);
      mma_bf16_16x8x16(sums.part[2 * n + 1], left, high);
    }
  }
}

// Over the four lanes that share a row.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

KERNEL(256, full_softmax_mma_norms)(float* inverse, const float* x, u32 n, float factor) {
  u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
  if (row >= n) return;  // whole warps
  float square = 0.0f;
  for (u32 c = threadIdx.x % 32; c < D; c += 32) square = fmaf(x[(u64)row * D + c], x[(u64)row * D + c], square);
  for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
  if (threadIdx.x % 32 == 0) inverse[row] = square > 1e-30f ? factor / sqrtf(square) : 0.0f;
}

KERNEL(256, full_softmax_mma_rows)(float* dp, float2* saved, float* losses, const float* p, const float* a, const u32* targets,
                                   const float* row_factor, const float* item_inverse, u32 R, u32 V, float heat, float scale) {
  SHARED(u16, s_tile, [STREAM * STRIDE]);
  SHARED(float, s_inverse, [STREAM]);
  SHARED(float, s_target, [OWN]);
  Place at;
  u32 first = blockIdx.x * OWN + 16 * at.warp;
  Owned own = load_owned(p, first, R, at);
  Sums sums = {};
  // Of rows g and g + 8: largest score and sum of exponentials, sum of exponentials times scores; in units of ln 2.
  float most[2] = {-INF, -INF}, sum[2] = {0.0f, 0.0f}, score[2] = {0.0f, 0.0f}, factor[2];
  u32 target[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    u32 r = first + at.g + 8 * h;
    target[h] = r < R ? targets[r] : NONE;
    factor[h] = LOG2E * (COSINE && r < R ? row_factor[r] : 1.0f);
  }
  for (u32 item = 0; item < V; item += STREAM) {
    __syncthreads();  // everyone is done with the last tile
    load_tile(s_tile, a, item, V);
    if (COSINE && threadIdx.x < STREAM) s_inverse[threadIdx.x] = item + threadIdx.x < V ? item_inverse[item + threadIdx.x] : 0.0f;
    __syncthreads();
    Scores s;
    products(s, own, s_tile, at);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float larger = most[h];
#pragma unroll
      for (int n = 0; n < STREAM / 8; ++n)
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          u32 column = 8 * n + 2 * at.t + i % 2;
          s.part[n][i] *= COSINE ? factor[h] * s_inverse[column] : factor[h];
          if (item + column == target[h]) s_target[16 * at.warp + at.g + 8 * h] = s.part[n][i];
          if (item + column >= V) s.part[n][i] = -INF;
          larger = fmaxf(larger, s.part[n][i]);
        }
      larger = row_max(larger);
      float fade = exp2_fast(most[h] - larger);
      most[h] = larger;
      sum[h] *= fade, score[h] *= fade;
#pragma unroll
      for (int n = 0; n < 2 * STEPS; ++n) sums.part[n][2 * h] *= fade, sums.part[n][2 * h + 1] *= fade;
#pragma unroll
      for (int n = 0; n < STREAM / 8; ++n)
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          u32 column = 8 * n + 2 * at.t + i % 2;
          float e = exp2_fast(s.part[n][i] - larger);
          sum[h] += e;
          // Past the end of the table e is 0 and s minus infinity, whose product is not a number.
          if (COSINE && item + column < V) score[h] = fmaf(e, s.part[n][i], score[h]);
          s.part[n][i] = COSINE ? e * s_inverse[column] : e;
        }
    }
    multiply_back(sums, s, s_tile, at);
  }
  __syncwarp();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float total = row_sum(sum[h]), scores = LN2 * row_sum(score[h]);
    u32 r = first + at.g + 8 * h;
    if (r >= R) continue;
    float share = 1.0f / total, own_score = LN2 * s_target[16 * at.warp + at.g + 8 * h];
    if (at.t == 0) {
      saved[r] = make_float2(most[h], scale * share);
      losses[r] = LN2 * most[h] - own_score + logf(total);
    }
    float c = COSINE ? row_factor[r] : 1.0f, inverse = COSINE ? item_inverse[target[h]] : 1.0f, q = COSINE ? c / heat : 0.0f;
    float gamma = -scale * (scores * share - own_score) * q * q;
#pragma unroll
    for (int n = 0; n < 2 * STEPS; ++n) {
      u32 column = 8 * n + 2 * at.t;
      float2 t = two(a + (u64)target[h] * D, column), query = COSINE ? two(p + (u64)r * D, column) : make_float2(0.0f, 0.0f);
      float x = scale * c * fmaf(share, sums.part[n][2 * h], -inverse * t.x);
      float y = scale * c * fmaf(share, sums.part[n][2 * h + 1], -inverse * t.y);
      put(dp + (u64)r * D, column, COSINE ? fmaf(gamma, query.x, x) : x, COSINE ? fmaf(gamma, query.y, y) : y);
    }
  }
}

KERNEL(256, full_softmax_mma_items)(float* da, float* partial, const float2* saved, const float* p, const float* a,
                                    const u32* targets, const float* row_factor, const float* item_inverse, u32 R, u32 V,
                                    float scale) {
  SHARED(u16, s_tile, [STREAM * STRIDE]);
  SHARED(float2, s_saved, [STREAM]);
  SHARED(u32, s_target, [STREAM]);
  SHARED(float, s_factor, [STREAM]);
  Place at;
  u32 first = blockIdx.x * OWN + 16 * at.warp;
  Owned own = load_owned(a, first, V, at);
  Sums sums = {};
  float inverse[2], betas[2] = {0.0f, 0.0f};
#pragma unroll
  for (int h = 0; h < 2; ++h) inverse[h] = COSINE && first + at.g + 8 * h < V ? item_inverse[first + at.g + 8 * h] : 1.0f;
  // Whole tiles are shared out, so that a part does not depend on how many rows the last tile has.
  u32 tiles = (R + STREAM - 1) / STREAM, splits = gridDim.y;
  u32 begin = (u32)((u64)tiles * blockIdx.y / splits) * STREAM, end = (u32)((u64)tiles * (blockIdx.y + 1) / splits) * STREAM;
  for (u32 row = begin; row < end; row += STREAM) {
    __syncthreads();
    load_tile(s_tile, p, row, R);
    if (threadIdx.x < STREAM) {
      u32 r = row + threadIdx.x;
      // A row past the end weighs nothing: its scores are 0, its share is 0.
      s_saved[threadIdx.x] = r < R ? saved[r] : make_float2(0.0f, 0.0f);
      s_target[threadIdx.x] = r < R ? targets[r] : NONE;
      s_factor[threadIdx.x] = COSINE && r < R ? row_factor[r] : 1.0f;
    }
    __syncthreads();
    Scores s;
    products(s, own, s_tile, at);
#pragma unroll
    for (int n = 0; n < STREAM / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        u32 column = 8 * n + 2 * at.t + i % 2;
        float c = COSINE ? s_factor[column] * inverse[i / 2] : 1.0f, score = s.part[n][i] * c;
        float2 of_row = s_saved[column];
        float ds = exp2_fast(fmaf(score, LOG2E, -of_row.x)) * of_row.y;
        if (first + at.g + 8 * (i / 2) == s_target[column]) ds -= scale;
        if (COSINE) betas[i / 2] = fmaf(-ds * inverse[i / 2] * inverse[i / 2], score, betas[i / 2]);
        s.part[n][i] = ds * c;
      }
    multiply_back(sums, s, s_tile, at);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float beta = row_sum(betas[h]);
    u32 item = first + at.g + 8 * h;
    if (item >= V) continue;
    float* to = partial ? partial + ((u64)blockIdx.y * V + item) * D : da + (u64)item * D;
#pragma unroll
    for (int n = 0; n < 2 * STEPS; ++n) {
      u32 column = 8 * n + 2 * at.t;
      float x = sums.part[n][2 * h], y = sums.part[n][2 * h + 1];
      if (COSINE) {
        float2 own_row = two(a + (u64)item * D, column);
        x = fmaf(beta, own_row.x, x), y = fmaf(beta, own_row.y, y);
      }
      if (!partial) {
        float2 before = two(to, column);
        x += before.x, y += before.y;
      }
      put(to, column, x, y);
    }
  }
}
