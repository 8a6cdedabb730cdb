// _cpu.matmul: checks the arguments (check.h) and hands the strides to a variant. No copies.
#include "core/bind.h"

#include <stdlib.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/threads.h"
#include "core/variant.h"
#include "matmul/packed_operand.h"
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

// The variant that `packed` is for, which must be the wanted one if one is wanted.
const Variant& variant_of(const PackedOperand& packed, std::string_view name) {
  const Variant& made_for = packed.variant();
  if (name.empty() && !getenv("PYHPC_VARIANT")) return made_for;
  const Variant& wanted = choose(variants, name);
  require(&wanted == &made_for, [&] {
    return std::string("b was packed for variant ") + made_for.name + ", but " + wanted.name +
           " is asked for; pack it again";
  });
  return made_for;
}

// The variant and how many threads it may use; the multiply-adds of the whole batch.
struct Call {
  const Variant& variant;
  const PackedOperand* packed;  // b, or null where it is an array
  int threads;
  double work;

  Call(const Problem& problem, const PackedOperand* packed, int wanted, std::string_view name)
      : variant(packed ? variant_of(*packed, name) : choose(variants, name)), packed(packed) {
    require(wanted >= 0, [&] {
      return "threads is " + std::to_string(wanted) + "; give a positive number, or 0 for all that are available";
    });
    work = static_cast<double>(problem.m) * problem.n * problem.k;
    for (int i = 0; i < problem.batch_ndim; ++i) work *= problem.batch_shape[i];
    threads = work <= least_shared_work ? 1 : thread_count(wanted);
  }

  void run(const Problem& problem) const {
    const bool done = packed ? variant.run_packed(problem, packed->data(), threads) : variant.run(problem, threads);
    if (!done) throw std::bad_alloc();
  }
};

void compute(Problem& problem, const Call& call) {
  stack_rows(problem);
  if (call.work <= least_released_work) return call.run(problem);
  const py::gil_scoped_release release;
  call.run(problem);
}

// (sum, sum of absolute values) of each row of the batch.
std::vector<double> no_sums(const Problem& problem) {
  int64_t rows = problem.m;
  for (int i = 0; i < problem.batch_ndim; ++i) rows *= problem.batch_shape[i];
  return std::vector<double>(2 * rows);
}

// Those of out or of the product.
std::vector<double> checksums(const Problem& problem, bool of_output, const Call& call) {
  std::vector<double> sums = no_sums(problem);
  if (!sums.empty() && !call.variant.checksums(problem, of_output, sums.data(), call.threads)) throw std::bad_alloc();
  return sums;
}

// The first row of out, of all of the batch, that is not that of the product; -1 where there is none. `before`: the
// checksums of out before it was added to, or nothing.
int64_t wrong_row(const Problem& problem, const std::vector<double>& expected, const std::vector<double>& found,
                  const std::vector<double>& before = {}) {
  const Judge judge(problem);
  constexpr double nothing[2] = {};
  for (size_t i = 0; i < found.size(); i += 2)
    if (!judge.right(&expected[i], &found[i], before.empty() ? nothing : &before[i])) return i / 2;
  return -1;
}

const PackedOperand* as_packed(py::handle object) {
  if (is_ndarray(object) || !py::isinstance<PackedOperand>(object)) return nullptr;
  return &object.cast<const PackedOperand&>();
}

// The operands of a call, in host memory.
struct Operands {
  const PackedOperand* packed = nullptr;
  Borrowed a, array, out;

  Operands() = default;
  Operands(py::handle a_object, py::handle b_object, py::handle out_object) : packed(as_packed(b_object)) {
    borrow(a_object, "a", a), require_on_cpu(a, "a");
    if (!packed) borrow(b_object, "b", array), require_on_cpu(array, "b");
    borrow(out_object, "out", out), require_on_cpu(out, "out");
  }
  const Array& b() const { return packed ? packed->array() : array; }
  Problem problem(bool accumulate) const { return problem_of(a, b(), out, accumulate); }
};

void run(py::handle a, py::handle b, py::handle out, bool accumulate, int threads, std::string_view variant) {
  const Operands operands(a, b, out);
  Problem problem = operands.problem(accumulate);
  compute(problem, Call(problem, operands.packed, threads, variant));
}

std::unique_ptr<PackedOperand> pack(py::handle b_object, int threads, std::string_view variant) {
  Borrowed b;
  borrow(b_object, "b", b), require_on_cpu(b, "b");
  require(b.ndim == 2, [&] { return "b has shape " + shape_of(b) + "; pack takes one matrix, (k, n)"; });
  output_dtype(b.dtype);  // throws for a type that matmul does not take
  const Variant& chosen = choose(variants, variant);
  const int team = b.size() <= least_shared_work ? 1 : thread_count(threads);
  const py::gil_scoped_release release;
  return std::make_unique<PackedOperand>(b, chosen, team);
}

// As run, and checks every row.
int64_t run_checked(py::handle a, py::handle b, py::handle out, bool accumulate, int threads,
                    std::string_view variant) {
  const Operands operands(a, b, out);
  require(!operands.packed, "check=True needs b as it was: give the array instead of the packed operand");
  Problem problem = operands.problem(accumulate);
  stack_rows(problem);
  const Call call(problem, nullptr, threads, variant);
  const py::gil_scoped_release release;
  const std::vector<double> before = accumulate ? checksums(problem, true, call) : std::vector<double>();
  std::vector<double> expected = no_sums(problem), found = expected;
  if (!call.variant.run_checked(problem, expected.data(), found.data(), call.threads)) throw std::bad_alloc();
  return wrong_row(problem, expected, found, before);
}

// Checks a product that was made before.
int64_t check(py::handle a, py::handle b, py::handle out, int threads, std::string_view variant) {
  const Operands operands(a, b, out);
  require(!operands.packed, "check needs b as it was: give the array instead of the packed operand");
  Problem problem = operands.problem(false);
  stack_rows(problem);
  const Call call(problem, nullptr, threads, variant);
  const py::gil_scoped_release release;
  return wrong_row(problem, checksums(problem, false, call), checksums(problem, true, call));
}

// A new array for the product, of a's library.
py::object output_for(const Problem& problem, py::handle a) {
  const DType type = output_dtype(problem.dtype);
  using Numpy = py::detail::npy_api;
  int64_t shape[Array::max_ndim];
  const int ndim = output_shape(problem, shape);
  if (!is_ndarray(a)) return torch::empty(a, type, ndim, shape);
  return empty_ndarray(py::dtype(type == DType::float64   ? Numpy::NPY_DOUBLE_
                                 : type == DType::float32 ? Numpy::NPY_FLOAT_
                                                          : Numpy::NPY_INT32_),
                       ndim, shape);
}

// pyhpc.matmul of NumPy arrays or PyTorch tensors without a step in Python: what a small product costs is its call.
py::object multiply(py::handle a, py::handle b, const py::object& out, bool accumulate, int threads,
                    std::string_view variant) {
  const auto alike = [&](py::handle object) { return Py_TYPE(object.ptr()) == Py_TYPE(a.ptr()); };
  const PackedOperand* packed = alike(b) ? nullptr : as_packed(b);
  if (!(is_ndarray(a) || torch::is_tensor(a)) || !(alike(b) || packed) || !(alike(out) || out.is_none()))
    return py::none();
  Operands operands;
  operands.packed = packed;
  if (!borrow_directly(a, "a", operands.a) || !(packed || borrow_directly(b, "b", operands.array)) ||
      !(out.is_none() || borrow_directly(out, "out", operands.out)) || operands.a.ndim < 2 || operands.b().ndim < 2)
    return py::none();
  Problem problem = product_of(operands.a, operands.b());
  require(!accumulate || !out.is_none(), "accumulate=True adds to out; give out");
  const py::object result = out.is_none() ? output_for(problem, a) : out;
  if (out.is_none())
    borrow_directly(result, "out", operands.out);
  else
    check_output(operands.a, operands.b(), operands.out, problem);
  set_output(operands.out, accumulate, problem);
  compute(problem, Call(problem, operands.packed, threads, variant));
  return result;
}

}  // namespace

void bind(py::module_& module) {
  module.doc() = "out = a b, or out += a b: see pyhpc.matmul.";
  py::class_<PackedOperand>(module, "Packed", "A matrix in the layout of one variant: see pyhpc.pack.")
      .def_property_readonly(
          "shape",
          [](const PackedOperand& packed) { return py::make_tuple(packed.array().shape[0], packed.array().shape[1]); })
      .def_property_readonly("dtype", [](const PackedOperand& packed) { return name(packed.array().dtype); })
      .def_property_readonly("variant", [](const PackedOperand& packed) { return packed.variant().name; })
      .def_property_readonly("nbytes", &PackedOperand::bytes)
      .def("__repr__", [](const PackedOperand& packed) {
        return std::string("<pyhpc packed ") + name(packed.array().dtype) + " " + shape_of(packed.array()) + " for " +
               packed.variant().name + ", " + std::to_string(packed.bytes()) + " bytes>";
      });
  module.def("pack", &pack, py::arg("b"), py::arg("threads") = 0, py::arg("variant") = "",
             "b (k, n) packed, to be given as b.");
  module.def("run", &run, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("threads") = 0, py::arg("variant") = "",
             "out (..., m, n) = or += a (..., m, k) b (..., k, n). threads 0: all available; variant \"\": "
             "PYHPC_VARIANT or the best that runs here.");
  module.def("run_checked", &run_checked, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("threads") = 0, py::arg("variant") = "",
             "As run, then the first row of out, counted over the batch, whose sum is not the product's; -1: none.");
  module.def("check", &check, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("threads") = 0,
             py::arg("variant") = "", "The same for an out that was computed before.");
  module.def(
      "multiply", &multiply, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate"), py::arg("threads"),
      py::arg("variant"),
      "As run, but returns out, which it makes where it is None; and None, having done nothing, where the arrays "
      "are not all numpy.ndarray or all tensors of PyTorch that need no preparation, or a or b is a vector.");
  module.def(
      "variants", [] { return list_variants(variants); },
      "Names, best first, each with the reason why it cannot run here, or \"\".");
}

}  // namespace pyhpc::matmul
