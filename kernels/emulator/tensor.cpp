// Matrices of the tensor cores: fragments are put together from all lanes, multiplied, and handed out again. Layouts as in
// the PTX manual, "Matrix fragments for mma.m16n8k16" and "mma.m16n8k8", and as kernels/device.cuh states them.

#include "inside.h"

namespace machine {

static float bf16_value(u32 bits) { return __builtin_bit_cast(float, bits << 16); }

void load_matrices(u32* r, u32 matrices, bool transposed, const void* row, const char* name, Site site) {
  struct Given { u32* r; const void* row; };
  Lane& lane = *current();
  Machine& m = *lane.machine;
  if (lane.number % LANES < matrices * 8) {
    u64 offset = (u64)row - (u64)m.shared;
    if (offset >= m.shared_used || offset + 16 > m.shared_used) fail(m, "%s (" AT "): a row is not in shared memory", name, AT_OF(site));
    if ((u64)row % 16) fail(m, "%s (" AT "): misaligned row", name, AT_OF(site));
    if (m.shadow) shadow_access(lane, row, 16, Access::read, __builtin_return_address(0));
  }
  Given a{r, row};
  together(~0u, name, site, a, [&](auto of) {
    for (u32 matrix = 0; matrix < matrices; ++matrix) {
      for (u32 l = 0; l < LANES; ++l) {
        u16 pair[2];
        for (u32 i = 0; i < 2; ++i) {
          u32 y = l / 4, x = l % 4 * 2 + i;
          if (transposed) { u32 t = x; x = y; y = t; }
          pair[i] = static_cast<const u16*>(of(matrix * 8 + y).row)[x];
        }
        of(l).r[matrix] = pair[0] | (u32)pair[1] << 16;
      }
    }
  });
}

struct Fragments {
  float* d;
  const u32* a;
  const u32* b;
};

void multiply_bf16(float* d, const u32* a, const u32* b, Site site) {
  Fragments mine{d, a, b};
  together(~0u, "mma_bf16_16x8x16", site, mine, [](auto of) {
    float left[16][16], right[16][8];
    for (u32 l = 0; l < LANES; ++l) {
      u32 g = l / 4, t = l % 4 * 2;
      for (u32 i = 0; i < 2; ++i) {
        auto half = [i](u32 word) { return bf16_value(i ? word >> 16 : word & 0xffff); };
        left[g][t + i] = half(of(l).a[0]);
        left[g + 8][t + i] = half(of(l).a[1]);
        left[g][t + 8 + i] = half(of(l).a[2]);
        left[g + 8][t + 8 + i] = half(of(l).a[3]);
        right[t + i][g] = half(of(l).b[0]);
        right[t + 8 + i][g] = half(of(l).b[1]);
      }
    }
    for (u32 l = 0; l < LANES; ++l) {
      for (u32 i = 0; i < 4; ++i) {
        u32 row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        float sum = of(l).d[i];
        for (u32 k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        of(l).d[i] = sum;
      }
    }
  });
}

void multiply_tf32(float* d, const u32* a, const u32* b, Site site) {
  Fragments mine{d, a, b};
  together(~0u, "mma_tf32_16x8x8", site, mine, [](auto of) {
    // The tensor core ignores the 13 low bits of an operand.
    auto value = [](u32 word) { return __builtin_bit_cast(float, word & 0xffffe000u); };
    float left[16][8], right[8][8];
    for (u32 l = 0; l < LANES; ++l) {
      u32 g = l / 4, t = l % 4;
      left[g][t] = value(of(l).a[0]);
      left[g + 8][t] = value(of(l).a[1]);
      left[g][t + 4] = value(of(l).a[2]);
      left[g + 8][t + 4] = value(of(l).a[3]);
      right[t][g] = value(of(l).b[0]);
      right[t + 4][g] = value(of(l).b[1]);
    }
    for (u32 l = 0; l < LANES; ++l) {
      for (u32 i = 0; i < 4; ++i) {
        u32 row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        float sum = of(l).d[i];
        for (u32 k = 0; k < 8; ++k) sum += left[row][k] * right[k][column];
        of(l).d[i] = sum;
      }
    }
  });
}

}  // namespace machine
