// NEON. float16 by fcvtl and fcvtn, half a vector at a time; streaming by the non-temporal store of a pair (stnp).
#include <arm_neon.h>

#include "allreduce/loops.h"

namespace pyhpc::allreduce {
namespace {

struct Target : Padded<Vector<uint32_t, 16>> {
  static constexpr int bytes = 16;
  using Raw = Vector<uint32_t, bytes>;
  static void stream(void* to, Raw value) {
    const uint64x2_t pair = reinterpret_cast<uint64x2_t>(value);
    __asm__ volatile("stnp %d1, %d2, %0" : "=Q"(*static_cast<Raw*>(to)) : "w"(pair[0]), "w"(pair[1]));
  }
  static void fence() { __asm__ volatile("dmb ishst" ::: "memory"); }

  template <class Combine>
  static Raw float16(Raw first, Raw second) {
    const float16x8_t a = reinterpret_cast<float16x8_t>(first), b = reinterpret_cast<float16x8_t>(second);
    const float32x4_t low = Combine::apply(vcvt_f32_f16(vget_low_f16(a)), vcvt_f32_f16(vget_low_f16(b)));
    const float32x4_t high = Combine::apply(vcvt_high_f32_f16(a), vcvt_high_f32_f16(b));
    return reinterpret_cast<Raw>(vcvt_high_f16_f32(vcvt_f16_f32(low), high));
  }
};

}  // namespace

extern const Variant neon;
const Variant neon = {"neon", Loops<Target>::reduce, Copy<Target>::run};

}  // namespace pyhpc::allreduce
