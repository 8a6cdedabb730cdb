// The kernel of sm90.cu: out = a b (+ out) for 16-bit operands on Hopper's tensor cores, float sums.
//
// A block is three warpgroups. The first produces: one thread asks the copy engine (TMA) for 128×64 of a and columns×64
// of b, a stage of a ring in shared memory. The others consume: each multiplies 64 rows by wgmma, its sums in
// registers. Two mbarriers per stage carry it back and forth: `full` (all bytes are there), `empty` (every warp that
// reads it has). The grid is persistent: while the consumers store one tile, the producer already fills the ring for
// the next.
//
//   shared operands  In a cluster of two blocks with tiles below each other, each loads half of b for both: what comes
//                    from L2 falls by a third at 128×256 (48 to 32 KiB per block and stage), and with it the power.
//   split            In a cluster of 2, 4 or 8 blocks for the same tile, each sums a part of k; the parts meet in
//   shared
//                    memory and are added in the order of the blocks. Same bits always; no workspace, no second kernel.
#pragma once
#include "core/cuda_hopper.h"
#include "core/cuda_wgmma.h"
#include "matmul/sm90_log.h"
#include "matmul/sm90_tiles.h"

namespace pyhpc::matmul {
namespace {

namespace hopper {

using cuda::Corner;
using cuda::TensorMap;
namespace wgmma = cuda::wgmma;
using sm90_tiles::Order;
using sm90_tiles::Place;
using sm90_tiles::Ring;

constexpr int rows = 128, consumers = 2, warpgroup = wgmma::threads, threads = (1 + consumers) * warpgroup;
constexpr int warps = warpgroup / cuda::warp_size;
constexpr int depth = wgmma::line_elements;  // of a stage: one line of the swizzle
constexpr int a_bytes = rows * wgmma::line_bytes;
constexpr int ring_bytes = 192 << 10;            // 4, 6 or 8 stages of 256, 128 or 64 columns
constexpr int pieces = 2;                        // of output that a consumer has on the way
constexpr int piece_bytes = wgmma::block_bytes;  // 64 lines of 128 bytes
constexpr int shared_limit = 227 << 10;          // bytes per block
// 65536 registers at 384 threads are 168 each at entry. 128 × 40 + 256 × 232 = 64512: 128 sums, and what addresses
// need.
constexpr int producer_registers = 40, consumer_registers = 232;

template <int columns>
constexpr int b_bytes = columns * wgmma::line_bytes;
template <int columns>
constexpr int stage_bytes = a_bytes + b_bytes<columns>;
template <int columns>
constexpr int stages = ring_bytes / stage_bytes<columns>;
template <int columns>
constexpr int shared_bytes =
    wgmma::atom_bytes + ring_bytes + consumers * pieces * piece_bytes + 2 * stages<columns> * sizeof(cuda::Mbarrier);

static_assert(shared_bytes<256> <= shared_limit && shared_bytes<64> <= shared_limit, "more than a block may have");
static_assert(warpgroup * producer_registers + consumers * warpgroup * consumer_registers <= 65536,
              "registers of an SM");
static_assert(rows * 256 * sizeof(float) <= ring_bytes, "the parts of a split tile lie in the ring");

// What a launch computes.
struct Work {
  Order order;
  int64_t m, n;
  int k_blocks;               // stages' worth of k
  int split;                  // blocks of a cluster that share a tile's k; or 1
  bool a_batched, b_batched;  // or the same matrix for all
  void* out;
  int64_t out_row, out_column, out_batch;
  bool accumulate, narrow;  // into out; out is of the operands' type
  bool by_box;              // the copy engine can write out
  bool exchanged;           // out is the caller's transposed
  TileRecord* log;          // or nullptr
};

// A block's view of its shared memory (addresses) and of its cluster.
template <int columns>
struct Block {
  uint32_t ring, out, full, empty;
  int rank, sharers;  // blocks that load b together

  __device__ uint32_t a(int stage) const { return ring + static_cast<uint32_t>(stage * stage_bytes<columns>); }
  __device__ uint32_t b(int stage) const { return a(stage) + a_bytes; }
  __device__ uint32_t full_at(int stage) const { return full + static_cast<uint32_t>(stage * 8); }
  __device__ uint32_t empty_at(int stage) const { return empty + static_cast<uint32_t>(stage * 8); }
};

template <int columns>
__device__ Block<columns> block_of(const Work& work) {
  const uint32_t base = cuda::address_of(cuda::shared_memory());
  Block<columns> block;
  block.ring = (base + wgmma::atom_bytes - 1) / wgmma::atom_bytes * wgmma::atom_bytes;
  block.out = block.ring + ring_bytes;
  block.full = block.out + consumers * pieces * piece_bytes;
  block.empty = block.full + stages<columns> * 8;
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

// ---- the producer ----

// Asks for `extent` (rows of a or columns of b) × 64 of an operand, or for this block's share of it, for all sharers.
template <bool along_mn>
__device__ void load(const TensorMap& map, uint32_t to, uint32_t full, Corner corner, int extent, int rank,
                     int sharers) {
  // Along k the shares are halves of the lines; along mn each share is half of the lines of every block of 64.
  const int lines = (along_mn ? wgmma::line_elements : extent) / sharers, copies = along_mn ? extent / 64 : 1;
  for (int i = 0; i < copies; ++i) {
    const uint32_t place = to + static_cast<uint32_t>(i * wgmma::block_bytes + rank * lines * wgmma::line_bytes);
    const Corner from = {corner.x + i * wgmma::line_elements, corner.y + rank * lines, corner.z};
    if (sharers > 1)
      cuda::load_box(map, place, full, from, static_cast<uint16_t>((1 << sharers) - 1));
    else
      cuda::load_box(map, place, full, from);
  }
}

template <bool along_mn>
__device__ Corner corner_of(int mn, int k, int batch) {
  return along_mn ? Corner{mn, k, batch} : Corner{k, mn, batch};
}

template <int columns, bool a_along_m, bool b_along_n>
__device__ void produce(const TensorMap& a, const TensorMap& b, const Work& work, const Block<columns>& block) {
  const Walk walk = walk_of(work, block.rank);
  const int share = block.sharers > 1 ? block.rank : 0;
  Ring<stages<columns>> ring;
  for (int step = walk.step; step < walk.end; step += walk.stride) {
    const Place place = sm90_tiles::place_of(work.order, step);
    const int row = tile_row(work, place, block.rank) * rows, column = place.column * columns;
    for (int k = walk.first_k; k < walk.last_k; ++k) {
      const uint32_t full = block.full_at(ring.stage);
      cuda::mbarrier_wait(block.empty_at(ring.stage), ring.parity ^ 1);
      cuda::mbarrier_arrive_expect(full, stage_bytes<columns>);
      const Corner of_a = corner_of<a_along_m>(row, k * depth, work.a_batched ? place.batch : 0);
      const Corner of_b = corner_of<b_along_n>(column, k * depth, work.b_batched ? place.batch : 0);
      load<a_along_m>(a, block.a(ring.stage), full, of_a, rows, 0, 1);
      load<b_along_n>(b, block.b(ring.stage), full, of_b, columns, share, block.sharers);
      ring.advance();
    }
  }
}

// ---- the consumers ----

// This warp has read the stage. Every warp tells every block that writes to it: by its own wait it knows of its own
// reads only, and the peer's half of b comes from the peer.
template <int columns>
__device__ void release(const Block<columns>& block, int stage) {
  const int lane = static_cast<int>(threadIdx.x) % cuda::warp_size;
  if (block.sharers > 1 && lane < block.sharers) cuda::mbarrier_arrive_at(block.empty_at(stage), lane);
  if (block.sharers == 1 && lane == 0) cuda::mbarrier_arrive_at(block.empty_at(stage), block.rank);
}

// Sums of the tile over this block's part of k. One group of wgmma runs while the next stage is waited for.
template <class T, int columns, bool a_along_m, bool b_along_n>
__device__ __forceinline__ void multiply(float (&sums)[columns / 2], const Walk& walk, const Block<columns>& block,
                                         int consumer, Ring<stages<columns>>& ring) {
  int previous = 0;
  wgmma::pin(sums);
  for (int k = walk.first_k; k < walk.last_k; ++k) {
    cuda::mbarrier_wait(block.full_at(ring.stage), ring.parity);
    uint64_t a =
        wgmma::descriptor(block.a(ring.stage) + static_cast<uint32_t>(consumer * wgmma::block_bytes), a_along_m);
    uint64_t b = wgmma::descriptor(block.b(ring.stage), b_along_n);
    wgmma::fence();
#pragma unroll
    for (int i = 0; i < depth / wgmma::k; ++i) {
      wgmma::multiply_add<T, a_along_m, b_along_n>(sums, a, b, i > 0 || k > walk.first_k);
      a += wgmma::next_k(a_along_m);
      b += wgmma::next_k(b_along_n);
    }
    wgmma::commit();
    wgmma::wait<1>();  // the previous stage's group
    if (k > walk.first_k) release(block, previous);
    previous = ring.stage;
    ring.advance();
  }
  wgmma::wait<0>();
  wgmma::pin(sums);
  release(block, previous);
}

template <class T>
__device__ void store_element(const Work& work, int64_t at, float value) {
  if (work.narrow) {
    T& out = static_cast<T*>(work.out)[at];
    out = cuda::converted<T>(work.accumulate ? cuda::to_float(out) + value : value);
  } else {
    float& out = static_cast<float*>(work.out)[at];
    out = work.accumulate ? out + value : value;
  }
}

// Register i of a consumer's sums, to any layout, if it lies in the matrix.
template <class T>
__device__ void store_sum(const Work& work, const Place& place, int64_t first_row, int64_t first_column, int i,
                          float value) {
  const int thread = static_cast<int>(threadIdx.x) % warpgroup;
  const int64_t row = first_row + wgmma::d_row(thread, i), column = first_column + wgmma::d_column(thread, i);
  if (row >= work.m || column >= work.n) return;
  store_element<T>(work, place.batch * work.out_batch + row * work.out_row + column * work.out_column, value);
}

__device__ inline void keep_pair(uint32_t at, float first, float second, float) {
  cuda::store_shared(at, first, second);
}
template <class T>
__device__ void keep_pair(uint32_t at, float first, float second, T) {
  cuda::store_shared(at, cuda::packed(cuda::converted<T>(first), cuda::converted<T>(second)));
}

// By the copy engine, in pieces of 64 lines of 128 bytes: a piece is written to shared memory while the one before is
// on its way. The swizzle spreads the 8 lines that a warp writes at once over all banks.
template <class Out, int columns>
__device__ __forceinline__ void store_boxes(const TensorMap& map, const float (&sums)[columns / 2], uint32_t staging,
                                            int consumer, Corner corner, int& turn) {
  constexpr int width = wgmma::line_bytes / static_cast<int>(sizeof(Out)), groups = width / 8;
  const int thread = static_cast<int>(threadIdx.x) % warpgroup;
#pragma unroll
  for (int piece = 0; piece < columns / width; ++piece) {
    const uint32_t at = staging + static_cast<uint32_t>((consumer * pieces + turn) * piece_bytes);
    if (thread == 0) cuda::wait_stores_read<pieces - 1>();
    cuda::synchronize_named(1 + consumer, warpgroup);
#pragma unroll
    for (int i = 0; i < groups * 4; i += 2) {
      const int line = wgmma::d_row(thread, i), element = wgmma::d_column(thread, i);
      const uint32_t offset = static_cast<uint32_t>(line * wgmma::line_bytes + element * static_cast<int>(sizeof(Out)));
      keep_pair(at + wgmma::swizzled(offset), sums[piece * groups * 4 + i], sums[piece * groups * 4 + i + 1], Out{});
    }
    cuda::fence_shared_for_async();
    cuda::synchronize_named(1 + consumer, warpgroup);
    if (thread == 0) {
      cuda::store_box(map, at, {corner.x + piece * width, corner.y, corner.z});
      cuda::commit_stores();
    }
    turn ^= 1;
  }
}

// The parts of k of all blocks of the cluster, added in their order. Each block stores a share of the columns.
template <class T, int columns>
__device__ __forceinline__ void store_split(const float (&sums)[columns / 2], const Work& work, const Place& place,
                                            const Block<columns>& block, int64_t row, int64_t column) {
  constexpr int writers = consumers * warpgroup;
  const int thread = static_cast<int>(threadIdx.x) - warpgroup, share = columns / 2 / work.split;
  const uint32_t parts = block.ring + static_cast<uint32_t>(thread * sizeof(float));
  cuda::synchronize_named(1, writers);  // both consumers have read the ring for the last time
#pragma unroll
  for (int i = 0; i < columns / 2; ++i)
    cuda::store_shared(parts + static_cast<uint32_t>(i * writers * sizeof(float)), sums[i]);
  cuda::synchronize_cluster();
  for (int i = block.rank * share; i < (block.rank + 1) * share; ++i) {
    float sum = 0;
    for (int rank = 0; rank < work.split; ++rank)
      sum += cuda::load_of_rank(parts + static_cast<uint32_t>(i * writers * sizeof(float)), rank);
    store_sum<T>(work, place, row, column, i, sum);
  }
}

// One thread of the block writes what it knows of the tile that it has stored.
template <int columns>
__device__ void log_tile(const Work& work, const Place& place, int step, int row, int rank, uint64_t cycles,
                         uint64_t begin) {
  const uint64_t first_row = static_cast<uint64_t>(row), first_column = static_cast<uint64_t>(place.column) * columns;
  const uint64_t high = work.exchanged ? columns : rows, low = work.exchanged ? rows : columns;
  const int64_t at = static_cast<int64_t>(step) * (work.order.cluster_rows * work.split) + rank;
  work.log[at] = {cuda::multiprocessor_number(),
                  cuda::read_clock() - cycles,
                  begin,
                  cuda::read_nanoseconds(),
                  work.exchanged ? first_column : first_row,
                  work.exchanged ? first_row : first_column,
                  static_cast<uint64_t>(place.batch),
                  high << 32 | low};
}

template <class T, int columns, bool a_along_m, bool b_along_n>
__device__ __forceinline__ void consume(const TensorMap& out, const Work& work, const Block<columns>& block,
                                        int consumer) {
  const Walk walk = walk_of(work, block.rank);
  Ring<stages<columns>> ring;
  int turn = 0;
  float sums[columns / 2];
  for (int step = walk.step; step < walk.end; step += walk.stride) {
    const Place place = sm90_tiles::place_of(work.order, step);
    const uint64_t cycles = work.log ? cuda::read_clock() : 0, begin = work.log ? cuda::read_nanoseconds() : 0;
    multiply<T, columns, a_along_m, b_along_n>(sums, walk, block, consumer, ring);
    const int row = tile_row(work, place, block.rank) * rows + consumer * wgmma::m, column = place.column * columns;
    if (work.split > 1) {
      store_split<T, columns>(sums, work, place, block, row, column);
    } else if (!work.by_box) {
#pragma unroll
      for (int i = 0; i < columns / 2; ++i) store_sum<T>(work, place, row, column, i, sums[i]);
    } else if (work.narrow) {
      store_boxes<T, columns>(out, sums, block.out, consumer, {column, row, place.batch}, turn);
    } else {
      store_boxes<float, columns>(out, sums, block.out, consumer, {column, row, place.batch}, turn);
    }
    if (work.log && threadIdx.x == warpgroup) log_tile<columns>(work, place, step, row, block.rank, cycles, begin);
  }
  if (work.by_box && threadIdx.x % warpgroup == 0) cuda::wait_stores();
}

template <class T, int columns, bool a_along_m, bool b_along_n>
__global__ void __launch_bounds__(threads, 1)
    kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
           const __grid_constant__ TensorMap out, const Work work) {
  const Block<columns> block = block_of<columns>(work);
  if (threadIdx.x == 0) {
    cuda::prefetch(a);
    cuda::prefetch(b);
    if (work.by_box) cuda::prefetch(out);
    for (int i = 0; i < stages<columns>; ++i) {
      cuda::mbarrier_init(block.full_at(i), 1);
      cuda::mbarrier_init(block.empty_at(i), consumers * warps * block.sharers);
    }
    cuda::fence_mbarrier_init();
  }
  cuda::synchronize_cluster();  // no block sends before its peers' barriers are there
  // No block leaves while a peer may still send to it: all meet at the end, and after the parts of a split are written.
  if (threadIdx.x < warpgroup) {
    cuda::keep_registers<producer_registers>();
    if (threadIdx.x == 0) produce<columns, a_along_m, b_along_n>(a, b, work, block);
    if (work.split > 1) cuda::synchronize_cluster();
    cuda::synchronize_cluster();
  } else {
    cuda::take_registers<consumer_registers>();
    consume<T, columns, a_along_m, b_along_n>(out, work, block, static_cast<int>(threadIdx.x) / warpgroup - 1);
    cuda::synchronize_cluster();
  }
}

}  // namespace hopper
}  // namespace
}  // namespace pyhpc::matmul
