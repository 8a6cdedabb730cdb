// The arithmetic ceiling of every GPU since Ampere: tensor cores by mma.sync, float32 by fused multiply-adds, operands
// and sums in registers alone. On Hopper mma.sync reaches about two thirds of the tensor cores' rate: sm90.cu.
#include "peak/cuda_loops.h"
#include "peak/cuda_products.h"

namespace pyhpc::peak {
namespace {

// x ← x·3 + 3; x ← x·third + 3: each pair adds 4 (peak.h).
struct MultiplyAddLoop {
  static constexpr int chains = 16, warp_operations = 4 * chains * cuda::warp_size;

  __device__ static int64_t run(int steps) {
    constexpr float third = 1.0f / 3;
    float x[chains];
#pragma unroll
    for (int i = 0; i < chains; ++i) x[i] = static_cast<float>(i + 1);
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int i = 0; i < chains; ++i) x[i] = fmaf(x[i], 3.0f, 3.0f);
#pragma unroll
      for (int i = 0; i < chains; ++i) x[i] = fmaf(x[i], third, 3.0f);
    }
#pragma unroll
    for (int i = 0; i < chains; ++i) x[i] -= static_cast<float>(i + 1);
    return total(x);
  }
};

using Bfloat16 = ProductLoop<Shape<cuda::Bfloat16, uint32_t, float, 16, 16>, 8>;
using Float16 = ProductLoop<Shape<cuda::Float16, uint32_t, float, 16, 16>, 8>;
using Tf32 = ProductLoop<Shape<float, uint32_t, float, 16, 8>, 8>;
using Float64 = ProductLoop<Shape<double, double, double, 8, 4>, 8>;
using Int8 = ProductLoop<Shape<int8_t, uint32_t, int32_t, 16, 32>, 8>;

int run(const CudaProblem& p, uintptr_t stream) {
  const auto kernel = p.number == Number::float64    ? loop_kernel<Float64>
                      : p.number == Number::float32  ? loop_kernel<MultiplyAddLoop>
                      : p.number == Number::tf32     ? loop_kernel<Tf32>
                      : p.number == Number::bfloat16 ? loop_kernel<Bfloat16>
                      : p.number == Number::float16  ? loop_kernel<Float16>
                                                     : loop_kernel<Int8>;
  return launch_everywhere(kernel, 0, p, stream);
}

const char* refusal(const CudaProblem& p) {
  return p.number == Number::float8_e4m3fn ? "mma.sync multiplies 8-bit floating point only since Ada" : nullptr;
}

}  // namespace

extern const CudaVariant sm80;
const CudaVariant sm80 = {"sm80", run, refusal};

}  // namespace pyhpc::peak
