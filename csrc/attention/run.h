// One call of a variant: the work is cut into chunks of query rows of one key-value head, or, when few rows share a
// head (decode), into spans of keys. The cuts never change a result, so any number of threads gives the same bits.
#pragma once
#include "attention/backward.h"
#include "attention/blocks.h"
#include "attention/rows.h"
#include "core/workspace.h"

namespace pyhpc::attention {
namespace {

template <class S, class T>
bool run_blocks(const Problem& p) {
  const BlocksScratch<S> scratch(p);
  const int64_t chunk = chunk_rows<S>(p), heads = p.batch * p.kv_heads, chunks = (p.rows() + chunk - 1) / chunk;
  const int threads = static_cast<int>(smaller(p.threads, heads * chunks));
  bool enough = true;
#pragma omp parallel num_threads(threads) reduction(&& : enough) if (threads > 1)
  {
    float* memory = static_cast<float*>(workspace(0, sizeof(float) * scratch.floats(chunk)));
    enough = memory != nullptr;
    // The last rows of a causal problem see the most keys: longest first.
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < heads * chunks; ++task) {
      const int64_t first = (chunks - 1 - task / heads) * chunk, head = task % heads;
      if (memory)
        attend_chunk<S, T>({p, head / p.kv_heads, head % p.kv_heads}, first, smaller(first + chunk, p.rows()), memory);
    }
  }
  return enough;
}

template <class S, class T>
bool run_any(const Problem& p) {
  return p.rows() <= few_rows ? run_rows<S, T>(p) : run_blocks<S, T>(p);
}

template <class S>
bool run(const Problem& p) {
  switch (p.dtype) {
    case DType::float32:
      return run_any<S, float>(p);
    case DType::bfloat16:
      return run_any<S, Bfloat16>(p);
    case DType::float16:
      return run_any<S, Float16>(p);
    default:
      return false;
  }
}

template <class S>
bool backward(const BackwardProblem& p) {
  switch (p.dtype) {
    case DType::float32:
      return backward_any<S, float>(p);
    case DType::bfloat16:
      return backward_any<S, Bfloat16>(p);
    case DType::float16:
      return backward_any<S, Float16>(p);
    default:
      return false;
  }
}

}  // namespace
}  // namespace pyhpc::attention
