// What the CUDA peak targets share: as many thread blocks as the GPU holds at once, an equal share of the work for
// each, and the sum of what their values counted. Included by target files only.
//
// On tensor cores all rows of a are alike and all columns of b: pairs along k whose products sum to 4, the number of
// their multiplications and additions (as dot.h does for bytes). So each element of d counts its own operations.
#pragma once
#include "core/cuda_kernel.h"
#include "peak/cuda_peak.h"

namespace pyhpc::peak {
namespace {

// -38·127 + 46·105 = 4, in numbers that int8 and bfloat16 have, and so do all wider types.
constexpr int first_even = -38, first_odd = 46, second_even = 127, second_odd = 105;

constexpr int threads = 256, warps = threads / cuda::warp_size;
// Steps until the accumulators are read out: they have counted at most 2^18 each then, and those of a thread together
// at most 2^24, so float is exact.
constexpr int longest_run = 4096;

#if defined(__CUDACC__)

__device__ inline void add_to(int64_t* sum, int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}

// How many blocks of `kernel` all multiprocessors of the current device together hold. Returns a cudaError_t.
inline int count_resident_blocks(void (*kernel)(CudaProblem), size_t shared_bytes, int64_t& count) {
  int device = 0, multiprocessors = 0, each = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status == cudaSuccess)
    status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared_bytes);
  count = int64_t{each} * multiprocessors;
  return status;
}

#else

inline void add_to(int64_t* sum, int64_t value) { *sum += value; }
inline int count_resident_blocks(void (*)(CudaProblem), size_t, int64_t& count) { return count = 2, 0; }

#endif

// The sum of a thread's accumulators.
template <class Sum, int count>
__device__ __forceinline__ int64_t total(const Sum (&sums)[count]) {
  Sum sum = 0;
#pragma unroll
  for (int i = 0; i < count; ++i) sum += sums[i];
  return static_cast<int64_t>(sum);
}

// *all += what the threads of this block counted together.
__device__ inline void add_up(int64_t counted, int64_t* all) {
  __shared__ int64_t sums[threads];
  sums[threadIdx.x] = counted;
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) add_to(all, sums[0]);
}

// This thread block's share of the work, in steps of which each of its warps does `warp_operations`.
template <int64_t warp_operations>
__device__ inline int64_t own_steps(const CudaProblem& p) {
  static_assert(block_operations % (warp_operations * warps) == 0, "a block is a whole number of steps");
  const int64_t number = blockIdx.x, of = gridDim.x;
  return (p.blocks * (number + 1) / of - p.blocks * number / of) * (block_operations / (warp_operations * warps));
}

// Loop::run(steps) does at most longest_run steps and returns what this thread's values counted.
template <class Loop>
__global__ void __launch_bounds__(threads, 2) loop_kernel(CudaProblem p) {
  int64_t counted = 0;
  for (int64_t left = own_steps<Loop::warp_operations>(p); left > 0; left -= longest_run)
    counted += Loop::run(static_cast<int>(left < longest_run ? left : longest_run));
  add_up(counted, p.counted);
}

__global__ void zero_kernel(CudaProblem p) {
  if (threadIdx.x == 0) *p.counted = 0;
}

// Zeroes the count and fills the GPU with `kernel`.
inline int launch_everywhere(void (*kernel)(CudaProblem), size_t shared_bytes, const CudaProblem& p, uintptr_t stream) {
  int64_t resident = 0;
  if (const int status = count_resident_blocks(kernel, shared_bytes, resident)) return status;
  if (const int status = cuda::launch(zero_kernel, 1, cuda::warp_size, 0, stream, p)) return status;
  return p.blocks ? cuda::launch(kernel, resident, threads, shared_bytes, stream, p) : 0;
}

}  // namespace
}  // namespace pyhpc::peak
