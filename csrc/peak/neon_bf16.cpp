// NEON with BF16 and I8MM: bfloat16 by bfmmla and int8 by smmla, 2 x 2 blocks of sums of four and of eight products.
// Status: compiled; run under qemu alone (tests/native/test_matmul_emulated.py).
#include "peak/neon.h"

namespace pyhpc::peak {
namespace {

struct BFloat16Blocks {  // two pairs for each sum
  using Sum = float32x4_t;
  // The pairs of dot.h are numbers that bfloat16 holds: the upper half of float32.
  static bfloat16x8_t repeat(const int8_t (&pair)[2]) {
    return vreinterpretq_bf16_u32(vdupq_n_u32(upper_half(pair[1]) << 16 | upper_half(pair[0])));
  }
  static bfloat16x8_t first() { return repeat(pair_first); }
  static bfloat16x8_t second() { return repeat(pair_second); }
  static float32x4_t multiply_add(float32x4_t sum, bfloat16x8_t a, bfloat16x8_t b) { return vbfmmlaq_f32(sum, a, b); }

 private:
  static uint32_t upper_half(float number) {
    uint32_t bits;
    __builtin_memcpy(&bits, &number, sizeof bits);
    return bits >> 16;
  }
};

struct ByteBlocks : Quads {  // four pairs
  static int32x4_t multiply_add(int32x4_t sum, int8x16_t a, int8x16_t b) { return vmmlaq_s32(sum, a, b); }
};

Loop int8_blocks() { return {dot_products<ByteBlocks, 24, 4 * pair_operations>, "smmla"}; }

}  // namespace

extern const Variant neon_bf16;
const Variant neon_bf16 =
    record("neon_bf16", int8_blocks, {dot_products<BFloat16Blocks, 24, 2 * pair_operations, float>, "bfmmla"});

}  // namespace pyhpc::peak
