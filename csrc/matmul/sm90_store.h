// How a tile of sm90.cu's kernel leaves the registers: scaled, converted, to any layout of out; by the copy engine
// where it can write out.
#pragma once
#include <type_traits>

#include "matmul/sm90_block.h"

namespace pyhpc::matmul {
namespace {

namespace hopper {

template <class T>
constexpr bool is_float8 = sizeof(T) == 1 && std::is_same<wgmma::Sum<T>, float>::value;

// Calls use(x) with x of the type of out's elements.
template <class T, class Use>
__device__ __forceinline__ void with_out_type(const Work& work, Use use) {
  if constexpr (std::is_same<T, int8_t>::value)
    use(int32_t{});
  else if (work.out_dtype == DType::float32)
    use(float{});
  else if constexpr (sizeof(T) == 2)
    use(T{});
  else if constexpr (is_float8<T>) {
    if (work.out_dtype == DType::bfloat16)
      use(cuda::Bfloat16{});
    else
      use(cuda::Float16{});
  }
}

__device__ inline void put(int32_t value, bool add, int32_t& out) {  // modulo 2^32
  out = static_cast<int32_t>(static_cast<uint32_t>(value) + (add ? static_cast<uint32_t>(out) : 0));
}
template <class Out>
__device__ void put(float value, bool add, Out& out) {
  out = cuda::converted<Out>(add ? cuda::to_float(out) + value : value);
}

// Register i of the sums of the 64 rows at `corner`, to any layout, if it lies in the matrix.
template <class Tile>
__device__ void store_sum(const Work& work, const Corner& corner, int i, typename Tile::Sum value) {
  const int thread = static_cast<int>(threadIdx.x) % warpgroup;
  const int64_t row = corner.y + wgmma::d_row(thread, i), column = corner.x + wgmma::d_column(thread, i);
  if (row >= work.m || column >= work.n) return;
  const int64_t at = corner.z * work.out_batch + row * work.out_row + column * work.out_column;
  with_out_type<typename Tile::Element>(
      work, [&](auto type) { put(value, work.accumulate, static_cast<decltype(type)*>(work.out)[at]); });
}

// Times the scales of whole rows of a and columns of b, and of all.
template <class Tile>
__device__ __forceinline__ void scale(float (&sums)[Tile::block_sums], const Work& work, const Corner& corner) {
  const Scales& scales = work.scales;
  const int thread = static_cast<int>(threadIdx.x) % warpgroup;
  const auto at = [](const Scale& scale, int mn, int64_t count) {
    return scale.values && mn < count ? scale.values[mn * scale.mn_stride] : 1.0f;
  };
  const float of_all = scales.factor * (scales.b.mn_stride ? 1.0f : at(scales.b, 0, 1));
  float of_row[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) of_row[i] = of_all * at(scales.a, corner.y + wgmma::d_row(thread, 2 * i), work.m);
#pragma unroll
  for (int i = 0; i < Tile::block_sums; ++i) sums[i] *= of_row[i / 2 % 2];
  if (scales.b.mn_stride == 0) return;
#pragma unroll
  for (int i = 0; i < Tile::block_sums; ++i) sums[i] *= at(scales.b, corner.x + wgmma::d_column(thread, i), work.n);
}

template <class Out, class Sum>
__device__ void keep_pair(uint32_t at, Sum first, Sum second) {
  if constexpr (std::is_same<Out, Sum>::value)
    cuda::store_shared(at, first, second);
  else
    cuda::store_shared(at, cuda::packed(cuda::converted<Out>(first), cuda::converted<Out>(second)));
}

// By the copy engine, in pieces of 64 lines of 128 bytes: a piece is written to shared memory while the one before is
// on its way. The swizzle spreads the 8 lines that a warp writes at once over all banks.
template <class Out, class Tile>
__device__ __forceinline__ void store_boxes(const TensorMap& map, const typename Tile::Sum (&sums)[Tile::block_sums],
                                            uint32_t staging, int consumer, Corner corner, int& turn) {
  constexpr int width = wgmma::line_bytes / static_cast<int>(sizeof(Out)), groups = width / 8;
  const int thread = static_cast<int>(threadIdx.x) % warpgroup;
#pragma unroll
  for (int piece = 0; piece < Tile::columns / width; ++piece) {
    const uint32_t at = staging + static_cast<uint32_t>((consumer * pieces + turn) * piece_bytes);
    if (thread == 0) cuda::wait_stores_read<pieces - 1>();
    cuda::synchronize_named(1 + consumer, warpgroup);
#pragma unroll
    for (int i = 0; i < groups * 4; i += 2) {
      const int line = wgmma::d_row(thread, i), element = wgmma::d_column(thread, i);
      const uint32_t offset = static_cast<uint32_t>(line * wgmma::line_bytes + element * static_cast<int>(sizeof(Out)));
      keep_pair<Out>(at + wgmma::swizzled(offset), sums[piece * groups * 4 + i], sums[piece * groups * 4 + i + 1]);
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

// Each of a consumer's blocks of 64 rows; `corner` is that of the first.
template <class Tile>
__device__ __forceinline__ void store(const typename Tile::Sum (&sums)[Tile::row_blocks][Tile::block_sums],
                                      const TensorMap& map, const Work& work, const Block<Tile>& block, Corner corner,
                                      int consumer, int& turn) {
#pragma unroll
  for (int r = 0; r < Tile::row_blocks; ++r, corner.y += wgmma::m)
    if (work.by_box) {
      with_out_type<typename Tile::Element>(
          work, [&](auto type) { store_boxes<decltype(type), Tile>(map, sums[r], block.out, consumer, corner, turn); });
    } else {
#pragma unroll
      for (int i = 0; i < Tile::block_sums; ++i) store_sum<Tile>(work, corner, i, sums[r][i]);
    }
}

// The parts of k of all blocks of the cluster, added in their order. Each block stores a share of the sums.
template <class Tile>
__device__ __forceinline__ void store_split(const typename Tile::Sum (&sums)[Tile::row_blocks][Tile::block_sums],
                                            const Work& work, const Block<Tile>& block, const Corner& corner) {
  constexpr int writers = consumers * warpgroup;
  using Sum = typename Tile::Sum;
  const int thread = static_cast<int>(threadIdx.x) - warpgroup, share = Tile::sums / work.split;
  const uint32_t parts = block.ring + static_cast<uint32_t>(thread * 4);
  cuda::synchronize_named(1, writers);  // both consumers have read the ring for the last time
#pragma unroll
  for (int i = 0; i < Tile::sums; ++i)
    cuda::store_shared(parts + static_cast<uint32_t>(i * writers * 4),
                       sums[i / Tile::block_sums][i % Tile::block_sums]);
  cuda::synchronize_cluster();
  for (int i = block.rank * share; i < (block.rank + 1) * share; ++i) {
    Sum sum = 0;
    for (int rank = 0; rank < work.split; ++rank)
      put(cuda::load_of_rank<Sum>(parts + static_cast<uint32_t>(i * writers * 4), rank), rank > 0, sum);
    const Corner from = {corner.x, corner.y + i / Tile::block_sums * wgmma::m, corner.z};
    store_sum<Tile>(work, from, i % Tile::block_sums, sum);
  }
}

// Which record a block's tile has.
__device__ inline int64_t record_of(const Work& work, int step, int rank) {
  return static_cast<int64_t>(step) * (work.order.cluster_rows * work.split) + rank;
}

// One thread of the block writes when it begins a tile: into the record, because registers are scarce.
__device__ inline void begin_log(const Work& work, int step, int rank) {
  TileRecord& record = work.log.records[record_of(work, step, rank)];
  record.cycles = cuda::read_clock(), record.begin_nanoseconds = cuda::read_nanoseconds();
}

// And, when it has stored the tile, the rest.
template <class Tile>
__device__ void end_log(const Work& work, const Place& place, int step, int row, int rank) {
  const uint64_t first_row = static_cast<uint64_t>(row);
  const uint64_t first_column = static_cast<uint64_t>(place.column) * Tile::columns;
  const uint64_t high = work.exchanged ? Tile::columns : Tile::rows, low = work.exchanged ? Tile::rows : Tile::columns;
  TileRecord& record = work.log.records[record_of(work, step, rank)];
  record.cycles = cuda::read_clock() - record.cycles, record.end_nanoseconds = cuda::read_nanoseconds();
  record.multiprocessor = cuda::multiprocessor_number();
  record.row = work.exchanged ? first_column : first_row, record.column = work.exchanged ? first_row : first_column;
  record.batch = static_cast<uint64_t>(place.batch),
  record.extent = static_cast<uint64_t>(work.exchanged) << 63 | high << 32 | low;
}

__device__ inline float magnitude(float value) { return fabsf(value); }
__device__ inline int32_t magnitude(int32_t) { return 0; }

// Sums over the tile's columns, of the lines of one consumer: its four neighbouring threads hold the same two lines.
template <class Tile>
__device__ __forceinline__ void write_line_sums(const typename Tile::Sum (&sums)[Tile::row_blocks][Tile::block_sums],
                                                TileSums& to, int consumer) {
  using Sum = typename Tile::Sum;
  const int thread = static_cast<int>(threadIdx.x) % warpgroup;
#pragma unroll
  for (int line = 0; line < 2 * Tile::row_blocks; ++line) {
    Sum found[2] = {};
#pragma unroll
    for (int i = 0; i < Tile::block_sums; ++i)
      if (i / 2 % 2 == line % 2) {
        put(sums[line / 2][i], true, found[0]);
        put(magnitude(sums[line / 2][i]), true, found[1]);
      }
    const int at = consumer * Tile::consumer_rows + line / 2 * wgmma::m + wgmma::d_row(thread, line % 2 * 2);
#pragma unroll
    for (int which = 0; which < 2; ++which) {
#pragma unroll
      for (int mask = 1; mask < 4; mask *= 2) put(cuda::exchange_xor(found[which], mask), true, found[which]);
      if (thread % 4 == 0) memcpy(&to.bits[at][which], &found[which], sizeof(Sum));
    }
  }
}

}  // namespace hopper
}  // namespace
}  // namespace pyhpc::matmul
