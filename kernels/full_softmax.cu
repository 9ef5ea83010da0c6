// Cross-entropy over the whole catalogue and its gradient, in two passes that each own what they write.
//
//   loss[r] = ln sum over i of exp s[r,i]  -  s[r,t]           s = p . a,  cosine: s = p . e heat / (|p| |e|),  e = a + g
//   ds[r,i] = scale (softmax(s[r])[i] - [i = t])               alpha = ds heat / (|p| |e|),  beta = -ds s / |e|^2
//   pass 1  dp[r] = sum_i alpha e - (sum_i ds s / |p|^2) p     dg[r] = sum_i beta e + (sum_i alpha) p
//   pass 2  da[i] += sum_r (alpha p + beta (a + g))
//
// For the dot product alpha = ds and beta = 0, and a context shifts all scores of a row alike: it leaves no trace.
// Pass 1 owns rows and streams items: the loss is attention with the items as keys and values, and an online softmax gives the
// normaliser and dp together. Pass 2 owns items and streams rows with the normaliser known. No score is ever written.
//
// Shapes   p, g, dp, dg (R,D)  a, da (V,D)  targets (R)  saved (R): the largest score, scale / sum of exp(s - largest)
//          losses (R)  partial (splits,V,D)
// Defines  those of tile.cuh; COSINE; CONTEXT (with COSINE only). Dynamic shared memory: the tiles in the order below
// Launch   rows: ceil(R/OWN) blocks; items: (ceil(V/OWN), splits) blocks; each 128 threads. Splits share out the rows where
//          items alone fill no GPU; parts.cu adds their parts in order
// Traffic  per block of pass 1 the table once, of pass 2 the queries once, mostly from L2; 2 V D floats of da
//   full_softmax_rows: reads 4 |p| + 4 |g| + 4 |a| + 4 |targets|, writes 4 |dp| + 4 |dg| + 4 |saved| + 4 |losses|
//   full_softmax_items: reads at most 4 |da| + 4 |p| + 4 |g| + 4 |a| + 4 |targets| + 4 |saved|, writes at most 4 |da| + 4 |partial|
// Numerics f32, exp and log to a few units in the last place; sums over items in one chain per tile column
// Determinism  fixed order everywhere, no atomics
// Source   the online softmax of FlashAttention (Dao et al., NeurIPS 2022); its backward needs atomics, two owners need none
#if COSINE && CONTEXT
#define ROOMY , 2  // at D = 64 the compiler would spill eight registers to keep a fifth block (sm_90a)
#endif
#include "tile.cuh"

KERNEL(128, full_softmax_rows)(float* dp, float* dg, float2* saved, float* losses, const float* p, const float* g,
                               const float* a, const u32* targets, u32 R, u32 V, float heat, float scale) {
  SHARED_DYN(float, s_all);
  float* s_p = s_all;                                            // (OWN,D)
  float* s_a = s_p + OWN * STRIDE;                               // (STREAM,D)
  float* s_alpha = s_a + STREAM * STRIDE;                        // (OWN,STREAM)
  float* s_beta = s_alpha + OWN * WEIGHTS;                       // the same, with a context
  float* s_g = s_beta + (CONTEXT ? OWN * WEIGHTS : 0);           // (OWN,D), with a context
  SHARED(float, s_square, [STREAM]);                             // |a|^2
  SHARED(float, s_row, [3][OWN]);                                // |p|^2, p.g, |g|^2
  SHARED(float, s_target, [2][OWN]);                             // the target's score and 1/|e|
  int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  u32 first = blockIdx.x * OWN;
  load_rows<OWN>(s_p, p, first, R);
  if (CONTEXT) load_rows<OWN>(s_g, g, first, R);
  __syncthreads();
  if (COSINE) row_dots<OWN>(s_row[0], s_p, s_p);
  if (CONTEXT) row_dots<OWN>(s_row[1], s_p, s_g);
  if (CONTEXT) row_dots<OWN>(s_row[2], s_g, s_g);
  __syncthreads();

  // Sums of e^s / |e| a and of e^s s / |e|^2 a.
  float4 r_alpha[OWNED][COLUMNS] = {}, r_beta[CONTEXT ? OWNED : 1][COLUMNS] = {};
  float r_most[OWNED], r_sum[OWNED];                                       // largest score, sum of e^s
  float r_heat[OWNED], r_score[OWNED], r_inverse[OWNED], r_pull[OWNED];    // heat / |p|, sums of e^s s, e^s / |e|, e^s s / |e|^2
  u32 r_item[OWNED];
#pragma unroll
  for (int i = 0; i < OWNED; ++i) {
    int row = ty + 8 * i;
    r_most[i] = -INF;
    r_sum[i] = r_score[i] = r_inverse[i] = r_pull[i] = 0.0f;
    r_heat[i] = COSINE ? heat * inverse_norm(s_row[0][row]) : 1.0f;
    r_item[i] = first + row < R ? targets[first + row] : NONE;
  }

  for (u32 item = 0; item < V; item += STREAM) {
    __syncthreads();  // everyone is done with the last tile
    load_rows<STREAM>(s_a, a, item, V);
    __syncthreads();
    if (COSINE) {
      row_dots<STREAM>(s_square, s_a, s_a);
      __syncthreads();
    }
    float s[OWNED][STREAMED], meet[CONTEXT ? OWNED : 1][STREAMED];
    products(s, s_p, s_a);
    if constexpr (CONTEXT) products(meet, s_g, s_a);
#pragma unroll
    for (int i = 0; i < OWNED; ++i) {
      int row = ty + 8 * i;
      float inverse[STREAMED], most = r_most[i];
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) {
        int at = tx + 16 * j;
        inverse[j] = 1.0f;
        if (CONTEXT) {
          inverse[j] = inverse_of_pair(s_square[at], meet[CONTEXT ? i : 0][j], s_row[2][row]);
          s[i][j] = (s[i][j] + s_row[1][row]) * r_heat[i] * inverse[j];
        } else if (COSINE) {
          inverse[j] = inverse_norm(s_square[at]);
          s[i][j] *= r_heat[i] * inverse[j];
        }
        if (item + at == r_item[i]) {
          s_target[0][row] = s[i][j];
          s_target[1][row] = inverse[j];
        }
        if (item + at >= V) s[i][j] = -INF;
        most = fmaxf(most, s[i][j]);
      }
      most = row_max(most);
      float fade = expf(r_most[i] - most);
      r_most[i] = most;
      r_sum[i] *= fade, r_score[i] *= fade, r_inverse[i] *= fade, r_pull[i] *= fade;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) r_alpha[i][c] = scale4(fade, r_alpha[i][c]);
      if constexpr (CONTEXT)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) r_beta[i][c] = scale4(fade, r_beta[i][c]);
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) {
        int at = row * WEIGHTS + tx + 16 * j;
        // Past the end of the table e is 0 and s minus infinity, whose product is not a number.
        float e = expf(s[i][j] - most), score = item + tx + 16 * j < V ? s[i][j] : 0.0f;
        s_alpha[at] = e * inverse[j];
        r_sum[i] += e;
        if (COSINE) r_score[i] = fmaf(e, score, r_score[i]);
        if (CONTEXT) {
          float pull = e * score * inverse[j] * inverse[j];
          s_beta[at] = pull;
          r_inverse[i] = fmaf(e, inverse[j], r_inverse[i]);
          r_pull[i] += pull;
        }
      }
    }
    __syncthreads();
    multiply_back(r_alpha, s_alpha, s_a);
    if constexpr (CONTEXT) multiply_back(r_beta, s_beta, s_a);
  }

#pragma unroll
  for (int i = 0; i < OWNED; ++i) {
    int row = ty + 8 * i;
    float total = row_sum(r_sum[i]), score = row_sum(r_score[i]);
    float inverse = row_sum(r_inverse[i]), pull = row_sum(r_pull[i]);
    u32 r = first + row;
    if (r >= R) continue;
    float share = 1.0f / total, own = s_target[0][row], own_inverse = s_target[1][row];
    if (tx == 0) {
      saved[r] = make_float2(r_most[i], scale * share);
      losses[r] = r_most[i] - own + logf(total);
    }
    const float* target = a + (u64)r_item[i] * D;
    float c_alpha = scale * r_heat[i];
    float q = COSINE ? inverse_norm(s_row[0][row]) : 0.0f;
    float gamma = COSINE ? -scale * (score * share - own) * q * q : 0.0f;
    float alphas = CONTEXT ? c_alpha * (inverse * share - own_inverse) : 0.0f;
    float betas = CONTEXT ? -scale * (pull * share - own * own_inverse * own_inverse) : 0.0f;
    for (int c = 0; c < COLUMNS; ++c) {
      int column = tx + 16 * c;
      if (column >= QUADS) continue;
      float4 t = load4(target, column), query = *reinterpret_cast<const float4*>(s_p + row * STRIDE + 4 * column);
      float4 out = scale4(c_alpha, fma4(share, r_alpha[i][c], scale4(-own_inverse, t)));
      if (COSINE) out = fma4(gamma, query, out);
      if constexpr (CONTEXT) {
        float4 context = *reinterpret_cast<const float4*>(s_g + row * STRIDE + 4 * column);
        out = fma4(alphas, context, out);
        float4 pulled = scale4(-scale, fma4(share, r_beta[i][c], scale4(-own * own_inverse * own_inverse, t)));
        if (dg) store4(dg + (u64)r * D, column, fma4(alphas, query, fma4(betas, context, pulled)));
      }
      store4(dp + (u64)r * D, column, out);
    }
  }
}

KERNEL(128, full_softmax_items)(float* da, float* partial, const float2* saved, const float* p, const float* g, const float* a,
                                const u32* targets, u32 R, u32 V, float heat, float scale) {
  SHARED_DYN(float, s_all);
  float* s_a = s_all;                                            // (OWN,D)
  float* s_p = s_a + OWN * STRIDE;                               // (STREAM,D)
  float* s_alpha = s_p + STREAM * STRIDE;                        // (OWN,STREAM)
  float* s_beta = s_alpha + OWN * WEIGHTS;                       // the same, with a context
  float* s_g = s_beta + (CONTEXT ? OWN * WEIGHTS : 0);           // (STREAM,D), with a context
  SHARED(float, s_square, [OWN]);                                // |a|^2
  SHARED(float, s_row, [3][STREAM]);                             // |p|^2, p.g, |g|^2
  int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  u32 first = blockIdx.x * OWN;
  load_rows<OWN>(s_a, a, first, V);
  __syncthreads();
  if (COSINE) row_dots<OWN>(s_square, s_a, s_a);
  __syncthreads();

  float4 r_da[OWNED][COLUMNS] = {};
  float r_betas[OWNED], r_square[OWNED];
#pragma unroll
  for (int i = 0; i < OWNED; ++i) {
    r_betas[i] = 0.0f;
    r_square[i] = COSINE ? s_square[ty + 8 * i] : 0.0f;
  }
  // Whole tiles are shared out, so that a part does not depend on how many rows the last tile has.
  u32 tiles = (R + STREAM - 1) / STREAM, splits = gridDim.y;
  u32 begin = (u32)((u64)tiles * blockIdx.y / splits) * STREAM, end = (u32)((u64)tiles * (blockIdx.y + 1) / splits) * STREAM;
  for (u32 r = begin; r < end; r += STREAM) {
    __syncthreads();
    load_rows<STREAM>(s_p, p, r, R);
    if (CONTEXT) load_rows<STREAM>(s_g, g, r, R);
    __syncthreads();
    if (COSINE) {
      row_dots<STREAM>(s_row[0], s_p, s_p);
      if (CONTEXT) row_dots<STREAM>(s_row[1], s_p, s_g);
      if (CONTEXT) row_dots<STREAM>(s_row[2], s_g, s_g);
      __syncthreads();
    }
    float s[OWNED][STREAMED], meet[CONTEXT ? OWNED : 1][STREAMED];
    products(s, s_a, s_p);
    if constexpr (CONTEXT) products(meet, s_a, s_g);
#pragma unroll
    for (int j = 0; j < STREAMED; ++j) {
      int at = tx + 16 * j;
      bool inside = r + at < R;
      float2 of_row = inside ? saved[r + at] : make_float2(0.0f, 0.0f);
      u32 target = inside ? targets[r + at] : NONE;
      float c = COSINE ? heat * inverse_norm(s_row[0][at]) : 1.0f;
#pragma unroll
      for (int i = 0; i < OWNED; ++i) {
        float inverse = 1.0f, score = s[i][j];
        if (CONTEXT) {
          inverse = inverse_of_pair(r_square[i], meet[CONTEXT ? i : 0][j], s_row[2][at]);
          score = (score + s_row[1][at]) * c * inverse;
        } else if (COSINE) {
          inverse = inverse_norm(r_square[i]);
          score *= c * inverse;
        }
        float ds = inside ? expf(score - of_row.x) * of_row.y : 0.0f;
        if (first + ty + 8 * i == target) ds -= scale;
        float alpha = ds * c * inverse, beta = -ds * score * inverse * inverse;
        s_alpha[(ty + 8 * i) * WEIGHTS + at] = alpha;
        if (CONTEXT) s_beta[(ty + 8 * i) * WEIGHTS + at] = beta;
        if (COSINE) r_betas[i] += beta;
      }
    }
    __syncthreads();
    multiply_back(r_da, s_alpha, s_p);
    if constexpr (CONTEXT) multiply_back(r_da, s_beta, s_g);
  }

#pragma unroll
  for (int i = 0; i < OWNED; ++i) {
    int row = ty + 8 * i;
    float betas = COSINE ? row_sum(r_betas[i]) : 0.0f;
    if (first + row >= V) continue;
    for (int c = 0; c < COLUMNS; ++c) {
      int column = tx + 16 * c;
      if (column >= QUADS) continue;
      float4 out = r_da[i][c];
      if (COSINE) out = fma4(betas, *reinterpret_cast<const float4*>(s_a + row * STRIDE + 4 * column), out);
      if (partial) {
        store4(partial + ((u64)blockIdx.y * V + first + row) * D, column, out);
      } else {
        float* to = da + (u64)(first + row) * D;
        store4(to, column, fma4(1.0f, load4(to, column), out));
      }
    }
  }
}
