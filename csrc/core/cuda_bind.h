// What every bind_cuda.cpp needs: the device that all arrays are on, and the listing of the variants.
#pragma once
#include <initializer_list>
#include <string>

#include "core/bind.h"
#include "core/cuda_device.h"
#include "core/variant.h"

namespace pyhpc::cuda {

struct Named {
  const char* argument;
  Borrowed* array;
};

// The ordinal of the GPU that holds every array. The driver is asked for each pointer, because __cuda_array_interface__
// does not tell; an empty array has none. -1 if all are empty.
inline int common_device(std::initializer_list<Named> arrays) {
  int device = -1;
  const char* first = nullptr;
  for (const Named& named : arrays) {
    Borrowed& array = *named.array;
    require(array.device != Array::cpu,
            std::string(named.argument) + " is in CPU memory; move it to the GPU, or give CPU arrays only");
    if (array.size() == 0 || !array.data) continue;
    array.device = pointer_device(array.data);
    require(device < 0 || array.device == device, std::string(named.argument) + " is on GPU " +
                                                      std::to_string(array.device) + ", but " + (first ? first : "") +
                                                      " is on GPU " + std::to_string(device) + "; move them to one");
    if (device < 0) device = array.device, first = named.argument;
  }
  return device;
}

// Names and refusals, best first, for the current GPU.
template <class Variant, size_t count>
py::list list_variants(const Variant* const (&variants)[count]) {
  const std::string reason = absence();
  py::list result;
  for (const Variant* variant : variants) {
    const char* refusal = reason.empty() ? target_refusal(variant->name) : nullptr;
    result.append(py::make_tuple(variant->name, refusal ? refusal : reason));
  }
  return result;
}

constexpr const char* variant_environment = "PYHPC_CUDA_VARIANT";  // PYHPC_VARIANT speaks of CPU targets

}  // namespace pyhpc::cuda
