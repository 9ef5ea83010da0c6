// What a compiled kernel file and the machine that runs it know of each other.
//
// Kernels are compiled to one small library per file and set of defines, the machine to one library they all link to.
// Everything that can stop a thread or be misused lives in the machine and not in the kernels' libraries, so these hold
// hardly more than their own arithmetic and compile in a fraction of a second.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

#pragma GCC visibility push(default)
namespace machine {

struct Index { u32 x, y, z; };

// A line of a kernel; by default arguments every operation below learns where it was called.
struct Site { const char* file; int line; };

struct Block { Index index, threads, blocks; };

// What a kernel sees of its thread; the machine keeps the rest behind it.
struct Position {
  Index thread;
  Block* block;
};

// The thread that runs now. A fiber never moves to another thread of the host, so a plain thread-local pointer holds it.
#if defined(__ELF__)
#define MACHINE_TLS __attribute__((tls_model("initial-exec")))
#else
#define MACHINE_TLS
#endif
extern __thread Position* here MACHINE_TLS;

// ---- What kernels call -------------------------------------------------------------------------------------------

enum class Move : u32 { index, up, down, exclusive };
enum class Vote : u32 { none, any, all, count };
enum class Fold : u32 { add, max, min, max_signed, min_signed };
enum class Update : u32 { add, add_float, max, min, max_signed, min_signed, exchange, compare_exchange, either, both };

u64 shuffle(Move move, u32 mask, u64 value, u32 operand, u32 width, const char* name, Site site);
u32 ballot(u32 mask, bool predicate, const char* name, Site site);
u32 match_any(u32 mask, u64 value, const char* name, Site site);
u32 fold(Fold fold, u32 mask, u32 value, const char* name, Site site);
void sync_warp(u32 mask, Site site);
u32 barrier(Vote vote, int predicate, const char* name, Site site);

// Adds to, or otherwise updates, 4 or 8 bytes that other threads update too; the value before.
u64 atomic(Update update, void* address, u32 bytes, u64 operand, u64 compare, const char* name, Site site);

// Memory of the block: `key` is the address of something that only this declaration has.
void* shared(const void* key, const char* name, u64 bytes, u64 alignment, Site site);
void* shared_dynamic(const char* name, u64 alignment, Site site);

void copy_async(void* to, const void* from, u32 bytes, const char* name, Site site);
void copy_async_commit();
void copy_async_wait(u32 groups);

void load_matrices(u32* r, u32 matrices, bool transposed, const void* row, const char* name, Site site);
// `cut`: sums as a tensor core makes them, instead of in f32 one by one.
void multiply_bf16(float* d, const u32* a, const u32* b, bool cut, Site site);
void multiply_tf32(float* d, const u32* a, const u32* b, bool cut, Site site);

void mbarrier_init(u64* barrier, u32 count, Site site);
void mbarrier_init_fence();
void mbarrier_arrive(u64* barrier, u32 bytes, const char* name, Site site);
void mbarrier_wait(u64* barrier, u32 parity, Site site);
void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier, Site site);
void fence_async();
u32 shared_address(const void* shared, Site site);
void group_fence(Site site);
void group_multiply_bf16(float* d, u64 a, u64 b, bool add, bool cut, Site site);
void group_commit();
void group_wait(u32 groups, Site site);

}  // namespace machine
#pragma GCC visibility pop

// ---- The table of a kernel library, hidden in it -----------------------------------------------------------------

namespace machine {

struct Parameter {
  u32 bytes;
  bool pointer, constant, real;
};

struct Kernel {
  const char* name;
  u32 threads;
  u32 count;
  const Parameter* parameters;
  void (*run)(void** arguments);
};

// A name the wrapper looked for and the file does not define (a kernel under #if, a word in a comment).
struct Absent {
  constexpr operator u32() const { return 0; }
};

template <class T> struct Describe { static constexpr Parameter parameter{sizeof(T), false, false, __is_same(T, float)}; };
template <class T> struct Describe<T*> { static constexpr Parameter parameter{sizeof(T*), true, false, false}; };
template <class T> struct Describe<const T*> { static constexpr Parameter parameter{sizeof(T*), true, true, false}; };

template <u32... I> struct Numbers {};
template <u32 N, u32... I> struct Count : Count<N - 1, N - 1, I...> {};
template <u32... I> struct Count<0, I...> { using Type = Numbers<I...>; };

template <auto F> struct Call;
template <class... P, void (*F)(P...)> struct Call<F> {
  static constexpr u32 count = sizeof...(P);
  static constexpr Parameter parameters[] = {Describe<P>::parameter..., {}};
  template <u32... I> static void unpack(void** a, Numbers<I...>) { F(*static_cast<P*>(a[I])...); }
  static void run(void** a) { unpack(a, typename Count<count>::Type{}); }
};
template <Absent F> struct Call<F> {
  static constexpr u32 count = 0;
  static constexpr Parameter parameters[] = {{}};
  static constexpr void (*run)(void**) = nullptr;
};

template <auto F> constexpr Kernel entry(const char* name, u32 threads) {
  return {name, threads, Call<F>::count, Call<F>::parameters, Call<F>::run};
}

}  // namespace machine
