// What the kernels of sm80.cu share: a block's tile, operands read by any strides, out written by any strides.
#pragma once
#include <type_traits>

#include "core/cuda_kernel.h"
#include "matmul/tile_log.h"

namespace pyhpc::matmul {
namespace {

using cuda::Bfloat16;
using cuda::Float16;

// One matrix of the batch as a block sees it: `row` steps over m (or n), `k` over the summed direction.
template <class T>
struct View {
  const T* data;
  int64_t row, k, rows, depth;
  bool along_k;
};

// A tile of an operand, rows × depth words of `elements` along k, as the threads of a block fetch it: each thread's
// words lie at equal steps, neighbouring threads' in the direction of the smaller stride, so near each other. Beyond
// the operand there are zeros. Steps instead of positions, because addresses in 64 bits take many registers.
template <class T, int rows, int depth, int threads, int elements = 1>
struct Reader {
  static constexpr int count = rows * depth / threads;  // words of a thread
  const T* at;
  int64_t step, advance_step, k_stride, first_k, left;  // elements; along k: before the tile, from it on
  int row, k, row_step, k_step, rows_left;

  __device__ explicit Reader(const View<T>& view) : k_stride(view.k), first_k(0), left(view.depth) {
    const int thread = static_cast<int>(threadIdx.x);
    row = view.along_k ? thread / depth : thread % rows, k = view.along_k ? thread % depth : thread / rows;
    row_step = view.along_k ? threads / depth : 0, k_step = view.along_k ? 0 : threads / rows;
    rows_left = static_cast<int>(view.rows < rows ? view.rows : rows);
    at = view.data + row * view.row + k * elements * view.k;
    step = row_step * view.row + k_step * elements * view.k;
    advance_step = depth * elements * view.k;
  }

  __device__ int row_of(int i) const { return row + i * row_step; }
  __device__ int k_of(int i) const { return k + i * k_step; }
  // Element j of word i.
  __device__ T get(int i, int j = 0) const {
    return row_of(i) < rows_left && k_of(i) * elements + j < left ? at[i * step + j * k_stride] : T{};
  }
  __device__ void advance() { at += advance_step, first_k += depth * elements, left -= depth * elements; }
};

struct Block {
  int64_t first_row, first_column, a, b, out;  // the tile's origin; the batch's offsets
};

// The tile at `first_row`, `first_column` of product `index` of the batch.
__device__ inline Block block_at(const Problem& problem, int64_t index, int64_t first_row, int64_t first_column) {
  Block block = {first_row, first_column, 0, 0, 0};
  for (int i = problem.batch_ndim - 1; i >= 0; --i) {
    const int64_t step = index % problem.batch_shape[i];
    index /= problem.batch_shape[i];
    block.a += step * problem.a_batch[i];
    block.b += step * problem.b_batch[i];
    block.out += step * problem.out_batch[i];
  }
  return block;
}

// Blocks are numbered column tile first, then row tile, then batch. With `records`, the first thread tells who it is.
__device__ inline Block block_of(const Problem& problem, int tile_rows, int tile_columns, TileRecord* records) {
  const int64_t columns = cuda::blocks_for(problem.n, tile_columns), rows = cuda::blocks_for(problem.m, tile_rows);
  const int64_t index = blockIdx.x, item = index / (columns * rows);
  const int64_t row = index / columns % rows * tile_rows, column = index % columns * tile_columns;
  if (records && threadIdx.x == 0)
    records[index] = {cuda::multiprocessor_number(),
                      0,
                      0,
                      0,
                      static_cast<uint64_t>(row),
                      static_cast<uint64_t>(column),
                      static_cast<uint64_t>(item),
                      static_cast<uint64_t>(tile_rows) << 32 | static_cast<uint64_t>(tile_columns)};
  return block_at(problem, item, row, column);
}

template <class T>
__device__ View<T> rows_of_a(const Problem& problem, const Block& block) {
  const T* data = static_cast<const T*>(problem.a) + block.a + block.first_row * problem.a_row;
  const bool along_k = llabs(problem.a_column) <= llabs(problem.a_row);
  return {data, problem.a_row, problem.a_column, problem.m - block.first_row, problem.k, along_k};
}

template <class T>
__device__ View<T> columns_of_b(const Problem& problem, const Block& block) {
  const T* data = static_cast<const T*>(problem.b) + block.b + block.first_column * problem.b_column;
  const bool along_k = llabs(problem.b_row) <= llabs(problem.b_column);
  return {data, problem.b_column, problem.b_row, problem.n - block.first_column, problem.k, along_k};
}

__device__ inline float sum(float a, float b) { return a + b; }
__device__ inline double sum(double a, double b) { return a + b; }
__device__ inline int32_t sum(int32_t a, int32_t b) {  // modulo 2^32
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

__device__ inline void put(float value, bool add, float& out) { out = add ? sum(out, value) : value; }
__device__ inline void put(double value, bool add, double& out) { out = add ? sum(out, value) : value; }
__device__ inline void put(int32_t value, bool add, int32_t& out) { out = add ? sum(out, value) : value; }
template <class Narrow>
__device__ void put(float value, bool add, Narrow& out) {
  cuda::from_float(add ? sum(cuda::to_float(out), value) : value, out);
}

// The factor of row i of a and column j of b.
__device__ inline float scale_at(const Scales& scales, int64_t i, int64_t j) {
  return scales.factor * (scales.a.values ? scales.a.values[i * scales.a.mn_stride] : 1.0f) *
         (scales.b.values ? scales.b.values[j * scales.b.mn_stride] : 1.0f);
}

struct AnyFloat {};  // an out whose type is known when the kernel runs

template <class Out, class Sum>
__device__ void store(const Problem& problem, const Block& block, int row, int column, Sum value) {
  const int64_t i = block.first_row + row, j = block.first_column + column;
  if (i >= problem.m || j >= problem.n) return;
  const int64_t at = block.out + i * problem.out_row + j * problem.out_column;
  if constexpr (!std::is_same<Out, AnyFloat>::value) {
    put(value, problem.accumulate, static_cast<Out*>(problem.out)[at]);
  } else {
    value *= problem.scales.along_k ? problem.scales.factor : scale_at(problem.scales, i, j);
    if (problem.out_dtype == DType::float32)
      put(value, problem.accumulate, static_cast<float*>(problem.out)[at]);
    else if (problem.out_dtype == DType::bfloat16)
      put(value, problem.accumulate, static_cast<Bfloat16*>(problem.out)[at]);
    else
      put(value, problem.accumulate, static_cast<Float16*>(problem.out)[at]);
  }
}

}  // namespace
}  // namespace pyhpc::matmul
