// Sums along rows, for checksums: of the elements and of their absolute values, each multiplied by a weight where
// weights are given. Sums are float64, so that their own rounding is small beside float32's; those of integers are
// exact modulo 2^32.
#pragma once
#include "matmul/pack.h"

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
      return widened(gather<float, Input, bytes / 2>(from, step, count));
  }
  static V absolute(V value) {
    using Bits = Vector<uint64_t, bytes>;
    return reinterpret_cast<V>(reinterpret_cast<Bits>(value) & (~uint64_t{0} >> 1));
  }

 private:
  static V widened(Vector<float, bytes / 2> single) {
    // GCC 12 converts the halves of a vector one by one, and puts them together.
#if defined(__AVX512F__)
    if constexpr (bytes == 64) return reinterpret_cast<V>(_mm512_cvtps_pd(reinterpret_cast<__m256>(single)));
#endif
#if defined(__AVX2__)
    if constexpr (bytes == 32) return reinterpret_cast<V>(_mm256_cvtps_pd(reinterpret_cast<__m128>(single)));
#endif
    return __builtin_convertvector(single, V);
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
  // How many bytes ahead rows are fetched: the processor's own fetching stops at every page.
  static constexpr int from_memory = 2048, from_cache = 0;

  // What each element is multiplied with before it is summed; of nothing: 1. Padded with zeros to whole vectors.
  struct Weights {
    const Sum *values, *sizes;
  };

  // values[i] += sum over p of x(i, p) weight(p), sizes[i] with absolute values, for the rows i of a range.
  static void add(const Source<Input>& x, Range rows, int64_t count, Weights weights, int ahead, Sum* values,
                  Sum* sizes) {
    if (weights.values)
      add<true>(x, rows, count, weights, ahead, values, sizes);
    else
      add<false>(x, rows, count, weights, ahead, values, sizes);
  }

 private:
  // A copy of `x` for this call would be read in other pieces than it was written in, just before: that waits until the
  // stores of a whole tile have left the processor.
  template <bool weighted>
  __attribute__((noinline)) static void add(const Source<Input>& x, Range rows, int64_t count, Weights weights,
                                            int ahead, Sum* values, Sum* sizes) {
    int64_t i = rows.begin;
    if (x.lane_step == 1 && x.k_step != 1) {
      for (; i < rows.end; i += wide * lanes)
        across<weighted>(x.at(i, 0), smaller(wide * lanes, rows.end - i), count, weights, values + i, sizes + i);
      return;
    }
    for (; i + wide <= rows.end; i += wide)
      along<wide, weighted>(x.at(i, 0), count, weights, ahead, values + i, sizes + i);
    for (; i < rows.end; ++i) along<1, weighted>(x.at(i, 0), count, weights, ahead, values + i, sizes + i);
  }

  // A few rows, their elements near each other (or nothing near): vectors along each, added up in a fixed order.
  template <int rows, bool weighted>
  static void along(const Source<Input>& x, int64_t count, Weights weights, int ahead, Sum* value, Sum* size) {
    V values[rows] = {}, sizes[rows] = {};
    const auto add = [&](int64_t p, int64_t step, int64_t left) {
      const V of_values = weighted ? load<V>(weights.values + p) : V{};
      const V of_sizes = weighted ? load<V>(weights.sizes + p) : V{};
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const V element = Elements::words(x.at(i, p).data, step, left), absolute = Elements::absolute(element);
        values[i] += weighted ? element * of_values : element;
        sizes[i] += weighted ? absolute * of_sizes : absolute;
      }
    };
    int64_t p = 0;
    // The usual case with its constants known: the general one keeps an address for every element.
    for (; x.k_step == 1 && p + wide * lanes <= count; p += wide * lanes) {
      if (ahead)
        for (int i = 0; i < rows; ++i)
          for (int64_t at = 0; at < static_cast<int64_t>(wide * lanes * sizeof(Input)); at += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(x.data + i * x.lane_step + p) + ahead + at);
#pragma GCC unroll 4
      for (int w = 0; w < wide; ++w) add(p + w * lanes, 1, lanes);
    }
    for (; p < count; p += lanes) add(p, x.k_step, count - p);
    for (int i = 0; i < rows; ++i) value[i] += total(values[i]), size[i] += total(sizes[i]);
  }

  // Rows near each other: a vector holds one element of each.
  template <bool weighted>
  static void across(const Source<Input>& x, int64_t rows, int64_t count, Weights weights, Sum* value, Sum* size) {
    V values[wide] = {}, sizes[wide] = {};
    const auto add = [&](int w, int64_t p, int64_t left) {
      const V element = Elements::words(x.at(w * lanes, p).data, 1, left), absolute = Elements::absolute(element);
      values[w] += weighted ? element * broadcast<V>(weights.values[p]) : element;
      sizes[w] += weighted ? absolute * broadcast<V>(weights.sizes[p]) : absolute;
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
    for (int64_t i = 0; i < rows; ++i) value[i] += values[i / lanes][i % lanes], size[i] += sizes[i / lanes][i % lanes];
  }

  // Of all lanes, by halves: rows often come in pieces of a few vectors.
  template <class Some>
  static Sum total(Some sums) {
    if constexpr (sizeof(Some) > 16) {
      Vector<Sum, sizeof(Some) / 2> halves[2];
      memcpy(halves, &sums, sizeof sums);
      return total(halves[0] + halves[1]);
    } else {
      Sum sum = sums[0];
      for (unsigned lane = 1; lane < sizeof sums / sizeof sum; ++lane) sum += sums[lane];
      return sum;
    }
  }
};

}  // namespace
}  // namespace pyhpc::matmul
