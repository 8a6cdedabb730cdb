// Vectors of `bytes` bytes in the compiler's vector extension: one source for SSE, AVX2, AVX-512 and NEON. Also the
// ways inputs enter them: widened to the word type the arithmetic uses, and transposed in registers. Included by target
// files only, so everything has internal linkage.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <utility>

namespace pyhpc::matmul {
namespace {

template <class T, int bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};
template <class T, int bytes>
using Vector = typename VectorOf<T, bytes>::type;

template <class V, class T>
inline V load(const T* from) {
  V value;
  memcpy(&value, from, sizeof value);
#if defined(__x86_64__) && defined(__GNUC__)
  // GCC 12 copies 16 small elements through general registers, and then widens them one by one.
  if constexpr (sizeof(V) == 16 && sizeof(value[0]) == 1) asm("" : "+x"(value));
#endif
  return value;
}

// Past the caches, in the order that `stream_fence` makes; `to` is aligned to the vector. An ordinary store where the
// compiler has no such instruction for the width.
template <class V, class T>
inline void stream(T* to, V value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64)
    return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32)
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
#endif
  memcpy(to, &value, sizeof value);
}

inline void stream_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

template <class V, class T>
inline V broadcast(T value) {
  return value - V{};  // not value + 0, which would turn -0 into +0
}

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// `lanes` inputs in memory order, exactly, as words of the arithmetic.
template <class Word, class Input, int bytes>
struct Widen {
  static constexpr int lanes = bytes / sizeof(Word);
  using V = Vector<Word, bytes>;
  using Bits = Vector<uint32_t, bytes>;

  static V words(const Input* from) {
    if constexpr (sizeof(Input) == sizeof(Word)) {
      return load<V>(from);
    } else if constexpr (sizeof(Input) == 1) {
      return __builtin_convertvector(load<Vector<int8_t, lanes>>(from), V);
    } else {
      const Bits half = __builtin_convertvector(load<Vector<uint16_t, 2 * lanes>>(from), Bits);
      return widen(half, Input{});
    }
  }

 private:
  static V widen(Bits half, BFloat16) { return reinterpret_cast<V>(half << 16); }

  static V widen(Bits half, Float16) {
    const Bits sign = (half & 0x8000u) << 16, magnitude = (half & 0x7fffu) << 13;
    const Bits normal = magnitude + (112u << 23), special = magnitude | 0x7f800000u;
    using Signed = Vector<int32_t, bytes>;
    const V subnormal = __builtin_convertvector(reinterpret_cast<Signed>(half & 0x3ffu), V) * 0x1p-24f;
    const Bits is_special = reinterpret_cast<Bits>(magnitude >= (0x7c00u << 13));
    const Bits is_subnormal = reinterpret_cast<Bits>(magnitude < (0x0400u << 13));
    const Bits ordinary = (is_special & special) | (~is_special & normal);
    return reinterpret_cast<V>(sign | (is_subnormal & reinterpret_cast<Bits>(subnormal)) | (~is_subnormal & ordinary));
  }
};

// Where the processor has an instruction for it.
#if defined(__AVX512F__)
template <>
inline Vector<float, 64> Widen<float, Float16, 64>::words(const Float16* from) {
  return reinterpret_cast<Vector<float, 64>>(_mm512_cvtph_ps(load<__m256i>(from)));
}
#endif
#if defined(__F16C__)
template <>
inline Vector<float, 32> Widen<float, Float16, 32>::words(const Float16* from) {
  return reinterpret_cast<Vector<float, 32>>(_mm256_cvtph_ps(load<__m128i>(from)));
}
template <>
inline Vector<float, 16> Widen<float, Float16, 16>::words(const Float16* from) {
  return reinterpret_cast<Vector<float, 16>>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
#elif defined(__aarch64__)
template <>
inline Vector<float, 16> Widen<float, Float16, 16>::words(const Float16* from) {
  return reinterpret_cast<Vector<float, 16>>(vcvt_f32_f16(load<float16x4_t>(from)));
}
#endif

// The first `count` of `lanes` inputs, `step` apart; the lanes beyond are zero and their memory is not read.
template <class Word, class Input, int bytes>
inline Vector<Word, bytes> gather(const Input* from, int64_t step, int64_t count) {
  using Wide = Widen<Word, Input, bytes>;
  if (step == 1 && count >= Wide::lanes) return Wide::words(from);
  Input near[Wide::lanes] = {};
  for (int i = 0; i < Wide::lanes && i < count; ++i) near[i] = from[i * step];
  return Wide::words(near);
}

template <class Mask, class V, int... i>
inline V shuffled(V x, V y, std::integer_sequence<int, i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, i...);
#else
  return __builtin_shuffle(x, y, Mask{i...});
#endif
}

template <class V, class Mask, int lanes, int first, int... i>
inline V interleave_half(V x, V y, std::integer_sequence<int, i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, ((i + first) / 2 + (i % 2) * lanes)...);
#else
  return __builtin_shuffle(x, y, Mask{((i + first) / 2 + (i % 2) * lanes)...});
#endif
}

// Transposes a lanes x lanes block held in `rows`: log2(lanes) rounds of interleaving row i with row i + lanes / 2.
template <class V, class Index, int lanes>
inline void transpose(V (&rows)[lanes]) {
  typedef Index Mask __attribute__((vector_size(sizeof(V))));
  constexpr auto order = std::make_integer_sequence<int, lanes>{};
#pragma GCC unroll 8
  for (int round = 1; round < lanes; round *= 2) {
    V next[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave_half<V, Mask, lanes, 0>(rows[i], rows[i + lanes / 2], order);
      next[2 * i + 1] = interleave_half<V, Mask, lanes, lanes>(rows[i], rows[i + lanes / 2], order);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

// Word `l` of vector `part` of three vectors of pairs dealt out in turn, a b c a b c …: from which of them it comes,
// and from where in it.
constexpr int turn_of(int part, int lanes, int l) { return (part * lanes + l) / 2 % 3; }
constexpr int place_of(int part, int lanes, int l) { return (part * lanes + l) / 6 * 2 + l % 2; }

template <int part, class Mask, class V, int... l>
inline V deal_pairs(V a, V b, V c, std::integer_sequence<int, l...>) {
  constexpr int lanes = sizeof...(l);
  using FromTwo = std::integer_sequence<int, (turn_of(part, lanes, l) % 2 * lanes + place_of(part, lanes, l))...>;
  using FromThird =
      std::integer_sequence<int, (turn_of(part, lanes, l) == 2 ? lanes + place_of(part, lanes, l) : l)...>;
  return shuffled<Mask>(shuffled<Mask>(a, b, FromTwo{}), c, FromThird{});
}

// Six rows of a vector each, as columns of six words one after the other: 18 shuffles of two vectors.
template <class V, class Index, int lanes, class Word>
inline void columns_of_six(const V (&rows)[6], Word* to) {
  typedef Index Mask __attribute__((vector_size(sizeof(V))));
  constexpr auto order = std::make_integer_sequence<int, lanes>{};
  const auto half = [&](auto first, Word* out) {
    V pairs[3];
    for (int i = 0; i < 3; ++i)
      pairs[i] = interleave_half<V, Mask, lanes, decltype(first)::value>(rows[2 * i], rows[2 * i + 1], order);
    const V dealt[3] = {deal_pairs<0, Mask>(pairs[0], pairs[1], pairs[2], order),
                        deal_pairs<1, Mask>(pairs[0], pairs[1], pairs[2], order),
                        deal_pairs<2, Mask>(pairs[0], pairs[1], pairs[2], order)};
    memcpy(out, dealt, sizeof dealt);
  };
  half(std::integral_constant<int, 0>{}, to);
  half(std::integral_constant<int, lanes>{}, to + 3 * lanes);
}

// Four rows of `bytes` bytes become four rows of 32-bit words, each with the four bytes of one column, columns in
// order. Interleaving works within 16-byte lanes only, so the 4-byte pieces of each row are first dealt out to the
// lanes.
template <int bytes>
struct ByteInterleaving {
  using Words = Vector<uint32_t, bytes>;
  using Halves = Vector<uint16_t, bytes>;
  using Bytes = Vector<uint8_t, bytes>;

  static void run(Words (&rows)[4]) {
    constexpr auto words = std::make_integer_sequence<int, bytes / 4>{};
    for (Words& row : rows) row = dealt(row, words);
    const Bytes low01 = merge<Bytes, 0>(rows[0], rows[1]), high01 = merge<Bytes, 1>(rows[0], rows[1]);
    const Bytes low23 = merge<Bytes, 0>(rows[2], rows[3]), high23 = merge<Bytes, 1>(rows[2], rows[3]);
    rows[0] = reinterpret_cast<Words>(merge<Halves, 0>(low01, low23));
    rows[1] = reinterpret_cast<Words>(merge<Halves, 1>(low01, low23));
    rows[2] = reinterpret_cast<Words>(merge<Halves, 0>(high01, high23));
    rows[3] = reinterpret_cast<Words>(merge<Halves, 1>(high01, high23));
  }

 private:
  static constexpr int lanes = bytes / 16;

  template <int... i>
  static Words dealt(Words row, std::integer_sequence<int, i...>) {
    return shuffled<Words>(row, row, std::integer_sequence<int, (i % 4 * lanes + i / 4)...>{});
  }

  // The lower (half 0) or upper (half 1) elements of each 16-byte lane of x and y in turn.
  template <class E, int half, class V>
  static E merge(V x, V y) {
    return merged<E, half>(reinterpret_cast<E>(x), reinterpret_cast<E>(y),
                           std::make_integer_sequence<int, static_cast<int>(sizeof(E) / sizeof(E{}[0]))>{});
  }
  template <class E, int half, int... i>
  static E merged(E x, E y, std::integer_sequence<int, i...>) {
    constexpr int count = sizeof...(i), lane = count / lanes;
    return shuffled<E>(
        x, y, std::integer_sequence<int, (i / lane * lane + half * (lane / 2) + i % lane / 2 + i % 2 * count)...>{});
  }
};

}  // namespace
}  // namespace pyhpc::matmul
