// A block of queries scored against the catalogue, tile after tile; what a row must not see is hidden.
//
//   dot:     s = p . a + p . g
//   cosine:  s = (p . a + p . g) heat / (|p| sqrt(|a|^2 + 2 a . g + |g|^2))
//
// Defines  those of tile.cuh; COSINE; CONTEXT; dynamic shared memory of (OWN + STREAM) STRIDE floats, OWN STRIDE more for the
//          cosine under a context
#pragma once
#include "tile.cuh"

static constexpr int PAIRED = COSINE && CONTEXT;  // whether the norm belongs to the pair

struct Queries {
  float *s_p, *s_a, *s_g;
  float* s_row;                   // (3,OWN) |p|^2, p.g, |g|^2
  float* s_square;                // (STREAM) |a|^2
  u32 first;
  float r_factor[OWNED], r_base[OWNED];

  // Rows first .. first + OWN of p, those from `end` on zero.
  __device__ Queries(float* s_all, const float* p, const float* g, u32 from, u32 end, float heat) : first(from) {
    SHARED(float, s_facts, [3 * OWN + STREAM]);
    s_p = s_all, s_a = s_p + OWN * STRIDE, s_g = s_a + STREAM * STRIDE;
    s_row = s_facts, s_square = s_facts + 3 * OWN;
    load_rows<OWN>(s_p, p, first, end);
    // The dot product needs g for one number per row only, and borrows the memory of the items for it.
    float* s_context = PAIRED ? s_g : s_a;
    if (CONTEXT) {
      static_assert(!CONTEXT || PAIRED || OWN <= STREAM, "the context does not fit the memory of the items");
      load_rows<OWN>(s_context, g, first, end);
    }
    __syncthreads();
    if (COSINE) row_dots<OWN>(s_row, s_p, s_p);
    if (CONTEXT) row_dots<OWN>(s_row + OWN, s_p, s_context);
    if (PAIRED) row_dots<OWN>(s_row + 2 * OWN, s_g, s_g);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < OWNED; ++i) {
      r_factor[i] = COSINE ? heat * inverse_norm(s_row[threadIdx.x / 16 + 8 * i]) : 1.0f;
      r_base[i] = CONTEXT ? s_row[OWN + threadIdx.x / 16 + 8 * i] : 0.0f;
    }
  }

  // The row of this thread's i-th scores.
  __device__ u32 row(int i) const { return first + threadIdx.x / 16 + 8 * i; }

  // r_score = this thread's scores of the items `item` .. `item` + STREAM of `a`; meaningless from `end` on.
  __device__ void score(float (&r_score)[OWNED][STREAMED], const float* a, u32 item, u32 end) const {
    __syncthreads();  // everyone is done with the last tile
    load_rows<STREAM>(s_a, a, item, end);
    __syncthreads();
    score_loaded(r_score);
  }

  // The same for items that are in s_a already.
  __device__ void score_loaded(float (&r_score)[OWNED][STREAMED]) const {
    if (COSINE) {
      row_dots<STREAM>(s_square, s_a, s_a);
      __syncthreads();
    }
    float meet[PAIRED ? OWNED : 1][STREAMED];
    products(r_score, s_p, s_a);
    if constexpr (PAIRED) products(meet, s_g, s_a);
#pragma unroll
    for (int i = 0; i < OWNED; ++i)
#pragma unroll
      for (int j = 0; j < STREAMED; ++j) {
        if (CONTEXT) r_score[i][j] += r_base[i];
        if (!COSINE) continue;
        float square = s_square[threadIdx.x % 16 + 16 * j];
        float inverse = PAIRED ? inverse_of_pair(square, meet[PAIRED ? i : 0][j], s_row[2 * OWN + threadIdx.x / 16 + 8 * i])
                               : inverse_norm(square);
        r_score[i][j] *= r_factor[i] * inverse;
      }
  }
};

// Which items of a tile the rows of a block must not see: those outside the table's range, those nobody may have, the
// row's seen ones and its target. All lists ascend, so one thread per row walks along with the scan.
struct Hidden {
  const u32* barred;       // one bit per item, for all rows; or null
  const u32* seen;         // all rows' lists, ascending
  u64* s_bits;             // (2,OWN) bit j: item j of the tile is hidden from the row; tiles alternate between two sets
  u32 at, end, target;     // of the row of this thread, if it has one
  u32 set;                 // OWN or 0: where the current tile's bits are

  // `begin_end` (2 R) extents of the rows' lists; `targets` (R) or null. The scan begins at `item`.
  __device__ Hidden(const u32* barred_items, const u32* begin_end, const u32* seen_items, const u32* targets, u32 first, u32 rows,
                    u32 item)
      : barred(barred_items), seen(seen_items), at(0), end(0), target(NONE), set(0) {
    SHARED(u64, s_hidden, [2 * OWN]);
    s_bits = s_hidden;
    u32 r = first + threadIdx.x;
    if (threadIdx.x >= OWN || r >= rows) return;
    if (targets) target = targets[r];
    if (!begin_end) return;
    at = begin_end[2 * r], end = begin_end[2 * r + 1];
    for (u32 below = at, above = end; below < above;) {  // the first one not before `item`
      u32 middle = below + (above - below) / 2;
      if (seen[middle] < item) below = middle + 1, at = below;
      else above = middle;
    }
  }

  // For tiles in ascending order; after the next barrier `hides` speaks of the items `item` + j. The set before is still being
  // read, the one before that is not, because a barrier has been passed.
  __device__ void tile(u32 item, u32 items) {
    set = OWN - set;
    if (threadIdx.x >= OWN) return;
    u64 bits = 0;
    if (barred)
      for (u32 word = 0; word < (STREAM + 31) / 32 && item + 32 * word < items; ++word)
        // A tile of 16 items may begin in the middle of a word.
        bits |= (u64)(barred[item / 32 + word] >> item % 32) << 32 * word;
    for (; at < end && seen[at] < item + STREAM; ++at) bits |= 1ull << (seen[at] - item);
    if (target - item < STREAM) bits |= 1ull << (target - item);
    u32 left = items - item;
    if (left < 64) bits |= ~0ull << left;
    s_bits[set + threadIdx.x] = bits;
  }

  __device__ bool hides(int owned, int j) const {
    return s_bits[set + threadIdx.x / 16 + 8 * owned] >> (threadIdx.x % 16 + 16 * j) & 1;
  }
};
