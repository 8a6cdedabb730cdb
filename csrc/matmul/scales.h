// The scales of 8-bit floating-point operands as the caller gives them: float32 arrays of one of these shapes.
//   all of it one scale               (), (1,), (1, 1)
//   each row of a, each column of b   (m,) or (m, 1);   (n,) or (1, n)
//   each row of a and 128 of k, each 128 × 128 of b     (m, ⌈k/128⌉);   (⌈k/128⌉, ⌈n/128⌉)
#pragma once
#include <cmath>
#include <string>

#include "core/error.h"
#include "matmul/check.h"

namespace pyhpc::matmul {

inline bool has_shape(const Array& x, int64_t rows, int64_t columns) {
  return x.ndim == 2 && x.shape[0] == rows && x.shape[1] == columns;
}

// What is expected of an operand's scale; mn is a's row, b's column.
struct ScaleShape {
  const char* argument;
  int64_t count, blocks;  // along mn: elements; scales, where they change along k
  int mn_axis;            // of the array
};

// Sets `along_k` if the scale changes along k.
inline Scale scale_of(const Array& x, const ScaleShape& shape, int64_t k_blocks, bool& along_k) {
  const int mn = shape.mn_axis, k = 1 - mn;
  const auto is = [&](int64_t size, int64_t depth) { return has_shape(x, mn ? depth : size, mn ? size : depth); };
  require(x.dtype == DType::float32, std::string(shape.argument) + " is " + name(x.dtype) + "; scales are float32");
  int64_t strides[2] = {};
  if (x.size() == 1) {
  } else if (x.ndim == 1 && x.shape[0] == shape.count) {
    strides[0] = x.strides[0];
  } else if (is(shape.count, 1)) {
    strides[0] = x.strides[mn];
  } else if (is(shape.blocks, k_blocks)) {
    strides[0] = shape.blocks > 1 ? x.strides[mn] : 0, strides[1] = x.strides[k];
    along_k = true;
  } else {
    const auto pair = [mn](int64_t size, int64_t depth) {
      return mn ? "(" + std::to_string(depth) + ", " + std::to_string(size) + ")"
                : "(" + std::to_string(size) + ", " + std::to_string(depth) + ")";
    };
    throw Error(ErrorKind::invalid, std::string(shape.argument) + " has shape " + shape_of(x) + "; it must be (1,), " +
                                        pair(shape.count, 1) + " or, for every 128 of k, " +
                                        pair(shape.blocks, k_blocks));
  }
  const double last = static_cast<double>(shape.count) * std::abs(static_cast<double>(strides[0])) +
                      static_cast<double>(k_blocks) * std::abs(static_cast<double>(strides[1]));
  require(last < 2147483648.0, std::string(shape.argument) + " reaches over 2^31 elements; make it contiguous");
  return {static_cast<const float*>(x.data), static_cast<int>(strides[0]), static_cast<int>(strides[1])};
}

// `a` and `b` may be null: 1.
inline Scales scales_of(const Problem& problem, const Array* a, const Array* b, float factor) {
  Scales scales = {};
  scales.factor = factor;
  if (!a && !b && factor == 1) return scales;
  require(is_float8(problem.dtype), "scales are for operands of 8-bit floating point");
  const int64_t k_blocks = (problem.k + 127) / 128;
  bool a_along_k = false, b_along_k = false;
  if (a) scales.a = scale_of(*a, {"scale_a", problem.m, problem.m, 0}, k_blocks, a_along_k);
  if (b) scales.b = scale_of(*b, {"scale_b", problem.n, (problem.n + 127) / 128, 1}, k_blocks, b_along_k);
  scales.along_k = a_along_k || b_along_k;
  require(!(scales.along_k && !b_along_k && scales.b.mn_stride != 0),
          "scale_a changes every 128 of k, but scale_b every column; give b one for each 128 x 128, or one in all");
  int64_t batches = 1;
  for (int i = 0; i < problem.batch_ndim; ++i) batches *= problem.batch_shape[i];
  require(batches == 1 || !(scales.along_k || scales.a.mn_stride || scales.b.mn_stride),
          "scales of rows, columns or blocks are for a product of two matrices, not of a batch");
  return scales;
}

}  // namespace pyhpc::matmul
