// The loops of reduce.h over raw vectors of any width; included by target files only. Target gives `bytes`, the vector
// width; `stream(void*, Raw)`, an aligned store past the caches; `fence()`, which orders such stores; and
// `float16<Combine>(Raw, Raw)`, which widens to float32, combines and rounds; `load_part` and `store_part`, of less
// than a vector, which `Padded` has for targets without masks.
//
// Everything works on whole vectors of raw bits: the ends of a span are padded to one, so that there is no second,
// scalar, definition of any operation.
#pragma once
#include "allreduce/reduce.h"

namespace pyhpc::allreduce {
namespace {

template <class Element, int bytes>
struct Of {
  typedef Element Vector __attribute__((vector_size(bytes)));
};
template <class Element, int bytes>
using Vector = typename Of<Element, bytes>::Vector;

// Parts of vectors by way of the stack.
template <class Raw>
struct Padded {
  static Raw load_part(const char* from, int64_t bytes) {
    Raw value = {};
    __builtin_memcpy(&value, from, bytes);
    return value;
  }
  static void store_part(char* to, Raw value, int64_t bytes) { __builtin_memcpy(to, &value, bytes); }
};

template <Operation operation>
struct Combine {
  template <class V>
  static V apply(V a, V b) {
    if constexpr (operation == Operation::sum) return a + b;
    if constexpr (operation == Operation::prod) return a * b;
    // a != a: a NaN in a is kept; one in b is, because the comparison is false. Always false for integers.
    if constexpr (operation == Operation::min) return ((a < b) | (a != a)) ? a : b;
    if constexpr (operation == Operation::max) return ((a > b) | (a != a)) ? a : b;
  }
};

// Elements the processor computes with as they are.
template <class Element>
struct Plain {
  template <class Target, class Combine>
  static typename Target::Raw apply(typename Target::Raw a, typename Target::Raw b) {
    using V = Vector<Element, Target::bytes>;
    return reinterpret_cast<typename Target::Raw>(Combine::apply(reinterpret_cast<V>(a), reinterpret_cast<V>(b)));
  }
};

// Two bfloat16 in each 32-bit lane: each is the upper half of a float32, so none has to change its lane.
struct BFloat16 {
  template <class Target, class Combine>
  static typename Target::Raw apply(typename Target::Raw a, typename Target::Raw b) {
    using Float = Vector<float, Target::bytes>;
    using Raw = typename Target::Raw;
    const Float low = Combine::apply(reinterpret_cast<Float>(a << 16), reinterpret_cast<Float>(b << 16));
    const Float high =
        Combine::apply(reinterpret_cast<Float>(a & 0xffff0000u), reinterpret_cast<Float>(b & 0xffff0000u));
    return (round<Raw>(low) >> 16) | (round<Raw>(high) & 0xffff0000u);
  }

  // The nearest bfloat16, ties to even, in the upper 16 bits.
  template <class Raw, class Float>
  static Raw round(Float value) {
    const Raw bits = reinterpret_cast<Raw>(value);
    return value != value ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  }
};

struct Float16 {
  template <class Target, class Combine>
  static typename Target::Raw apply(typename Target::Raw a, typename Target::Raw b) {
    return Target::template float16<Combine>(a, b);
  }
};

template <class Target, class Kind, class Combine>
struct Loop {
  using Raw = typename Target::Raw;
  typedef Raw Unaligned __attribute__((aligned(1), may_alias));
  static constexpr int64_t width = Target::bytes, unroll = 4;

  static Raw load(const char* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static Raw combine(const Span& span, int64_t at) {
    return Kind::template apply<Target, Combine>(load(span.a + at), load(span.b + at));
  }

  __attribute__((noinline)) static void partial(const Span& span, int64_t at, int64_t bytes) {  // less than a vector
    const Raw a = Target::load_part(span.a + at, bytes), b = Target::load_part(span.b + at, bytes);
    Target::store_part(span.out + at, Kind::template apply<Target, Combine>(a, b), bytes);
  }

  template <bool streaming>
  static void store(char* to, Raw value) {
    if constexpr (streaming)
      Target::stream(to, value);
    else
      *reinterpret_cast<Unaligned*>(to) = value;
  }

  template <bool streaming>
  static void body(const Span& span, int64_t begin) {
    int64_t at = begin;
    for (; at + unroll * width <= span.bytes; at += unroll * width) {
      Raw results[unroll];
#pragma GCC unroll 4
      for (int j = 0; j < unroll; ++j) results[j] = combine(span, at + j * width);
#pragma GCC unroll 4
      for (int j = 0; j < unroll; ++j) store<streaming>(span.out + at + j * width, results[j]);
    }
    for (; at + width <= span.bytes; at += width) store<streaming>(span.out + at, combine(span, at));
    if (at < span.bytes) partial(span, at, span.bytes - at);
  }

  static void run(const Span& span) {
    // Start on a vector boundary of out: streaming stores demand it, and others do not straddle cache lines then.
    const int64_t to_boundary = (width - static_cast<int64_t>(reinterpret_cast<uintptr_t>(span.out) % width)) % width;
    const int64_t head = to_boundary < span.bytes ? to_boundary : span.bytes;
    if (head > 0) partial(span, 0, head);
    if (span.streaming) {
      body<true>(span, head);
      Target::fence();
    } else {
      body<false>(span, head);
    }
  }
};

// to = from. Ordinary stores are the C library's business; streaming ones want whole aligned vectors.
template <class Target>
struct Copy {
  typedef typename Target::Raw Unaligned __attribute__((aligned(1), may_alias));

  static void run(char* to, const char* from, int64_t bytes, bool streaming) {
    constexpr int64_t width = Target::bytes;
    const int64_t head = (width - static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % width)) % width;
    if (!streaming || bytes < head + width) {
      __builtin_memcpy(to, from, bytes);
      return;
    }
    __builtin_memcpy(to, from, head);
    int64_t at = head;
    for (; at + width <= bytes; at += width) Target::stream(to + at, *reinterpret_cast<const Unaligned*>(from + at));
    __builtin_memcpy(to + at, from + at, bytes - at);
    Target::fence();
  }
};

template <class Target>
struct Loops {
  template <class Kind>
  static void any(Operation operation, const Span& span) {
    switch (operation) {
      case Operation::sum:
        return Loop<Target, Kind, Combine<Operation::sum>>::run(span);
      case Operation::prod:
        return Loop<Target, Kind, Combine<Operation::prod>>::run(span);
      case Operation::min:
        return Loop<Target, Kind, Combine<Operation::min>>::run(span);
      case Operation::max:
        return Loop<Target, Kind, Combine<Operation::max>>::run(span);
    }
  }

  // Sums and products of signed integers have the bits of the unsigned ones, which wrap by definition.
  template <class Signed, class Unsigned>
  static void integer(Operation operation, const Span& span) {
    switch (operation) {
      case Operation::sum:
        return Loop<Target, Plain<Unsigned>, Combine<Operation::sum>>::run(span);
      case Operation::prod:
        return Loop<Target, Plain<Unsigned>, Combine<Operation::prod>>::run(span);
      case Operation::min:
        return Loop<Target, Plain<Signed>, Combine<Operation::min>>::run(span);
      case Operation::max:
        return Loop<Target, Plain<Signed>, Combine<Operation::max>>::run(span);
    }
  }

  static void reduce(DType dtype, Operation operation, const Span& span) {
    switch (dtype) {
      case DType::float64:
        return any<Plain<double>>(operation, span);
      case DType::float32:
        return any<Plain<float>>(operation, span);
      case DType::float16:
        return any<Float16>(operation, span);
      case DType::bfloat16:
        return any<BFloat16>(operation, span);
      case DType::int64:
        return integer<int64_t, uint64_t>(operation, span);
      case DType::int32:
        return integer<int32_t, uint32_t>(operation, span);
      case DType::int16:
        return integer<int16_t, uint16_t>(operation, span);
      case DType::int8:
        return integer<int8_t, uint8_t>(operation, span);
      case DType::uint64:
        return any<Plain<uint64_t>>(operation, span);
      case DType::uint32:
        return any<Plain<uint32_t>>(operation, span);
      case DType::uint16:
        return any<Plain<uint16_t>>(operation, span);
      case DType::uint8:
        return any<Plain<uint8_t>>(operation, span);
      case DType::float8_e4m3fn:  // no array that is handed over has these types
      case DType::float8_e5m2:
        return;
    }
  }
};

}  // namespace
}  // namespace pyhpc::allreduce
