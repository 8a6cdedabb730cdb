// 128-bit vectors; streaming stores where the architecture's base has them (x86-64), elsewhere normal ones.
#include "memory/loops.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace pyhpc::memory {
namespace {

struct Target {
  typedef double Vector __attribute__((vector_size(16)));
#if defined(__SSE2__)
  static void stream(double* to, Vector value) { _mm_stream_pd(to, value); }
  static void fence() { _mm_sfence(); }
#else
  static void stream(double* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
  static void fence() {}
#endif
};

}  // namespace

extern const Variant generic;
const Variant generic = {"generic", Loops<Target>::run};

}  // namespace pyhpc::memory
