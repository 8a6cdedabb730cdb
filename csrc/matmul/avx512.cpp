// matmul for AVX-512 F, BW, DQ, VL. int8 is widened to int16 and multiplied in pairs by vpmaddwd.
#include <immintrin.h>

#include "matmul/run.h"

namespace pyhpc::matmul {
namespace {

struct Pairs {
  static Vector<uint32_t, 64> multiply_add(Vector<uint32_t, 64> sum, Vector<uint32_t, 64> a, Vector<uint32_t, 64> b) {
    return sum + reinterpret_cast<Vector<uint32_t, 64>>(
                     _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
};

struct Target {
  // 28 sums, 2 vectors of b, 1 broadcast of a: 31 of 32 registers.
  static constexpr int vector_bytes = 64, rows = 14, vectors = 2;
  using Int8 = Int8Pairs<Pairs, vector_bytes>;
};

}  // namespace

extern const Variant avx512;
const Variant avx512 = {"avx512", run<Target>};

}  // namespace pyhpc::matmul
