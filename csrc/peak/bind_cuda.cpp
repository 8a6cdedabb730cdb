// cuda().peak: run(dtype, blocks, out, stream, variant), as the CPU's, counting into device memory.
#include <iterator>

#include "core/cuda_bind.h"
#include "peak/cuda_peak.h"

namespace pyhpc::peak {
#define PYHPC_VARIANT(target) extern const CudaVariant target;
#include "peak/cuda_variants.inc"
#undef PYHPC_VARIANT

namespace {

const CudaVariant* const variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "peak/cuda_variants.inc"
#undef PYHPC_VARIANT
};

constexpr const char* names[] = {"float64", "float32",       "tf32", "bfloat16",
                                 "float16", "float8_e4m3fn", "int8"};  // Number

Number number_of(const std::string& dtype) {
  for (size_t i = 0; i < std::size(names); ++i)
    if (dtype == names[i]) return static_cast<Number>(i);
  std::string known;
  for (const char* name : names) known += (known.empty() ? "" : ", ") + std::string(name);
  throw Error(ErrorKind::invalid, "dtype is '" + dtype + "'; peak on a GPU knows " + known);
}

void run(const std::string& dtype, int64_t blocks, const py::object& out, uintptr_t stream, const std::string& wanted) {
  require(blocks >= 0, "blocks is " + std::to_string(blocks) + "; it must not be negative");
  Borrowed counted;
  borrow(out, "out", counted);
  require(counted.dtype == DType::int64 && counted.size() == 1, "out must be one int64");
  require(counted.writable, "out is read-only");
  const int device = cuda::common_device({{"out", &counted}});
  const CudaProblem problem = {number_of(dtype), blocks, static_cast<int64_t*>(counted.data)};
  const cuda::DeviceGuard guard(device);
  const CudaVariant& variant = cuda::choose_for(problem, variants, wanted);
  const char* refusal = variant.refusal ? variant.refusal(problem) : nullptr;
  if (refusal) throw Error(ErrorKind::unsupported, "no variant here multiplies " + dtype + ": " + refusal);
  const py::gil_scoped_release released;
  cuda::check(variant.run(problem, stream), "launching peak");
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.attr("block_operations") = block_operations;
  module.def(
      "run", &run, "dtype"_a, "blocks"_a, "out"_a, "stream"_a = 0, "variant"_a = "",
      "Multiply and add in registers for `blocks` blocks, shared evenly among all multiprocessors, and count into "
      "out (one int64 on the GPU) the operations that the computed values counted: blocks * block_operations if "
      "every one was done. float64, tf32, 16 and 8 bits use the tensor cores. Enqueued on `stream`.");
  module.def(
      "variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::peak
