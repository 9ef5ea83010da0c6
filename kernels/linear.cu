// The bias of a linear layer; its product is the library's, its gradient a sum of columns (column_sum.cu).
//
//   y[r] += b
//
// Shapes       y (R,N), b (N)
// Defines      WIDTH = N
// Launch       256 threads, 1,024 elements a block
// Traffic      8 R N bytes
//   linear_bias: reads 4 n + 4 WIDTH, writes 4 n
// Determinism  one writer per element
#include "device.cuh"

constexpr int THREADS = 256, PER = 4;

KERNEL(THREADS, linear_bias)(float* y, const float* __restrict__ b, u64 n) {
  u64 base = (u64)blockIdx.x * (THREADS * PER);
  u32 base_column = (u32)(base % WIDTH);
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u32 i = threadIdx.x + k * THREADS;
    if (base + i < n) y[base + i] += b[(base_column + i) % WIDTH];
  }
}
