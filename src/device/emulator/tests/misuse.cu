// Kernels that break one rule each, for the tests of the emulator, which look their lines up by what stands there.
#include "device.cuh"

KERNEL(96, some_wait)(float* y) {
  if (threadIdx.x < 40) __syncthreads();
}
KERNEL(96, two_barriers)(float* y) {
  if (threadIdx.x < 40) __syncthreads();
  else __syncthreads();
}
KERNEL(32, warp_parts)(float* y) {
  float v = 1;
  if (threadIdx.x == 31) v += __shfl_xor_sync(~0u, v, 1);
  else v += __shfl_down_sync(~0u, v, 1);
}
KERNEL(32, lane_missing)(float* y) {
  if (threadIdx.x != 5) __syncwarp();
}
KERNEL(32, not_in_mask)(float* y) { __syncwarp(0xffff); }
KERNEL(32, reads_outside_mask)(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}
__device__ __forceinline__ void put(float* to, float x) { *to = x; }
KERNEL(32, part_in_a_function)(float* y) {
  if (threadIdx.x < 16) y[0] = warp_sum(1.0f);
}
KERNEL(32, race_in_a_function)(float* y) { put(y, 3.0f); }
KERNEL(64, shared_overrun)(float* y) {
  SHARED(float, s_x, [64]);
  float* p = s_x;
  p[threadIdx.x + 1] = 1;
}
KERNEL(64, index)(float* y) {
  SHARED(float, s_x, [4][16]);
  s_x[threadIdx.x / 16][threadIdx.x % 16 + (threadIdx.x == 63)] = 1;
}
KERNEL(32, index_unrolled)(float* y) {
  float r[4];
  for (int c = 0; c <= 4; ++c) r[c] = y[c];
  for (int c = 0; c < 4; ++c) y[c] = r[c] + 1;
}
KERNEL(64, past_the_end)(float* y, u32 n) { y[threadIdx.x + n] = 1; }
KERNEL(64, read_past_the_end)(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x + 1]; }
KERNEL(64, adds)(float* y) { y[threadIdx.x] += 1; }
KERNEL(64, unwritten_shared)(float* y) {
  SHARED(float, s_x, [64]);
  if (threadIdx.x < 63) s_x[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s_x[threadIdx.x];
}
KERNEL(64, race_shared)(float* y) {
  SHARED(float, s_x, [64]);
  u32 t = threadIdx.x;
  s_x[t] = 1;
  __syncwarp();
  y[t] = s_x[t ? t - 1 : 0];
}
KERNEL(32, race_shuffle)(float* y) {
  SHARED(float, s_x, [32]);
  s_x[threadIdx.x] = 1;
  float v = __shfl_xor_sync(~0u, 1.0f, 1);
  y[threadIdx.x] = s_x[threadIdx.x ^ 1] + v;
}
KERNEL(64, race_same_value)(float* y) { y[0] = 1; }
KERNEL(64, race_blocks)(float* y) { if (threadIdx.x == 0) y[0] += 1; }
KERNEL(64, race_atomic)(u32* y) {
  atomicAdd(y, 1u);
  if (threadIdx.x == 0) y[0] = 3;
}
KERNEL(32, no_wait)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  cp_async_4(s_x + threadIdx.x, x + threadIdx.x);
  cp_async_commit();
  y[threadIdx.x] = s_x[threadIdx.x];
}
KERNEL(32, weak_wait)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  cp_async_4(s_x + threadIdx.x, x + threadIdx.x);
  cp_async_commit();
  cp_async_wait<1>();
  y[threadIdx.x] = s_x[threadIdx.x];
}
KERNEL(32, misaligned)(float* y) { *reinterpret_cast<float4*>(y + 1) = make_float4(1, 2, 3, 4); }
KERNEL(32, misaligned_copy)(float* y, const float* x) {
  SHARED(float, s_x, [4]);
  if (threadIdx.x == 0) cp_async_16(s_x, x + 1);
}
KERNEL(32, tensor_parts)(float* y) {
  SHARED(u32, s_x, [32][4]);
  s_x[threadIdx.x][0] = s_x[threadIdx.x][1] = s_x[threadIdx.x][2] = s_x[threadIdx.x][3] = 0;
  __syncwarp();
  u32 r[4];
  if (threadIdx.x < 16) ldmatrix_x4(r, s_x[threadIdx.x]);
}
KERNEL(32, deep)(float* y) {
  float big[20000];
  for (int i = 0; i < 20000; ++i) big[i] = y[i % 32] + i;
  __syncwarp();
  for (int i = 0; i < 20000; ++i) y[0] += big[i];
}
KERNEL(32, writes_input)(float* y, const float* x) { const_cast<float*>(x)[threadIdx.x] = 1; }
KERNEL(32, takes)(float* y, const float* x, u32 n, float s, u64 m) { y[0] = x[0] + n + s + m; }
KERNEL(32, no_memory)(float* y) { y[(i64)1 << 40] = 1; }
KERNEL(64, big_shared)(float* y) { SHARED(float, s_x, [100][128]); s_x[0][threadIdx.x] = 1; }
KERNEL(64, no_dynamic)(float* y) {
  SHARED_DYN(float, s_x);
  s_x[threadIdx.x] = 1;
}
KERNEL(64, reads_twice)(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x / 2] + x[threadIdx.x / 4]; }
KERNEL(64, fine)(float* y, const float* x) {
  SHARED(float, s_x, [64]);
  if (threadIdx.x < 16) __syncwarp(0xffff);
  __syncwarp();
  s_x[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  float v = s_x[threadIdx.x ^ 1];
  __syncthreads();
  s_x[threadIdx.x] = v;
  __syncthreads();
  y[threadIdx.x] = s_x[63 - threadIdx.x];
}

// ---- Hopper's own --------------------------------------------------------------------------------------------------

struct alignas(1024) Tile { u16 rows[128][64]; };
#define BARRIER(threads)                                            \
  SHARED(u64, s_bar, [1]);                                          \
  if (threadIdx.x == 0) mbarrier_init(s_bar, threads);              \
  if (threadIdx.x == 0) mbarrier_init_fence();                      \
  __syncthreads()
#define TILES                                                                            \
  SHARED(Tile, s_a, [1]);                                                                \
  SHARED(Tile, s_b, [1]);                                                                \
  for (u32 i = threadIdx.x; i < 64 * 128; i += blockDim.x) s_a[0].rows[i / 64][i % 64] = s_b[0].rows[i / 64][i % 64] = 0; \
  float r_d[64] = {}
KERNEL(64, never_full)(float* y) {
  BARRIER(2);
  if (threadIdx.x == 0) mbarrier_arrive(s_bar);
  mbarrier_wait(s_bar, 0);
}
KERNEL(32, never_init)(float* y) {
  SHARED(u64, s_bar, [1]);
  mbarrier_wait(s_bar, 0);
}
KERNEL(32, init_unseen)(float* y) {
  SHARED(u64, s_bar, [1]);
  if (threadIdx.x == 0) mbarrier_init(s_bar, 32);
  mbarrier_arrive(s_bar);
}
KERNEL(32, too_many)(float* y) {
  BARRIER(1);
  if (threadIdx.x == 0) mbarrier_arrive_expect_tx(s_bar, 16);
  __syncwarp();
  if (threadIdx.x == 1) mbarrier_arrive(s_bar);
}
KERNEL(32, overwritten)(float* y) {
  BARRIER(1);
  s_bar[0] = 0;
  mbarrier_arrive(s_bar);
}
KERNEL(32, bulk_misaligned)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  BARRIER(1);
  if (threadIdx.x == 0) copy_bulk(s_x, x + 1, 64, s_bar);
}
KERNEL(32, bulk_odd)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  BARRIER(1);
  if (threadIdx.x == 0) copy_bulk(s_x, x, 20, s_bar);
}
KERNEL(32, bulk_too_much)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  BARRIER(1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(s_bar, 64);
    copy_bulk(s_x, x, 128, s_bar);
  }
  mbarrier_wait(s_bar, 0);
}
KERNEL(32, bulk_too_little)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  BARRIER(1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(s_bar, 128);
    copy_bulk(s_x, x, 96, s_bar);
  }
  mbarrier_wait(s_bar, 0);
}
KERNEL(32, bulk_unfenced)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  SHARED(u64, s_bar, [1]);
  if (threadIdx.x == 0) {
    mbarrier_init(s_bar, 1);
    mbarrier_arrive_expect_tx(s_bar, 128);
    copy_bulk(s_x, x, 128, s_bar);
  }
}
KERNEL(32, bulk_no_wait)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  BARRIER(1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(s_bar, 128);
    copy_bulk(s_x, x, 128, s_bar);
    y[threadIdx.x] = s_x[threadIdx.x];
  }
}
KERNEL(32, bulk_left)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  BARRIER(1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(s_bar, 128);
    copy_bulk(s_x, x, 128, s_bar);
  }
}
KERNEL(32, bulk_over_writes)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  s_x[threadIdx.x] = 0;
  BARRIER(1);
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(s_bar, 128);
    copy_bulk(s_x, x, 128, s_bar);
  }
  mbarrier_wait(s_bar, 0);
}
// Nobody knows that the first warp has read.
KERNEL(64, bulk_over_reads)(float* y, const float* x) {
  SHARED(float, s_x, [32]);
  BARRIER(1);
  for (u32 turn = 0; turn < 2; ++turn) {
    if (threadIdx.x == 32) {
      mbarrier_arrive_expect_tx(s_bar, 128);
      copy_bulk(s_x, x, 128, s_bar);
    }
    mbarrier_wait(s_bar, turn);
    if (threadIdx.x < 32) y[threadIdx.x] = s_x[threadIdx.x];
  }
}
KERNEL(128, group_parts)(float* y) {
  TILES;
  wgmma_fence(r_d);
  if (threadIdx.x < 96) wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b), true);
}
KERNEL(128, group_lines)(float* y) {
  TILES;
  wgmma_fence(r_d);
  if (threadIdx.x < 96) wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b), true);
  else wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b), false);
}
KERNEL(128, group_descriptors)(float* y) {
  TILES;
  wgmma_fence(r_d);
  wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(threadIdx.x == 70 ? s_a : s_b), true);
}
KERNEL(128, group_unfenced)(float* y) {
  TILES;
  wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b), true);
}
KERNEL(128, group_misaligned)(float* y) {
  TILES;
  wgmma_fence(r_d);
  wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a[0].rows[1]), wgmma_tile(s_b), true);
}
KERNEL(128, group_mode)(float* y) {
  TILES;
  wgmma_fence(r_d);
  wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b) ^ (u64)3 << 62, true);
}
KERNEL(128, group_outside)(float* y) {
  TILES;
  wgmma_fence(r_d);
  wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b[0].rows[64]), true);
}
KERNEL(128, group_writes_unseen)(float* y) {
  TILES;
  __syncthreads();
  wgmma_fence(r_d);
  wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b), true);
}
KERNEL(128, group_writes_early)(float* y) {
  TILES;
  fence_async();
  __syncthreads();
  wgmma_fence(r_d);
  wgmma_bf16_64x128x16(r_d, wgmma_tile(s_a), wgmma_tile(s_b), true);
  wgmma_commit();
  if (threadIdx.x == 0) s_a[0].rows[0][0] = 1;
  wgmma_wait<0>(r_d);
}
