// Choosing among the target files of one kernel. A kernel's Variant record starts with its name; bind.cpp lists them
// best first from generated/<kernel>/variants.inc:
//
//   #define PYHPC_VARIANT(target) extern const Variant target;
//   #include "matmul/variants.inc"
//   #undef PYHPC_VARIANT
//   const Variant* const variants[] = {
//   #define PYHPC_VARIANT(target) &target,
//   #include "matmul/variants.inc"
//   #undef PYHPC_VARIANT
//   };
#pragma once
#include <stdlib.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/machine.h"

namespace pyhpc {

// What a kernel without a file for target `forced` runs in its place: its best variant that comes after in the list of
// targets, so that one environment variable limits every kernel. Unchanged for a name that is no target.
template <class Variant, size_t count>
std::string_view at_most(const Variant* const (&variants)[count], std::string_view forced) {
  const char* const* target = targets;
  while (*target && forced != *target) ++target;
  for (; *target; ++target)
    for (const Variant* variant : variants)
      if (std::string_view(*target) == variant->name) return *target;
  return forced;
}

// The variant called `wanted`, or the one the environment variable names, or the best that runs here. Errors name the
// reason and the choices.
template <class Variant, size_t count>
const Variant& choose(const Variant* const (&variants)[count], std::string_view wanted,
                      const char* environment = "PYHPC_VARIANT") {
  std::string_view name = wanted;
  if (name.empty())
    if (const char* forced = getenv(environment)) name = at_most(variants, forced);
  for (const Variant* variant : variants) {
    const char* refusal = target_refusal(variant->name);
    if (name.empty() ? !refusal : name == variant->name) {
      if (refusal)
        throw Error(ErrorKind::unsupported, "variant '" + std::string(name) + "' cannot run here: " + refusal);
      return *variant;
    }
  }
  std::string known;
  for (const Variant* variant : variants) known += std::string(known.empty() ? "" : ", ") + variant->name;
  throw Error(ErrorKind::invalid, "there is no variant '" + std::string(name) + "'; this build has: " + known);
}

// (name, why it cannot run here or "") of every variant, best first.
template <class Variant, size_t count>
std::vector<std::pair<std::string, std::string>> list_variants(const Variant* const (&variants)[count]) {
  std::vector<std::pair<std::string, std::string>> listing;
  for (const Variant* variant : variants) {
    const char* refusal = target_refusal(variant->name);
    listing.emplace_back(variant->name, refusal ? refusal : "");
  }
  return listing;
}

}  // namespace pyhpc
