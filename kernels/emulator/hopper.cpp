// What only Hopper has: barriers in memory, copies of whole tiles that land there, products by four warps.
//
// A copy lands when no thread can go on, and a product is computed when its warp waits for it, from what lies in shared memory then:
// a missing or weak wait reads NaN or what was there before. Layouts as in the PTX manual, "Asynchronous warpgroup level matrix
// instructions" and "mbarrier", and as kernels/device.cuh states them.

#include "inside.h"

#include <stdlib.h>
#include <string.h>

namespace machine {

// ---- Barriers in memory --------------------------------------------------------------------------------------------

namespace {

// The 8 bytes. Fresh memory and most numbers have another mark.
struct Content {
  u64 parity : 1, count : 16, missing : 16, bytes : 24, mark : 7;
};
static_assert(sizeof(Content) == 8);
constexpr u64 MARK = 0x2d;

struct Found {
  Content& content;
  u32 number;
};

}  // namespace

#define PLACE "'%s'+%llu"
#define PLACE_OF(m, at) region_of(m, at).region, region_of(m, at).offset

static Content& content_of(const Machine& m, u64 at) { return *reinterpret_cast<Content*>(m.shared + at); }

static u64 place_of(Machine& m, const u64* barrier, const char* name, const Spot& site) {
  if (!in_shared(m, barrier, 8)) fail(m, "%s (" AT "): the mbarrier is not in shared memory", name, AT_OF(site));
  if ((u64)barrier % 8) fail(m, "%s (" AT "): misaligned mbarrier", name, AT_OF(site));
  return (u64)barrier - (u64)m.shared;
}

static Found found(Lane& lane, u64* barrier, const char* name, const Spot& site, const void* caller) {
  Machine& m = *lane.machine;
  u64 at = place_of(m, barrier, name, site);
  for (u32 i = 0; i < m.mbarriers_count; ++i) {
    if (m.mbarriers[i].at != at) continue;
    if (content_of(m, at).mark != MARK) fail(m, "%s (" AT "): the mbarrier " PLACE " was overwritten", name, AT_OF(site), PLACE_OF(m, at));
    if (m.shadow) shadow_access(lane, barrier, 8, Access::atomic, caller);
    return {content_of(m, at), i};
  }
  fail(m, "%s (" AT "): no mbarrier_init of " PLACE, name, AT_OF(site), PLACE_OF(m, at));
}

void begin_block_hopper(Machine& m) {
  m.mbarriers_count = m.bulks_count = 0;
  for (GroupMeeting& meeting : m.group_meetings) meeting.arrived = 0;
}

void mbarrier_init(u64* barrier, u32 count, Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  Machine& m = *lane.machine;
  u64 at = place_of(m, barrier, "mbarrier_init", site);
  if (count == 0 || count > 0xffff) fail(m, "mbarrier_init (" AT "): a count of %u", AT_OF(site), count);
  for (u32 i = 0; i < m.mbarriers_count; ++i)
    if (m.mbarriers[i].at == at) fail(m, "mbarrier_init (" AT "): the mbarrier " PLACE " is one already", AT_OF(site), PLACE_OF(m, at));
  if (m.mbarriers_count == MOST_MBARRIERS) fail(m, "mbarrier_init (" AT "): more than %u of them", AT_OF(site), MOST_MBARRIERS);
  if (m.shadow) shadow_access(lane, barrier, 8, Access::write, CALLER);
  content_of(m, at) = {0, count, count, 0, MARK};
  m.mbarriers[m.mbarriers_count++] = {at, lane.number, false};
}

void mbarrier_init_fence() {
  Lane& lane = *current();
  Machine& m = *lane.machine;
  for (u32 i = 0; i < m.mbarriers_count; ++i) m.mbarriers[i].fenced |= m.mbarriers[i].owner == lane.number;
}

// The phase is over where nothing is missing: whoever waits for it goes on.
static void end_phase(Machine& m, Content& c, u32 number) {
  if (c.missing || c.bytes) return;
  if (m.shadow) shadow_phase(m, number);
  for (u32 i = 0; i < m.threads; ++i) {
    Lane& lane = m.lanes[i];
    if (lane.state != State::at_mbarrier || lane.mbarrier != number || lane.parity != c.parity) continue;
    lane.state = State::running;
    set_ready(m, i / LANES, 1u << i % LANES);
  }
  c.parity ^= 1;
  c.missing = c.count;
}

void mbarrier_arrive(u64* barrier, u32 bytes, const char* name, Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  Machine& m = *lane.machine;
  Found b = found(lane, barrier, name, site, CALLER);
  u64 at = m.mbarriers[b.number].at;
  if (!b.content.missing) {
    fail(m, "%s (" AT "): all %u have arrived at " PLACE ", which waits for %u bytes", name, AT_OF(site), (u32)b.content.count, PLACE_OF(m, at), (u32)b.content.bytes);
  }
  if (b.content.bytes + bytes >= 1u << 20) fail(m, "%s (" AT "): %u bytes are more than an mbarrier counts", name, AT_OF(site), (u32)b.content.bytes + bytes);
  if (m.shadow) shadow_arrive(lane, b.number);
  b.content.bytes += bytes;
  --b.content.missing;
  end_phase(m, b.content, b.number);
}

void mbarrier_wait(u64* barrier, u32 parity, Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  Machine& m = *lane.machine;
  if (parity > 1) fail(m, "mbarrier_wait (" AT "): parity %u", AT_OF(site), parity);
  Found b = found(lane, barrier, "mbarrier_wait", site, CALLER);
  while (b.content.parity == parity) {
    lane.state = State::at_mbarrier;
    lane.waits = "mbarrier_wait";
    lane.site = site;
    lane.mbarrier = b.number;
    lane.parity = parity;
    park(m, lane);
  }
  if (m.shadow) shadow_wait(lane, b.number);
}

void say_mbarrier(Machine& m, const Lane& lane) {
  u64 at = m.mbarriers[lane.mbarrier].at;
  const Content& c = content_of(m, at);
  say(m, " waiting at %s for " PLACE ", parity %u, where %u of %u arrivals and %u bytes are missing (" AT ")", lane.waits, PLACE_OF(m, at),
      lane.parity, (u32)c.missing, (u32)c.count, (u32)c.bytes, AT_OF(lane.site));
}

// ---- Copies --------------------------------------------------------------------------------------------------------

void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier, Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  Machine& m = *lane.machine;
  const void* caller = CALLER;
  if (!in_shared(m, to, bytes)) fail(m, "copy_bulk (" AT "): the destination is not shared memory", AT_OF(site));
  if ((u64)from - (u64)m.heap >= m.heap_bytes) fail(m, "copy_bulk (" AT "): the source is not global memory", AT_OF(site));
  if ((u64)to % 16 || (u64)from % 16) fail(m, "copy_bulk (" AT "): misaligned %s", AT_OF(site), (u64)to % 16 ? "destination" : "source");
  if (bytes == 0 || bytes % 16) fail(m, "copy_bulk (" AT "): %u bytes are no multiple of 16", AT_OF(site), bytes);
  Found b = found(lane, barrier, "copy_bulk", site, caller);
  if (!m.mbarriers[b.number].fenced) {
    fail(m, "copy_bulk (" AT "): no mbarrier_init_fence after the mbarrier_init of " PLACE, AT_OF(site), PLACE_OF(m, m.mbarriers[b.number].at));
  }
  if (m.bulks_count == MOST_BULKS) fail(m, "copy_bulk (" AT "): more than %u under way", AT_OF(site), MOST_BULKS);
  u32 clock = 0;
  if (m.shadow) {
    shadow_access(lane, from, bytes, Access::read, caller, false);
    clock = shadow_bulk(lane, to, bytes, b.number, caller);
  }
  memset(to, NOTHING, bytes);
  m.bulks[m.bulks_count++] = {to, from, bytes, b.number, clock, site};
}

// In order of issue, in reverse, or any.
bool land(Machine& m) {
  if (!m.bulks_count) return false;
  u32 i = m.launch->order == Order::forward ? 0 : m.launch->order == Order::reverse ? m.bulks_count - 1 : draw(m, m.bulks_count);
  const Bulk bulk = m.bulks[i];
  memmove(m.bulks + i, m.bulks + i + 1, (--m.bulks_count - i) * sizeof(Bulk));
  u64 at = m.mbarriers[bulk.mbarrier].at;
  Content& c = content_of(m, at);
  if (c.mark != MARK) fail(m, "copy_bulk (" AT "): the mbarrier " PLACE " was overwritten", AT_OF(bulk.site), PLACE_OF(m, at));
  if (bulk.bytes > c.bytes) {
    fail(m, "copy_bulk (" AT "): %u bytes land at " PLACE ", which expects %u more", AT_OF(bulk.site), bulk.bytes, PLACE_OF(m, at), (u32)c.bytes);
  }
  memcpy(bulk.to, bulk.from, bulk.bytes);
  if (m.shadow) shadow_bulk_landed(m, bulk);
  c.bytes -= bulk.bytes;
  end_phase(m, c, bulk.mbarrier);
  return true;
}

void fence_async() {
  Lane& lane = *current();
  if (lane.machine->shadow) shadow_fence_async(lane);
}

u32 shared_address(const void* shared, Site line) {
  const Spot site{line, CALLER};
  Machine& m = *current()->machine;
  if (!in_shared(m, shared, 1)) fail(m, "shared_address (" AT "): not shared memory", AT_OF(site));
  return (u32)((u64)shared - (u64)m.shared);
}

// ---- Products ------------------------------------------------------------------------------------------------------

constexpr u32 MOST_PRODUCTS = 32, MOST_SUMS = 4, ROWS = 64, COLUMNS = 128, DEEP = 16;

// Accumulators of a warp, which nobody may read before the wait: they hold NaN, and their sums are here.
struct Sums {
  float* d[LANES];
  float held[LANES][64];
  u32 uses;
};

// The products of a warp under way.
struct Products {
  struct Product {
    u64 a, b;
    u32 sums, group, clock;
    bool add, cut;
    const void* caller;
  } all[MOST_PRODUCTS];
  u32 count, groups;
  u32 serial;   // of the block that they are of
  bool fenced;  // since the last wait
  Sums sums[MOST_SUMS];
};

static Products& products_of(Lane& lane, const Spot& site) {
  Machine& m = *lane.machine;
  if (!m.products) m.products = static_cast<Products*>(calloc(MOST_THREADS / LANES, sizeof(Products)));
  if (!m.products) fail(m, "(" AT "): the host has no memory left", AT_OF(site));
  Products& p = m.products[lane.number / LANES];
  if (p.serial != (u32)m.counters.blocks) {
    p.serial = (u32)m.counters.blocks;
    p.count = p.groups = 0;
    p.fenced = false;
    for (Sums& sums : p.sums) sums.uses = 0;
  }
  return p;
}

// An operand: where 16 bytes of a row lie.
struct Operand {
  const char* shared;
  u64 from, stride;
  const char* piece(u32 row, u32 half) const {
    u64 at = from + row / 8 * stride + row % 8 * 128 + half * 16;
    return shared + (at ^ (at >> 3 & 0x70));
  }
};

static Operand operand(const Machine& m, u64 descriptor) { return {m.shared, (descriptor & 0x3fff) << 4, (descriptor >> 32 & 0x3fff) << 4}; }

static bool in_a_region(const Machine& m, const char* p, u64 bytes) {
  u64 at = (u64)p - (u64)m.shared;
  for (u32 i = 0; i < m.regions_count; ++i) if (at >= m.regions[i].from && at + bytes <= m.regions[i].from + m.regions[i].bytes) return true;
  return false;
}

static void look_at(Machine& m, u64 descriptor, u32 rows, const char* which, const Spot& site) {
  if (descriptor >> 62 != 1) fail(m, "wgmma (" AT "): %s is not in the mode of 128 bytes", AT_OF(site), which);
  if (descriptor >> 49 & 7) fail(m, "wgmma (" AT "): %s has a base offset", AT_OF(site), which);
  Operand o = operand(m, descriptor);
  if (o.from & 0x380 || o.stride % 1024) fail(m, "wgmma (" AT "): %s does not begin at a multiple of 1024 bytes", AT_OF(site), which);
  for (u32 row = 0; row < rows; ++row)
    for (u32 half = 0; half < 2; ++half)
      if (!in_a_region(m, o.piece(row, half), 16)) fail(m, "wgmma (" AT "): row %u of %s is outside of shared memory", AT_OF(site), row, which);
}

// What a warp reads of a product's operands.
static void touch(Lane& lane, const Products::Product& product) {
  const Machine& m = *lane.machine;
  auto rows = [&](u64 descriptor, u32 from, u32 rows) {
    Operand o = operand(m, descriptor);
    for (u32 row = from; row < from + rows; ++row)
      for (u32 half = 0; half < 2; ++half) shadow_operand(lane, o.piece(row, half), 16, product.clock, product.caller);
  };
  rows(product.a, lane.number % GROUP / LANES * 16, 16);
  rows(product.b, 0, COLUMNS);
}

void group_fence(Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  u32 nothing = 0;
  together(~0u, "wgmma_fence", site, nothing, [&](auto) { products_of(lane, site).fenced = true; });
}

void group_multiply_bf16(float* d, u64 a, u64 b, bool add, bool cut, Site line) {
  const Spot site{line, CALLER};
  const void* caller = CALLER;
  struct Given { float* d; u64 a, b; bool add; };
  Given mine{d, a, b, add};
  together_group("wgmma", site, mine, [&](auto of) {
    Lane& last = *current();
    Machine& m = *last.machine;
    for (u32 l = 0; l < GROUP; ++l) {
      if (of(l).a == of(0).a && of(l).b == of(0).b && of(l).add == of(0).add) continue;
      fail(m, "wgmma (" AT "): thread %u of the warpgroup has another descriptor than thread 0", AT_OF(site), l);
    }
    u64 a = of(0).a, b = of(0).b;
    look_at(m, a, ROWS, "a", site);
    look_at(m, b, COLUMNS, "b", site);
    for (u32 warp = 0; warp < GROUP / LANES; ++warp) {
      Lane& first = m.lanes[last.number / GROUP * GROUP + warp * LANES];
      Products& p = products_of(first, site);
      if (!p.fenced) fail(m, "wgmma (" AT "): no wgmma_fence by warp %u since its last wgmma_wait", AT_OF(site), first.number / LANES);
      if (p.count == MOST_PRODUCTS) fail(m, "wgmma (" AT "): more than %u products under way", AT_OF(site), MOST_PRODUCTS);
      u32 s = 0;
      while (s < MOST_SUMS && !(p.sums[s].uses && p.sums[s].d[0] == of(warp * LANES).d)) ++s;
      for (u32 free = 0; s == MOST_SUMS && free < MOST_SUMS; ++free) {
        if (p.sums[free].uses) continue;
        s = free;
        for (u32 l = 0; l < LANES; ++l) {
          p.sums[s].d[l] = of(warp * LANES + l).d;
          memcpy(p.sums[s].held[l], p.sums[s].d[l], sizeof p.sums[s].held[l]);
          memset(p.sums[s].d[l], NOTHING, sizeof p.sums[s].held[l]);
        }
      }
      if (s == MOST_SUMS) fail(m, "wgmma (" AT "): more than %u accumulators under way", AT_OF(site), MOST_SUMS);
      ++p.sums[s].uses;
      Products::Product& product = p.all[p.count++];
      product = {a, b, s, p.groups, m.shadow ? shadow_product(first) : 0, of(0).add, cut, caller};
      if (m.shadow) touch(first, product);
    }
  });
}

void group_commit() {
  Lane& lane = *current();
  // The first lane speaks for its warp, which meets again at the wait.
  if (lane.number % LANES == 0) ++products_of(lane, {}).groups;
}

static float value_of(const char* piece, u32 i) {
  u16 bits;
  memcpy(&bits, piece + 2 * i, 2);
  return __builtin_bit_cast(float, (u32)bits << 16);
}

// The 16 rows of one product that are a warp's.
static void compute(Machine& m, u32 warp, const Products::Product& product, Sums& sums) {
  Operand a = operand(m, product.a), b = operand(m, product.b);
  float left[16][DEEP], right[DEEP][COLUMNS], sum[COLUMNS];
  for (u32 half = 0; half < 2; ++half) {
    for (u32 row = 0; row < 16; ++row)
      for (u32 i = 0; i < 8; ++i) left[row][half * 8 + i] = value_of(a.piece(warp * 16 + row, half), i);
    for (u32 row = 0; row < COLUMNS; ++row)
      for (u32 i = 0; i < 8; ++i) right[half * 8 + i][row] = value_of(b.piece(row, half), i);
  }
  for (u32 row = 0; row < 16; ++row) {
    auto held = [&](u32 column) -> float& { return sums.held[row % 8 * 4 + column % 8 / 2][column / 8 * 4 + row / 8 * 2 + column % 2]; };
    for (u32 c = 0; c < COLUMNS; ++c) sum[c] = product.add ? held(c) : 0.0f;
    if (product.cut) {
      for (u32 c = 0; c < COLUMNS; ++c) sum[c] = cut_sum<DEEP>(sum[c], left[row], &right[0][c], COLUMNS);
    } else {
      for (u32 k = 0; k < DEEP; ++k)
        for (u32 c = 0; c < COLUMNS; ++c) sum[c] += left[row][k] * right[k][c];
    }
    for (u32 c = 0; c < COLUMNS; ++c) held(c) = sum[c];
  }
}

void group_wait(u32 groups, Site line) {
  const Spot site{line, CALLER};
  u32 nothing = 0;
  together(~0u, "wgmma_wait", site, nothing, [&](auto) {
    Lane& lane = *current();
    Machine& m = *lane.machine;
    Products& p = products_of(lane, site);
    u32 warp = lane.number % GROUP / LANES, done = 0;
    while (done < p.count && p.all[done].group + groups < p.groups) {
      const Products::Product& product = p.all[done++];
      if (m.shadow) touch(lane, product), shadow_product_done(lane, product.clock);
      Sums& sums = p.sums[product.sums];
      compute(m, warp, product, sums);
      if (--sums.uses) continue;
      for (u32 l = 0; l < LANES; ++l) memcpy(sums.d[l], sums.held[l], sizeof sums.held[l]);
    }
    p.count -= done;
    memmove(p.all, p.all + done, p.count * sizeof(Products::Product));
    p.fenced = false;
  });
}

}  // namespace machine
