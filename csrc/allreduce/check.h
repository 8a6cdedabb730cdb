// The argument checks of the reduction for the CPU's and for CUDA's binding, which alone know on what device the arrays
// must be.
#pragma once
#include <string>
#include <string_view>

#include "allreduce/reduce.h"
#include "core/error.h"

namespace pyhpc::allreduce {

inline Operation operation_of(std::string_view name) {
  if (name == "sum") return Operation::sum;
  if (name == "prod") return Operation::prod;
  if (name == "min") return Operation::min;
  if (name == "max") return Operation::max;
  throw Error(ErrorKind::invalid, "op is '" + std::string(name) + "'; reduce knows sum, prod, min and max");
}

inline void require_vector(const Array& array, const char* argument) {
  require(array.ndim == 1 && (array.shape[0] < 2 || array.strides[0] == 1),
          [&] { return std::string(argument) + " must be one-dimensional and contiguous"; });
}

inline void require_alike(const Array& input, const char* argument, const Array& out) {
  require(input.dtype == out.dtype, [&] {
    return std::string(argument) + " is " + name(input.dtype) + ", out is " + name(out.dtype) +
           "; they must be the same";
  });
  require(input.size() == out.size(), [&] {
    return std::string(argument) + " has " + std::to_string(input.size()) + " elements, out has " +
           std::to_string(out.size());
  });
  const auto *first = static_cast<const char*>(input.data), *other = static_cast<const char*>(out.data);
  const int64_t bytes = out.size() * itemsize(out.dtype);
  require(first == other || first + bytes <= other || other + bytes <= first, [&] {
    return std::string(argument) + " and out overlap in part; out may be exactly " + argument + " or apart from it";
  });
}

inline void check(const Array& a, const Array& b, const Array& out) {
  require_vector(a, "a"), require_vector(b, "b"), require_vector(out, "out");
  require(out.writable, "out is read-only");
  require_alike(a, "a", out), require_alike(b, "b", out);
}

}  // namespace pyhpc::allreduce
