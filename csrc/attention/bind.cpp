// cpu().attention: run(q, k, v, out, lse, causal, window, scale, threads, variant), its gradients backward(…) and
// variants(). The contract is in attention.h, the argument checks in check.h.
#include "core/bind.h"

#include <pybind11/stl.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attention/check.h"
#include "core/threads.h"
#include "core/variant.h"

namespace pyhpc::attention {
#define PYHPC_VARIANT(target) extern const Variant target;
#include "attention/variants.inc"
#undef PYHPC_VARIANT

namespace {

const Variant* const all_variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "attention/variants.inc"
#undef PYHPC_VARIANT
};

// One thread computes so many multiply-adds of scores (a few microseconds) before a second one is awake.
constexpr double least_shared_work = 1 << 16;

void require_on_cpu(const Array& array, const char* argument) {
  if (array.device != Array::cpu)
    throw Error(ErrorKind::device, std::string(argument) + " is on CUDA device " + std::to_string(array.device) +
                                       "; the CPU kernels need it in host memory");
}

void run(py::handle q_object, py::handle k_object, py::handle v_object, py::handle out_object, py::handle lse_object,
         bool causal, int64_t window, double scale, int threads, std::string_view wanted) {
  Borrowed q, k, v, out, lse;
  borrow(q_object, "q", q), borrow(k_object, "k", k), borrow(v_object, "v", v), borrow(out_object, "out", out);
  require_on_cpu(q, "q"), require_on_cpu(k, "k"), require_on_cpu(v, "v"), require_on_cpu(out, "out");
  const bool with_lse = !lse_object.is_none();
  if (with_lse) borrow(lse_object, "lse", lse), require_on_cpu(lse, "lse");
  require(threads >= 0,
          [&] { return "threads is " + std::to_string(threads) + "; 0 means all that this process may use"; });
  Problem p = problem_of(q, k, v, out, with_lse ? &lse : nullptr, {causal, window, scale});
  const Variant& variant = choose(all_variants, wanted);
  if (q.size() == 0) return;
  const double work = static_cast<double>(q.size()) * p.kv_len;
  p.threads = work <= least_shared_work ? 1 : thread_count(threads);
  p.l2_bytes = cache_sizes().l2 > 0 ? cache_sizes().l2 : 512 * 1024;
  const py::gil_scoped_release released;
  if (!variant.run(p))
    throw Error(ErrorKind::device, "attention: memory for the scratch space is exhausted; use fewer threads");
}

void backward(py::handle dout_object, py::handle q_object, py::handle k_object, py::handle v_object,
              py::handle out_object, py::handle lse_object, py::handle dq_object, py::handle dk_object,
              py::handle dv_object, bool causal, int64_t window, double scale, int threads, std::string_view wanted) {
  const std::pair<const char*, py::handle> given[] = {{"dout", dout_object}, {"q", q_object},     {"k", k_object},
                                                      {"v", v_object},       {"out", out_object}, {"lse", lse_object},
                                                      {"dq", dq_object},     {"dk", dk_object},   {"dv", dv_object}};
  Borrowed arrays[9];
  for (int i = 0; i < 9; ++i)
    borrow(given[i].second, given[i].first, arrays[i]), require_on_cpu(arrays[i], given[i].first);
  require(threads >= 0,
          [&] { return "threads is " + std::to_string(threads) + "; 0 means all that this process may use"; });
  const auto& [dout, q, k, v, out, lse, dq, dk, dv] = arrays;
  BackwardProblem p = backward_problem_of({dout, q, k, v, out, lse, dq, dk, dv}, {causal, window, scale});
  const Variant& variant = choose(all_variants, wanted);
  if (p.batch * p.kv_heads == 0) return;
  p.threads = static_cast<double>(q.size()) * p.kv_len <= least_shared_work ? 1 : thread_count(threads);
  p.l2_bytes = cache_sizes().l2 > 0 ? cache_sizes().l2 : 512 * 1024;
  const py::gil_scoped_release released;
  if (!variant.backward(p))
    throw Error(ErrorKind::device, "attention: memory for the scratch space is exhausted; use fewer threads");
}

std::vector<std::pair<std::string, std::string>> variants() {
  std::vector<std::pair<std::string, std::string>> list;
  for (const Variant* variant : all_variants) {
    const char* refusal = target_refusal(variant->name);
    list.emplace_back(variant->name, refusal ? refusal : "");
  }
  return list;
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.def(
      "run", &run, "q"_a, "k"_a, "v"_a, "out"_a, "lse"_a = py::none(), "causal"_a = false, "window"_a = -1,
      "scale"_a = 0.0, "threads"_a = 0, "variant"_a = "",
      "out = softmax(scale q kᵀ) v per head: q and out (batch, heads, q_len, head_dim), k and v (batch, kv_heads, "
      "kv_len, head_dim), float32, bfloat16 or float16, any strides; lse (batch, heads, q_len) float32. Causal is "
      "bottom-right aligned; window w >= 0 hides keys more than w before the query; scale 0 means "
      "1/sqrt(head_dim). Rows that see no key give 0 and lse -inf.");
  module.def("backward", &backward, "dout"_a, "q"_a, "k"_a, "v"_a, "out"_a, "lse"_a, "dq"_a, "dk"_a, "dv"_a,
             "causal"_a = false, "window"_a = -1, "scale"_a = 0.0, "threads"_a = 0, "variant"_a = "",
             "dq, dk, dv = the gradients of sum(dout * out), where out and lse are what run() gave for q, k, v and the "
             "same options; dout, out and dq like q, dk and dv like k, of one type, any strides.");
  module.def("variants", &variants,
             "Names best first, each with the reason why it cannot run here, or an empty string.");
}

}  // namespace pyhpc::attention
