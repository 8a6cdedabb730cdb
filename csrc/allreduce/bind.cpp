// cpu().allreduce.reduce(a, b, out, op, threads, variant): checks, shares the work, decides about streaming stores.
#include "core/bind.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "allreduce/bind_engine.h"
#include "allreduce/check.h"
#include "core/threads.h"
#include "core/variant.h"

namespace pyhpc::allreduce {
#define PYHPC_VARIANT(target) extern const Variant target;
#include "allreduce/variants.inc"
#undef PYHPC_VARIANT

namespace {

const Variant* const all_variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "allreduce/variants.inc"
#undef PYHPC_VARIANT
};

// Below this a thread finishes its share sooner than a second one is woken (a few microseconds).
constexpr int64_t least_bytes_per_thread = 128 << 10;

// Releasing the Python lock and asking OpenMP for a team of one takes longer than to reduce this.
constexpr int64_t least_released_bytes = 4 << 10;

void take(py::handle object, const char* argument, Borrowed& out) {
  borrow(object, argument, out);
  require(out.device == Array::cpu,
          [&] { return std::string(argument) + " is on a CUDA device; this reduction is for main memory"; });
}

// A normal store reads the line first, so that three arrays move four; a streaming store does not, but sends the line
// to memory. It pays once the result will not be found in a cache by whoever reads it next: when the three arrays
// exceed the last-level cache. In place, the line has been read anyway.
bool worth_streaming(int64_t bytes, bool in_place) {
  const CacheSizes& caches = cache_sizes();
  const int64_t last_level = std::max({caches.l3, caches.l2, int64_t{1} << 20});
  return !in_place && 3 * bytes > last_level;
}

void reduce(py::handle a, py::handle b, py::handle out, std::string_view op, int requested, std::string_view wanted) {
  const Operation operation = operation_of(op);
  const Variant& variant = choose(all_variants, wanted);
  Borrowed first, second, result;
  take(a, "a", first);
  take(b, "b", second);
  take(out, "out", result);
  check(first, second, result);
  const int64_t item = itemsize(result.dtype), bytes = result.size() * item;
  if (bytes == 0) return;
  const int64_t most = (bytes + least_bytes_per_thread - 1) / least_bytes_per_thread;
  const int64_t shares = most == 1 ? 1 : std::min<int64_t>(thread_count(requested), most);
  const bool streaming = worth_streaming(bytes, result.data == first.data || result.data == second.data);
  if (bytes <= least_released_bytes) {
    const Span whole = {static_cast<const char*>(first.data), static_cast<const char*>(second.data),
                        static_cast<char*>(result.data), bytes, streaming};
    return variant.reduce(result.dtype, operation, whole);
  }
  const py::gil_scoped_release released;
#pragma omp parallel for num_threads(static_cast<int>(shares)) schedule(static) if (shares > 1)
  for (int64_t share = 0; share < shares; ++share) {
    constexpr int64_t line = 64;
    const int64_t lines = (bytes + line - 1) / line;
    const int64_t begin = lines * share / shares * line, end = std::min(lines * (share + 1) / shares * line, bytes);
    const Span span = {static_cast<const char*>(first.data) + begin, static_cast<const char*>(second.data) + begin,
                       static_cast<char*>(result.data) + begin, end - begin, streaming};
    variant.reduce(result.dtype, operation, span);
  }
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.def("reduce", &reduce, "a"_a, "b"_a, "out"_a, "op"_a, "threads"_a = 0, "variant"_a = "",
             "out = a op b elementwise, op one of sum, prod, min, max. One-dimensional contiguous arrays of one dtype "
             "and size; "
             "out may be exactly a or b.");
  module.def(
      "variants", [] { return list_variants(all_variants); },
      "Names best first, each with the reason why it cannot run here, or an empty string.");
  bind_engine(module, [](std::string_view wanted) -> const Variant& { return choose(all_variants, wanted); });
}

}  // namespace pyhpc::allreduce
