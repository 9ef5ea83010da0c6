// The gradient of an item table from scalar records sorted by item: every row of the table has one writer.
//
//   da[item] += sum over its records (alpha p[row] + beta (a[item] + g[row]))      wrong contexts: g~ in place of g
//
// Without alpha every record has the same, `scale`: the gradient of an embedding, whose rows p are the records themselves (K = 1).
//
// A record is a place in alpha (R,K) and, with the cosine, beta (R,K): row = place / K, slot = place % K, the last W slots
// wrong contexts. The records of an item (group.cu) are cut into pieces of PIECE; a warp sums a piece, and where an item has
// several they are added in order by a second launch. A popular item is so never the work of one warp, and nothing has to be
// counted first: a warp looks at 32 sorted records and sums the pieces that begin there.
//
// Shapes   p, g (R,D)  wrong (R,W,D)  a, da (V,D)  items, places (n) sorted by item  extents (V,2): first, end of an item
//          parts (2 (n / PIECE + 1), D): between two multiples of PIECE begin at most one last piece of an item and one other
// Defines  those of gathered.cuh
// Launch   a warp per 32 sorted records, four to a block
// Traffic  (4 D + 8..12) bytes per record, 8 D per item; 4 bytes per record again for the merge
//   table_gradient_pieces: reads at most 4 |p| + 4 |g| + 4 |a| + 4 |alpha| + 4 |beta| + 4 |wrong| + 4 |items| + 4 |places| + 4 |extents| + 4 |da|, writes at most 4 |da| + 4 |parts|
//   table_gradient_merge: reads at most 4 |parts| + 4 |items| + 4 |extents| + 4 |da|, writes at most 4 |da|
// Numerics f32; one chain of additions per list of the warp. HALF: of p rounded to bf16, but of a as it is, of which beta was not made,
//          so the cosine's own term is good to bf16
// Determinism  the shape of every sum follows from the lengths alone
// Source   sorted segments in place of atomics: the embedding gradient of llm.c (`llmc/encoder.cuh`)
#define ROOMY , 1  // the merge would spill a register of wide rows (sm_90a)
#include "gathered.cuh"

static constexpr u32 PIECE = 128;

// One of 32 sorted records, as its lane sees it.
struct Record {
  u32 at, item, first, end;  // an item that is none has no records

  __device__ Record(const u32* items, const u32* extents, u32 n, u32 V) {
    at = (blockIdx.x * 4 + threadIdx.x / 32) * 32 + threadIdx.x % 32;
    item = at < n ? items[at] : V;
    first = item < V ? extents[2 * (u64)item] : 0, end = item < V ? extents[2 * (u64)item + 1] : 0;
  }
  // That of another lane.
  __device__ Record(const Record& own, int lane) {
    at = __shfl_sync(~0u, own.at, lane), item = __shfl_sync(~0u, own.item, lane);
    first = __shfl_sync(~0u, own.first, lane), end = __shfl_sync(~0u, own.end, lane);
  }
  __device__ bool begins_piece() const { return first < end && (at - first) % PIECE == 0; }
  __device__ bool begins_long_item() const { return at == first && end - first > PIECE; }
};

// Where the piece that begins at `at` leaves its sum.
__device__ inline u64 part_of(u32 at, bool last) { return 2 * (u64)(at / PIECE) + (last ? 1 : 0); }

KERNEL(128, table_gradient_pieces)(float* da, float* parts, const float* alpha, const float* beta, const Stored* p, const float* g,
                                   const float* a, const float* wrong, const u32* items, const u32* places, const u32* extents,
                                   u32 n, u32 V, u32 K, u32 W, float scale) {
  Record own(items, extents, n, V);
  int list = threadIdx.x % 32 / LANES, lane = threadIdx.x % LANES;
  for (u32 todo = __ballot_sync(~0u, own.begins_piece()); todo != 0; todo &= todo - 1) {
    Record begin(own, __ffs((int)todo) - 1);
    u32 item = begin.item, end = min(begin.at + PIECE, begin.end);
    Part sum = Part::zero();
    float betas = 0.0f;
#pragma unroll 2
    for (u32 x = begin.at + list; x < end; x += LISTS) {
      u32 place = places[x], row = place / K, slot = place % K;
      sum.add(alpha ? alpha[place] : scale, Part::load(p + (u64)row * D, lane));
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
    bool whole = begin.end - begin.first <= PIECE;
    float* to = whole ? da + (u64)item * D : parts + part_of(begin.at, end == begin.end) * D;
    if (whole) sum.add(1.0f, Part::load(to, lane));
    __syncwarp();
    if (list == 0) sum.store(to, lane);
  }
}

KERNEL(128, table_gradient_merge)(float* da, const float* parts, const u32* items, const u32* extents, u32 n, u32 V) {
  Record own(items, extents, n, V);
  int list = threadIdx.x % 32 / LANES, lane = threadIdx.x % LANES;
  for (u32 todo = __ballot_sync(~0u, own.begins_long_item()); todo != 0; todo &= todo - 1) {
    Record begin(own, __ffs((int)todo) - 1);
    Part sum = Part::zero();
    for (u32 at = begin.first + list * PIECE; at < begin.end; at += LISTS * PIECE)
      sum.add(1.0f, Part::load(parts + part_of(at, begin.end - at <= PIECE) * D, lane));
    sum.sum_lists();
    float* to = da + (u64)begin.item * D;
    sum.add(1.0f, Part::load(to, lane));
    __syncwarp();
    if (list == 0) sum.store(to, lane);
  }
}
