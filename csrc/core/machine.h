// What the processor and the operating system offer: asked once, never assumed.
#pragma once
#include <stdint.h>

namespace pyhpc {

// Why code for `target` ("avx512", "avx2", "neon", "generic") cannot run here, or nullptr if it can. Both the
// processor's feature bits and the operating system's saved register state (XCR0) are checked.
const char* target_refusal(const char* target);

// Every target of this build, best first, as in targets.cmake; ends with nullptr.
extern const char* const targets[];

struct CacheSizes {  // bytes available to one core; 0 = unknown
  int64_t l1d, l2, l3;
  int l1d_ways, l2_ways, l3_ways;
};
const CacheSizes& cache_sizes();

}  // namespace pyhpc
