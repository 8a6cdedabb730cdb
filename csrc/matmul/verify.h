// Judges row sums (checksum.h): whether those of out are what rounding allows around those of the product.
//
// Let u be the unit roundoff of out's sums and v = 2^-53 that of the checksums, g(n, u) = n u / (1 - n u) (Higham,
// Accuracy and Stability of Numerical Algorithms, 2nd ed. 2002, lemma 3.1), and M the row's sum of |a| |b|. Each
// element of out errs by at most its share of g(k, u) M (3.5 there), in whatever order it was summed, and by k eta
// where products underflow; the sum over out errs by at most g(n, v) times its absolute values, the sum over a (b e) by
// g(n + k, v) M, and M itself by as much:
//   |sum out - a (b e)| <= (g(k, u) + 2 g(n + k, v)) M / (1 - g(n + k, v)) + g(n, v) sum |out| + n k eta
// bfloat16 counts k as the next even number (matmul_problem.py). A result of 16 bits is rounded once more, by its own
// unit roundoff of M and by half of its smallest number. Accumulating counts what out held as one more term. A row
// whose sum is not finite cannot be judged, nor an infinite sum of out where M is not below the largest number of its
// type, so that an element may rightly have overflowed. Integers must agree exactly modulo 2^32.
// A GPU's tensor cores cut float sums off instead of rounding them, which doubles u; TF32 operands lose 13 bits each.
#pragma once
#include <cfloat>
#include <cmath>
#include <vector>

#include "matmul/check.h"

namespace pyhpc::matmul {

enum Rounding { rounds, cuts_off };

struct Judge {
  const Problem& problem;
  bool exact;
  double u, eta, largest, last_rounding = 0;

  explicit Judge(const Problem& problem, Rounding rounding = rounds)
      : problem(problem),
        exact(problem.dtype == DType::int8),
        u(rounding == rounds ? 0x1p-24 : 0x1p-23),
        eta(FLT_MIN),
        largest(FLT_MAX) {
    if (problem.dtype == DType::float64) u = 0x1p-53, eta = DBL_MIN, largest = DBL_MAX;
    if (!problem.narrow) return;
    last_rounding = problem.dtype == DType::bfloat16 ? 0x1p-8 : 0x1p-11;
    if (problem.dtype == DType::float16) largest = 65504;
  }

  // expected, found, before: (sum, sum of absolute values) of the product, of out, of out before it was added to.
  bool right(const double* expected, const double* found, const double* before) const {
    if (exact) {
      const auto whole = [](double value) { return static_cast<uint32_t>(static_cast<int64_t>(value)); };
      return whole(found[0]) == static_cast<uint32_t>(whole(expected[0]) + whole(before[0]));
    }
    const double n = static_cast<double>(problem.n), k = static_cast<double>(problem.k) + problem.accumulate;
    const double own = gamma(n + k, 0x1p-53), magnitude = (expected[1] + before[1]) / (1 - own);
    const double sum = expected[0] + before[0];
    if (!std::isfinite(sum)) return true;
    if (!std::isfinite(found[0])) return !(magnitude < largest);
    const double roundings = k + (problem.dtype == DType::bfloat16 ? static_cast<double>(problem.k % 2) : 0);
    const double sums = gamma(roundings, u) + (problem.tf32 ? 0x1p-9 : 0), after = last_rounding * (1 + sums);
    const double smallest = last_rounding > 0 ? 0x1p-25 : 0;  // half of float16's; bfloat16's is smaller
    const double tolerance = (sums + after + 2 * own + 2 * gamma(n, 0x1p-53)) * magnitude + n * (k * eta + smallest);
    return std::fabs(found[0] - sum) <= tolerance || tolerance == INFINITY;
  }

 private:
  static double gamma(double count, double unit) {
    return count * unit < 1 ? count * unit / (1 - count * unit) : INFINITY;
  }
};

}  // namespace pyhpc::matmul
