// A matrix b that is packed once for many products: every block in the order in which blocked.h takes them, each as
// Blocked::pack_b leaves it. Block sizes are those for many rows of a, whatever number comes, so that they follow from
// b's shape and the machine alone.
#pragma once
#include "core/workspace.h"
#include "matmul/run.h"

namespace pyhpc::matmul {
namespace {

template <class Tile>
struct PackedB {
  using Word = typename Tile::Word;
  Blocked<Tile> blocks;

  PackedB(int64_t n, int64_t k) : blocks(int64_t{1} << 30, n, k) {}

  int64_t steps(int64_t n, int64_t k) const { return ceil_div(n, blocks.n_block) * ceil_div(k, blocks.k_block); }

  void pack(const Product<Tile>& product, Team team, Word* packed) const {
    for (int64_t step = 0; step < steps(product.n, product.k); ++step)
      blocks.pack_b(product, step, team, packed + step * blocks.b_words());
  }

  // Product number `item` of those that a team computes one after the other. Called by every member.
  void run(const Product<Tile>& product, int64_t item, Team team, Word* a_space, const Word* packed) const {
    const int64_t all = steps(product.n, product.k);
    const bool own_columns = blocks.column_parts(product.m, blocks.n_block, team.size) == team.size;
    for (int64_t step = 0; step < all; ++step) {
      const Word* b_block = packed + step * blocks.b_words();
      if (own_columns) {  // nobody waits for anybody
        blocks.multiply_columns(product, step, team.rank, team.size, a_space, b_block);
      } else {
        blocks.multiply_block(product, step, team, item * all + step, a_space, b_block);
        team.barrier();
      }
    }
  }
};

template <class Target, class Format>
struct PackedRunner {
  using ThisRunner = Runner<Target, Format>;
  using ThisTile = typename ThisRunner::ThisTile;
  using Word = typename ThisRunner::Word;

  // Packs problem.b into `packed`; where that is null only tells the bytes it takes.
  static int64_t pack(const Problem& problem, void* packed, int threads) {
    const PackedB<ThisTile> b(problem.n, problem.k);
    const auto product = ThisRunner::as_given(problem, 0);
    if (packed) in_parallel(threads, [&](Team team) { b.pack(product, team, static_cast<Word*>(packed)); });
    return static_cast<int64_t>(sizeof(Word)) * b.steps(problem.n, problem.k) * b.blocks.b_words();
  }

  static bool run(const Problem& problem, const void* packed, int threads) {
    int64_t items = 1;
    for (int i = 0; i < problem.batch_ndim; ++i) items *= problem.batch_shape[i];
    if (items == 0 || problem.m == 0 || problem.n == 0) return true;
    if (problem.k == 0) return ThisRunner::empty_sum(problem, items);
    const PackedB<ThisTile> b(problem.n, problem.k);
    const double work = static_cast<double>(problem.m) * problem.n * problem.k * items;
    const int useful = ThisRunner::at_most(threads, work / streamed_work_per_thread);
    const int64_t a_words = b.blocks.a_words();
    auto* space = static_cast<Word*>(workspace(0, sizeof(Word) * useful * a_words));
    if (!space) return false;
    in_parallel(useful, [&](Team team) {
      for (int64_t item = 0; item < items; ++item)
        b.run(ThisRunner::as_given(problem, item), item, team, space + team.rank * a_words,
              static_cast<const Word*>(packed));
    });
    return true;
  }
};

template <class Target>
int64_t pack(const Problem& problem, void* packed, int threads) {
  return with_format<Target>(problem.dtype, [&](auto format) {
    return PackedRunner<Target, decltype(format)>::pack(problem, packed, threads);
  });
}

template <class Target>
bool run_packed(const Problem& problem, const void* packed, int threads) {
  return with_format<Target>(problem.dtype, [&](auto format) {
    return PackedRunner<Target, decltype(format)>::run(problem, packed, threads);
  });
}

}  // namespace
}  // namespace pyhpc::matmul
