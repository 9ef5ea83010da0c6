// Sums over the threads of a block that come before one.
#pragma once

// The sum of x over the threads before this one; `total` over all of them. Every thread of the block's WARPS warps calls it.
template <int WARPS>
__device__ inline u32 sum_before(u32 x, u32* s_warps, u32& total) {
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = x;
#pragma unroll
  for (u32 step = 1; step < 32; step *= 2) {
    u32 other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == 31) s_warps[warp] = sum;
  __syncthreads();
  u32 before = 0;
  total = 0;
#pragma unroll
  for (u32 w = 0; w < WARPS; ++w) {
    if (w == warp) before = total;
    total += s_warps[w];
  }
  return before + sum - x;
}
