// The gradient of an item table from scalar records sorted by item: every row of the table has one writer.
//
//   da[item] += sum over its records (alpha p[row] + beta (a[item] + g[row]))      wrong contexts: g~ in place of g
//
// A record is a place in alpha (R,K) and, with the cosine, beta (R,K): row = place / K, slot = place % K, the last W slots
// wrong contexts. The host sorts places by item and cuts long lists into pieces of equal length; a warp sums a piece, and where
// an item has several the pieces are added in order by a second launch. A popular item is so never the work of one warp.
//
// Shapes   p, g (R,D)  wrong (R,W,D)  a, da (V,D)  places: sorted by item  pieces (P,4): item, first place, end, part or NONE
//          parts (n,D)  merges (m,3): item, first part, end
// Defines  those of gathered.cuh
// Launch   a warp per piece or merge, four to a block
// Traffic  (4 D + 8..12) bytes per record, 8 D per item
// Numerics f32; one chain of additions per list of the warp
// Determinism  the shape of every sum follows from the lengths alone
// Source   sorted segments in place of atomics: the embedding gradient of llm.c (`llmc/encoder.cuh`)
#include "gathered.cuh"

KERNEL(128, table_gradient_pieces)(float* da, float* parts, const float* alpha, const float* beta, const float* p, const float* g,
                                   const float* a, const float* wrong, const u32* places, const u32* pieces, u32 P, u32 K,
                                   u32 W) {
  u32 piece = blockIdx.x * 4 + threadIdx.x / 32;
  if (piece >= P) return;  // whole warps
  int list = threadIdx.x % 32 / LANES, lane = threadIdx.x % LANES;
  u32 item = pieces[4 * piece], first = pieces[4 * piece + 1], end = pieces[4 * piece + 2], part = pieces[4 * piece + 3];
  Part sum = Part::zero();
  float betas = 0.0f;
#pragma unroll 2
  for (u32 x = first + list; x < end; x += LISTS) {
    u32 place = places[x], row = place / K, slot = place % K;
    sum.add(alpha[place], Part::load(p + (u64)row * D, lane));
    if (COSINE) {
      float b = beta[place];
      betas += b;
      bool is_wrong = slot + W >= K;
      const float* context = is_wrong ? wrong + ((u64)row * W + slot + W - K) * D : CONTEXT ? g + (u64)row * D : nullptr;
      if (CONTEXT) sum.add(b, Part::load(context, lane));
    }
  }
  sum.sum_lists();
  if (COSINE) sum.add(sum_lists(betas), Part::load(a + (u64)item * D, lane));
  float* to = part == NONE ? da + (u64)item * D : parts + (u64)part * D;
  if (part == NONE) sum.add(1.0f, Part::load(to, lane));
  __syncwarp();
  if (list == 0) sum.store(to, lane);
}

KERNEL(128, table_gradient_merge)(float* da, const float* parts, const u32* merges, u32 n) {
  u32 merge = blockIdx.x * 4 + threadIdx.x / 32;
  if (merge >= n) return;  // whole warps
  int list = threadIdx.x % 32 / LANES, lane = threadIdx.x % LANES;
  Part sum = Part::zero();
  for (u32 part = merges[3 * merge + 1] + list; part < merges[3 * merge + 2]; part += LISTS)
    sum.add(1.0f, Part::load(parts + (u64)part * D, lane));
  sum.sum_lists();
  float* to = da + (u64)merges[3 * merge] * D;
  sum.add(1.0f, Part::load(to, lane));
  __syncwarp();
  if (list == 0) sum.store(to, lane);
}
