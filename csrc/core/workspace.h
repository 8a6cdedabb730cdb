// Scratch memory that kernels pack into. Allocated once per thread and grown, because first touch of fresh pages
// costs more than many kernels; aligned to 2 MiB and advised for huge pages.
#pragma once
#include <stddef.h>

namespace pyhpc {

// At least `bytes` of 64-byte-aligned scratch, private to the calling thread, valid until its next call with the same
// slot. Returns nullptr when memory is exhausted.
void* workspace(int slot, size_t bytes);
constexpr int workspace_slots = 4;

}  // namespace pyhpc
