// matmul for AVX-512 with VNNI and BF16: as avx512_vnni.cpp, with bfloat16 multiplied two at a time by vdpbf16ps.
// Status: compiled; run with the instruction replaced by a model of it alone
// (tests/native/test_matmul_bfloat16_emulated.py).
#include "matmul/target.h"
#include "matmul/vnni.h"

namespace pyhpc::matmul {
namespace {

struct Dots {
  // Two fused multiply-adds, each rounded to nearest even, with subnormal operands and results taken for zero (Intel
  // 64 and IA-32 Architectures Software Developer's Manual, volume 2, VDPBF16PS).
  static Vector<float, 64> multiply_add(Vector<float, 64> sum, Vector<uint32_t, 64> a, Vector<uint32_t, 64> b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

struct Target {
  // The tile of avx512_vnni.cpp: 24 sums in flight cover the instruction's latency of 6 cycles twice a cycle.
  static constexpr int vector_bytes = 64, rows = 6, vectors = 4;
  using Int8 = Int8Quads<Quads, vector_bytes>;
  using BFloat16Format = BFloat16Pairs<Dots, vector_bytes>;
};

}  // namespace

extern const Variant avx512_bf16;
const Variant avx512_bf16 = record<Target>("avx512_bf16");

}  // namespace pyhpc::matmul
