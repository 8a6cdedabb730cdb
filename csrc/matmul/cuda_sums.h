// What a checked product on a GPU asks of it: sums of rows (checksum.h), and a row again in float64. sm80.cu has them,
// for every GPU, element type, stride and batch. Numbers are float64 in GPU memory; rows are counted over the batch.
// All return a cudaError_t.
#pragma once
#include "matmul/matmul.h"

namespace pyhpc::matmul {

inline int64_t batch_size(const Problem& problem) {
  int64_t size = 1;
  for (int i = 0; i < problem.batch_ndim; ++i) size *= problem.batch_shape[i];
  return size;
}

// told[rows][2]: the sum of each row and that of its absolute values; of out as it is, or of the product from a and b,
// which takes weights[batch][k][2].
int enqueue_row_sums(const Problem& problem, bool of_output, double* weights, double* told, uintptr_t stream);

// told[n][3]: the elements of one row of the product, the sums of the absolute values of their terms, and out's.
int enqueue_row(const Problem& problem, int64_t row, double* told, uintptr_t stream);

// told[rows][n]: out as it is.
int enqueue_values(const Problem& problem, double* told, uintptr_t stream);

}  // namespace pyhpc::matmul
