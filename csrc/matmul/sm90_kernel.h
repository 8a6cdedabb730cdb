// The kernel of sm90.cu: out = a b (+ out) on Hopper's tensor cores; sums are float, of int8 int32.
//
// A block is three warpgroups. The first produces: one thread asks the copy engine (TMA) for rows of a and columns of
// b, 128 bytes of k of each, a stage of a ring in shared memory. The others consume: each multiplies half of the rows
// by wgmma, its sums in registers. Two mbarriers per stage carry it back and forth: `full` (all bytes are there),
// `empty` (every warp that reads it has). The grid is persistent: while the consumers store one tile, the producer
// already fills the ring for the next.
//
//   shared operands  In a cluster of two blocks with tiles below each other, each loads half of b for both: what comes
//                    from L2 falls by a third at 128×256 (48 to 32 KiB per block and stage), and with it the power.
//   split            In a cluster of 2, 4 or 8 blocks for the same tile, each sums a part of k; the parts meet in
//                    shared memory and are added in the order of the blocks. Same bits always; no workspace, no second
//                    kernel.
//   promotion        The tensor cores add 8-bit products in about 14 bits. Where the scales change every 128 of k, each
//                    stage is summed anew and added to float sums, times its scales: one consumer multiplies while the
//                    other adds. Two sets of sums leave room for 128 columns.
#pragma once
#include "matmul/sm90_store.h"

namespace pyhpc::matmul {
namespace {

namespace hopper {

// ---- the producer ----

// Asks for `extent` (rows of a or columns of b) × 64 of an operand, or for this block's share of it, for all sharers.
template <bool along_mn>
__device__ void load(const TensorMap& map, uint32_t to, uint32_t full, Corner corner, int extent, int rank,
                     int sharers) {
  // Along k the shares are halves of the lines; along mn each share is half of the lines of every block of 64.
  const int lines = (along_mn ? wgmma::block_lines : extent) / sharers, copies = along_mn ? extent / 64 : 1;
  for (int i = 0; i < copies; ++i) {
    const uint32_t place = to + static_cast<uint32_t>(i * wgmma::block_bytes + rank * lines * wgmma::line_bytes);
    const Corner from = {corner.x + i * wgmma::block_lines, corner.y + rank * lines, corner.z};
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

template <class Tile>
__device__ void produce(const TensorMap& a, const TensorMap& b, const Work& work, const Block<Tile>& block) {
  constexpr int rows = Tile::rows, columns = Tile::columns, depth = Tile::depth;
  const Walk walk = walk_of(work, block.rank);
  const int share = block.sharers > 1 ? block.rank : 0;
  Ring<Tile::stages> ring;
  for (int step = walk.step; step < walk.end; step += walk.stride) {
    const Place place = sm90_tiles::place_of(work.order, step);
    const int row = tile_row(work, place, block.rank) * rows, column = place.column * columns;
    for (int k = walk.first_k; k < walk.last_k; ++k) {
      const uint32_t full = block.full_at(ring.stage);
      cuda::mbarrier_wait(block.empty_at(ring.stage), ring.parity ^ 1);
      cuda::mbarrier_arrive_expect(full, Tile::stage_bytes);
      const Corner of_a = corner_of<Tile::a_along_m>(row, k * depth, work.a_batched ? place.batch : 0);
      const Corner of_b = corner_of<Tile::b_along_n>(column, k * depth, work.b_batched ? place.batch : 0);
      load<Tile::a_along_m>(a, block.a(ring.stage), full, of_a, rows, 0, 1);
      load<Tile::b_along_n>(b, block.b(ring.stage), full, of_b, columns, share, block.sharers);
      ring.advance();
    }
  }
}

// ---- the consumers ----

// This warp has read the stage. Every warp tells every block that writes to it: by its own wait it knows of its own
// reads only, and the peer's half of b comes from the peer.
template <class Tile>
__device__ void release(const Block<Tile>& block, int stage) {
  const int lane = static_cast<int>(threadIdx.x) % cuda::warp_size;
  if (block.sharers > 1 && lane < block.sharers) cuda::mbarrier_arrive_at(block.empty_at(stage), lane);
  if (block.sharers == 1 && lane == 0) cuda::mbarrier_arrive_at(block.empty_at(stage), block.rank);
}

// Starts d (+)= a b for 64 rows and all k of a stage.
template <class Tile>
__device__ __forceinline__ void start(typename Tile::Sum (&d)[Tile::block_sums], const Block<Tile>& block, int stage,
                                      int row_block, bool add) {
  uint64_t a =
      wgmma::descriptor(block.a(stage) + static_cast<uint32_t>(row_block * wgmma::block_bytes), Tile::a_along_m);
  uint64_t b = wgmma::descriptor(block.b(stage), Tile::b_along_n);
  wgmma::fence();
#pragma unroll
  for (int i = 0; i < wgmma::line_bytes / wgmma::k_bytes; ++i) {
    wgmma::multiply_add<typename Tile::Element, Tile::a_along_m, Tile::b_along_n>(d, a, b, i > 0 || add);
    a += wgmma::next_k(Tile::a_along_m);
    b += wgmma::next_k(Tile::b_along_n);
  }
  wgmma::commit();
}

// Sums of the tile over this block's part of k. One group of wgmma runs while the next stage is waited for.
template <class Tile>
__device__ __forceinline__ void multiply(typename Tile::Sum (&sums)[1][Tile::block_sums], const Walk& walk,
                                         const Block<Tile>& block, int consumer, Ring<Tile::stages>& ring) {
  int previous = 0;
  wgmma::pin(sums[0]);
  for (int k = walk.first_k; k < walk.last_k; ++k) {
    cuda::mbarrier_wait(block.full_at(ring.stage), ring.parity);
    start<Tile>(sums[0], block, ring.stage, consumer, k > walk.first_k);
    wgmma::wait<1>();  // the previous stage's group
    if (k > walk.first_k) release(block, previous);
    previous = ring.stage;
    ring.advance();
  }
  wgmma::wait<0>();
  wgmma::pin(sums[0]);
  release(block, previous);
}

// The scales of one stage: of this thread's two rows in each block, of the tile's columns.
template <class Tile>
struct StageScales {
  float a[Tile::row_blocks][2], b;
};

template <class Tile>
__device__ __forceinline__ StageScales<Tile> scales_at(const Scales& scales, int k,
                                                       const int (&rows)[Tile::row_blocks][2], int columns) {
  const auto at = [k](const Scale& scale, int mn) {
    return scale.values ? scale.values[mn + k * scale.k_stride] : 1.0f;
  };
  StageScales<Tile> found;
#pragma unroll
  for (int i = 0; i < 2 * Tile::row_blocks; ++i) found.a[i / 2][i % 2] = at(scales.a, rows[i / 2][i % 2]);
  found.b = scales.factor * at(scales.b, columns);
  return found;
}

// As multiply; every stage's sums are promoted with its scales, which are read a stage ahead.
template <class Tile>
__device__ __forceinline__ void multiply_promoted(float (&sums)[Tile::row_blocks][Tile::block_sums], const Work& work,
                                                  const Walk& walk, const Block<Tile>& block, const Corner& corner,
                                                  int consumer, Ring<Tile::stages>& ring) {
  static_assert(Tile::columns == 128 && Tile::depth == 128, "the scales of b are of 128 columns, all of 128 k");
  const Scales& scales = work.scales;
  const int thread = static_cast<int>(threadIdx.x) % warpgroup, last_row = static_cast<int>(work.m) - 1;
  int rows[Tile::row_blocks][2];  // where in a's scales; a row beyond the matrix takes the last one's
#pragma unroll
  for (int i = 0; i < 2 * Tile::row_blocks; ++i) {
    const int row = corner.y + i / 2 * wgmma::m + wgmma::d_row(thread, i % 2 * 2);
    rows[i / 2][i % 2] = (row < last_row ? row : last_row) * scales.a.mn_stride;
  }
  const int columns = corner.x / 128 * scales.b.mn_stride;
  float part[Tile::block_sums];
  StageScales<Tile> next = scales_at<Tile>(scales, walk.first_k, rows, columns);
#pragma unroll
  for (int r = 0; r < Tile::row_blocks; ++r)
#pragma unroll
    for (int i = 0; i < Tile::block_sums; ++i) sums[r][i] = 0;
  for (int k = walk.first_k; k < walk.last_k; ++k) {
    float scale[Tile::row_blocks][2];
#pragma unroll
    for (int i = 0; i < 2 * Tile::row_blocks; ++i) scale[i / 2][i % 2] = next.a[i / 2][i % 2] * next.b;
    cuda::mbarrier_wait(block.full_at(ring.stage), ring.parity);
#pragma unroll
    for (int r = 0; r < Tile::row_blocks; ++r) {
      wgmma::pin(part);
      start<Tile>(part, block, ring.stage, consumer * Tile::row_blocks + r, false);
      if (r == 0 && k + 1 < walk.last_k) next = scales_at<Tile>(scales, k + 1, rows, columns);
      wgmma::wait<0>();
      wgmma::pin(part);
      if (r + 1 == Tile::row_blocks) release(block, ring.stage);
#pragma unroll
      for (int i = 0; i < Tile::block_sums; ++i) sums[r][i] = fmaf(part[i], scale[r][i / 2 % 2], sums[r][i]);
    }
    ring.advance();
  }
}

template <class Tile>
__device__ __forceinline__ void consume(const TensorMap& out, const Work& work, const Block<Tile>& block,
                                        int consumer) {
  const Walk walk = walk_of(work, block.rank);
  Ring<Tile::stages> ring;
  int turn = 0;
  typename Tile::Sum sums[Tile::row_blocks][Tile::block_sums];
  for (int step = walk.step; step < walk.end; step += walk.stride) {
    const Place place = sm90_tiles::place_of(work.order, step);
    const bool logs = work.log.records && threadIdx.x == warpgroup;
    if (logs) begin_log(work, step, block.rank);
    const int first_row = tile_row(work, place, block.rank) * Tile::rows, column = place.column * Tile::columns;
    const int row = first_row + consumer * Tile::consumer_rows;
    const Corner corner = {column, row, place.batch};
    if constexpr (Tile::scaled_along_k) {
      multiply_promoted<Tile>(sums, work, walk, block, corner, consumer, ring);
    } else {
      multiply<Tile>(sums, walk, block, consumer, ring);
      if constexpr (is_float8<typename Tile::Element>) scale<Tile>(sums[0], work, corner);
      if (work.log.sums) write_line_sums<Tile>(sums, work.log.sums[record_of(work, step, block.rank)], consumer);
    }
    if (work.split > 1)
      store_split<Tile>(sums, work, block, corner);
    else
      store<Tile>(sums, out, work, block, corner, consumer, turn);
    if (logs) end_log<Tile>(work, place, step, first_row, block.rank);
  }
  if (work.by_box && threadIdx.x % warpgroup == 0) cuda::wait_stores();
}

template <class Tile>
__global__ void __launch_bounds__(threads, 1)
    kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
           const __grid_constant__ TensorMap out, const Work work) {
  const Block<Tile> block = block_of<Tile>(work);
  if (threadIdx.x == 0) {
    cuda::prefetch(a);
    cuda::prefetch(b);
    if (work.by_box) cuda::prefetch(out);
    for (int i = 0; i < Tile::stages; ++i) {
      cuda::mbarrier_init(block.full_at(i), 1);
      cuda::mbarrier_init(block.empty_at(i), consumers * warps * block.sharers);
    }
    cuda::fence_mbarrier_init();
  }
  cuda::synchronize_cluster();  // no block sends before its peers' barriers are there
  // No block leaves while a peer may still send to it: all meet at the end, and after the parts of a split are written.
  if (threadIdx.x < warpgroup) {
    cuda::keep_registers<producer_registers>();
    if (threadIdx.x == 0) produce<Tile>(a, b, work, block);
    if (work.split > 1) cuda::synchronize_cluster();
    cuda::synchronize_cluster();
  } else {
    cuda::take_registers<consumer_registers>();
    consume<Tile>(out, work, block, static_cast<int>(threadIdx.x) / warpgroup - 1);
    cuda::synchronize_cluster();
  }
}

}  // namespace hopper
}  // namespace
}  // namespace pyhpc::matmul
