// _cpu.matmul: checks the arguments (check.h) and hands the strides to a variant. No copies.
#include "core/bind.h"

#include <string>
#include <string_view>
#include <vector>

#include "core/threads.h"
#include "core/variant.h"
#include "matmul/verify.h"

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

// Releasing the Python lock takes as long as 2^12 multiply-adds.
constexpr double least_released_work = 1 << 15;

void require_on_cpu(const Array& array, const char* argument) {
  if (array.device != Array::cpu)
    throw Error(ErrorKind::invalid, std::string(argument) + " is on CUDA device " + std::to_string(array.device) +
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

// The variant and how many threads it may use; the multiply-adds of the whole batch.
struct Call {
  const Variant& variant;
  int threads;
  double work;

  Call(const Problem& problem, int wanted, std::string_view name) : variant(choose(variants, name)) {
    require(wanted >= 0, [&] {
      return "threads is " + std::to_string(wanted) + "; give a positive number, or 0 for all that are available";
    });
    work = static_cast<double>(problem.m) * problem.n * problem.k;
    for (int i = 0; i < problem.batch_ndim; ++i) work *= problem.batch_shape[i];
    threads = work <= least_shared_work ? 1 : thread_count(wanted);
  }
};

void compute(Problem& problem, int threads, std::string_view variant) {
  const Call call(problem, threads, variant);
  stack_rows(problem);
  bool done = false;
  if (call.work <= least_released_work) {
    done = call.variant.run(problem, 1);
  } else {
    const py::gil_scoped_release release;
    done = call.variant.run(problem, call.threads);
  }
  if (!done) throw std::bad_alloc();
}

// (sum, sum of absolute values) of each row of out or of the product.
std::vector<double> checksums(const Problem& problem, bool of_output, const Call& call) {
  int64_t rows = problem.m;
  for (int i = 0; i < problem.batch_ndim; ++i) rows *= problem.batch_shape[i];
  std::vector<double> sums(2 * rows);
  if (rows > 0 && !call.variant.checksums(problem, of_output, sums.data(), call.threads)) throw std::bad_alloc();
  return sums;
}

// The first row of out, of all of the batch, that is not that of the product; -1 where there is none. `before`: the
// checksums of out before it was added to, or nothing.
int64_t wrong_row(const Problem& problem, const std::vector<double>& before, const Call& call) {
  const std::vector<double> expected = checksums(problem, false, call), found = checksums(problem, true, call);
  const Judge judge(problem);
  constexpr double nothing[2] = {};
  for (size_t i = 0; i < found.size(); i += 2)
    if (!judge.right(&expected[i], &found[i], before.empty() ? nothing : &before[i])) return i / 2;
  return -1;
}

// The three arrays of a call, in host memory.
struct Operands {
  Borrowed a, b, out;

  Operands(py::handle a_object, py::handle b_object, py::handle out_object) {
    borrow(a_object, "a", a), borrow(b_object, "b", b), borrow(out_object, "out", out);
    require_on_cpu(a, "a"), require_on_cpu(b, "b"), require_on_cpu(out, "out");
  }
  Problem problem(bool accumulate) const { return problem_of(a, b, out, accumulate); }
};

void run(py::handle a, py::handle b, py::handle out, bool accumulate, int threads, std::string_view variant) {
  Operands operands(a, b, out);
  Problem problem = operands.problem(accumulate);
  compute(problem, threads, variant);
}

// As run, and then checks every row.
int64_t run_checked(py::handle a, py::handle b, py::handle out, bool accumulate, int threads,
                    std::string_view variant) {
  Operands operands(a, b, out);
  Problem problem = operands.problem(accumulate);
  stack_rows(problem);
  const Call call(problem, threads, variant);
  const py::gil_scoped_release release;
  const std::vector<double> before = accumulate ? checksums(problem, true, call) : std::vector<double>();
  if (!call.variant.run(problem, call.threads)) throw std::bad_alloc();
  return wrong_row(problem, before, call);
}

// Checks a product that was made before.
int64_t check(py::handle a, py::handle b, py::handle out, int threads, std::string_view variant) {
  Operands operands(a, b, out);
  Problem problem = operands.problem(false);
  stack_rows(problem);
  const Call call(problem, threads, variant);
  const py::gil_scoped_release release;
  return wrong_row(problem, {}, call);
}

// A new array for the product.
py::object output_for(const Problem& problem) {
  const DType type = output_dtype(problem.dtype);
  using Numpy = py::detail::npy_api;
  int64_t shape[Array::max_ndim];
  const int ndim = output_shape(problem, shape);
  return empty_ndarray(py::dtype(type == DType::float64   ? Numpy::NPY_DOUBLE_
                                 : type == DType::float32 ? Numpy::NPY_FLOAT_
                                                          : Numpy::NPY_INT32_),
                       ndim, shape);
}

// pyhpc.matmul of NumPy arrays without a step in Python: what a small product costs is its call.
py::object multiply(py::handle a_object, py::handle b_object, const py::object& out_object, bool accumulate,
                    int threads, std::string_view variant) {
  const auto takes = [](py::handle object) {
    return is_ndarray(object) && py::reinterpret_borrow<py::array>(object).ndim() >= 2;
  };
  if (!takes(a_object) || !takes(b_object)) return py::none();
  if (!out_object.is_none()) {
    if (!is_ndarray(out_object)) return py::none();
    run(a_object, b_object, out_object, accumulate, threads, variant);
    return out_object;
  }
  require(!accumulate, "accumulate=True adds to out; give out");
  Borrowed a, b, out;
  borrow(a_object, "a", a);
  borrow(b_object, "b", b);
  Problem problem = product_of(a, b);
  const py::object result = output_for(problem);
  borrow(result, "out", out);
  set_output(out, false, problem);
  compute(problem, threads, variant);
  return result;
}

}  // namespace

void bind(py::module_& module) {
  module.doc() = "out = a b, or out += a b: see pyhpc.matmul.";
  module.def("run", &run, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("threads") = 0, py::arg("variant") = "",
             "out (..., m, n) = or += a (..., m, k) b (..., k, n). threads 0: all available; variant \"\": "
             "PYHPC_VARIANT or the best that runs here.");
  module.def("run_checked", &run_checked, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("threads") = 0, py::arg("variant") = "",
             "As run, then the first row of out, counted over the batch, whose sum is not the product's; -1: none.");
  module.def("check", &check, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("threads") = 0,
             py::arg("variant") = "", "The same for an out that was computed before.");
  module.def("multiply", &multiply, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate"),
             py::arg("threads"), py::arg("variant"),
             "As run, but returns out, which it makes where it is None; and None, having done nothing, where an array "
             "is no numpy.ndarray or a or b is a vector.");
  module.def(
      "variants", [] { return list_variants(variants); },
      "Names, best first, each with the reason why it cannot run here, or \"\".");
}

}  // namespace pyhpc::matmul
