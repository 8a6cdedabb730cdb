// Inner products, long in k and small in out, by a team: each thread multiplies blocks of k of its own, without waiting
// for anybody, into a copy of out each; then each adds up rows of its own, block after block. That is the order in
// which one thread adds its blocks to out, so the bits are the same.
#pragma once
#include "matmul/blocked.h"

namespace pyhpc::matmul {
namespace {

template <class Tile>
struct Inner {
  using Word = typename Tile::Word;
  using Sum = typename Tile::Sum;
  const Blocked<Tile>& blocks;

  // Where every thread gets blocks enough, and all copies together stay in the second level of one.
  bool takes(const Product<Tile>& product, int threads) const {
    const int64_t l2 = cache_sizes().l2 ? cache_sizes().l2 : 512 << 10;
    return steps(product) >= 2 * threads && copies_words(product) * static_cast<int64_t>(sizeof(Word)) <= l2;
  }

  int64_t copies_words(const Product<Tile>& product) const { return steps(product) * product.m * product.n; }

  // a_space and b_space are the thread's own, copies the team's.
  void run(const Product<Tile>& product, Team team, Word* a_space, Word* b_space, Sum* copies) const {
    const int64_t size = product.m * product.n;
    const Range mine = part(steps(product), 1, team.rank, team.size);
    for (int64_t step = mine.begin; step < mine.end; ++step) {
      const int64_t p = step * blocks.k_block;
      const Product<Tile> block = {product.m,
                                   product.n,
                                   smaller(blocks.k_block, product.k - p),
                                   product.a.at(0, p),
                                   product.b.at(0, p),
                                   copies + step * size,
                                   product.n,
                                   1,
                                   false};
      blocks.run(block, Team{0, 1}, a_space, b_space);
    }
    team.barrier();
    const Range rows = part(product.m, 1, team.rank, team.size);
    for (int64_t i = rows.begin; i < rows.end; ++i)
      for (int64_t j = 0; j < product.n; ++j) {
        Sum& element = product.out[i * product.out_row + j * product.out_column];
        const Sum* copy = copies + i * product.n + j;
        Sum sum = product.accumulate ? element + *copy : *copy;
        for (int64_t step = 1; step < steps(product); ++step) sum += copy[step * size];
        element = sum;
      }
    team.barrier();
  }

 private:
  int64_t steps(const Product<Tile>& product) const { return ceil_div(product.k, blocks.k_block); }
};

}  // namespace
}  // namespace pyhpc::matmul
