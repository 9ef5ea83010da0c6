// Sums over the lanes of a warp, by a fixed tree.
#pragma once

// In every lane the sum over all 32 lanes; all of them must call it.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}
