// float64 for sm80.cu, by the tensor cores: 8 warps, 4×2, each 32×32 of a 128×64 tile, 8 deep. Two tiles of each
// operand in shared memory: while one is multiplied the other is filled, and each needs one barrier.
#pragma once
#include "core/cuda_mma.h"
#include "matmul/sm80_block.h"

namespace pyhpc::matmul {
namespace {

namespace doubles {

namespace mma = cuda::mma_double;

constexpr int tile_rows = 128, tile_columns = 64, depth = 8, threads = 256;
constexpr int warp_rows = 32, warp_columns = 32, warps_across = tile_columns / warp_columns;
constexpr int row_tiles = warp_rows / mma::m, column_tiles = warp_columns / mma::n;
constexpr int line = depth + 4;  // padded: the 16 threads that read at once meet 16 pairs of banks

template <int rows>
using Source = Reader<double, rows, depth, threads>;

template <int rows>
__device__ __forceinline__ void fetch(Source<rows>& source, double (&registers)[rows * depth / threads]) {
#pragma unroll
  for (int i = 0; i < Source<rows>::count; ++i) registers[i] = source.get(i);
  source.advance();
}

template <int rows>
__device__ __forceinline__ void keep(const Source<rows>& source, const double (&registers)[rows * depth / threads],
                                     double (&shared)[rows][line]) {
#pragma unroll
  for (int i = 0; i < Source<rows>::count; ++i) shared[source.row_of(i)][source.k_of(i)] = registers[i];
}

__device__ __forceinline__ void multiply(double (&sums)[row_tiles][column_tiles][4],
                                         const double (&a_tile)[tile_rows][line],
                                         const double (&b_tile)[tile_columns][line], int row, int column, int lane) {
  static_assert(depth == mma::k, "one step");
  double a[row_tiles][mma::a_registers];
#pragma unroll
  for (int r = 0; r < row_tiles; ++r)
#pragma unroll
    for (int i = 0; i < mma::a_registers; ++i)
      a[r][i] = a_tile[row + r * mma::m + mma::a_row(lane, i)][mma::a_k(lane, i)];
#pragma unroll
  for (int c = 0; c < column_tiles; ++c) {
    double b[mma::b_registers];
#pragma unroll
    for (int i = 0; i < mma::b_registers; ++i)
      b[i] = b_tile[column + c * mma::n + mma::b_column(lane)][mma::b_k(lane, i)];
#pragma unroll
    for (int r = 0; r < row_tiles; ++r) mma::multiply_add(sums[r][c], a[r], b);
  }
}

__global__ void __launch_bounds__(threads, 2) kernel(Problem problem, TileRecord* records) {
  __shared__ double a_tiles[2][tile_rows][line], b_tiles[2][tile_columns][line];
  const Block block = block_of(problem, tile_rows, tile_columns, records);
  Source<tile_rows> a(rows_of_a<double>(problem, block));
  Source<tile_columns> b(columns_of_b<double>(problem, block));
  const int lane = threadIdx.x % cuda::warp_size, warp = threadIdx.x / cuda::warp_size;
  const int row = warp / warps_across * warp_rows, column = warp % warps_across * warp_columns;
  double sums[row_tiles][column_tiles][4] = {};
  double next_a[Source<tile_rows>::count], next_b[Source<tile_columns>::count];
  fetch<tile_rows>(a, next_a);
  fetch<tile_columns>(b, next_b);
  int turn = 0;
  for (int64_t k = 0; k < problem.k; k += depth, turn ^= 1) {
    keep<tile_rows>(a, next_a, a_tiles[turn]);
    keep<tile_columns>(b, next_b, b_tiles[turn]);
    __syncthreads();
    fetch<tile_rows>(a, next_a);
    fetch<tile_columns>(b, next_b);
    multiply(sums, a_tiles[turn], b_tiles[turn], row, column, lane);
  }
#pragma unroll
  for (int r = 0; r < row_tiles; ++r)
#pragma unroll
    for (int c = 0; c < column_tiles; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        store<double>(problem, block, row + r * mma::m + mma::c_row(lane, i),
                      column + c * mma::n + mma::c_column(lane, i), sums[r][c][i]);
}

}  // namespace doubles
}  // namespace
}  // namespace pyhpc::matmul
