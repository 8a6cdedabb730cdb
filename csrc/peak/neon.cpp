// NEON: fmla, and the best int8 instruction found at run time.
#include "peak/neon.h"

namespace pyhpc::peak {

extern const Variant neon;
const Variant neon = record("neon", int8);

}  // namespace pyhpc::peak
