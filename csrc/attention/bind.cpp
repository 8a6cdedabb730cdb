// cpu().attention: run(q, k, v, out, lse, causal, window, scale, threads, variant) and variants(). All argument checks
// are here; the contract is in attention.h.
#include "core/bind.h"

#include <pybind11/stl.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "attention/attention.h"
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

std::string shape_of(const Array& array) {
  std::string text = "(";
  for (int i = 0; i < array.ndim; ++i) text += (i ? ", " : "") + std::to_string(array.shape[i]);
  return text + ")";
}

void require_shape(const Array& array, const char* argument, const std::vector<int64_t>& shape, const char* meaning) {
  Array wanted;
  wanted.ndim = static_cast<int>(shape.size());
  for (int i = 0; i < wanted.ndim; ++i) wanted.shape[i] = shape[i];
  bool same = array.ndim == wanted.ndim;
  for (int i = 0; same && i < array.ndim; ++i) same = array.shape[i] == wanted.shape[i];
  require(same, std::string(argument) + " has shape " + shape_of(array) + "; it must be " + meaning + " = " +
                    shape_of(wanted));
}

void require_on_cpu(const Array& array, const char* argument) {
  if (array.device != Array::cpu)
    throw Error(ErrorKind::device, std::string(argument) + " is on CUDA device " + std::to_string(array.device) +
                                       "; the CPU kernels need it in host memory");
}

// The bytes from the first to the last element, whatever the strides' signs.
std::pair<uintptr_t, uintptr_t> extent(const Array& array) {
  int64_t low = 0, high = 1;
  for (int i = 0; i < array.ndim; ++i) {
    if (array.shape[i] == 0) return {0, 0};
    const int64_t reach = (array.shape[i] - 1) * array.strides[i];
    (reach < 0 ? low : high) += reach;
  }
  const uintptr_t base = reinterpret_cast<uintptr_t>(array.data);
  return {base + low * itemsize(array.dtype), base + high * itemsize(array.dtype)};
}

void require_apart(const Array& result, const char* name, const Array& other, const char* other_name) {
  const auto a = extent(result), b = extent(other);
  require(a.second <= b.first || b.second <= a.first,
          std::string(name) + " and " + other_name + " span the same memory; give " + name + " memory of its own");
}

void require_result(const Array& result, const char* name) {
  require(result.writable, std::string(name) + " is read-only; give an array that can be written");
  for (int i = 0; i < result.ndim; ++i)
    require(result.shape[i] < 2 || result.strides[i] != 0 || result.size() == 0,
            std::string(name) + " has stride 0 along dimension " + std::to_string(i) + ": its elements share memory");
}

void check(const Array& q, const Array& k, const Array& v, const Array& out) {
  require_on_cpu(q, "q"), require_on_cpu(k, "k"), require_on_cpu(v, "v"), require_on_cpu(out, "out");
  require(q.dtype == DType::float32 || q.dtype == DType::bfloat16 || q.dtype == DType::float16,
          std::string("q is ") + name(q.dtype) + "; attention takes float32, bfloat16 and float16");
  require(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype,
          std::string("q is ") + name(q.dtype) + ", k " + name(k.dtype) + ", v " + name(v.dtype) + ", out " +
              name(out.dtype) + "; all four must have one type");
  require(q.ndim == 4, "q has shape " + shape_of(q) + "; it must be (batch, heads, q_len, head_dim)");
  require(k.ndim == 4, "k has shape " + shape_of(k) + "; it must be (batch, kv_heads, kv_len, head_dim)");
  require_shape(k, "k", {q.shape[0], k.shape[1], k.shape[2], q.shape[3]},
                "(q's batch, kv_heads, kv_len, q's head_dim)");
  require_shape(v, "v", {k.shape[0], k.shape[1], k.shape[2], k.shape[3]}, "k's shape");
  require_shape(out, "out", {q.shape[0], q.shape[1], q.shape[2], q.shape[3]}, "q's shape");
  require(k.shape[1] > 0 ? q.shape[1] % k.shape[1] == 0 : q.shape[1] == 0,
          "q has " + std::to_string(q.shape[1]) + " heads, k and v " + std::to_string(k.shape[1]) +
              "; q's number must be a multiple of theirs");
  if (q.shape[3] < min_head_dim || q.shape[3] > max_head_dim)
    throw Error(ErrorKind::unsupported, "head_dim is " + std::to_string(q.shape[3]) + "; attention takes 16 to 256");
  require_result(out, "out");
  require_apart(out, "out", q, "q"), require_apart(out, "out", k, "k"), require_apart(out, "out", v, "v");
}

void check_lse(const Array& lse, const Array& q, const Array& k, const Array& v, const Array& out) {
  require_on_cpu(lse, "lse");
  require(lse.dtype == DType::float32, std::string("lse is ") + name(lse.dtype) + "; it must be float32");
  require_shape(lse, "lse", {q.shape[0], q.shape[1], q.shape[2]}, "(batch, heads, q_len)");
  require_result(lse, "lse");
  require_apart(lse, "lse", q, "q"), require_apart(lse, "lse", k, "k"), require_apart(lse, "lse", v, "v");
  require_apart(lse, "lse", out, "out");
}

void set_strides(int64_t* to, const Array& array) {
  for (int i = 0; i < array.ndim; ++i) to[i] = array.strides[i];
}

Problem problem_of(const Array& q, const Array& k, const Array& v, const Array& out, const Array* lse) {
  Problem p = {};
  p.dtype = q.dtype;
  p.batch = q.shape[0], p.heads = q.shape[1], p.q_len = q.shape[2], p.head_dim = q.shape[3];
  p.kv_heads = k.shape[1], p.kv_len = k.shape[2];
  p.q = q.data, p.k = k.data, p.v = v.data, p.out = out.data;
  set_strides(p.q_strides, q), set_strides(p.k_strides, k), set_strides(p.v_strides, v),
      set_strides(p.out_strides, out);
  if (lse) p.lse = static_cast<float*>(lse->data), set_strides(p.lse_strides, *lse);
  return p;
}

void run(py::object q_object, py::object k_object, py::object v_object, py::object out_object, py::object lse_object,
         bool causal, int64_t window, double scale, int threads, const std::string& wanted) {
  Borrowed q, k, v, out, lse;
  borrow(q_object, "q", q), borrow(k_object, "k", k), borrow(v_object, "v", v), borrow(out_object, "out", out);
  check(q, k, v, out);
  const bool with_lse = !lse_object.is_none();
  if (with_lse) borrow(lse_object, "lse", lse), check_lse(lse, q, k, v, out);
  require(window >= -1, "window is " + std::to_string(window) + "; it must be -1 (none) or a number of keys");
  require(std::isfinite(scale), "scale is not finite; 0 means 1/sqrt(head_dim)");
  require(threads >= 0, "threads is " + std::to_string(threads) + "; 0 means all that this process may use");
  const Variant& variant = choose(all_variants, wanted);
  if (q.size() == 0) return;

  Problem p = problem_of(q, k, v, out, with_lse ? &lse : nullptr);
  p.causal = causal;
  p.window = window;
  p.scale = static_cast<float>(scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(p.head_dim)));
  p.threads = thread_count(threads);
  p.l2_bytes = cache_sizes().l2 > 0 ? cache_sizes().l2 : 512 * 1024;
  const py::gil_scoped_release released;
  if (!variant.run(p))
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
  module.def("variants", &variants,
             "Names best first, each with the reason why it cannot run here, or an empty string.");
}

}  // namespace pyhpc::attention
