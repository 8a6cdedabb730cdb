// Binds the CUDA matmul: borrows the arrays, checks them, enqueues on the caller's stream.
#include "core/cuda_bind.h"
#include "matmul/check.h"

namespace pyhpc::matmul {

#define PYHPC_VARIANT(target) extern const cuda::Variant<Problem> target;
#include "matmul/cuda_variants.inc"
#undef PYHPC_VARIANT

namespace {

const cuda::Variant<Problem>* const variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "matmul/cuda_variants.inc"
#undef PYHPC_VARIANT
};

void run(py::object a_object, py::object b_object, py::object out_object, bool accumulate, uintptr_t stream,
         const std::string& variant) {
  Borrowed a, b, out;
  borrow(a_object, "a", a);
  borrow(b_object, "b", b);
  borrow(out_object, "out", out);
  const Problem problem = problem_of(a, b, out, accumulate);
  const int device = cuda::common_device({{"a", &a}, {"b", &b}, {"out", &out}});
  if (device < 0) return;
  const cuda::DeviceGuard guard(device);
  const auto& chosen = cuda::choose_for(problem, variants, variant);
  const py::gil_scoped_release release;
  cuda::check(chosen.run(problem, stream), "launching matmul");
}

}  // namespace

void bind(py::module_& module) {
  module.def("run", &run, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("stream") = 0, py::arg("variant") = "",
             "Enqueue out = a @ b (+ out) on `stream` of the arrays' GPU.");
  module.def(
      "variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::matmul
