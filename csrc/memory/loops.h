// The loops of memory.h over vectors of any width; included by target files only. Target gives Vector (of doubles),
// `stream(double*, Vector)`, an aligned store past the caches, and `fence()`, which makes such stores visible in order.
#pragma once
#include "memory/memory.h"

namespace pyhpc::memory {
namespace {

template <class Target>
struct Loops {
  using Vector = typename Target::Vector;
  typedef Vector Unaligned __attribute__((aligned(8)));
  static constexpr int64_t lanes = sizeof(Vector) / sizeof(double);
  static constexpr int unroll = 16;  // independent sums hide the latency of an addition: 2 units × 4 cycles
  static constexpr int64_t tile = unroll * lanes;

  static Vector load(const double* from) { return *reinterpret_cast<const Unaligned*>(from); }

  static double read(const Part& part) {
    double total = 0;
    Vector sums[unroll] = {};
    for (int64_t repeat = 0; repeat < part.repeats; ++repeat) {
      int64_t i = 0;
      for (; i + tile <= part.count; i += tile) {
#pragma GCC unroll 16
        for (int j = 0; j < unroll; ++j) sums[j] += load(part.a + i + j * lanes);
      }
      for (; i + lanes <= part.count; i += lanes) sums[0] += load(part.a + i);
      for (; i < part.count; ++i) total += part.a[i];
      __asm__ volatile("" ::: "memory");  // the next repeat loads again
    }
#pragma GCC unroll 16
    for (int j = 1; j < unroll; ++j) sums[0] += sums[j];
#pragma GCC unroll 16
    for (int lane = 0; lane < lanes; ++lane) total += sums[0][lane];
    return total;
  }

  template <bool streaming>
  static void store(double* to, Vector value) {
    if constexpr (streaming)
      Target::stream(to, value);
    else
      *reinterpret_cast<Vector*>(to) = value;
  }

  // c[i] = value(i) where `value` gives a Vector and `element` the same for one element.
  template <bool streaming, class Value, class Element>
  static void write(const Part& part, Value value, Element element) {
    double* const c = part.c;
    // Stores want whole lines: single elements up to the first one.
    const int64_t to_line = static_cast<int64_t>((64 - reinterpret_cast<uintptr_t>(c) % 64) % 64 / sizeof(double));
    const int64_t head = to_line < part.count ? to_line : part.count;
    for (int64_t repeat = 0; repeat < part.repeats; ++repeat) {
      int64_t i = 0;
      for (; i < head; ++i) c[i] = element(i);
      for (; i + tile <= part.count; i += tile) {
#pragma GCC unroll 16
        for (int j = 0; j < unroll; ++j) store<streaming>(c + i + j * lanes, value(i + j * lanes));
      }
      for (; i + lanes <= part.count; i += lanes) store<streaming>(c + i, value(i));
      for (; i < part.count; ++i) c[i] = element(i);
      __asm__ volatile("" ::: "memory");  // the next repeat stores again
    }
    if (streaming) Target::fence();
  }

  template <class Value, class Element>
  static void write(const Part& part, Value value, Element element) {
    if (part.streaming)
      write<true>(part, value, element);
    else
      write<false>(part, value, element);
  }

  static double run(Operation operation, const Part& part) {
    const double *a = part.a, *b = part.b;
    const Vector three = Vector{} + scalar;
    switch (operation) {
      case Operation::read:
        return read(part);
      case Operation::copy:
        write(part, [=](int64_t i) { return load(a + i); }, [=](int64_t i) { return a[i]; });
        break;
      case Operation::triad:
        write(
            part, [=](int64_t i) { return load(a + i) + three * load(b + i); },
            [=](int64_t i) { return a[i] + scalar * b[i]; });
        break;
      case Operation::fill:
        write(part, [=](int64_t) { return three; }, [=](int64_t) { return scalar; });
        break;
    }
    return 0;
  }
};

}  // namespace
}  // namespace pyhpc::memory
