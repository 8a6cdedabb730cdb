// A checked product (matmul/cuda_verify.h) on emulated GPUs, for the files that run target files on the CPU: GPU memory
// is memory, and nothing has to be waited for.
#pragma once
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "matmul/cuda_verify.h"

namespace pyhpc::cuda {
void check(int status, const std::string& action) {
  if (status) throw Error(ErrorKind::device, action + ": " + std::to_string(status));
}
void* allocate(size_t bytes) { return memset(malloc(bytes), 0xff, bytes); }
void release(void* data) noexcept { free(data); }
void copy(void* destination, const void* source, size_t bytes, uintptr_t) { memcpy(destination, source, bytes); }
void synchronize(uintptr_t) {}
}  // namespace pyhpc::cuda

// `spoil` is called when out is made. told: the wrong row or -1, how many tiles cover it, and five numbers of each.
template <class Run>
void run_and_tell(const pyhpc::matmul::Problem& problem, int64_t records, Run run, void (*spoil)(), double* again,
                  double* before, int64_t* told) {
  using namespace pyhpc::matmul;
  const WrongRow wrong = run_checked(problem, records, 0, [&](TileRecord* to) {
    const int status = run(to);
    spoil();
    return status;
  });
  memcpy(again, wrong.again.data(), wrong.again.size() * sizeof(double));
  memcpy(before, wrong.before.data(), wrong.before.size() * sizeof(double));
  *told++ = wrong.row, *told++ = static_cast<int64_t>(wrong.tiles.size());
  for (const TileRecord& tile : wrong.tiles)
    for (const uint64_t number :
         {tile.multiprocessor, tile.row, tile.column, tile.extent >> 32 & 0x7fffffff, tile.extent & 0xffffffff})
      *told++ = static_cast<int64_t>(number);
}
