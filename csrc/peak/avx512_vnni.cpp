// AVX-512 with VNNI.
#include "peak/vnni.h"

namespace pyhpc::peak {

extern const Variant avx512_vnni;
const Variant avx512_vnni = record("avx512_vnni");

}  // namespace pyhpc::peak
