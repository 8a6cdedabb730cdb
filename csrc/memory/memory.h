// Memory traffic with next to no arithmetic, on float64 arrays:
//
//   read    return Σ a[i]          copy    c[i] = a[i]
//   triad   c[i] = a[i] + 3·b[i]   fill    c[i] = 3
//
// as McCalpin's STREAM defines copy and triad. `repeats` goes over the same part again inside one call, so that the
// call itself does not show in a cache-sized footprint. Streaming stores bypass the caches: no line of c is read before
// it is written. The sums are exact for integer values below 2^53.
#pragma once
#include <stdint.h>

namespace pyhpc::memory {

enum class Operation : int { read, copy, triad, fill };
constexpr double scalar = 3;

struct Part {  // one thread's share
  const double *a, *b;
  double* c;
  int64_t count, repeats;
  bool streaming;
};

struct Variant {
  const char* name;
  double (*run)(Operation operation, const Part& part);  // the sum of what was read, 0 for the others
};

}  // namespace pyhpc::memory
