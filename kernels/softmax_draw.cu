// Draws from the model's own preference over a row's candidates: a scored list, or the whole catalogue in two steps.
//
//   P(i | r) = w[i] / sum w,   w = exp(beta s[r,i] - ln q[i])
//
// Catalogue: `scan` leaves ln sum exp(beta s) of every tile of ITEMS items; `catalogue` draws a tile from those, scores it again
// and draws inside. Two random words per draw, those of src/ops/softmax_draw.rs, so the ids agree with the plain path wherever
// scores agree closely enough. Weights and their running sums are f64: a draw among a million items needs the digits.
//
// Shapes   p, g (R,D)  a (V,D)  tiles, reached (R,T)  barred, extents, seen, targets: see scan.cuh  keys (R)  choice (R,n)
//          lists: s, candidates, log_proposed (R,M) or null; weights, sums (R,M)   out: ids, log_q (R,n)
// Defines  scan: those of scan.cuh; ITEMS a multiple of STREAM. catalogue: those of gathered.cuh; ITEMS. All: REPLACE
// Launch   128 threads. scan: (ceil(R/OWN), T) blocks; catalogue and lists: a block per row
// Traffic  scan: the table once per block of rows from L2, 8 R T bytes; catalogue: ITEMS rows of a per tile that is drawn from
//   softmax_draw_scan: reads at most 4 |p| + 4 |g| + 4 |a| + 4 |barred| + 4 |extents| + 4 |seen| + 4 |targets|, writes 4 |tiles|
//   softmax_draw_catalogue: reads at most 4 |p| + 4 |g| + 4 |a| + 4 |barred| + 4 |extents| + 4 |seen| + 4 |targets| + 4 |tiles| + 4 |reached| + 4 |choice| + 4 |keys|, writes at most 4 |ids| + 4 |log_q| + 4 |tiles| + 4 |reached| + 4 |choice|
//   softmax_draw_lists: reads at most 4 |s| + 4 |candidates| + 4 |log_proposed| + 4 |keys| + 4 |weights| + 4 |sums|, writes at most 4 |ids| + 4 |log_q| + 4 |weights| + 4 |sums|
// Numerics scores f32, ln and exp of weights f64
// Determinism  running sums are cut into 128 shares of equal length
// Source   GenNi (Chen et al., arXiv 2208.03645)
#include "device.cuh"
#include "philox.cuh"

#ifdef OWN

#include "scan.cuh"

KERNEL(128, softmax_draw_scan)(double* tiles, const float* p, const float* g, const float* a, const u32* barred,
                               const u32* extents, const u32* seen, const u32* targets, u32 R, u32 V, float heat, float beta) {
  SHARED_DYN(float, s_all);
  u32 first = blockIdx.x * OWN, begin = blockIdx.y * ITEMS, end = min(V, begin + ITEMS);
  Queries queries(s_all, p, g, first, R, heat);
  Hidden hidden(barred, extents, seen, targets, first, R, begin);
  float most[OWNED], sum[OWNED];
#pragma unroll
  for (int i = 0; i < OWNED; ++i) most[i] = -INF, sum[i] = 0.0f;
  for (u32 item = begin; item < end; item += STREAM) {
    hidden.tile(item, V);
    float s[OWNED][STREAMED];
    queries.score(s, a, item, V);
#pragma unroll
    for (int i = 0; i < OWNED; ++i) {
      float larger = most[i];
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) {
        s[i][j] = hidden.hides(i, j) ? -INF : s[i][j] * beta;
        larger = fmaxf(larger, s[i][j]);
      }
      if (larger == -INF) continue;
      sum[i] *= expf(most[i] - larger);
      most[i] = larger;
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) sum[i] += expf(s[i][j] - larger);
    }
  }
#pragma unroll
  for (int i = 0; i < OWNED; ++i) {
    float largest = row_max(most[i]);
    float total = row_sum(most[i] == -INF ? 0.0f : sum[i] * expf(most[i] - largest));
    if (threadIdx.x % 16 == 0 && queries.row(i) < R)
      tiles[(u64)queries.row(i) * gridDim.y + blockIdx.y] = largest == -INF ? -(double)INF : (double)largest + log((double)total);
  }
}

#else

// The two words of a slot (rng::slot_index).
struct Pair { u64 of_tile, of_item; };
__device__ inline Pair pair_of(Draws draws, u64 key, u32 slot) {
  Words w = words(draws, key << 20 | slot);
  return {(u64)w.w[1] << 32 | w.w[0], (u64)w.w[3] << 32 | w.w[2]};
}

// Unnormalised weights with their running sums, in memory of the block. All threads come along, except in `draw`.
struct Weights {
  double *of, *reached, *s_share;
  u32 n;
  double total;

  // After the weights were written.
  __device__ void sum() {
    u32 length = (n + 127) / 128, begin = min(n, threadIdx.x * length), end = min(n, begin + length);
    double mine = 0.0;
    __syncthreads();
    for (u32 x = begin; x < end; ++x) mine += of[x];
    s_share[threadIdx.x] = mine;
    __syncthreads();
    double before = 0.0, all = 0.0;
    for (u32 t = 0; t < 128; ++t) {
      if (t == threadIdx.x) before = all;
      all += s_share[t];
    }
    total = all;
    for (u32 x = begin; x < end; ++x) reached[x] = before += of[x];
    __syncthreads();
  }
  // An index with probability proportional to its weight; NONE when all weights are zero.
  __device__ u32 draw(u64 word) const {
    if (!(total > 0.0 && total < (double)INF)) return ~0u;
    double mark = open01(word) * total;
    u32 below = 0, above = n;
    while (below < above) {
      u32 middle = below + (above - below) / 2;
      if (reached[middle] <= mark) below = middle + 1;
      else above = middle;
    }
    // An index of weight zero adds nothing to the sums, so it is never the first one above the mark.
    if (below < n) return below;
    while (below > 0 && !(of[below - 1] > 0.0)) --below;
    return below - 1;
  }
};

// The largest of n numbers, for all threads; each looks at those it wrote. Once, before s_share has another use, and
// Weights::sum has a barrier before the next.
__device__ inline double largest(const double* x, u32 n, double* s_share) {
  double most = -(double)INF;
  for (u32 i = threadIdx.x; i < n; i += 128) most = x[i] > most ? x[i] : most;
  s_share[threadIdx.x] = most;
  __syncthreads();
  for (u32 t = 0; t < 128; ++t) most = s_share[t] > most ? s_share[t] : most;
  return most;
}

// Turns logarithms into weights relative to the largest, and sums them.
__device__ inline void weigh(Weights& weights, double shift) {
  for (u32 x = threadIdx.x; x < weights.n; x += 128) {
    double w = shift > -(double)INF ? exp(weights.of[x] - shift) : 0.0;
    weights.of[x] = w;
  }
  weights.sum();
}

#ifdef LANES

#include "gathered.cuh"

KERNEL(128, softmax_draw_catalogue)(u32* ids, float* log_q, double* tiles, double* reached, u32* choice, const float* p,
                                    const float* g, const float* a, const u32* barred, const u32* extents, const u32* seen,
                                    const u32* targets, const u64* keys, u32 V, u32 T, u32 n, float heat, float beta, u32 key0,
                                    u32 key1, u32 word2, u32 word3) {
  SHARED(double, s_share, [128]);
  SHARED(double, s_weight, [ITEMS]);
  SHARED(double, s_reached, [ITEMS]);
  SHARED(u32, s_chosen, [2]);
  u32 r = blockIdx.x;
  u64 out = (u64)r * n;
  Draws draws{key0, key1, word2, word3};
  Weights of_tiles{tiles + (u64)r * T, reached + (u64)r * T, s_share, T, 0.0};
  double shift = largest(of_tiles.of, T, s_share);
  weigh(of_tiles, shift);
  double total = of_tiles.total;
  Query query(p, g, r, heat);
  Weights items{s_weight, s_reached, s_share, 0, 0.0};

  auto hides = [&](u32 item) {
    if (barred && barred[item / 32] >> item % 32 & 1) return true;
    if (targets && targets[r] == item) return true;
    if (!extents) return false;
    u32 below = extents[2 * r], end = extents[2 * r + 1], above = end;
    while (below < above) {
      u32 middle = below + (above - below) / 2;
      if (seen[middle] < item) below = middle + 1;
      else above = middle;
    }
    return below < end && seen[below] == item;
  };
  // The weights of one tile, without the items of the first `drawn` slots.
  auto open = [&](u32 tile, u32 drawn) {
    u32 first = tile * ITEMS, count = min((u32)ITEMS, V - first);
    for (u32 base = threadIdx.x / 32 * LISTS; base < count; base += 4 * LISTS) {
      u32 x = base + query.list;
      bool visible = x < count && !hides(first + x);
      float s = query.score(visible ? a + (u64)(first + x) * D : nullptr).score * beta;
      double w = visible ? exp((double)s - shift) : 0.0;
      if (query.lane == 0 && x < count) s_weight[x] = w == w ? w : 0.0;
    }
    __syncthreads();
    for (u32 x = threadIdx.x; x < drawn; x += 128)
      if (ids[out + x] - first < count) s_weight[ids[out + x] - first] = 0.0;
    items.n = count;
    items.sum();
  };
  auto put = [&](u32 slot, u32 tile, u32 at) {
    ids[out + slot] = tile * ITEMS + at;
    log_q[out + slot] = (float)(log(s_weight[at]) - log(total));
  };

  for (u32 slot = threadIdx.x; slot < n; slot += 128) {
    ids[out + slot] = ~0u;
    log_q[out + slot] = 0.0f;
    // With replacement all tiles are drawn beforehand, so that each is scored once for all its draws.
    if (REPLACE) choice[out + slot] = of_tiles.draw(pair_of(draws, keys[r], slot).of_tile);
  }
  if (REPLACE) {
    for (u32 from = 0;;) {
      if (threadIdx.x == 0) s_chosen[0] = ~0u;
      __syncthreads();
      for (u32 slot = threadIdx.x; slot < n; slot += 128)
        if (choice[out + slot] >= from) atomicMin(&s_chosen[0], choice[out + slot]);
      __syncthreads();
      u32 tile = s_chosen[0];
      if (tile == ~0u) break;
      open(tile, 0);
      for (u32 slot = threadIdx.x; slot < n; slot += 128) {
        if (choice[out + slot] != tile) continue;
        u32 at = items.draw(pair_of(draws, keys[r], slot).of_item);
        if (at != ~0u) put(slot, tile, at);
      }
      from = tile + 1;
    }
  }
  for (u32 slot = 0; !REPLACE && slot < n; ++slot) {
    if (threadIdx.x == 0) s_chosen[0] = of_tiles.draw(pair_of(draws, keys[r], slot).of_tile);
    __syncthreads();
    u32 tile = s_chosen[0];
    if (tile == ~0u) return;
    open(tile, slot);
    if (threadIdx.x == 0) {
      s_chosen[1] = items.draw(pair_of(draws, keys[r], slot).of_item);
      if (s_chosen[1] != ~0u) {
        put(slot, tile, s_chosen[1]);
        s_weight[s_chosen[1]] = 0.0;
      }
    }
    __syncthreads();
    if (s_chosen[1] == ~0u) return;
    items.sum();
    if (threadIdx.x == 0) of_tiles.of[tile] = items.total;
    of_tiles.sum();
  }
}

#else

KERNEL(128, softmax_draw_lists)(u32* ids, float* log_q, double* weights, double* sums, const float* s, const u32* candidates,
                                const float* log_proposed, const u64* keys, u32 M, u32 n, float beta_high, float beta_low,
                                u32 key0, u32 key1, u32 word2, u32 word3) {
  SHARED(double, s_share, [128]);
  SHARED(u32, s_chosen, [1]);
  u64 out = (u64)blockIdx.x * n, list = (u64)blockIdx.x * M;
  Draws draws{key0, key1, word2, word3};
  Weights items{weights + list, sums + list, s_share, M, 0.0};
  double beta = (double)beta_high + (double)beta_low;
  for (u32 x = threadIdx.x; x < M; x += 128) {
    double score = s[list + x];
    items.of[x] = score > -(double)INF ? beta * score - (log_proposed ? (double)log_proposed[list + x] : 0.0) : -(double)INF;
  }
  weigh(items, largest(items.of, M, s_share));
  double total = items.total;

  auto put = [&](u32 slot, u32 at) {
    u32 id = candidates[list + at];
    double same = 0.0;
    for (u32 x = 0; x < M; ++x)
      if (candidates[list + x] == id) same += items.of[x];
    ids[out + slot] = id;
    log_q[out + slot] = (float)log(same / total);
  };
  for (u32 slot = threadIdx.x; slot < n; slot += 128) {
    u32 at = REPLACE ? items.draw(pair_of(draws, keys[blockIdx.x], slot).of_tile) : ~0u;
    ids[out + slot] = ~0u;
    log_q[out + slot] = 0.0f;
    if (at != ~0u) put(slot, at);
  }
  for (u32 slot = 0; !REPLACE && slot < n; ++slot) {
    if (threadIdx.x == 0) {
      u32 at = items.draw(pair_of(draws, keys[blockIdx.x], slot).of_tile);
      s_chosen[0] = at == ~0u ? ~0u : candidates[list + at];
      if (at != ~0u) put(slot, at);
    }
    __syncthreads();
    u32 id = s_chosen[0];
    if (id == ~0u) return;
    for (u32 x = threadIdx.x; x < M; x += 128)
      if (candidates[list + x] == id) items.of[x] = 0.0;
    items.sum();
  }
}

#endif
#endif
