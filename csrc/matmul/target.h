// What a target file includes: the loops, and the record that it exports of them.
#pragma once
#include "matmul/checksum.h"
#include "matmul/packed.h"

namespace pyhpc::matmul {
namespace {

template <class Target>
constexpr Variant record(const char* name) {
  return {name, run<Target>, checksums<Target>, pack<Target>, run_packed<Target>};
}

}  // namespace
}  // namespace pyhpc::matmul
