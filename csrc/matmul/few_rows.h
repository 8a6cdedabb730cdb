// Few rows times a matrix, out[r, j] (+)= sum over p of a[r, p] b[p, j] for r < rows <= 4: bound by reading b once, so
// b is not packed.
//   columns near (stride 1): a few words of each column at a time flow past sums held in the first-level cache
//   k near (stride 1):       four columns at a time, each summed in vectors along k, reduced in a fixed order
// Each column has one owner and one order of summation, whatever the number of threads. Where the arithmetic shifts a
// (Int8Quads), what the shift adds is summed as one more row, whose elements are all the shift, and taken away at the
// end.
#pragma once
#include "matmul/blocked.h"

namespace pyhpc::matmul {
namespace {

template <class Tile>
struct FewRows {
  using Format = typename Tile::Format;
  using Arithmetic = typename Format::Arithmetic;
  using Input = typename Format::Input;
  using Word = typename Tile::Word;
  using V = typename Tile::V;
  static constexpr int64_t lanes = Tile::lanes, group = Format::group, most_rows = 4;
  static constexpr bool shifted = Arithmetic::header == Header::sums, paired = Format::paired;

  static bool takes(const Product<Tile>& product) {
    return product.m <= most_rows && product.k > 0 && (product.b.lane_step == 1 || product.b.k_step == 1);
  }

  static int64_t a_words(int64_t m, int64_t k) { return round_up(m * row_words(k), 1024); }

  // a as words along k, in the order in which those of b come; beyond k they are zero, like those of b.
  static void pack_a(const Product<Tile>& product, Word* words) {
    const int64_t row = row_words(product.k);
    for (int64_t r = 0; r < product.m; ++r, words += row) {
      for (int64_t u = 0; u < row; u += lanes) {
        const int64_t p = u * group;
        const V value = Format::template along<Side::a>(product.a.at(r, p).data, product.a.k_step, product.k - p);
        memcpy(words + u, &value, sizeof value);
      }
      if (paired && product.b.lane_step != 1)
        for (int64_t u = 0; u < row; u += 2 * lanes) split_pairs(words + u);
    }
  }

  static void run(const Product<Tile>& product, Team team, const Word* a) {
    const Range mine = part(product.n, 4 * lanes, team.rank, team.size);
    switch (product.m) {
      case 1:
        return rows<1>(product, mine, a);
      case 2:
        return rows<2>(product, mine, a);
      case 3:
        return rows<3>(product, mine, a);
      default:
        return rows<4>(product, mine, a);
    }
  }

 private:
  static int64_t row_words(int64_t k) { return round_up(ceil_div(k, group), 2 * lanes); }

  static void split_pairs(Word* words) {
    Word split[2 * lanes];
    for (int64_t i = 0; i < 2 * lanes; ++i) split[i % 2 * lanes + i / 2] = words[i];
    memcpy(words, split, sizeof split);
  }

  template <int m>
  static void rows(const Product<Tile>& product, Range mine, const Word* a) {
    // Columns whose sums are kept: about 16 KiB, with rows of b read 2 KiB and more at a time.
    constexpr int64_t chunk = m == 1 ? 2048 : 1024;
    if (product.b.lane_step == 1)
      for (int64_t j = mine.begin; j < mine.end; j += chunk)
        columns_near<m, chunk>(product, j, smaller(chunk, mine.end - j), a);
    else
      dots<m>(product, mine, a);
  }

  static void store(const Product<Tile>& product, int64_t r, int64_t j, Word sum) {
    Word& element = product.out[r * product.out_row + j * product.out_column];
    element = product.accumulate ? element + sum : sum;
  }

  template <int m, int64_t chunk>
  static void columns_near(const Product<Tile>& product, int64_t j0, int64_t count, const Word* a) {
    alignas(64) Word sums[m + shifted][chunk];
    for (auto& row : sums) memset(row, 0, sizeof(Word) * round_up(count, lanes));
    constexpr int depth = m == 1 ? 8 : 4;
    const int64_t units = ceil_div(product.k, group);
    int64_t u = 0;
    for (; (u + depth) * group <= product.k; u += depth) add_units<m, depth, chunk>(product, j0, count, u, a, sums);
    for (; u < units; ++u) add_units<m, 1, chunk>(product, j0, count, u, a, sums);
    for (int r = 0; r < m; ++r)
      for (int64_t j = 0; j < count; ++j)
        store(product, r, j0 + j, shifted ? sums[r][j] - sums[m][j] : sums[r][place(j, count)]);
  }

  // Where add_units keeps the sum of a column: pairs are split in every whole block of 2 * lanes columns.
  static int64_t place(int64_t j, int64_t count) {
    constexpr int64_t both = 2 * lanes;
    if (!paired || j >= count / both * both) return j;
    return j / both * both + j % 2 * lanes + j % both / 2;
  }

  // sums[r, j] += the products of `depth` words of each row and column, from word `u` on.
  template <int m, int depth, int64_t chunk>
  static void add_units(const Product<Tile>& product, int64_t j0, int64_t count, int64_t u, const Word* a,
                        Word (&sums)[m + shifted][chunk]) {
    const Input* from = product.b.at(j0, u * group).data;
    const int64_t k_left = product.k - u * group, unit_step = group * product.b.k_step;
    V factors[m + shifted][depth];
#pragma GCC unroll 5
    for (int r = 0; r < m + shifted; ++r)
#pragma GCC unroll 8
      for (int d = 0; d < depth; ++d) factors[r][d] = factor<m>(a + r * row_words(product.k) + u + d, r);
    int64_t j = 0;
    if constexpr (Format::template interleaves<Tile::columns>)
      for (; k_left >= group && j + Tile::columns <= count; j += Tile::columns) {
        alignas(64) Word words[depth][Tile::columns];
        for (int d = 0; d < depth; ++d)
          Format::template interleave<Side::b>(from + d * unit_step + j, product.b.k_step, words[d]);
        for (int64_t v = 0; v < Tile::columns; v += lanes) {
          V b[depth];
          for (int d = 0; d < depth; ++d) b[d] = load<V>(words[d] + v);
          add_vector<m, depth, chunk>(sums, j + v, factors, b);
        }
      }
    if constexpr (paired)
      for (; j + 2 * lanes <= count; j += 2 * lanes) {
        V even[depth], odd[depth];
#pragma GCC unroll 8
        for (int d = 0; d < depth; ++d) Format::pair(from + d * unit_step + j, 2 * lanes, even[d], odd[d]);
        add_vector<m, depth, chunk>(sums, j, factors, even);
        add_vector<m, depth, chunk>(sums, j + lanes, factors, odd);
      }
    for (; j < count; j += lanes) {
      V b[depth];
#pragma GCC unroll 8
      for (int d = 0; d < depth; ++d)
        b[d] = Format::template across<Side::b>(from + d * unit_step + j, 1, product.b.k_step, count - j,
                                                k_left - d * group);
      add_vector<m, depth, chunk>(sums, j, factors, b);
    }
  }

  template <int m>
  static V factor(const Word* a, int r) {
    if constexpr (shifted)
      if (r == m) return broadcast<V>(Format::shift);
    return broadcast<V>(*a);
  }

  template <int m, int depth, int64_t chunk>
  static void add_vector(Word (&sums)[m + shifted][chunk], int64_t j, const V (&factors)[m + shifted][depth],
                         const V (&b)[depth]) {
#pragma GCC unroll 5
    for (int r = 0; r < m + shifted; ++r) {
      V sum = load<V>(sums[r] + j);
#pragma GCC unroll 8
      for (int d = 0; d < depth; ++d) sum = Arithmetic::multiply_add(sum, factors[r][d], b[d]);
      memcpy(sums[r] + j, &sum, sizeof sum);
    }
  }

  // A few columns at a time, each in `vectors` vectors of sums, so that enough sums are under way.
  template <int m>
  static void dots(const Product<Tile>& product, Range mine, const Word* a) {
    constexpr int vectors = m == 1 || paired ? 2 : 1, width = m * vectors > 4 ? 2 : 4;
    int64_t j = mine.begin;
    for (; j + width <= mine.end; j += width) dot<m, width, vectors>(product, j, a);
    for (; j < mine.end; ++j) dot<m, 1, vectors>(product, j, a);
  }

  template <int m, int width, int vectors>
  static void dot(const Product<Tile>& product, int64_t j, const Word* a) {
    constexpr int64_t step = vectors * lanes * group;
    V sums[m + shifted][width][vectors] = {};
    const Source<Input> b = product.b.at(j, 0);
    const int64_t whole = product.k / step * step;
    for (int64_t p = 0; p < whole; p += step) add_words(product, b, p, step, a, sums);
    if (whole < product.k) add_words(product, b, whole, product.k - whole, a, sums);
    for (int r = 0; r < m; ++r)
      for (int c = 0; c < width; ++c)
        store(product, r, j + c, total(sums[r][c]) - (shifted ? total(sums[m + shifted - 1][c]) : 0));
  }

  template <int m, int width, int vectors>
  __attribute__((always_inline)) static inline void add_words(const Product<Tile>& product, const Source<Input>& b,
                                                              int64_t p, int64_t k_left, const Word* a,
                                                              V (&sums)[m][width][vectors]) {
    V rows[m][vectors];
#pragma GCC unroll 5
    for (int r = 0; r < m; ++r)
#pragma GCC unroll 2
      for (int s = 0; s < vectors; ++s)
        rows[r][s] = shifted && r == m - 1 ? factor<m - 1>(a, m - 1)
                                           : load<V>(a + r * row_words(product.k) + p / group + s * lanes);
#pragma GCC unroll 4
    for (int c = 0; c < width; ++c) {
      V column[vectors];
      const Input* from = b.at(c, p).data;
      if constexpr (paired)
        Format::pair(from, k_left, column[0], column[1]);
      else
#pragma GCC unroll 2
        for (int s = 0; s < vectors; ++s) {
          const int64_t skipped = s * lanes * group;
          column[s] = Format::template along<Side::b>(from + skipped, 1, k_left - skipped);
        }
#pragma GCC unroll 5
      for (int r = 0; r < m; ++r)
#pragma GCC unroll 2
        for (int s = 0; s < vectors; ++s)
          sums[r][c][s] = Arithmetic::multiply_add(sums[r][c][s], rows[r][s], column[s]);
    }
  }

  template <int vectors>
  static Word total(const V (&sums)[vectors]) {
    V all = sums[0];
    for (int s = 1; s < vectors; ++s) all += sums[s];
    Word sum = all[0];
    for (int lane = 1; lane < lanes; ++lane) sum += all[lane];
    return sum;
  }
};

}  // namespace
}  // namespace pyhpc::matmul
