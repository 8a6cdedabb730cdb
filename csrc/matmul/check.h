// The argument checks of matmul and the Problem they end in, for the CPU's and for CUDA's binding, which alone know on
// what device the arrays must be.
#pragma once
#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/overlap.h"
#include "matmul/matmul.h"

namespace pyhpc::matmul {

inline std::string shape_of(const Array& array) {
  std::string text = "(";
  for (int i = 0; i < array.ndim; ++i) text += (i ? ", " : "") + std::to_string(array.shape[i]);
  return text + (array.ndim == 1 ? ",)" : ")");
}

inline DType output_dtype(const Array& a, const Array& b) {
  require(a.dtype == b.dtype,
          std::string("a is ") + name(a.dtype) + " and b is " + name(b.dtype) + "; they must be of the same dtype");
  switch (a.dtype) {
    case DType::float64:
      return DType::float64;
    case DType::float32:
    case DType::bfloat16:
    case DType::float16:
      return DType::float32;
    case DType::int8:
      return DType::int32;
    default:
      break;
  }
  throw Error(ErrorKind::invalid, std::string("a and b are ") + name(a.dtype) +
                                      "; matmul takes float64, float32, bfloat16, float16 and int8");
}

inline void check_matrix(const Array& array, const std::string& argument, const char* form) {
  require(array.ndim >= 2,
          argument + " has shape " + shape_of(array) + "; it must have at least two dimensions, " + form);
}

// Aligns the batch dimensions (all but the last two) of a and b with those of out, a missing or single one with stride
// 0.
inline void broadcast_batch(const Array& a, const Array& b, const Array& out, Problem& problem) {
  const auto batch = [](const Array& array, int from_end) {
    const int i = array.ndim - 3 - from_end;
    return i < 0 ? std::pair<int64_t, int64_t>(1, 0)
                 : std::pair<int64_t, int64_t>(array.shape[i], array.shape[i] == 1 ? 0 : array.strides[i]);
  };
  problem.batch_ndim = std::max(a.ndim, b.ndim) - 2;
  std::string expected = "(";
  bool fits = out.ndim == problem.batch_ndim + 2;
  for (int i = 0; i < problem.batch_ndim; ++i) {
    const int from_end = problem.batch_ndim - 1 - i;
    const auto [a_size, a_step] = batch(a, from_end);
    const auto [b_size, b_step] = batch(b, from_end);
    require(a_size == b_size || a_size == 1 || b_size == 1,
            "the batch dimensions of a " + shape_of(a) + " and b " + shape_of(b) +
                " do not broadcast: each pair must be equal or contain a 1");
    const int64_t size = a_size == 1 ? b_size : a_size;
    problem.batch_shape[i] = size, problem.a_batch[i] = a_step, problem.b_batch[i] = b_step;
    expected += std::to_string(size) + ", ";
    fits = fits && out.shape[i] == size;
    problem.out_batch[i] = fits ? out.strides[i] : 0;
  }
  expected += std::to_string(problem.m) + ", " + std::to_string(problem.n) + ")";
  fits = fits && out.shape[out.ndim - 2] == problem.m && out.shape[out.ndim - 1] == problem.n;
  require(fits,
          "out has shape " + shape_of(out) + "; a " + shape_of(a) + " times b " + shape_of(b) + " needs " + expected);
}

inline void check_output(const Array& a, const Array& b, const Array& out) {
  const DType wanted = output_dtype(a, b);
  require(out.dtype == wanted, std::string("out is ") + name(out.dtype) + "; the product of " + name(a.dtype) +
                                   " arrays is " + name(wanted));
  require(out.writable, "out is read-only; give an array that can be written");
  require(!overlaps_itself(out),
          "out has elements that share memory with each other (a stride of 0, or overlapping strides); give an array "
          "of its own");
  require(!share_memory(out, a), "out shares memory with a; matmul cannot work in place, give another out");
  require(!share_memory(out, b), "out shares memory with b; matmul cannot work in place, give another out");
}

// Checks everything but the devices, broadcasts the batch.
inline Problem problem_of(const Array& a, const Array& b, const Array& out, bool accumulate) {
  check_matrix(a, "a", "(..., m, k)");
  check_matrix(b, "b", "(..., k, n)");
  check_matrix(out, "out", "(..., m, n)");
  const int ai = a.ndim - 2, bi = b.ndim - 2, oi = out.ndim - 2;
  require(a.shape[ai + 1] == b.shape[bi], "a " + shape_of(a) + " has k = " + std::to_string(a.shape[ai + 1]) +
                                              " columns, but b " + shape_of(b) + " has " + std::to_string(b.shape[bi]) +
                                              " rows; they must be equal");
  Problem problem = {};
  problem.dtype = a.dtype;
  problem.m = a.shape[ai], problem.n = b.shape[bi + 1], problem.k = b.shape[bi];
  broadcast_batch(a, b, out, problem);
  check_output(a, b, out);
  problem.a = a.data, problem.b = b.data, problem.out = out.data, problem.accumulate = accumulate;
  // The stride of a dimension of one element says nothing; 1 lets the fast paths take it.
  const auto stride = [](const Array& array, int i) { return array.shape[i] == 1 ? 1 : array.strides[i]; };
  problem.a_row = stride(a, ai), problem.a_column = stride(a, ai + 1);
  problem.b_row = stride(b, bi), problem.b_column = stride(b, bi + 1);
  problem.out_row = stride(out, oi), problem.out_column = stride(out, oi + 1);
  return problem;
}

}  // namespace pyhpc::matmul
