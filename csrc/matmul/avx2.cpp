// matmul for AVX2 with FMA. int8 is widened to int16 and multiplied in pairs by vpmaddwd.
#include <immintrin.h>

#include "matmul/target.h"

namespace pyhpc::matmul {
namespace {

struct Pairs {
  static Vector<uint32_t, 32> multiply_add(Vector<uint32_t, 32> sum, Vector<uint32_t, 32> a, Vector<uint32_t, 32> b) {
    return sum + reinterpret_cast<Vector<uint32_t, 32>>(
                     _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  }
};

struct Target {
  // 12 sums, 2 vectors of b, 1 broadcast of a: 15 of 16 registers.
  static constexpr int vector_bytes = 32, rows = 6, vectors = 2;
  using Int8 = Int8Pairs<Pairs, vector_bytes>;
  using BFloat16Format = Floating<float, BFloat16, vector_bytes>;
};

}  // namespace

extern const Variant avx2;
const Variant avx2 = record<Target>("avx2");

}  // namespace pyhpc::matmul
