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

#ifndef __CUDACC__
#include "emulator/device.h"
#else

constexpr float INF = __builtin_bit_cast(float, 0x7f800000u);

// A file that defines ROOMY as `, 1` gets all the registers it wants, where the compiler would rather spill a few of them to
// keep more warps resident.
#ifndef ROOMY
#define ROOMY
#endif
#define KERNEL(threads, name) extern "C" __global__ void __launch_bounds__(threads ROOMY) name
#define SHARED(T, name, dims) __shared__ __align__(16) T name dims
// One block of dynamic shared memory, seen as T; aligned for the widest asynchronous copy.
#define SHARED_DYN(T, name)                            \
  extern __shared__ __align__(16) u8 s_dynamic_[];     \
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

#endif
