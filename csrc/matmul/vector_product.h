// One row times a matrix, out[j] (+)= sum over p of a[p] b[p, j]: bound by reading b once, so nothing is packed.
//   columns near (stride 1): eight rows of b at a time flow past sums held in the first-level cache
//   k near (stride 1):       four columns at a time, each summed in two vectors along k, reduced in a fixed order
// Each column has one owner and one order of summation, whatever the number of threads.
#pragma once
#include "matmul/blocked.h"

namespace pyhpc::matmul {
namespace {

template <class Tile, int bytes>
struct VectorProduct {
  using Input = typename Tile::Format::Input;
  using Word = typename Tile::Word;
  using V = typename Tile::V;
  static constexpr int lanes = Tile::lanes;
  static constexpr int64_t chunk =
      2048;  // columns whose sums are kept: at most 16 KiB, with rows read 4 KiB and more at a time

  static bool takes(const Product<Tile>& product) {
    return product.m == 1 && product.k > 0 && (product.b.lane_step == 1 || product.b.k_step == 1);
  }

  // a as words, near each other; `words` has room for k rounded up to lanes.
  static void widen(const Product<Tile>& product, Word* words) {
    for (int64_t p = 0; p < product.k; p += lanes)
      put(words + p, row(product.a.data + p * product.a.k_step, product.a.k_step, product.k - p), product.k - p);
  }

  static void run(const Product<Tile>& product, Team team, const Word* a) {
    const Range mine = part(product.n, 4 * lanes, team.rank, team.size);
    if (product.b.lane_step == 1)
      for (int64_t j = mine.begin; j < mine.end; j += chunk) columns_near(product, j, smaller(chunk, mine.end - j), a);
    else
      for (int64_t j = mine.begin; j < mine.end; j += 4) k_near(product, j, smaller(4, mine.end - j), a);
  }

 private:
  static V row(const Input* from, int64_t step, int64_t count) { return gather<Word, Input, bytes>(from, step, count); }

  static void put(Word* to, V value, int64_t count) { memcpy(to, &value, sizeof(Word) * smaller(lanes, count)); }

  static void store(const Product<Tile>& product, int64_t j, Word sum) {
    Word& element = product.out[j * product.out_column];
    element = product.accumulate ? element + sum : sum;
  }

  static void columns_near(const Product<Tile>& product, int64_t j0, int64_t count, const Word* a) {
    alignas(64) Word sums[chunk];
    memset(sums, 0, sizeof(Word) * round_up(count, lanes));
    int64_t p = 0;
    for (; p + 8 <= product.k; p += 8) add_rows<8>(product, j0, count, p, a, sums);
    for (; p < product.k; ++p) add_rows<1>(product, j0, count, p, a, sums);
    for (int64_t j = 0; j < count; ++j) store(product, j0 + j, sums[j]);
  }

  // sums[j] += a[p] b[p, j0 + j] + ... for `rows` rows of b.
  template <int rows>
  static void add_rows(const Product<Tile>& product, int64_t j0, int64_t count, int64_t p, const Word* a, Word* sums) {
    const Input* from = product.b.at(j0, p).data;
    for (int64_t j = 0; j < count; j += lanes) {
      V sum = load<V>(sums + j);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) sum += broadcast<V>(a[p + r]) * row(from + r * product.b.k_step + j, 1, count - j);
      memcpy(sums + j, &sum, sizeof sum);
    }
  }

  static void k_near(const Product<Tile>& product, int64_t j0, int64_t count, const Word* a) {
    if (count == 4)
      dot<4>(product, j0, a);
    else
      for (int64_t j = j0; j < j0 + count; ++j) dot<1>(product, j, a);
  }

  template <int width>
  static void dot(const Product<Tile>& product, int64_t j, const Word* a) {
    V sums[width][2] = {};
    const Input* from = product.b.at(j, 0).data;
    const int64_t next = product.b.lane_step;
    int64_t p = 0;
    for (; p + 2 * lanes <= product.k; p += 2 * lanes)
#pragma GCC unroll 4
      for (int c = 0; c < width; ++c) {
        sums[c][0] += load<V>(a + p) * row(from + c * next + p, 1, lanes);
        sums[c][1] += load<V>(a + p + lanes) * row(from + c * next + p + lanes, 1, lanes);
      }
    // The rest beyond k must not be multiplied: 0 * Inf is NaN.
    for (; p < product.k; ++p)
      for (int c = 0; c < width; ++c) sums[c][0][0] += a[p] * row(from + c * next + p, 1, 1)[0];
    for (int c = 0; c < width; ++c) {
      const V both = sums[c][0] + sums[c][1];
      Word sum = both[0];
      for (int lane = 1; lane < lanes; ++lane) sum += both[lane];
      store(product, j + c, sum);
    }
  }
};

}  // namespace
}  // namespace pyhpc::matmul
