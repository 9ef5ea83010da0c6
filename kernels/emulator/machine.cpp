// Fibers, the order in which they run, warps and barriers, launches.
//
// One thread of a kernel is one fiber, and one block runs at a time. Only three things stop a thread: meeting lanes of its
// warp or warpgroup, the barrier of its block, and a barrier in memory. A thread that must stop picks the next one and switches to it directly; one that
// ends hands its stack to a thread not yet started, without any switch.

#include "inside.h"
#include "switch.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

namespace machine {

__thread Position* here MACHINE_TLS = nullptr;

// ---- Messages ------------------------------------------------------------------------------------------------------

const char* file_of(const Spot& site) {
  const char* slash = strrchr(site.file, '/');
  return slash ? slash + 1 : site.file;
}

const char* kernel_of(const Spot& site) {
  Machine& m = *current()->machine;
  char* text = m.spots[m.spots_turn++ % 2];
  place(site.code, text, sizeof m.spots[0]);
  text[0] = text[0] == 1 ? 4 : 0;
  return text;
}

void complain(Machine& m, const char* format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(m.error, sizeof m.error, format, list);
  va_end(list);
  m.failed = true;
}

[[noreturn]] static void abandon(Machine& m) {
  void* never;
  machine_switch(&never, m.main_stack);
  __builtin_unreachable();
}

void fail(Machine& m, const char* format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(m.error, sizeof m.error, format, list);
  va_end(list);
  m.failed = true;
  abandon(m);
}

void say(Machine& m, const char* format, ...) {
  size_t used = strlen(m.error);
  va_list list;
  va_start(list, format);
  vsnprintf(m.error + used, sizeof m.error - used, format, list);
  va_end(list);
}

bool same(const Spot& a, const Spot& b) {
  return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

// "0-39, 64": the numbers below `n` for which `named` holds.
template <class F> static void say_numbers(Machine& m, u32 n, F named) {
  bool first = true;
  for (u32 i = 0; i < n; ++i) {
    if (!named(i)) continue;
    u32 last = i;
    while (last + 1 < n && named(last + 1)) ++last;
    say(m, last > i ? "%s%u-%u" : "%s%u", first ? "" : ", ", i, last);
    first = false;
    i = last;
  }
}

[[noreturn]] static void deadlock(Machine& m) {
  m.failed = true;
  snprintf(m.error, sizeof m.error, "deadlock:");
  bool told[MOST_THREADS] = {};
  for (u32 i = 0; i < m.threads; ++i) {
    const Lane& a = m.lanes[i];
    if (told[i]) continue;
    auto alike = [&](u32 j) {
      const Lane& b = m.lanes[j];
      if (a.state != b.state || a.state == State::exited) return a.state == b.state;
      if (a.state == State::at_mbarrier && (a.mbarrier != b.mbarrier || a.parity != b.parity)) return false;
      return same(a.site, b.site) && (a.state != State::at_warp || a.mask == b.mask);
    };
    say(m, "\n  threads ");
    say_numbers(m, m.threads, alike);
    for (u32 j = i; j < m.threads; ++j) told[j] = told[j] || alike(j);
    if (a.state == State::exited) say(m, " exited");
    else if (a.state == State::at_mbarrier) say_mbarrier(m, a);
    else if (a.state == State::at_barrier || a.state == State::at_group) say(m, " waiting at %s (" AT ")", a.waits, AT_OF(a.site));
    else say(m, " waiting at %s mask %08x (" AT ")", a.waits, a.mask, AT_OF(a.site));
  }
  abandon(m);
}

// ---- Which thread runs next ----------------------------------------------------------------------------------------

u32 draw(Machine& m, u32 n) {
  m.random ^= m.random << 13;
  m.random ^= m.random >> 7;
  m.random ^= m.random << 17;
  return (u32)((m.random >> 32) * n >> 32);
}

static u32 random_bit(Machine& m, u32 bits) {
  for (u32 skip = draw(m, (u32)__builtin_popcount(bits)); skip > 0; --skip) bits &= bits - 1;
  return (u32)__builtin_ctz(bits);
}

void set_ready(Machine& m, u32 warp, u32 lanes) {
  if (!lanes) return;
  m.warps[warp].ready |= lanes;
  m.ready_warps |= 1u << warp;
}

// Forward and reverse stay in a warp until all of it waits; random may go anywhere at every stop.
// Copies of tiles land as late as they can, at random also sooner.
static Lane* next(Machine& m) {
  if (m.launch->order == Order::random && m.bulks_count && draw(m, 8) == 0) land(m);
  while (!m.ready_warps) if (!land(m)) return nullptr;
  u32 warp = m.current_warp, lane;
  switch (m.launch->order) {
    case Order::forward:
      if (!m.warps[warp].ready) warp = (u32)__builtin_ctz(m.ready_warps);
      lane = (u32)__builtin_ctz(m.warps[warp].ready);
      break;
    case Order::reverse:
      if (!m.warps[warp].ready) warp = 31u - (u32)__builtin_clz(m.ready_warps);
      lane = 31u - (u32)__builtin_clz(m.warps[warp].ready);
      break;
    default:
      warp = random_bit(m, m.ready_warps);
      lane = random_bit(m, m.warps[warp].ready);
  }
  if (!(m.warps[warp].ready &= ~(1u << lane))) m.ready_warps &= ~(1u << warp);
  m.current_warp = warp;
  return &m.lanes[warp * LANES + lane];
}

// ---- Fibers --------------------------------------------------------------------------------------------------------

constexpr u64 CANARY = 0x7ead'57ac'c0de'f00dull;

[[noreturn]] static void stack_overflow(Machine& m) {
  fail(m, "stack overflow: a kernel thread has %llu KB for its local variables", STACK >> 10);
}

[[noreturn]] static void fiber() {
  for (;;) {
    Machine& m = *current()->machine;
    const Kernel& kernel = *m.launch->kernel;
    kernel.run(m.arguments);
    Lane& done = *current();
    if (*reinterpret_cast<u64*>(done.stack) != CANARY) stack_overflow(m);
    done.state = State::exited;
    --m.alive;
    if (!m.alive && m.bulks_count) fail(m, "copy_bulk (" AT "): the block ends while it is under way", AT_OF(m.bulks[0].site));
    Lane* to = next(m);
    if (!to) {
      if (m.alive) deadlock(m);
      abandon(m);
    }
    here = to;
    ++m.counters.switches;
    if (to->state == State::unstarted) {
      to->state = State::running;
      to->stack = done.stack;
      continue;
    }
    m.free_stacks[m.free_stacks_count++] = done.stack;
    machine_switch(&done.stack_pointer, to->stack_pointer);
  }
}

static void start_on_a_fresh_stack(Machine& m, Lane& lane) {
  lane.stack = m.free_stacks[--m.free_stacks_count];
  *reinterpret_cast<u64*>(lane.stack) = CANARY;
  // Tops at different distances: with equal ones all stacks would share the same lines of the cache, and a switch would
  // take two to three times as long.
  u64 number = (u64)(lane.stack - m.stacks) / STACK_DISTANCE;
  char* top = lane.stack + STACK + number * 5 % 61 * 64;
  lane.stack_pointer = machine_prepare(top, fiber);
  lane.state = State::running;
}

void park(Machine& m, Lane& lane) {
  if (static_cast<char*>(__builtin_frame_address(0)) < lane.stack) stack_overflow(m);
  Lane* to = next(m);
  if (!to) deadlock(m);
  if (to->state == State::unstarted) start_on_a_fresh_stack(m, *to);
  here = to;
  ++m.counters.switches;
  machine_switch(&lane.stack_pointer, to->stack_pointer);
}

// ---- Warps ---------------------------------------------------------------------------------------------------------

bool arrive(Lane& lane, u32 mask, const char* name, const Spot& site) {
  Machine& m = *lane.machine;
  u32 number = lane.number % LANES, bit = 1u << number;
  Warp& warp = m.warps[lane.number / LANES];
  if (!(mask & bit)) fail(m, "%s (" AT "): lane %u calls it with mask %08x, which does not name it", name, AT_OF(site), number, mask);
  if (mask == bit) return true;
  u32 at = 0;
  while (at < warp.meetings_count && warp.meetings[at].mask != mask) ++at;
  Meeting& meeting = warp.meetings[at];
  if (at == warp.meetings_count) {
    ++warp.meetings_count;
    meeting = {mask, 0, name, site};
  } else if (!same(meeting.site, site) || (meeting.name != name && strcmp(meeting.name, name) != 0)) {
    fail(m, "warp divergence: lane %u of warp %u arrives at %s mask %08x (" AT ") while lanes %08x wait at %s (" AT ")", number,
         lane.number / LANES, name, mask, AT_OF(site), meeting.arrived, meeting.name, AT_OF(meeting.site));
  }
  meeting.arrived |= bit;
  if (meeting.arrived == mask) {
    meeting = warp.meetings[--warp.meetings_count];
    return true;
  }
  lane.state = State::at_warp;
  lane.waits = name;
  lane.site = site;
  lane.mask = mask;
  park(m, lane);
  return false;
}

void wake(Lane& lane, u32 mask) {
  Machine& m = *lane.machine;
  u32 others = mask & ~(1u << lane.number % LANES);
  Lane* warp = &lane - lane.number % LANES;
  for (u32 rest = others; rest; rest &= rest - 1) warp[__builtin_ctz(rest)].state = State::running;
  set_ready(m, lane.number / LANES, others);
}

bool arrive_group(Lane& lane, const char* name, const Spot& site) {
  Machine& m = *lane.machine;
  GroupMeeting& meeting = m.group_meetings[lane.number / GROUP];
  if (lane.number / GROUP * GROUP + GROUP > m.threads) fail(m, "%s (" AT "): warp %u is in no whole warpgroup", name, AT_OF(site), lane.number / LANES);
  if (meeting.arrived == 0) {
    meeting.name = name;
    meeting.site = site;
  } else if (!same(meeting.site, site)) {
    fail(m, "warpgroup divergence: thread %u arrives at %s (" AT ") while others wait at %s (" AT ")", lane.number, name, AT_OF(site),
         meeting.name, AT_OF(meeting.site));
  }
  if (++meeting.arrived == GROUP) {
    meeting.arrived = 0;
    return true;
  }
  lane.state = State::at_group;
  lane.waits = name;
  lane.site = site;
  park(m, lane);
  return false;
}

void wake_group(Lane& lane) {
  Machine& m = *lane.machine;
  u32 first = lane.number / GROUP * GROUP;
  for (u32 i = first; i < first + GROUP; ++i) {
    if (i == lane.number) continue;
    m.lanes[i].state = State::running;
    set_ready(m, i / LANES, 1u << i % LANES);
  }
}

u64 shuffle(Move move, u32 mask, u64 value, u32 operand, u32 width, const char* name, Site line) {
  const Spot site{line, CALLER};
  struct Given { u64 value; u32 from; };
  Machine& m = *current()->machine;
  u32 lane = current()->number % LANES;
  if (width == 0 || width > LANES || (width & (width - 1))) fail(m, "%s (" AT "): width %u is no power of two up to 32", name, AT_OF(site), width);
  u32 first = lane & ~(width - 1), from = lane;
  switch (move) {
    case Move::index: from = first + (operand & (width - 1)); break;
    case Move::up: from = lane >= first + operand ? lane - operand : lane; break;
    case Move::down: from = operand < width && lane + operand < first + width ? lane + operand : lane; break;
    // Toward an earlier group it reads, toward a later one it keeps its own, as the hardware does.
    case Move::exclusive: from = (lane ^ operand) < first + width ? (lane ^ operand) & 31u : lane; break;
  }
  Given a{value, from};
  together(mask, name, site, a, [&](auto of) {
    u64 values[LANES];
    for (u32 l = 0; l < LANES; ++l) values[l] = mask >> l & 1 ? of(l).value : 0;
    for (u32 l = 0; l < LANES; ++l) {
      if (!(mask >> l & 1)) continue;
      if (!(mask >> of(l).from & 1)) {
        fail(m, "%s (" AT "): lane %u reads from lane %u, which mask %08x does not name", name, AT_OF(site), l, of(l).from, mask);
      }
      of(l).value = values[of(l).from];
    }
  });
  return a.value;
}

u32 ballot(u32 mask, bool predicate, const char* name, Site line) {
  const Spot site{line, CALLER};
  u32 a = predicate;
  together(mask, name, site, a, [&](auto of) {
    u32 votes = 0;
    for (u32 rest = mask; rest; rest &= rest - 1) votes |= of(__builtin_ctz(rest)) << __builtin_ctz(rest);
    for (u32 rest = mask; rest; rest &= rest - 1) of(__builtin_ctz(rest)) = votes;
  });
  return a;
}

u32 match_any(u32 mask, u64 value, const char* name, Site line) {
  const Spot site{line, CALLER};
  u64 a = value;
  together(mask, name, site, a, [&](auto of) {
    u64 values[LANES] = {};
    for (u32 l = 0; l < LANES; ++l) if (mask >> l & 1) values[l] = of(l);
    for (u32 l = 0; l < LANES; ++l) {
      u32 equal = 0;
      for (u32 k = 0; k < LANES; ++k) equal |= (u32)((mask >> k & 1) && values[k] == values[l]) << k;
      if (mask >> l & 1) of(l) = equal;
    }
  });
  return (u32)a;
}

u32 fold(Fold fold, u32 mask, u32 value, const char* name, Site line) {
  const Spot site{line, CALLER};
  u32 a = value;
  together(mask, name, site, a, [&](auto of) {
    u32 sum = of(__builtin_ctz(mask));
    for (u32 rest = mask & (mask - 1); rest; rest &= rest - 1) {
      u32 next = of(__builtin_ctz(rest));
      switch (fold) {
        case Fold::add: sum += next; break;
        case Fold::max: sum = sum > next ? sum : next; break;
        case Fold::min: sum = sum < next ? sum : next; break;
        case Fold::max_signed: sum = (i32)sum > (i32)next ? sum : next; break;
        case Fold::min_signed: sum = (i32)sum < (i32)next ? sum : next; break;
      }
    }
    for (u32 rest = mask; rest; rest &= rest - 1) of(__builtin_ctz(rest)) = sum;
  });
  return a;
}

void sync_warp(u32 mask, Site line) {
  const Spot site{line, CALLER};
  u32 nothing = 0;
  together(mask, "__syncwarp", site, nothing, [&](auto) {
    Lane& lane = *current();
    if (lane.machine->shadow) shadow_sync_warp(*lane.machine, lane.number / LANES, mask);
  });
}

// ---- The block's barrier -------------------------------------------------------------------------------------------

u32 barrier(Vote vote, int predicate, const char* name, Site line) {
  const Spot site{line, CALLER};
  Lane& lane = *current();
  Machine& m = *lane.machine;
  auto& b = m.barrier;
  if (b.arrived == 0) {
    b.name = name;
    b.site = site;
    b.votes = 0;
  } else if (!same(b.site, site)) {
    fail(m, "barrier divergence: thread %u arrives at %s (" AT ") while others wait at %s (" AT ")", lane.number, name, AT_OF(site),
         b.name, AT_OF(b.site));
  }
  b.votes += predicate != 0;
  if (++b.arrived < m.threads) {
    lane.state = State::at_barrier;
    lane.waits = name;
    lane.site = site;
    park(m, lane);
    return b.result;
  }
  switch (vote) {
    case Vote::none: b.result = 0; break;
    case Vote::any: b.result = b.votes > 0; break;
    case Vote::all: b.result = b.votes == m.threads; break;
    case Vote::count: b.result = b.votes; break;
  }
  b.arrived = 0;
  if (m.shadow) shadow_barrier(m);
  for (u32 i = 0; i < m.threads; ++i) m.lanes[i].state = State::running;
  for (u32 w = 0; w < m.threads / LANES; ++w) set_ready(m, w, w == lane.number / LANES ? ~(1u << lane.number % LANES) : ~0u);
  return b.result;
}

// ---- Addresses outside all memory ----------------------------------------------------------------------------------

static struct sigaction before_segv, before_bus;

// A kernel's access to no memory at all ends its launch; anybody else's gets the handler that was there before.
static void on_fault(int signal, siginfo_t*, void* context) {
  if (!here) {
    sigaction(signal, signal == SIGSEGV ? &before_segv : &before_bus, nullptr);
    return;
  }
  const void* code = nullptr;
#if defined(__linux__) && defined(__x86_64__)
  code = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1);
#elif defined(__linux__) && defined(__aarch64__)
  code = reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.pc + 1);
#endif
  char at[1024];
  fail(*current()->machine, "out of bounds: an access at %s to no memory at all, or misaligned", place(code, at, sizeof at));
}

void catch_faults() {
  static bool caught = [] {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    // Not deferred: the handler leaves by a switch of stacks and never returns.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    return sigaction(SIGSEGV, &action, &before_segv) == 0 && sigaction(SIGBUS, &action, &before_bus) == 0;
  }();
  (void)caught;
}

// ---- Launches ------------------------------------------------------------------------------------------------------

static bool run_block(Machine& m) {
  u32 warps = m.threads / LANES;
  m.alive = m.threads;
  m.barrier.arrived = 0;
  m.ready_warps = warps == 32 ? ~0u : (1u << warps) - 1;
  m.current_warp = m.launch->order == Order::reverse ? warps - 1 : 0;
  for (u32 w = 0; w < warps; ++w) {
    m.warps[w].ready = ~0u;
    m.warps[w].meetings_count = 0;
  }
  for (u32 i = 0; i < m.threads; ++i) {
    Lane& lane = m.lanes[i];
    lane.state = State::unstarted;
    lane.copies_count = lane.groups = 0;
  }
  m.free_stacks_count = m.threads;
  for (u32 i = 0; i < m.threads; ++i) m.free_stacks[i] = m.stacks + (u64)(m.threads - 1 - i) * STACK_DISTANCE + STACK_DISTANCE - STACK - 4096;
  begin_block_memory(m);
  begin_block_hopper(m);
  if (m.shadow) shadow_begin_block(m);
  Lane* first = next(m);
  start_on_a_fresh_stack(m, *first);
  here = first;
  machine_switch(&m.main_stack, first->stack_pointer);
  here = nullptr;
  return !m.failed && end_block_memory(m);
}

// Whether the arguments fit the kernel and the memory behind them is alive; the launch bounds too.
static bool fits(Machine& m, const Launch& launch) {
  const Kernel& kernel = *launch.kernel;
  if (launch.count != kernel.count) {
    complain(m, "%s takes %u arguments, %llu were given", kernel.name, kernel.count, launch.count);
    return false;
  }
  if (kernel.count > MOST_ARGUMENTS) {
    complain(m, "%s takes %u arguments, more than %u", kernel.name, kernel.count, MOST_ARGUMENTS);
    return false;
  }
  for (u32 i = 0; i < kernel.count; ++i) {
    const Parameter& parameter = kernel.parameters[i];
    const Argument& given = launch.arguments[i];
    bool pointer = given.use == Use::in || given.use == Use::out || given.use == Use::none;
    if (pointer != parameter.pointer) {
      complain(m, "argument %u of %s: the kernel takes a %s, a %s was given", i, kernel.name, parameter.pointer ? "pointer" : "number",
               pointer ? "pointer" : "number");
      return false;
    }
    if (!pointer && given.bytes != parameter.bytes) {
      complain(m, "argument %u of %s: the kernel takes %u bytes, %llu were given", i, kernel.name, parameter.bytes, given.bytes);
      return false;
    }
    if (!pointer && (given.use == Use::scalar_real) != parameter.real) {
      complain(m, "argument %u of %s: the kernel takes %s, %s was given", i, kernel.name, parameter.real ? "a float" : "an integer",
               parameter.real ? "an integer" : "a float");
      return false;
    }
    if (given.use == Use::in && !parameter.constant) {
      complain(m, "argument %u of %s: an input was given, but the kernel's pointer is not const", i, kernel.name);
      return false;
    }
    if (given.use != Use::in && given.use != Use::out) continue;
    if (given.bits == 0 && given.bytes == 0) continue;
    const Allocation* a = heap_find(m, given.bits);
    // A kernel that works on some rows is given their place within an array.
    if (!a || given.bits + given.bytes > a->from + a->bytes) {
      complain(m, "argument %u of %s: 0x%llx is no live device memory of %llu bytes", i, kernel.name, given.bits, given.bytes);
      return false;
    }
  }
  if (launch.threads == 0 || launch.threads % LANES != 0) {
    complain(m, "%s: a block of %u threads is not a multiple of a warp's 32", kernel.name, launch.threads);
    return false;
  }
  if (launch.threads > kernel.threads || launch.threads > MOST_THREADS) {
    complain(m, "%s: %u threads were asked for, the kernel is bound to %u", kernel.name, launch.threads, kernel.threads);
    return false;
  }
  if (launch.blocks[0] > 0x7fffffffu || launch.blocks[1] > 65535 || launch.blocks[2] > 65535) {
    complain(m, "%s: a grid of %u x %u x %u blocks is too large", kernel.name, launch.blocks[0], launch.blocks[1], launch.blocks[2]);
    return false;
  }
  if (launch.blocks[0] == 0 || launch.blocks[1] == 0 || launch.blocks[2] == 0) {
    complain(m, "%s: the grid has no block", kernel.name);
    return false;
  }
  if (launch.shared_bytes > SHARED_BYTES_HOPPER) {
    complain(m, "%s: %u bytes of shared memory were asked for, a block has %llu", kernel.name, launch.shared_bytes, SHARED_BYTES_HOPPER);
    return false;
  }
  return true;
}

static u64 mix(u64 x) {
  x = (x ^ x >> 31) * 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
  return x ^ x >> 32;
}

bool run(Machine& m, const Launch& launch) {
  m.failed = false;
  m.error[0] = 0;
  if (!fits(m, launch)) return false;
  void* values[MOST_ARGUMENTS];
  for (u64 i = 0; i < launch.count; ++i) values[i] = const_cast<u64*>(&launch.arguments[i].bits);
  m.launch = &launch;
  m.arguments = values;
  m.threads = launch.threads;
  m.block.threads = {launch.threads, 1, 1};
  m.block.blocks = {launch.blocks[0], launch.blocks[1], launch.blocks[2]};
  ++m.counters.launches;
  if (m.shadow) shadow_begin_launch(m);
  u64 blocks = (u64)launch.blocks[0] * launch.blocks[1] * launch.blocks[2];
  // Random: from anywhere, in steps that have no divisor in common with the number of blocks.
  u64 start = mix(launch.seed) % blocks, step = mix(launch.seed + 1) % blocks | 1;
  for (u64 a = step, b = blocks; b;) {
    u64 rest = a % b;
    a = b;
    b = rest;
    if (!b && a != 1) {
      step += 2;
      a = step;
      b = blocks;
    }
  }
  for (u64 i = 0; i < blocks; ++i) {
    u64 n = i;
    if (launch.order == Order::reverse) n = blocks - 1 - i;
    if (launch.order == Order::random) n = (u64)((start + (unsigned __int128)i * step) % blocks);
    m.block.index = {(u32)(n % launch.blocks[0]), (u32)(n / launch.blocks[0] % launch.blocks[1]),
                     (u32)(n / launch.blocks[0] / launch.blocks[1])};
    m.random = mix(launch.seed ^ (n + 1) << 20) | 1;
    ++m.counters.blocks;
    if (!run_block(m)) break;
  }
  if (m.shadow) shadow_end_launch(m);
  for (u64 i = 0; i < launch.count; ++i) {
    const Argument& given = launch.arguments[i];
    if ((given.use != Use::in && given.use != Use::out) || given.bits == 0) continue;
    char what[96];
    snprintf(what, sizeof what, "argument %llu of %s", i, launch.kernel->name);
    const Allocation* a = heap_find(m, given.bits);
    if (a && !heap_gaps_intact(m, *a, m.failed ? nullptr : what)) return false;
  }
  return !m.failed;
}

}  // namespace machine
