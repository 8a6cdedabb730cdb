// Matrix product for every GPU since Ampere: out = a b (+ out), batched, any strides of either sign.
//   bfloat16, float16   tensor cores (mma.m16n8k16), float sums, rounded once into an out of 16 bits
//   E4M3, E5M2          as float16, which holds all of them, the sums times their scales; with scales along k as
//   float32 float32, float64    fused multiply-adds; int8 by dot products of four bytes, int32 sums
// One block computes one output tile and walks along k: a tile of a and of b is fetched to registers while the previous
// one, in shared memory, is multiplied. Elements outside the matrices are read as zero, so no size is special.
// Simple on purpose: no asynchronous copies, no vector loads (they would need unit strides).
#include <type_traits>

#include "core/cuda_mma.h"
#include "core/cuda_variant.h"
#include "matmul/matmul.h"

namespace pyhpc::matmul {
namespace {

using cuda::Bfloat16;
using cuda::Float16;

// Element `index` of a rows×depth tile whose fastest direction is the one with the smaller stride, so that neighbouring
// threads read neighbouring memory.
struct Position {
  int row, k;
};
template <int rows, int depth>
__device__ Position tile_position(int index, bool along_k) {
  return along_k ? Position{index / depth, index % depth} : Position{index % rows, index / rows};
}

// One matrix of the batch as a block sees it: `row` steps over m (or n), `k` over the summed direction.
template <class T>
struct View {
  const T* data;
  int64_t row, k, rows, depth;
  bool along_k;

  __device__ T at(int64_t i, int64_t j) const { return i < rows && j < depth ? data[i * row + j * k] : T{}; }
};

struct Block {
  int64_t first_row, first_column, a, b, out;  // the tile's origin; the batch's offsets
};

// Blocks are numbered column tile first, then row tile, then batch.
__device__ Block block_of(const Problem& problem, int64_t tile) {
  const int64_t columns = cuda::blocks_for(problem.n, tile), rows = cuda::blocks_for(problem.m, tile);
  int64_t index = blockIdx.x;
  Block block = {index / columns % rows * tile, index % columns * tile, 0, 0, 0};
  index /= columns * rows;
  for (int i = problem.batch_ndim - 1; i >= 0; --i) {
    const int64_t step = index % problem.batch_shape[i];
    index /= problem.batch_shape[i];
    block.a += step * problem.a_batch[i];
    block.b += step * problem.b_batch[i];
    block.out += step * problem.out_batch[i];
  }
  return block;
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

// ---- tensor cores: 8 warps, 2×4, each 64×32 of a 128×128 tile, 32 deep ----

namespace tensor {

constexpr int tile = 128, depth = 32, threads = 256;
constexpr int warp_rows = 64, warp_columns = 32, warps_across = tile / warp_columns;
constexpr int row_tiles = warp_rows / cuda::mma::m, column_tiles = warp_columns / cuda::mma::n;
constexpr int fetched = tile * depth / threads;
constexpr int words = depth / 2 + 4;  // a row of pairs; the padding spreads the rows that a warp reads over all banks

// What the tensor cores multiply: 8-bit numbers as float16.
__device__ inline Bfloat16 factor(Bfloat16 value) { return value; }
__device__ inline Float16 factor(Float16 value) { return value; }
__device__ inline Float16 factor(cuda::Float8E4m3 value) { return cuda::to_half(value); }
__device__ inline Float16 factor(cuda::Float8E5m2 value) { return cuda::to_half(value); }
template <class In>
using Factor = decltype(factor(In{}));

template <class T>
struct Fetched {
  T values[fetched];
};

template <class In>
__device__ Fetched<Factor<In>> fetch(const View<In>& view, int64_t first_k) {
  Fetched<Factor<In>> registers;
#pragma unroll
  for (int i = 0; i < fetched; ++i) {
    const Position at = tile_position<tile, depth>(static_cast<int>(threadIdx.x) + i * threads, view.along_k);
    registers.values[i] = factor(view.at(at.row, first_k + at.k));
  }
  return registers;
}

template <class T>
__device__ void keep(const Fetched<T>& registers, bool along_k, uint32_t (&shared)[tile][words]) {
#pragma unroll
  for (int i = 0; i < fetched; ++i) {
    const Position at = tile_position<tile, depth>(static_cast<int>(threadIdx.x) + i * threads, along_k);
    reinterpret_cast<T*>(shared[at.row])[at.k] = registers.values[i];
  }
}

template <class T>
__device__ __forceinline__ void multiply(float (&sums)[row_tiles][column_tiles][4],
                                         const uint32_t (&a_tile)[tile][words], const uint32_t (&b_tile)[tile][words],
                                         int row, int column, int lane) {
  using namespace cuda::mma;
#pragma unroll
  for (int k0 = 0; k0 < depth; k0 += k) {
    uint32_t a[row_tiles][a_registers];
#pragma unroll
    for (int r = 0; r < row_tiles; ++r)
#pragma unroll
      for (int i = 0; i < a_registers; ++i) a[r][i] = a_tile[row + r * m + a_row(lane, i)][(k0 + a_k(lane, i)) / 2];
#pragma unroll
    for (int c = 0; c < column_tiles; ++c) {
      uint32_t b[b_registers];
#pragma unroll
      for (int i = 0; i < b_registers; ++i) b[i] = b_tile[column + c * n + b_column(lane)][(k0 + b_k(lane, i)) / 2];
#pragma unroll
      for (int r = 0; r < row_tiles; ++r) multiply_add(T{}, sums[r][c], a[r], b);
    }
  }
}

template <class In, class Out>
__global__ void __launch_bounds__(threads) kernel(Problem problem) {
  using T = Factor<In>;
  __shared__ uint32_t a_tile[tile][words], b_tile[tile][words];
  const Block block = block_of(problem, tile);
  const View<In> a = rows_of_a<In>(problem, block), b = columns_of_b<In>(problem, block);
  const int lane = threadIdx.x % cuda::warp_size, warp = threadIdx.x / cuda::warp_size;
  const int row = warp / warps_across * warp_rows, column = warp % warps_across * warp_columns;
  float sums[row_tiles][column_tiles][4] = {};
  Fetched<T> next_a = fetch(a, 0), next_b = fetch(b, 0);
  for (int64_t k = 0; k < problem.k; k += depth) {
    __syncthreads();  // the tile in shared memory is used up
    keep(next_a, a.along_k, a_tile);
    keep(next_b, b.along_k, b_tile);
    __syncthreads();
    next_a = fetch(a, k + depth);
    next_b = fetch(b, k + depth);
    multiply<T>(sums, a_tile, b_tile, row, column, lane);
  }
#pragma unroll
  for (int r = 0; r < row_tiles; ++r)
#pragma unroll
    for (int c = 0; c < column_tiles; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        store<Out>(problem, block, row + r * cuda::mma::m + cuda::mma::c_row(lane, i),
                   column + c * cuda::mma::n + cuda::mma::c_column(lane, i), sums[r][c][i]);
}

}  // namespace tensor

// ---- multiply-adds: 16×16 threads, each 4×4 of a 64×64 tile, 16 words deep ----

namespace plain {

constexpr int tile = 64, depth = 16, side = 16, threads = side * side, per_thread = tile / side;
constexpr int fetched = tile * depth / threads;

// What is multiplied at once: one element, or four bytes of int8; 8-bit floating-point numbers as float, scaled.
template <class In>
struct Word {
  using type = typename std::conditional<sizeof(In) == 1, float, In>::type;
  using sum = type;
  using out = typename std::conditional<sizeof(In) == 1, AnyFloat, In>::type;
  static constexpr int elements = 1;
};
template <>
struct Word<int8_t> {
  using type = int32_t;
  using sum = int32_t;
  using out = int32_t;
  static constexpr int elements = 4;
};

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }
__device__ inline int32_t multiply_add(int32_t a, int32_t b, int32_t c) { return cuda::dot_bytes(a, b, c); }

template <class T>
__device__ T word(const View<T>& view, int64_t row, int64_t k) {
  return view.at(row, k);
}
__device__ inline int32_t word(const View<int8_t>& view, int64_t row, int64_t k) {
  uint32_t bytes = 0;
  for (int i = 0; i < 4; ++i) bytes |= static_cast<uint32_t>(static_cast<uint8_t>(view.at(row, 4 * k + i))) << 8 * i;
  return static_cast<int32_t>(bytes);
}

// An operand whose scales change along k; `first` is its first row's (column's) number, `per_scale` how many share one.
template <class T>
struct ScaledView : View<T> {
  Scale scale;
  int64_t first, per_scale;
};
template <class T>
__device__ ScaledView<T> scaled(const View<T>& view, const Scale& scale, int64_t first, int per_scale) {
  return {view, scale, first, per_scale};
}
__device__ inline View<int8_t> scaled(const View<int8_t>& view, const Scale&, int64_t, int) { return view; }
__device__ inline View<float> scaled(const View<float>& view, const Scale&, int64_t, int) { return view; }
__device__ inline View<double> scaled(const View<double>& view, const Scale&, int64_t, int) { return view; }

template <class T>
__device__ float word(const ScaledView<T>& view, int64_t row, int64_t k) {
  const Scale& scale = view.scale;
  const float value = cuda::to_float(view.at(row, k));
  if (!scale.values || row >= view.rows || k >= view.depth) return value;
  return value * scale.values[(view.first + row) / view.per_scale * scale.mn_stride + k / 128 * scale.k_stride];
}

template <class In>
using Tile = typename Word<In>::type[depth][tile + 1];

template <class In>
struct Fetched {
  typename Word<In>::type values[fetched];
};

template <class In, class Source>
__device__ Fetched<In> fetch(const Source& view, int64_t first_k) {
  Fetched<In> registers;
#pragma unroll
  for (int i = 0; i < fetched; ++i) {
    const Position at = tile_position<tile, depth>(static_cast<int>(threadIdx.x) + i * threads, view.along_k);
    registers.values[i] = word(view, at.row, first_k + at.k);
  }
  return registers;
}

template <class In>
__device__ void keep(const Fetched<In>& registers, bool along_k, Tile<In>& shared) {
#pragma unroll
  for (int i = 0; i < fetched; ++i) {
    const Position at = tile_position<tile, depth>(static_cast<int>(threadIdx.x) + i * threads, along_k);
    shared[at.k][at.row] = registers.values[i];
  }
}

template <class In>
__device__ __forceinline__ void multiply(typename Word<In>::sum (&sums)[per_thread][per_thread], const Tile<In>& a_tile,
                                         const Tile<In>& b_tile, int row, int column) {
#pragma unroll
  for (int k = 0; k < depth; ++k) {
    typename Word<In>::type a[per_thread], b[per_thread];
#pragma unroll
    for (int i = 0; i < per_thread; ++i) a[i] = a_tile[k][row + i * side], b[i] = b_tile[k][column + i * side];
#pragma unroll
    for (int r = 0; r < per_thread; ++r)
#pragma unroll
      for (int c = 0; c < per_thread; ++c) sums[r][c] = multiply_add(a[r], b[c], sums[r][c]);
  }
}

template <class In>
__global__ void __launch_bounds__(threads) kernel(Problem problem) {
  __shared__ Tile<In> a_tile, b_tile;
  const Block block = block_of(problem, tile);
  const auto a = scaled(rows_of_a<In>(problem, block), problem.scales.a, block.first_row, 1);
  const auto b = scaled(columns_of_b<In>(problem, block), problem.scales.b, block.first_column, 128);
  const int row = threadIdx.x / side, column = threadIdx.x % side;
  typename Word<In>::sum sums[per_thread][per_thread] = {};
  const int64_t words = cuda::blocks_for(problem.k, Word<In>::elements);
  Fetched<In> next_a = fetch<In>(a, 0), next_b = fetch<In>(b, 0);
  for (int64_t k = 0; k < words; k += depth) {
    __syncthreads();  // the tile in shared memory is used up
    keep(next_a, a.along_k, a_tile);
    keep(next_b, b.along_k, b_tile);
    __syncthreads();
    next_a = fetch<In>(a, k + depth);
    next_b = fetch<In>(b, k + depth);
    multiply<In>(sums, a_tile, b_tile, row, column);
  }
#pragma unroll
  for (int r = 0; r < per_thread; ++r)
#pragma unroll
    for (int c = 0; c < per_thread; ++c)
      store<typename Word<In>::out>(problem, block, row + r * side, column + c * side, sums[r][c]);
}

}  // namespace plain

int run(const Problem& problem, uintptr_t stream) {
  int64_t batches = 1;
  for (int i = 0; i < problem.batch_ndim; ++i) batches *= problem.batch_shape[i];
  const auto blocks = [&](int64_t tile) {
    return batches * cuda::blocks_for(problem.m, tile) * cuda::blocks_for(problem.n, tile);
  };
  if (blocks(1) == 0) return 0;  // no output: a launch of no blocks would be an error
  const auto tensor_run = [&](void (*kernel)(Problem)) {
    return cuda::launch(kernel, blocks(tensor::tile), tensor::threads, 0, stream, problem);
  };
  const auto plain_run = [&](void (*kernel)(Problem)) {
    return cuda::launch(kernel, blocks(plain::tile), plain::threads, 0, stream, problem);
  };
  switch (problem.dtype) {
    case DType::bfloat16:
      return tensor_run(problem.narrow ? tensor::kernel<Bfloat16, Bfloat16> : tensor::kernel<Bfloat16, float>);
    case DType::float16:
      return tensor_run(problem.narrow ? tensor::kernel<Float16, Float16> : tensor::kernel<Float16, float>);
    case DType::float8_e4m3fn:
      return problem.scales.along_k ? plain_run(plain::kernel<cuda::Float8E4m3>)
                                    : tensor_run(tensor::kernel<cuda::Float8E4m3, AnyFloat>);
    case DType::float8_e5m2:
      return problem.scales.along_k ? plain_run(plain::kernel<cuda::Float8E5m2>)
                                    : tensor_run(tensor::kernel<cuda::Float8E5m2, AnyFloat>);
    case DType::float64:
      return plain_run(plain::kernel<double>);
    case DType::float32:
      return plain_run(plain::kernel<float>);
    default:
      return plain_run(plain::kernel<int8_t>);
  }
}

}  // namespace

extern const cuda::Variant<Problem> sm80;
const cuda::Variant<Problem> sm80 = {"sm80", run};

}  // namespace pyhpc::matmul
