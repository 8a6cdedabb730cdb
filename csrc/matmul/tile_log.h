// What a kernel can write down of each tile: on which multiprocessor it was computed; sm90.cu also when, and checksums.
// A wrong tile names its multiprocessor (pyhpc/measure/multiprocessors.py, tile_checksums.py); cycles per nanosecond
// are that multiprocessor's clock under load.
#pragma once
#include <stdint.h>

#include "matmul/matmul.h"

namespace pyhpc::matmul {

// 8 words of 64 bits. Rows and columns are those of out; with a split along k several blocks have a record each.
// `extent` is rows << 32 | columns, as if nothing were cut off at the edges; its highest bit is set where the product
// was computed transposed, so that `lines` are columns of out.
struct TileRecord {
  uint64_t multiprocessor, cycles, begin_nanoseconds, end_nanoseconds;
  uint64_t row, column, batch;  // of the tile's first element
  uint64_t extent;
};

// The sums of a tile's lines in the tensor cores' own precision, before they are rounded and stored, and of their
// absolute values: of int8 in 32 bits, and no absolute values. Line i of the tile is line i here.
struct TileSums {
  static constexpr int lines = 256;
  uint32_t bits[lines][2];  // float or int32
};

// Where a launch writes what it tells; nullptr: nothing.
struct TileLog {
  TileRecord* records;
  TileSums* sums;
};

// The number of records that sm90's run_logged writes for a problem, 0 if it refuses it, on the current GPU.
int64_t count_records(const Problem& problem);

// As the variant's run, and writes the records, and the sums where no scales change along k. The batch has one
// dimension or none. Returns a cudaError_t.
int run_logged(const Problem& problem, const TileLog& log, uintptr_t stream);

// The same of sm80, for any problem; a record holds the place and the multiprocessor alone. The batch is counted as
// one.
int64_t count_blocks(const Problem& problem);
int run_blocks_logged(const Problem& problem, TileRecord* records, uintptr_t stream);

}  // namespace pyhpc::matmul
