// The checks of sm80.cu: sums along the lines of a matrix, and one row of a product again, in float64.
//   told[i] = (Σ_j x[i, j] w[j], Σ_j |x[i, j]| |w|[j])      w: (sum, sum of absolute values) of the lines of b, or 1
// Each matrix is read once, neighbouring threads reading neighbouring elements; sums are added in a fixed order.
#pragma once
#include "matmul/cuda_sums.h"
#include "matmul/sm80_block.h"

namespace pyhpc::matmul {
namespace {

namespace sums {

constexpr int threads = 256;

// Matrices of a batch as lines; `step` goes along a line.
struct Lines {
  const void* data;
  int64_t line, step, lines, count;
  int batch_ndim;
  int64_t shape[Array::max_ndim], stride[Array::max_ndim];

  // How many threads share a line: a warp where elements lie side by side, else so many that a warp has 32 lines.
  __host__ __device__ int sharers() const {
    return llabs(step) <= llabs(line) ? cuda::warp_size : threads / cuda::warp_size;
  }
};

__device__ inline double value(double x) { return x; }
__device__ inline double value(float x) { return x; }
__device__ inline double value(Bfloat16 x) { return cuda::to_float(x); }
__device__ inline double value(Float16 x) { return cuda::to_float(x); }
__device__ inline double value(int8_t x) { return x; }
__device__ inline double value(int32_t x) { return x; }

template <class T>
__global__ void __launch_bounds__(threads) line_kernel(Lines x, const double* weights, double* told) {
  __shared__ double all_sums[threads], all_sizes[threads];
  const int thread = static_cast<int>(threadIdx.x), sharers = x.sharers(), together = threads / sharers;
  const bool along = sharers == cuda::warp_size;
  const int part = along ? thread % sharers : thread / together;
  const int64_t blocks = cuda::blocks_for(x.lines, together), item = blockIdx.x / blocks;
  const int64_t line = blockIdx.x % blocks * together + (along ? thread / sharers : thread % together);
  double sum = 0, size = 0;
  if (line < x.lines) {
    const T* from = static_cast<const T*>(x.data) + line * x.line;
    int64_t index = item;
    for (int i = x.batch_ndim - 1; i >= 0; index /= x.shape[i--]) from += index % x.shape[i] * x.stride[i];
    for (int64_t j = part; j < x.count; j += sharers) {
      const double one = value(from[j * x.step]);
      const int64_t weight = 2 * (item * x.count + j);
      sum += weights ? one * weights[weight] : one, size += weights ? fabs(one) * weights[weight + 1] : fabs(one);
    }
  }
  all_sums[thread] = sum, all_sizes[thread] = size;
  __syncthreads();
  if (part > 0 || line >= x.lines) return;
  for (int i = 1; i < sharers; ++i) {
    const int other = thread + (along ? i : i * together);
    sum += all_sums[other], size += all_sizes[other];
  }
  double* to = told + 2 * (item * x.lines + line);
  to[0] = sum, to[1] = size;
}

// told[j] = (Σ_p a[row, p] b[p, j], Σ_p |a[row, p] b[p, j]|, out[row, j]), one thread each.
template <class In, class Out>
__global__ void __launch_bounds__(threads) row_kernel(Problem problem, int64_t row, double* told) {
  const int64_t i = row % problem.m, j = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (j >= problem.n) return;
  const Block at = block_at(problem, row / problem.m, i, j);
  const In* a = static_cast<const In*>(problem.a) + at.a + i * problem.a_row;
  const In* b = static_cast<const In*>(problem.b) + at.b + j * problem.b_column;
  double sum = 0, size = 0;
  for (int64_t p = 0; p < problem.k; ++p) {
    const double term = value(a[p * problem.a_column]) * value(b[p * problem.b_row]);
    sum += term, size += fabs(term);
  }
  const Out* out = static_cast<const Out*>(problem.out) + at.out + i * problem.out_row + j * problem.out_column;
  told[3 * j] = sum, told[3 * j + 1] = size, told[3 * j + 2] = value(*out);
}

template <class Out>
__global__ void __launch_bounds__(threads) values_kernel(Problem problem, int64_t count, double* told) {
  const int64_t index = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index >= count) return;
  const int64_t row = index / problem.n, i = row % problem.m, j = index % problem.n;
  const Block at = block_at(problem, row / problem.m, i, j);
  told[index] = value(static_cast<const Out*>(problem.out)[at.out + i * problem.out_row + j * problem.out_column]);
}

// use(x) with x of `dtype`, which is Integer if it is no type of floating point.
template <class Integer, class Use>
int with_type(DType dtype, Use use) {
  switch (dtype) {
    case DType::float64:
      return use(double{});
    case DType::float32:
      return use(float{});
    case DType::bfloat16:
      return use(Bfloat16{});
    case DType::float16:
      return use(Float16{});
    default:
      return use(Integer{});
  }
}

Lines lines_of(const Problem& problem, const void* data, const int64_t* batch) {
  Lines lines = {};
  lines.data = data, lines.batch_ndim = problem.batch_ndim;
  for (int i = 0; i < problem.batch_ndim; ++i) lines.shape[i] = problem.batch_shape[i], lines.stride[i] = batch[i];
  return lines;
}

template <class T>
int enqueue_lines(const Lines& x, int64_t batch, const double* weights, double* told, uintptr_t stream) {
  const int64_t blocks = batch * cuda::blocks_for(x.lines, threads / x.sharers());
  return blocks ? cuda::launch(line_kernel<T>, blocks, threads, 0, stream, x, weights, told) : 0;
}

int enqueue(const Problem& problem, bool of_output, double* weights, double* told, uintptr_t stream) {
  const int64_t batch = batch_size(problem);
  const double* none = nullptr;
  if (of_output) {
    Lines out = lines_of(problem, problem.out, problem.out_batch);
    out.line = problem.out_row, out.step = problem.out_column, out.lines = problem.m, out.count = problem.n;
    return with_type<int32_t>(problem.out_dtype,
                              [&](auto type) { return enqueue_lines<decltype(type)>(out, batch, none, told, stream); });
  }
  Lines b = lines_of(problem, problem.b, problem.b_batch), a = lines_of(problem, problem.a, problem.a_batch);
  b.line = problem.b_row, b.step = problem.b_column, b.lines = problem.k, b.count = problem.n;
  a.line = problem.a_row, a.step = problem.a_column, a.lines = problem.m, a.count = problem.k;
  return with_type<int8_t>(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int status = enqueue_lines<T>(b, batch, none, weights, stream);
    return status ? status : enqueue_lines<T>(a, batch, weights, told, stream);
  });
}

int enqueue_row(const Problem& problem, int64_t row, double* told, uintptr_t stream) {
  const int64_t blocks = cuda::blocks_for(problem.n, threads);
  return with_type<int8_t>(problem.dtype, [&](auto in) {
    using In = decltype(in);
    using Sum = typename std::conditional<sizeof(In) == 1, int32_t,
                                          typename std::conditional<sizeof(In) == 8, double, float>::type>::type;
    const auto run = [&](void (*kernel)(Problem, int64_t, double*)) {
      return cuda::launch(kernel, blocks, threads, 0, stream, problem, row, told);
    };
    if constexpr (sizeof(In) == 2)
      if (problem.narrow) return run(row_kernel<In, In>);
    return run(row_kernel<In, Sum>);
  });
}

int enqueue_values(const Problem& problem, double* told, uintptr_t stream) {
  const int64_t count = batch_size(problem) * problem.m * problem.n;
  return with_type<int32_t>(problem.out_dtype, [&](auto type) {
    return cuda::launch(values_kernel<decltype(type)>, cuda::blocks_for(count, threads), threads, 0, stream, problem,
                        count, told);
  });
}

}  // namespace sums
}  // namespace
}  // namespace pyhpc::matmul
