// Fused multi-head self-attention over packed sequences, forward and backward, in f32.
//
//   S = q k^T / sqrt(E)  (L,L),  causal: S[i,j] = -inf for j > i;   P = softmax(S),   O = (P * M) v    M: dropout factors
//   backward, with W = P * M and delta_i = dO_i . O_i:
//   dv = W^T dO,  dP = (dO v^T) * M,  dS = P * (dP - delta),  dq = dS k / sqrt(E),  dk = dS^T q / sqrt(E)
//
// Shapes       qkv, dqkv (R,3D), out, dout (R,D), lse, delta (R,H), offsets (B+1), order (B): sequences, longest first
// Defines      H heads; E head width, D = H E; CAUSAL; DROP; TQ rows and TK keys of a tile
// Launch       128 threads. Forward (B H, ceil(longest / TQ)) blocks, each the owner of TQ rows of a (sequence, head): a small
//              batch still fills the processors, and long sequences do not end last. Backward a block owns one (sequence, head)
//              and therefore all of its dq, dk and dv: no atomics and no second kernel. Dynamic shared memory: the tiles named s_
//              below, as the launcher counts them
// Traffic      forward 16 R D bytes, backward 32 R D, while the rows of a sequence stay in the L2 between tiles
//   attention_fwd: reads 4 |qkv| + 4 |offsets| + 4 |order|, writes 4 |out| + 4 |lse|
//   attention_bwd: reads at most 4 |dqkv| + 4 |dout| + 4 |out| + 4 |lse| + 4 |qkv| + 4 |delta| + 4 |offsets| + 4 |order|, writes 4 |dqkv| + 4 |delta|
// Numerics     f32; softmax with a running maximum; lse is kept, and the backward pass computes P again from it
// Determinism  sums run over tiles in order; one owner per result
// Source       Vaswani et al. 2017; tiles and recomputation: Dao et al., arXiv 2205.14135
//
// How a warp computes a tile: lane = 8 g + i. Its lanes hold scores of rows g + 4 r (r = 0, 1, ...) and keys i + 8 j: eight
// lanes together have a row, so a row's maximum costs three shuffles, and one Philox call gives a lane exactly its
// dropout factors (dropout.cuh). Results have columns VW i + 8 VW j, so that eight lanes read 32 VW bytes in a row.
// Rows of shared tiles are padded such that neither pattern meets a bank twice. Keys are skipped by groups of 16 beyond
// the last row of a warp: at L = 200 five sixths of the computed scores are used, against two fifths with whole tiles.
#include "device.cuh"
#include "philox.cuh"
#include "dropout.cuh"
#include "reduce.cuh"

constexpr int D = H * E, WARPS = 4, THREADS = 32 * WARPS;
constexpr int EP = E <= 8 ? 8 : (E + 15) / 16 * 16;                              // head width, padded with zeros
constexpr int CPL = EP / 8, VW = CPL % 4 == 0 ? 4 : CPL % 2 == 0 ? 2 : 1;        // columns of a lane, in neighbours of VW
constexpr int SE = EP + 4, SK = TK + 8;                                          // strides of shared rows
constexpr int RQ = TQ / (4 * WARPS), RK = TK / (4 * WARPS);                      // rows and keys of a lane
constexpr int JK = TK / 8;                                                       // scores of a lane in a row
static_assert(TQ % 32 == 0 && TK % 32 == 0 && 64 % TK == 0, "tiles of keys are blocks of dropout bits, or their halves");

// One (sequence, head), and the place of a thread in its warp.
struct Place { u32 first, length, head, warp, g, i; };

__device__ __forceinline__ Place place(const u32* __restrict__ offsets, const u32* __restrict__ order) {
  u32 b = order[blockIdx.x / H], lane = threadIdx.x % 32;
  return Place{offsets[b], offsets[b + 1] - offsets[b], blockIdx.x % H, threadIdx.x / 32, lane / 8, lane % 8};
}

// N neighbouring floats of shared memory.
template <int N>
__device__ __forceinline__ void load(float* r, const float* s_from) {
  if constexpr (N == 4) {
    float4 v = *reinterpret_cast<const float4*>(s_from);
    r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
  } else if constexpr (N == 2) {
    float2 v = *reinterpret_cast<const float2*>(s_from);
    r[0] = v.x, r[1] = v.y;
  } else {
    r[0] = *s_from;
  }
}

// The columns of lane i in a shared row of width E.
__device__ __forceinline__ void load_columns(float (&r)[CPL], const float* s_row, u32 i) {
#pragma unroll
  for (int c = 0; c < CPL; c += VW) load<VW>(r + c, s_row + 8 * c + VW * i);
}

__device__ __forceinline__ u32 column(int c, u32 i) { return 8 * (c / VW * VW) + VW * i + c % VW; }

// `count` rows of `from`, `stride` apart, into a shared tile; up to the next multiple of 16 rows and EP columns, zeros.
__device__ __forceinline__ void load_tile(float* s_to, const float* __restrict__ from, u32 stride, u32 count) {
  for (u32 at = threadIdx.x; at < (count + 15) / 16 * 16 * (EP / 4); at += THREADS) {
    u32 row = at / (EP / 4), c = at % (EP / 4) * 4;
    const float* p = from + (u64)row * stride + c;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (row < count && c < E) {
#if E % 4 == 0
      v = *reinterpret_cast<const float4*>(p);
#else
      v.x = p[0];
      if (c + 1 < E) v.y = p[1];
      if (c + 2 < E) v.z = p[2];
      if (c + 3 < E) v.w = p[3];
#endif
    }
    *reinterpret_cast<float4*>(s_to + row * SE + c) = v;
  }
}

// How many groups of 16 keys of the tile at k0 the `count` rows from `row0` on can see.
__device__ __forceinline__ int visible_groups(u32 row0, u32 count, u32 k0, u32 length) {
  if (row0 >= length) return 0;
  u32 limit = CAUSAL ? min(row0 + count, length) : length;
  return limit <= k0 ? 0 : (int)min((limit - k0 + 15) / 16, (u32)(TK / 16));
}

// r[r][j] = row g + 4 r of the warp's rows in s_a times key i + 8 j of s_b, for keys of the first `groups`.
__device__ __forceinline__ void products(float (&r_s)[RQ][JK], const float* s_a, const float* s_b, int groups, const Place& at) {
#pragma unroll
  for (int r = 0; r < RQ; ++r)
#pragma unroll
    for (int j = 0; j < JK; ++j) r_s[r][j] = 0.0f;
  const float* s_rows = s_a + (at.warp * 4 * RQ + at.g) * SE;
  // Not unrolled: 16 RQ JK / 4 products hide the loads of the next step, and more registers would halve the occupancy.
#pragma unroll 1
  for (int e = 0; e < EP; e += 4) {
    float r_a[RQ][4];
#pragma unroll
    for (int r = 0; r < RQ; ++r) load<4>(r_a[r], s_rows + 4 * r * SE + e);
#pragma unroll
    for (int j = 0; j < JK; ++j) {
      if (j / 2 >= groups) continue;
      float r_b[4];
      load<4>(r_b, s_b + (at.i + 8 * j) * SE + e);
#pragma unroll
      for (int r = 0; r < RQ; ++r)
#pragma unroll
        for (int t = 0; t < 4; ++t) r_s[r][j] += r_a[r][t] * r_b[t];
    }
  }
}

// r_sum (rows, columns) += the warp's rows of s_p (TQ,TK) times s_x (TK,E), over the keys of the first `groups`.
__device__ __forceinline__ void add_product(float (&r_sum)[RQ][CPL], const float* s_p, const float* s_x, int groups,
                                            const Place& at) {
  const float* s_rows = s_p + (at.warp * 4 * RQ + at.g) * SK;
  for (int key = 0; key < 16 * groups; key += 4) {
    float r_p[RQ][4];
#pragma unroll
    for (int r = 0; r < RQ; ++r) load<4>(r_p[r], s_rows + 4 * r * SK + key);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      float r_x[CPL];
      load_columns(r_x, s_x + (key + t) * SE, at.i);
#pragma unroll
      for (int r = 0; r < RQ; ++r)
#pragma unroll
        for (int c = 0; c < CPL; ++c) r_sum[r][c] += r_p[r][t] * r_x[c];
    }
  }
}

// The dropout bits of this lane's keys of the tile at k0, in row `row` of the packed batch.
__device__ __forceinline__ Words row_bits(const Dropout& dropout, u64 row, u32 k0, const Place& at) {
  // 2^10 blocks of 64 keys to a row and head, as on the plain path.
  Words bits = dropout_words(dropout, ((row * H + at.head) << 10) + k0 / 64, at.i);
  if (k0 % 64) bits.w[0] = bits.w[2], bits.w[1] = bits.w[3];
  return bits;
}

__device__ __forceinline__ float max_of_row(float x) {
#pragma unroll
  for (int step = 4; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
__device__ __forceinline__ float sum_of_row(float x) {
#pragma unroll
  for (int step = 4; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// Four blocks to a processor spill nothing up to this width, and three beyond it.
#undef ROOMY
#if E <= 112
#define ROOMY , 4
#else
#define ROOMY , 3
#endif
KERNEL(THREADS, attention_fwd)
(float* out, float* lse, const float* __restrict__ qkv, const u32* __restrict__ offsets, const u32* __restrict__ order,
 float softmax_scale, DROPOUT_PARAMETERS) {
  SHARED_DYN(float, s_all);
  float *s_q = s_all, *s_k = s_q + TQ * SE, *s_v = s_k + TK * SE, *s_p = s_v + TK * SE;
  Dropout dropout = DROPOUT_ARGUMENTS;
  Place at = place(offsets, order);
  const float* q = qkv + (u64)at.first * 3 * D + at.head * E;

  // The last rows, which see the most keys, first.
  u32 q0 = (gridDim.y - 1 - blockIdx.y) * TQ;
  if (q0 >= at.length) return;
  u32 row0 = q0 + at.warp * 4 * RQ;
  float r_o[RQ][CPL] = {}, r_max[RQ], r_sum[RQ];
#pragma unroll
  for (int r = 0; r < RQ; ++r) r_max[r] = -INF, r_sum[r] = 0.0f;
  u32 keys = CAUSAL ? min(q0 + TQ, at.length) : at.length;
  for (u32 k0 = 0; k0 < keys; k0 += TK) {
    __syncthreads();
    if (k0 == 0) load_tile(s_q, q + (u64)q0 * 3 * D, 3 * D, min((u32)TQ, at.length - q0));
    load_tile(s_k, q + (u64)k0 * 3 * D + D, 3 * D, min((u32)TK, at.length - k0));
    load_tile(s_v, q + (u64)k0 * 3 * D + 2 * D, 3 * D, min((u32)TK, at.length - k0));
    __syncthreads();
    int groups = visible_groups(row0, 4 * RQ, k0, at.length);
    if (groups == 0) continue;
    float r_s[RQ][JK];
    products(r_s, s_q, s_k, groups, at);
#pragma unroll
    for (int r = 0; r < RQ; ++r) {
      u32 row = row0 + at.g + 4 * r;
      float top = r_max[r];
#pragma unroll
      for (int j = 0; j < JK; ++j) {
        u32 key = k0 + at.i + 8 * j;
        bool visible = key < at.length && (!CAUSAL || key <= row);  // which no key beyond the groups is
        r_s[r][j] = visible ? r_s[r][j] : -INF;
        top = fmaxf(top, r_s[r][j]);
      }
      // Key k0 is visible to every row of a warp that has any group, so the maximum is a number from here on.
      top = max_of_row(top);
      float fade = expf((r_max[r] - top) * softmax_scale);
      r_max[r] = top;
      r_sum[r] *= fade;
#pragma unroll
      for (int c = 0; c < CPL; ++c) r_o[r][c] *= fade;
      Words bits = row_bits(dropout, (u64)at.first + row, k0, at);
      float* s_row = s_p + (at.warp * 4 * RQ + at.g + 4 * r) * SK + at.i;
#pragma unroll
      for (int j = 0; j < JK; ++j) {
        if (j / 2 >= groups) continue;
        float p = expf((r_s[r][j] - top) * softmax_scale);
        r_sum[r] += p;
        s_row[8 * j] = p * dropout_factor(dropout, bits, j);
      }
    }
    __syncwarp();
    add_product(r_o, s_p, s_v, groups, at);
    // The next tile's barriers come before s_p is written again.
  }
  if (row0 >= at.length) return;
#pragma unroll
  for (int r = 0; r < RQ; ++r) {
    u32 row = row0 + at.g + 4 * r;
    float sum = sum_of_row(r_sum[r]), inverse = 1.0f / sum;
    if (row >= at.length) continue;
    u64 packed = (u64)at.first + row;
    if (at.i == 0) lse[packed * H + at.head] = r_max[r] * softmax_scale + logf(sum);
#pragma unroll
    for (int c = 0; c < CPL; ++c)
      if (column(c, at.i) < E) out[packed * D + at.head * E + column(c, at.i)] = r_o[r][c] * inverse;
  }
}

#undef ROOMY
#define ROOMY
KERNEL(THREADS, attention_bwd)
(float* dqkv, float* delta, const float* __restrict__ dout, const float* __restrict__ out, const float* __restrict__ lse,
 const float* __restrict__ qkv, const u32* __restrict__ offsets, const u32* __restrict__ order, float softmax_scale,
 DROPOUT_PARAMETERS) {
  SHARED_DYN(float, s_all);
  float *s_k = s_all, *s_v = s_k + TK * SE, *s_q = s_v + TK * SE, *s_do = s_q + TQ * SE;
  float *s_w = s_do + TQ * SE, *s_ds = s_w + TQ * SK;
  Dropout dropout = DROPOUT_ARGUMENTS;
  Place at = place(offsets, order);
  const float* q = qkv + (u64)at.first * 3 * D + at.head * E;
  float* dq = dqkv + (u64)at.first * 3 * D + at.head * E;
  u64 head_columns = (u64)at.first * D + at.head * E;

  for (u32 row = at.warp; row < at.length; row += WARPS) {
    u64 from = head_columns + (u64)row * D;
    float sum = 0.0f;
    for (u32 e = threadIdx.x % 32; e < E; e += 32) sum += dout[from + e] * out[from + e];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[((u64)at.first + row) * H + at.head] = sum;
  }

  for (u32 k0 = 0; k0 < at.length; k0 += TK) {
    u32 key0 = k0 + at.warp * 4 * RK;
    float r_dk[RK][CPL] = {}, r_dv[RK][CPL] = {};
    for (u32 q0 = CAUSAL ? k0 / TQ * TQ : 0; q0 < at.length; q0 += TQ) {
      u32 row0 = q0 + at.warp * 4 * RQ, rows = min((u32)TQ, at.length - q0);
      __syncthreads();
      if (q0 <= k0 / TQ * TQ * CAUSAL) {
        load_tile(s_k, q + (u64)k0 * 3 * D + D, 3 * D, min((u32)TK, at.length - k0));
        load_tile(s_v, q + (u64)k0 * 3 * D + 2 * D, 3 * D, min((u32)TK, at.length - k0));
      }
      load_tile(s_q, q + (u64)q0 * 3 * D, 3 * D, rows);
      load_tile(s_do, dout + head_columns + (u64)q0 * D, D, rows);
      __syncthreads();
      int groups = visible_groups(row0, 4 * RQ, k0, at.length);
      if (groups > 0) {
        float r_p[RQ][JK], r_dp[RQ][JK];
        products(r_p, s_q, s_k, groups, at);
        products(r_dp, s_do, s_v, groups, at);
#pragma unroll
        for (int r = 0; r < RQ; ++r) {
          u32 row = row0 + at.g + 4 * r;
          bool inside = row < at.length;
          u64 packed = (u64)at.first + (inside ? row : row0);
          float row_lse = lse[packed * H + at.head], row_delta = delta[packed * H + at.head];
          Words bits = row_bits(dropout, packed, k0, at);
          u32 s_at = (at.warp * 4 * RQ + at.g + 4 * r) * SK + at.i;
#pragma unroll
          for (int j = 0; j < JK; ++j) {
            if (j / 2 >= groups) continue;
            u32 key = k0 + at.i + 8 * j;
            bool visible = inside && key < at.length && (!CAUSAL || key <= row);
            float p = visible ? expf(r_p[r][j] * softmax_scale - row_lse) : 0.0f;
            float f = dropout_factor(dropout, bits, j);
            s_w[s_at + 8 * j] = p * f;
            s_ds[s_at + 8 * j] = p * (r_dp[r][j] * f - row_delta);
          }
        }
      }
      __syncthreads();
      if (groups > 0) {
        // dq of a row grows tile of keys by tile of keys, always in the same thread; it stays in the L1 or L2 meanwhile.
        float r_dq[RQ][CPL] = {};
        add_product(r_dq, s_ds, s_k, groups, at);
#pragma unroll
        for (int r = 0; r < RQ; ++r) {
          u32 row = row0 + at.g + 4 * r;
          if (row >= at.length) continue;
#pragma unroll
          for (int c = 0; c < CPL; ++c) {
            if (column(c, at.i) >= E) continue;
            float* to = dq + (u64)row * 3 * D + column(c, at.i);
            *to = (k0 == 0 ? 0.0f : *to) + r_dq[r][c] * softmax_scale;
          }
        }
      }
      if (key0 < at.length) {
        // Rows before the warp's first key do not see it, and their scores may never have been computed.
        for (u32 row = CAUSAL && key0 > q0 ? key0 - q0 : 0; row < rows; ++row) {
          float r_w[RK], r_ds[RK], r_do[CPL], r_q[CPL];
          load<RK>(r_w, s_w + row * SK + at.warp * 4 * RK + at.g * RK);
          load<RK>(r_ds, s_ds + row * SK + at.warp * 4 * RK + at.g * RK);
          load_columns(r_do, s_do + row * SE, at.i);
          load_columns(r_q, s_q + row * SE, at.i);
#pragma unroll
          for (int k = 0; k < RK; ++k)
#pragma unroll
            for (int c = 0; c < CPL; ++c) {
              r_dv[k][c] += r_w[k] * r_do[c];
              r_dk[k][c] += r_ds[k] * r_q[c];
            }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < RK; ++k) {
      u32 key = key0 + at.g * RK + k;
      if (key >= at.length) continue;
#pragma unroll
      for (int c = 0; c < CPL; ++c) {
        if (column(c, at.i) >= E) continue;
        float* to = dq + (u64)key * 3 * D + column(c, at.i);
        to[D] = r_dk[k][c] * softmax_scale;
        to[2 * D] = r_dv[k][c];
      }
    }
  }
}
