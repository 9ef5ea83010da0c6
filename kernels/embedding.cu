// Rows of a table by id.
//
//   out[r] = scale * table[ids[r]]          with ADD:  out[r] += scale * table[ids[r]]
//   input_fwd:  out[r] = (by * table[ids[r]] + positions[places[r]]) * f          f: the factors of dropout.cu
//
// The backward pass is a sum over segments of equal ids (segments.cu).
//
// Shapes       out (R,D), table (V,D), positions (L,D), ids, places (R)
// Defines      D; ADD 1 or 0; for input_fwd DROP as in dropout.cu
// Launch       256 threads, 1,024 elements a block, across rows: short rows leave no lane idle; input_fwd: 2,048, eight threads to
//              a block of 64 elements
// Traffic      8 R D bytes (12 R D with ADD) + 4 R; input_fwd: 12 R D + 8 R, where three kernels would move 28 R D
//   embedding_fwd: reads at most 4 n + 4 n ADD + 4 |ids|, writes 4 n
//   input_fwd: reads at most 8 n + 4 |ids| + 4 |places|, writes 4 n
// Numerics     f32, one product
// Determinism  one writer per element
#include "device.cuh"

constexpr int THREADS = 256, PER = 4;

#ifdef DROP
#include "philox.cuh"
#include "dropout.cuh"

KERNEL(THREADS, input_fwd)
(float* out, const float* __restrict__ table, const u32* __restrict__ ids, const float* __restrict__ positions,
 const u32* __restrict__ places, u64 n, float by, DROPOUT_PARAMETERS) {
  Dropout dropout = DROPOUT_ARGUMENTS;
  u64 base = (u64)blockIdx.x * (THREADS * 8);
  u64 base_row = base / D;
  u32 base_column = (u32)(base % D);
  u32 first = threadIdx.x / 8 * 64 + threadIdx.x % 8;
  if (base + first >= n) return;
  float r_x[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    u32 at = base_column + first + 8 * j;
    u64 row = base_row + at / D;
    bool inside = base + first + 8 * j < n;
    r_x[j] = inside ? by * table[(u64)ids[row] * D + at % D] + positions[(u64)places[row] * D + at % D] : 0.0f;
  }
  Words bits = dropout_words(dropout, base / 64 + threadIdx.x / 8, threadIdx.x % 8);
#pragma unroll
  for (int j = 0; j < 8; ++j)
    if (base + first + 8 * j < n) out[base + first + 8 * j] = r_x[j] * dropout_factor(dropout, bits, j);
}
#else
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
#endif
