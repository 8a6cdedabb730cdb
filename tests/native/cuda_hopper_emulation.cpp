// The sm90 matmul as a plain C library that runs it on the CPU (core/cuda_hopper_emulation.h), for
// test_cuda_hopper.py, and what it is planned with. Each function returns "" or the sentence of the error.
#include <string>

#include "core/cuda_tensor_map.h"

namespace pyhpc::cuda {

// In place of the driver's encoder: the checks that its documentation states, and emulation::Tensor.
int encode_tensor(const TensorLayout& layout, TensorMap& map) {
  const int bytes = itemsize(layout.dtype);
  emulation::Tensor tensor = {static_cast<unsigned char*>(const_cast<void*>(layout.data)), bytes, {}, {}, {}};
  bool valid = reinterpret_cast<uintptr_t>(layout.data) % tensor_alignment == 0 && layout.box[0] * bytes == 128;
  for (int i = 0; i < 3; ++i) {
    tensor.size[i] = layout.size[i];
    valid = valid && layout.size[i] > 0 && layout.size[i] <= largest_tensor_size;
  }
  for (int i = 0; i < 2; ++i) {
    tensor.stride[i] = layout.stride[i] * bytes;
    tensor.box[i] = layout.box[i];
    valid = valid && layout.box[i] > 0 && layout.box[i] <= 256 && tensor.stride[i] > 0 &&
            tensor.stride[i] % tensor_alignment == 0 && tensor.stride[i] < largest_tensor_stride;
  }
  memcpy(map.opaque, &tensor, sizeof tensor);
  return valid ? 0 : 3;
}

}  // namespace pyhpc::cuda

#include "checked_product.h"
#include "matmul/scales.h"
#include "matmul/sm90.cu"
#define run run_sm80
#include "matmul/sm80.cu"
#undef run

namespace {

using namespace pyhpc;
std::string sentence;

}  // namespace

extern "C" {

void set_reverse_order(bool reverse) { emulation::reverse_order = reverse; }

void set_multiprocessors(int count) { cuda::emulated_multiprocessors = count; }

struct Forced {  // the plan to run, but for what follows from it
  bool exchanged;
  int columns, cluster_rows, split, rows;
};

struct Options {
  bool accumulate, tf32;
  int multiprocessors;
  float factor;
  const Array *scale_a, *scale_b;  // or nullptr
};

const char* matmul(const Array* a, const Array* b, const Array* out, const Options* options, const Forced* forced) {
  try {
    const int multiprocessors = cuda::emulated_multiprocessors = options->multiprocessors;
    matmul::Problem problem = matmul::problem_of(*a, *b, *out, options->accumulate);
    problem.scales = matmul::scales_of(problem, options->scale_a, options->scale_b, options->factor);
    problem.tf32 = options->tf32;
    if (const char* reason = matmul::sm90.refusal(problem)) return sentence = reason, sentence.c_str();
    int status = 0;
    if (forced->columns == 0) {
      status = matmul::sm90.run(problem, 0);
    } else {
      const matmul::Problem merged = matmul::sm90_operand::merged(problem);
      const matmul::Shape shape = matmul::planned_shape(merged, multiprocessors);
      matmul::Plan plan = {
          forced->exchanged, forced->rows, forced->columns, forced->cluster_rows, forced->split, 1, false, 0};
      plan.by_box = plan.split == 1 && shape.by_box[plan.exchanged];
      plan.band = matmul::sm90_plan::best_band(shape, plan);
      status = matmul::enqueue_all(merged, {plan, multiprocessors, nullptr, 0});
    }
    sentence = status ? "launch status " + std::to_string(status) : "";
    if (emulation::copy_count) sentence = "a block ended while its copies were on their way", emulation::copy_count = 0;
  } catch (const Error& error) {
    sentence = error.what();
  }
  return sentence.c_str();
}

int64_t count_records(const Array* a, const Array* b, const Array* out) {
  return matmul::count_records(matmul::problem_of(*a, *b, *out, false));
}

const char* run_checked(const Array* a, const Array* b, const Array* out, void (*spoil)(), double* again,
                        double* before, int64_t* told) {
  emulation::reverse_order = false;
  try {
    const matmul::Problem problem = matmul::problem_of(*a, *b, *out, false);
    const auto run = [&](matmul::TileRecord* records) { return matmul::run_logged(problem, {records, nullptr}, 0); };
    run_and_tell(problem, matmul::count_records(problem), run, spoil, again, before, told);
    sentence = "";
  } catch (const Error& error) {
    sentence = error.what();
  }
  return sentence.c_str();
}

int run_logged(const Array* a, const Array* b, const Array* out, uint64_t* log, uint32_t* sums) {
  emulation::reverse_order = false;
  return matmul::run_logged(matmul::problem_of(*a, *b, *out, false),
                            {reinterpret_cast<matmul::TileRecord*>(log), reinterpret_cast<matmul::TileSums*>(sums)}, 0);
}
}
