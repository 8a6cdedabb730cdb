// AVX-512: 24 of 32 registers accumulate. int8 by vpmaddwd and vpaddd.
#include <immintrin.h>

#include "peak/dot.h"

namespace pyhpc::peak {
namespace {

typedef double float64x8 __attribute__((vector_size(64)));
typedef float float32x16 __attribute__((vector_size(64)));

struct Pairs {
  using Sum = __m512i;
  static __m512i first() { return _mm512_set1_epi32((pair_first[1] << 16) | (pair_first[0] & 0xffff)); }
  static __m512i second() { return _mm512_set1_epi32((pair_second[1] << 16) | (pair_second[0] & 0xffff)); }
  static __m512i multiply_add(__m512i sum, __m512i a, __m512i b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
  }
};

Loop int8() { return {dot_products<Pairs, 12, pair_operations>, "vpmaddwd zmm + vpaddd zmm"}; }

}  // namespace

extern const Variant avx512;
const Variant avx512 = {
    "avx512", {float64_loop<float64x8, 24>, "vfmadd zmm"}, {float32_loop<float32x16, 24>, "vfmadd zmm"}, int8};

}  // namespace pyhpc::peak
