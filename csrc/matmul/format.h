// How the elements of a dtype become packed words, and what one step of the inner loop does with the words.
// Arithmetic, one per instruction:
//   Word, V                  word in a packed panel, vector of words
//   Sum, Sums                element of out, of a word's size, vector of them
//   multiply_add(sum, a, b)  sum + a b per lane
//   header                   whether a packed panel of b starts with a row of words that the sums start from
// Format, one per dtype:
//   Input, group             element in memory, consecutive k held by one word
//   across(p, lane_step, k_step, lanes, k_left)   words of neighbouring rows (of a) or columns (of b) at one k
//   along(p, k_step, k_left)                      words of one row or column at neighbouring k
//   interleaves<width>, interleave(p, k_step, to) whether and how `width` neighbouring lanes of a whole group of k are
//                                                 packed at once, faster than by `across`
//   paired, pair(p, count, first, second)         whether and how twice as many neighbouring elements are widened at
//                                                 once, those of even index into `first`, of odd index into `second`
//   Resized<bytes>                                the same with shorter vectors
// Integer words are unsigned, so that their sums wrap (modulo 2^32) instead of being undefined.
#pragma once
#include "matmul/vector.h"

namespace pyhpc::matmul {
namespace {

enum class Side { a, b };

template <class Word_, int bytes>
struct FloatingArithmetic {
  using Word = Word_;
  using V = Vector<Word, bytes>;
  using Sum = Word;
  using Sums = V;
  static constexpr bool header = false;
  static V multiply_add(V sum, V a, V b) { return sum + a * b; }
};

// Floating point: one element per word, widened exactly.
template <class Word, class Input_, int bytes>
struct Floating {
  using Arithmetic = FloatingArithmetic<Word, bytes>;
  using Input = Input_;
  using V = typename Arithmetic::V;
  static constexpr int group = 1;
  static constexpr bool paired = std::is_same_v<Input, BFloat16>;
  template <int>
  static constexpr bool interleaves = false;
  template <int other>
  using Resized = Floating<Word, Input, other>;

  template <Side>
  static V across(const Input* from, int64_t lane_step, int64_t, int64_t count, int64_t) {
    return gather<Word, Input, bytes>(from, lane_step, count);
  }
  template <Side>
  static V along(const Input* from, int64_t k_step, int64_t k_left) {
    return gather<Word, Input, bytes>(from, k_step, k_left);
  }
  static void pair(const Input* from, int64_t count, V& first, V& second) {
    constexpr int both = 2 * bytes / sizeof(Word);
    Input near[both] = {};
    for (int i = 0; count < both && i < count; ++i) near[i] = from[i];
    const auto bits = load<Vector<uint32_t, bytes>>(count < both ? near : from);
    first = reinterpret_cast<V>(bits << 16);
    second = reinterpret_cast<V>(bits & 0xffff0000u);
  }
};

// int8 widened to int16, two k per word. Pairs::multiply_add(sum, a, b) adds both products to the int32 lane.
template <class Pairs, int bytes>
struct Int8Pairs {
  struct Arithmetic : Pairs {
    using Word = uint32_t;
    using V = Vector<Word, bytes>;
    using Sum = Word;
    using Sums = V;
    static constexpr bool header = false;
  };
  using Input = int8_t;
  using Word = uint32_t;
  using V = Vector<Word, bytes>;
  static constexpr int group = 2;
  static constexpr bool paired = false;
  template <int>
  static constexpr bool interleaves = false;
  template <int other>
  using Resized = Int8Pairs<Pairs, other>;

  template <Side>
  static V across(const Input* from, int64_t lane_step, int64_t k_step, int64_t count, int64_t k_left) {
    const V first = gather<Word, Input, bytes>(from, lane_step, count);
    const V second = k_left > 1 ? gather<Word, Input, bytes>(from + k_step, lane_step, count) : V{};
    return (first & 0xffffu) | (second << 16);
  }
  template <Side>
  static V along(const Input* from, int64_t k_step, int64_t k_left) {
    return reinterpret_cast<V>(gather<int16_t, Input, bytes>(from, k_step, k_left));
  }
};

// int8 as it is, four k per word, for an instruction that multiplies unsigned (a) by signed (b) bytes:
// Quads::multiply_add. a is shifted to unsigned, a + 128, and the panel of b starts with the sums' correction, -128 sum
// over k of b.
template <class Quads, int bytes>
struct Int8Quads {
  struct Arithmetic : Quads {
    using Word = uint32_t;
    using V = Vector<Word, bytes>;
    using Sum = Word;
    using Sums = V;
    static constexpr bool header = true;
  };
  using Input = int8_t;
  using Word = uint32_t;
  using V = Vector<Word, bytes>;
  static constexpr int group = 4;
  static constexpr bool paired = false;
  template <int width>
  static constexpr bool interleaves = width == bytes;
  template <int other>
  using Resized = Int8Quads<Quads, other>;
  static constexpr Word shift = 0x80808080u;  // flips the top bit of each byte: adds 128 modulo 256

  template <Side side>
  static V across(const Input* from, int64_t lane_step, int64_t k_step, int64_t count, int64_t k_left) {
    V words = {};
    for (int i = 0; i < group && i < k_left; ++i)
      words |= (gather<Word, Input, bytes>(from + i * k_step, lane_step, count) & 0xffu) << (8 * i);
    return side == Side::a ? words ^ shift : words;
  }
  template <Side side>
  static V along(const Input* from, int64_t k_step, int64_t k_left) {
    const V words = reinterpret_cast<V>(gather<int8_t, Input, bytes>(from, k_step, k_left));
    return side == Side::a ? words ^ shift : words;
  }
  template <Side side>
  static void interleave(const Input* from, int64_t k_step, Word* to) {
    V rows[group];
    for (int i = 0; i < group; ++i) rows[i] = load<V>(from + i * k_step);
    ByteInterleaving<bytes>::run(rows);
    for (int i = 0; i < group; ++i) {
      const V words = side == Side::a ? rows[i] ^ shift : rows[i];
      memcpy(to + i * (bytes / sizeof(Word)), &words, sizeof words);
    }
  }
};

}  // namespace
}  // namespace pyhpc::matmul
