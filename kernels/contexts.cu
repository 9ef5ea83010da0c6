// The contexts of events, out of those of all events.
//
//   out[r] = all[events[r] - back]
//
// Shapes       all (E,C)  events (R) u64, at least `back` each  out (R,C); any numbers of 4 bytes
// Defines      none
// Launch       256 threads, 1,024 numbers a block
// Traffic      every event and every number once
//   contexts_gather: reads at most 8 n + 4 n, writes 4 n
// Determinism  copies
#include "device.cuh"

KERNEL(256, contexts_gather)(u32* out, const u64* __restrict__ events, const u32* __restrict__ all, u64 n, u32 C, u32 back) {
#pragma unroll
  for (u32 k = 0; k < 4; ++k) {
    u64 at = (u64)blockIdx.x * 1024 + k * 256 + threadIdx.x;
    if (at < n) out[at] = all[(events[at / C] - back) * C + at % C];
  }
}
