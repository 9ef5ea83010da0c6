// Matrices of the tensor cores: fragments are put together from all lanes, multiplied, and handed out again. Layouts as in
// the PTX manual, "Matrix fragments for mma.m16n8k16" and "mma.m16n8k8", and as kernels/device.cuh states them.

#include "inside.h"

namespace machine {

static float bf16_value(u32 bits) { return __builtin_bit_cast(float, bits << 16); }

void load_matrices(u32* r, u32 matrices, bool transposed, const void* row, const char* name, Site line) {
  const Spot site{line, CALLER};
  struct Given { u32* r; const void* row; };
  Lane& lane = *current();
  Machine& m = *lane.machine;
  if (lane.number % LANES < matrices * 8) {
    u64 offset = (u64)row - (u64)m.shared;
    if (offset >= m.shared_used || offset + 16 > m.shared_used) fail(m, "%s (" AT "): a row is not in shared memory", name, AT_OF(site));
    if ((u64)row % 16) fail(m, "%s (" AT "): misaligned row", name, AT_OF(site));
    if (m.shadow) shadow_access(lane, row, 16, Access::read, CALLER);
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

// Four neighbours of a row, which every processor multiplies at once; compilers do not find that by themselves here.
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

// D += A B once the operands are put together; `of` gives each lane's fragments. Products are added one by one in f32, or cut.
template <u32 K, class Of> static void accumulate(Of of, const float (&left)[16][K], const float (&right)[K][8], bool cut) {
  float sum[16][8];
  for (u32 l = 0; l < LANES; ++l) {
    for (u32 i = 0; i < 4; ++i) sum[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2] = of(l).d[i];
  }
  for (u32 row = 0; row < 16; ++row) {
    if (cut) {
      for (u32 column = 0; column < 8; ++column) {
        for (u32 k = 0; k < K; k += K / 2) sum[row][column] = cut_sum<K / 2>(sum[row][column], &left[row][k], &right[k][column], 8);
      }
      continue;
    }
    Four* d = reinterpret_cast<Four*>(sum[row]);
    Four low = d[0], high = d[1];
    for (u32 k = 0; k < K; ++k) {
      const Four* b = reinterpret_cast<const Four*>(right[k]);
      low += left[row][k] * b[0];
      high += left[row][k] * b[1];
    }
    d[0] = low;
    d[1] = high;
  }
  for (u32 l = 0; l < LANES; ++l) {
    for (u32 i = 0; i < 4; ++i) of(l).d[i] = sum[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
  }
}

void multiply_bf16(float* d, const u32* a, const u32* b, bool cut, Site line) {
  const Spot site{line, CALLER};
  Fragments mine{d, a, b};
  together(~0u, "mma_bf16_16x8x16", site, mine, [cut](auto of) {
    float left[16][16], right[16][8];
    for (u32 l = 0; l < LANES; ++l) {
      const Fragments& f = of(l);
      u32 g = l / 4, t = l % 4 * 2;
      for (u32 i = 0; i < 2; ++i) {
        auto half = [i](u32 word) { return bf16_value(i ? word >> 16 : word & 0xffff); };
        left[g][t + i] = half(f.a[0]);
        left[g + 8][t + i] = half(f.a[1]);
        left[g][t + 8 + i] = half(f.a[2]);
        left[g + 8][t + 8 + i] = half(f.a[3]);
        right[t + i][g] = half(f.b[0]);
        right[t + 8 + i][g] = half(f.b[1]);
      }
    }
    accumulate<16>(of, left, right, cut);
  });
}

void multiply_tf32(float* d, const u32* a, const u32* b, bool cut, Site line) {
  const Spot site{line, CALLER};
  Fragments mine{d, a, b};
  together(~0u, "mma_tf32_16x8x8", site, mine, [cut](auto of) {
    // The tensor core ignores the 13 low bits of an operand.
    auto value = [](u32 word) { return __builtin_bit_cast(float, word & 0xffffe000u); };
    float left[16][8], right[8][8];
    for (u32 l = 0; l < LANES; ++l) {
      const Fragments& f = of(l);
      u32 g = l / 4, t = l % 4;
      left[g][t] = value(f.a[0]);
      left[g + 8][t] = value(f.a[1]);
      left[g][t + 4] = value(f.a[2]);
      left[g + 8][t + 4] = value(f.a[3]);
      right[t][g] = value(f.b[0]);
      right[t + 4][g] = value(f.b[1]);
    }
    accumulate<8>(of, left, right, cut);
  });
}

}  // namespace machine
