// Attention forward, the contract between bind.cpp and the target files.
//
//   out[b,h,i,:] = Σ_j P[i,j] v[b,g,j,:],   P[i,:] = softmax over the visible j of scale · q[b,h,i,:]·k[b,g,j,:]
//   lse[b,h,i]   = log Σ_j exp(scale · q·k)                      g = h / (heads / kv_heads)
//
// Key j is visible to query i when, with p = i + kv_len − q_len the query's place among the keys (bottom-right
// aligned), j ≤ p if causal, and p − j ≤ window if window ≥ 0. A query that sees no key gets 0 and lse −inf. Hidden
// keys contribute nothing, whatever their values. NaN in a query row or in a visible key or value reaches the results
// that depend on it.
//
// Computed in float32 by online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) over blocks of `key_block` keys:
// memory O(rows of a chunk), never the q_len × kv_len matrix. A result does not depend on the number of threads.
//
// Error bound, first order, u = 2^-24, e = 2^-22 (relative error of exp2, simd.h), n blocks of keys, s_j the scores:
//   r_j = (d + 3) u · scale · Σ_c |q_c k_jc|      dot product of d terms; scale · log2(e) folded into q
//       + u (max s − s_j)                         rounding of the exponent; telescopes over the rescales
//       + (n + 1)(e + u) + (key_block + 2n) u     exp2 and its rescales; sums inside a block, then over blocks
//   |out − exact| ≤ Σ_j P_j r_j (|v_j| + |exact|) + 3u |exact| + rounding to the output type (to nearest even)
//   |lse − exact| ≤ Σ_j P_j r_j + 2u |lse|
// A target that multiplies pairs of bfloat16 rounds the weights and takes subnormals for zero: r_j grows by
// d scale 2^-126 (max |q| + max |k| + 2), the output's bound by 2^-8 Σ_j P_j |v_j| + 3 kv_len 2^-126.
// Scores below max s by more than 126 log 2 are taken as zero weight (2^-126 each).
#pragma once
#include <stdint.h>

#include "core/array.h"

namespace pyhpc::attention {

constexpr int min_head_dim = 16, max_head_dim = 256;
constexpr int key_block = 96;  // keys whose scores stay in L1 for one block of queries

struct Problem {
  DType dtype;  // of q, k, v, out; lse is float32
  int64_t batch, heads, kv_heads, q_len, kv_len, head_dim;
  const void *q, *k, *v;
  void* out;
  float* lse;                                                                        // or nullptr
  int64_t q_strides[4], k_strides[4], v_strides[4], out_strides[4], lse_strides[3];  // in elements, any sign
  bool causal;
  int64_t window;  // < 0: none
  float scale;
  int threads;
  int64_t l2_bytes;  // of one core; sizes the chunks of queries that share a pass over the keys

  int64_t group() const { return heads / kv_heads; }
  int64_t rows() const { return group() * q_len; }  // query rows that share one key-value head
};

// The gradients of Σ dout ∘ out (backward.h has the formulas). `out` and `lse`, which the forward run gave, are read.
struct BackwardProblem : Problem {
  const void* dout;
  void *dq, *dk, *dv;
  int64_t dout_strides[4], dq_strides[4], dk_strides[4], dv_strides[4];
};

struct Variant {
  const char* name;
  bool (*run)(const Problem&);  // false: out of memory
  bool (*backward)(const BackwardProblem&);
};

}  // namespace pyhpc::attention
