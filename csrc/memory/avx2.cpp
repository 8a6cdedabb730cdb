// AVX2: half a cache line a store; the write-combining buffers join the streaming ones.
#include <immintrin.h>

#include "memory/loops.h"

namespace pyhpc::memory {
namespace {

struct Target {
  typedef double Vector __attribute__((vector_size(32)));
  static void stream(double* to, Vector value) { _mm256_stream_pd(to, value); }
  static void fence() { _mm_sfence(); }
};

}  // namespace

extern const Variant avx2;
const Variant avx2 = {"avx2", Loops<Target>::run};

}  // namespace pyhpc::memory
