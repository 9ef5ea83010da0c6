// Rows of a table by id.
//
//   out[r] = scale * table[ids[r]]          with ADD:  out[r] += scale * table[ids[r]]
//
// The backward pass is a sum over segments of equal ids (segments.cu).
//
// Shapes       out (R,D), table (V,D), ids (R)
// Defines      D; ADD 1 or 0
// Launch       256 threads, 1,024 elements a block, across rows: short rows leave no lane idle
// Traffic      8 R D bytes (12 R D with ADD) + 4 R
//   embedding_fwd: reads at most 4 n + 4 n ADD + 4 |ids|, writes 4 n
// Numerics     f32, one product
// Determinism  one writer per element
#include "device.cuh"

constexpr int THREADS = 256, PER = 4;

KERNEL(THREADS, embedding_fwd)
(float* out, const float* __restrict__ table, const u32* __restrict__ ids, u64 n, float scale) {
  // One wide division per thread; inside the block 32 bits are enough.
  u64 base = (u64)blockIdx.x * (THREADS * PER);
  u64 base_row = base / D;
  u32 base_column = (u32)(base % D);
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u32 i = threadIdx.x + k * THREADS;
    if (base + i >= n) continue;
    u32 at = base_column + i;
    float x = scale * table[(u64)ids[base_row + at / D] * D + at % D];
#if ADD
    out[base + i] += x;
#else
    out[base + i] = x;
#endif
  }
}
