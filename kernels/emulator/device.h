// The vocabulary of kernels/device.cuh for a C++ compiler: the same names, as calls into the machine.
//
// No standard header is included: a kernel file then compiles in a fraction of the time, and CUDA's keyword macros below
// meet no header they could break.
#pragma once

#include "machine.h"

#define __device__
#define __host__
#define __restrict__ __restrict
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))

#define KERNEL(threads, name)                  \
  static constexpr u32 name##_threads = threads; \
  static void name

// The caller's line, for every operation that can be misused.
#define HERE ::machine::Site site = {__builtin_FILE(), __builtin_LINE()}

#define threadIdx (::machine::here->thread)
#define blockIdx (::machine::here->block->index)
#define blockDim (::machine::here->block->threads)
#define gridDim (::machine::here->block->blocks)
static constexpr int warpSize = 32;

#define SHARED(T, name, dims)                                                                                          \
  static char name##_key;                                                                                              \
  using name##_type = T dims;                                                                                          \
  name##_type& name = *static_cast<name##_type*>(                                                                      \
      ::machine::shared(&name##_key, #name, sizeof(name##_type), alignof(T) > 16 ? alignof(T) : 16, {__FILE__, __LINE__}))
#define SHARED_DYN(T, name) T* name = static_cast<T*>(::machine::shared_dynamic(#name, SHARED_ALIGNMENT, {__FILE__, __LINE__}))

// ---- Vectors -------------------------------------------------------------------------------------------------------

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

// ---- Numbers -------------------------------------------------------------------------------------------------------

static constexpr float INF = __builtin_huge_valf();

inline u32 __float_as_uint(float x) { return __builtin_bit_cast(u32, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __uint_as_float(u32 x) { return __builtin_bit_cast(float, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline double __longlong_as_double(i64 x) { return __builtin_bit_cast(double, x); }

inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __popcll(u64 x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((u32)x) : 32; }
inline int __clzll(i64 x) { return x ? __builtin_clzll((u64)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(i64 x) { return __builtin_ffsll(x); }
inline u32 __brev(u32 x) {
  x = __builtin_bswap32(x);
  x = (x & 0x0f0f0f0fu) << 4 | (x >> 4 & 0x0f0f0f0fu);
  x = (x & 0x33333333u) << 2 | (x >> 2 & 0x33333333u);
  return (x & 0x55555555u) << 1 | (x >> 1 & 0x55555555u);
}
inline u32 __umulhi(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
inline u64 __umul64hi(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }

#define MACHINE_MIN_MAX(T, A, B)                          \
  inline T min(A a, B b) { return (T)a < (T)b ? (T)a : (T)b; } \
  inline T max(A a, B b) { return (T)a > (T)b ? (T)a : (T)b; }
MACHINE_MIN_MAX(int, int, int)
MACHINE_MIN_MAX(u32, u32, u32)
MACHINE_MIN_MAX(u32, int, u32)
MACHINE_MIN_MAX(u32, u32, int)
MACHINE_MIN_MAX(i64, i64, i64)
MACHINE_MIN_MAX(u64, u64, u64)
MACHINE_MIN_MAX(u64, i64, u64)
MACHINE_MIN_MAX(u64, u64, i64)
MACHINE_MIN_MAX(long, long, long)
MACHINE_MIN_MAX(unsigned long, unsigned long, unsigned long)
#undef MACHINE_MIN_MAX

inline float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
inline float fminf(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float fabsf(float x) { return __builtin_fabsf(x); }
inline float sqrtf(float x) { return __builtin_sqrtf(x); }
inline float floorf(float x) { return __builtin_floorf(x); }
inline float ceilf(float x) { return __builtin_ceilf(x); }
inline float rintf(float x) { return __builtin_rintf(x); }
inline float truncf(float x) { return __builtin_truncf(x); }
inline float copysignf(float x, float y) { return __builtin_copysignf(x, y); }
inline int abs(int x) { return __builtin_abs(x); }

inline bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
inline bf16 to_bf16(float x) {
  u32 u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {(u16)((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}
inline float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
inline u32 pack_bf16(float low, float high) { return to_bf16(low).bits | (u32)to_bf16(high).bits << 16; }
inline u32 to_tf32(float x) {
  u32 u = __float_as_uint(x);
  if (!is_finite(x)) return (u & 0x7fffffu) ? 0x7fffffffu : u;
  return (u + 0x1000u) & 0xffffe000u;
}

// ---- Numbers that a GPU may make otherwise ---------------------------------------------------------------------------
// With GPU_ARITHMETIC they stray from what is exact as far as CUDA's manuals allow, by a hash of the operand; NVRTC may fuse a product with
// a sum, and so does the compiler then (-ffp-contract), but for those that are rounded on their own; and sums of tensor cores are cut.

#ifdef GPU_ARITHMETIC
static constexpr bool CUT = true;
template <class T> inline T alone(T x) {
  asm("" : "+m"(x));
  return x;
}
// Between -1 and 1.
inline double share(u32 operand) {
  operand = (operand ^ operand >> 16) * 0x85ebca6bu;
  operand = (operand ^ operand >> 13) * 0xc2b2ae35u;
  return (int)(operand ^ operand >> 16) * 0x1p-31;
}
// `exact`, rounded, and at most so many units in the last place beside that. 0, 1 and what is not finite are exact.
inline float made(float, double exact, float operand, double most) {
  double size = __builtin_fabs(exact);
  if (size == 0.0 || size == 1.0 || !(size < 0x1p127)) return (float)exact;
  u64 exponent = __builtin_bit_cast(u64, size) >> 52, least = 1023 - 126;
  double unit = __builtin_bit_cast(double, ((exponent > least ? exponent : least) - 23) << 52);
  return (float)(exact + most * unit * share(__float_as_uint(operand)));
}
inline double made(double, long double exact, double operand) {
  double nearest = (double)exact;
  u64 of = __builtin_bit_cast(u64, operand), exponent = __builtin_bit_cast(u64, nearest) >> 52 & 0x7ff;
  if (exponent <= 52 || exponent == 0x7ff || nearest == 1.0) return nearest;
  return (double)(exact + __builtin_bit_cast(double, (exponent - 52) << 52) * share((u32)(of ^ of >> 32)));
}
inline float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f * x : x; }
inline float exp2_fast(float x) { return flushed(made(0.0f, __builtin_exp2((double)flushed(x)), x, 2)); }
// Between a half and 2 within 2^-22, absolute.
inline float log2_fast(float x) {
  double exact = __builtin_log2((double)flushed(x));
  if (!(x > 0.5f && x < 2.0f)) return made(0.0f, exact, x, 2);
  return x == 1.0f ? 0.0f : (float)(exact + 0x1p-22 * share(__float_as_uint(x)));
}
#else
static constexpr bool CUT = false;
template <class T> inline T alone(T x) { return x; }
inline float made(float plain, double, float, double) { return plain; }
inline double made(double plain, long double, double) { return plain; }
inline float exp2_fast(float x) { return __builtin_exp2f(x); }
inline float log2_fast(float x) { return __builtin_log2f(x); }
#endif

// Rounded on its own: never the product of a fused multiply-add.
inline float __fmul_rn(float a, float b) { return alone(a * b); }
inline double __dmul_rn(double a, double b) { return alone(a * b); }
inline double __dadd_rn(double a, double b) { return alone(a + b); }
inline double __dsqrt_rn(double x) { return __builtin_sqrt(x); }

// Units in the last place: CUDA C++ programming guide, "Mathematical functions"; of the fast ones the PTX manual, ex2.approx, lg2.approx.
#define MACHINE_FUNCTION(name, most) \
  inline float name##f(float x) { return made(__builtin_##name##f(x), __builtin_##name((double)x), x, most); }
MACHINE_FUNCTION(exp, 2)
MACHINE_FUNCTION(exp2, 2)
MACHINE_FUNCTION(expm1, 1)
MACHINE_FUNCTION(log, 1)
MACHINE_FUNCTION(log2, 1)
MACHINE_FUNCTION(log1p, 1)
MACHINE_FUNCTION(tanh, 2)
MACHINE_FUNCTION(sin, 2)
MACHINE_FUNCTION(cos, 2)
MACHINE_FUNCTION(erf, 2)
#undef MACHINE_FUNCTION
inline float powf(float x, float y) { return made(__builtin_powf(x, y), __builtin_pow((double)x, (double)y), x, 4); }
inline float rsqrtf(float x) { return made(1.0f / __builtin_sqrtf(x), 1.0 / __builtin_sqrt((double)x), x, 2); }
inline double exp(double x) { return made(__builtin_exp(x), __builtin_expl(x), x); }
inline double log(double x) { return made(__builtin_log(x), __builtin_logl(x), x); }
inline float exp_fast(float x) { return exp2_fast(x * 1.44269504f); }
inline float log_fast(float x) { return log2_fast(x) * 0.693147181f; }

template <class T> inline T __ldg(const T* p) { return *p; }

// ---- Threads of a block and lanes of a warp ------------------------------------------------------------------------

inline void __syncthreads(HERE) { ::machine::barrier(::machine::Vote::none, 0, "__syncthreads", site); }
inline int __syncthreads_or(int p, HERE) { return (int)::machine::barrier(::machine::Vote::any, p, "__syncthreads_or", site); }
inline int __syncthreads_and(int p, HERE) { return (int)::machine::barrier(::machine::Vote::all, p, "__syncthreads_and", site); }
inline int __syncthreads_count(int p, HERE) { return (int)::machine::barrier(::machine::Vote::count, p, "__syncthreads_count", site); }
inline void __syncwarp(u32 mask = ~0u, HERE) { ::machine::sync_warp(mask, site); }
// One thread of the machine runs at a time, so its writes are seen in order.
inline void __threadfence() {}
inline void __threadfence_block() {}

// A value of 4 or 8 bytes as a machine word, and back.
template <class T> inline u64 machine_word(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warps exchange values of 4 or 8 bytes");
  if constexpr (sizeof(T) == 4) return __builtin_bit_cast(u32, value);
  else return __builtin_bit_cast(u64, value);
}
template <class T> inline T machine_value(u64 word) {
  if constexpr (sizeof(T) == 4) return __builtin_bit_cast(T, (u32)word);
  else return __builtin_bit_cast(T, word);
}

#define MACHINE_SHUFFLE(name, move, operand)                                                                     \
  template <class T> inline T name(u32 mask, T value, operand from, int width = 32, HERE) {                      \
    return machine_value<T>(                                                                                     \
        ::machine::shuffle(::machine::Move::move, mask, machine_word(value), (u32)from, (u32)width, #name, site)); \
  }
MACHINE_SHUFFLE(__shfl_sync, index, int)
MACHINE_SHUFFLE(__shfl_up_sync, up, u32)
MACHINE_SHUFFLE(__shfl_down_sync, down, u32)
MACHINE_SHUFFLE(__shfl_xor_sync, exclusive, int)
#undef MACHINE_SHUFFLE

inline u32 __ballot_sync(u32 mask, int predicate, HERE) { return ::machine::ballot(mask, predicate != 0, "__ballot_sync", site); }
inline int __any_sync(u32 mask, int predicate, HERE) { return ::machine::ballot(mask, predicate != 0, "__any_sync", site) != 0; }
inline int __all_sync(u32 mask, int predicate, HERE) { return ::machine::ballot(mask, predicate != 0, "__all_sync", site) == mask; }
template <class T> inline u32 __match_any_sync(u32 mask, T value, HERE) {
  return ::machine::match_any(mask, machine_word(value), "__match_any_sync", site);
}
#define MACHINE_REDUCE(name, unsigned_fold, signed_fold)                                                            \
  inline u32 name(u32 mask, u32 value, HERE) { return ::machine::fold(::machine::Fold::unsigned_fold, mask, value, #name, site); } \
  inline int name(u32 mask, int value, HERE) { return (int)::machine::fold(::machine::Fold::signed_fold, mask, (u32)value, #name, site); }
MACHINE_REDUCE(__reduce_add_sync, add, add)
MACHINE_REDUCE(__reduce_max_sync, max, max_signed)
MACHINE_REDUCE(__reduce_min_sync, min, min_signed)
#undef MACHINE_REDUCE

// ---- Atomics: the value before -------------------------------------------------------------------------------------

#define MACHINE_ATOMIC(name, T, update)                                                                                        \
  inline T name(T* address, T value, HERE) {                                                                                   \
    return machine_value<T>(::machine::atomic(::machine::Update::update, address, sizeof(T), machine_word(value), 0, #name, site)); \
  }
MACHINE_ATOMIC(atomicAdd, u32, add)
MACHINE_ATOMIC(atomicAdd, int, add)
MACHINE_ATOMIC(atomicAdd, u64, add)
MACHINE_ATOMIC(atomicAdd, float, add_float)
MACHINE_ATOMIC(atomicMax, u32, max)
MACHINE_ATOMIC(atomicMax, int, max_signed)
MACHINE_ATOMIC(atomicMax, u64, max)
MACHINE_ATOMIC(atomicMin, u32, min)
MACHINE_ATOMIC(atomicMin, int, min_signed)
MACHINE_ATOMIC(atomicMin, u64, min)
MACHINE_ATOMIC(atomicExch, u32, exchange)
MACHINE_ATOMIC(atomicExch, int, exchange)
MACHINE_ATOMIC(atomicExch, u64, exchange)
MACHINE_ATOMIC(atomicExch, float, exchange)
MACHINE_ATOMIC(atomicOr, u32, either)
MACHINE_ATOMIC(atomicOr, int, either)
MACHINE_ATOMIC(atomicOr, u64, either)
MACHINE_ATOMIC(atomicAnd, u32, both)
MACHINE_ATOMIC(atomicAnd, int, both)
MACHINE_ATOMIC(atomicAnd, u64, both)
#undef MACHINE_ATOMIC
#define MACHINE_CAS(T)                                                                                                     \
  inline T atomicCAS(T* address, T compare, T value, HERE) {                                                               \
    return machine_value<T>(::machine::atomic(::machine::Update::compare_exchange, address, sizeof(T), machine_word(value), \
                                              machine_word(compare), "atomicCAS", site));                                  \
  }
MACHINE_CAS(u32)
MACHINE_CAS(int)
MACHINE_CAS(u64)
#undef MACHINE_CAS

// ---- Asynchronous copies and tensor cores --------------------------------------------------------------------------

inline void cp_async_4(void* shared, const void* global, HERE) { ::machine::copy_async(shared, global, 4, "cp_async_4", site); }
inline void cp_async_8(void* shared, const void* global, HERE) { ::machine::copy_async(shared, global, 8, "cp_async_8", site); }
inline void cp_async_16(void* shared, const void* global, HERE) { ::machine::copy_async(shared, global, 16, "cp_async_16", site); }
inline void cp_async_commit() { ::machine::copy_async_commit(); }
template <int N> inline void cp_async_wait() { ::machine::copy_async_wait(N); }

inline void ldmatrix_x4(u32 (&r)[4], const void* shared, HERE) { ::machine::load_matrices(r, 4, false, shared, "ldmatrix_x4", site); }
inline void ldmatrix_x4_trans(u32 (&r)[4], const void* shared, HERE) { ::machine::load_matrices(r, 4, true, shared, "ldmatrix_x4_trans", site); }
inline void ldmatrix_x2(u32 (&r)[2], const void* shared, HERE) { ::machine::load_matrices(r, 2, false, shared, "ldmatrix_x2", site); }
inline void ldmatrix_x2_trans(u32 (&r)[2], const void* shared, HERE) { ::machine::load_matrices(r, 2, true, shared, "ldmatrix_x2_trans", site); }
inline void mma_bf16_16x8x16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], HERE) { ::machine::multiply_bf16(d, a, b, CUT, site); }
inline void mma_tf32_16x8x8(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], HERE) { ::machine::multiply_tf32(d, a, b, CUT, site); }

inline u32 shared_address(const void* shared, HERE) { return ::machine::shared_address(shared, site); }
inline void mbarrier_init(u64* barrier, u32 count, HERE) { ::machine::mbarrier_init(barrier, count, site); }
inline void mbarrier_init_fence() { ::machine::mbarrier_init_fence(); }
inline void mbarrier_arrive(u64* barrier, HERE) { ::machine::mbarrier_arrive(barrier, 0, "mbarrier_arrive", site); }
inline void mbarrier_arrive_expect_tx(u64* barrier, u32 bytes, HERE) { ::machine::mbarrier_arrive(barrier, bytes, "mbarrier_arrive_expect_tx", site); }
inline void mbarrier_wait(u64* barrier, u32 parity, HERE) { ::machine::mbarrier_wait(barrier, parity, site); }
inline void copy_bulk(void* shared, const void* global, u32 bytes, u64* barrier, HERE) { ::machine::copy_bulk(shared, global, bytes, barrier, site); }
inline void fence_async() { ::machine::fence_async(); }
inline void wgmma_fence(float (&)[64], HERE) { ::machine::group_fence(site); }
inline void wgmma_bf16_64x128x16(float (&d)[64], u64 a, u64 b, bool add, HERE) { ::machine::group_multiply_bf16(d, a, b, add, CUT, site); }
inline void wgmma_commit() { ::machine::group_commit(); }
template <int N> inline void wgmma_wait(float (&)[64], HERE) { ::machine::group_wait(N, site); }
