// The argument checks of memory for the CPU's and for CUDA's binding.
#pragma once
#include <string>

#include "core/array.h"
#include "core/error.h"
#include "memory/memory.h"

namespace pyhpc::memory {

inline Operation operation_of(const std::string& name) {
  if (name == "read") return Operation::read;
  if (name == "copy") return Operation::copy;
  if (name == "triad") return Operation::triad;
  if (name == "fill") return Operation::fill;
  throw Error(ErrorKind::invalid, "op is '" + name + "'; memory knows read, copy, triad and fill");
}

inline void require_apart(const Array& input, const char* argument, const Array& c) {
  const auto *first = static_cast<const double*>(input.data), *other = static_cast<const double*>(c.data);
  require(input.size() == c.size(), std::string(argument) + " has " + std::to_string(input.size()) +
                                        " elements, c has " + std::to_string(c.size()));
  require(first + input.size() <= other || other + c.size() <= first, std::string(argument) + " and c overlap");
}

}  // namespace pyhpc::memory
