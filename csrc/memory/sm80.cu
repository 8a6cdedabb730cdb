// Memory traffic for every GPU since Ampere: read, copy, triad and fill of memory.h.
// Neighbouring threads take neighbouring elements, and each thread has several accesses under way, which is what it
// takes to fill the memory's latency. The partial sums of read are added in a fixed order: the same bits every time.
#include "core/cuda_kernel.h"
#include "memory/cuda_memory.h"

namespace pyhpc::memory {
namespace {

constexpr int threads = 256, per_thread = 4;

template <Operation operation>
__device__ void element(const CudaProblem& p, int64_t i) {
  if (operation == Operation::copy) p.c[i] = p.a[i];
  if (operation == Operation::triad) p.c[i] = p.a[i] + scalar * p.b[i];
  if (operation == Operation::fill) p.c[i] = scalar;
}

template <Operation operation>
__global__ void __launch_bounds__(threads) write_kernel(CudaProblem p) {
  const int64_t first = int64_t{blockIdx.x} * threads * per_thread + threadIdx.x;
#pragma unroll
  for (int i = 0; i < per_thread; ++i)
    if (const int64_t at = first + i * threads; at < p.count) element<operation>(p, at);
}

__global__ void __launch_bounds__(threads) read_kernel(CudaProblem p) {
  __shared__ double sums[threads];
  const int64_t part = cuda::blocks_for(p.count, p.partial_sums), begin = blockIdx.x * part;
  const int64_t end = begin + part < p.count ? begin + part : p.count;
  double own[per_thread] = {};
  for (int64_t first = begin + threadIdx.x; first < end; first += threads * per_thread)
#pragma unroll
    for (int i = 0; i < per_thread; ++i)
      if (const int64_t at = first + i * threads; at < end) own[i] += p.a[at];
  sums[threadIdx.x] = (own[0] + own[1]) + (own[2] + own[3]);
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) p.c[blockIdx.x] = sums[0];
}

int run(const CudaProblem& p, uintptr_t stream) {
  if (p.operation == Operation::read)
    return p.partial_sums ? cuda::launch(read_kernel, p.partial_sums, threads, 0, stream, p) : 0;
  if (p.count == 0) return 0;  // a launch of no blocks is an error
  const auto kernel = p.operation == Operation::copy    ? write_kernel<Operation::copy>
                      : p.operation == Operation::triad ? write_kernel<Operation::triad>
                                                        : write_kernel<Operation::fill>;
  return cuda::launch(kernel, cuda::blocks_for(p.count, threads * per_thread), threads, 0, stream, p);
}

}  // namespace

extern const CudaVariant sm80;
const CudaVariant sm80 = {"sm80", run};

}  // namespace pyhpc::memory
