// matmul for AVX-512 F, BW, DQ, VL. int8 is widened to int16 and multiplied in pairs by vpmaddwd.
#include <immintrin.h>

#include "matmul/target.h"

namespace pyhpc::matmul {
namespace {

struct Pairs {
  static Vector<uint32_t, 64> multiply_add(Vector<uint32_t, 64> sum, Vector<uint32_t, 64> a, Vector<uint32_t, 64> b) {
    return sum + reinterpret_cast<Vector<uint32_t, 64>>(
                     _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
};

struct Target {
  // 24 sums, 4 vectors of b, 1 broadcast of a: 29 of 32 registers. Of the tiles tried (8 x 3, 9 x 3, 12 x 2, 14 x 2, 5
  // x 5) none was faster: it has the fewest loads and instructions for each multiply-add but 5 x 5, and 64 columns
  // divide the usual sizes.
  static constexpr int vector_bytes = 64, rows = 6, vectors = 4;
  using Int8 = Int8Pairs<Pairs, vector_bytes>;
  using BFloat16Format = Floating<float, BFloat16, vector_bytes>;
};

}  // namespace

extern const Variant avx512;
const Variant avx512 = record<Target>("avx512");

}  // namespace pyhpc::matmul
