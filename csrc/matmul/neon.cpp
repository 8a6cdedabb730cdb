// matmul for Arm NEON (Armv8.2). int8 is widened to int16 and multiplied in pairs by smull and smull2, added pairwise.
#include <arm_neon.h>

#include "matmul/target.h"

namespace pyhpc::matmul {
namespace {

struct Pairs {
  static Vector<uint32_t, 16> multiply_add(Vector<uint32_t, 16> sum, Vector<uint32_t, 16> a, Vector<uint32_t, 16> b) {
    const int16x8_t x = reinterpret_cast<int16x8_t>(a), y = reinterpret_cast<int16x8_t>(b);
    const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
    return sum + reinterpret_cast<Vector<uint32_t, 16>>(vpaddq_s32(low, high));
  }
};

struct Target {
  // 24 sums, 3 vectors of b, 1 broadcast of a: 28 of 32 registers.
  static constexpr int vector_bytes = 16, rows = 8, vectors = 3;
  using Int8 = Int8Pairs<Pairs, vector_bytes>;
  using BFloat16Format = Floating<float, BFloat16, vector_bytes>;
};

}  // namespace

extern const Variant neon;
const Variant neon = record<Target>("neon");

}  // namespace pyhpc::matmul
