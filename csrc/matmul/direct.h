// Small products without packing: a and b are read where they lie, which costs nothing while both stay in the first
// levels of cache. Only the last columns that fill no vector are copied, padded, beside a.
#pragma once
#include "matmul/blocked.h"

namespace pyhpc::matmul {
namespace {

template <class Tile>
struct Direct {
  using Format = typename Tile::Format;
  using Word = typename Tile::Word;
  static constexpr bool possible = std::is_same_v<typename Format::Input, Word>;
  using Kernel = Micro<typename Format::Arithmetic, Tile::max_rows, Tile::columns / Tile::lanes, true>;
  static constexpr int64_t rows = Tile::max_rows, columns = Tile::columns, lanes = Tile::lanes;

  // One block of k, so that the order of summation is that of the packed product; a and b each within the first level:
  // beyond, rows a power of two apart would displace each other.
  static bool takes(const Product<Tile>& product, int64_t k_block) {
    const int64_t l1 = cache_sizes().l1d ? cache_sizes().l1d : 32 << 10, most = l1 / sizeof(Word);
    return possible && product.a.k_step == 1 && product.b.lane_step == 1 && product.out_column == 1 &&
           product.k <= k_block && product.m * product.k <= most && product.n * product.k <= most;
  }

  static int64_t space_words(int64_t k) { return round_up(k * lanes, 1024); }

  static void run(const Product<Tile>& product, Word* space) {
    if constexpr (possible) {
      const int64_t whole = product.n / lanes * lanes;
      for (int64_t j = 0; j < whole; j += columns)
        for (int64_t i = 0; i < product.m; i += rows)
          Kernel::run(smaller(rows, product.m - i), smaller(columns, whole - j) / lanes,
                      panels(product, i, product.b.at(j, 0).data, product.b.k_step), at(product, i, j), product.out_row,
                      product.accumulate ? Store::add : Store::replace);
      if (whole < product.n) last_columns(product, whole, space);
    }
  }

 private:
  static Panels<Word> panels(const Product<Tile>& product, int64_t i, const Word* b, int64_t b_unit) {
    return {product.k, product.a.at(i, 0).data, b, nullptr, 0, product.a.lane_step, b_unit};
  }

  static Word* at(const Product<Tile>& product, int64_t i, int64_t j) { return product.out + i * product.out_row + j; }

  static void last_columns(const Product<Tile>& product, int64_t j, Word* space) {
    const int64_t count = product.n - j;
    Packer<Format, lanes, Side::b>::panel(product.b.at(j, 0), count, product.k, space);
    alignas(64) Word tile[rows * lanes];
    for (int64_t i = 0; i < product.m; i += rows) {
      const int64_t height = smaller(rows, product.m - i);
      Kernel::run(height, 1, panels(product, i, space, lanes), tile, lanes, Store::replace);
      for (int64_t r = 0; r < height; ++r)
        for (int64_t c = 0; c < count; ++c) {
          Word& element = *at(product, i + r, j + c);
          element = product.accumulate ? element + tile[r * lanes + c] : tile[r * lanes + c];
        }
    }
  }
};

}  // namespace
}  // namespace pyhpc::matmul
