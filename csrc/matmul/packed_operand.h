// The operand that pyhpc.pack returns: memory in the layout of one variant (packed.h), and what it holds. Nobody
// writes to it once it is made, so any number of threads may multiply by it.
#pragma once
#include <stdlib.h>
#include <sys/mman.h>

#include <memory>
#include <new>
#include <string>

#include "matmul/check.h"

namespace pyhpc::matmul {

class PackedOperand {
 public:
  // b (k, n) on the CPU.
  PackedOperand(const Array& b, const Variant& variant, int threads) : variant_(variant), array_(b) {
    Problem problem = {};
    problem.dtype = b.dtype, problem.n = b.shape[1], problem.k = b.shape[0];
    problem.b = b.data, problem.b_row = stride_of(b, 0), problem.b_column = stride_of(b, 1);
    array_.data = nullptr;
    if (b.size() == 0) return;
    bytes_ = variant.pack(problem, nullptr, 1);
    constexpr size_t huge = size_t{2} << 20, page = 4096;
    const size_t grain = static_cast<size_t>(bytes_) < huge ? page : huge;
    const size_t rounded = (static_cast<size_t>(bytes_) + grain - 1) / grain * grain;
    memory_.reset(static_cast<char*>(aligned_alloc(grain, rounded)));
    if (!memory_) throw std::bad_alloc();
    if (grain == huge) madvise(memory_.get(), rounded, MADV_HUGEPAGE);  // advice only
    variant.pack(problem, memory_.get(), threads);
  }

  const Variant& variant() const { return variant_; }
  const Array& array() const { return array_; }  // shape and dtype of b; no data
  const void* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(char* memory) const { free(memory); }
  };
  const Variant& variant_;
  Array array_;
  std::unique_ptr<char, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace pyhpc::matmul
