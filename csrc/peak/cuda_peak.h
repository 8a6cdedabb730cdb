// The contract of the CUDA peak targets: the loops of peak.h on every multiprocessor of a GPU.
#pragma once
#include "core/cuda_variant.h"
#include "peak/peak.h"

namespace pyhpc::peak {

enum class Number { float64, float32, tf32, bfloat16, float16, float8_e4m3fn, int8 };

struct CudaProblem {
  Number number;
  int64_t blocks;    // of block_operations each, over the whole GPU
  int64_t* counted;  // one number on the GPU: the operations that the computed values counted
};

using CudaVariant = cuda::Variant<CudaProblem>;

}  // namespace pyhpc::peak
