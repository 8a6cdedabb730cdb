// The CUDA target files as a plain C library that runs them on the CPU (core/cuda_emulation.h), for
// test_cuda_emulation.py. Each function returns "" or the sentence of the error.
#include <string>

#include "allreduce/sm80.cu"
#include "attention/check.h"
#include "attention/sm80.cu"
#include "checked_product.h"
#include "matmul/scales.h"
#include "matmul/sm80.cu"
#include "memory/sm80.cu"
#include "peak/sm80.cu"

namespace {

std::string sentence;

template <class Function>
const char* guarded(Function function) {
  try {
    const int status = function();
    sentence = status ? "launch status " + std::to_string(status) : "";
  } catch (const pyhpc::Error& error) {
    sentence = error.what();
  }
  return sentence.c_str();
}

}  // namespace

extern "C" {
using pyhpc::Array;

void set_reverse_order(bool reverse) { pyhpc::emulation::reverse_order = reverse; }

const char* matmul(const Array* a, const Array* b, const Array* out, bool accumulate) {
  return guarded([&] { return pyhpc::matmul::sm80.run(pyhpc::matmul::problem_of(*a, *b, *out, accumulate), 0); });
}

const char* checked_matmul(const Array* a, const Array* b, const Array* out, bool accumulate, void (*spoil)(),
                           const Array* again, const Array* before, const Array* told) {
  return guarded([&] {
    using namespace pyhpc::matmul;
    const Problem problem = problem_of(*a, *b, *out, accumulate);
    const auto run = [&](TileRecord* records) { return run_blocks_logged(problem, records, 0); };
    run_and_tell(problem, count_blocks(problem), run, spoil, static_cast<double*>(again->data),
                 static_cast<double*>(before->data), static_cast<int64_t*>(told->data));
    return 0;
  });
}

const char* scaled_matmul(const Array* a, const Array* b, const Array* out, const Array* scale_a,
                          const Array* scale_b) {
  return guarded([&] {
    pyhpc::matmul::Problem problem = pyhpc::matmul::problem_of(*a, *b, *out, false);
    problem.scales = pyhpc::matmul::scales_of(problem, scale_a, scale_b, 0.5f);
    return pyhpc::matmul::sm80.run(problem, 0);
  });
}

const char* attention(const Array* q, const Array* k, const Array* v, const Array* out, const Array* lse, bool causal,
                      int window) {
  return guarded([&] {
    const pyhpc::attention::Options options = {causal, window, 0};
    return pyhpc::attention::sm80.run(pyhpc::attention::problem_of(*q, *k, *v, *out, lse, options), 0);
  });
}

const char* reduce(const Array* a, const Array* b, const Array* out, int operation) {
  using namespace pyhpc::allreduce;
  return guarded([&] {
    return sm80.run({a->dtype, static_cast<Operation>(operation), a->data, b->data, out->data, out->size()}, 0);
  });
}

const char* memory(int operation, const Array* a, const Array* b, const Array* c) {
  using namespace pyhpc::memory;
  return guarded([&] {
    const auto from = static_cast<const double*>(a->data), second = static_cast<const double*>(b->data);
    return sm80.run(
        {static_cast<Operation>(operation), from, second, static_cast<double*>(c->data), a->size(), c->size()}, 0);
  });
}

const char* peak(int number, int64_t blocks, const Array* counted) {
  using namespace pyhpc::peak;
  return guarded(
      [&] { return sm80.run({static_cast<Number>(number), blocks, static_cast<int64_t*>(counted->data)}, 0); });
}

// Rounds by the emulation's conversions: 16-bit results as stored, and their values.
void round_to_16_bits(const float* values, int64_t count, bool bfloat16, uint16_t* stored, float* back) {
  for (int64_t i = 0; i < count; ++i) {
    pyhpc::cuda::Bfloat16 wide;
    pyhpc::cuda::Float16 half;
    pyhpc::cuda::from_float(values[i], wide), pyhpc::cuda::from_float(values[i], half);
    stored[i] = bfloat16 ? wide.bits : half.bits;
    back[i] = bfloat16 ? pyhpc::cuda::to_float(wide) : pyhpc::cuda::to_float(half);
  }
}
}
