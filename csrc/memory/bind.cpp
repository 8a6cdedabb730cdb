// cpu().memory: run(op, a, b, c, repeats, streaming, threads, variant) and line_latency(core_a, core_b, rounds).
#include "core/bind.h"

#include <string>

#include "core/threads.h"
#include "core/variant.h"
#include "memory/check.h"
#include "memory/latency.h"

namespace pyhpc::memory {
#define PYHPC_VARIANT(target) extern const Variant target;
#include "memory/variants.inc"
#undef PYHPC_VARIANT

namespace {

const Variant* const all_variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "memory/variants.inc"
#undef PYHPC_VARIANT
};

// Views `object` if the operation uses it, else demands None.
void take(const py::object& object, const char* argument, bool used, bool written, Borrowed& out) {
  const std::string who = argument;
  if (!used) return require(object.is_none(), who + " is not used by this op; give None");
  borrow(object, argument, out);
  require(out.device == Array::cpu && out.dtype == DType::float64, who + " must be float64 in main memory");
  require(out.ndim == 1 && (out.shape[0] < 2 || out.strides[0] == 1), who + " must be one-dimensional and contiguous");
  require(!written || out.writable, who + " is read-only");
}

double run(const std::string& op, const py::object& a, const py::object& b, const py::object& c, int64_t repeats,
           bool streaming, int requested, const std::string& wanted) {
  const Operation operation = operation_of(op);
  const Variant& variant = choose(all_variants, wanted);
  require(repeats >= 0, "repeats is " + std::to_string(repeats) + "; it must not be negative");
  Borrowed from, second, to;
  const bool reads = operation != Operation::fill, reads_two = operation == Operation::triad,
             writes = operation != Operation::read;
  take(a, "a", reads, false, from);
  take(b, "b", reads_two, false, second);
  take(c, "c", writes, true, to);
  if (writes && reads) require_apart(from, "a", to);
  if (reads_two) require_apart(second, "b", to);
  const int64_t count = writes ? to.shape[0] : from.shape[0];
  const int threads = thread_count(requested);
  double sum = 0;
  const py::gil_scoped_release released;
  // Each thread always gets the same part, so that the thread that touched a page first goes on using it.
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
  for (int thread = 0; thread < threads; ++thread) {
    constexpr int64_t line = 64 / sizeof(double);
    const int64_t lines = (count + line - 1) / line;
    const int64_t begin = lines * thread / threads * line, next = lines * (thread + 1) / threads * line;
    const int64_t size = (next < count ? next : count) - begin;
    Part part = {};
    if (reads) part.a = static_cast<const double*>(from.data) + begin;
    if (reads_two) part.b = static_cast<const double*>(second.data) + begin;
    if (writes) part.c = static_cast<double*>(to.data) + begin;
    part.count = size, part.repeats = repeats, part.streaming = streaming;
    if (size > 0) sum += variant.run(operation, part);
  }
  return sum;
}

}  // namespace

void bind(py::module_& module) {
  using namespace pybind11::literals;
  module.attr("scalar") = scalar;
  module.def(
      "run", &run, "op"_a, "a"_a, "b"_a, "c"_a, "repeats"_a = 1, "streaming"_a = false, "threads"_a = 0,
      "variant"_a = "",
      "read: return the sum of a, added up `repeats` times. copy: c = a. triad: c = a + scalar * b. fill: c = scalar. "
      "Arrays are float64, contiguous, of one size; those an op does not use are None. Each thread works on its own "
      "contiguous part, the same in every call with the same number of threads.");
  module.def(
      "line_latency", &line_latency, "core_a"_a, "core_b"_a, "rounds"_a = 20000,
      py::call_guard<py::gil_scoped_release>(),
      "Seconds that a cache line takes from one core to the other, one way, averaged over `rounds` there-and-backs.");
  module.def(
      "variants", [] { return list_variants(all_variants); },
      "Names best first, each with the reason why it cannot run here, or an empty string.");
}

}  // namespace pyhpc::memory
