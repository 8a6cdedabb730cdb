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

inline std::string shape_of(int ndim, const int64_t* shape) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

inline std::string shape_of(const Array& array) { return shape_of(array.ndim, array.shape); }

inline DType output_dtype(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return DType::float64;
    case DType::float32:
    case DType::bfloat16:
    case DType::float16:
    case DType::float8_e4m3fn:
    case DType::float8_e5m2:
      return DType::float32;
    case DType::int8:
      return DType::int32;
    default:
      break;
  }
  throw Error(ErrorKind::invalid,
              std::string("a and b are ") + name(dtype) + "; matmul takes float64, float32, bfloat16, float16, int8");
}

inline void check_matrix(const Array& array, const char* argument, const char* form) {
  require(array.ndim >= 2, [&] {
    return std::string(argument) + " has shape " + shape_of(array) + "; it must have at least two dimensions, " + form;
  });
}

// Aligns the batch dimensions (all but the last two) of a and b, a missing or single one with stride 0.
inline void broadcast_batch(const Array& a, const Array& b, Problem& problem) {
  const auto batch = [](const Array& array, int from_end) {
    const int i = array.ndim - 3 - from_end;
    return i < 0 ? std::pair<int64_t, int64_t>(1, 0)
                 : std::pair<int64_t, int64_t>(array.shape[i], array.shape[i] == 1 ? 0 : array.strides[i]);
  };
  problem.batch_ndim = std::max(a.ndim, b.ndim) - 2;
  for (int i = 0; i < problem.batch_ndim; ++i) {
    const int from_end = problem.batch_ndim - 1 - i;
    const auto [a_size, a_step] = batch(a, from_end);
    const auto [b_size, b_step] = batch(b, from_end);
    require(a_size == b_size || a_size == 1 || b_size == 1, [&] {
      return "the batch dimensions of a " + shape_of(a) + " and b " + shape_of(b) +
             " do not broadcast: each pair must be equal or contain a 1";
    });
    problem.batch_shape[i] = a_size == 1 ? b_size : a_size;
    problem.a_batch[i] = a_step, problem.b_batch[i] = b_step;
  }
}

// The stride of a dimension of one element says nothing; 1 lets the fast paths take it.
inline int64_t stride_of(const Array& array, int i) { return array.shape[i] == 1 ? 1 : array.strides[i]; }

// The product of a and b, out still to be set.
inline Problem product_of(const Array& a, const Array& b) {
  check_matrix(a, "a", "(..., m, k)");
  check_matrix(b, "b", "(..., k, n)");
  const int ai = a.ndim - 2, bi = b.ndim - 2;
  require(a.shape[ai + 1] == b.shape[bi], [&] {
    return "a " + shape_of(a) + " has k = " + std::to_string(a.shape[ai + 1]) + " columns, but b " + shape_of(b) +
           " has " + std::to_string(b.shape[bi]) + " rows; they must be equal";
  });
  output_dtype(a.dtype);  // throws for a type that matmul does not take
  require(a.dtype == b.dtype, [&] {
    return std::string("a is ") + name(a.dtype) + " and b is " + name(b.dtype) + "; they must be of the same dtype";
  });
  Problem problem = {};
  problem.dtype = a.dtype;
  problem.m = a.shape[ai], problem.n = b.shape[bi + 1], problem.k = b.shape[bi];
  broadcast_batch(a, b, problem);
  problem.a = a.data, problem.b = b.data;
  problem.a_row = stride_of(a, ai), problem.a_column = stride_of(a, ai + 1);
  problem.b_row = stride_of(b, bi), problem.b_column = stride_of(b, bi + 1);
  return problem;
}

// The shape (..., m, n) that out must have; the number of its dimensions.
inline int output_shape(const Problem& problem, int64_t* shape) {
  std::copy(problem.batch_shape, problem.batch_shape + problem.batch_ndim, shape);
  shape[problem.batch_ndim] = problem.m, shape[problem.batch_ndim + 1] = problem.n;
  return problem.batch_ndim + 2;
}

// Whether out is of a's own 16-bit type, or, for operands of 8 bits, of any.
inline bool is_narrow(const Array& a, const Array& out) {
  if (is_float8(a.dtype)) return out.dtype == DType::bfloat16 || out.dtype == DType::float16;
  return out.dtype == a.dtype && itemsize(a.dtype) == 2;
}

// Checks nothing: for an array that was made for this product.
inline void set_output(const Array& out, bool accumulate, Problem& problem) {
  problem.narrow = itemsize(out.dtype) == 2, problem.out_dtype = out.dtype;
  problem.out = out.data, problem.accumulate = accumulate;
  std::copy(out.strides, out.strides + problem.batch_ndim, problem.out_batch);
  problem.out_row = stride_of(out, out.ndim - 2), problem.out_column = stride_of(out, out.ndim - 1);
}

inline void check_output(const Array& a, const Array& b, const Array& out, const Problem& problem) {
  check_matrix(out, "out", "(..., m, n)");
  int64_t shape[Array::max_ndim];
  const int ndim = output_shape(problem, shape);
  require(out.ndim == ndim && std::equal(shape, shape + ndim, out.shape), [&] {
    return "out has shape " + shape_of(out) + "; a " + shape_of(a) + " times b " + shape_of(b) + " needs " +
           shape_of(ndim, shape);
  });
  const DType wanted = output_dtype(a.dtype);
  require(out.dtype == wanted || is_narrow(a, out), [&] {
    return std::string("out is ") + name(out.dtype) + "; the product of " + name(a.dtype) + " arrays is " +
           name(wanted) +
           (is_float8(a.dtype)       ? ", float16 or bfloat16"
            : itemsize(a.dtype) == 2 ? std::string(" or ") + name(a.dtype)
                                     : std::string());
  });
  require(out.writable, "out is read-only; give an array that can be written");
  require(!overlaps_itself(out),
          "out has elements that share memory with each other (a stride of 0, or overlapping strides); give an array "
          "of its own");
  require(!share_memory(out, a), "out shares memory with a; matmul cannot work in place, give another out");
  require(!share_memory(out, b), "out shares memory with b; matmul cannot work in place, give another out");
}

// Checks everything but the devices, broadcasts the batch.
inline Problem problem_of(const Array& a, const Array& b, const Array& out, bool accumulate) {
  Problem problem = product_of(a, b);
  check_output(a, b, out, problem);
  set_output(out, accumulate, problem);
  return problem;
}

}  // namespace pyhpc::matmul
