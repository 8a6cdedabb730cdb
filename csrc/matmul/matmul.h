// The contract of the CPU matmul: out = a b, or out += a b, for every matrix of a batch.
//   out[i, j] (+)= sum over p of a[i, p] b[p, j],   i < m, j < n, p < k
// float64 -> float64, float32 -> float32, bfloat16 and float16 -> float32 or the same, int8 -> int32 (modulo 2^32).
// The order of summation depends on the shape, the strides and the processor's caches alone: the same call gives the
// same bits whatever the number of threads. Products with Inf and NaN reach exactly the elements IEEE 754 says.
#pragma once
#include <stdint.h>

#include "core/array.h"

namespace pyhpc::matmul {

// Factors of the elements of an 8-bit floating-point operand: float32, on the device of the operand. Element (mn, p),
// mn a's row or b's column, is multiplied by values[mn mn_stride], or, with scales along k, by values[mn_block
// mn_stride + p/128 k_stride], mn_block the row of a or b's block of 128 columns.
struct Scale {
  const float* values = nullptr;    // nullptr: 1
  int mn_stride = 0, k_stride = 0;  // the last element is not 2^31 elements or more away: registers are scarce
};
struct Scales {
  float factor = 1;  // of every element of the product
  bool along_k = false;
  Scale a, b;
};

// Strides are in elements, of any sign; those of out do not overlap. Data is aligned to its element size.
struct Problem {
  DType dtype;  // of a and b
  int64_t m, n, k;
  const void *a, *b;
  void* out;
  int64_t a_row, a_column, b_row, b_column, out_row, out_column;
  bool accumulate;
  bool narrow;  // out is of a's 16-bit type: sums are float32 all the same, and rounded once, to nearest even
  int batch_ndim;
  int64_t batch_shape[Array::max_ndim], a_batch[Array::max_ndim], b_batch[Array::max_ndim], out_batch[Array::max_ndim];
  // On a GPU alone: 8-bit floating-point operands may have scales, float32 operands may be rounded to TF32.
  DType out_dtype;
  Scales scales;
  bool tf32;
};

// One thread computes a product of so many multiply-adds faster than a team is asked for and woken.
constexpr double least_shared_work = 1 << 18;

struct Variant {
  const char* name;
  bool (*run)(const Problem& problem, int threads);  // false: no memory for packing, out is untouched
  // The same with the checksums of the product and, after it, of out.
  bool (*run_checked)(const Problem& problem, double* product_sums, double* out_sums, int threads);
  // For each row of the batch, in order: the sum of its elements and of their absolute values; of out as it is, or of
  // the product from a and b (checksum.h). 0 for absolute values of integers. false: no memory.
  bool (*checksums)(const Problem& problem, bool of_output, double* sums, int threads);
  // b, of which all of a batch use the same, packed for many products (packed.h): the bytes that takes, and, where
  // `packed` is not null, does it. run_packed multiplies by it; it is run otherwise.
  int64_t (*pack)(const Problem& problem, void* packed, int threads);
  bool (*run_packed)(const Problem& problem, const void* packed, int threads);
};

}  // namespace pyhpc::matmul
