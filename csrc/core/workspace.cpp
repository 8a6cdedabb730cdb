#include "core/workspace.h"

#include <stdlib.h>
#include <sys/mman.h>

namespace pyhpc {
namespace {

constexpr size_t page = size_t{2} << 20;

struct Pool {
  void* data[workspace_slots] = {};
  size_t bytes[workspace_slots] = {};
  ~Pool() {
    for (void* block : data) free(block);
  }
};
thread_local Pool pool;

}  // namespace

void* workspace(int slot, size_t bytes) {
  if (bytes > pool.bytes[slot]) {
    const size_t rounded = (bytes + page - 1) / page * page;
    free(pool.data[slot]);
    pool.bytes[slot] = 0;
    pool.data[slot] = aligned_alloc(page, rounded);
    if (!pool.data[slot]) return nullptr;
    madvise(pool.data[slot], rounded, MADV_HUGEPAGE);  // advice only: failure costs speed, not correctness
    pool.bytes[slot] = rounded;
  }
  return pool.data[slot];
}

}  // namespace pyhpc
