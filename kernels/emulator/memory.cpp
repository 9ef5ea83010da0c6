// Device memory, shared memory, asynchronous copies, atomics.
//
// Both kinds of memory are filled with NaN when they are handed out and separated by gaps whose bytes are verified, so
// that unwritten numbers poison results and an overrun is seen even where single accesses are not checked.

#include "inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace machine {

// ---- Device memory: one reserved range, allocations by first fit ---------------------------------------------------

static u64 rounded(u64 bytes) { return (bytes + 255) / 256 * 256; }

u64 heap_allocate(Machine& m, u64 bytes) {
  u64 end = (u64)m.heap + m.heap_bytes, from = (u64)m.heap + HEAP_GAP, at = 0;
  if (bytes > m.heap_bytes) return 0;
  while (at < m.allocations_count && m.allocations[at].from < from + rounded(bytes) + HEAP_GAP) {
    from = m.allocations[at].from + rounded(m.allocations[at].bytes) + HEAP_GAP;
    ++at;
  }
  if (from + rounded(bytes) + HEAP_GAP > end) return 0;
  if (m.allocations_count == m.allocations_room) {
    u64 room = m.allocations_room * 2 + 64;
    void* grown = realloc(m.allocations, room * sizeof(Allocation));
    if (!grown) return 0;
    m.allocations = static_cast<Allocation*>(grown);
    m.allocations_room = room;
  }
  memmove(&m.allocations[at + 1], &m.allocations[at], (m.allocations_count - at) * sizeof(Allocation));
  m.allocations[at] = {from, bytes, ++m.serial};
  ++m.allocations_count;
  memset(reinterpret_cast<void*>(from - HEAP_GAP), NOTHING, rounded(bytes) + 2 * HEAP_GAP);
  if (m.shadow) shadow_forget(m, from, rounded(bytes));
  return from;
}

// The allocation that holds `address`, or the last one before it.
static Allocation* nearest(const Machine& m, u64 address) {
  u64 low = 0, high = m.allocations_count;
  while (low < high) {
    u64 middle = (low + high) / 2;
    if (m.allocations[middle].from <= address) low = middle + 1;
    else high = middle;
  }
  return low ? &m.allocations[low - 1] : nullptr;
}

const Allocation* heap_find(const Machine& m, u64 address) {
  Allocation* a = nearest(m, address);
  return a && (address == a->from || address - a->from < a->bytes) ? a : nullptr;
}

bool heap_free(Machine& m, u64 address) {
  Allocation* a = nearest(m, address);
  if (!a || a->from != address) return false;
  // Whole pages go back to the operating system: a test may run for long on many sizes.
  u64 page = 1 << 16, from = (a->from + page - 1) / page * page, to = (a->from + a->bytes) / page * page;
  if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
  if (m.shadow) shadow_forget(m, a->from, rounded(a->bytes));
  u64 at = (u64)(a - m.allocations);
  memmove(a, a + 1, (m.allocations_count - at - 1) * sizeof(Allocation));
  --m.allocations_count;
  return true;
}

// The first byte from `from` on that is not as the machine left it, or `to`.
static u64 first_touched(u64 from, u64 to) {
  while (from < to && *reinterpret_cast<u8*>(from) == NOTHING) ++from;
  return from;
}

bool heap_gaps_intact(Machine& m, const Allocation& a, const char* what) {
  u64 end = a.from + a.bytes, gap_end = a.from + rounded(a.bytes) + HEAP_GAP;
  u64 after = first_touched(end, gap_end), before = first_touched(a.from - HEAP_GAP, a.from);
  if (after == gap_end && before == a.from) return true;
  memset(reinterpret_cast<void*>(a.from - HEAP_GAP), NOTHING, HEAP_GAP);
  memset(reinterpret_cast<void*>(end), NOTHING, gap_end - end);
  if (!what) return true;
  if (after < gap_end) complain(m, "global memory written past the end of %s (%llu bytes) at +%llu", what, a.bytes, after - end);
  else complain(m, "global memory written before the start of %s at -%llu", what, a.from - before);
  return false;
}

// ---- Shared memory: regions carved when a block first asks for them ------------------------------------------------

static void* carve(Machine& m, const void* key, const char* name, u64 bytes, u64 alignment) {
  u64 from = (m.shared_used + alignment - 1) / alignment * alignment;
  m.regions[m.regions_count++] = {key, name, from, bytes};
  memset(m.shared + from, NOTHING, bytes + SHARED_GAP);
  if (m.shadow) shadow_fresh(m, m.shared + from, bytes);
  m.shared_used = from + bytes + SHARED_GAP;
  return m.shared + from;
}

void begin_block_memory(Machine& m) {
  m.regions_count = 0;
  m.shared_used = m.shared_static = 0;
}

Whereabouts region_of(const Machine& m, u64 at) {
  const Region* best = nullptr;
  for (u32 i = 0; i < m.regions_count; ++i) if (m.regions[i].from <= at && (!best || m.regions[i].from > best->from)) best = &m.regions[i];
  return best ? Whereabouts{best->name, at - best->from} : Whereabouts{"shared memory", at};
}

bool end_block_memory(Machine& m) {
  // Only Hopper grants so much, and only a kernel of its own words may take it.
  if (!m.mbarriers_count && m.shared_static + m.launch->shared_bytes > SHARED_BYTES) {
    complain(m, "%llu bytes of shared memory, a block has %llu", m.shared_static + m.launch->shared_bytes, SHARED_BYTES);
    return false;
  }
  for (u32 i = 0; i < m.regions_count; ++i) {
    const Region& region = m.regions[i];
    u64 end = (u64)m.shared + region.from + region.bytes, touched = first_touched(end, end + SHARED_GAP);
    if (touched == end + SHARED_GAP) continue;
    complain(m, "shared memory written past the end of '%s' (%llu bytes) at +%llu", region.name, region.bytes, touched - end);
    return false;
  }
  return true;
}

void* shared(const void* key, const char* name, u64 bytes, u64 alignment, Site line) {
  const Spot site{line, CALLER};
  Machine& m = *current()->machine;
  for (u32 i = 0; i < m.regions_count; ++i) if (m.regions[i].key == key) return m.shared + m.regions[i].from;
  m.shared_static += bytes;
  if (m.shared_static > SHARED_STATIC_BYTES) {
    fail(m, "SHARED %s (" AT "): %llu bytes of static shared memory, a kernel may declare %llu", name, AT_OF(site), m.shared_static, SHARED_STATIC_BYTES);
  }
  if (m.shared_static + m.launch->shared_bytes > SHARED_BYTES_HOPPER) {
    fail(m, "SHARED %s (" AT "): %llu bytes of shared memory, a block has %llu", name, AT_OF(site), m.shared_static + m.launch->shared_bytes, SHARED_BYTES_HOPPER);
  }
  if (m.regions_count == MOST_REGIONS) fail(m, "SHARED %s (" AT "): more than %u declarations", name, AT_OF(site), MOST_REGIONS);
  return carve(m, key, name, bytes, alignment);
}

// On a GPU it lies behind what is declared, so it has no more alignment than was asked for; here too.
void* shared_dynamic(const char* name, u64 alignment, Site line) {
  const Spot site{line, CALLER};
  Machine& m = *current()->machine;
  if (!m.launch->shared_bytes) fail(m, "SHARED_DYN %s (" AT "): the launch gives no dynamic shared memory", name, AT_OF(site));
  for (u32 i = 0; i < m.regions_count; ++i) if (m.regions[i].key == &m.shared) return m.shared + m.regions[i].from;
  if (m.regions_count == MOST_REGIONS) fail(m, "SHARED_DYN %s (" AT "): more than %u declarations", name, AT_OF(site), MOST_REGIONS);
  if ((m.shared_used + alignment - 1) / alignment % 2 == 0) m.shared_used += alignment;
  return carve(m, &m.shared, "dynamic", m.launch->shared_bytes, alignment);
}

// ---- Asynchronous copies: they land as late as the program allows --------------------------------------------------

bool in_shared(const Machine& m, const void* p, u64 bytes) {
  return (u64)p - (u64)m.shared < m.shared_used && (u64)p + bytes <= (u64)m.shared + m.shared_used;
}

void copy_async(void* to, const void* from, u32 bytes, const char* name, Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  Machine& m = *lane.machine;
  const void* caller = CALLER;
  if (!in_shared(m, to, bytes)) fail(m, "%s (" AT "): the destination is not shared memory", name, AT_OF(site));
  if ((u64)from - (u64)m.heap >= m.heap_bytes) fail(m, "%s (" AT "): the source is not global memory", name, AT_OF(site));
  if ((u64)to % bytes || (u64)from % bytes) fail(m, "%s (" AT "): misaligned %s", name, AT_OF(site), (u64)to % bytes ? "destination" : "source");
  if (m.shadow) {
    shadow_access(lane, from, bytes, Access::read, caller);
    shadow_access(lane, to, bytes, Access::write, caller);
    shadow_in_flight(lane, to, bytes, caller);
  }
  if (lane.copies_count == lane.copies_room) {
    u32 room = lane.copies_room * 2 + 8;
    void* grown = realloc(lane.copies, room * sizeof(Copy));
    if (!grown) fail(m, "%s (" AT "): the host has no memory left", name, AT_OF(site));
    lane.copies = static_cast<Copy*>(grown);
    lane.copies_room = room;
  }
  memset(to, NOTHING, bytes);
  lane.copies[lane.copies_count++] = {to, from, bytes, lane.groups, caller};
}

void copy_async_commit() { ++current()->groups; }

void copy_async_wait(u32 groups) {
  Lane& lane = *current();
  u32 landed = 0;
  while (landed < lane.copies_count && lane.copies[landed].group + groups < lane.groups) {
    const Copy& copy = lane.copies[landed++];
    if (lane.machine->shadow) shadow_landed(lane, copy.to, copy.bytes, copy.caller);
    memcpy(copy.to, copy.from, copy.bytes);
  }
  lane.copies_count -= landed;
  memmove(lane.copies, lane.copies + landed, lane.copies_count * sizeof(Copy));
}

// ---- Atomics -------------------------------------------------------------------------------------------------------

template <class T, class S> static T update(T* p, Update how, T operand, T compare) {
  T before = *p;
  switch (how) {
    case Update::add: *p = before + operand; break;
    case Update::add_float: {
      float sum = __builtin_bit_cast(float, (u32)before) + __builtin_bit_cast(float, (u32)operand);
      *p = __builtin_bit_cast(u32, sum);
      break;
    }
    case Update::max: *p = before > operand ? before : operand; break;
    case Update::min: *p = before < operand ? before : operand; break;
    case Update::max_signed: *p = (S)before > (S)operand ? before : operand; break;
    case Update::min_signed: *p = (S)before < (S)operand ? before : operand; break;
    case Update::exchange: *p = operand; break;
    case Update::compare_exchange: if (before == compare) *p = operand; break;
    case Update::either: *p = before | operand; break;
    case Update::both: *p = before & operand; break;
  }
  return before;
}

u64 atomic(Update how, void* address, u32 bytes, u64 operand, u64 compare, const char* name, Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  Machine& m = *lane.machine;
  if ((u64)address % bytes) fail(m, "%s (" AT "): misaligned address", name, AT_OF(site));
  if ((u64)address - (u64)m.heap >= m.heap_bytes && !in_shared(m, address, bytes)) {
    fail(m, "%s (" AT "): the address is neither global nor shared memory", name, AT_OF(site));
  }
  if (m.shadow) shadow_access(lane, address, bytes, Access::atomic, CALLER);
  if (bytes == 4) return update<u32, i32>(static_cast<u32*>(address), how, (u32)operand, (u32)compare);
  return update<u64, i64>(static_cast<u64*>(address), how, operand, compare);
}

}  // namespace machine
