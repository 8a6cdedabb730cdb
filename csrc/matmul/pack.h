// Packing: a panel of `width` rows of a (or columns of b) becomes consecutive words in the order the micro-kernel
// reads,
//   packed[u * width + i] = word of row i at k = u * group ...,   u < units = ceil(k / group)
// Missing rows are zero; they only reach parts of a tile that are never stored. k is padded inside an integer word
// only, never for floating point, where 0 * Inf would be NaN.
#pragma once
#include "matmul/format.h"

namespace pyhpc::matmul {
namespace {

inline int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }
inline int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
inline int64_t round_up(int64_t x, int64_t y) { return ceil_div(x, y) * y; }

struct Range {
  int64_t begin, end;
};

// Where a packed operand comes from: element (lane, k) is at data[lane * lane_step + k * k_step].
template <class Input>
struct Source {
  const Input* data;
  int64_t lane_step, k_step;
  Source at(int64_t lane, int64_t k) const { return {data + lane * lane_step + k * k_step, lane_step, k_step}; }

  // Whether neighbouring lanes are at least as near each other in memory as neighbouring k.
  bool lanes_near() const { return magnitude(lane_step) <= magnitude(k_step); }

 private:
  static int64_t magnitude(int64_t step) { return step < 0 ? -step : step; }
};

// The bytes of the shortest vector that holds `width` words, and of the longest that `width` words fill; at most
// `most`.
constexpr int holding_bytes(int width, int word_bytes, int most) {
  int bytes = most;
  while (bytes / 2 >= width * word_bytes) bytes /= 2;
  return bytes;
}
constexpr int filled_bytes(int width, int word_bytes, int most) {
  int bytes = most;
  while (bytes > width * word_bytes) bytes /= 2;
  return bytes;
}

template <class Whole, int width, Side side>
struct Packer {
  using Word = typename Whole::Arithmetic::Word;
  static constexpr int most = sizeof(typename Whole::V), most_lanes = most / sizeof(Word);
  static constexpr int64_t most_k = most_lanes * Whole::group;
  using Format = typename Whole::template Resized<holding_bytes(width, sizeof(Word), most)>;
  using Filled = typename Whole::template Resized<filled_bytes(width, sizeof(Word), most)>;
  using V = typename Format::V;
  using From = Source<typename Format::Input>;
  static constexpr int lanes = sizeof(V) / sizeof(Word);

  static void panel(From from, int64_t count, int64_t k, Word* packed) {
    if (from.lanes_near())
      by_rows(from, count, k, packed);
    else
      by_blocks(from, count, k, packed);
  }

 private:
  // Lanes are near each other in memory: a row of the panel at a time.
  static void by_rows(From from, int64_t count, int64_t k, Word* packed) {
    for (int64_t p = 0; p < k; p += Format::group, packed += width) {
      const auto* row = from.data + p * from.k_step;
      if constexpr (Whole::template interleaves<width>)
        if (from.lane_step == 1 && count >= width && k - p >= Format::group) {
          Whole::template interleave<side>(row, from.k_step, packed);
          continue;
        }
      if (count >= width)
        whole_row(row, from, k - p, packed);
      else
        for (int i = 0; i < width; i += lanes)
          put(packed, i,
              Format::template across<side>(row + i * from.lane_step, from.lane_step, from.k_step, count - i, k - p));
    }
  }

  // The last vector ends with the row; where they do not divide it, it overlaps the one before.
  static void whole_row(const typename Format::Input* row, From from, int64_t k_left, Word* packed) {
    constexpr int filled = sizeof(typename Filled::V) / sizeof(Word);
#pragma GCC unroll 8
    for (int i = 0; i < width; i += filled) {
      const int at = i + filled <= width ? i : width - filled;
      const auto words =
          Filled::template across<side>(row + at * from.lane_step, from.lane_step, from.k_step, filled, k_left);
      memcpy(packed + at, &words, sizeof words);
    }
  }

  // k is near: lanes x lanes words at a time, transposed in registers.
  static void by_blocks(From from, int64_t count, int64_t k, Word* packed) {
    // With AVX-512, whose shuffles take any words of two vectors, six rows fill whole vectors in half the instructions.
    if constexpr (width == 6 && most == 64)
      for (; count == width && k >= most_k; k -= most_k, from = from.at(0, most_k), packed += most_lanes * width) {
        typename Whole::V rows[width];
#pragma GCC unroll 6
        for (int i = 0; i < width; ++i) rows[i] = Whole::template along<side>(from.at(i, 0).data, from.k_step, most_k);
        columns_of_six<typename Whole::V, Index, most_lanes>(rows, packed);
      }
    constexpr int step = lanes * Format::group;
    for (int64_t p = 0; p < k; p += step, packed += lanes * width) {
      const int64_t units = smaller(lanes, ceil_div(k - p, Format::group));
#pragma GCC unroll 4
      for (int i = 0; i < width; i += lanes) {
        V block[lanes];
#pragma GCC unroll 16
        for (int lane = 0; lane < lanes; ++lane)
          block[lane] = i + lane < width && i + lane < count
                            ? Format::template along<side>(from.at(i + lane, p).data, from.k_step, k - p)
                            : V{};
        transpose<V, Index>(block);
        if (units == lanes) {
#pragma GCC unroll 16
          for (int u = 0; u < lanes; ++u) put(packed + u * width, i, block[u]);
        } else {
          for (int64_t u = 0; u < units; ++u) put(packed + u * width, i, block[u]);
        }
      }
    }
  }

  using Index = std::conditional_t<sizeof(Word) == 8, int64_t, int32_t>;

  // The words of `value` that belong to the panel.
  static void put(Word* row, int i, V value) {
    if (width - i >= lanes)
      memcpy(row + i, &value, sizeof value);
    else
      memcpy(row + i, &value, sizeof(Word) * (width % lanes));
  }
};

}  // namespace
}  // namespace pyhpc::matmul
