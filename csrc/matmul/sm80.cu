// Matrix product for every GPU since Ampere: out = a b (+ out), batched, any strides of either sign.
//   bfloat16, float16   tensor cores (mma.m16n8k16), float sums, rounded once into an out of 16 bits
//   E4M3, E5M2          as float16, which holds all of them, the sums times their scales; with scales along k as
//   float32 float32, float64    fused multiply-adds; int8 by dot products of four bytes, int32 sums
// One block computes one output tile and walks along k: a tile of a and of b is fetched to registers while the previous
// one, in shared memory, is multiplied. Elements outside the matrices are read as zero, so no size is special.
// Simple on purpose: no asynchronous copies, no vector loads (they would need unit strides).
#include "core/cuda_mma.h"
#include "core/cuda_variant.h"
#include "matmul/sm80_double.h"
#include "matmul/sm80_sums.h"

namespace pyhpc::matmul {
namespace {

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

template <class In>
using Source = Reader<In, tile, depth, threads>;

template <class T>
struct Fetched {
  T values[fetched];
};

// The next tile.
template <class In>
__device__ __forceinline__ void fetch(Source<In>& source, Fetched<Factor<In>>& registers) {
#pragma unroll
  for (int i = 0; i < fetched; ++i) registers.values[i] = factor(source.get(i));
  source.advance();
}

template <class In>
__device__ __forceinline__ void keep(const Source<In>& source, const Fetched<Factor<In>>& registers,
                                     uint32_t (&shared)[tile][words]) {
#pragma unroll
  for (int i = 0; i < fetched; ++i)
    reinterpret_cast<Factor<In>*>(shared[source.row_of(i)])[source.k_of(i)] = registers.values[i];
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
__global__ void __launch_bounds__(threads) kernel(Problem problem, TileRecord* records) {
  using T = Factor<In>;
  __shared__ uint32_t a_tile[tile][words], b_tile[tile][words];
  const Block block = block_of(problem, tile, tile, records);
  Source<In> a(rows_of_a<In>(problem, block)), b(columns_of_b<In>(problem, block));
  const int lane = threadIdx.x % cuda::warp_size, warp = threadIdx.x / cuda::warp_size;
  const int row = warp / warps_across * warp_rows, column = warp % warps_across * warp_columns;
  float sums[row_tiles][column_tiles][4] = {};
  Fetched<T> next_a, next_b;
  fetch(a, next_a);
  fetch(b, next_b);
  for (int64_t k = 0; k < problem.k; k += depth) {
    __syncthreads();  // the tile in shared memory is used up
    keep(a, next_a, a_tile);
    keep(b, next_b, b_tile);
    __syncthreads();
    fetch(a, next_a);
    fetch(b, next_b);
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

// ---- multiply-adds: 16×16 threads, each 8×8 of a 128×128 tile, 8 words deep ----

namespace plain {

// A thread has two groups of 4 rows and two of 4 columns, half a tile apart: it reads 4 words at a time.
constexpr int tile = 128, depth = 8, side = 16, threads = side * side, per_thread = tile / side, group = 4;
constexpr int fetched = tile * depth / threads;

__device__ constexpr int place(int thread, int i) { return i / group * (tile / 2) + thread * group + i % group; }

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
__device__ inline int32_t multiply_add(int32_t a, int32_t b, int32_t c) { return cuda::dot_bytes(a, b, c); }

// The scales of an 8-bit operand that change along k; `first` is the number of the tile's first row (column),
// `per_scale` how many share one.
struct Scaling {
  const Scale& scale;
  int64_t first, per_scale;
};

// Word i of the tile.
template <class In>
using Source = Reader<In, tile, depth, threads, Word<In>::elements>;

template <class T>
__device__ T word(const Source<T>& source, int i, const Scaling&) {
  return source.get(i);
}
__device__ inline int32_t word(const Source<int8_t>& source, int i, const Scaling&) {
  uint32_t bytes = 0;
  for (int j = 0; j < 4; ++j) bytes |= static_cast<uint32_t>(static_cast<uint8_t>(source.get(i, j))) << 8 * j;
  return static_cast<int32_t>(bytes);
}
template <class T>
__device__ float scaled_word(const Source<T>& source, int i, const Scaling& scaling) {
  const Scale& scale = scaling.scale;
  const float value = cuda::to_float(source.get(i));
  if (!scale.values || source.row_of(i) >= source.rows_left || source.k_of(i) >= source.left) return value;
  return value * scale.values[(scaling.first + source.row_of(i)) / scaling.per_scale * scale.mn_stride +
                              (source.first_k + source.k_of(i)) / 128 * scale.k_stride];
}
__device__ inline float word(const Source<cuda::Float8E4m3>& source, int i, const Scaling& scaling) {
  return scaled_word(source, i, scaling);
}
__device__ inline float word(const Source<cuda::Float8E5m2>& source, int i, const Scaling& scaling) {
  return scaled_word(source, i, scaling);
}

template <class In>
using Tile = typename Word<In>::type[depth][tile + group];  // padded: threads that write along k meet fewer banks

template <class T>
struct alignas(group * sizeof(T)) Group {
  T words[group];
};
template <class T>
__device__ __forceinline__ void read(const T* line, int thread, T (&words)[per_thread]) {
#pragma unroll
  for (int i = 0; i < per_thread; i += group) {
    const auto four = *reinterpret_cast<const Group<T>*>(line + place(thread, i));
#pragma unroll
    for (int j = 0; j < group; ++j) words[i + j] = four.words[j];
  }
}

template <class In>
struct Fetched {
  typename Word<In>::type values[fetched];
};

// The next tile.
template <class In>
__device__ __forceinline__ void fetch(Source<In>& source, const Scaling& scaling, Fetched<In>& registers) {
#pragma unroll
  for (int i = 0; i < fetched; ++i) registers.values[i] = word(source, i, scaling);
  source.advance();
}

template <class In>
__device__ __forceinline__ void keep(const Source<In>& source, const Fetched<In>& registers, Tile<In>& shared) {
#pragma unroll
  for (int i = 0; i < fetched; ++i) shared[source.k_of(i)][source.row_of(i)] = registers.values[i];
}

template <class In>
__device__ __forceinline__ void multiply(typename Word<In>::sum (&sums)[per_thread][per_thread], const Tile<In>& a_tile,
                                         const Tile<In>& b_tile, int row, int column) {
#pragma unroll
  for (int k = 0; k < depth; ++k) {
    typename Word<In>::type a[per_thread], b[per_thread];
    read(a_tile[k], row, a);
    read(b_tile[k], column, b);
#pragma unroll
    for (int r = 0; r < per_thread; ++r)
#pragma unroll
      for (int c = 0; c < per_thread; ++c) sums[r][c] = multiply_add(a[r], b[c], sums[r][c]);
  }
}

template <class In>
__global__ void __launch_bounds__(threads) kernel(Problem problem, TileRecord* records) {
  alignas(16) __shared__ Tile<In> a_tiles[2], b_tiles[2];  // one is filled while the other is multiplied
  const Block block = block_of(problem, tile, tile, records);
  Source<In> a(rows_of_a<In>(problem, block)), b(columns_of_b<In>(problem, block));
  const Scaling scaling_a = {problem.scales.a, block.first_row, 1},
                scaling_b = {problem.scales.b, block.first_column, 128};
  const int row = threadIdx.x / side, column = threadIdx.x % side;
  typename Word<In>::sum sums[per_thread][per_thread] = {};
  const int64_t words = cuda::blocks_for(problem.k, Word<In>::elements);
  Fetched<In> next_a, next_b;
  fetch(a, scaling_a, next_a);
  fetch(b, scaling_b, next_b);
  int turn = 0;
  for (int64_t k = 0; k < words; k += depth, turn ^= 1) {
    keep(a, next_a, a_tiles[turn]);
    keep(b, next_b, b_tiles[turn]);
    __syncthreads();
    fetch(a, scaling_a, next_a);
    fetch(b, scaling_b, next_b);
    multiply<In>(sums, a_tiles[turn], b_tiles[turn], row, column);
  }
#pragma unroll
  for (int r = 0; r < per_thread; ++r)
#pragma unroll
    for (int c = 0; c < per_thread; ++c)
      store<typename Word<In>::out>(problem, block, place(row, r), place(column, c), sums[r][c]);
}

}  // namespace plain

// Rows and columns of a tile.
struct Extent {
  int rows, columns;
};
Extent tile_of(const Problem& problem) {
  return problem.dtype == DType::float64 ? Extent{doubles::tile_rows, doubles::tile_columns}
                                         : Extent{tensor::tile, tensor::tile};
}

int enqueue(const Problem& problem, TileRecord* records, uintptr_t stream) {
  static_assert(tensor::tile == plain::tile, "as tile_of says");
  const int64_t blocks = count_blocks(problem);
  if (blocks == 0) return 0;  // no output: a launch of no blocks would be an error
  const auto tensor_run = [&](void (*kernel)(Problem, TileRecord*)) {
    return cuda::launch(kernel, blocks, tensor::threads, 0, stream, problem, records);
  };
  const auto plain_run = [&](void (*kernel)(Problem, TileRecord*)) {
    return cuda::launch(kernel, blocks, plain::threads, 0, stream, problem, records);
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
      return cuda::launch(doubles::kernel, blocks, doubles::threads, 0, stream, problem, records);
    case DType::float32:
      return plain_run(plain::kernel<float>);
    default:
      return plain_run(plain::kernel<int8_t>);
  }
}

int run(const Problem& problem, uintptr_t stream) { return enqueue(problem, nullptr, stream); }

}  // namespace

int64_t count_blocks(const Problem& problem) {
  const Extent tile = tile_of(problem);
  return batch_size(problem) * cuda::blocks_for(problem.m, tile.rows) * cuda::blocks_for(problem.n, tile.columns);
}

int run_blocks_logged(const Problem& problem, TileRecord* records, uintptr_t stream) {
  return enqueue(problem, records, stream);
}

int enqueue_row_sums(const Problem& problem, bool of_output, double* weights, double* told, uintptr_t stream) {
  return sums::enqueue(problem, of_output, weights, told, stream);
}

int enqueue_row(const Problem& problem, int64_t row, double* told, uintptr_t stream) {
  return sums::enqueue_row(problem, row, told, stream);
}

int enqueue_values(const Problem& problem, double* told, uintptr_t stream) {
  return sums::enqueue_values(problem, told, stream);
}

extern const cuda::Variant<Problem> sm80;
const cuda::Variant<Problem> sm80 = {"sm80", run};

}  // namespace pyhpc::matmul
