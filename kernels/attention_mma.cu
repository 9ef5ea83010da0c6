// Fused multi-head self-attention on tensor cores: attention.cu with operands rounded to bf16, for heads up to 64 wide.
//
//   P = softmax(q k^T / sqrt(E)),  O = (P * M) v;  W = P * M,  dS = P * ((dO v^T) * M - delta),  delta_i = dO_i . O_i
//   dq = dS k / sqrt(E),  dk = dS^T q / sqrt(E),  dv = W^T dO                       (attention.cu has the whole story)
//
// Shapes       as attention.cu: qkv, dqkv (R,3D), out, dout (R,D), lse, delta (R,H), offsets (B+1), order (B)
// Defines      H heads; E head width, D = H E; CAUSAL; DROP
// Launch       256 threads; forward (B H, ceil(longest / 128)) blocks, each the owner of 128 rows of a (sequence, head), backward a
//              block owns one (sequence, head). A warp owns 16 rows as fragments in registers and meets
//              64 rows of the other side at a time, which the block shares: queries own and keys stream by, forward and for
//              dq; then keys own and queries stream by, for dk and dv. Scores are computed a second time for that (7
//              products instead of 5): they never leave the registers, and no two warps add to one number
// Traffic      forward 16 R D bytes, backward 32 R D, and 8 E bytes from the L2 per streamed row and 128 own rows
//   attention_mma_fwd: reads 4 |qkv| + 4 |offsets| + 4 |order|, writes 4 |out| + 4 |lse|
//   attention_mma_bwd: reads 4 |dout| + 4 |out| + 4 |lse| + 4 |qkv| + 4 |delta| + 4 |offsets| + 4 |order|, writes 4 |dqkv| + 4 |delta|
// Numerics     bf16 operands (q, k, v, dO, W, dS), f32 sums, softmax and delta; scores beyond the diagonal are skipped by
//              groups of 16
// Determinism  sums run over tiles in order; one owner per result
// Source       Dao, arXiv 2307.08691 (owner of rows in registers); fragments: the PTX manual, mma.m16n8k16
//
// Dropout bits are drawn once per tile by the whole block and kept as a byte per row and key % 8, one bit for each of the
// eight keys that one Philox call decides (dropout.cuh): neither side's fragments would use all the words of a call.
#include "device.cuh"
#include "philox.cuh"
#include "dropout.cuh"

constexpr int D = H * E, WARPS = 8, THREADS = 32 * WARPS, OWN = 16 * WARPS, TILE = 64;
constexpr int EP = (E + 15) / 16 * 16, KS = EP / 16;   // head width in steps of 16, padded with zeros
constexpr int SE = EP + 8;                             // stride of a shared row: ldmatrix meets no bank twice
constexpr float LOG2E = 1.44269504f;
static_assert(E <= 64, "dk, dv and both operands of a wider head do not fit the registers");

// The fragments of 16 rows of width E: the left operand of a product.
struct Rows { u32 part[KS][4]; };
// Sums of 16 rows: (16, E).
struct Sums { float part[2 * KS][4]; };
// Scores of 16 rows and 16 streamed rows.
struct Scores { float part[2][4]; };

struct Place { u32 first, length, head, warp, lane, g, t; };

__device__ __forceinline__ Place place(const u32* __restrict__ offsets, const u32* __restrict__ order) {
  u32 b = order[blockIdx.x / H], lane = threadIdx.x % 32;
  return Place{offsets[b], offsets[b + 1] - offsets[b], blockIdx.x % H, threadIdx.x / 32, lane, lane / 4, lane % 4};
}

// Two neighbours of a row, zero outside the matrix.
__device__ __forceinline__ u32 pair(const float* __restrict__ from, u32 stride, u32 row, u32 rows, u32 c) {
  if (row >= rows) return 0;
  const float* p = from + (u64)row * stride + c;
#if E % 2 == 0
  if (c >= E) return 0;
  float2 v = *reinterpret_cast<const float2*>(p);
  return pack_bf16(v.x, v.y);
#else
  return pack_bf16(c < E ? p[0] : 0.0f, c + 1 < E ? p[1] : 0.0f);
#endif
}

// Rows row0 .. row0 + 16 of a matrix of `rows` rows, `stride` apart.
__device__ __forceinline__ Rows load_rows(const float* __restrict__ from, u32 stride, u32 row0, u32 rows, const Place& at) {
  Rows r;
#pragma unroll
  for (int k = 0; k < KS; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) r.part[k][i] = pair(from, stride, row0 + at.g + i % 2 * 8, rows, 16 * k + 2 * at.t + i / 2 * 8);
  return r;
}

// `count` rows of `from` into a shared tile, zeros up to the next multiple of 16 rows.
__device__ __forceinline__ void load_tile(u16* s_to, const float* __restrict__ from, u32 stride, u32 count) {
#pragma unroll 2
  for (u32 i = threadIdx.x; i < (count + 15) / 16 * 16 * (EP / 4); i += THREADS) {
    u32 row = i / (EP / 4), c = i % (EP / 4) * 4;
    uint2 packed = make_uint2(pair(from, stride, row, count, c), pair(from, stride, row, count, c + 2));
    *reinterpret_cast<uint2*>(s_to + row * SE + c) = packed;
  }
}

// own (16,E) times the transpose of rows 16 n .. 16 n + 16 of a shared tile.
__device__ __forceinline__ Scores product(const Rows& own, const u16* s_tile, int n, const Place& at) {
  Scores s = {};
  u32 matrix = at.lane / 8;
  const u16* s_row = s_tile + (16 * n + matrix / 2 * 8 + at.lane % 8) * SE + matrix % 2 * 8;
#pragma unroll
  for (int k = 0; k < KS; ++k) {
    u32 b[4];
    ldmatrix_x4(b, s_row + 16 * k);
    u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    mma_bf16_16x8x16(s.part[0], own.part[k], low);
    mma_bf16_16x8x16(s.part[1], own.part[k], high);
  }
  return s;
}

// sums (16,E) += p (16,16), rounded to bf16, times rows 16 n .. 16 n + 16 of a shared tile.
__device__ __forceinline__ void add_product(Sums& sums, const Scores& p, const u16* s_tile, int n, const Place& at) {
  u32 a[4] = {pack_bf16(p.part[0][0], p.part[0][1]), pack_bf16(p.part[0][2], p.part[0][3]),
              pack_bf16(p.part[1][0], p.part[1][1]), pack_bf16(p.part[1][2], p.part[1][3])};
  u32 matrix = at.lane / 8;
  const u16* s_row = s_tile + (16 * n + matrix % 2 * 8 + at.lane % 8) * SE + matrix / 2 * 8;
#pragma unroll
  for (int k = 0; k < KS; ++k) {
    u32 b[4];
    ldmatrix_x4_trans(b, s_row + 16 * k);
    u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    mma_bf16_16x8x16(sums.part[2 * k], a, low);
    mma_bf16_16x8x16(sums.part[2 * k + 1], a, high);
  }
}

// Rows row0 .. row0 + 16 of `to`, those below `rows`: left[i / 2] * sums for the lane's two rows.
__device__ __forceinline__ void store_rows(float* to, u32 stride, u32 row0, u32 rows, const Sums& sums, const float (&left)[2],
                                           const Place& at) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    u32 row = row0 + at.g + 8 * half;
    if (row >= rows) continue;
#pragma unroll
    for (int n = 0; n < 2 * KS; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        u32 c = 8 * n + 2 * at.t + i;
        if (c < E) to[(u64)row * stride + c] = sums.part[n][2 * half + i] * left[half];
      }
  }
}

// The keep bits of `rows` rows from row0 on with `blocks` blocks of 64 keys from key block `block0` on:
// s_keep[b][row][key % 8], bit (key % 64) / 8.
__device__ __forceinline__ void draw_bits(u8* s_keep, const Dropout& dropout, u32 row0, u32 rows, u32 block0, u32 blocks,
                                          const Place& at) {
#if DROP
  for (u32 n = threadIdx.x; n < rows * blocks * 8; n += THREADS) {
    u64 packed = (u64)at.first + row0 + n / 8 % rows;
    Words bits = dropout_words(dropout, ((packed * H + at.head) << 10) + block0 + n / 8 / rows, n % 8);
    u32 keep = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) keep |= (dropout_factor(dropout, bits, j) != 0.0f ? 1u : 0u) << j;
    s_keep[n] = (u8)keep;
  }
#endif
}

__device__ __forceinline__ float kept(u32 byte, int j, const Dropout& dropout) {
#if DROP
  return byte >> j & 1 ? dropout.scale : 0.0f;
#else
  return 1.0f;
#endif
}

__device__ __forceinline__ float over_four(float x, bool largest) {
#pragma unroll
  for (int step = 2; step > 0; step /= 2) {
    float other = __shfl_xor_sync(~0u, x, step);
    x = largest ? fmaxf(x, other) : x + other;
  }
  return x;
}

// Groups of 16 streamed keys that rows row0 .. row0 + 16 can see in the tile at k0.
__device__ __forceinline__ int visible_groups(u32 row0, u32 k0, u32 length) {
  if (row0 >= length) return 0;
  u32 limit = CAUSAL ? min(row0 + 16, length) : length;
  return limit <= k0 ? 0 : (int)min((limit - k0 + 15) / 16, (u32)(TILE / 16));
}

KERNEL(THREADS, attention_mma_fwd)
(float* out, float* lse, const float* __restrict__ qkv, const u32* __restrict__ offsets, const u32* __restrict__ order,
 float softmax_scale, DROPOUT_PARAMETERS) {
  SHARED(u16, s_k, [TILE * SE]);
  SHARED(u16, s_v, [TILE * SE]);
  SHARED(u8, s_keep, [OWN * 8]);
  Dropout dropout = DROPOUT_ARGUMENTS;
  Place at = place(offsets, order);
  const float* q = qkv + (u64)at.first * 3 * D + at.head * E;
  float c2 = softmax_scale * LOG2E;

  // The last rows, which see the most keys, first.
  u32 q0 = (gridDim.y - 1 - blockIdx.y) * OWN;
  if (q0 >= at.length) return;
  u32 row0 = q0 + 16 * at.warp, keys = CAUSAL ? min(q0 + OWN, at.length) : at.length;
  Rows r_q = load_rows(q, 3 * D, row0, at.length, at);
  Sums r_o = {};
  float r_top[2] = {-INF, -INF}, r_sum[2] = {};
  for (u32 k0 = 0; k0 < keys; k0 += TILE) {
    u32 count = min((u32)TILE, at.length - k0);
    __syncthreads();
    load_tile(s_k, q + (u64)k0 * 3 * D + D, 3 * D, count);
    load_tile(s_v, q + (u64)k0 * 3 * D + 2 * D, 3 * D, count);
    draw_bits(s_keep, dropout, q0, OWN, k0 / 64, 1, at);
    __syncthreads();
    int groups = visible_groups(row0, k0, at.length);
    if (groups == 0) continue;
    Scores r_s[TILE / 16];
    float top[2] = {r_top[0], r_top[1]};
#pragma unroll
    for (int n = 0; n < TILE / 16; ++n) {
      if (n >= groups) continue;
      r_s[n] = product(r_q, s_k, n, at);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        u32 row = row0 + at.g + i / 2 % 2 * 8, key = k0 + 16 * n + i / 4 * 8 + 2 * at.t + i % 2;
        float& s = r_s[n].part[i / 4][i % 4];
        if (key >= at.length || (CAUSAL && key > row)) s = -INF;
        top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s);
      }
    }
    float fade[2];
    u32 keep[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[half] = over_four(top[half], true);
      fade[half] = exp2_fast((r_top[half] - top[half]) * c2);
      r_top[half] = top[half];
      r_sum[half] *= fade[half];
#if DROP
      keep[half] = *reinterpret_cast<const u16*>(s_keep + (16 * at.warp + at.g + 8 * half) * 8 + 2 * at.t);
#endif
    }
#pragma unroll
    for (int n = 0; n < 2 * KS; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) r_o.part[n][i] *= fade[i / 2];
#pragma unroll
    for (int n = 0; n < TILE / 16; ++n) {
      if (n >= groups) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        int half = i / 2 % 2;
        float p = exp2_fast((r_s[n].part[i / 4][i % 4] - top[half]) * c2);
        r_sum[half] += p;
        r_s[n].part[i / 4][i % 4] = p * kept(keep[half] >> i % 2 * 8, 2 * n + i / 4, dropout);
      }
      add_product(r_o, r_s[n], s_v, n, at);
    }
  }
  if (row0 >= at.length) return;
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = over_four(r_sum[half], false);
    inverse[half] = 1.0f / sum;
    u32 row = row0 + at.g + 8 * half;
    if (at.t == 0 && row < at.length)
      lse[((u64)at.first + row) * H + at.head] = r_top[half] * softmax_scale + logf(sum);
  }
  store_rows(out + (u64)at.first * D + at.head * E, D, row0, at.length, r_o, inverse, at);
}

KERNEL(THREADS, attention_mma_bwd)
(float* dqkv, float* delta, const float* __restrict__ dout, const float* __restrict__ out, const float* __restrict__ lse,
 const float* __restrict__ qkv, const u32* __restrict__ offsets, const u32* __restrict__ order, float softmax_scale,
 DROPOUT_PARAMETERS) {
  // Keys and values stream through these two, then queries and dO.
  SHARED(u16, s_a, [TILE * SE]);
  SHARED(u16, s_b, [TILE * SE]);
  SHARED(u8, s_keep, [OWN * 8]);
  SHARED(float, s_lse, [TILE]);
  SHARED(float, s_delta, [TILE]);
  Dropout dropout = DROPOUT_ARGUMENTS;
  Place at = place(offsets, order);
  u64 packed0 = at.first;
  const float* q = qkv + packed0 * 3 * D + at.head * E;
  const float* d_out = dout + packed0 * D + at.head * E;
  float* dq = dqkv + packed0 * 3 * D + at.head * E;
  float c2 = softmax_scale * LOG2E, scales[2] = {softmax_scale, softmax_scale}, ones[2] = {1.0f, 1.0f};

  // ---- Rows own: delta and dq
  for (u32 q0 = 0; q0 < at.length; q0 += OWN) {
    u32 row0 = q0 + 16 * at.warp, keys = CAUSAL ? min(q0 + OWN, at.length) : at.length;
    Rows r_q = load_rows(q, 3 * D, row0, at.length, at), r_do = load_rows(d_out, D, row0, at.length, at);
    float r_lse[2], r_delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      u32 row = row0 + at.g + 8 * half;
      bool inside = row < at.length;
      u64 from = (packed0 + row) * D + at.head * E;
      float sum = 0.0f;
      for (u32 c = at.t; c < E; c += 4)
        if (inside) sum += dout[from + c] * out[from + c];
      r_delta[half] = over_four(sum, false);
      r_lse[half] = inside ? lse[(packed0 + row) * H + at.head] * LOG2E : 0.0f;
      if (inside && at.t == 0) delta[(packed0 + row) * H + at.head] = r_delta[half];
    }
    Sums r_dq = {};
    for (u32 k0 = 0; k0 < keys; k0 += TILE) {
      u32 count = min((u32)TILE, at.length - k0);
      __syncthreads();
      load_tile(s_a, q + (u64)k0 * 3 * D + D, 3 * D, count);
      load_tile(s_b, q + (u64)k0 * 3 * D + 2 * D, 3 * D, count);
      draw_bits(s_keep, dropout, q0, OWN, k0 / 64, 1, at);
      __syncthreads();
      int groups = visible_groups(row0, k0, at.length);
      u32 keep[2] = {};
#if DROP
      for (int half = 0; half < 2; ++half)
        keep[half] = *reinterpret_cast<const u16*>(s_keep + (16 * at.warp + at.g + 8 * half) * 8 + 2 * at.t);
#endif
#pragma unroll 1
      for (int n = 0; n < groups; ++n) {
        Scores s = product(r_q, s_a, n, at), dp = product(r_do, s_b, n, at);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          int half = i / 2 % 2;
          u32 row = row0 + at.g + 8 * half, key = k0 + 16 * n + i / 4 * 8 + 2 * at.t + i % 2;
          bool visible = row < at.length && key < at.length && (!CAUSAL || key <= row);
          float p = visible ? exp2_fast(s.part[i / 4][i % 4] * c2 - r_lse[half]) : 0.0f;
          float f = kept(keep[half] >> i % 2 * 8, 2 * n + i / 4, dropout);
          s.part[i / 4][i % 4] = p * (dp.part[i / 4][i % 4] * f - r_delta[half]);
        }
        add_product(r_dq, s, s_a, n, at);
      }
    }
    store_rows(dq, 3 * D, row0, at.length, r_dq, scales, at);
  }

  // ---- Keys own: dk and dv, of transposed scores
  for (u32 k0 = 0; k0 < at.length; k0 += OWN) {
    u32 key0 = k0 + 16 * at.warp;
    Rows r_k = load_rows(q + D, 3 * D, key0, at.length, at), r_v = load_rows(q + 2 * D, 3 * D, key0, at.length, at);
    Sums r_dk = {}, r_dv = {};
    for (u32 q0 = CAUSAL ? k0 : 0; q0 < at.length; q0 += TILE) {
      u32 count = min((u32)TILE, at.length - q0);
      __syncthreads();
      load_tile(s_a, q + (u64)q0 * 3 * D, 3 * D, count);
      load_tile(s_b, d_out + (u64)q0 * D, D, count);
      draw_bits(s_keep, dropout, q0, TILE, k0 / 64, OWN / 64, at);
      for (u32 row = threadIdx.x; row < TILE; row += THREADS) {
        bool inside = row < count;
        s_lse[row] = inside ? lse[(packed0 + q0 + row) * H + at.head] * LOG2E : 0.0f;
        s_delta[row] = inside ? delta[(packed0 + q0 + row) * H + at.head] : 0.0f;
      }
      __syncthreads();
      int from = CAUSAL && key0 > q0 ? (int)((key0 - q0) / 16) : 0, to = key0 < at.length ? (int)((count + 15) / 16) : 0;
#pragma unroll 1
      for (int n = from; n < to; ++n) {
        Scores s = product(r_k, s_a, n, at), dp = product(r_v, s_b, n, at);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          u32 key = key0 + at.g + i / 2 % 2 * 8, place = 16 * n + i / 4 * 8 + 2 * at.t + i % 2, row = q0 + place;
          bool visible = row < at.length && key < at.length && (!CAUSAL || key <= row);
          float p = visible ? exp2_fast(s.part[i / 4][i % 4] * c2 - s_lse[place]) : 0.0f;
          float f = 1.0f;
#if DROP
          u32 byte = s_keep[(at.warp / 4 * TILE + place) * 8 + at.g];
          f = kept(byte >> at.warp % 4 * 2, i / 2 % 2, dropout);
#endif
          s.part[i / 4][i % 4] = p * f;
          dp.part[i / 4][i % 4] = p * (dp.part[i / 4][i % 4] * f - s_delta[place]);
        }
        add_product(r_dv, s, s_b, n, at);
        add_product(r_dk, dp, s_a, n, at);
      }
    }
    store_rows(dq + D, 3 * D, key0, at.length, r_dk, scales, at);
    store_rows(dq + 2 * D, 3 * D, key0, at.length, r_dv, ones, at);
  }
}
