// The arithmetic ceiling of Hopper (sm_90a): wgmma from shared memory, float64 by its larger mma.sync.
// All rows of a and all columns of b are alike (cuda_loops.h), so shared memory is filled with one pattern of 8 bytes,
// which is the same operand in every layout. Two warpgroups take turns, so that the matrix unit always has the next
// instruction waiting.
#include "core/cuda_wgmma.h"
#include "peak/cuda_loops.h"
#include "peak/cuda_products.h"

namespace pyhpc::peak {
namespace {

namespace wgmma = cuda::wgmma;

constexpr int columns = 256, sums = columns / 2;  // of one wgmma; its sums in each thread
constexpr int a_bytes = wgmma::m * wgmma::line_bytes, b_bytes = columns * wgmma::line_bytes, alignment = 1024;
constexpr int shared_bytes = a_bytes + b_bytes + alignment;
constexpr int group = 6;  // instructions that are waited for together; divides those of every block

// Eight bytes of an operand, as `pairs` gives four.
struct Pattern {
  uint32_t words[2];
};
template <class Element>
__device__ Pattern pattern(Element element, int even, int odd) {
  const uint32_t word = pairs(element, 0, even, odd);
  return {{word, word}};
}
__device__ inline Pattern pattern(cuda::Tf32, int even, int odd) {
  return {{pairs(float{}, 0, even, odd), pairs(float{}, 1, even, odd)}};
}
// E4M3 has 4 significant bits: -7·12 + 8·11 = 4.
__device__ inline Pattern pattern(cuda::Float8E4m3, int even, int) {
  const uint32_t word = even == first_even ? 0x50ce50ce : 0x53545354;  // 8, -7, 8, -7 and 11, 12, 11, 12
  return {{word, word}};
}

// Steps until the sums are read out. In E4M3 Hopper adds with some 14 bits: 64 a step stay below 2^12.
template <class Element>
constexpr int longest = longest_run / group * group;
template <>
constexpr int longest<cuda::Float8E4m3> = 60;

__device__ inline void fill(unsigned char* operand, int bytes, const Pattern& pattern) {
  for (int at = static_cast<int>(threadIdx.x) * 8; at < bytes; at += threads * 8)
    *reinterpret_cast<Pattern*>(operand + at) = pattern;
}

template <class Element>
__global__ void __launch_bounds__(threads, 1) wgmma_kernel(CudaProblem p) {
  constexpr int64_t warp_operations = 2 * 16 * columns * (wgmma::k_bytes / sizeof(Element));  // of one instruction
  unsigned char* base = cuda::shared_memory();
  base += -reinterpret_cast<uintptr_t>(base) % alignment;
  fill(base, a_bytes, pattern(Element{}, first_even, first_odd));
  fill(base + a_bytes, b_bytes, pattern(Element{}, second_even, second_odd));
  cuda::fence_shared_for_async();
  __syncthreads();
  const uint64_t a = wgmma::descriptor(cuda::address_of(base), false),
                 b = wgmma::descriptor(cuda::address_of(base + a_bytes), false);
  int64_t counted = 0;
  for (int64_t left = own_steps<warp_operations>(p); left > 0; left -= longest<Element>) {
    const int steps = static_cast<int>(left < longest<Element> ? left : longest<Element>);
    wgmma::Sum<Element> d[sums];
    wgmma::pin(d);
    for (int step = 0; step < steps; step += group) {
      wgmma::fence();
#pragma unroll
      for (int i = 0; i < group; ++i) {
        const uint64_t k = i % 4 * wgmma::next_k(false);
        wgmma::multiply_add<Element, false, false>(d, a + k, b + k, step + i > 0);
      }
      wgmma::commit();
      wgmma::wait<1>();
    }
    wgmma::wait<0>();
    wgmma::pin(d);
    counted += total(d);
  }
  add_up(counted, p.counted);
}

using Float64 = ProductLoop<Shape<double, double, double, 16, 16>, 4>;

int run(const CudaProblem& p, uintptr_t stream) {
  if (p.number == Number::float64) return launch_everywhere(loop_kernel<Float64>, 0, p, stream);
  const auto kernel = p.number == Number::tf32       ? wgmma_kernel<cuda::Tf32>
                      : p.number == Number::bfloat16 ? wgmma_kernel<cuda::Bfloat16>
                      : p.number == Number::float16  ? wgmma_kernel<cuda::Float16>
                      : p.number == Number::int8     ? wgmma_kernel<int8_t>
                                                     : wgmma_kernel<cuda::Float8E4m3>;
  return launch_everywhere(kernel, shared_bytes, p, stream);
}

const char* refusal(const CudaProblem& p) {
  return p.number == Number::float32 ? "no tensor core multiplies whole float32 numbers" : nullptr;
}

}  // namespace

extern const CudaVariant sm90;
const CudaVariant sm90 = {"sm90", run, refusal};

}  // namespace pyhpc::peak
