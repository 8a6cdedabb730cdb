// _cpu.matmul: checks the arguments (check.h) and hands the strides to a variant. No copies.
#include "core/bind.h"

#include "core/threads.h"
#include "core/variant.h"
#include "matmul/check.h"

namespace pyhpc::matmul {

#define PYHPC_VARIANT(target) extern const Variant target;
#include "matmul/variants.inc"
#undef PYHPC_VARIANT

namespace {

const Variant* const variants[] = {
#define PYHPC_VARIANT(target) &target,
#include "matmul/variants.inc"
#undef PYHPC_VARIANT
};

void require_on_cpu(const Array& array, const std::string& argument) {
  if (array.device != Array::cpu)
    throw Error(ErrorKind::invalid, argument + " is on CUDA device " + std::to_string(array.device) +
                                        ", but this is the CPU matmul: all arrays must be on the CPU");
}

// A batch of products with one b, whose a and out are stacked rows, is one product with more rows.
void stack_rows(Problem& problem) {
  while (problem.batch_ndim > 0) {
    const int last = problem.batch_ndim - 1;
    if (problem.b_batch[last] != 0 || problem.batch_shape[last] == 0) return;
    if (problem.m == 1) {
      problem.a_row = problem.a_batch[last], problem.out_row = problem.out_batch[last];
    } else if (problem.a_batch[last] != problem.m * problem.a_row ||
               problem.out_batch[last] != problem.m * problem.out_row) {
      return;
    }
    problem.m *= problem.batch_shape[last];
    problem.batch_ndim = last;
  }
}

void run(const py::object& a_object, const py::object& b_object, const py::object& out_object, bool accumulate,
         int threads, const std::string& variant) {
  Borrowed a, b, out;
  borrow(a_object, "a", a);
  borrow(b_object, "b", b);
  borrow(out_object, "out", out);
  require(threads >= 0,
          "threads is " + std::to_string(threads) + "; give a positive number, or 0 for all that are available");
  const Variant& chosen = choose(variants, variant);
  require_on_cpu(a, "a"), require_on_cpu(b, "b"), require_on_cpu(out, "out");
  Problem problem = problem_of(a, b, out, accumulate);
  stack_rows(problem);
  bool done = false;
  {
    const py::gil_scoped_release release;
    done = chosen.run(problem, thread_count(threads));
  }
  if (!done) throw std::bad_alloc();
}

}  // namespace

void bind(py::module_& module) {
  module.doc() = "out = a b, or out += a b: see pyhpc.matmul.";
  module.def("run", &run, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("threads") = 0, py::arg("variant") = "",
             "out (..., m, n) = or += a (..., m, k) b (..., k, n). threads 0: all available; variant \"\": "
             "PYHPC_VARIANT or the best that runs here.");
  module.def(
      "variants", [] { return list_variants(variants); },
      "Names, best first, each with the reason why it cannot run here, or \"\".");
}

}  // namespace pyhpc::matmul
