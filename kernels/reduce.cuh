// Sums over the lanes of a warp by a fixed tree, and over the warps of a block in their order.
#pragma once

// In every lane the sum over all 32 lanes; all of them must call it.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// In the first warp the sum over all warps of what the same lane has there; all threads of the block must call it, once.
template <int WARPS>
__device__ __forceinline__ float warps_sum(float x) {
  SHARED(float, s_sum, [WARPS][32]);
  u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  s_sum[warp][lane] = x;
  __syncthreads();
  if (warp == 0)
    for (int w = 1; w < WARPS; ++w) x += s_sum[w][lane];
  return x;
}
