// What the host calls. One machine serves one caller at a time; the host holds a lock.

#include "inside.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

using namespace machine;

#define FACE extern "C" __attribute__((visibility("default")))

static void* reserve(u64 bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

FACE void machine_free(Machine* m) {
  if (!m) return;
  if (m->shadow) shadow_free(*m, m->shadow);
  for (u32 i = 0; m->lanes && i < MOST_THREADS; ++i) free(m->lanes[i].copies);
  free(m->products);
  free(m->lanes);
  free(m->allocations);
  if (m->stacks) munmap(m->stacks, MOST_THREADS * STACK_DISTANCE);
  if (m->shared) munmap(m->shared, SHARED_ARENA);
  if (m->heap) munmap(m->heap, m->heap_bytes);
  free(m);
}

// A machine with `heap_bytes` of device memory, reserved and not taken; null where the system refuses.
FACE Machine* machine_make(u64 heap_bytes, bool checked) {
  catch_faults();
  Machine* m = static_cast<Machine*>(calloc(1, sizeof(Machine)));
  if (!m) return nullptr;
  m->heap_bytes = heap_bytes;
  m->lanes = static_cast<Lane*>(calloc(MOST_THREADS, sizeof(Lane)));
  m->stacks = static_cast<char*>(reserve(MOST_THREADS * STACK_DISTANCE));
  m->shared = static_cast<char*>(reserve(SHARED_ARENA));
  m->heap = static_cast<char*>(reserve(heap_bytes));
  bool whole = m->lanes && m->stacks && m->shared && m->heap;
  if (whole && checked) whole = (m->shadow = shadow_make(*m)) != nullptr;
  if (!whole) {
    machine_free(m);
    return nullptr;
  }
  for (u32 i = 0; i < MOST_THREADS; ++i) {
    Lane& lane = m->lanes[i];
    lane.thread = {i, 0, 0};
    lane.block = &m->block;
    lane.machine = m;
    lane.number = i;
  }
  return m;
}

// Device memory, filled with NaN; 0 when there is no room. Device addresses are host addresses.
FACE u64 machine_allocate(Machine* m, u64 bytes) { return heap_allocate(*m, bytes); }
FACE bool machine_release(Machine* m, u64 address) { return heap_free(*m, address); }

// A number that no other allocation of this machine ever had, or 0 where no allocation starts.
FACE u64 machine_serial(Machine* m, u64 address) {
  const Allocation* a = heap_find(*m, address);
  return a && a->from == address ? a->serial : 0;
}

// The host wrote a range, or asks for the first byte of it that nobody wrote (`bytes` when all are).
FACE void machine_written(Machine* m, u64 address, u64 bytes) {
  if (m->shadow) shadow_written(*m, address, bytes);
}
FACE u64 machine_first_unwritten(Machine* m, u64 address, u64 bytes) {
  return m->shadow ? shadow_first_unwritten(*m, address, bytes) : bytes;
}

// The entry `name` of a library's table, or null.
FACE const Kernel* machine_find(const Kernel* table, const char* name) {
  for (; table->name; ++table) if (table->run && strcmp(table->name, name) == 0) return table;
  return nullptr;
}

// Runs a launch to its end; false leaves the reason in machine_error.
FACE bool machine_launch(Machine* m, const Launch* launch) { return run(*m, *launch); }
FACE const char* machine_error(Machine* m) { return m->error; }
FACE void machine_counters(Machine* m, Counters* to) { *to = m->counters; }
