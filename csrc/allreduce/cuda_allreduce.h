// The contract of the CUDA reduction targets: out[i] = a[i] op b[i], the local step of an all-reduce.
// Integers wrap modulo 2^bits; 16-bit floats are computed in float and rounded once; min and max of a NaN are NaN. out may be
// a or b.
#pragma once
#include "core/array.h"
#include "core/cuda_variant.h"

namespace pyhpc::allreduce {

enum class CudaOperation : int { sum, prod, min, max };

struct CudaProblem {
  DType dtype;
  CudaOperation operation;
  const void *a, *b;
  void* out;
  int64_t count;
};

using CudaVariant = cuda::Variant<CudaProblem>;

}  // namespace pyhpc::allreduce
