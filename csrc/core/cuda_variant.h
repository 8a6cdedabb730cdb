// The record that a CUDA target file exports: its name and its entry.
#pragma once
#include <stdint.h>

namespace pyhpc::cuda {

template <class Problem>
struct Variant {
  const char* name;
  // Enqueues the work on `stream` of the current device, without waiting. Returns a cudaError_t.
  int (*run)(const Problem& problem, uintptr_t stream);
};

}  // namespace pyhpc::cuda
