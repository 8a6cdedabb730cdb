// cuda().memory: run(op, a, b, c, stream, variant), as the CPU's, on device memory.
#include "core/cuda_bind.h"
#include "memory/check.h"
#include "memory/cuda_memory.h"

namespace pyhpc::memory {
#define PYHPC_VARIANT(target) extern const CudaVariant target;
#include "memory/cuda_variants.inc"
#undef PYHPC_VARIANT

namespace {

const CudaVariant* const variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "memory/cuda_variants.inc"
#undef PYHPC_VARIANT
};

// Views `object` if the operation uses it, else demands None.
void take(const py::object& object, const char* argument, bool used, Borrowed& out) {
  const std::string who = argument;
  if (!used) return require(object.is_none(), who + " is not used by this op; give None");
  borrow(object, argument, out);
  require(out.dtype == DType::float64, who + " must be float64");
  require(out.ndim == 1 && (out.shape[0] < 2 || out.strides[0] == 1), who + " must be one-dimensional and contiguous");
}

void run(const std::string& op, const py::object& a_object, const py::object& b_object, const py::object& c_object,
         uintptr_t stream, const std::string& wanted) {
  const Operation operation = operation_of(op);
  const bool reads = operation != Operation::fill, reads_two = operation == Operation::triad;
  Borrowed a, b, c;
  take(a_object, "a", reads, a);
  take(b_object, "b", reads_two, b);
  take(c_object, "c", true, c);
  require(c.writable, "c is read-only");
  if (reads && operation != Operation::read) require_apart(a, "a", c);
  if (reads_two) require_apart(b, "b", c);
  const int device = reads_two ? cuda::common_device({{"a", &a}, {"b", &b}, {"c", &c}})
                     : reads   ? cuda::common_device({{"a", &a}, {"c", &c}})
                               : cuda::common_device({{"c", &c}});
  if (device < 0) return;
  const CudaProblem problem = {operation,
                               static_cast<const double*>(a.data),
                               static_cast<const double*>(b.data),
                               static_cast<double*>(c.data),
                               reads ? a.size() : c.size(),
                               c.size()};
  const cuda::DeviceGuard guard(device);
  const CudaVariant& variant = choose(variants, wanted, cuda::variant_environment);
  const py::gil_scoped_release released;
  cuda::check(variant.run(problem, stream), "launching memory");
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.attr("scalar") = scalar;
  module.def("run", &run, "op"_a, "a"_a, "b"_a, "c"_a, "stream"_a = 0, "variant"_a = "",
             "read: c[i] = sum of the i-th of len(c) equal parts of a. copy: c = a. triad: c = a + scalar * b. fill: c "
             "= scalar. "
             "Arrays are float64, contiguous, on one GPU; those an op does not use are None. Enqueued on `stream`.");
  module.def(
      "variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::memory
