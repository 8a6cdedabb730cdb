// The int8 loop of peak.h: sums of products of bytes into int32, as an exact int8 matmul does them. The operands are
// chosen so that the products of one int32 lane sum to the number of operations that made them:
//
//   pairs:  -38·127 + 46·105                        = 4   (2 multiplications, 2 additions)
//   quads:  85·51 + 170·(-102) + 255·51 + 2·4       = 8   (4 and 4; unsigned times signed)
//
// A pair is one of bfloat16 numbers too, summed exactly by float32.
//
// Included by target files only. Arithmetic gives Sum (a vector of `Element`), Operand, `first()`, `second()` and
// `multiply_add(sum, a, b)`.
#pragma once
#include "peak/loops.h"

namespace pyhpc::peak {
namespace {

constexpr int8_t pair_first[2] = {-38, 46}, pair_second[2] = {127, 105};
constexpr int pair_operations = 4;
constexpr uint8_t quad_first[4] = {85, 170, 255, 2};
constexpr int8_t quad_second[4] = {51, -102, 51, 4};
constexpr int quad_operations = 8;

#if defined(__x86_64__)
#define PYHPC_REGISTER "+v"
#else
#define PYHPC_REGISTER "+w"
#endif

template <class Arithmetic, int accumulators, int lane_operations, class Element = int32_t>
int64_t dot_products(int64_t blocks) {
  using Sum = typename Arithmetic::Sum;
  constexpr int64_t lanes = sizeof(Sum) / sizeof(Element), step_operations = lanes * lane_operations * accumulators;
  static_assert(block_operations % step_operations == 0, "a block is a whole number of steps");
  auto a = Arithmetic::first();
  const auto b = Arithmetic::second();
  int64_t operations = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    Sum sums[accumulators];
#pragma GCC unroll 32
    for (int i = 0; i < accumulators; ++i) sums[i] = Sum{};
    for (int64_t step = 0; step < block_operations / step_operations; ++step) {
#pragma GCC unroll 32
      for (int i = 0; i < accumulators; ++i) {
        __asm__("" : PYHPC_REGISTER(a));  // as if a were new: keeps the compiler from multiplying once for all
        sums[i] = Arithmetic::multiply_add(sums[i], a, b);
        __asm__(""
                : PYHPC_REGISTER(sums[i]));  // one register for good: without this, GCC copies every sum at every step
      }
    }
    // Unrolled, so that no index is variable and the sums stay in registers.
#pragma GCC unroll 32
    for (int i = 0; i < accumulators; ++i) {
      Element counted[lanes];
      __builtin_memcpy(counted, &sums[i], sizeof counted);
      for (int lane = 0; lane < lanes; ++lane) operations += static_cast<int64_t>(counted[lane]);
    }
  }
  return operations;
}

}  // namespace
}  // namespace pyhpc::peak
