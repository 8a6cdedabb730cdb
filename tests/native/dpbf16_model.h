// vdpbf16ps for processors that have AVX-512 but not this instruction, as Intel documents it: two fused multiply-adds,
// the odd elements first, each rounded to nearest even, with subnormal operands and results taken for zero whatever
// the control register says. Compiled into a target file with -include, it stands for the intrinsic function.
#pragma once
#include <immintrin.h>
#include <stdint.h>

static inline __m512 model_of_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const uint32_t flushing = 0x9fc0;  // all exceptions masked, to nearest even, subnormals are zero
  uint32_t before;
  const __m512i x = reinterpret_cast<__m512i>(a), y = reinterpret_cast<__m512i>(b), odd = _mm512_set1_epi32(0xffff0000);
  __asm__ volatile(
      "vstmxcsr %1\n\tvldmxcsr %2\n\t"
      "vfmadd231ps %4, %3, %0\n\tvfmadd231ps %6, %5, %0\n\t"
      "vldmxcsr %1"
      : "+v"(sum), "=m"(before)
      : "m"(flushing), "v"(_mm512_and_si512(x, odd)), "v"(_mm512_and_si512(y, odd)), "v"(_mm512_slli_epi32(x, 16)),
        "v"(_mm512_slli_epi32(y, 16)));
  return sum;
}
#define _mm512_dpbf16_ps model_of_dpbf16_ps
