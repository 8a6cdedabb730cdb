// What sm90.cu can write down of each tile: on which multiprocessor it was computed, and when.
// A wrong tile names its multiprocessor; cycles per nanosecond are that multiprocessor's clock under load.
#pragma once
#include <stdint.h>

#include "matmul/matmul.h"

namespace pyhpc::matmul {

// 8 words of 64 bits. Rows and columns are those of out; with a split along k several blocks have a record each.
struct TileRecord {
  uint64_t multiprocessor, cycles, begin_nanoseconds, end_nanoseconds;
  uint64_t row, column, batch;  // of the tile's first element
  uint64_t extent;              // rows << 32 | columns, as if nothing were cut off at the edges
};

// The number of records that run_logged writes for a problem, 0 if it refuses it, on the current GPU.
int64_t count_records(const Problem& problem);

// As the variant's run, and writes the records. The batch has one dimension or none. Returns a cudaError_t.
int run_logged(const Problem& problem, TileRecord* log, uintptr_t stream);

}  // namespace pyhpc::matmul
