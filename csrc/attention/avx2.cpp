// AVX2 with FMA and F16C. 4 × 3 tiles: 12 of the 16 registers accumulate, 3 hold queries, 1 the broadcast key.
#include <immintrin.h>

#include "attention/run.h"

namespace pyhpc::attention {
namespace {

struct Avx2 : Simd<8> {
  static constexpr int tile = 4, query_vectors = 3;
  using Simd::load;
  using Simd::store;
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec load(const Float16* from) { return _mm256_cvtph_ps(read<__m128i>(from)); }
  static void store(Float16* to, Vec x) {
    const __m128i half = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    __builtin_memcpy(to, &half, sizeof half);
  }
};

}  // namespace

extern const Variant avx2;
const Variant avx2 = {"avx2", run<Avx2>, backward<Avx2>};

}  // namespace pyhpc::attention
