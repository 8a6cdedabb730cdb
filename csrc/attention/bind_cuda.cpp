// cuda().attention: run(q, k, v, out, lse, causal, window, scale, stream, variant), as the CPU's, on one GPU.
#include "attention/check.h"
#include "core/cuda_bind.h"
#include "core/cuda_variant.h"

namespace pyhpc::attention {
using CudaVariant = cuda::Variant<Problem>;
#define PYHPC_VARIANT(target) extern const CudaVariant target;
#include "attention/cuda_variants.inc"
#undef PYHPC_VARIANT

namespace {

const CudaVariant* const variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "attention/cuda_variants.inc"
#undef PYHPC_VARIANT
};

void run(const py::object& q_object, const py::object& k_object, const py::object& v_object,
         const py::object& out_object, const py::object& lse_object, bool causal, int64_t window, double scale,
         uintptr_t stream, const std::string& wanted) {
  Borrowed q, k, v, out, lse;
  borrow(q_object, "q", q), borrow(k_object, "k", k), borrow(v_object, "v", v), borrow(out_object, "out", out);
  const bool with_lse = !lse_object.is_none();
  if (with_lse) borrow(lse_object, "lse", lse);
  const Problem problem = problem_of(q, k, v, out, with_lse ? &lse : nullptr, {causal, window, scale});
  const int device = with_lse ? cuda::common_device({{"q", &q}, {"k", &k}, {"v", &v}, {"out", &out}, {"lse", &lse}})
                              : cuda::common_device({{"q", &q}, {"k", &k}, {"v", &v}, {"out", &out}});
  if (device < 0) return;
  const cuda::DeviceGuard guard(device);
  const CudaVariant& variant = choose(variants, wanted, cuda::variant_environment);
  const py::gil_scoped_release released;
  cuda::check(variant.run(problem, stream), "launching attention");
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.def("run", &run, "q"_a, "k"_a, "v"_a, "out"_a, "lse"_a = py::none(), "causal"_a = false, "window"_a = -1,
             "scale"_a = 0.0, "stream"_a = 0, "variant"_a = "",
             "As the CPU's run, for arrays on one GPU. Enqueued on `stream`.");
  module.def(
      "variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::attention
