// The vocabulary of all kernels: every kernel file includes this header, and only this file holds PTX.
//
// The same kernel source is compiled twice. NVRTC defines __CUDACC__ and gets PTX behind the names below; a C++ compiler
// gets the same names from emulator/device.h, where they are functions of a machine that checks how they are used. What
// CUDA itself names (threadIdx, __syncthreads, __shfl_xor_sync, atomicAdd, fmaf ...) keeps its name and meaning.
//
// Rules for kernels, which the emulator enforces:
// - Entries are `KERNEL(threads, name)(plain parameters)`; a launch has at most `threads` threads, a multiple of 32.
// - Shared memory comes from `SHARED(float, s_tile, [32][33]);` and `SHARED_DYN(float, s_rows);` alone.
// - A barrier, shuffle, vote or tensor operation is reached by all threads it names, at one source line.
// - Shuffles and votes order no memory: `__syncwarp()` stands between a lane's shared write and another lane's read.
// - One writer per location between two barriers, even of equal values, or an atomic.
// - Nobody waits for another block, or spins on plain memory.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// The upper half of an f32. Arithmetic is done in f32; this is storage and the operand type of the tensor cores.
struct bf16 { u16 bits; };

// Of dynamic shared memory: for the widest asynchronous copy, or as a file defines it before.
#ifndef SHARED_ALIGNMENT
#define SHARED_ALIGNMENT 16
#endif

#ifndef __CUDACC__
#include "emulator/device.h"
#else

constexpr float INF = __builtin_bit_cast(float, 0x7f800000u);

// A file that defines ROOMY as `, 1` gets all the registers it wants, where the compiler would rather spill a few of them to
// keep more warps resident; `, 3` keeps three blocks resident.
#ifndef ROOMY
#define ROOMY
#endif
#define KERNEL(threads, name) extern "C" __global__ void __launch_bounds__(threads ROOMY) name
#define SHARED(T, name, dims) __shared__ __align__(16) T name dims
// One block of dynamic shared memory, seen as T.
#define SHARED_DYN(T, name)                                         \
  extern __shared__ __align__(SHARED_ALIGNMENT) u8 s_dynamic_[];    \
  T* name = reinterpret_cast<T*>(s_dynamic_)

// ---- Numbers -------------------------------------------------------------------------------------------------------

// Hardware approximations, about 2 units in the last place; subnormal results are 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * 1.44269504f); }
__device__ __forceinline__ float log_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y * 0.693147181f;
}

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// Round to nearest, ties to even.
__device__ __forceinline__ bf16 to_bf16(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
// Two bf16 in one register, `low` in the lower half: the lower address once stored.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
// Round to nearest, ties away from zero: 10 bits of mantissa, the operand of mma_tf32.
__device__ __forceinline__ u32 to_tf32(float x) {
  u32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

// ---- Asynchronous copies from global to shared memory --------------------------------------------------------------
// Both addresses aligned to the size. A thread sees its own copies after the wait, other threads after a barrier too.

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void cp_async_4(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ __forceinline__ void cp_async_8(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
// Closes the group of this thread's copies since the last commit.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most N of this thread's groups are under way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- Tensor cores (whole warps) ------------------------------------------------------------------------------------
// 8x8 matrices of 16-bit numbers: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes, aligned to 16), and
// register m of lane i receives columns 2 (i % 4) and 2 (i % 4) + 1 of row i / 4 of matrix m, or of its transpose.

__device__ __forceinline__ void ldmatrix_x4(u32 (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(shared)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(shared)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(u32 (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(shared)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(u32 (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(shared)) : "memory");
}

// d (16,8) += a (16,16) b (16,8), bf16 operands, f32 sums. With g = lane / 4 and t = lane % 4:
//   a[0] = A[g][2t, 2t+1]   a[1] = A[g+8][2t, 2t+1]   a[2] = A[g][2t+8, 2t+9]   a[3] = A[g+8][2t+8, 2t+9]
//   b[0] = B[2t, 2t+1][g]   b[1] = B[2t+8, 2t+9][g]
//   d[0], d[1] = D[g][2t, 2t+1]   d[2], d[3] = D[g+8][2t, 2t+1]
__device__ __forceinline__ void mma_bf16_16x8x16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d (16,8) += a (16,8) b (8,8), tf32 operands (see to_tf32), f32 sums; d as above, and
//   a[0] = A[g][t]   a[1] = A[g+8][t]   a[2] = A[g][t+4]   a[3] = A[g+8][t+4]
//   b[0] = B[t][g]   b[1] = B[t+4][g]
__device__ __forceinline__ void mma_tf32_16x8x8(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- Hopper's own (sm_90a): barriers in memory, copies of whole tiles, products by four warps ----------------------
// Other architectures have not all of these instructions: a kernel that reaches one there ends with an error.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER(...) asm volatile(__VA_ARGS__)
#else
#define HOPPER(...) __trap()
#endif

// 8 bytes of shared memory, aligned to 8. A phase ends when `count` arrivals and all expected bytes have come; the next begins at once
// and has the other parity. The first is of parity 0. Who arrives publishes its work to whoever waits for that phase.
__device__ __forceinline__ void mbarrier_init(u64* barrier, u32 count) {
  HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
// Between the initialising thread's last mbarrier_init and the barrier that lets others, and copies, use them.
__device__ __forceinline__ void mbarrier_init_fence() { HOPPER("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbarrier_arrive(u64* barrier) {
  HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Expects `bytes` more in this phase, then arrives; before the copies that bring them.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(u64* barrier, u32 bytes) {
  HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Until the phase of this parity has ended; one that has not after 20 s ends the kernel with an error instead of hanging.
__device__ __forceinline__ void mbarrier_wait(u64* barrier, u32 parity) {
  HOPPER("{\n.reg .pred done, early;\n.reg .u64 start, now;\n"
         "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra ended;\nmov.u64 start, %%globaltimer;\n"
         "again:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra ended;\n"
         "mov.u64 now, %%globaltimer;\nsub.u64 now, now, start;\nsetp.lt.u64 early, now, 20000000000;\n@early bra again;\ntrap;\n"
         "ended:\n}" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
}
// One thread copies for all. Both addresses and the size are multiples of 16; the bytes count at `barrier` once they have landed.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, u32 bytes, u64* barrier) {
  HOPPER("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
         ::"r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}
// What this thread wrote to shared memory itself is seen by copy_bulk and wgmma, for others after a barrier.
__device__ __forceinline__ void fence_async() { HOPPER("fence.proxy.async.shared::cta;" ::: "memory"); }

// No use of accumulators may move past this place.
__device__ __forceinline__ void wgmma_tie(float (&d)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// Before the first product after anything else touched the accumulators d.
__device__ __forceinline__ void wgmma_fence(float (&d)[64]) {
  wgmma_tie(d);
  HOPPER("wgmma.fence.sync.aligned;" ::: "memory");
}
// d (64,128) += a (64,16) b (128,16)^T, or = without `add`; bf16 operands by wgmma_tile, f32 sums. All four warps of a warpgroup call
// it; with w = warp % 4, g = lane / 4 and t = lane % 4:
//   d[4 j], d[4 j + 1] = D[16 w + g][8 j + 2 t, 8 j + 2 t + 1]   d[4 j + 2], d[4 j + 3] = D[16 w + g + 8][the same]
__device__ __forceinline__ void wgmma_bf16_64x128x16(float (&d)[64], u64 a, u64 b, bool add) {
  HOPPER("{\n.reg .pred adds;\nsetp.ne.b32 adds, %66, 0;\n"
         "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
         "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
         " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
         " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
         " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63},"
         " %64, %65, adds, 1, 1, 0, 0;\n}"
         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
           "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
           "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
           "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
           "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
           "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
           "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
           "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
         : "l"(a), "l"(b), "r"((u32)add));
}
// Closes the group of this warp's products since the last commit.
__device__ __forceinline__ void wgmma_commit() { HOPPER("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most N of this warp's groups are under way; the sums of the others are then in their accumulators, of which d is one.
template <int N>
__device__ __forceinline__ void wgmma_wait(float (&d)[64]) {
  HOPPER("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
  wgmma_tie(d);
}

#endif

// An operand of wgmma in shared memory: rows of 64 bf16 numbers (128 bytes), 8 rows after 8 rows, aligned to 1,024 bytes. The eight
// 16-byte pieces of a row are not in order: piece c of row r is at place c ^ r % 8. Columns from 16 k on begin 32 k bytes later.
__device__ __forceinline__ u64 wgmma_tile(const void* shared) {
  // The mode of 128 bytes, 1,024 bytes from 8 rows to the next 8, and the address in units of 16 bytes.
  return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)1 << 16 | (shared_address(shared) & 0x3ffff) >> 4;
}
