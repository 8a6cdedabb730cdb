// cpu().peak: run(dtype, blocks, threads, variant) -> operations counted.
#include "core/bind.h"

#include <cstdint>
#include <string>

#include "core/threads.h"
#include "core/variant.h"
#include "peak/peak.h"

namespace pyhpc::peak {
#define PYHPC_VARIANT(target) extern const Variant target;
#include "peak/variants.inc"
#undef PYHPC_VARIANT

namespace {

const Variant* const all_variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "peak/variants.inc"
#undef PYHPC_VARIANT
};

// 16-bit floats are converted and multiplied in float32 by the CPU kernels, so they share its ceiling, but for bfloat16
// where the processor multiplies it.
Loop loop_of(const std::string& dtype, const std::string& wanted) {
  const Variant& variant = choose(all_variants, wanted);
  if (dtype == "float64") return variant.float64;
  if (dtype == "bfloat16" && variant.bfloat16.run) return variant.bfloat16;
  if (dtype == "float32" || dtype == "bfloat16" || dtype == "float16") return variant.float32;
  if (dtype == "int8") return variant.int8();
  throw Error(ErrorKind::invalid, "dtype is '" + dtype + "'; peak knows float64, float32, bfloat16, float16 and int8");
}

int64_t run(const std::string& dtype, int64_t blocks, int requested, const std::string& wanted) {
  require(blocks >= 0, "blocks is " + std::to_string(blocks) + "; it must not be negative");
  const Loop loop = loop_of(dtype, wanted);
  const int threads = thread_count(requested);
  int64_t operations = 0;
  const py::gil_scoped_release released;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : operations)
  for (int thread = 0; thread < threads; ++thread)
    operations += loop.run(blocks * (thread + 1) / threads - blocks * thread / threads);
  return operations;
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.attr("block_operations") = block_operations;
  module.def("run", &run, "dtype"_a, "blocks"_a, "threads"_a = 0, "variant"_a = "",
             "Multiply and add in registers for `blocks` blocks, shared evenly among the threads, and return the "
             "operations that the computed values counted: blocks * block_operations if every one was done.");
  module.def(
      "instruction",
      [](const std::string& dtype, const std::string& variant) { return loop_of(dtype, variant).instruction; },
      "dtype"_a, "variant"_a = "", "The instruction that the loop is made of.");
  module.def(
      "variants", [] { return list_variants(all_variants); },
      "Names best first, each with the reason why it cannot run here, or an empty string.");
}

}  // namespace pyhpc::peak
