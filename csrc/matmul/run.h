// From a Problem to typed products: chooses the dtype's format, the orientation, the path and the team, and runs the
// batch. A target file instantiates run<Target>; its Target gives
//   vector_bytes, rows, vectors        the micro-kernel's tile: rows x (vectors * lanes), the same for every word size
//   Int8                               the format of int8: Int8Pairs or Int8Quads with the target's instruction
//   BFloat16Format                     that of bfloat16: Floating, or BFloat16Pairs with the target's instruction
#pragma once
#include "core/workspace.h"
#include "matmul/direct.h"
#include "matmul/few_rows.h"
#include "matmul/inner.h"

namespace pyhpc::matmul {
namespace {

// Waking and joining a team costs about 5 us. A thread is worth it from about 15 us of its own work: 2^20 multiply-adds
// from packed panels, or 2^17 where every element of b comes from memory.
constexpr int64_t packed_work_per_thread = 1 << 20, streamed_work_per_thread = 1 << 17;

template <class Target, class Format>
struct Runner {
  using ThisTile = Tile<Format, Target::rows, Target::vectors>;
  using Word = typename ThisTile::Word;
  using Sum = typename ThisTile::Sum;
  using Input = typename Format::Input;
  // Few rows are bound by memory: they gain nothing from pairs.
  using Streamed = FewRows<Tile<typename Format::Single, Target::rows, Target::vectors>>;
  using Small = Direct<ThisTile>;
  using Sums = typename Blocked<ThisTile>::Sums;

  // With the checksums, where they can be made on the way.
  static bool run(const Problem& problem, int threads, RowChecksums* checksums = nullptr) {
    int64_t items = 1;
    for (int i = 0; i < problem.batch_ndim; ++i) items *= problem.batch_shape[i];
    if (items == 0 || problem.m == 0 || problem.n == 0) return true;
    const Product<ThisTile> first = product(problem, 0);
    if (first.k == 0) return empty_sum(problem, items);
    const bool streamed = Streamed::takes(first);
    const double work = static_cast<double>(first.m) * first.n * first.k;
    const int useful = at_most(threads, work * items / (streamed ? streamed_work_per_thread : packed_work_per_thread));
    // Whole products per thread where there are enough of them, else every product by the whole team.
    const bool by_item = useful == 1 || items >= 4 * useful || items % useful == 0;
    const Blocked<ThisTile> blocks(first.m, first.n, first.k);
    const bool small = !streamed && by_item && Small::takes(first, blocks.k_block);
    const Inner<ThisTile> inner{blocks};
    const bool by_k = !streamed && !by_item && inner.takes(first, useful);
    // Each thread packs all that it needs, into memory of its own.
    const bool alone = by_item || by_k || (blocks.few_rows && ceil_div(first.n, ThisTile::columns) >= 4 * useful);
    const int64_t a_words = streamed ? Streamed::a_words(first.m, first.k)
                            : small  ? Small::space_words(first.k)
                                     : blocks.a_words();
    const int64_t b_words = streamed || small ? 0 : (alone ? 1 : 2) * blocks.b_words();
    const int64_t copies_words = by_k ? inner.copies_words(first) : 0;
    auto* space = static_cast<Word*>(workspace(0, sizeof(Word) * (useful * (a_words + b_words) + copies_words)));
    if (!space) return false;
    Sums sums(first.m, blocks.k_block);
    const bool summed =
        checksums && items == 1 && !streamed && !small && !by_k && (useful == 1 || !alone) && !transposed(problem);
    if (summed && !sums.reserve(useful)) return false;
    in_parallel(useful, [&](Team all) {
      const Team team = by_item ? Team{0, 1} : all;
      const Range mine = by_item ? part(items, 1, all.rank, all.size) : Range{0, items};
      Word* a_space = space + all.rank * a_words;
      Word* b_space = space + useful * a_words + (alone ? all.rank * b_words : 0);
      const typename Sums::Member member = {sums, team}, *mine_sums = summed ? &member : nullptr;
      for (int64_t item = mine.begin; item < mine.end; ++item) {
        const Product<ThisTile> one = product(problem, item);
        if (streamed) {
          auto* words = reinterpret_cast<typename Streamed::Word*>(a_space);
          Streamed::pack_a(one, words);
          Streamed::run(one, team, words);
        } else if (small) {
          Small::run(one, a_space);
        } else if (by_k) {
          inner.run(one, team, a_space, b_space, reinterpret_cast<Sum*>(space + useful * (a_words + b_words)));
        } else if (alone) {
          const Range columns = part(one.n, ThisTile::columns, team.rank, team.size);
          if (columns.begin < columns.end) blocks.run(one.columns(columns), Team{0, 1}, a_space, b_space, mine_sums);
        } else {
          blocks.run(one, team, a_space, b_space, mine_sums);
        }
      }
    });
    if (summed) sums.collect(useful, first.m, *checksums);
    return true;
  }

  static int at_most(int threads, double share) {
    return share < 1 ? 1 : share < threads ? static_cast<int>(share) : threads;
  }

  // Product number `item` of the batch. out is written along its columns, so where out's rows are the near ones
  // the transposed product is computed, and where out has few columns, since few rows cost less.
  static Product<ThisTile> product(const Problem& problem, int64_t item) {
    const Product<ThisTile> given = as_given(problem, item);
    if (!transposed(problem)) return given;
    return {given.n, given.m, given.k, given.b, given.a, given.out, given.out_column, given.out_row, given.accumulate};
  }

  static bool transposed(const Problem& problem) {
    const bool narrow = problem.n <= Streamed::most_rows && problem.m > problem.n;
    const bool scattered = problem.m > Streamed::most_rows && problem.out_row == 1 && problem.out_column != 1;
    return narrow || scattered;
  }

  static Product<ThisTile> as_given(const Problem& problem, int64_t item) {
    int64_t a = 0, b = 0, out = 0;
    for (int i = problem.batch_ndim - 1; i >= 0; --i) {
      const int64_t index = item % problem.batch_shape[i];
      item /= problem.batch_shape[i];
      a += index * problem.a_batch[i], b += index * problem.b_batch[i], out += index * problem.out_batch[i];
    }
    const Source<Input> rows{static_cast<const Input*>(problem.a) + a, problem.a_row, problem.a_column};
    const Source<Input> columns{static_cast<const Input*>(problem.b) + b, problem.b_column, problem.b_row};
    Sum* to = static_cast<Sum*>(problem.out) + out;
    return {problem.m,       problem.n,          problem.k,         rows, columns, to,
            problem.out_row, problem.out_column, problem.accumulate};
  }

  // k = 0: the sums are empty, out is 0 or stays.
  static bool empty_sum(const Problem& problem, int64_t items) {
    for (int64_t item = 0; !problem.accumulate && item < items; ++item) {
      const Product<ThisTile> one = product(problem, item);
      for (int64_t i = 0; i < one.m; ++i)
        for (int64_t j = 0; j < one.n; ++j) one.out[i * one.out_row + j * one.out_column] = 0;
    }
    return true;
  }
};

// call(format) with the format of operands of `dtype`.
template <class Target, class Call>
auto with_format(DType dtype, const Call& call) {
  constexpr int bytes = Target::vector_bytes;
  switch (dtype) {
    case DType::float64:
      return call(Floating<double, double, bytes>{});
    case DType::float32:
      return call(Floating<float, float, bytes>{});
    case DType::bfloat16:
      return call(typename Target::BFloat16Format{});
    case DType::float16:
      return call(Floating<float, Float16, bytes>{});
    default:
      return call(typename Target::Int8{});
  }
}

template <class Target>
bool run(const Problem& problem, int threads) {
  return with_format<Target>(problem.dtype,
                             [&](auto format) { return Runner<Target, decltype(format)>::run(problem, threads); });
}

}  // namespace
}  // namespace pyhpc::matmul
