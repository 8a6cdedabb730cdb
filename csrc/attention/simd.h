// A vector of `lanes` floats and the operations the loops need, written once with the compiler's vector types; a target
// file derives from Simd and replaces what its instruction set does better. Included by target files only.
#pragma once
#include <stdint.h>

#include <utility>

namespace pyhpc::attention {
namespace {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Spelled out per width: GCC takes no vector type whose size is a template argument.
template <int count>
struct VectorTypes;
#define PYHPC_VECTOR_TYPES(count)                                  \
  template <>                                                      \
  struct VectorTypes<count> {                                      \
    typedef float Vec __attribute__((vector_size(count * 4)));     \
    typedef int32_t Int __attribute__((vector_size(count * 4)));   \
    typedef uint32_t Bits __attribute__((vector_size(count * 4))); \
    typedef uint16_t Half __attribute__((vector_size(count * 2))); \
  }
PYHPC_VECTOR_TYPES(4);
PYHPC_VECTOR_TYPES(8);
PYHPC_VECTOR_TYPES(16);
#undef PYHPC_VECTOR_TYPES

template <int count>
struct Simd : VectorTypes<count> {
  static constexpr int lanes = count;
  using Vec = typename VectorTypes<count>::Vec;
  using Int = typename VectorTypes<count>::Int;
  using Bits = typename VectorTypes<count>::Bits;
  using Half = typename VectorTypes<count>::Half;
  using Lanes = std::make_integer_sequence<int, count>;

  template <class To, class From>
  static To copy(const From& from) {  // the same bytes, any alignment
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
  }
  template <class To>
  static To read(const void* from) {
    To to;
    __builtin_memcpy(&to, from, sizeof to);
    return to;
  }

  static Vec splat(float x) { return x - Vec{}; }
  static Vec load(const float* from) { return read<Vec>(from); }
  static void store(float* to, Vec x) { __builtin_memcpy(to, &x, sizeof x); }
  static Vec max(Vec a, Vec b) { return a > b ? a : b; }

  // What a lane holds in a product: one element, or as many neighbouring ones as an instruction multiplies at once.
  static constexpr int terms = 1;
  static Vec multiply_add(Vec sum, Vec a, Vec b) { return sum + a * b; }
  static Vec word(const Vec (&elements)[1]) { return elements[0]; }
  template <int term>
  static Vec element(Vec word) {
    return word;
  }

  static Vec load(const Bfloat16* from) { return copy<Vec>(__builtin_convertvector(read<Half>(from), Bits) << 16); }
  static void store(Bfloat16* to, Vec x) {
    const Half half = __builtin_convertvector(bfloat16_bits(x), Half);
    __builtin_memcpy(to, &half, sizeof half);
  }
  // To nearest even; the carry may run into the exponent, as it should. NaN stays NaN.
  static Bits bfloat16_bits(Vec x) {
    const Bits bits = copy<Bits>(x);
    return x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : (bits >> 16) | 0x40;
  }

  // Shifting a half's exponent and mantissa into a float's place scales it by 2^-112, subnormals included.
  static Vec load(const Float16* from) {
    const Bits half = __builtin_convertvector(read<Half>(from), Bits), magnitude = half & 0x7fff;
    const Bits finite = copy<Bits>(copy<Vec>(magnitude << 13) * 0x1p112f);
    const Bits bits = magnitude >= 0x7c00 ? (magnitude << 13) | 0x7f800000 : finite;
    return copy<Vec>(bits | (half & 0x8000) << 16);
  }
  static void store(Float16* to, Vec x) {
    for (int i = 0; i < lanes; ++i) to[i].bits = half_bits(x[i]);
  }
  static uint16_t half_bits(float x) {
    const uint32_t bits = copy<uint32_t>(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above round to infinity
    // Below 2^-14 the ulp is fixed: adding 0.5 rounds at 2^-24 in float arithmetic.
    if (magnitude < 0x38800000)
      return static_cast<uint16_t>(sign | (copy<uint32_t>(copy<float>(magnitude) + 0.5f) - 0x3f000000));
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
  }

  // 2^f for |f| ≤ 1/2: minimax polynomial of degree 5 with value 1 at 0, so that an unchanged maximum rescales by 1
  // exactly. Relative error 1.7e-7 with fused, 1.9e-7 with separate rounding (on a dense grid); stated as
  // 2^-22.
  static Vec exp2_fraction(Vec f) {
    Vec p = splat(0x1.5bba0ep-10f);
    p = p * f + 0x1.3cea88p-7f;
    p = p * f + 0x1.c6b752p-5f;
    p = p * f + 0x1.ebf9bcp-3f;
    p = p * f + 0x1.62e42ap-1f;
    return p * f + 1.0f;
  }
  // 2^x for x ≤ 0; 0 below 2^-126; NaN stays NaN. Adding 1.5·2^23 rounds to an integer held in the low bits.
  static Vec exp2(Vec x) {
    constexpr float magic = 0x1.8p23f;
    const Vec clamped = x < -127.0f ? splat(-127.0f) : x;
    const Vec shifted = clamped + magic;
    const Bits power = (copy<Bits>(shifted) + 127) << 23;  // exponent −127 gives the bits of 0
    return exp2_fraction(clamped - (shifted - magic)) * copy<Vec>(power);
  }

  // The lanes of a and b in turn: the first half of them, and the second.
  static Vec interleave_low(Vec a, Vec b) { return interleave(a, b, 0, Lanes{}); }
  static Vec interleave_high(Vec a, Vec b) { return interleave(a, b, 1, Lanes{}); }
  template <int... lane>
  static inline __attribute__((always_inline)) Vec interleave(Vec a, Vec b, int high,
                                                              std::integer_sequence<int, lane...>) {
#if defined(__clang__)
    return high ? __builtin_shufflevector(a, b, (count / 2 + lane / 2 + lane % 2 * count)...)
                : __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * count)...);
#else
    return high ? __builtin_shuffle(a, b, Int{(count / 2 + lane / 2 + lane % 2 * count)...})
                : __builtin_shuffle(a, b, Int{(lane / 2 + lane % 2 * count)...});
#endif
  }

  // Lane i: lane i + by, around the end.
  template <int by>
  static Vec rotate(Vec x) {
    return rotate<by>(x, Lanes{});
  }
  template <int by, int... lane>
  static Vec rotate(Vec x, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, x, ((lane + by) % count)...);
#else
    return __builtin_shuffle(x, Int{((lane + by) % count)...});
#endif
  }

  // Lane i: the sum of x[i]'s lanes. A tree of interleavings, unrolled by recursion so that all stay in registers.
  template <int size>
  static inline __attribute__((always_inline)) Vec sum_each(const Vec (&x)[size]) {
    if constexpr (size == 1) {
      return x[0];
    } else {
      Vec sums[size / 2];
#pragma GCC unroll 8
      for (int i = 0; i < size / 2; ++i)
        sums[i] = interleave_low(x[i], x[i + size / 2]) + interleave_high(x[i], x[i + size / 2]);
      return sum_each(sums);
    }
  }

  // x[i][j] ↔ x[j][i]: log2(lanes) perfect shuffles.
  static inline __attribute__((always_inline)) void transpose(Vec (&x)[count]) {
#pragma GCC unroll 4
    for (int step = 1; step < count; step *= 2) {
      Vec y[count];
#pragma GCC unroll 16
      for (int i = 0; i < count / 2; ++i) {
        y[2 * i] = interleave_low(x[i], x[i + count / 2]);
        y[2 * i + 1] = interleave_high(x[i], x[i + count / 2]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) x[i] = y[i];
    }
  }
};

}  // namespace
}  // namespace pyhpc::attention
