// The record that a CUDA target file exports: its name and its entries.
#pragma once
#include <stdint.h>

namespace pyhpc::cuda {

template <class Problem>
struct Variant {
  const char* name;
  // Enqueues the work on `stream` of the current device, without waiting. Returns a cudaError_t.
  int (*run)(const Problem& problem, uintptr_t stream);
  // Why it cannot do this problem, as the end of a sentence, or nullptr. Not set: it does all that its kernel takes.
  const char* (*refusal)(const Problem& problem) = nullptr;
};

}  // namespace pyhpc::cuda
