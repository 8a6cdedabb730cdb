// What the parts of sm90.cu's kernel share: the shape of a tile, a launch's work, a block's view of its shared memory.
#pragma once
#include "core/array.h"
#include "core/cuda_hopper.h"
#include "core/cuda_wgmma.h"
#include "matmul/matmul.h"
#include "matmul/sm90_tiles.h"
#include "matmul/tile_log.h"

namespace pyhpc::matmul {
namespace {

namespace hopper {

using cuda::Corner;
using cuda::TensorMap;
namespace wgmma = cuda::wgmma;
using sm90_tiles::Order;
using sm90_tiles::Place;
using sm90_tiles::Ring;

constexpr int consumers = 2, warpgroup = wgmma::threads, threads = (1 + consumers) * warpgroup;
constexpr int warps = warpgroup / cuda::warp_size;
constexpr int ring_bytes = 192 << 10;            // 4, 6 or 8 stages
constexpr int pieces = 2;                        // of output that a consumer has on the way
constexpr int piece_bytes = wgmma::block_bytes;  // 64 lines of 128 bytes
constexpr int shared_limit = 227 << 10;          // bytes per block
// 65536 registers at 384 threads are 168 each at entry. 128 × 40 + 256 × 232 = 64512: 128 sums, and what addresses
// need.
constexpr int producer_registers = 40, consumer_registers = 232;
static_assert(warpgroup * producer_registers + consumers * warpgroup * consumer_registers <= 65536,
              "registers of an SM");

// What a kernel is compiled for: elements of type T, their directions, rows × columns of out. A consumer has
// `row_blocks` blocks of 64 rows. `scaled_along_k`: the operands have a scale for every 128 of k, which is one stage.
template <class T, int columns_, bool a_along_m_, bool b_along_n_, int row_blocks_ = 1, bool scaled_along_k_ = false>
struct Tile {
  using Element = T;
  using Sum = wgmma::Sum<T>;
  static constexpr int columns = columns_, row_blocks = row_blocks_;
  static constexpr bool a_along_m = a_along_m_, b_along_n = b_along_n_, scaled_along_k = scaled_along_k_;
  static constexpr int consumer_rows = row_blocks * wgmma::m, rows = consumers * consumer_rows;
  static constexpr int depth = wgmma::line_bytes / static_cast<int>(sizeof(T));  // of a stage: a line of the swizzle
  static constexpr int a_bytes = rows * wgmma::line_bytes, b_bytes = columns * wgmma::line_bytes;
  static constexpr int stage_bytes = a_bytes + b_bytes, stages = ring_bytes / stage_bytes;
  static constexpr int block_sums = columns / 2, sums = row_blocks * block_sums;  // of a thread
  static constexpr int shared_bytes = wgmma::atom_bytes + ring_bytes + consumers * pieces * piece_bytes +
                                      2 * stages * static_cast<int>(sizeof(cuda::Mbarrier));
  static_assert(shared_bytes <= shared_limit, "more than a block may have");
  static_assert(rows * columns * sizeof(Sum) <= ring_bytes, "the parts of a split tile lie in the ring");
};

// What a launch computes.
struct Work {
  Order order;
  int64_t m, n;
  int k_blocks;               // stages' worth of k
  int split;                  // blocks of a cluster that share a tile's k; or 1
  bool a_batched, b_batched;  // or the same matrix for all
  void* out;
  DType out_dtype;
  int64_t out_row, out_column, out_batch;
  bool accumulate;  // into out
  bool by_box;      // the copy engine can write out
  bool exchanged;   // out is the caller's transposed
  Scales scales;
  TileLog log;
};

// A block's view of its shared memory (addresses) and of its cluster.
template <class Tile>
struct Block {
  uint32_t ring, out, full, empty;
  int rank, sharers;  // blocks that load b together

  __device__ uint32_t a(int stage) const { return ring + static_cast<uint32_t>(stage * Tile::stage_bytes); }
  __device__ uint32_t b(int stage) const { return a(stage) + Tile::a_bytes; }
  __device__ uint32_t full_at(int stage) const { return full + static_cast<uint32_t>(stage * 8); }
  __device__ uint32_t empty_at(int stage) const { return empty + static_cast<uint32_t>(stage * 8); }
};

template <class Tile>
__device__ Block<Tile> block_of(const Work& work) {
  const uint32_t base = cuda::address_of(cuda::shared_memory());
  Block<Tile> block;
  block.ring = (base + wgmma::atom_bytes - 1) / wgmma::atom_bytes * wgmma::atom_bytes;
  block.out = block.ring + ring_bytes;
  block.full = block.out + consumers * pieces * piece_bytes;
  block.empty = block.full + Tile::stages * 8;
  block.rank = cuda::cluster_rank();
  block.sharers = work.order.cluster_rows;
  return block;
}

// The tiles and the part of k of this block, in turn; the same for producer and consumers.
struct Walk {
  int step, end, stride;
  int first_k, last_k;
};

__device__ inline Walk walk_of(const Work& work, int rank) {
  const int cluster = work.order.cluster_rows * work.split;
  const int part = work.split > 1 ? rank : 0;
  return {static_cast<int>(blockIdx.x) / cluster, static_cast<int>(sm90_tiles::steps(work.order)),
          static_cast<int>(gridDim.x) / cluster,
          static_cast<int>(static_cast<int64_t>(work.k_blocks) * part / work.split),
          static_cast<int>(static_cast<int64_t>(work.k_blocks) * (part + 1) / work.split)};
}

// Row of the tile of this block: with shared operands the blocks' tiles lie below each other.
__device__ inline int tile_row(const Work& work, const Place& place, int rank) {
  return place.row + (work.order.cluster_rows > 1 ? rank : 0);
}

}  // namespace hopper
}  // namespace
}  // namespace pyhpc::matmul
