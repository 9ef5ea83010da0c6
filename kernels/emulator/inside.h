// The parts of the machine, as its own files see them.
//
// machine.cpp  fibers, the order in which they run, warps and barriers, launches
// memory.cpp   device memory, shared memory, asynchronous copies, atomics
// tensor.cpp   matrices of the tensor cores
// hopper.cpp   barriers in memory, copies of tiles, products by four warps
// check.cpp    checked mode: bounds, unwritten memory and races of every single access
// face.cpp     what the host calls
#pragma once

#include "machine.h"

namespace machine {

constexpr u32 LANES = 32;
constexpr u32 MOST_THREADS = 1024;
constexpr u32 MOST_REGIONS = 32;
constexpr u32 MOST_ARGUMENTS = 64;
// Bytes of a kernel thread's stack. Twice as far apart, so that an overflow meets nobody before it is noticed.
constexpr u64 STACK = 64 << 10;
constexpr u64 STACK_DISTANCE = 2 * STACK;
// What every GPU from sm_80 on grants a block: 99 KiB altogether, of which 48 may be declared statically. Hopper grants 227 to one
// that has an mbarrier there, and no other can have one.
constexpr u64 SHARED_BYTES = 99 << 10;
constexpr u64 SHARED_BYTES_HOPPER = 227 << 10;
constexpr u64 SHARED_STATIC_BYTES = 48 << 10;
constexpr u64 SHARED_GAP = 64;
constexpr u32 MOST_MBARRIERS = 32;
constexpr u32 MOST_BULKS = 256;
constexpr u32 GROUP = 128;  // threads of a warpgroup
constexpr u64 SHARED_ARENA = SHARED_BYTES_HOPPER + MOST_REGIONS * (SHARED_GAP + 1024);
// Between two allocations, and before the first.
constexpr u64 HEAP_GAP = 256;
// Fresh memory and gaps: a NaN as f32, bf16, f16 and f64.
constexpr int NOTHING = 0xff;

// Where an operation was called: its line, which all threads that meet must share, and the code behind it, by which a
// message can also name the kernel that inlined a function with that line.
struct Spot : Site { const void* code; };
#define CALLER __builtin_return_address(0)

enum class State : u8 { unstarted, running, at_warp, at_group, at_barrier, at_mbarrier, exited };

struct Copy {
  void* to;
  const void* from;
  u32 bytes, group;
  const void* caller;
};

// One thread of the running block.
struct Lane : Position {
  struct Machine* machine;
  void* stack_pointer;
  char* stack;       // the lowest byte it may use
  void* argument;    // of the warp operation it waits in, on its own stack
  const char* waits; // the name of that operation, or of the barrier
  Spot site;
  u32 mask;
  u32 number;        // in the block
  State state;
  Copy* copies;      // asynchronous copies under way, in order of issue
  u32 copies_count, copies_room, groups;
  u32 mbarrier, parity;  // which it waits for
};

// Lanes of one warp that wait for each other: one entry per mask.
struct Meeting {
  u32 mask, arrived;
  const char* name;
  Spot site;
};

// The same of all lanes of a warpgroup; one at a time, because all of them wait.
struct GroupMeeting {
  u32 arrived;
  const char* name;
  Spot site;
};

// A barrier in memory: what the machine knows of it beside its 8 bytes.
struct Mbarrier {
  u64 at;       // below the arena
  u32 owner;    // the thread that initialised it
  bool fenced;  // since then
};

// A copy of a tile under way.
struct Bulk {
  void* to;
  const void* from;
  u32 bytes, mbarrier, clock;
  Spot site;
};

// `sum` and N products as a tensor core adds them: exact products, all addends cut to the unit in the last place of the largest, the
// result cut to f32. That is the least any generation keeps (Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor
// cores", PeerJ CS 7:e330, 2021); the generations add 4 to 16 products at once. right[k] lies `stride` numbers after right[k - 1].
template <u32 N> inline float cut_sum(float sum, const float* left, const float* right, u32 stride) {
  constexpr u64 INFINITE = 0x7ff;
  double addend[N + 1];
  u64 largest = 0;
  for (u32 k = 0; k <= N; ++k) {
    addend[k] = k < N ? (double)left[k] * right[k * stride] : sum;
    u64 exponent = __builtin_bit_cast(u64, addend[k]) >> 52 & INFINITE;
    largest = exponent > largest ? exponent : largest;
  }
  double total = 0.0;
  // Not a number, or nothing but zeros; or too small for a unit: no f32 is.
  if (largest == INFINITE || largest < 200) {
    for (double x : addend) total += x;
    return (float)total;
  }
  double unit = __builtin_bit_cast(double, (largest - 23) << 52);
  for (double x : addend) total += __builtin_trunc(x / unit);
  total *= unit;
  float nearest = (float)total;
  bool beyond = __builtin_fabs((double)nearest) > __builtin_fabs(total);
  return beyond ? __builtin_bit_cast(float, __builtin_bit_cast(u32, nearest) - 1) : nearest;
}

struct Products;

struct Warp {
  u32 ready;
  u32 meetings_count;
  Meeting meetings[LANES];
};

struct Region {
  const void* key;
  const char* name;
  u64 from, bytes;   // below the arena
};

struct Allocation { u64 from, bytes, serial; };

enum class Use : u32 { scalar_integer, scalar_real, in, out, none };

// A launch argument: a scalar's bits, or an address and the bytes in use behind it.
struct Argument {
  u64 bits, bytes;
  Use use;
};

enum class Order : u32 { forward, reverse, random };

struct Launch {
  const Kernel* kernel;
  u32 blocks[3];
  u32 threads, shared_bytes;
  Order order;
  u64 seed;
  const Argument* arguments;
  u64 count;
};

// Since the machine was made; the bytes only where every access is checked.
struct Counters {
  u64 launches, blocks, switches;
  // Global memory of the latest launch: bytes touched at least once, and bytes asked for altogether.
  u64 distinct_read, distinct_written, issued_read, issued_written;
};

struct Shadow;

struct Machine {
  Block block;
  const Launch* launch;
  void** arguments;
  Lane* lanes;
  Warp warps[MOST_THREADS / LANES];
  u32 threads, alive, ready_warps, current_warp;
  u64 random;

  struct {
    u32 arrived, votes, result;
    const char* name;
    Spot site;
  } barrier;

  void* main_stack;
  char* stacks;
  char* free_stacks[MOST_THREADS];
  u32 free_stacks_count;

  char* shared;
  u64 shared_used, shared_static;
  GroupMeeting group_meetings[MOST_THREADS / GROUP];
  Mbarrier mbarriers[MOST_MBARRIERS];
  Bulk bulks[MOST_BULKS];  // in order of issue
  u32 mbarriers_count, bulks_count;
  Products* products;      // of each warp; made at the first one
  Region regions[MOST_REGIONS];
  u32 regions_count;

  char* heap;
  u64 heap_bytes;
  Allocation* allocations;  // by address
  u64 allocations_count, allocations_room, serial;

  Shadow* shadow;           // null where accesses are not checked
  Counters counters;
  bool failed;
  char error[4096];
  char spots[2][1024];      // texts of kernel_of; one message names two spots at most
  u32 spots_turn;
};

inline Lane* current() { return static_cast<Lane*>(here); }

// Ends the launch with a message: the block's fibers are abandoned where they stand (kernels own nothing).
[[noreturn]] void fail(Machine& m, const char* format, ...) __attribute__((format(printf, 2, 3)));
// Keeps a message for the host, from outside any fiber.
void complain(Machine& m, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Code of a kernel's library as the host can look it up: \1 path \2 offset \3.
const char* place(const void* caller, char* text, u64 room);
// The file's name without its folders, and a place from which the host finds the kernel's own line: \4 path \2 offset \3.
const char* file_of(const Spot& site);
const char* kernel_of(const Spot& site);
#define AT "%s:%d%s"
#define AT_OF(site) ::machine::file_of(site), (site).line, ::machine::kernel_of(site)

bool run(Machine& m, const Launch& launch);
// From now on a kernel's access to no memory at all ends its launch instead of the process.
void catch_faults();

// Brings every lane named by `mask` together; the last to arrive runs `f` for all of them.
bool arrive(Lane& lane, u32 mask, const char* name, const Spot& site);
void wake(Lane& lane, u32 mask);
template <class A, class F> void together(u32 mask, const char* name, const Spot& site, A& a, F f) {
  Lane& lane = *current();
  lane.argument = &a;
  if (!arrive(lane, mask, name, site)) return;
  Lane* warp = &lane - lane.number % LANES;
  f([&](u32 l) -> A& { return *static_cast<A*>(warp[l].argument); });
  wake(lane, mask);
}

// The same for the four warps of a warpgroup.
bool arrive_group(Lane& lane, const char* name, const Spot& site);
void wake_group(Lane& lane);
template <class A, class F> void together_group(const char* name, const Spot& site, A& a, F f) {
  Lane& lane = *current();
  lane.argument = &a;
  if (!arrive_group(lane, name, site)) return;
  Lane* group = &lane - lane.number % GROUP;
  f([&](u32 l) -> A& { return *static_cast<A*>(group[l].argument); });
  wake_group(lane);
}
// Stops the running thread until somebody makes it ready.
void park(Machine& m, Lane& lane);
void set_ready(Machine& m, u32 warp, u32 lanes);
// Appends to the message.
void say(Machine& m, const char* format, ...) __attribute__((format(printf, 2, 3)));
u32 draw(Machine& m, u32 n);
bool same(const Spot& a, const Spot& b);

// ---- memory.cpp
void begin_block_memory(Machine& m);
bool end_block_memory(Machine& m);
u64 heap_allocate(Machine& m, u64 bytes);
bool heap_free(Machine& m, u64 address);
const Allocation* heap_find(const Machine& m, u64 address);
bool heap_gaps_intact(Machine& m, const Allocation& a, const char* what);
bool in_shared(const Machine& m, const void* p, u64 bytes);
// "'s_tile'+20": a place in shared memory.
struct Whereabouts { const char* region; u64 offset; };
Whereabouts region_of(const Machine& m, u64 at);

// ---- hopper.cpp
void begin_block_hopper(Machine& m);
// Lets one copy of a tile land; false where none is under way.
bool land(Machine& m);
void say_mbarrier(Machine& m, const Lane& lane);

// ---- check.cpp: nothing happens without a shadow
enum class Access : u8 { read, write, atomic };
Shadow* shadow_make(Machine& m);
void shadow_free(Machine& m, Shadow* shadow);
void shadow_begin_launch(Machine& m);
void shadow_end_launch(Machine& m);
void shadow_begin_block(Machine& m);
void shadow_fresh(Machine& m, const void* shared, u64 bytes);
void shadow_barrier(Machine& m);
void shadow_sync_warp(Machine& m, u32 warp, u32 mask);
// An access on behalf of the running thread, by the kernel's code at `caller`; `aligned` to its size or a fault.
void shadow_access(Lane& lane, const void* address, u64 bytes, Access access, const void* caller, bool aligned = true);
void shadow_in_flight(Lane& lane, const void* address, u64 bytes, const void* caller);
void shadow_landed(Lane& lane, const void* address, u64 bytes, const void* caller);
// What arrives at an mbarrier, ends its phase, and waits for that; what its copies write, and when they have.
void shadow_arrive(Lane& lane, u32 mbarrier);
void shadow_phase(Machine& m, u32 mbarrier);
void shadow_wait(Lane& lane, u32 mbarrier);
u32 shadow_bulk(Lane& lane, const void* to, u64 bytes, u32 mbarrier, const void* caller);
void shadow_bulk_landed(Machine& m, const Bulk& bulk);
void shadow_fence_async(Lane& lane);
// A product of the warp of `lane`, at a clock of its own; its operands, read when it is issued and when it is waited for; the wait.
u32 shadow_product(Lane& lane);
void shadow_operand(Lane& lane, const void* address, u64 bytes, u32 clock, const void* caller);
void shadow_product_done(Lane& lane, u32 clock);
void shadow_forget(Machine& m, u64 address, u64 bytes);
void shadow_written(Machine& m, u64 address, u64 bytes);
// Offset of the first byte of a range of device memory that nobody has written, or `bytes`.
u64 shadow_first_unwritten(const Machine& m, u64 address, u64 bytes);

}  // namespace machine
