// matmul for Arm NEON with BF16 and I8MM (Armv8.6, or 8.2 with both): as neon.cpp, with bfloat16 multiplied two at a
// time by bfdot and int8 four at a time by usdot. bfmmla, twice as fast on some cores, sums 2 x 2 blocks of four k, for
// which the loops have no panels. Status: compiled; run under qemu alone (tests/native/test_matmul_emulated.py).
#include <arm_neon.h>

#include "matmul/target.h"

namespace pyhpc::matmul {
namespace {

struct Dots {
  // sum + (x + y), both additions rounded to odd, subnormal operands and results taken for zero (Arm Architecture
  // Reference Manual for A-profile, BFDOT with FPCR.EBF = 0, as processes start). An addition errs by less than 2 u,
  // twice as much as one to nearest, but a product passes one for each pair and its own pair's, less the first, which
  // is added to 0: k / 2 of them for even k, so that (1 + 2 u)^(k / 2) <= (1 + u)^k. Odd k count as k + 1
  // (matmul_problem.py). What is flushed is below the smallest normal number: both products of a pair or, if at most
  // one of them, at most one sum beside it.
  static Vector<float, 16> multiply_add(Vector<float, 16> sum, Vector<uint32_t, 16> a, Vector<uint32_t, 16> b) {
    return reinterpret_cast<Vector<float, 16>>(vbfdotq_f32(
        reinterpret_cast<float32x4_t>(sum), reinterpret_cast<bfloat16x8_t>(a), reinterpret_cast<bfloat16x8_t>(b)));
  }
};

struct Quads {
  // a's bytes are unsigned, b's signed; the four products are added without saturation.
  static Vector<uint32_t, 16> multiply_add(Vector<uint32_t, 16> sum, Vector<uint32_t, 16> a, Vector<uint32_t, 16> b) {
    return reinterpret_cast<Vector<uint32_t, 16>>(
        vusdotq_s32(reinterpret_cast<int32x4_t>(sum), reinterpret_cast<uint8x16_t>(a), reinterpret_cast<int8x16_t>(b)));
  }
};

struct Target {
  // The tile of neon.cpp.
  static constexpr int vector_bytes = 16, rows = 8, vectors = 3;
  using Int8 = Int8Quads<Quads, vector_bytes>;
  using BFloat16Format = BFloat16Pairs<Dots, vector_bytes>;
};

}  // namespace

extern const Variant neon_bf16;
const Variant neon_bf16 = record<Target>("neon_bf16");

}  // namespace pyhpc::matmul
