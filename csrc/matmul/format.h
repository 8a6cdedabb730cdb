// How the elements of a dtype become packed words, and what one step of the inner loop does with the words.
// Arithmetic, one per instruction:
//   Word, V                  word in a packed panel, vector of words
//   Sum, Sums                element of out, of a word's size, vector of them
//   multiply_add(sum, a, b)  sum + a b per lane
//   header                   whether a packed panel of b starts with a row of words, and what it holds
// Format, one per dtype:
//   Input, group             element in memory, consecutive k held by one word
//   across(p, lane_step, k_step, lanes, k_left)   words of neighbouring rows (of a) or columns (of b) at one k
//   along(p, k_step, k_left)                      words of one row or column at neighbouring k
//   interleaves<width>, interleave(p, k_step, to) whether and how `width` neighbouring lanes of a whole group of k are
//                                                 packed at once, faster than by `across`
//   paired, pair(p, count, first, second)         whether and how twice as many neighbouring elements are widened at
//                                                 once, those of even index into `first`, of odd index into `second`
//   Resized<bytes>                                the same with shorter vectors
//   Single                                        the format for few rows, which are bound by memory
// Integer words are unsigned, so that their sums wrap (modulo 2^32) instead of being undefined.
#pragma once
#include "matmul/vector.h"

namespace pyhpc::matmul {
namespace {

enum class Side { a, b };

// In front of a packed panel of b: nothing, what the sums start from, or in the first word whether its products have to
// be made by Format::Careful.
enum class Header { none, sums, mark };

template <class Word_, int bytes>
struct FloatingArithmetic {
  using Word = Word_;
  using V = Vector<Word, bytes>;
  using Sum = Word;
  using Sums = V;
  static constexpr Header header = Header::none;
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
  using Single = Floating;

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

// bfloat16 as it is, two k per word, for an instruction that adds both products to the float32 lane but takes subnormal
// operands for zero: Dots::multiply_add. By the bounds of the result they are not: products of a panel that holds such
// an element are made by Careful, from the same words.
template <class Dots, int bytes>
struct BFloat16Pairs {
  struct Arithmetic : Dots {
    using Word = uint32_t;
    using V = Vector<Word, bytes>;
    using Sum = float;
    using Sums = Vector<Sum, bytes>;
    static constexpr Header header = Header::mark;
  };
  using Input = BFloat16;
  using Word = uint32_t;
  using V = Vector<Word, bytes>;
  using Sums = Vector<float, bytes>;
  static constexpr int group = 2;
  static constexpr bool paired = false;
  template <int>
  static constexpr bool interleaves = false;
  template <int other>
  using Resized = BFloat16Pairs<Dots, other>;
  using Single = Floating<float, BFloat16, bytes>;

  struct Careful : Arithmetic {
    static Sums multiply_add(Sums sum, V a, V b) { return sum + upper(a) * upper(b) + lower(a) * lower(b); }

   private:
    static Sums upper(V words) { return reinterpret_cast<Sums>(words & 0xffff0000u); }
    static Sums lower(V words) { return reinterpret_cast<Sums>(words << 16); }
  };

  // Whether some of `count` words holds a subnormal number.
  static bool needs_care(const Word* words, int64_t count) {
    using Halves = Vector<uint16_t, bytes>;
    constexpr int lanes = bytes / sizeof(Word);
    Halves found = {};
    for (int64_t i = 0; i < count; i += lanes) {
      V some = {};
      memcpy(&some, words + i, sizeof(Word) * (count - i < lanes ? count - i : lanes));
      found |= reinterpret_cast<Halves>(((reinterpret_cast<Halves>(some) & 0x7fffu) - 1) < 0x7fu);
    }
    const auto any = reinterpret_cast<Vector<uint64_t, bytes>>(found);
    uint64_t all = 0;
    for (int i = 0; i < bytes / 8; ++i) all |= any[i];
    return all != 0;
  }

  template <Side>
  static V across(const Input* from, int64_t lane_step, int64_t k_step, int64_t count, int64_t k_left) {
    const V first = gather<Word, Input, bytes>(from, lane_step, count) >> 16;
    return k_left > 1 ? first | gather<Word, Input, bytes>(from + k_step, lane_step, count) : first;
  }
  template <Side>
  static V along(const Input* from, int64_t k_step, int64_t k_left) {
    return reinterpret_cast<V>(gather<uint16_t, Input, bytes>(from, k_step, k_left));
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
    static constexpr Header header = Header::none;
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
  using Single = Int8Pairs;

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
    static constexpr Header header = Header::sums;
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
  using Single = Int8Quads;
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
