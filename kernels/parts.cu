// A sum that was computed in parts by different blocks, put together in order.
//
//   out[x] += parts[0,x] + parts[1,x] + ...
//
// Shapes   out (n)  parts (splits,n)
// Launch   a thread per number, 256 to a block
// Traffic  4 n (splits + 2) bytes
//   parts_add: reads 4 n splits + 4 n, writes 4 n
// Determinism  first part to last
#include "device.cuh"

KERNEL(256, parts_add)(float* out, const float* parts, u64 n, u32 splits) {
  u64 x = (u64)blockIdx.x * 256 + threadIdx.x;
  if (x >= n) return;
  float sum = parts[x];
  for (u32 split = 1; split < splits; ++split) sum += parts[split * n + x];
  out[x] += sum;
}
