// Attention for AVX-512 with BF16: bfloat16 multiplied two at a time by vdpbf16ps, in pairs of columns (Q K^T) and of
// keys (P V, weights rounded to bfloat16; their sum is of the unrounded ones, so that lse keeps its accuracy). Few rows
// are bound by memory, and the gradients are float32's: both, and the other types, are those of avx512.cpp. Status:
// compiled; run with the instruction replaced by a model of it alone
// (tests/native/test_attention.py).
#include "attention/avx512.h"

namespace pyhpc::attention {

extern const Variant avx512;

namespace {

struct Avx512Pairs : Avx512 {
  static constexpr int terms = 2;
  // All bits as they are: a pair is no number.
  static Vec splat(float x) { return _mm512_set1_ps(x); }
  // Two fused multiply-adds, each rounded to nearest even, with subnormal operands and results taken for zero (Intel
  // 64 and IA-32 Architectures Software Developer's Manual, volume 2, VDPBF16PS).
  static Vec multiply_add(Vec sum, Vec a, Vec b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  // Rounded to nearest.
  static Vec word(const Vec (&elements)[2]) {
    const Bits low = copy<Bits>(elements[0]) + 0x8000, high = copy<Bits>(elements[1]) + 0x8000;
    return copy<Vec>(low >> 16 | (high & 0xffff0000));
  }
  template <int term>
  static Vec element(Vec word) {
    return copy<Vec>(term ? copy<Bits>(word) & 0xffff0000 : copy<Bits>(word) << 16);
  }
};

bool run_pairs(const Problem& p) {
  return p.dtype == DType::bfloat16 && p.rows() > few_rows ? run_blocks<Avx512Pairs, Bfloat16>(p) : avx512.run(p);
}
bool backward_floats(const BackwardProblem& p) { return avx512.backward(p); }

}  // namespace

extern const Variant avx512_bf16;
const Variant avx512_bf16 = {"avx512_bf16", run_pairs, backward_floats};

}  // namespace pyhpc::attention
