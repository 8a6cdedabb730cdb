// Which products the copy engine can feed, and how: plain C++, no CUDA.
// An operand of sm90.cu is "mn × k": rows of a, or columns of b. One of the two directions must be contiguous, the
// other and the batch must have strides of whole 16 bytes, and the data must begin at 16 bytes. Elements that are not
// of 16 bits must be contiguous along k. sm80.cu computes the rest.
#pragma once
#include <stdint.h>

#include "matmul/matmul.h"

namespace pyhpc::matmul::sm90_operand {

constexpr int alignment = 16;               // bytes
constexpr int64_t most = int64_t{1} << 30;  // coordinates are signed, of 32 bits, and a tile's end lies beyond the edge
constexpr int64_t widest = int64_t{1} << 38;  // elements of 4 bytes in the largest stride

struct Operand {
  int bytes;  // of an element
  const void* data;
  int64_t mn, k, mn_stride, k_stride, batch_stride;
};

inline bool is_stride(int64_t stride, int64_t size, int64_t unit) {
  return size == 1 || (stride > 0 && stride % unit == 0 && stride < widest);
}

// A stride that is never used still has to be one that the engine takes.
inline int64_t stride_for(int64_t stride, int64_t size, int64_t unit) { return size == 1 ? unit : stride; }

inline bool can_lie_along_k(const Operand& x) {
  return (x.k_stride == 1 || x.k == 1) && is_stride(x.mn_stride, x.mn, alignment / x.bytes);
}
inline bool can_lie_along_mn(const Operand& x) {  // the tensor cores turn operands of 16 bits alone
  return x.bytes == 2 && (x.mn_stride == 1 || x.mn == 1) && is_stride(x.k_stride, x.k, alignment / x.bytes);
}
inline bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % alignment == 0; }

// The problem with the batch's dimensions merged where they lie as one. The kernel takes one; more are launches.
inline Problem merged(Problem problem) {
  int count = 0;
  for (int i = 0; i < problem.batch_ndim; ++i) {
    const int64_t size = problem.batch_shape[i];
    if (size == 1) continue;
    const int to = count - 1;
    if (count && problem.a_batch[to] == problem.a_batch[i] * size && problem.b_batch[to] == problem.b_batch[i] * size &&
        problem.out_batch[to] == problem.out_batch[i] * size) {
      problem.batch_shape[to] *= size;
    } else {
      problem.batch_shape[count++] = size;
    }
    problem.a_batch[count - 1] = problem.a_batch[i];
    problem.b_batch[count - 1] = problem.b_batch[i];
    problem.out_batch[count - 1] = problem.out_batch[i];
  }
  problem.batch_ndim = count;
  return problem;
}

inline int64_t last(const Problem& problem, const int64_t* of, int64_t otherwise) {
  return problem.batch_ndim ? of[problem.batch_ndim - 1] : otherwise;
}
inline int64_t batches(const Problem& problem) { return last(problem, problem.batch_shape, 1); }

inline Operand operand_a(const Problem& problem) {
  return {itemsize(problem.dtype),          problem.a, problem.m, problem.k, problem.a_row, problem.a_column,
          last(problem, problem.a_batch, 0)};
}
inline Operand operand_b(const Problem& problem) {
  return {itemsize(problem.dtype),          problem.b, problem.n, problem.k, problem.b_column, problem.b_row,
          last(problem, problem.b_batch, 0)};
}

// out^T = b^T a^T.
inline Problem transposed(const Problem& problem) {
  Problem result = problem;
  result.m = problem.n, result.n = problem.m;
  result.a = problem.b, result.a_row = problem.b_column, result.a_column = problem.b_row;
  result.b = problem.a, result.b_row = problem.a_column, result.b_column = problem.a_row;
  result.out_row = problem.out_column, result.out_column = problem.out_row;
  result.scales.a = problem.scales.b, result.scales.b = problem.scales.a;
  for (int i = 0; i < problem.batch_ndim; ++i)
    result.a_batch[i] = problem.b_batch[i], result.b_batch[i] = problem.a_batch[i];
  return result;
}

// Whether the copy engine can write out: rows contiguous, nothing to add to.
inline bool out_by_box(const Problem& problem) {
  const int64_t unit = alignment / itemsize(problem.out_dtype);
  const bool rows = problem.n == 1 || problem.out_column == 1;
  bool batch = true;
  for (int i = 0; i < problem.batch_ndim; ++i)
    batch = batch && is_stride(problem.out_batch[i], problem.batch_shape[i], unit);
  return !problem.accumulate && rows && is_stride(problem.out_row, problem.m, unit) && batch && is_aligned(problem.out);
}

inline bool batch_fits(const int64_t* strides, const Problem& problem) {
  for (int i = 0; i < problem.batch_ndim; ++i)
    if (strides[i] != 0 && !is_stride(strides[i], problem.batch_shape[i], alignment / itemsize(problem.dtype)))
      return false;
  return true;
}

// Why the tensor cores of sm_90a do not take this product, as the end of "... because", or nullptr.
inline const char* refusal(const Problem& problem) {
  if (problem.dtype == DType::float64) return "it has no instruction for float64 with operands in shared memory";
  if (problem.dtype == DType::float32 && !problem.tf32) return "its tensor cores would round float32 to TF32";
  if (problem.k == 0) return "k is 0, and the copy engine takes no empty tensor";
  if (problem.m >= most || problem.n >= most || problem.k >= most) return "a size is 2^30 or more";
  if ((problem.m / 64 + 2.0) * (problem.n / 64 + 2.0) * batches(problem) >= most) return "there are 2^30 tiles or more";
  const Operand a = operand_a(problem), b = operand_b(problem);
  if (!is_aligned(a.data)) return "a does not begin at a multiple of 16 bytes";
  if (!is_aligned(b.data)) return "b does not begin at a multiple of 16 bytes";
  if (!can_lie_along_k(a) && !can_lie_along_mn(a))
    return a.bytes == 2
               ? "a has no contiguous direction, or a stride that is no positive multiple of 16 bytes"
               : "a's rows are not contiguous along k, or have a stride that is no positive multiple of 16 bytes";
  if (!can_lie_along_k(b) && !can_lie_along_mn(b))
    return b.bytes == 2 ? "b has no contiguous direction, or a stride that is no positive multiple of 16 bytes"
                        : "b's columns are not contiguous along k, or have a stride that is no positive multiple of 16 "
                          "bytes";
  if (!batch_fits(problem.a_batch, problem) || !batch_fits(problem.b_batch, problem))
    return "the batch has a stride that is no positive multiple of 16 bytes";
  return nullptr;
}

}  // namespace pyhpc::matmul::sm90_operand
