// The contract of the CUDA reduction targets: as reduce.h, on device memory.
#pragma once
#include "allreduce/reduce.h"
#include "core/cuda_variant.h"

namespace pyhpc::allreduce {

struct CudaProblem {
  DType dtype;
  Operation operation;
  const void *a, *b;
  void* out;  // exactly a, exactly b, or apart from both
  int64_t count;
};

using CudaVariant = cuda::Variant<CudaProblem>;

}  // namespace pyhpc::allreduce
