// int8 by vpdpbusd, for targets with AVX-512 VNNI.
#pragma once
#include <immintrin.h>

#include "matmul/vector.h"

namespace pyhpc::matmul {
namespace {

struct Quads {
  // a's bytes are unsigned, b's signed; the four products are added without saturation.
  static Vector<uint32_t, 64> multiply_add(Vector<uint32_t, 64> sum, Vector<uint32_t, 64> a, Vector<uint32_t, 64> b) {
    return reinterpret_cast<Vector<uint32_t, 64>>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  }
};

}  // namespace
}  // namespace pyhpc::matmul
