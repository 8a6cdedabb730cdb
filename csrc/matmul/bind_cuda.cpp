// Binds the CUDA matmul: borrows the arrays, checks them, enqueues on the caller's stream.
#include <vector>

#include "core/cuda_bind.h"
#include "matmul/cuda_verify.h"
#include "matmul/scales.h"
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

// What a product is beside its arrays. `operands`: of what 8-bit floating-point type a and b are, which then come as
// uint8, because few libraries can hand such arrays over by their type.
struct Options {
  bool accumulate, tf32;
  std::string operands;
  py::object scale_a, scale_b;  // or None
  float factor;
};

// The arrays, checked and on one GPU.
struct Product {
  Borrowed a, b, out, scale_a, scale_b;
  Problem problem;
  int device;  // -1: all are empty

  Product(py::handle a_object, py::handle b_object, py::handle out_object, const Options& options) {
    borrow(a_object, "a", a);
    borrow(b_object, "b", b);
    borrow(out_object, "out", out);
    for (Borrowed* operand : {&a, &b}) reinterpret(options.operands, *operand);
    problem = problem_of(a, b, out, options.accumulate);
    const bool scales_a = !options.scale_a.is_none(), scales_b = !options.scale_b.is_none();
    if (scales_a) borrow(options.scale_a, "scale_a", scale_a);
    if (scales_b) borrow(options.scale_b, "scale_b", scale_b);
    problem.scales = scales_of(problem, scales_a ? &scale_a : nullptr, scales_b ? &scale_b : nullptr, options.factor);
    problem.tf32 = options.tf32 && problem.dtype == DType::float32;
    std::vector<cuda::Named> arrays = {{"a", &a}, {"b", &b}, {"out", &out}};
    if (scales_a) arrays.push_back({"scale_a", &scale_a});
    if (scales_b) arrays.push_back({"scale_b", &scale_b});
    device = cuda::common_device(arrays);
  }

 private:
  static void reinterpret(const std::string& operands, Borrowed& array) {
    if (operands.empty()) return;
    for (const DType dtype : {DType::float8_e4m3fn, DType::float8_e5m2})
      if (operands == name(dtype) && array.dtype == DType::uint8) {
        array.dtype = dtype;
        return;
      }
    throw Error(ErrorKind::invalid, "a and b are not uint8 that hold float8_e4m3fn or float8_e5m2, but " +
                                        std::string(name(array.dtype)) + " for " + operands);
  }
};

void run(py::object a, py::object b, py::object out, bool accumulate, uintptr_t stream, const std::string& variant,
         const std::string& operands, py::object scale_a, py::object scale_b, float factor, bool tf32) {
  const Product product(a, b, out, {accumulate, tf32, operands, scale_a, scale_b, factor});
  if (product.device < 0) return;
  const cuda::DeviceGuard guard(product.device);
  const auto& chosen = cuda::choose_for(product.problem, variants, variant);
  const py::gil_scoped_release release;
  cuda::check(chosen.run(product.problem, stream), "launching matmul");
}

py::array_t<double> table(const std::vector<double>& values, int64_t columns) {
  py::array_t<double> array({static_cast<int64_t>(values.size()) / columns, columns});
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

// As run, then checks every row. None, or of the first wrong row, counted over the batch: its number, its elements
// again, what out held before, and the tiles that cover it.
py::object run_checked_on_gpu(py::object a, py::object b, py::object out, bool accumulate, uintptr_t stream,
                              const std::string& variant, bool tf32) {
  const Product product(a, b, out, {accumulate, tf32, "", py::none(), py::none(), 1});
  const Problem& problem = product.problem;
  if (product.device < 0) return py::none();
  const cuda::DeviceGuard guard(product.device);
  const auto& chosen = cuda::choose_for(problem, variants, variant);
  const bool by_sm90 = std::string(chosen.name) == "sm90";
  WrongRow wrong;
  {
    const py::gil_scoped_release release;
    const int64_t records = by_sm90 ? count_records(problem) : count_blocks(problem);
    wrong = run_checked(problem, records, stream, [&](TileRecord* to) {
      if (!to) return chosen.run(problem, stream);
      return by_sm90 ? run_logged(problem, {to, nullptr}, stream) : run_blocks_logged(problem, to, stream);
    });
  }
  if (wrong.row < 0) return py::none();
  py::list tiles;
  for (const TileRecord& tile : wrong.tiles)
    tiles.append(py::make_tuple(tile.multiprocessor, tile.row, tile.column, tile.extent >> 32 & 0x7fffffff,
                                tile.extent & 0xffffffff));
  return py::make_tuple(wrong.row, table(wrong.again, 3), table(wrong.before, 1), tiles);
}

// The memory of `array`, contiguous and of this shape and dtype, for what a product tells.
void* to_write(const Borrowed& array, const char* argument, DType dtype, std::initializer_list<int64_t> shape) {
  int64_t step = array.size();
  bool right = array.dtype == dtype && array.writable && array.ndim == static_cast<int>(shape.size());
  std::string sizes;
  int i = 0;
  for (const int64_t size : shape) {
    if (right) step /= size, right = array.shape[i] == size && array.strides[i] == step;
    sizes += (i++ ? ", " : "") + std::to_string(size);
  }
  require(right,
          std::string(argument) + " is not a contiguous, writable " + name(dtype) + " array of shape (" + sizes + ")");
  return array.data;
}

// As run with variant sm90; writes a TileRecord for each tile into `log`, and TileSums into `sums`, if it is given.
// Returns the number of tiles; without a log it does only that.
int64_t logged(py::object a, py::object b, py::object out, py::object log_object, py::object sums_object,
               uintptr_t stream, const std::string& operands, bool tf32) {
  Product product(a, b, out, {false, tf32, operands, py::none(), py::none(), 1});
  const Problem& problem = product.problem;
  if (product.device < 0) return 0;
  const cuda::DeviceGuard guard(product.device);
  const char* refused = target_refusal("sm90");
  if (!refused) refused = sm90_operand::refusal(problem);
  if (refused) throw Error(ErrorKind::unsupported, std::string("the product cannot be logged, because ") + refused);
  const int64_t records = count_records(problem);
  require(records > 0, "a product with several batch dimensions, or an empty one, cannot be logged");
  if (log_object.is_none()) return records;
  Borrowed log, sums;
  borrow(log_object, "log", log);
  cuda::common_device({{"out", &product.out}, {"log", &log}});
  TileLog told = {static_cast<TileRecord*>(to_write(log, "log", DType::uint64, {records, 8})), nullptr};
  if (!sums_object.is_none()) {
    borrow(sums_object, "sums", sums);
    cuda::common_device({{"out", &product.out}, {"sums", &sums}});
    told.sums = static_cast<TileSums*>(to_write(sums, "sums", DType::uint32, {records, TileSums::lines, 2}));
  }
  const py::gil_scoped_release release;
  cuda::check(run_logged(problem, told, stream), "launching matmul");
  return records;
}

// The plans that sm90 would weigh for operands and an out without padding, row by row. Needs no GPU.
std::string explain(int64_t m, int64_t n, int64_t k, int64_t batches, int bytes, int out_bytes, bool scaled_along_k,
                    int multiprocessors) {
  require(m > 0 && n > 0 && k > 0 && batches > 0 && multiprocessors > 0, "a size is not positive");
  require(bytes == 1 || bytes == 2 || bytes == 4, "the tensor cores take elements of 1, 2 or 4 bytes");
  const auto by_box = [out_bytes](int64_t columns) { return columns * out_bytes % 16 == 0; };
  const sm90_plan::Shape shape = {m,
                                  n,
                                  k,
                                  batches,
                                  bytes,
                                  out_bytes,
                                  scaled_along_k && bytes == 1,
                                  {by_box(n), n == 1 && by_box(m)},
                                  multiprocessors};
  std::string text(static_cast<size_t>(sm90_plan::explain(shape, nullptr, 0)), ' ');
  sm90_plan::explain(shape, &text[0], static_cast<int>(text.size()) + 1);
  return text;
}

}  // namespace

void bind(py::module_& module) {
  module.def("run", &run, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("accumulate") = false,
             py::arg("stream") = 0, py::arg("variant") = "", py::arg("operands") = "", py::arg("scale_a") = py::none(),
             py::arg("scale_b") = py::none(), py::arg("factor") = 1.0f, py::arg("tf32") = false,
             "Enqueue out = factor * (scale_a a) @ (scale_b b) (+ out) on `stream` of the arrays' GPU. operands: the "
             "8-bit floating-point type that a and b, given as uint8, hold. tf32: float32 may be rounded to TF32.");
  module.def("run_checked", &run_checked_on_gpu, py::arg("a"), py::arg("b"), py::arg("out"),
             py::arg("accumulate") = false, py::arg("stream") = 0, py::arg("variant") = "", py::arg("tf32") = false,
             "As run, then waits and checks every row: None, or of the first wrong row, counted over the batch, "
             "(number, n × (product, sum of absolute terms, out), n × (out before), [(multiprocessor, row, column, "
             "rows, columns) of each tile that covers it]).");
  module.def("run_logged", &logged, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("log") = py::none(),
             py::arg("sums") = py::none(), py::arg("stream") = 0, py::arg("operands") = "", py::arg("tf32") = false,
             "Number of tiles; with log, enqueue out = a @ b that writes 8 words about each, and its lines' sums.");
  module.def("explain", &explain, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("batches") = 1,
             py::arg("bytes") = 2, py::arg("out_bytes") = 2, py::arg("scaled_along_k") = false,
             py::arg("multiprocessors") = 132,
             "The cost model's table of the tiles that sm90 can use for a product, the chosen one marked.");
  module.def(
      "variants", [] { return cuda::list_variants(variants); }, "(name, refusal or \"\") of each target, best first.");
}

}  // namespace pyhpc::matmul
