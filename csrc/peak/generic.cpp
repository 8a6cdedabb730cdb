// The instruction set every processor of the architecture has: 128-bit vectors, 12 of 16 registers accumulate. int8 by
// pmaddwd and paddd on x86-64, elsewhere by 32-bit multiply-adds (x ← x·3 + 3; x ← x·3⁻¹ + 3 modulo 2^32 adds 4 too).
#include "peak/dot.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace pyhpc::peak {
namespace {

typedef double float64x2 __attribute__((vector_size(16)));
typedef float float32x4 __attribute__((vector_size(16)));

#if defined(__SSE2__)
struct Pairs {
  using Sum = __m128i;
  static __m128i first() { return _mm_set1_epi32((pair_first[1] << 16) | (pair_first[0] & 0xffff)); }
  static __m128i second() { return _mm_set1_epi32((pair_second[1] << 16) | (pair_second[0] & 0xffff)); }
  static __m128i multiply_add(__m128i sum, __m128i a, __m128i b) { return _mm_add_epi32(sum, _mm_madd_epi16(a, b)); }
};

Loop int8() { return {dot_products<Pairs, 12, pair_operations>, "pmaddwd xmm + paddd xmm"}; }
#else
typedef uint32_t uint32x4 __attribute__((vector_size(16)));

int64_t integers(int64_t blocks) { return multiply_add<uint32x4, uint32_t, 12>(blocks, 0xaaaaaaabu); }

Loop int8() { return {integers, "32-bit multiply and add"}; }
#endif

}  // namespace

extern const Variant generic;
const Variant generic = {"generic",
                         {float64_loop<float64x2, 12>, "128-bit multiply and add"},
                         {float32_loop<float32x4, 12>, "128-bit multiply and add"},
                         int8};

}  // namespace pyhpc::peak
