// Binds the CUDA matmul: borrows the arrays, checks them, enqueues on the caller's stream.
#include "core/cuda_bind.h"
#include "matmul/check.h"
#include "matmul/sm90_log.h"
#include "matmul/sm90_operand.h"
#include "matmul/sm90_plan.h"

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

// As run with variant sm90; writes a TileRecord for each tile into `log`, and returns their number. Without a log it
// only returns the number.
int64_t logged(py::object a_object, py::object b_object, py::object out_object, py::object log_object,
               uintptr_t stream) {
  Borrowed a, b, out, log;
  borrow(a_object, "a", a);
  borrow(b_object, "b", b);
  borrow(out_object, "out", out);
  const Problem problem = problem_of(a, b, out, false);
  const int device = cuda::common_device({{"a", &a}, {"b", &b}, {"out", &out}});
  if (device < 0) return 0;
  const cuda::DeviceGuard guard(device);
  const char* refused = target_refusal("sm90");
  if (!refused) refused = sm90_operand::refusal(problem);
  if (refused) throw Error(ErrorKind::unsupported, std::string("the product cannot be logged, because ") + refused);
  const int64_t records = count_records(problem), words = sizeof(TileRecord) / sizeof(uint64_t);
  require(records > 0, "a product with several batch dimensions, or an empty one, cannot be logged");
  if (log_object.is_none()) return records;
  borrow(log_object, "log", log);
  cuda::common_device({{"out", &out}, {"log", &log}});
  const bool whole = log.ndim == 2 && log.shape[1] == words && log.strides[1] == 1 && log.strides[0] == words;
  require(log.dtype == DType::uint64 && whole && log.shape[0] == records && log.writable,
          "log is not a contiguous, writable uint64 array of shape (" + std::to_string(records) + ", 8)");
  const py::gil_scoped_release release;
  cuda::check(run_logged(problem, static_cast<TileRecord*>(log.data), stream), "launching matmul");
  return records;
}

// The plans that sm90 would weigh for operands and an out without padding, row by row. Needs no GPU.
std::string explain(int64_t m, int64_t n, int64_t k, int64_t batches, int out_bytes, int multiprocessors) {
  require(m > 0 && n > 0 && k > 0 && batches > 0 && multiprocessors > 0, "a size is not positive");
  const auto by_box = [out_bytes](int64_t columns) { return columns * out_bytes % 16 == 0; };
  const sm90_plan::Shape shape = {m, n, k, batches, out_bytes, {by_box(n), n == 1 && by_box(m)}, multiprocessors};
  std::string text(static_cast<size_t>(sm90_plan::explain(shape, nullptr, 0)), ' ');
  sm90_plan::explain(shape, &text[0], static_cast<int>(text.size()) + 1);
  return text;
}

}  // namespace

void bind(py::module_& module) {
  module.def("run", &run, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("stream") = 0, py::arg("variant") = "",
             "Enqueue out = a @ b (+ out) on `stream` of the arrays' GPU.");
  module.def("run_logged", &logged, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("log") = py::none(),
             py::arg("stream") = 0, "Number of tiles; with log, enqueue out = a @ b that writes 8 words about each.");
  module.def("explain", &explain, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("batches") = 1,
             py::arg("out_bytes") = 2, py::arg("multiprocessors") = 132,
             "The cost model's table of the tiles that sm90 can use for a product, the chosen one marked.");
  module.def(
      "variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::matmul
