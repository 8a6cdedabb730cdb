// Which keys a block of queries of one head meets: shared by the tensor-core and the float32 kernels.
#pragma once
#include "attention/attention.h"
#include "core/cuda_kernel.h"

namespace pyhpc::attention {

// One block's work. Blocks are numbered query tile first, then head, then batch; the last tile, which sees the most
// keys under a causal mask, goes first.
struct Task {
  int64_t batch, head, kv_head, first_query;
};
__host__ __device__ inline Task task_of(const Problem& p, int64_t block, int64_t queries) {
  const int64_t tiles = cuda::blocks_for(p.q_len, queries), head = block / tiles % p.heads;
  return {block / tiles / p.heads, head, head / (p.heads / p.kv_heads), (tiles - 1 - block % tiles) * queries};
}

__host__ __device__ inline bool visible(const Problem& p, int64_t query, int64_t key) {
  const int64_t distance = query + p.kv_len - p.q_len - key;
  return key < p.kv_len && (!p.causal || distance >= 0) && (p.window < 0 || distance <= p.window);
}

// The keys that some query of [first, first + queries) sees, `begin` rounded down to a multiple of `step`.
struct Keys {
  int64_t begin, end;
};
__host__ __device__ inline Keys keys_of(const Problem& p, int64_t first, int64_t queries, int64_t step) {
  const int64_t last = first + queries < p.q_len ? first + queries - 1 : p.q_len - 1, shift = p.kv_len - p.q_len;
  Keys keys = {0, p.kv_len};
  if (p.causal && last + shift + 1 < keys.end) keys.end = last + shift + 1;
  if (p.window >= 0 && first + shift > p.window) keys.begin = (first + shift - p.window) / step * step;
  return keys;
}

// Rows of one head's matrix.
template <class T>
struct Rows {
  T* data;
  int64_t row, column, rows, columns;

  __device__ T at(int64_t i, int64_t j) const { return i < rows && j < columns ? data[i * row + j * column] : T{}; }
};
template <class T>
__device__ Rows<const T> rows_of(const Problem& p, const void* data, const int64_t* strides, int64_t batch,
                                 int64_t head, int64_t length) {
  return {static_cast<const T*>(data) + batch * strides[0] + head * strides[1], strides[2], strides[3], length,
          p.head_dim};
}

template <class T>
__device__ void store_row(const Problem& p, const Task& task, int64_t query, int64_t column, float value) {
  if (query >= p.q_len || column >= p.head_dim) return;
  const int64_t* strides = p.out_strides;
  T* out = static_cast<T*>(p.out) + task.batch * strides[0] + task.head * strides[1];
  cuda::from_float(value, out[query * strides[2] + column * strides[3]]);
}

// The running softmax of one query row, exponents in base 2. `largest` is −inf until a key was seen.
struct Softmax {
  float largest = -INFINITY, sum = 0;

  // Takes in the largest score of the next keys; returns the factor for all that was summed before.
  __device__ float raise(float score) {
    const float before = largest;
    largest = fmaxf(largest, score);
    const float factor = exp2f(before - base());
    sum *= factor;
    return factor;
  }
  // What scores are measured from: finite before any key is seen, so that exp2(−inf − base) is 0.
  __device__ float base() const { return largest == -INFINITY ? 0.0f : largest; }
  __device__ float scale() const { return sum == 0 ? 0.0f : 1 / sum; }
};

__device__ inline void store_lse(const Problem& p, const Task& task, int64_t query, const Softmax& softmax) {
  if (!p.lse || query >= p.q_len) return;
  constexpr float log_2 = 0.69314718055994531f;
  float* lse = p.lse + task.batch * p.lse_strides[0] + task.head * p.lse_strides[1];
  lse[query * p.lse_strides[2]] = softmax.sum == 0 ? -INFINITY : softmax.largest * log_2 + logf(softmax.sum);
}

// The sum, or the largest, over the four lanes that share a row of a score tile.
__device__ inline float quad_sum(float value) {
  value += cuda::exchange_xor(value, 1);
  return value + cuda::exchange_xor(value, 2);
}
__device__ inline float quad_largest(float value) {
  value = fmaxf(value, cuda::exchange_xor(value, 1));
  return fmaxf(value, cuda::exchange_xor(value, 2));
}

}  // namespace pyhpc::attention
