// cuda().allreduce: reduce(a, b, out, op, stream, variant), as the CPU's, on device memory.
#include "allreduce/check.h"
#include "allreduce/cuda_allreduce.h"
#include "core/cuda_bind.h"

namespace pyhpc::allreduce {
#define PYHPC_VARIANT(target) extern const CudaVariant target;
#include "allreduce/cuda_variants.inc"
#undef PYHPC_VARIANT

namespace {

const CudaVariant* const variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "allreduce/cuda_variants.inc"
#undef PYHPC_VARIANT
};

void reduce(const py::object& a_object, const py::object& b_object, const py::object& out_object, const std::string& op,
            uintptr_t stream, const std::string& wanted) {
  Borrowed a, b, out;
  borrow(a_object, "a", a), borrow(b_object, "b", b), borrow(out_object, "out", out);
  const Operation operation = operation_of(op);
  check(a, b, out);
  const int device = cuda::common_device({{"a", &a}, {"b", &b}, {"out", &out}});
  if (device < 0) return;
  const cuda::DeviceGuard guard(device);
  const CudaVariant& variant = choose(variants, wanted, cuda::variant_environment);
  const py::gil_scoped_release released;
  cuda::check(variant.run({a.dtype, operation, a.data, b.data, out.data, out.size()}, stream), "launching allreduce");
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.def("reduce", &reduce, "a"_a, "b"_a, "out"_a, "op"_a, "stream"_a = 0, "variant"_a = "",
             "out = a op b elementwise, op one of sum, prod, min, max; contiguous 1-d arrays of one dtype on one GPU; "
             "out may be "
             "a or b. Enqueued on `stream`.");
  module.def(
      "variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::allreduce
