// What every bind_cuda.cpp needs: the device that all arrays are on, and the listing of the variants.
#pragma once
#include <string>
#include <vector>

#include "core/bind.h"
#include "core/cuda_device.h"
#include "core/cuda_variant.h"
#include "core/variant.h"

namespace pyhpc::cuda {

struct Named {
  const char* argument;
  Borrowed* array;
};

// The ordinal of the GPU that holds every array. The driver is asked for each pointer, because __cuda_array_interface__
// does not tell; an empty array has none. -1 if all are empty.
inline int common_device(const std::vector<Named>& arrays) {
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

// As choose(), but where nobody named a variant the best that also takes this problem; the last, sm80, takes all.
template <class Problem, size_t count>
const Variant<Problem>& choose_for(const Problem& problem, const Variant<Problem>* const (&variants)[count],
                                   const std::string& wanted) {
  const auto* chosen = &choose(variants, wanted, variant_environment);
  const auto reason = [&] { return chosen->refusal ? chosen->refusal(problem) : nullptr; };
  if (!wanted.empty() && reason())
    throw Error(ErrorKind::unsupported,
                "variant '" + wanted + "' cannot compute this, because " + reason() + "; leave it out to get another");
  for (size_t i = 0; i < count && reason(); ++i)
    if (variants[i] == chosen && i + 1 < count) chosen = variants[i + 1];
  return *chosen;
}

}  // namespace pyhpc::cuda
