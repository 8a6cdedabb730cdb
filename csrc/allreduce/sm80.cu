// Elementwise reduction of two buffers for every GPU since Ampere: see reduce.h. Bound by memory, so neighbouring
// threads take neighbouring elements and each thread has several under way.
#include "allreduce/cuda_allreduce.h"
#include "core/cuda_kernel.h"

namespace pyhpc::allreduce {
namespace {

constexpr int threads = 256, per_thread = 4;

template <Operation operation, class T>
__device__ T ordered(T a, T b) {
  if (a != a) return a;  // NaN
  if (b != b) return b;
  return (operation == Operation::min ? b < a : b > a) ? b : a;
}

// Type in which sums and products are formed: unsigned for integers, where overflow is defined, and wide enough that
// the promotion of small types does not overflow either.
template <class T>
struct Wide {
  using type = uint64_t;
};
template <>
struct Wide<double> {
  using type = double;
};
template <>
struct Wide<float> {
  using type = float;
};

template <Operation operation, class T>
__device__ T combined(T a, T b) {
  using W = typename Wide<T>::type;
  if constexpr (operation == Operation::sum) return static_cast<T>(static_cast<W>(a) + static_cast<W>(b));
  if constexpr (operation == Operation::prod) return static_cast<T>(static_cast<W>(a) * static_cast<W>(b));
  return ordered<operation>(a, b);
}
template <Operation operation>
__device__ cuda::Float16 combined(cuda::Float16 a, cuda::Float16 b) {
  return cuda::converted<cuda::Float16>(combined<operation>(cuda::to_float(a), cuda::to_float(b)));
}
template <Operation operation>
__device__ cuda::Bfloat16 combined(cuda::Bfloat16 a, cuda::Bfloat16 b) {
  return cuda::converted<cuda::Bfloat16>(combined<operation>(cuda::to_float(a), cuda::to_float(b)));
}

template <Operation operation, class T>
__global__ void __launch_bounds__(threads) kernel(CudaProblem p) {
  const auto *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  T* out = static_cast<T*>(p.out);
  const int64_t first = int64_t{blockIdx.x} * threads * per_thread + threadIdx.x;
  T results[per_thread];
#pragma unroll
  for (int i = 0; i < per_thread; ++i)
    if (const int64_t at = first + i * threads; at < p.count) results[i] = combined<operation>(a[at], b[at]);
#pragma unroll
  for (int i = 0; i < per_thread; ++i)
    if (const int64_t at = first + i * threads; at < p.count) out[at] = results[i];
}

template <class T>
int run_type(const CudaProblem& p, uintptr_t stream) {
  const auto launch = [&](void (*chosen)(CudaProblem)) {
    return cuda::launch(chosen, cuda::blocks_for(p.count, threads * per_thread), threads, 0, stream, p);
  };
  switch (p.operation) {
    case Operation::sum:
      return launch(kernel<Operation::sum, T>);
    case Operation::prod:
      return launch(kernel<Operation::prod, T>);
    case Operation::min:
      return launch(kernel<Operation::min, T>);
    default:
      return launch(kernel<Operation::max, T>);
  }
}

int run(const CudaProblem& p, uintptr_t stream) {
  if (p.count == 0) return 0;  // a launch of no blocks is an error
  switch (p.dtype) {
    case DType::float64:
      return run_type<double>(p, stream);
    case DType::float32:
      return run_type<float>(p, stream);
    case DType::float16:
      return run_type<cuda::Float16>(p, stream);
    case DType::bfloat16:
      return run_type<cuda::Bfloat16>(p, stream);
    case DType::int64:
      return run_type<int64_t>(p, stream);
    case DType::int32:
      return run_type<int32_t>(p, stream);
    case DType::int16:
      return run_type<int16_t>(p, stream);
    case DType::int8:
      return run_type<int8_t>(p, stream);
    case DType::uint64:
      return run_type<uint64_t>(p, stream);
    case DType::uint32:
      return run_type<uint32_t>(p, stream);
    case DType::uint16:
      return run_type<uint16_t>(p, stream);
    default:
      return run_type<uint8_t>(p, stream);
  }
}

}  // namespace

extern const CudaVariant sm80;
const CudaVariant sm80 = {"sm80", run};

}  // namespace pyhpc::allreduce
