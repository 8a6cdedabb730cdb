// The five loops around the micro-kernel (Van Zee and van de Geijn, BLIS, ACM TOMS 41(3), 2015), written once:
//   for columns of n in blocks: for k in blocks: pack b (one copy for the team)
//     for rows of m in blocks, of a team each to the member that is free: pack a (its own copy)
//       for panels of b: for panels of a: tile
// Block sizes follow from the cache sizes (Low et al., "Analytical modeling is enough for high-performance BLIS", ACM
// TOMS 43(2), 2016): a panel of a stays in half of the first level, the block of a in half of the second, the block of
// b in a share of the third; for few rows of a, b's block is smaller and stays in the second, and each thread of a team
// packs and multiplies columns of its own. Else the threads of a team take pieces of the rows, smaller ones towards the
// end, whoever is free: cores are rarely equally fast. An element's sum has one order whoever takes it: k block after k
// block, each in ascending k.
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

// Rows of out, and part `part` of `parts` of a block's columns: what one thread multiplies at a time.
struct Piece {
  Range rows;
  int part, parts;
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
    // 2 / k_block of out from beyond, out from further away, so that it counts twice: least at
    // k_block^2 = 4 (l2 / 2 / word).
    const auto least_traffic = static_cast<int64_t>(__builtin_sqrt(static_cast<double>(2 * l2 / word)));
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
    // A team packs the next block while slower members still read this one.
    const auto block = [&](int64_t step) { return b_space + (team.size > 1 ? step % 2 * b_words() : 0); };
    if (team.taken && team.rank == 0) team.taken[0] = 0;
    pack_b(product, 0, team, block(0), sums);
    team.barrier();
    for (int64_t step = 0; step < steps; ++step) {
      multiply_block(product, step, team, step, a_space, block(step), sums);
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

  // Of the rows that are left to so many threads, how many one takes: fewer towards the end, so that all end together.
  int64_t piece_size(int64_t left, int threads) const {
    const int64_t least = ceil_div(m_block, 8), share = threads == 1 ? left : ceil_div(left, 2 * threads);
    return smaller(left, even_block(share > least ? share : least, m_block, rows));
  }

  // Into how many parts a team splits the n columns of a block: the largest share of tiles should be small, and pieces
  // large either way, since each brings in a panel of b for its rows, and packs rows of a for its columns.
  int column_parts(int64_t m, int64_t n, int threads) const {
    int best = 1;
    double least = 0;
    for (int parts = 1; parts <= threads; ++parts) {
      if (threads % parts) continue;
      const auto share =
          static_cast<double>(ceil_div(ceil_div(m, rows), threads / parts) * ceil_div(ceil_div(n, columns), parts));
      const auto piece_rows = static_cast<double>(piece_size(m, threads / parts));
      const double cost = share * (1 + rows / piece_rows + static_cast<double>(columns * parts) / n);
      if (parts == 1 || cost < least) least = cost, best = parts;
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

  // The piece's rows of a from k = p0 on. Whether they need care. Who has the last part of the columns sums them.
  bool pack_a(const Product<Tile>& product, const Piece& piece, int64_t p0, int64_t k, Word* a_space,
              const Member* sums) const {
    constexpr int64_t turn = 16 * rows;  // whose lines are still in the cache after they were packed
    const auto [begin, end] = piece.rows;
    const bool summing = sums && piece.part == piece.parts - 1;
    bool needs_care = false;
    for (int64_t i = begin; i < end; i += rows) {
      needs_care |=
          Tile::pack_a(product.a.at(i, p0), smaller(rows, end - i), k, a_space + (i - begin) * ceil_div(k, group));
      const int64_t packed = smaller(i + rows, end) - begin, summed = (packed - 1) / turn * turn;
      if (summing && (packed % turn == 0 || begin + packed == end))
        sums->add_a(piece.part, product.a.at(begin + summed, p0), begin + summed, packed - summed, k);
    }
    return needs_care;
  }

  // The part of a block's columns that is one thread's own.
  void multiply_columns(const Product<Tile>& product, int64_t step, int part, int parts, Word* a_space,
                        const Word* b_block) const {
    for (int64_t i = 0, end; i < product.m; i = end) {
      end = i + piece_size(product.m - i, 1);
      multiply_piece(product, step, {{i, end}, part, parts}, a_space, b_block, nullptr);
    }
  }

  // Called by every member of a team, with a barrier between one turn and the next. Pieces are the same for a team of
  // the same size; who multiplies which is not.
  void multiply_block(const Product<Tile>& product, int64_t step, Team team, int64_t turn, Word* a_space,
                      const Word* b_block, const Member* sums = nullptr) const {
    const int64_t n = smaller(n_block, product.n - step / ceil_div(product.k, k_block) * n_block);
    const int parts = column_parts(product.m, n, team.size);
    if (sums) sums->add_shares(step);
    int64_t own = 0, *next = &own;
    if (team.taken) {
      next = team.taken + turn % 2;
      if (team.rank == 0) team.taken[(turn + 1) % 2] = 0;
    }
    int64_t rows_at = -1;  // the number of the rows below
    for (Range rows_taken = {0, 0};;) {
      const int64_t taken = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
      for (; rows_at < taken / parts; ++rows_at) {
        const int64_t begin = rows_taken.end, left = product.m - begin;
        if (left == 0) return;
        rows_taken = {begin, begin + piece_size(left, team.size / parts)};
      }
      multiply_piece(product, step, {rows_taken, static_cast<int>(taken % parts), parts}, a_space, b_block, sums);
    }
  }

  void multiply_piece(const Product<Tile>& product, int64_t step, Piece piece, Word* a_space, const Word* b_block,
                      const Member* sums) const {
    const int64_t k_blocks = ceil_div(product.k, k_block);
    const int64_t j0 = step / k_blocks * n_block, p0 = step % k_blocks * k_block;
    const int64_t k = smaller(k_block, product.k - p0), units = ceil_div(k, group);
    const Store store = !sums && streamed(product)     ? Store::stream
                        : product.accumulate || p0 > 0 ? Store::add
                                                       : Store::replace;
    const auto [i0, i_end] = piece.rows;
    const Range mine = part(smaller(n_block, product.n - j0), columns, piece.part, piece.parts);
    const Source<typename Tile::Sum> out = {product.out, product.out_row, product.out_column};
    const bool sums_out = sums && p0 + k == product.k;
    const bool needs_care = pack_a(product, piece, p0, k, a_space, sums);
    const int64_t tiles = ceil_div(i_end - i0, rows);
    for (int64_t j = mine.begin; j < mine.end; j += columns) {
      const Word* panel = b_block + j / columns * panel_words();
      // The next panel is brought in by the tiles of this one, each an even share of it.
      const bool last = j + columns >= mine.end;
      const auto* ahead = reinterpret_cast<const char*>(last ? panel : panel + panel_words());
      const int64_t share = ceil_div(panel_words() * sizeof(Word), tiles);
      const int64_t ahead_step = last ? 0 : ceil_div(share, ceil_div(units, Tile::Kernel::depth));
      for (int64_t i = i0; i < i_end; i += rows) {
        Panels<Word> panels = {units, a_space + (i - i0) * units, panel, ahead, ahead_step};
        panels.a_needs_care = needs_care;
        const int64_t height = smaller(rows, i_end - i), width = smaller(columns, mine.end - j);
        Tile::run(height, width, panels, product.out + i * product.out_row + (j0 + j) * product.out_column,
                  product.out_row, product.out_column, store);
        if (!last) ahead += share;
        if (sums_out) sums->add_out(piece.part, out.at(i, j0 + j), i, height, width);
      }
    }
  }
};

}  // namespace
}  // namespace pyhpc::matmul
