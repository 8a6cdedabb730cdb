// The loops of peak.h over vector types of any width; included by target files only. `accumulators` independent chains
// hide the multiply-add latency: units × latency is at most 2 × 5 on the processors of today, and they must fit the
// registers beside two constants.
#pragma once
#include "peak/peak.h"

namespace pyhpc::peak {
namespace {

// A constant the compiler cannot see through, in a register of its own.
template <class Vector, class Element>
Vector opaque(Element value) {
  volatile Element hidden = value;
  return Vector{} + static_cast<Element>(hidden);
}

template <class Vector, class Element>
int64_t sum_lanes(const Vector& vector) {
  int64_t sum = 0;
  for (unsigned lane = 0; lane < sizeof(Vector) / sizeof(Element); ++lane) sum += static_cast<int64_t>(vector[lane]);
  return sum;
}

// x ← x·3 + 3; x ← x·third + 3. Element may be unsigned: third is then the inverse of 3 modulo its range.
template <class Vector, class Element, int accumulators>
int64_t multiply_add(int64_t blocks, Element one_third) {
  constexpr int64_t lanes = sizeof(Vector) / sizeof(Element);
  static_assert(block_operations % (4 * lanes * accumulators) == 0, "a block is a whole number of steps");
  const Vector three = opaque<Vector>(Element(3)), third = opaque<Vector>(one_third);
  int64_t operations = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    Vector x[accumulators];
#pragma GCC unroll 32
    for (int i = 0; i < accumulators; ++i) x[i] = opaque<Vector>(Element(i + 1));
    for (int64_t step = 0; step < block_operations / (4 * lanes * accumulators); ++step) {
#pragma GCC unroll 32
      for (int i = 0; i < accumulators; ++i) x[i] = x[i] * three + three;
#pragma GCC unroll 32
      for (int i = 0; i < accumulators; ++i) x[i] = x[i] * third + three;
    }
    // Exact: the sum over the accumulators stays below 2^24.
    Vector grown = {};
#pragma GCC unroll 32
    for (int i = 0; i < accumulators; ++i) grown += x[i] - Element(i + 1);
    operations += sum_lanes<Vector, Element>(grown);
  }
  return operations;
}

template <class Vector, int accumulators>
int64_t float64_loop(int64_t blocks) {
  return multiply_add<Vector, double, accumulators>(blocks, 1.0 / 3);
}

template <class Vector, int accumulators>
int64_t float32_loop(int64_t blocks) {
  return multiply_add<Vector, float, accumulators>(blocks, 1.0f / 3);
}

}  // namespace
}  // namespace pyhpc::peak
