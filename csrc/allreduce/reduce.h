// The local step of every all-reduce: out[i] = a[i] op b[i] for sum, prod, min, max.
//
// 16-bit floats are computed in float32 and rounded to nearest even; a NaN stays a quiet NaN. min and max of floats
// give NaN where either operand is NaN (as np.minimum); integers wrap. One result depends on its two operands alone, so
// it is the same, up to the payload of a NaN, whatever the variant, the number of threads and the place in the array.
#pragma once
#include <stdint.h>

#include "core/array.h"

namespace pyhpc::allreduce {

enum class Operation : int { sum, prod, min, max };

struct Span {  // one thread's share
  const char *a, *b;
  char* out;       // exactly a, exactly b, or apart from both
  int64_t bytes;   // whole elements
  bool streaming;  // store past the caches
};

struct Variant {
  const char* name;
  void (*reduce)(DType dtype, Operation operation, const Span& span);
  void (*copy)(char* to, const char* from, int64_t bytes, bool streaming);  // ranges apart, of any alignment
};

}  // namespace pyhpc::allreduce
