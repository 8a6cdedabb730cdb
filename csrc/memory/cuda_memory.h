// The contract of the CUDA memory targets: the operations of memory.h on device memory. read writes partial sums, one
// block each, instead of returning their total: nothing waits for the GPU.
#pragma once
#include "core/cuda_variant.h"
#include "memory/memory.h"

namespace pyhpc::memory {

struct CudaProblem {
  Operation operation;
  const double *a, *b;
  double* c;
  int64_t count;         // elements of a (and of b and c, except for read)
  int64_t partial_sums;  // read: elements of c; c[i] is the sum of the i-th of as many equal parts of a
};

using CudaVariant = cuda::Variant<CudaProblem>;

}  // namespace pyhpc::memory
