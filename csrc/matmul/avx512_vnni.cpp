// matmul for AVX-512 with VNNI: as avx512.cpp, with int8 multiplied four at a time by vpdpbusd.
#include "matmul/target.h"
#include "matmul/vnni.h"

namespace pyhpc::matmul {
namespace {

struct Target {
  // 24 sums, 4 vectors of b, 1 broadcast of a: 29 of 32 registers. Of the tiles tried (8 x 3, 9 x 3, 12 x 2, 14 x 2, 5
  // x 5) none was faster: it has the fewest loads and instructions for each multiply-add but 5 x 5, and 64 columns
  // divide the usual sizes.
  static constexpr int vector_bytes = 64, rows = 6, vectors = 4;
  using Int8 = Int8Quads<Quads, vector_bytes>;
  using BFloat16Format = Floating<float, BFloat16, vector_bytes>;
};

}  // namespace

extern const Variant avx512_vnni;
const Variant avx512_vnni = record<Target>("avx512_vnni");

}  // namespace pyhpc::matmul
