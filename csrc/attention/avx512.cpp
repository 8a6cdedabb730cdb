// AVX-512 (F, BW, DQ, VL) with F16C.
#include "attention/avx512.h"

namespace pyhpc::attention {

extern const Variant avx512;
const Variant avx512 = {"avx512", run<Avx512>, backward<Avx512>};

}  // namespace pyhpc::attention
