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

// Elements widened for summing: floating point to float64, integers to wrapping 32 bits.
template <class Input, int bytes>
struct Summand {
  using Sum = double;
  using V = Vector<double, bytes>;
  static V words(const Input* from, int64_t step, int64_t count) {
    if constexpr (sizeof(Input) == sizeof(double))
      return gather<double, Input, bytes>(from, step, count);
    else
      return __builtin_convertvector((gather<float, Input, bytes / 2>(from, step, count)), V);
  }
  static V absolute(V value) {
    using Bits = Vector<uint64_t, bytes>;
    return reinterpret_cast<V>(reinterpret_cast<Bits>(value) & (~uint64_t{0} >> 1));
  }
};

template <class Input, int bytes>
struct IntegerSummand {
  using Sum = uint32_t;
  using V = Vector<uint32_t, bytes>;
  static V words(const Input* from, int64_t step, int64_t count) {
    return gather<uint32_t, Input, bytes>(from, step, count);
  }
  static V absolute(V) { return V{}; }
};
template <int bytes>
struct Summand<int8_t, bytes> : IntegerSummand<int8_t, bytes> {};
template <int bytes>
struct Summand<uint32_t, bytes> : IntegerSummand<uint32_t, bytes> {};

template <class Input, int bytes>
struct RowSums {
  using Elements = Summand<Input, bytes>;
  using Sum = typename Elements::Sum;
  using V = typename Elements::V;
  static constexpr int lanes = sizeof(V) / sizeof(Sum), wide = 4;
  // Lines of one step along a row, fetched this far ahead: the processor's own fetching stops at every page.
  static constexpr int lines = (wide * lanes * sizeof(Input) + 63) / 64, ahead = 2048;

  // What each element is multiplied with before it is summed; of nothing: 1. Padded with zeros to whole vectors.
  struct Weights {
    const Sum *values, *sizes;
  };

  // values[i] = sum over p of x(i, p) weight(p), sizes[i] with absolute values, for the rows i of a range.
  static void run(Source<Input> x, Range rows, int64_t count, Weights weights, Sum* values, Sum* sizes) {
    if (x.lane_step == 1 && x.k_step != 1)
      for (int64_t i = rows.begin; i < rows.end; i += wide * lanes)
        across(x.at(i, 0), smaller(wide * lanes, rows.end - i), count, weights, values + i, sizes + i);
    else
      for (int64_t i = rows.begin; i < rows.end; ++i) along(x.at(i, 0), count, weights, values[i], sizes[i]);
  }

 private:
  // One row, its elements near each other (or nothing near): vectors along it, added up in a fixed order.
  static void along(Source<Input> x, int64_t count, Weights weights, Sum& value, Sum& size) {
    V values[wide] = {}, sizes[wide] = {};
    const auto add = [&](int w, int64_t at, int64_t step, int64_t left) {
      const V element = Elements::words(x.at(0, at).data, step, left), absolute = Elements::absolute(element);
      values[w] += weights.values ? element * load<V>(weights.values + at) : element;
      sizes[w] += weights.sizes ? absolute * load<V>(weights.sizes + at) : absolute;
    };
    int64_t p = 0;
    // The usual case with its constants known: the general one keeps an address for every element.
    for (; x.k_step == 1 && p + wide * lanes <= count; p += wide * lanes) {
      const auto* here = reinterpret_cast<const char*>(x.data + p);
      for (int line = 0; line < lines; ++line) __builtin_prefetch(here + ahead + 64 * line);
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) add(w, p + w * lanes, 1, lanes);
    }
    for (; p < count; p += lanes) add(0, p, x.k_step, count - p);
    value = total((values[0] + values[1]) + (values[2] + values[3]));
    size = total((sizes[0] + sizes[1]) + (sizes[2] + sizes[3]));
  }

  // Rows near each other: a vector holds one element of each.
  static void across(Source<Input> x, int64_t rows, int64_t count, Weights weights, Sum* value, Sum* size) {
    V values[wide] = {}, sizes[wide] = {};
    const auto add = [&](int w, int64_t p, int64_t left) {
      const V element = Elements::words(x.at(w * lanes, p).data, 1, left), absolute = Elements::absolute(element);
      values[w] += weights.values ? element * broadcast<V>(weights.values[p]) : element;
      sizes[w] += weights.sizes ? absolute * broadcast<V>(weights.sizes[p]) : absolute;
    };
    for (int64_t p = 0; p < count; ++p)
      if (rows == wide * lanes) {
#pragma GCC unroll 4
        for (int w = 0; w < wide; ++w) add(w, p, lanes);
      } else {
#pragma GCC unroll 4
        for (int w = 0; w < wide; ++w)
          if (w * lanes < rows) add(w, p, rows - w * lanes);
      }
    memcpy(value, values, sizeof(Sum) * rows);
    memcpy(size, sizes, sizeof(Sum) * rows);
  }

  static Sum total(V sums) {
    Sum sum = sums[0];
    for (int lane = 1; lane < lanes; ++lane) sum += sums[lane];
    return sum;
  }
};

template <class Input, class Output, int bytes>
struct Checksums {
  using OfInput = RowSums<Input, bytes>;
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
        if (of_output) {
          const Source<Output> out{static_cast<const Output*>(problem.out) + at.out, problem.out_row,
                                   problem.out_column};
          RowSums<Output, bytes>::run(out, rows, problem.n, {}, values, sizes);
        } else {
          const Source<Input> a{static_cast<const Input*>(problem.a) + at.a, problem.a_row, problem.a_column};
          const Source<Input> b{static_cast<const Input*>(problem.b) + at.b, problem.b_row, problem.b_column};
          OfInput::run(b, inner, problem.n, {}, b_values, b_sizes);
          team.barrier();
          OfInput::run(a, rows, problem.k, {b_values, b_sizes}, values, sizes);
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
