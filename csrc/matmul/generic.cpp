// matmul in plain C++ for any processor: 16-byte vectors, which every 64-bit instruction set of today has.
#include "matmul/target.h"

namespace pyhpc::matmul {
namespace {

struct Pairs {
  static Vector<uint32_t, 16> multiply_add(Vector<uint32_t, 16> sum, Vector<uint32_t, 16> a, Vector<uint32_t, 16> b) {
    using Signed = Vector<int32_t, 16>;
    const auto high = [](auto x) { return reinterpret_cast<Signed>(x) >> 16; };  // arithmetic: keeps the sign
    const auto product = [](Signed x, Signed y) { return reinterpret_cast<Vector<uint32_t, 16>>(x * y); };
    return sum + product(high(a << 16), high(b << 16)) + product(high(a), high(b));
  }
};

struct Target {
  // 8 sums, 2 vectors of b, 1 broadcast of a and its products: within 16 registers even without fused multiply-add.
  static constexpr int vector_bytes = 16, rows = 4, vectors = 2;
  using Int8 = Int8Pairs<Pairs, vector_bytes>;
  using BFloat16Format = Floating<float, BFloat16, vector_bytes>;
};

}  // namespace

extern const Variant generic;
const Variant generic = record<Target>("generic");

}  // namespace pyhpc::matmul
