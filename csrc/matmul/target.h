// What a target file includes: the loops, and the record that it exports of them.
#pragma once
#include "matmul/checksum.h"
#include "matmul/narrow.h"
#include "matmul/packed.h"

namespace pyhpc::matmul {
namespace {

template <class Target>
bool run_any(const Problem& problem, int threads) {
  return with_any_output<Target>(problem, threads, run<Target>);
}

// With the checksums of the product and of out, made on the way or, where that is not possible, afterwards.
template <class Target>
bool run_checked(const Problem& problem, double* product, double* out, int threads) {
  RowChecksums sums = {product, out};
  const bool done = with_any_output<Target>(problem, threads, [&](const Problem& whole, int team) {
    return with_format<Target>(whole.dtype, [&](auto format) {
      return Runner<Target, decltype(format)>::run(whole, team, problem.narrow ? nullptr : &sums);
    });
  });
  if (!done || sums.made) return done;
  return checksums<Target>(problem, false, product, threads) && checksums<Target>(problem, true, out, threads);
}

template <class Target>
bool run_any_packed(const Problem& problem, const void* packed, int threads) {
  return with_any_output<Target>(
      problem, threads, [&](const Problem& product, int team) { return run_packed<Target>(product, packed, team); });
}

template <class Target>
constexpr Variant record(const char* name) {
  return {name, run_any<Target>, run_checked<Target>, checksums<Target>, pack<Target>, run_any_packed<Target>};
}

}  // namespace
}  // namespace pyhpc::matmul
