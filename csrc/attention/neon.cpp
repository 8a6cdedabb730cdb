// NEON (Armv8.2 with half precision). 8 × 3 tiles: 24 of the 32 registers accumulate, 3 hold queries.
#include <arm_neon.h>

#include "attention/run.h"

namespace pyhpc::attention {
namespace {

struct Neon : Simd<4> {
  static constexpr int tile = 8, query_vectors = 3;
  using Simd::load;
  using Simd::store;
  static Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
  static Vec load(const Float16* from) { return vcvt_f32_f16(read<float16x4_t>(from)); }
  static void store(Float16* to, Vec x) {
    const float16x4_t half = vcvt_f16_f32(x);
    __builtin_memcpy(to, &half, sizeof half);
  }
};

}  // namespace

extern const Variant neon;
const Variant neon = {"neon", run<Neon>, backward<Neon>};

}  // namespace pyhpc::attention
