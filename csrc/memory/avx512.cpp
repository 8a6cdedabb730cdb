// AVX-512: a store is a whole cache line.
#include <immintrin.h>

#include "memory/loops.h"

namespace pyhpc::memory {
namespace {

struct Target {
  typedef double Vector __attribute__((vector_size(64)));
  static void stream(double* to, Vector value) { _mm512_stream_pd(to, value); }
  static void fence() { _mm_sfence(); }
};

}  // namespace

extern const Variant avx512;
const Variant avx512 = {"avx512", Loops<Target>::run};

}  // namespace pyhpc::memory
