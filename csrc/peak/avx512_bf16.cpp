// AVX-512 with VNNI and BF16: bfloat16 by vdpbf16ps.
// Status: compiled; run with the instruction replaced by a model of it alone
// (tests/native/test_matmul_bfloat16_emulated.py).
#include "peak/vnni.h"

namespace pyhpc::peak {
namespace {

struct Dots {
  using Sum = __m512;
  // The pairs of dot.h are numbers that bfloat16 holds: the upper half of float32.
  static __m512bh pair(const int8_t (&numbers)[2]) {
    const float low = numbers[0], high = numbers[1];
    uint32_t bits[2];
    __builtin_memcpy(&bits[0], &low, sizeof low);
    __builtin_memcpy(&bits[1], &high, sizeof high);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>((bits[1] & 0xffff0000u) | bits[0] >> 16)));
  }
  static __m512bh first() { return pair(pair_first); }
  static __m512bh second() { return pair(pair_second); }
  static __m512 multiply_add(__m512 sum, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(sum, a, b); }
};

}  // namespace

extern const Variant avx512_bf16;
const Variant avx512_bf16 = record("avx512_bf16", {dot_products<Dots, 24, pair_operations, float>, "vdpbf16ps zmm"});

}  // namespace pyhpc::peak
