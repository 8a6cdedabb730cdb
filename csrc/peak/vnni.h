// The loops of targets with AVX-512 VNNI: int8 by vpdpbusd, floating point as AVX-512.
#pragma once
#include <immintrin.h>

#include "peak/dot.h"

namespace pyhpc::peak {
namespace {

typedef double float64x8 __attribute__((vector_size(64)));
typedef float float32x16 __attribute__((vector_size(64)));

struct Quads {
  using Sum = __m512i;
  static __m512i broadcast(const void* bytes) {
    int word;
    __builtin_memcpy(&word, bytes, sizeof word);
    return _mm512_set1_epi32(word);
  }
  static __m512i first() { return broadcast(quad_first); }
  static __m512i second() { return broadcast(quad_second); }
  static __m512i multiply_add(__m512i sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); }
};

Loop int8() { return {dot_products<Quads, 24, quad_operations>, "vpdpbusd zmm"}; }

constexpr Variant record(const char* name, Loop bfloat16 = {}) {
  return {
      name, {float64_loop<float64x8, 24>, "vfmadd zmm"}, {float32_loop<float32x16, 24>, "vfmadd zmm"}, int8, bfloat16};
}

}  // namespace
}  // namespace pyhpc::peak
