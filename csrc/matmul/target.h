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

template <class Target>
bool run_any_packed(const Problem& problem, const void* packed, int threads) {
  return with_any_output<Target>(
      problem, threads, [&](const Problem& product, int team) { return run_packed<Target>(product, packed, team); });
}

template <class Target>
constexpr Variant record(const char* name) {
  return {name, run_any<Target>, checksums<Target>, pack<Target>, run_any_packed<Target>};
}

}  // namespace
}  // namespace pyhpc::matmul
