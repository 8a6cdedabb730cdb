// The checksums (checksum.h) of one blocked product, made while it is computed (blocked.h), so that memory is not read
// again: those of a and b from the lines of the cache that packing has just read, those of out from each tile, read
// back as soon as it was written.
//   of the product: sum over blocks of columns, over blocks of k, over p in both: a[i, p] (sum over j of b[p, j])
//   of out:         sum over blocks of columns, over j: out[i, j], once the last block of k is added
// What goes wrong in between is found as by passes of their own: in packing and in packed words wherever they lie, in
// the arithmetic, in out while its sums wait for the next block of k, and what is not written or not where it belongs.
// Not found is what both readings share: an element of a or b that was wrong already in the cache, or one of out that
// changes after it was read back from the first level or from the store buffer before it. `check` of bind.cpp reads all
// of them from memory again.
// Each member of a team sums what it packs of b; the shares are added in the order of ranks. Sums of a and out belong
// to a row and a part of the columns, to which one member adds at a time. The last bits of these sums of float64 thus
// depend on the team's size; the bounds of verify.h hold in any order.
#pragma once
#include "core/team.h"
#include "core/workspace.h"
#include "matmul/row_sums.h"

namespace pyhpc::matmul {
namespace {

// Where the checksums go: (sum, sum of absolute values) of every row of the product and of out. `made`: they are there.
struct RowChecksums {
  double *product, *out;
  bool made = false;
};

template <class Input, class Output, int bytes>
struct BlockSums {
  using OfInput = RowSums<Input, bytes>;
  using OfOutput = RowSums<Output, bytes>;
  using Sum = typename OfInput::Sum;

  int64_t m, k;          // rows of the product, depth of a block of k; both in whole vectors
  Sum* space = nullptr;  // for every member: two blocks' shares of b's sums, their totals; for every part of the
                         // columns, of which there are no more: sums of a's rows, of out's

  BlockSums(int64_t m, int64_t k_block) : m(round_up(m, 64)), k(round_up(k_block, 64)) {}

  int64_t member_words() const { return 6 * k + 4 * m; }

  // What one member of the team knows. Where there are two sums for each p or row, all values come before all sizes.
  struct Member {
    const BlockSums& all;
    Team team;

    void start_b(int64_t step) const { memset(share(step, team.rank), 0, sizeof(Sum) * 2 * all.k); }

    // `count` columns of b, from its element (p, first column) of the block on, for `rows` p.
    void add_b(int64_t step, const Source<Input>& b, int64_t count, int64_t p, int64_t rows) const {
      Sum* values = share(step, team.rank) + p;
      OfInput::add({b.data, b.k_step, b.lane_step}, {0, rows}, count, {}, OfInput::from_cache, values, values + all.k);
    }

    // After the barrier that ends the packing of a block.
    void add_shares(int64_t step) const {
      memcpy(weights(), share(step, 0), sizeof(Sum) * 2 * all.k);
      for (int rank = 1; rank < team.size; ++rank)
        for (int64_t p = 0; p < 2 * all.k; ++p) weights()[p] += share(step, rank)[p];
    }

    // Rows i and following of a, `count` of them, from the block's first element of k on.
    void add_a(int part, const Source<Input>& a, int64_t i, int64_t count, int64_t k) const {
      const typename OfInput::Weights both = {weights(), weights() + all.k};
      Sum* values = rows(part) + i;
      OfInput::add(a, {0, count}, k, both, OfInput::from_cache, values, values + all.m);
    }

    // A tile of out, its first row row i of the product, that will not be written again.
    void add_out(int part, const Source<Output>& out, int64_t i, int64_t height, int64_t width) const {
      Sum* values = rows(part) + 2 * all.m + i;
      OfOutput::add(out, {0, height}, width, {}, OfOutput::from_cache, values, values + all.m);
    }

   private:
    Sum* own(int rank) const { return all.space + rank * all.member_words(); }
    Sum* share(int64_t step, int rank) const { return own(rank) + step % 2 * 2 * all.k; }
    Sum* weights() const { return own(team.rank) + 4 * all.k; }
    Sum* rows(int part) const { return own(part) + 6 * all.k; }
  };

  // Memory for a team of so many; false where there is none.
  bool reserve(int members) {
    const size_t size = sizeof(Sum) * members * member_words();
    space = static_cast<Sum*>(workspace(1, size));
    if (space) memset(space, 0, size);
    return space;
  }

  void collect(int members, int64_t rows, RowChecksums& to) const {
    for (int64_t i = 0; i < rows; ++i) {
      Sum sums[4] = {};
      for (int rank = 0; rank < members; ++rank)
        for (int s = 0; s < 4; ++s) sums[s] += space[rank * member_words() + 6 * k + s * m + i];
      for (int s = 0; s < 2; ++s) to.product[2 * i + s] = sums[s], to.out[2 * i + s] = sums[2 + s];
    }
    to.made = true;
  }
};

}  // namespace
}  // namespace pyhpc::matmul
