// The vector of AVX-512 (F, BW, DQ, VL) with F16C. 6 × 4 tiles: 24 of the 32 registers accumulate, 4 hold queries, and
// 10 loads feed 24 multiply-adds.
#pragma once
#include <immintrin.h>

#include "attention/run.h"

namespace pyhpc::attention {
namespace {

struct Avx512 : Simd<16> {
  static constexpr int tile = 6, query_vectors = 4;
  using Simd::load;
  using Simd::store;
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  // vreduceps leaves the fraction around the nearest integer (0 of −inf), vscalefps multiplies by the power, down to 0.
  static Vec exp2(Vec x) {
    const Vec fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT);
    return _mm512_scalef_ps(exp2_fraction(fraction), x - fraction);
  }
  static Vec load(const Bfloat16* from) {
    return copy<Vec>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(read<__m256i>(from)), 16));
  }
  static Vec load(const Float16* from) { return _mm512_cvtph_ps(read<__m256i>(from)); }
  static void store(Float16* to, Vec x) {
    const __m256i half = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(to, &half, sizeof half);
  }

  // As Simd's, by shuffles of one cycle: pairs, then pairs of pairs inside the quarters, then the quarters.
  static inline __attribute__((always_inline)) Vec sum_each(const Vec (&x)[16]) {
    Vec quads[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512d a = _mm512_castps_pd(sum_pairs(x[4 * i], x[4 * i + 1]));
      const __m512d b = _mm512_castps_pd(sum_pairs(x[4 * i + 2], x[4 * i + 3]));
      quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)) + _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
    const Vec low = sum_quarters<0x44, 0xee>(quads[0], quads[1]), high = sum_quarters<0x44, 0xee>(quads[2], quads[3]);
    return sum_quarters<0x88, 0xdd>(low, high);
  }
  static Vec sum_pairs(Vec a, Vec b) { return _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b); }
  template <int some, int others>
  static Vec sum_quarters(Vec a, Vec b) {
    return _mm512_shuffle_f32x4(a, b, some) + _mm512_shuffle_f32x4(a, b, others);
  }
};

}  // namespace
}  // namespace pyhpc::attention
