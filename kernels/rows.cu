// Moving, adding, filling and rounding whole rows.
//
//   rows_restore:  dx[rows[q]] = dout[q]          dx was cleared before; `select`, its inverse, is embedding_fwd
//   rows_add:      y += scale * x
//   rows_fill:     y = word                       where steps are recorded: a kernel can be given any place and length in a
//                                                 recording, a fill of the driver's only the ones it was made for
//   rows_round:    y = x as bf16, four at a time
//
// Shapes       dx (R,D), dout (Q,D), rows (Q) distinct; x, y (n), of rows_round (4 n)
// Defines      D (rows_restore)
// Launch       256 threads, 1,024 elements a block
// Traffic      8 Q D bytes (and 4 R D of the clearing); 12 n; 4 n; 24 n
//   rows_restore: reads 4 n + 4 |rows|, writes 4 n
//   rows_add: reads 8 n, writes 4 n
//   rows_fill: reads 0, writes 4 n
//   rows_round: reads 16 n, writes 8 n
// Determinism  one writer per element, because the rows are distinct
#include "device.cuh"

constexpr int THREADS = 256, PER = 4;

#ifdef D
KERNEL(THREADS, rows_restore)(float* dx, const float* __restrict__ dout, const u32* __restrict__ rows, u64 n) {
  u64 base = (u64)blockIdx.x * (THREADS * PER);
  u64 base_row = base / D;
  u32 base_column = (u32)(base % D);
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u32 i = threadIdx.x + k * THREADS;
    if (base + i >= n) continue;
    u32 at = base_column + i;
    dx[(u64)rows[base_row + at / D] * D + at % D] = dout[base + i];
  }
}
#else
KERNEL(THREADS, rows_add)(float* y, const float* __restrict__ x, u64 n, float scale) {
  u64 first = (u64)blockIdx.x * (THREADS * PER) + threadIdx.x;
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u64 i = first + k * THREADS;
    if (i < n) y[i] += x[i] * scale;
  }
}

KERNEL(THREADS, rows_fill)(u32* y, u64 n, u32 word) {
  u64 first = (u64)blockIdx.x * (THREADS * PER) + threadIdx.x;
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u64 i = first + k * THREADS;
    if (i < n) y[i] = word;
  }
}

KERNEL(THREADS, rows_round)(uint2* y, const float4* __restrict__ x, u64 n) {
  u64 first = (u64)blockIdx.x * (THREADS * PER) + threadIdx.x;
#pragma unroll
  for (int k = 0; k < PER; ++k) {
    u64 i = first + k * THREADS;
    if (i >= n) continue;
    float4 four = x[i];
    y[i] = make_uint2(pack_bf16(four.x, four.y), pack_bf16(four.z, four.w));
  }
}
#endif
