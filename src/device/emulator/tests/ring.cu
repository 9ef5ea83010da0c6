// A ring of tiles between a warp that copies and a warpgroup that multiplies, whole (BUG 0) or with one fault.
//
//   y (T,64,128) = a (64,64) b[t] (128,64)^T, operands as they lie in shared memory
#define SHARED_ALIGNMENT 1024
#include "device.cuh"

constexpr u32 PLACES = 2, TILE = 128 * 128;

KERNEL(160, ring)(float* y, const u8* a, const u8* b, u32 T) {
  SHARED_DYN(u8, s_all);
  SHARED(u64, s_full, [PLACES + 1]);
  SHARED(u64, s_empty, [PLACES]);
  u8 *s_a = s_all, *s_b = s_all + 64 * 128;
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (u32 place = 0; place < PLACES; ++place) mbarrier_init(&s_full[place], 1), mbarrier_init(&s_empty[place], BUG == 8 ? 1 : 4);
    mbarrier_init(&s_full[PLACES], 1);
    if (BUG != 12) mbarrier_init_fence();
  }
  if (BUG != 5) __syncthreads();
  if (warp == 4) {
    if (lane != 0) return;
    mbarrier_arrive_expect_tx(&s_full[PLACES], 64 * 128);
    copy_bulk(s_a, a, 64 * 128, &s_full[PLACES]);
    for (u32 t = 0; t < T; ++t) {
      u32 place = t % PLACES, parity = t / PLACES % 2;
      if (BUG != 1) mbarrier_wait(&s_empty[place], BUG == 2 ? parity : parity ^ 1);
      mbarrier_arrive_expect_tx(&s_full[place], BUG == 3 ? TILE / 2 : BUG == 14 ? TILE * 2 : TILE);
      copy_bulk(s_b + place * TILE, b + t * TILE, TILE, &s_full[place]);
    }
    return;
  }
  float d[64];
  if (BUG != 13) mbarrier_wait(&s_full[PLACES], 0);
  for (u32 t = 0; t < T; ++t) {
    u32 place = BUG == 9 ? 0 : t % PLACES, parity = t / PLACES % 2;
    mbarrier_wait(&s_full[place], BUG == 7 ? 0 : BUG == 15 ? parity ^ 1 : parity);
    wgmma_fence(d);
    for (u32 k = 0; k < 4; ++k) {
      u32 step = k * (BUG == 6 ? 16 : 32);
      wgmma_bf16_64x128x16(d, wgmma_tile(s_a + step), wgmma_tile(s_b + place * TILE + step), BUG == 16 || k > 0);
    }
    if (BUG != 10) wgmma_commit();
    if (BUG == 4 && lane == 0) mbarrier_arrive(&s_empty[place]);
    if (BUG != 11) wgmma_wait<BUG == 17>(d);
    if (BUG != 4 && BUG != 18 && lane == 0 && (BUG != 8 || warp == 0)) mbarrier_arrive(&s_empty[place]);
    for (u32 i = 0; i < 64; ++i)
      y[(t * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
  }
}
