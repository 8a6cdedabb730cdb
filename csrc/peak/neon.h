// The loops of targets with NEON: 24 of 32 registers accumulate. int8 by sdot where the processor has it (asked at run
// time), else by smull and sadalp.
#pragma once
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "peak/dot.h"

namespace pyhpc::peak {
namespace {

typedef double float64x2 __attribute__((vector_size(16)));
typedef float float32x4 __attribute__((vector_size(16)));

struct Pairs {  // one sum lane takes a pair of the eight products
  using Sum = int32x4_t;
  static int8x8_t repeat(const int8_t (&pair)[2]) {
    return vreinterpret_s8_s16(vdup_n_s16(static_cast<int16_t>((pair[1] << 8) | (pair[0] & 0xff))));
  }
  static int8x8_t first() { return repeat(pair_first); }
  static int8x8_t second() { return repeat(pair_second); }
  static int32x4_t multiply_add(int32x4_t sum, int8x8_t a, int8x8_t b) { return vpadalq_s16(sum, vmull_s8(a, b)); }
};

struct Quads {  // two pairs: sdot multiplies signed bytes
  using Sum = int32x4_t;
  static int8x16_t repeat(const int8_t (&pair)[2]) {
    return vreinterpretq_s8_s16(vdupq_n_s16(static_cast<int16_t>((pair[1] << 8) | (pair[0] & 0xff))));
  }
  static int8x16_t first() { return repeat(pair_first); }
  static int8x16_t second() { return repeat(pair_second); }
  static int32x4_t multiply_add(int32x4_t sum, int8x16_t a, int8x16_t b) {
    __asm__(".arch_extension dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
    return sum;
  }
};

inline Loop int8() {
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return {dot_products<Quads, 24, 2 * pair_operations>, "sdot"};
  return {dot_products<Pairs, 12, pair_operations>, "smull + sadalp"};
}

constexpr Variant record(const char* name, Loop (*bytes)(), Loop bfloat16 = {}) {
  return {name, {float64_loop<float64x2, 24>, "fmla"}, {float32_loop<float32x4, 24>, "fmla"}, bytes, bfloat16};
}

}  // namespace
}  // namespace pyhpc::peak
