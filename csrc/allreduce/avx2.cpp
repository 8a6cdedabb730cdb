// AVX2. float16 by vcvtph2ps and vcvtps2ph (F16C), half a vector at a time.
#include <immintrin.h>

#include "allreduce/loops.h"

namespace pyhpc::allreduce {
namespace {

struct Target : Padded<Vector<uint32_t, 32>> {
  static constexpr int bytes = 32;
  using Raw = Vector<uint32_t, bytes>;
  static void stream(void* to, Raw value) {
    _mm256_stream_si256(static_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
  }
  static void fence() { _mm_sfence(); }

  template <class Combine, int half>
  static __m128i float16_half(__m256i a, __m256i b) {
    const __m256 wide = Combine::apply(_mm256_cvtph_ps(_mm256_extracti128_si256(a, half)),
                                       _mm256_cvtph_ps(_mm256_extracti128_si256(b, half)));
    return _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  template <class Combine>
  static Raw float16(Raw first, Raw second) {
    const __m256i a = reinterpret_cast<__m256i>(first), b = reinterpret_cast<__m256i>(second);
    return reinterpret_cast<Raw>(_mm256_set_m128i(float16_half<Combine, 1>(a, b), float16_half<Combine, 0>(a, b)));
  }
};

}  // namespace

extern const Variant avx2;
const Variant avx2 = {"avx2", Loops<Target>::reduce, Copy<Target>::run};

}  // namespace pyhpc::allreduce
