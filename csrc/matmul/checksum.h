// Row sums, by which a product is checked without repeating it (Huang and Abraham, "Algorithm-based fault tolerance for
// matrix operations", IEEE Trans. Computers C-33(6), 1984): with ones e, (a b) e = a (b e).
//   of the product: sum over p of a[i, p] (sum over j of b[p, j]),  and the same of absolute values, which bounds
//   errors of out:         sum over j of out[i, j],                        and the same of absolute values
// m k + k n + m n additions beside m n k. Sums are float64, so that their own rounding is small beside float32's; those
// of integers are exact modulo 2^32.
#pragma once
#include "core/workspace.h"
#include "matmul/blocked.h"

namespace pyhpc::matmul {
namespace {

template <class Input, class Output, int bytes>
struct Checksums {
  using OfInput = RowSums<Input, bytes>;
  using OfOutput = RowSums<Output, bytes>;
  using Sum = typename OfInput::Sum;

  static bool run(const Problem& problem, bool of_output, double* sums, int threads) {
    int64_t items = 1;
    for (int i = 0; i < problem.batch_ndim; ++i) items *= problem.batch_shape[i];
    const int64_t m = problem.m, k = round_up(problem.k, 64), scratch = 2 * (k + m);
    auto* space = static_cast<Sum*>(workspace(1, sizeof(Sum) * scratch));
    if (!space) return false;
    memset(space, 0, sizeof(Sum) * scratch);
    Sum *b_values = space, *b_sizes = b_values + k, *values = b_sizes + k, *sizes = values + m;
    in_parallel(threads, [&](Team team) {
      const Range rows = part(m, 64, team.rank, team.size), inner = part(problem.k, 64, team.rank, team.size);
      for (int64_t item = 0; item < items; ++item) {
        const Offsets at = offsets(problem, item);
        clear(rows, values, sizes);
        if (of_output) {
          const Source<Output> out{static_cast<const Output*>(problem.out) + at.out, problem.out_row,
                                   problem.out_column};
          OfOutput::add(out, rows, problem.n, {}, OfOutput::from_memory, values, sizes);
        } else {
          const Source<Input> a{static_cast<const Input*>(problem.a) + at.a, problem.a_row, problem.a_column};
          const Source<Input> b{static_cast<const Input*>(problem.b) + at.b, problem.b_row, problem.b_column};
          clear(inner, b_values, b_sizes);
          OfInput::add(b, inner, problem.n, {}, OfInput::from_memory, b_values, b_sizes);
          team.barrier();
          OfInput::add(a, rows, problem.k, {b_values, b_sizes}, OfInput::from_memory, values, sizes);
        }
        for (int64_t i = rows.begin; i < rows.end; ++i) {
          double* to = sums + 2 * (item * m + i);
          to[0] = values[i], to[1] = sizes[i];
        }
        team.barrier();
      }
    });
    return true;
  }

 private:
  static void clear(Range range, Sum* values, Sum* sizes) {
    memset(values + range.begin, 0, sizeof(Sum) * (range.end - range.begin));
    memset(sizes + range.begin, 0, sizeof(Sum) * (range.end - range.begin));
  }

  struct Offsets {
    int64_t a, b, out;
  };
  static Offsets offsets(const Problem& problem, int64_t item) {
    Offsets at = {};
    for (int i = problem.batch_ndim - 1; i >= 0; --i) {
      const int64_t index = item % problem.batch_shape[i];
      item /= problem.batch_shape[i];
      at.a += index * problem.a_batch[i], at.b += index * problem.b_batch[i], at.out += index * problem.out_batch[i];
    }
    return at;
  }
};

template <class Target>
bool checksums(const Problem& problem, bool of_output, double* sums, int threads) {
  constexpr int bytes = Target::vector_bytes;
  switch (problem.dtype) {
    case DType::float64:
      return Checksums<double, double, bytes>::run(problem, of_output, sums, threads);
    case DType::float32:
      return Checksums<float, float, bytes>::run(problem, of_output, sums, threads);
    case DType::bfloat16:
      if (problem.narrow) return Checksums<BFloat16, BFloat16, bytes>::run(problem, of_output, sums, threads);
      return Checksums<BFloat16, float, bytes>::run(problem, of_output, sums, threads);
    case DType::float16:
      if (problem.narrow) return Checksums<Float16, Float16, bytes>::run(problem, of_output, sums, threads);
      return Checksums<Float16, float, bytes>::run(problem, of_output, sums, threads);
    default:
      return Checksums<int8_t, uint32_t, bytes>::run(problem, of_output, sums, threads);
  }
}

}  // namespace
}  // namespace pyhpc::matmul
