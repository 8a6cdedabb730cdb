// 128-bit vectors without conversion instructions: float16 to float32 and back by shifts, one multiplication and one
// addition, two float16 in each 32-bit lane.
#include "allreduce/loops.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace pyhpc::allreduce {
namespace {

struct Target : Padded<Vector<uint32_t, 16>> {
  static constexpr int bytes = 16;
  using Raw = Vector<uint32_t, bytes>;
  using Signed = Vector<int32_t, bytes>;  // comparisons of values below 2^31 are faster signed
  using Float = Vector<float, bytes>;
#if defined(__SSE2__)
  static void stream(void* to, Raw value) {
    _mm_stream_si128(static_cast<__m128i*>(to), reinterpret_cast<__m128i>(value));
  }
  static void fence() { _mm_sfence(); }
#else
  static void stream(void* to, Raw value) { *static_cast<Raw*>(to) = value; }
  static void fence() {}
#endif

  // The exponent's bias grows from 15 to 127: times 2^112, which is exact for subnormals too. Inf and NaN get exponent
  // 255.
  static Float widen(Raw half) {
    const Raw magnitude = half & 0x7fffu;
    const Raw finite = reinterpret_cast<Raw>(reinterpret_cast<Float>(magnitude << 13) * 0x1p112f);
    const Raw special = (magnitude << 13) | 0x7f800000u;
    const Raw value = reinterpret_cast<Signed>(magnitude) >= 0x7c00 ? special : finite;
    return reinterpret_cast<Float>(value | ((half & 0x8000u) << 16));
  }

  static Raw narrow(Float value) {
    const Raw bits = reinterpret_cast<Raw>(value), magnitude = bits & 0x7fffffffu;
    const Signed order = reinterpret_cast<Signed>(magnitude);
    // Normal: round to 10 fraction bits, ties to even, and take 112 off the exponent.
    Raw half = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    // Subnormal (below 2^-14): beside 0.5 the last place is 2^-24, float16's own, so the addition rounds.
    const Float shifted = reinterpret_cast<Float>(magnitude) + 0.5f;
    half = order < 0x38800000 ? reinterpret_cast<Raw>(shifted) - 0x3f000000u : half;
    half = order >= 0x477ff000 ? Raw{} + 0x7c00u : half;                        // 65520 and above round to infinity
    half = order > 0x7f800000 ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : half;  // NaN, quiet
    return half | ((bits >> 16) & 0x8000u);
  }

  template <class Combine>
  static Raw float16(Raw a, Raw b) {
    const Raw low = narrow(Combine::apply(widen(a & 0xffffu), widen(b & 0xffffu)));
    const Raw high = narrow(Combine::apply(widen(a >> 16), widen(b >> 16)));
    return low | (high << 16);
  }
};

}  // namespace

extern const Variant generic;
const Variant generic = {"generic", Loops<Target>::reduce, Copy<Target>::run};

}  // namespace pyhpc::allreduce
