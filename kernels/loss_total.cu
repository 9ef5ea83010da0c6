// The sum of the rows' losses, in f64 and in an order that the number of rows alone decides.
//
//   total = sum over r of losses[r]
//
// Shapes   losses (R)  total (1)
// Launch   one block of 256 threads
// Traffic  4 R bytes
//   loss_total: reads 4 R, writes 8
// Determinism  thread t adds rows t, t + 256, ...; threads are added in pairs
#include "device.cuh"

KERNEL(256, loss_total)(double* total, const float* losses, u32 R) {
  SHARED(double, s_sum, [256]);
  double sum = 0.0;
  for (u32 r = threadIdx.x; r < R; r += 256) sum += losses[r];
  s_sum[threadIdx.x] = sum;
  for (int step = 128; step > 0; step /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < step) s_sum[threadIdx.x] += s_sum[threadIdx.x + step];
  }
  if (threadIdx.x == 0) total[0] = s_sum[0];
}
