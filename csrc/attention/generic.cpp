// Any processor: four lanes, which every 64-bit instruction set has, and no intrinsics. 4 × 2 tiles fit 16 registers
// without a fused multiply-add.
#include "attention/run.h"

namespace pyhpc::attention {
namespace {

struct Generic : Simd<4> {
  static constexpr int tile = 4, query_vectors = 2;
};

}  // namespace

extern const Variant generic;
const Variant generic = {"generic", run<Generic>, backward<Generic>};

}  // namespace pyhpc::attention
