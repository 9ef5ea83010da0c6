// Checked mode: every single access of a kernel to shared or global memory is verified.
//
// Kernels are compiled with -fsanitize=thread, but linked to the hooks at the end of this file instead of the sanitizer's
// own library: the compiler then calls one before each load and store that another thread could see. An access must lie
// inside what the launch gave, must not read what nobody wrote, and must be ordered against every conflicting one: by a
// barrier of the block, by __syncwarp, by an mbarrier, or by both being atomic. (Shuffles, votes and tensor operations order no
// memory.)
//
// Order is kept as in FastTrack (Flanagan and Freund, "FastTrack: efficient and precise dynamic race detection", PLDI
// 2009): each thread counts the points at which it published its work, and every four bytes of memory remember up to
// four accesses with the counts of their threads. Price: 5 to 10 times the running time, and 19 bytes of lazily
// reserved memory per byte that kernels touch.

#include "inside.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace machine {

namespace {

// One access to some of four bytes: by which thread of which run of a block, at which count, from which code.
struct Slot {
  u32 serial, clock, caller;
  u16 thread;
  u8 bytes;
  Access access;
};
static_assert(sizeof(Slot) == 16);
struct Cell { Slot slots[4]; };

// Bytes of a word read and written in launch number `launch`.
struct Touch {
  u32 launch;
  u8 read, written;
};

enum : u8 { UNWRITTEN, WRITTEN, IN_FLIGHT, BULK_IN_FLIGHT };

// Who accesses memory beside the threads: the tensor cores on behalf of each warp, and the copies of each mbarrier.
constexpr u32 TENSOR_CORES = MOST_THREADS, COPIES = TENSOR_CORES + MOST_THREADS / LANES, ACTORS = COPIES + MOST_MBARRIERS;

// A pointer argument of the running launch.
struct Range {
  u64 from, bytes;
  u32 argument;
  bool writable;
};

}  // namespace

struct Shadow {
  u64 heap, heap_bytes, shared;
  u8* heap_state;
  Cell* heap_cells;
  Touch* heap_touched;
  u8 shared_state[SHARED_ARENA];
  Cell* shared_cells;
  // Numbers every run of a block since the machine was made: what an older launch left needs no clearing.
  u32 serial, launch_serial, launch;
  u32 evicted;
  u64 code;  // of the running kernel; slots keep their code as a distance from it
  // How often each thread has published its work, and what of it the others have seen: everybody, all lanes of its warp
  // (by a full __syncwarp), or single lanes (by a partial one).
  u32 clock[ACTORS], seen_by_all[ACTORS], seen_by_warp[MOST_THREADS];
  u32 seen[MOST_THREADS][LANES];
  // What each thread knows of each actor beside that, through mbarriers and waits for products; what has arrived at each mbarrier
  // in this phase, and what had when the last one ended. Only kept by blocks that use them.
  bool knowing;
  u32 known[MOST_THREADS][ACTORS], arriving[MOST_MBARRIERS][ACTORS], arrived[MOST_MBARRIERS][ACTORS];
  // How far a thread's own writes are visible to copies of tiles and to tensor cores.
  u32 fenced[MOST_THREADS];
  Range ranges[MOST_ARGUMENTS];
  u32 ranges_count;
};

template <class T> static T* reserve(u64 count) {
  void* p = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<T*>(p);
}

Shadow* shadow_make(Machine& m) {
  Shadow* s = reserve<Shadow>(1);
  if (!s) return nullptr;
  s->heap = (u64)m.heap;
  s->heap_bytes = m.heap_bytes;
  s->shared = (u64)m.shared;
  s->heap_state = reserve<u8>(m.heap_bytes);
  s->heap_cells = reserve<Cell>(m.heap_bytes / 4);
  s->heap_touched = reserve<Touch>(m.heap_bytes / 4);
  s->shared_cells = reserve<Cell>(SHARED_ARENA / 4);
  if (s->heap_state && s->heap_cells && s->heap_touched && s->shared_cells) return s;
  shadow_free(m, s);
  return nullptr;
}

void shadow_free(Machine& m, Shadow* s) {
  if (s->heap_state) munmap(s->heap_state, m.heap_bytes);
  if (s->heap_cells) munmap(s->heap_cells, m.heap_bytes / 4 * sizeof(Cell));
  if (s->heap_touched) munmap(s->heap_touched, m.heap_bytes / 4 * sizeof(Touch));
  if (s->shared_cells) munmap(s->shared_cells, SHARED_ARENA / 4 * sizeof(Cell));
  munmap(s, sizeof(Shadow));
}

void shadow_begin_launch(Machine& m) {
  Shadow& s = *m.shadow;
  s.launch_serial = s.serial + 1;
  ++s.launch;
  s.ranges_count = 0;
  s.code = (u64)m.launch->kernel->run;
  Counters& c = m.counters;
  c.distinct_read = c.distinct_written = c.issued_read = c.issued_written = 0;
  for (u64 i = 0; i < m.launch->count; ++i) {
    const Argument& a = m.launch->arguments[i];
    if ((a.use == Use::in || a.use == Use::out) && a.bits) s.ranges[s.ranges_count++] = {a.bits, a.bytes, (u32)i, a.use == Use::out};
  }
}

void shadow_end_launch(Machine& m) { m.shadow->ranges_count = 0; }

void shadow_begin_block(Machine& m) {
  Shadow& s = *m.shadow;
  ++s.serial;
  for (u32 i = 0; i < m.threads; ++i) {
    s.clock[i] = 1;
    s.seen_by_all[i] = s.seen_by_warp[i] = s.fenced[i] = 0;
    memset(s.seen[i], 0, sizeof s.seen[i]);
  }
  s.knowing = false;
}

void shadow_fresh(Machine& m, const void* shared, u64 bytes) {
  memset(m.shadow->shared_state + ((u64)shared - m.shadow->shared), UNWRITTEN, bytes);
}

// From now on the block's threads learn from each other in more ways than by barriers.
static Shadow& knowing(Machine& m) {
  Shadow& s = *m.shadow;
  if (s.knowing) return s;
  s.knowing = true;
  for (u32 i = 0; i < m.threads; ++i) memset(s.known[i], 0, sizeof s.known[i]);
  memset(s.arriving, 0, sizeof s.arriving);
  memset(s.arrived, 0, sizeof s.arrived);
  for (u32 i = MOST_THREADS; i < ACTORS; ++i) s.clock[i] = 1, s.seen_by_all[i] = 0;
  return s;
}

static void join(u32* to, const u32* from, u32 threads) {
  auto part = [&](u32 begin, u32 end) { for (u32 i = begin; i < end; ++i) if (from[i] > to[i]) to[i] = from[i]; };
  part(0, threads);
  part(MOST_THREADS, ACTORS);
}

void shadow_barrier(Machine& m) {
  Shadow& s = *m.shadow;
  for (u32 i = 0; i < m.threads; ++i) s.seen_by_all[i] = s.clock[i]++;
  if (!s.knowing) return;
  for (u32 i = 0; i < m.threads; ++i)
    for (u32 a = MOST_THREADS; a < ACTORS; ++a) if (s.known[i][a] > s.seen_by_all[a]) s.seen_by_all[a] = s.known[i][a];
}

void shadow_sync_warp(Machine& m, u32 warp, u32 mask) {
  Shadow& s = *m.shadow;
  u32 first = warp * LANES;
  if (s.knowing) {
    u32* joined = s.known[first + (u32)__builtin_ctz(mask)];
    for (u32 rest = mask; rest; rest &= rest - 1) join(joined, s.known[first + (u32)__builtin_ctz(rest)], m.threads);
    for (u32 rest = mask; rest; rest &= rest - 1) join(s.known[first + (u32)__builtin_ctz(rest)], joined, m.threads);
  }
  if (mask == ~0u) {
    for (u32 l = 0; l < LANES; ++l) s.seen_by_warp[first + l] = s.clock[first + l]++;
    return;
  }
  // Lanes pass on what they have seen of third ones.
  u32 joined[LANES] = {};
  for (u32 l = 0; l < LANES; ++l) {
    if (!(mask >> l & 1)) continue;
    for (u32 k = 0; k < LANES; ++k) if (s.seen[first + l][k] > joined[k]) joined[k] = s.seen[first + l][k];
  }
  for (u32 l = 0; l < LANES; ++l) if (mask >> l & 1) joined[l] = s.clock[first + l]++;
  for (u32 l = 0; l < LANES; ++l) if (mask >> l & 1) memcpy(s.seen[first + l], joined, sizeof joined);
}

void shadow_arrive(Lane& lane, u32 mbarrier) {
  Machine& m = *lane.machine;
  Shadow& s = knowing(m);
  u32 thread = lane.number, first = thread / LANES * LANES, *to = s.arriving[mbarrier];
  join(to, s.known[thread], m.threads);
  for (u32 l = 0; l < LANES; ++l) {
    u32 seen = s.seen_by_warp[first + l] > s.seen[thread][l] ? s.seen_by_warp[first + l] : s.seen[thread][l];
    if (seen > to[first + l]) to[first + l] = seen;
  }
  to[thread] = s.clock[thread]++;
}

void shadow_phase(Machine& m, u32 mbarrier) {
  Shadow& s = knowing(m);
  memcpy(s.arrived[mbarrier], s.arriving[mbarrier], sizeof s.arrived[mbarrier]);
}

void shadow_wait(Lane& lane, u32 mbarrier) {
  Shadow& s = knowing(*lane.machine);
  join(s.known[lane.number], s.arrived[mbarrier], lane.machine->threads);
}

void shadow_fence_async(Lane& lane) {
  Shadow& s = *lane.machine->shadow;
  s.fenced[lane.number] = s.clock[lane.number]++;
}

// ---- Reports -------------------------------------------------------------------------------------------------------

const char* place(const void* caller, char* text, u64 room) {
  Dl_info info;
  if (dladdr(caller, &info) && info.dli_fname) {
    snprintf(text, room, "\1%s\2%llx\3", info.dli_fname, (u64)caller - 1 - (u64)info.dli_fbase);
  } else {
    snprintf(text, room, "unknown code");
  }
  return text;
}

static const void* code(const Machine& m, u32 caller) {
  return reinterpret_cast<const void*>(m.shadow->code + (u64)(i64)(i32)caller);
}

static const char* name_of(Access access) {
  return access == Access::read ? "read" : access == Access::write ? "write" : "atomic";
}

// "shared 's_tile'+20" or "argument 2 (4800 bytes), offset 1824".
static const char* whereabouts(const Machine& m, u64 address, char* text, u64 room) {
  const Shadow& s = *m.shadow;
  if (address - s.shared < SHARED_ARENA) {
    u64 offset = address - s.shared;
    const Region* best = nullptr;
    for (u32 i = 0; i < m.regions_count; ++i) if (m.regions[i].from <= offset && (!best || m.regions[i].from > best->from)) best = &m.regions[i];
    if (best) snprintf(text, room, "shared '%s'+%llu of %llu bytes", best->name, offset - best->from, best->bytes);
    else snprintf(text, room, "shared memory nobody declared");
    return text;
  }
  const Range* best = nullptr;
  u64 distance = ~0ull;
  for (u32 i = 0; i < s.ranges_count; ++i) {
    const Range& r = s.ranges[i];
    u64 far = address < r.from ? r.from - address : address - r.from < r.bytes ? 0 : address - r.from - r.bytes + 1;
    if (far < distance) {
      distance = far;
      best = &r;
    }
  }
  if (best) snprintf(text, room, "argument %u of %llu bytes, offset %lld", best->argument, best->bytes, (i64)(address - best->from));
  else snprintf(text, room, "global memory the launch was not given");
  return text;
}

[[noreturn]] static void report(Machine& m, const char* what, u64 address, u64 bytes, Access access, const void* caller) {
  char at[1024], where[256];
  fail(m, "%s: %llu-byte %s at %s: %s", what, bytes, name_of(access), place(caller, at, sizeof at), whereabouts(m, address, where, sizeof where));
}

static const char* name_of_actor(u32 actor, char (&text)[48]) {
  if (actor < TENSOR_CORES) snprintf(text, sizeof text, "thread %u", actor);
  else if (actor < COPIES) snprintf(text, sizeof text, "a product of warp %u", actor - TENSOR_CORES);
  else snprintf(text, sizeof text, "a copy_bulk");
  return text;
}

[[noreturn]] static void race(Lane& lane, u32 as, const Slot& before, u64 address, Access access, const void* caller) {
  Machine& m = *lane.machine;
  char at[1024], at_before[1024], where[256], block[48] = "";
  if (before.serial != m.shadow->serial) snprintf(block, sizeof block, " of another block");
  char who[2][48];
  fail(m, "race: %s by %s%s at %s, %s by %s at %s, no synchronisation between: %s", name_of(before.access), name_of_actor(before.thread, who[0]), block,
       place(code(m, before.caller), at_before, sizeof at_before), name_of(access), name_of_actor(as, who[1]), place(caller, at, sizeof at),
       whereabouts(m, address, where, sizeof where));
}

[[noreturn]] static void unfenced(Lane& lane, u32 as, const Slot& before, u64 address, const void* caller) {
  Machine& m = *lane.machine;
  char at[1024], at_before[1024], where[256], who[48];
  fail(m, "no fence_async after the %s by thread %u at %s, which %s at %s does not see without: %s", name_of(before.access), before.thread,
       place(code(m, before.caller), at_before, sizeof at_before), name_of_actor(as, who), place(caller, at, sizeof at),
       whereabouts(m, address, where, sizeof where));
}

// ---- One access ----------------------------------------------------------------------------------------------------

// Whether the running thread knows that `before` is over.
static inline bool sees(const Shadow& s, u32 thread, const Slot& before) {
  if (before.serial != s.serial) return false;
  if (before.thread == thread || s.seen_by_all[before.thread] >= before.clock) return true;
  if (s.knowing && s.known[thread][before.thread] >= before.clock) return true;
  if (before.thread / LANES != thread / LANES) return false;
  return s.seen_by_warp[before.thread] >= before.clock || s.seen[thread][before.thread % LANES] >= before.clock;
}

// Compares an access to some bytes of a word with those it remembers, and remembers it. `oldest`: the first serial that
// still counts; `as`: who accesses, which knows what the lane does.
static inline void order(Lane& lane, Cell& cell, u32 oldest, u8 bytes, Access access, const void* caller, u64 address, u32 as, u32 clock) {
  Shadow& s = *lane.machine->shadow;
  const u32 thread = lane.number;
  Slot *free = nullptr, *victim = nullptr;
  for (Slot& slot : cell.slots) {
    if (slot.serial < oldest) {
      if (!free) free = &slot;
      continue;
    }
    if (slot.bytes & bytes) {
      if (as >= MOST_THREADS && slot.access != Access::read && slot.thread < MOST_THREADS && slot.serial == s.serial && s.fenced[slot.thread] < slot.clock) {
        unfenced(lane, as, slot, address, caller);
      }
      if (!sees(s, thread, slot)) {
        bool conflict = (access != Access::read || slot.access != Access::read) && !(access == Access::atomic && slot.access == Access::atomic);
        if (conflict) race(lane, as, slot, address, access, caller);
      } else if (!(slot.bytes & ~bytes) && (access == Access::write || slot.access == access)) {
        // Whatever conflicts with the older access later conflicts with this one too.
        slot.serial = 0;
        if (!free) free = &slot;
        continue;
      }
    }
    if (slot.access == Access::read) victim = &slot;
  }
  // With four accesses in use a read makes room, another one each time.
  if (!free) {
    Slot& any = cell.slots[s.evicted++ & 3];
    free = !victim || any.access == Access::read ? &any : victim;
  }
  *free = {s.serial, clock, (u32)((u64)caller - s.code), (u16)as, bytes, access};
}

static inline u8 bytes_of_word(u64 word, u64 from, u64 to) {
  u32 first = from > word ? (u32)(from - word) : 0, end = to < word + 4 ? (u32)(to - word) : 4;
  return (u8)((1u << end) - (1u << first));
}

// Whether `bytes` states are all `state`; most accesses are of 4.
static inline bool all(const u8* states, u8 state, u64 bytes) {
  if (bytes == 4) {
    u32 word;
    memcpy(&word, states, 4);
    return word == state * 0x01010101u;
  }
  for (u64 i = 0; i < bytes; ++i) if (states[i] != state) return false;
  return true;
}

static void access_shared(Lane& lane, u64 address, u64 bytes, Access access, const void* caller, bool landing, u32 as, u32 clock) {
  Machine& m = *lane.machine;
  Shadow& s = *m.shadow;
  u64 from = address - s.shared, to = from + bytes;
  bool inside = false;
  for (u32 i = 0; i < m.regions_count && !inside; ++i) inside = from >= m.regions[i].from && to <= m.regions[i].from + m.regions[i].bytes;
  if (!inside) report(m, "out of bounds", address, bytes, access, caller);
  if (!all(s.shared_state + from, WRITTEN, bytes)) for (u64 i = from; i < to; ++i) {
    if (s.shared_state[i] == IN_FLIGHT && !landing) report(m, "asynchronous copy under way (is a cp_async_wait missing?)", s.shared + i, bytes, access, caller);
    if (s.shared_state[i] == BULK_IN_FLIGHT) report(m, "copy_bulk under way (is an mbarrier_wait missing?)", s.shared + i, bytes, access, caller);
    if (s.shared_state[i] == UNWRITTEN && access != Access::write) report(m, "uninitialised", s.shared + i, bytes, access, caller);
    if (access == Access::write) s.shared_state[i] = WRITTEN;
  }
  for (u64 word = from & ~3ull; word < to; word += 4) {
    order(lane, s.shared_cells[word / 4], s.serial, bytes_of_word(word, from, to), access, caller, s.shared + (word > from ? word : from), as, clock);
  }
}

static void access_heap(Lane& lane, u64 address, u64 bytes, Access access, const void* caller) {
  Machine& m = *lane.machine;
  Shadow& s = *m.shadow;
  const Range* range = nullptr;
  for (u32 i = 0; i < s.ranges_count && !range; ++i) {
    const Range& r = s.ranges[i];
    if (address - r.from < r.bytes && address - r.from + bytes <= r.bytes) range = &r;
  }
  if (!range) report(m, "out of bounds", address, bytes, access, caller);
  if (access != Access::read && !range->writable) report(m, "write to an input", address, bytes, access, caller);
  u64 from = address - s.heap, to = from + bytes;
  if (!all(s.heap_state + from, WRITTEN, bytes)) for (u64 i = from; i < to; ++i) {
    if (s.heap_state[i] == UNWRITTEN) {
      if (access != Access::write) report(m, "uninitialised", s.heap + i, bytes, access, caller);
      s.heap_state[i] = WRITTEN;
    }
  }
  Counters& c = m.counters;
  if (access != Access::write) c.issued_read += bytes;
  if (access != Access::read) c.issued_written += bytes;
  for (u64 word = from & ~3ull; word < to; word += 4) {
    u8 part = bytes_of_word(word, from, to);
    Touch& touch = s.heap_touched[word / 4];
    if (touch.launch != s.launch) touch = {s.launch, 0, 0};
    if (access != Access::write && (part & ~touch.read)) {
      c.distinct_read += (u64)__builtin_popcount(part & ~touch.read);
      touch.read |= part;
    }
    if (access != Access::read && (part & ~touch.written)) {
      c.distinct_written += (u64)__builtin_popcount(part & ~touch.written);
      touch.written |= part;
    }
    order(lane, s.heap_cells[word / 4], s.launch_serial, part, access, caller, s.heap + (word > from ? word : from), lane.number, s.clock[lane.number]);
  }
}

void shadow_access(Lane& lane, const void* address, u64 bytes, Access access, const void* caller, bool aligned) {
  const Shadow& s = *lane.machine->shadow;
  bool in_shared = (u64)address - s.shared < SHARED_ARENA;
  if (!in_shared && (u64)address - s.heap >= s.heap_bytes) return;
  if (aligned && (u64)address % bytes) report(*lane.machine, "misaligned address", (u64)address, bytes, access, caller);
  if (in_shared) access_shared(lane, (u64)address, bytes, access, caller, false, lane.number, s.clock[lane.number]);
  else access_heap(lane, (u64)address, bytes, access, caller);
}

void shadow_in_flight(Lane& lane, const void* address, u64 bytes, const void*) {
  Shadow& s = *lane.machine->shadow;
  memset(s.shared_state + ((u64)address - s.shared), IN_FLIGHT, bytes);
}

void shadow_landed(Lane& lane, const void* address, u64 bytes, const void* caller) {
  access_shared(lane, (u64)address, bytes, Access::write, caller, true, lane.number, lane.machine->shadow->clock[lane.number]);
}

u32 shadow_bulk(Lane& lane, const void* to, u64 bytes, u32 mbarrier, const void* caller) {
  Shadow& s = knowing(*lane.machine);
  u32 clock = s.clock[COPIES + mbarrier]++;
  access_shared(lane, (u64)to, bytes, Access::write, caller, false, COPIES + mbarrier, clock);
  memset(s.shared_state + ((u64)to - s.shared), BULK_IN_FLIGHT, bytes);
  return clock;
}

void shadow_bulk_landed(Machine& m, const Bulk& bulk) {
  Shadow& s = *m.shadow;
  memset(s.shared_state + ((u64)bulk.to - s.shared), WRITTEN, bulk.bytes);
  u32& arriving = s.arriving[bulk.mbarrier][COPIES + bulk.mbarrier];
  if (bulk.clock > arriving) arriving = bulk.clock;
}

u32 shadow_product(Lane& lane) { return knowing(*lane.machine).clock[TENSOR_CORES + lane.number / LANES]++; }

void shadow_operand(Lane& lane, const void* address, u64 bytes, u32 clock, const void* caller) {
  access_shared(lane, (u64)address, bytes, Access::read, caller, false, TENSOR_CORES + lane.number / LANES, clock);
}

void shadow_product_done(Lane& lane, u32 clock) {
  u32 first = lane.number / LANES * LANES;
  for (u32 l = first; l < first + LANES; ++l) lane.machine->shadow->known[l][TENSOR_CORES + lane.number / LANES] = clock;
}

void shadow_forget(Machine& m, u64 address, u64 bytes) { memset(m.shadow->heap_state + (address - m.shadow->heap), UNWRITTEN, bytes); }

void shadow_written(Machine& m, u64 address, u64 bytes) { memset(m.shadow->heap_state + (address - m.shadow->heap), WRITTEN, bytes); }

u64 shadow_first_unwritten(const Machine& m, u64 address, u64 bytes) {
  const u8* state = m.shadow->heap_state + (address - m.shadow->heap);
  u64 i = 0;
  while (i < bytes && state[i] == WRITTEN) ++i;
  return i;
}

}  // namespace machine

// ---- What the compilers call ---------------------------------------------------------------------------------------

#define HOOK extern "C" __attribute__((visibility("default")))

static inline void touch(const void* p, u64 bytes, machine::Access access, const void* caller, bool aligned = false) {
  machine::Lane* lane = machine::current();
  if (lane && lane->machine->shadow) machine::shadow_access(*lane, p, bytes, access, caller, aligned);
}
#define READS machine::Access::read, CALLER
#define WRITES machine::Access::write, CALLER
#define SIZED(bytes)                                                            \
  HOOK void __tsan_read##bytes(void* p) { touch(p, bytes, READS, true); }       \
  HOOK void __tsan_write##bytes(void* p) { touch(p, bytes, WRITES, true); }     \
  HOOK void __tsan_unaligned_read##bytes(void* p) { touch(p, bytes, READS); }   \
  HOOK void __tsan_unaligned_write##bytes(void* p) { touch(p, bytes, WRITES); }
SIZED(1)
SIZED(2)
SIZED(4)
SIZED(8)
SIZED(16)
HOOK void __tsan_read_range(void* p, unsigned long bytes) { touch(p, bytes, READS); }
HOOK void __tsan_write_range(void* p, unsigned long bytes) { touch(p, bytes, WRITES); }
HOOK void* __tsan_memcpy(void* to, const void* from, unsigned long bytes) {
  touch(from, bytes, READS);
  touch(to, bytes, WRITES);
  return memcpy(to, from, bytes);
}
HOOK void* __tsan_memmove(void* to, const void* from, unsigned long bytes) {
  touch(from, bytes, READS);
  touch(to, bytes, WRITES);
  return memmove(to, from, bytes);
}
HOOK void* __tsan_memset(void* to, int byte, unsigned long bytes) {
  touch(to, bytes, WRITES);
  return memset(to, byte, bytes);
}
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}

// -fsanitize=bounds,alignment,null, in fast mode too: what no shadow can see, and costs next to nothing. These handlers
// never return, and kernels are compiled so that the compiler knows it (-fno-sanitize-recover): it would otherwise take
// the access behind a failed check for proof that the check cannot fail. The structures are the compilers' interface.
struct SourceLocation { const char* file; unsigned line, column; };
struct OutOfBounds { SourceLocation location; const void* array; const void* index; };
struct TypeMismatch { SourceLocation location; const void* type; unsigned char log_alignment, kind; };

HOOK void __ubsan_handle_out_of_bounds_abort(OutOfBounds* data, unsigned long index) {
  if (!machine::here) abort();
  machine::Spot site{data->location.file, (int)data->location.line, CALLER};
  machine::fail(*machine::current()->machine, "index %lld is out of the array's bounds (" AT ")", (i64)(int)index, AT_OF(site));
}
HOOK void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* data, unsigned long pointer) {
  if (!machine::here) abort();
  machine::Spot site{data->location.file, (int)data->location.line, CALLER};
  if (pointer == 0) machine::fail(*machine::current()->machine, "null pointer (" AT ")", AT_OF(site));
  machine::fail(*machine::current()->machine, "misaligned address: 0x%lx is no multiple of %u (" AT ")", pointer, 1u << data->log_alignment, AT_OF(site));
}
