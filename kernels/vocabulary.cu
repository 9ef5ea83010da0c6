// Every word of device.cuh once, so that each machine is held to plain arithmetic before any kernel is trusted to it.
//
// No operation uses these kernels; their twin, src/ops/vocabulary.rs, says what they must give. One warp or block each,
// the smallest that shows a word at work: layouts of fragments, lanes at the ends of a group, rounding.
#define SHARED_ALIGNMENT 1024
#include "device.cuh"
#include "philox.cuh"

constexpr u32 N = 128;  // numbers of an input

// y (functions, N) from x (N), all positive.
KERNEL(128, numbers)(float* y, const float* x) {
  u32 i = threadIdx.x;
  float v = x[i], results[] = {
    fmaf(v, v, -1.0f), fmaxf(v, 1.0f), fminf(v, 1.0f), fabsf(-v), sqrtf(v), rsqrtf(v), expf(-v), exp2f(v), logf(v), log1pf(v), tanhf(v),
    powf(v, 1.5f), floorf(v), ceilf(v), rintf(v), exp2_fast(-v), exp_fast(-v), log_fast(v), to_float(to_bf16(v)), __uint_as_float(to_tf32(v)),
    __uint_as_float(__float_as_uint(v)), __int_as_float(__float_as_int(v)), max(v, 1.0f), min(v, 1.0f),
  };
  for (u32 f = 0; f < sizeof results / sizeof results[0]; ++f) y[f * N + i] = results[f];
}

// y (functions, N) from x (N), any bits.
KERNEL(128, bits)(u32* y, const u32* x) {
  u32 i = threadIdx.x, v = x[i], w = x[(i + 1) % N];
  u64 wide = (u64)v << 32 | w;
  float f = __uint_as_float(v);
  u32 results[] = {
    (u32)__popc(v), (u32)__popcll(wide), (u32)__clz((int)v), (u32)__clzll((i64)(wide >> 20)), (u32)__ffs((int)v), __brev(v), __umulhi(v, w),
    (u32)__umul64hi(wide, wide), (u32)(__umul64hi(wide, wide) >> 32), min(v, w), max(v, w), (u32)min((int)v, (int)w), (u32)max((int)v, (int)w),
    (u32)is_finite(f), to_bf16(f).bits, pack_bf16(f, 1.0f), pack_bf16(1.0f, f), (u32)is_finite(INF), (u32)(INF > 3e38f),
  };
  for (u32 k = 0; k < sizeof results / sizeof results[0]; ++k) y[k * N + i] = results[k];
}

// y (words, N): what a lane hears from the others of its warp.
KERNEL(128, exchange)(u32* y, const u32* x) {
  u32 i = threadIdx.x, v = x[i];
  u64 wide = (u64)v << 32 | i;
  u32 results[] = {
    __shfl_sync(~0u, v, 5), __shfl_sync(~0u, v, (int)v & 31), __shfl_sync(~0u, v, 3, 8), __shfl_up_sync(~0u, v, 3), __shfl_up_sync(~0u, v, 2, 16),
    __shfl_down_sync(~0u, v, 3), __shfl_down_sync(~0u, v, 2, 16), __shfl_xor_sync(~0u, v, 1), __shfl_xor_sync(~0u, v, 31), __shfl_xor_sync(~0u, v, 8, 8),
    (u32)__shfl_xor_sync(~0u, wide, 2), (u32)(__shfl_xor_sync(~0u, wide, 2) >> 32), (u32)__shfl_xor_sync(~0u, (int)v, 4),
    __float_as_uint(__shfl_xor_sync(~0u, __uint_as_float(i), 16)), (u32)__shfl_down_sync(~0u, (i64)wide, 1),
    __ballot_sync(~0u, v & 1), (u32)__any_sync(~0u, v % 64 == 0), (u32)__all_sync(~0u, v % 64 != 0), __match_any_sync(~0u, v % 5), __match_any_sync(~0u, wide % 3),
    __reduce_add_sync(~0u, v), __reduce_max_sync(~0u, v), __reduce_min_sync(~0u, v), (u32)__reduce_max_sync(~0u, (int)v), (u32)__reduce_min_sync(~0u, (int)v),
  };
  // Half a warp by itself.
  u32 half = i % 32 < 16 ? __shfl_xor_sync(0xffffu, v, 8) : __reduce_add_sync(0xffff0000u, v);
  for (u32 k = 0; k < sizeof results / sizeof results[0]; ++k) y[k * N + i] = results[k];
  y[sizeof results / sizeof results[0] * N + i] = half;
}

// y (4, N): what a thread learns at the barriers of its block.
KERNEL(128, barriers)(u32* y, const u32* x) {
  SHARED(u32, s_x, [N]);
  SHARED_DYN(u32, s_y);
  u32 i = threadIdx.x, v = x[i];
  s_x[i] = v;
  __syncthreads();
  s_y[i] = s_x[N - 1 - i];
  u32 any = (u32)__syncthreads_or(v % 256 == 0), all = (u32)__syncthreads_and(v % 256 != 0), count = (u32)__syncthreads_count(v & 1);
  y[i] = s_y[(i + 1) % N];
  y[N + i] = any != 0;
  y[2 * N + i] = all != 0;
  y[3 * N + i] = count;
}

// totals (12): every thread of every block updates every word; the order leaves no trace in the result.
KERNEL(128, atomics)(u32* totals, u64* wide, float* real, const u32* x) {
  u32 v = x[threadIdx.x] ^ blockIdx.x;
  atomicAdd(&totals[0], v);
  atomicAdd(reinterpret_cast<int*>(&totals[1]), (int)v);
  atomicMax(&totals[2], v);
  atomicMin(&totals[3], v);
  atomicMax(reinterpret_cast<int*>(&totals[4]), (int)v);
  atomicMin(reinterpret_cast<int*>(&totals[5]), (int)v);
  atomicOr(&totals[6], v);
  atomicAnd(&totals[7], v | 0x10000u);
  // A counter by compare and exchange, and a bag that forgets nothing: what goes in comes out of some exchange.
  u32 seen = 0, expected;
  do {
    expected = seen;
    seen = atomicCAS(&totals[8], expected, expected + 1);
  } while (seen != expected);
  atomicAdd(&totals[9], atomicExch(&totals[10], v));
  atomicAdd(&wide[0], (u64)v << 20);
  atomicMax(&wide[1], (u64)v << 20);
  atomicMin(&wide[2], (u64)v << 20);
  u64 far = 0, near;
  do {
    near = far;
    far = atomicCAS(&wide[3], near, near + ((u64)1 << 33));
  } while (far != near);
  atomicAdd(&real[0], (float)(v % 16));
  __threadfence();
}

// y (N) = x (N), copied in pieces of every size, two groups under way at once.
KERNEL(32, copies)(float* y, const float* x) {
  SHARED(float, s_x, [N]);
  u32 lane = threadIdx.x;
  if (lane < 16) cp_async_16(s_x + 4 * lane, x + 4 * lane);
  else cp_async_8(s_x + 64 + 2 * (lane - 16), x + 64 + 2 * (lane - 16));
  cp_async_commit();
  cp_async_4(s_x + 96 + lane, x + 96 + lane);
  cp_async_commit();
  cp_async_wait<1>();
  __syncwarp();
  float4 four = reinterpret_cast<const float4*>(s_x)[lane % 16];
  float2 two = reinterpret_cast<const float2*>(s_x + 64)[lane % 16];
  if (lane < 16) reinterpret_cast<float4*>(y)[lane] = make_float4(four.x, four.y, four.z, four.w);
  else reinterpret_cast<float2*>(y + 64)[lane - 16] = make_float2(two.x, two.y);
  cp_async_wait<0>();
  __syncwarp();
  y[96 + lane] = s_x[96 + (lane ^ 1)];
}

// y (12, 32): registers of the four ways to load matrices from x, 16 rows of 16 16-bit numbers.
KERNEL(32, matrices)(u32* y, const u32* x) {
  SHARED(u32, s_x, [16][8]);
  u32 lane = threadIdx.x;
  for (u32 i = lane; i < 128; i += 32) s_x[i / 8][i % 8] = x[i];
  __syncwarp();
  // Matrices 0 to 3: upper left, lower left, upper right, lower right.
  const u32* row = &s_x[lane % 16][lane / 16 * 4];
  u32 four[4], two[2];
  ldmatrix_x4(four, row);
  for (u32 k = 0; k < 4; ++k) y[k * 32 + lane] = four[k];
  ldmatrix_x4_trans(four, row);
  for (u32 k = 0; k < 4; ++k) y[(4 + k) * 32 + lane] = four[k];
  ldmatrix_x2(two, row);
  for (u32 k = 0; k < 2; ++k) y[(8 + k) * 32 + lane] = two[k];
  ldmatrix_x2_trans(two, row);
  for (u32 k = 0; k < 2; ++k) y[(10 + k) * 32 + lane] = two[k];
}

// d (16,8) = 1 + a (16,16) b (16,8), rounded to bf16.
KERNEL(32, product_bf16)(float* d, const float* a, const float* b) {
  u32 g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;
  auto left = [&](u32 row, u32 k) { return pack_bf16(a[row * 16 + k], a[row * 16 + k + 1]); };
  auto right = [&](u32 k) { return pack_bf16(b[k * 8 + g], b[(k + 1) * 8 + g]); };
  u32 r_a[4] = {left(g, t), left(g + 8, t), left(g, t + 8), left(g + 8, t + 8)}, r_b[2] = {right(t), right(t + 8)};
  float r_d[4] = {1, 1, 1, 1};
  mma_bf16_16x8x16(r_d, r_a, r_b);
  for (u32 i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t + i % 2] = r_d[i];
}

// d (16,8) = 1 + a (16,8) b (8,8), rounded to tf32.
KERNEL(32, product_tf32)(float* d, const float* a, const float* b) {
  u32 g = threadIdx.x / 4, t = threadIdx.x % 4;
  u32 r_a[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]), to_tf32(a[g * 8 + t + 4]), to_tf32(a[(g + 8) * 8 + t + 4])};
  u32 r_b[2] = {to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g])};
  float r_d[4] = {1, 1, 1, 1};
  mma_tf32_16x8x8(r_d, r_a, r_b);
  for (u32 i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = r_d[i];
}

// y (5, N) = x (5, N) with neighbours exchanged. One warp has tiles copied to two places, the other reads them; each waits for the other.
KERNEL(64, tiles)(u32* y, const u32* x) {
  SHARED(u32, s_x, [2][N]);
  SHARED(u64, s_full, [2]);
  SHARED(u64, s_empty, [2]);
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (u32 place = 0; place < 2; ++place) mbarrier_init(&s_full[place], 1), mbarrier_init(&s_empty[place], 32);
    mbarrier_init_fence();
  }
  __syncthreads();
  for (u32 tile = 0; tile < 5; ++tile) {
    u32 place = tile % 2, parity = tile / 2 % 2;
    if (warp == 0) {
      mbarrier_wait(&s_full[place], parity);
      for (u32 i = lane; i < N; i += 32) y[tile * N + i] = s_x[place][i ^ 1];
      // What was read here, the next copy to the same place must not overtake.
      fence_async();
      mbarrier_arrive(&s_empty[place]);
    } else if (lane == 0) {
      // The phase before the first counts as ended: both places are free.
      mbarrier_wait(&s_empty[place], parity ^ 1);
      mbarrier_arrive_expect_tx(&s_full[place], 4 * N);
      copy_bulk(s_x[place], x + tile * N, 2 * N, &s_full[place]);
      copy_bulk(&s_x[place][N / 2], x + tile * N + N / 2, 2 * N, &s_full[place]);
    }
  }
}

// d (2, 64,128) = 1 + a (64,128) b (128,128)^T, rounded to bf16, and the same without the one.
KERNEL(128, product_wgmma)(float* d, const float* a, const float* b) {
  SHARED_DYN(u8, s_all);
  u8 *s_a = s_all, *s_b = s_all + 64 * 256;
  // The first 64 columns of all rows, then the others.
  auto put = [](u8* s_tile, u32 rows, const float* from) {
    for (u32 i = threadIdx.x; i < rows * 128; i += 128) {
      u32 row = i / 128, half = i % 128 / 64, piece = i % 64 / 8;
      reinterpret_cast<bf16*>(s_tile + (half * rows + row) * 128 + (piece ^ row % 8) * 16)[i % 8] = to_bf16(from[i]);
    }
  };
  put(s_a, 64, a);
  put(s_b, 128, b);
  fence_async();
  __syncthreads();
  float r_d[2][64];
#pragma unroll
  for (u32 i = 0; i < 128; ++i) r_d[i / 64][i % 64] = 1;
#pragma unroll
  for (u32 form = 0; form < 2; ++form) {
    wgmma_fence(r_d[form]);
#pragma unroll
    for (u32 k = 0; k < 8; ++k) {
      u64 left = wgmma_tile(s_a + k / 4 * 64 * 128 + k % 4 * 32), right = wgmma_tile(s_b + k / 4 * 128 * 128 + k % 4 * 32);
      wgmma_bf16_64x128x16(r_d[form], left, right, form == 0 || k > 0);
    }
    wgmma_commit();
  }
  wgmma_wait<1>(r_d[0]);
  wgmma_wait<0>(r_d[1]);
  u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
  for (u32 i = 0; i < 128; ++i) {
    u32 j = i % 64;
    d[i / 64 * 64 * 128 + (row + j / 2 % 2 * 8) * 128 + j / 4 * 8 + column + j % 2] = r_d[i / 64][j];
  }
}

// y (6, N): the words of stream 11, lane 3, at index i * stride, and two bounded integers from them.
KERNEL(128, random)(u32* y, u64 seed, u64 step, u64 stride) {
  u32 i = threadIdx.x;
  Words r = words(draws(seed, 11, 3, step), i * stride);
  for (u32 k = 0; k < 4; ++k) y[k * N + i] = r.w[k];
  u64 word = r.w[0] | (u64)r.w[1] << 32;
  y[4 * N + i] = (u32)below(word, 50000000);
  y[5 * N + i] = (u32)(below(word, 0xfffffffffffull) >> 12);
}
