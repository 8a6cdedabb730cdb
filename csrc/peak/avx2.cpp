// AVX2 with FMA: 12 of 16 registers accumulate. int8 by vpmaddwd and vpaddd: vpmaddubsw would saturate.
#include <immintrin.h>

#include "peak/dot.h"

namespace pyhpc::peak {
namespace {

typedef double float64x4 __attribute__((vector_size(32)));
typedef float float32x8 __attribute__((vector_size(32)));

struct Pairs {
  using Sum = __m256i;
  static __m256i first() { return _mm256_set1_epi32((pair_first[1] << 16) | (pair_first[0] & 0xffff)); }
  static __m256i second() { return _mm256_set1_epi32((pair_second[1] << 16) | (pair_second[0] & 0xffff)); }
  static __m256i multiply_add(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
};

Loop int8() { return {dot_products<Pairs, 12, pair_operations>, "vpmaddwd ymm + vpaddd ymm"}; }

}  // namespace

extern const Variant avx2;
const Variant avx2 = {
    "avx2", {float64_loop<float64x4, 12>, "vfmadd ymm"}, {float32_loop<float32x8, 12>, "vfmadd ymm"}, int8};

}  // namespace pyhpc::peak
