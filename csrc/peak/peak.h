// How fast the processor multiplies and adds when nothing else limits it: loops on registers alone, no memory traffic.
//
// Every loop counts its own operations in the values it computes, so that the rate is proved and not assumed. Floating
// point: with c the dtype's nearest value to 1/3,
//
//   x ← x·3 + 3;   x ← x·c + 3        takes an integer x to exactly x + 4,
//
// two multiply-adds = 4 operations. 3x + 3 is exact below 2^24. 3c is 1 + 2^-25 (float32) or 1 - 2^-54 (float64), so
// the second step is off by (x + 1)·2^-25 or (x + 1)·2^-54 before rounding, less than half a unit in the last place of
// x + 4, and rounds to it; the same holds where multiply and add round separately. The multiplier's dense bit pattern
// keeps the multiplier array as busy as real data do. Integers: pairs of bytes whose products sum to their operation
// count.
#pragma once
#include <stdint.h>

namespace pyhpc::peak {

// Operations of one block on one thread: a multiple of 4 · lanes · accumulators of every loop, and small enough that x
// stays far below 2^24 / 3. A block takes 0.1 to 2 ms.
constexpr int64_t block_operations = int64_t{3} << 22;

struct Loop {
  int64_t (*run)(int64_t blocks);  // runs `blocks` blocks and returns the operations its values counted
  const char* instruction;         // what it is made of
};

struct Variant {
  const char* name;
  Loop float64, float32;
  Loop (*int8)();      // the best exact int8 multiply-add of this processor, int32 accumulation
  Loop bfloat16 = {};  // where the processor multiplies bfloat16, into float32
};

}  // namespace pyhpc::peak
