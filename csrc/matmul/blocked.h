// The five loops around the micro-kernel (Van Zee and van de Geijn, BLIS, ACM TOMS 41(3), 2015), written once:
//   for columns of n in blocks: for k in blocks: pack b (one copy for the team)
//     for my rows of m in blocks: pack a (my own copy)
//       for my panels of b: for panels of a: tile
// Block sizes follow from the cache sizes (Low et al., "Analytical modeling is enough for high-performance BLIS", ACM
// TOMS 43(2), 2016): a panel of a stays in half of the first level, the block of a in half of the second, the block of
// b in a share of the third; for few rows of a, b's block is smaller and stays in the second, and each thread of a team
// packs and multiplies columns of its own. Else a team splits each block of columns as a grid, so an element of out has
// one owner, and its sum has one order: k block after k block, each in ascending k, whatever the team.
#pragma once
#include <type_traits>

#include "core/machine.h"
#include "core/team.h"
#include "matmul/block_sums.h"
#include "matmul/matmul.h"
#include "matmul/tile.h"

namespace pyhpc::matmul {
namespace {

// Part `rank` of `parts` of [0, count), in multiples of `grain`; the parts differ by at most one grain.
inline Range part(int64_t count, int64_t grain, int rank, int parts) {
  const int64_t grains = ceil_div(count, grain);
  const auto bound = [&](int64_t i) { return smaller(count, grains * i / parts * grain); };
  return {bound(rank), bound(rank + 1)};
}

// One thread's place in its team's grid over the tiles of out.
struct Place {
  int row, rows, column, columns;
};

// One matrix product, typed. A source's lane is a row of a, a column of b.
template <class Input, class Sum>
struct TypedProduct {
  int64_t m, n, k;
  Source<Input> a, b;
  Sum* out;
  int64_t out_row, out_column;
  bool accumulate;

  // The part of it that makes these columns of out.
  TypedProduct columns(Range range) const {
    TypedProduct part = *this;
    part.n = range.end - range.begin, part.b = b.at(range.begin, 0), part.out += range.begin * out_column;
    return part;
  }
};

template <class Tile>
using Product = TypedProduct<typename Tile::Format::Input, typename Tile::Sum>;

template <class Tile>
struct PackedB;  // packed.h

template <class Tile>
struct Blocked {
  using Word = typename Tile::Word;
  using Format = typename Tile::Format;
  using Sums = BlockSums<typename Format::Input, typename Tile::Sum, sizeof(typename Tile::V)>;
  using Member = typename Sums::Member;
  static constexpr int64_t rows = Tile::max_rows, columns = Tile::columns, group = Format::group;

  int64_t m_block, n_block, k_block;  // rows of a, columns of b, elements of k
  int64_t streamed_bytes;             // a larger out is not found in a cache again
  bool few_rows;                      // the threads of a team had better work on columns of their own

  Blocked(int64_t m, int64_t n, int64_t k) {
    // What to assume where the system does not tell: the smallest caches of current server cores.
    const CacheSizes& caches = cache_sizes();
    const int64_t l1 = caches.l1d ? caches.l1d : 32 << 10, l2 = caches.l2 ? caches.l2 : 512 << 10;
    const int64_t l3 = caches.l3 ? caches.l3 : 4 << 20;
    constexpr int64_t word = sizeof(Word);
    streamed_bytes = l3 / 2;
    // With half of the second level for m_block x k_block words of a, a multiply-add moves 1 / m_block words of b and
    // 2 / k_block of out from beyond: least at k_block^2 = 2 (l2 / 2 / word).
    const auto least_traffic = static_cast<int64_t>(__builtin_sqrt(static_cast<double>(l2 / word)));
    const int64_t deepest = l1 / 2 / (rows * word);
    int64_t units = even_block(ceil_div(k, group), smaller(least_traffic, deepest), 4);
    // An out beyond the caches is better written once. (Not of floating point, where packed operands, whose blocks
    // follow from their own size alone, promise the same bits.)
    const bool beyond = static_cast<double>(m) * n * word > streamed_bytes;
    if (std::is_integral_v<typename Tile::Sum> && beyond && ceil_div(k, group) <= deepest)
      units = round_up(ceil_div(k, group), 4);
    // A quarter of the third level: it is shared, and half of a double-buffered block is being written.
    n_block = even_block(n, l3 / 4 / (units * word), columns);
    const int64_t row_panels = ceil_div(m, rows);
    few_rows = row_panels <= 16 && n_block * units * word > l2 / 3;
    if (few_rows) {
      // Each packed word of b is used by few tiles: its block stays in the second level, in rows that are long in
      // memory. The fewer the tiles, the less a short k_block costs in reading and writing sums.
      units = even_block(ceil_div(k, group), row_panels <= 4 ? 64 : 128, 4);
      n_block = even_block(n, l2 / 3 / (units * word), columns);
    }
    k_block = units * group;
    m_block = even_block(m, l2 / 2 / (units * word), rows);
  }

  int64_t a_words() const { return round_up(m_block * ceil_div(k_block, group), 1024); }
  int64_t b_words() const { return round_up(ceil_div(n_block, columns) * panel_words(), 1024); }

  // Called by every thread of the team; a_space is the thread's own, b_space holds two blocks for the team. `sums`:
  // where the thread's checksums go, or null.
  void run(const Product<Tile>& product, Team team, Word* a_space, Word* b_space, const Member* sums = nullptr) const {
    // Streamed rows start on a cache line: the columns before the first one are a product of their own.
    const int64_t head =
        -reinterpret_cast<intptr_t>(product.out) / static_cast<int64_t>(sizeof(Word)) & (line_words - 1);
    if (head && !sums && streamed(product.columns({smaller(head, product.n), product.n}))) {
      run(product.columns({0, head}), team, a_space, b_space);
      return run(product.columns({head, product.n}), team, a_space, b_space);
    }
    const int64_t steps = ceil_div(product.n, n_block) * ceil_div(product.k, k_block);
    const Place place = place_in_grid(ceil_div(product.m, rows), ceil_div(n_block, columns), team);
    // A team packs the next block while slower members still read this one.
    const auto block = [&](int64_t step) { return b_space + (team.size > 1 ? step % 2 * b_words() : 0); };
    pack_b(product, 0, team, block(0), sums);
    team.barrier();
    for (int64_t step = 0; step < steps; ++step) {
      multiply_block(product, step, place, a_space, block(step), sums);
      // The other copy was last read before the last barrier: one barrier a step is enough.
      if (step + 1 < steps) pack_b(product, step + 1, team, block(step + 1), sums);
      team.barrier();
    }
    if (streamed(product)) stream_fence();
  }

 private:
  friend struct PackedB<Tile>;
  static constexpr int64_t line_words = 64 / sizeof(Word);

  // Whether out is written once, whole and far beyond the caches, in whole cache lines: then its old content need not
  // be read first, as an ordinary store would.
  bool streamed(const Product<Tile>& product) const {
    const int64_t size = product.m * product.n * static_cast<int64_t>(sizeof(Word));
    return product.k <= k_block && !product.accumulate && product.out_column == 1 && size > streamed_bytes &&
           product.out_row % line_words == 0 && reinterpret_cast<uintptr_t>(product.out) % 64 == 0;
  }

  int64_t panel_words() const { return Tile::header + k_block / group * columns; }

  // The size of equal blocks of at most `most` that cover `count`, a multiple of `grain`.
  static int64_t even_block(int64_t count, int64_t most, int64_t grain) {
    const int64_t limit = most < grain ? grain : most / grain * grain;
    return round_up(ceil_div(count, ceil_div(count, limit)), grain);
  }

  // The grid whose largest share of tiles is smallest; the one with most threads along m among equals, since
  // threads along n pack the same rows of a.
  static Place place_in_grid(int64_t row_panels, int64_t column_panels, Team team) {
    Place best = {};
    int64_t least = INT64_MAX;
    for (int along_m = team.size; along_m >= 1; --along_m) {
      if (team.size % along_m) continue;
      const int along_n = team.size / along_m;
      const int64_t share = ceil_div(row_panels, along_m) * ceil_div(column_panels, along_n);
      if (share < least) least = share, best = {team.rank / along_n, along_m, team.rank % along_n, along_n};
    }
    return best;
  }

  void pack_b(const Product<Tile>& product, int64_t step, Team team, Word* b_block,
              const Member* sums = nullptr) const {
    const int64_t k_blocks = ceil_div(product.k, k_block);
    const int64_t j0 = step / k_blocks * n_block, p0 = step % k_blocks * k_block;
    const int64_t n = smaller(n_block, product.n - j0), k = smaller(k_block, product.k - p0);
    const Range mine = part(n, columns, team.rank, team.size);
    // Where a row of b is near, a few rows at a time over all panels: memory is read in long runs.
    const bool lanes_near = product.b.lanes_near();
    const int64_t turn = lanes_near ? 8 * group : k, span = lanes_near ? mine.end - mine.begin : columns;
    if (sums) sums->start_b(step);
    for (int64_t p = 0; p < k; p += turn)
      for (int64_t first = mine.begin; first < mine.end; first += span) {
        const int64_t last = smaller(first + span, mine.end), depth = smaller(turn, k - p);
        for (int64_t j = first; j < last; j += columns)
          Tile::pack_b(product.b.at(j0 + j, p0 + p), smaller(columns, n - j), depth,
                       b_block + j / columns * panel_words(), p / group);
        if (sums) sums->add_b(step, product.b.at(j0 + first, p0 + p), last - first, p, depth);
      }
  }

  // Rows of a from k = p0 on. Whether they need care.
  bool pack_a(const Product<Tile>& product, Range block, int64_t p0, int64_t k, Word* a_space,
              const Member* sums) const {
    constexpr int64_t turn = 16 * rows;  // whose lines are still in the cache after they were packed
    bool needs_care = false;
    for (int64_t i = block.begin; i < block.end; i += rows) {
      needs_care |= Tile::pack_a(product.a.at(i, p0), smaller(rows, block.end - i), k,
                                 a_space + (i - block.begin) * ceil_div(k, group));
      const int64_t packed = smaller(i + rows, block.end) - block.begin, summed = (packed - 1) / turn * turn;
      if (sums && (packed % turn == 0 || block.begin + packed == block.end))
        sums->add_a(product.a.at(block.begin + summed, p0), block.begin + summed, packed - summed, k);
    }
    return needs_care;
  }

  void multiply_block(const Product<Tile>& product, int64_t step, Place place, Word* a_space, const Word* b_block,
                      const Member* sums = nullptr) const {
    const int64_t k_blocks = ceil_div(product.k, k_block);
    const int64_t j0 = step / k_blocks * n_block, p0 = step % k_blocks * k_block;
    const int64_t k = smaller(k_block, product.k - p0), units = ceil_div(k, group);
    const Store store = !sums && streamed(product)     ? Store::stream
                        : product.accumulate || p0 > 0 ? Store::add
                                                       : Store::replace;
    const Range my_rows = part(product.m, rows, place.row, place.rows);
    const Range my_columns = part(smaller(n_block, product.n - j0), columns, place.column, place.columns);
    // Without columns a member may still have rows of a to sum.
    if (my_rows.begin == my_rows.end || (my_columns.begin == my_columns.end && !sums)) return;
    const int64_t my_block = even_block(my_rows.end - my_rows.begin, m_block, rows);
    const bool sums_out = sums && p0 + k == product.k;
    const Source<typename Tile::Sum> out = {product.out, product.out_row, product.out_column};
    if (sums) sums->add_shares(step);
    int64_t turn = step;  // members in one row of the grid pack the same rows, and sum them in turns
    for (int64_t i0 = my_rows.begin; i0 < my_rows.end; i0 += my_block) {
      const int64_t i_end = smaller(i0 + my_block, my_rows.end);
      const bool sums_a = sums && turn++ % place.columns == place.column;
      const bool needs_care = pack_a(product, {i0, i_end}, p0, k, a_space, sums_a ? sums : nullptr);
      for (int64_t j = my_columns.begin; j < my_columns.end; j += columns) {
        const Word* panel = b_block + j / columns * panel_words();
        // The next panel is brought in by the tiles of this one, each an even share of it.
        const bool last = j + columns >= my_columns.end;
        const auto* ahead = reinterpret_cast<const char*>(last ? panel : panel + panel_words());
        const int64_t tiles = ceil_div(i_end - i0, rows), share = ceil_div(panel_words() * sizeof(Word), tiles);
        const int64_t ahead_step = last ? 0 : ceil_div(share, ceil_div(units, Tile::Kernel::depth));
        for (int64_t i = i0; i < i_end; i += rows) {
          Panels<Word> panels = {units, a_space + (i - i0) * units, panel, ahead, ahead_step};
          panels.a_needs_care = needs_care;
          const int64_t height = smaller(rows, i_end - i), width = smaller(columns, my_columns.end - j);
          Tile::run(height, width, panels, product.out + i * product.out_row + (j0 + j) * product.out_column,
                    product.out_row, product.out_column, store);
          if (!last) ahead += share;
          if (sums_out) sums->add_out(out.at(i, j0 + j), i, height, width);
        }
      }
    }
  }
};

}  // namespace
}  // namespace pyhpc::matmul
