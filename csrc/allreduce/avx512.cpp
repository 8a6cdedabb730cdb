// AVX-512: a vector is a cache line. float16 by vcvtph2ps and vcvtps2ph, half a vector at a time.
// GCC 12 takes its own header's undefined placeholder registers for a mistake (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "allreduce/loops.h"

namespace pyhpc::allreduce {
namespace {

struct Target {
  static constexpr int bytes = 64;
  using Raw = Vector<uint32_t, bytes>;
  static void stream(void* to, Raw value) {
    _mm512_stream_si512(static_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
  }
  static void fence() { _mm_sfence(); }
  // By way of the stack each would wait until the bytes stored there can be loaded as a vector.
  static __mmask64 mask(int64_t bytes) { return ~__mmask64{0} >> (64 - bytes); }  // of 1 … 64
  static Raw load_part(const char* from, int64_t bytes) {
    return reinterpret_cast<Raw>(_mm512_maskz_loadu_epi8(mask(bytes), from));
  }
  static void store_part(char* to, Raw value, int64_t bytes) {
    _mm512_mask_storeu_epi8(to, mask(bytes), reinterpret_cast<__m512i>(value));
  }

  template <class Combine, int half>
  static __m256i float16_half(__m512i a, __m512i b) {
    const __m512 wide = Combine::apply(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(a, half)),
                                       _mm512_cvtph_ps(_mm512_extracti64x4_epi64(b, half)));
    return _mm512_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  template <class Combine>
  static Raw float16(Raw first, Raw second) {
    const __m512i a = reinterpret_cast<__m512i>(first), b = reinterpret_cast<__m512i>(second);
    const __m512i low = _mm512_castsi256_si512(float16_half<Combine, 0>(a, b));
    return reinterpret_cast<Raw>(_mm512_inserti64x4(low, float16_half<Combine, 1>(a, b), 1));
  }
};

}  // namespace

extern const Variant avx512;
const Variant avx512 = {"avx512", Loops<Target>::reduce, Copy<Target>::run};

}  // namespace pyhpc::allreduce
