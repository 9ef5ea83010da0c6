// Items drawn from laws that no score enters, without what a row excludes: the twin of src/sampling/propose/draw.rs.
//
//   propose           a draw for every slot; an excluded item is drawn again, at most ATTEMPTS times, then the rest of the catalogue
//                     is enumerated and drawn from by its cumulative law: q(i) / (1 - q(excluded)) either way
//   propose_distinct  the same, and no item twice in a group: slots are filled one after the other
//   propose_left      the logarithm of the probability that is left to a group, 1 - q(excluded)
//   propose_drop      of lists that rows share: which slots a row must not count
//   propose_spread    lists that rows share, written out for the rows from `first` to `end`
//
// A law is an alias table of integers (FIXED), one per time cluster over "any item" and the cluster's own (CLUSTERED), the
// catalogue (UNIFORM) or the batch (BATCH); several are a mixture, whose first word picks one of them.
//
// Shapes       ids, log_q (G,N)  laws (P,4), or P + 1 of them: kind, bound of the first word, share, where in `table`
//              table: see src/ops/propose.rs
//              catalogue (T) or null (every item)  targets (R)  items, counts (F): the distinct targets, ascending
//              keys, log_left (G)  clusters (G)  extents (G,2) of `seen`  barred (G): one more excluded item
//              drop (R,N) bytes  groups (R) or none  of propose_drop and propose_spread: extents, barred of rows
// Launch       propose: a thread per slot, 128 a block; propose_distinct, left: a warp per group, 4 a block; drop, spread: a thread per
//              (row, slot), 256 a block
// Traffic      4 G N written, 8 more with log_q; a table read and log2 of the seen items for each draw, from L2
//   propose: reads at most 4 |laws| + 4 |table| + 4 |catalogue| + 4 |targets| + 4 |items| + 4 |counts| + 4 |keys| + 4 |clusters| + 4 |extents| + 4 |seen| + 4 |barred| + 4 |log_left|, writes 4 G N + 4 |log_q|
//   propose_distinct: reads at most 4 G N + 4 |laws| + 4 |table| + 4 |catalogue| + 4 |targets| + 4 |items| + 4 |counts| + 4 |keys| + 4 |clusters| + 4 |extents| + 4 |seen| + 4 |barred| + 4 |log_left|, writes 4 G N + 4 |log_q|
//   propose_left: reads at most 4 |laws| + 4 |table| + 4 |catalogue| + 4 |items| + 4 |counts| + 4 |clusters| + 4 |extents| + 4 |seen| + 4 |barred|, writes 4 |log_left|
//   propose_drop: reads at most 4 |ids| + 4 |groups| + 4 |extents| + 4 |seen| + 4 |targets|, writes R N
//   propose_spread: reads at most 4 |ids| + 4 |log_q| + 4 |drop| + 4 |groups|, writes 4 |ids_of_rows| + 4 |log_q_of_rows|
// Numerics     integers and f64, in the order of the plain path: ids are its ids; log_q to a unit in the last place
// Determinism  a function of (seed, epoch, key, slot, law)
// Source       alias method: Walker 1977, Vose 1991; successive sampling: Efraimidis and Spirakis 2006
#define ROOMY , 1
#include "device.cuh"
#include "philox.cuh"

static constexpr u32 NONE = ~0u, ATTEMPTS = 32, ENUMERATED = 128;
static constexpr u64 WHOLE = 1ull << 63;  // the sum of a table's masses
static constexpr double MASS = 1.0 / 9223372036854775808.0;
enum { UNIFORM, FIXED, BATCH, CLUSTERED };

struct Law { u64 kind, bound; double share; u64 at; };

// First of `n` ascending numbers that is not below x.
template <class T>
__device__ inline u32 lower_bound(const T* list, u32 n, u32 x) {
  u32 first = 0;
  while (n > 0) {
    u32 half = n / 2;
    bool below = list[first + half] < x;
    first += below ? half + 1 : 0;
    n = below ? n - half - 1 : half;
  }
  return first;
}

// Where a law of its own is drawn from a word (src/sampling/alias.rs).
struct Alias {
  const u64* head;  // bits of a threshold, columns, entries; then the columns, the masses, and a cluster's items

  __device__ u32 draw(u64 word) const {
    u32 bits = (u32)head[0];
    u64 x = word >> 1, column = x >> (bits - 1), coin = x & (((u64)1 << (bits - 1)) - 1);
    u64 held = head[3 + column];
    return (u32)(coin < (held & (((u64)1 << bits) - 1)) ? column : held >> bits);
  }
  __device__ u64 mass(u32 entry) const { return head[3 + head[1] + entry]; }
  __device__ double prob(u32 entry) const { return (double)mass(entry) * MASS; }
  __device__ const u64* items() const { return head + 3 + head[1] + head[2]; }
};

// The words of a slot: one, shared with its neighbour, two, or a third from another lane.
struct SlotWords {
  u64 a, b, c;

  __device__ SlotWords(Draws draws, u32 attempt, u64 key, u32 slot, u32 count) {
    draws.word3 |= attempt << 16;
    Words x = words(draws, key << 20 | (count == 1 ? slot >> 1 : slot));
    u64 low = (u64)x.w[1] << 32 | x.w[0], high = (u64)x.w[3] << 32 | x.w[2];
    a = count == 1 && slot % 2 ? high : low;
    b = high;
    c = 0;
    if (count > 2) {
      draws.word3 |= 64u << 16;
      x = words(draws, key << 20 | slot);
      c = (u64)x.w[1] << 32 | x.w[0];
    }
  }
};

struct Laws {
  const Law* laws;
  const u64* table;
  const u32 *catalogue, *targets, *items, *counts;
  u32 P, mixed, T, R, F;  // mixed: 1 where the first word picks a law; 2 where laws[P] is reported of what laws[0] draws

  __device__ u32 trained(u32 j) const { return catalogue ? catalogue[j] : j; }

  // The item of a slot's words.
  __device__ u32 draw(const SlotWords& w, u32 cluster) const {
    u32 c = 0;
    while (c + 1 < P && w.a >= laws[c].bound) ++c;
    u64 first = mixed == 1 ? w.b : w.a, second = mixed == 1 ? w.c : w.b;
    const Law& law = laws[c];
    switch (law.kind) {
      case UNIFORM: return trained((u32)below(first, T));
      case FIXED: return Alias{table + law.at}.draw(first);
      case BATCH: return R > 0 ? targets[below(first, R)] : NONE;
      default: {
        Alias alias{table + table[law.at + cluster]};
        u32 entry = alias.draw(first);
        return entry == 0 ? trained((u32)below(second, T)) : (u32)alias.items()[entry - 1];
      }
    }
  }
  __device__ double prob_of(const Law& law, u32 cluster, u32 item) const {
    switch (law.kind) {
      case UNIFORM: return 1.0 / (double)T;
      case FIXED: return Alias{table + law.at}.prob(item);
      case BATCH: {
        u32 at = lower_bound(items, F, item);
        return at < F && items[at] == item ? (double)counts[at] / (double)R : 0.0;
      }
      default: {
        Alias alias{table + table[law.at + cluster]};
        const u64* of_cluster = alias.items();
        u32 n = (u32)alias.head[2] - 1, at = lower_bound(of_cluster, n, item);
        bool own = at < n && of_cluster[at] == item;
        return __dadd_rn(alias.prob(0) / (double)T, own ? alias.prob(at + 1) : 0.0);
      }
    }
  }
  // The probability of drawing an item of the catalogue, and the one that is reported.
  __device__ double prob(u32 cluster, u32 item) const {
    if (mixed != 1) return prob_of(laws[0], cluster, item);
    double sum = 0.0;
    for (u32 c = 0; c < P; ++c)
      if (laws[c].share > 0.0) sum = __dadd_rn(sum, __dmul_rn(laws[c].share, prob_of(laws[c], cluster, item)));
    return sum;
  }
  __device__ double reported(u32 cluster, u32 item) const {
    return mixed == 2 ? prob_of(laws[P], cluster, item) : prob(cluster, item);
  }
};

// What a group draws and what it may not.
struct Group {
  u64 key;
  u32 cluster, barred, slots;   // slots filled already whose items count as excluded
  const u32 *seen, *filled;
  u32 count;

  __device__ Group(const u64* keys, const u32* clusters, const u32* extents, const u32* all_seen, const u32* all_barred, u32 g) {
    key = keys[g];
    cluster = clusters ? clusters[g] : 0;
    barred = all_barred ? all_barred[g] : NONE;
    seen = extents ? all_seen + extents[2 * (u64)g] : nullptr;
    count = extents ? extents[2 * (u64)g + 1] - extents[2 * (u64)g] : 0;
    filled = nullptr;
    slots = 0;
  }
  __device__ bool excludes(u32 item) const {
    if (item == barred) return true;
    u32 at = lower_bound(seen, count, item);
    return at < count && seen[at] == item;
  }
  // Asked by whole warps, where any slot is filled.
  __device__ bool repeats(u32 item) const {
    if (slots == 0) return false;
    bool met = false;
    for (u32 j = threadIdx.x % 32; j < slots; j += 32) met |= filled[j] == item;
    return __any_sync(~0u, met);
  }
};

// The items that are left to a group, ascending, with their probabilities. What is excluded ascends too, so both lists are gone through
// once; where all laws are of the batch, whose targets are of the catalogue, nothing else is looked at.
struct Left {
  const Laws& laws;
  const Group& group;
  bool of_batch;
  u32 next, passed;  // of the items, of `seen`

  __device__ Left(const Laws& laws, const Group& group) : laws(laws), group(group), of_batch(true), next(0), passed(0) {
    for (u32 c = 0; c < laws.P; ++c) of_batch &= laws.laws[c].kind == BATCH;
  }
  // Whether there was one more.
  __device__ bool step(u32& item, double& prob) {
    for (u32 end = of_batch ? laws.F : laws.T; next < end;) {
      item = of_batch ? laws.items[next] : laws.trained(next);
      ++next;
      while (passed < group.count && group.seen[passed] < item) ++passed;
      if (item == group.barred || (passed < group.count && group.seen[passed] == item) || group.repeats(item)) continue;
      prob = laws.prob(group.cluster, item);
      return true;
    }
    return false;
  }
};

// A draw from what is left of the catalogue; NONE when nothing is.
__device__ inline u32 enumerate(const Laws& laws, const Group& group, Draws draws, u32 slot) {
  double total = 0.0, prob;
  u32 item, last = NONE;
  for (Left left(laws, group); left.step(item, prob);) total = __dadd_rn(total, prob);
  if (!(total > 0.0)) return NONE;
  draws.word3 |= ENUMERATED << 16;
  Words x = words(draws, group.key << 20 | slot);
  double mark = total * open01((u64)x.w[1] << 32 | x.w[0]), reached = 0.0;
  for (Left left(laws, group); left.step(item, prob);) {
    if (!(prob > 0.0)) continue;
    reached = __dadd_rn(reached, prob);
    last = item;
    if (reached > mark) break;
  }
  return last;
}

#define LAWS_AND_GROUPS                                                                                                       \
  u32 *ids, float *log_q, const Law *laws, const u64 *table, const u32 *catalogue, const u32 *targets, const u32 *items,      \
      const u32 *counts, const u64 *keys, const u32 *clusters, const u32 *extents, const u32 *seen, const u32 *barred,        \
      const double *log_left, u32 G, u32 N, u32 P, u32 mixed, u32 W, u32 T, u32 R, u32 F, u32 key0, u32 key1, u32 word2,    \
      u32 word3

KERNEL(128, propose)(LAWS_AND_GROUPS) {
  u64 at = (u64)blockIdx.x * 128 + threadIdx.x;
  if (at >= (u64)G * N) return;
  u32 g = (u32)(at / N), slot = (u32)(at % N);
  Laws law{laws, table, catalogue, targets, items, counts, P, mixed, T, R, F};
  Draws draws{key0, key1, word2, word3};
  Group group(keys, clusters, extents, seen, barred, g);
  u32 item = NONE;
  for (u32 attempt = 0; attempt < ATTEMPTS; ++attempt) {
    u32 drawn = law.draw(SlotWords(draws, attempt, group.key, slot, W), group.cluster);
    if (drawn == NONE || group.excludes(drawn)) continue;
    item = drawn;
    break;
  }
  if (item == NONE) item = enumerate(law, group, draws, slot);
  ids[at] = item;
  if (log_q) log_q[at] = item == NONE ? 0.0f : (float)(log(law.reported(group.cluster, item)) - log_left[g]);
}

KERNEL(128, propose_distinct)(LAWS_AND_GROUPS) {
  u32 g = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (g >= G) return;  // whole warps
  Laws law{laws, table, catalogue, targets, items, counts, P, mixed, T, R, F};
  Draws draws{key0, key1, word2, word3};
  Group group(keys, clusters, extents, seen, barred, g);
  group.filled = ids + (u64)g * N;
  for (u32 slot = 0; slot < N; ++slot) {
    group.slots = slot;
    u32 item = NONE;
    for (u32 attempt = 0; attempt < ATTEMPTS && item == NONE; ++attempt) {
      u32 drawn = law.draw(SlotWords(draws, attempt, group.key, slot, W), group.cluster);  // the same in all lanes
      if (drawn == NONE || group.excludes(drawn)) continue;
      bool met = false;
      for (u32 j = lane; j < slot; j += 32) met |= group.filled[j] == drawn;
      if (!__any_sync(~0u, met)) item = drawn;
    }
    if (item == NONE) item = enumerate(law, group, draws, slot);
    if (lane == 0) {
      ids[(u64)g * N + slot] = item;
      if (log_q)
        log_q[(u64)g * N + slot] = item == NONE ? 0.0f : (float)(log(law.reported(group.cluster, item)) - log_left[g]);
    }
    __syncwarp();
  }
}

__device__ inline u64 sum_lanes(u64 x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

KERNEL(128, propose_left)(double* log_left, const Law* laws, const u64* table, const u32* catalogue, const u32* items,
                          const u32* counts, const u32* clusters, const u32* extents, const u32* seen, const u32* barred, u32 G,
                          u32 P, u32 mixed, u32 T, u32 R, u32 F) {
  u32 g = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (g >= G) return;  // whole warps
  u32 cluster = clusters ? clusters[g] : 0, first = extents ? extents[2 * (u64)g] : 0, own = barred ? barred[g] : NONE;
  u32 count = extents ? extents[2 * (u64)g + 1] - first : 0;
  u32 place = own == NONE ? 0 : lower_bound(seen + first, count, own);
  bool further = own != NONE && !(place < count && seen[first + place] == own);
  double left = 0.0;
  if (mixed == 2) laws += P, P = 1;
  for (u32 c = 0; c < P; ++c) {
    Law law = laws[c];
    Alias alias{table + (law.kind == CLUSTERED ? table[law.at + cluster] : law.at)};
    // Masses or counts of the excluded items, and how many of them are of the catalogue.
    u64 gone = 0, trained = 0;
    for (u32 x = lane; x < count + further; x += 32) {
      u32 item = x < count ? seen[first + x] : own;
      if (law.kind == FIXED) gone += alias.mass(item);
      if (law.kind == BATCH) {
        u32 at = lower_bound(items, F, item);
        if (at < F && items[at] == item) gone += counts[at];
      }
      if (law.kind == UNIFORM || law.kind == CLUSTERED) {
        u32 at = catalogue ? lower_bound(catalogue, T, item) : item;
        trained += at < T && (!catalogue || catalogue[at] == item);
      }
      if (law.kind == CLUSTERED) {
        u32 n = (u32)alias.head[2] - 1, at = lower_bound(alias.items(), n, item);
        if (at < n && alias.items()[at] == item) gone += alias.mass(at + 1);
      }
    }
    gone = sum_lanes(gone), trained = sum_lanes(trained);
    double of_law = 0.0;
    switch (law.kind) {
      case UNIFORM: of_law = (double)(T - trained) / (double)T; break;
      case FIXED: of_law = (double)(WHOLE - gone) * MASS; break;
      case BATCH: of_law = (double)(R - gone) / (double)R; break;
      default:
        of_law = __dadd_rn(__dmul_rn(alias.prob(0), (double)(T - trained)) / (double)T, __dmul_rn((double)(WHOLE - alias.mass(0) - gone), MASS));
    }
    left = mixed == 1 ? __dadd_rn(left, __dmul_rn(law.share, of_law)) : of_law;
  }
  if (lane == 0) log_left[g] = log(left);
}

KERNEL(256, propose_drop)(u8* drop, const u32* ids, const u32* groups, const u32* extents, const u32* seen, const u32* targets,
                          u32 R, u32 N) {
  u64 at = (u64)blockIdx.x * 256 + threadIdx.x;
  if (at >= (u64)R * N) return;
  u32 r = (u32)(at / N), slot = (u32)(at % N), item = ids[(u64)(groups ? groups[r] : r) * N + slot];
  bool hit = item == targets[r];
  if (extents && !hit && item != NONE) {
    const u32* list = seen + extents[2 * (u64)r];
    u32 count = extents[2 * (u64)r + 1] - extents[2 * (u64)r], place = lower_bound(list, count, item);
    hit = place < count && list[place] == item;
  }
  drop[at] = hit;
}

KERNEL(256, propose_spread)(u32* ids_of_rows, float* log_q_of_rows, const u32* ids, const float* log_q, const u8* drop,
                            const u32* groups, u32 first, u32 end, u32 N) {
  u64 to = (u64)blockIdx.x * 256 + threadIdx.x, at = (u64)first * N + to;
  if (at >= (u64)end * N) return;
  u64 from = (groups ? groups[at / N] : at / N) * N + at % N;
  ids_of_rows[to] = drop && drop[at] ? NONE : ids[from];
  if (log_q) log_q_of_rows[to] = log_q[from];
}
