// Sums over rows: the gradient of everything that is added to each row of a batch.
//
//   out[c] = sum over the rows r of chunk c of x[r]          with ADD, one chunk:  out += sum over all rows
//
// Shapes       x (R,N) of rows `from` apart, out (chunks,N) of rows `to` apart, chunks = ceil(R / CHUNK)
// Defines      ADD 1 or 0; CHUNK, the rows that a block adds
// Launch       256 threads, grid (chunks, ceil(N / 32)): lanes are columns, each of the 8 warps adds every eighth row of the chunk
// Traffic      4 R N bytes; the launcher repeats the kernel on its own result until one chunk is left
//   column_sum: reads 4 R N + 4 ADD N, writes R / CHUNK 4 N
// Numerics     f32; the longest chain of additions is CHUNK / 8 + 8 per level
// Determinism  the order depends on R alone
#include "device.cuh"
#include "reduce.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS;

KERNEL(THREADS, column_sum)(float* out, const float* __restrict__ x, u32 R, u32 N, u32 to, u32 from) {
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 column = blockIdx.y * 32 + lane;
  u32 first = blockIdx.x * CHUNK, last = min(first + CHUNK, R);
  float sum = 0.0f;
  if (column < N) {
#pragma unroll 8
    for (u32 row = first + warp; row < last; row += WARPS) sum += x[(u64)row * from + column];
  }
  sum = warps_sum<WARPS>(sum);
  if (warp == 0 && column < N) {
    float* place = out + (u64)blockIdx.x * to + column;
#if ADD
    *place += sum;
#else
    *place = sum;
#endif
  }
}
