// cuda().allreduce: reduce(a, b, out, op, stream, variant), as the CPU's, on device memory.
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

CudaOperation operation_of(const std::string& name) {
  if (name == "sum") return CudaOperation::sum;
  if (name == "prod") return CudaOperation::prod;
  if (name == "min") return CudaOperation::min;
  if (name == "max") return CudaOperation::max;
  throw Error(ErrorKind::invalid, "op is '" + name + "'; allreduce knows sum, prod, min and max");
}

void check(const Array& array, const char* argument, const Array& a) {
  const std::string who = argument;
  require(array.ndim == 1 && (array.shape[0] < 2 || array.strides[0] == 1), who + " must be one-dimensional and contiguous");
  require(array.dtype == a.dtype, who + " is " + name(array.dtype) + " and a is " + name(a.dtype) + "; they must be of the same dtype");
  require(array.size() == a.size(),
          who + " has " + std::to_string(array.size()) + " elements, a has " + std::to_string(a.size()));
}

// out may be an input, but not a shifted view of it: elements would be overwritten before they are read.
void require_same_or_apart(const Array& input, const char* argument, const Array& out) {
  const auto *first = static_cast<const char*>(input.data), *other = static_cast<const char*>(out.data);
  const int64_t bytes = out.size() * itemsize(out.dtype);
  require(first == other || first + bytes <= other || other + bytes <= first,
          std::string("out overlaps ") + argument + " without being the same");
}

void reduce(const py::object& a_object, const py::object& b_object, const py::object& out_object, const std::string& op,
            uintptr_t stream, const std::string& wanted) {
  Borrowed a, b, out;
  borrow(a_object, "a", a), borrow(b_object, "b", b), borrow(out_object, "out", out);
  const CudaOperation operation = operation_of(op);
  check(a, "a", a), check(b, "b", a), check(out, "out", a);
  require(out.writable, "out is read-only; give an array that can be written");
  require_same_or_apart(a, "a", out), require_same_or_apart(b, "b", out);
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
             "out = a op b elementwise, op one of sum, prod, min, max; contiguous 1-d arrays of one dtype on one GPU; out may be "
             "a or b. Enqueued on `stream`.");
  module.def("variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::allreduce
