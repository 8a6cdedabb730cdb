// Runs the attention kernels of one target without Python: the generic ones under ThreadSanitizer, or
// PYHPC_DRIVER_VARIANT, which the tests' own processor does not have, under an emulator or with a model of an
// instruction.
//   driver DTYPE HEADS KV_HEADS Q_LEN KV_LEN HEAD_DIM CAUSAL WINDOW [THREADS],
// with q, k, v and dout (contiguous, one batch) on standard input, out, lse, dq, dk and dv on standard output. DTYPE 0,
// 1, 2 is float32, bfloat16, float16.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "attention/attention.h"

#ifndef PYHPC_DRIVER_VARIANT
#define PYHPC_DRIVER_VARIANT generic
#endif
namespace pyhpc::attention {
extern const Variant PYHPC_DRIVER_VARIANT;
}  // namespace pyhpc::attention

namespace {

void set_strides(int64_t* strides, int64_t heads, int64_t length, int64_t head_dim) {
  strides[0] = heads * length * head_dim, strides[1] = length * head_dim, strides[2] = head_dim, strides[3] = 1;
}

std::vector<char> read(int64_t bytes) {
  std::vector<char> data(bytes);
  if (fread(data.data(), 1, bytes, stdin) != static_cast<size_t>(bytes)) exit(3);
  return data;
}

}  // namespace

int main(int count, char** words) {
  if (count != 9 && count != 10) return 2;
  using namespace pyhpc;
  const DType dtypes[] = {DType::float32, DType::bfloat16, DType::float16};
  attention::BackwardProblem p = {};
  p.dtype = dtypes[atoi(words[1])];
  p.batch = 1, p.heads = atoi(words[2]), p.kv_heads = atoi(words[3]);
  p.q_len = atoi(words[4]), p.kv_len = atoi(words[5]), p.head_dim = atoi(words[6]);
  p.causal = atoi(words[7]), p.window = atoi(words[8]);
  p.scale = static_cast<float>(1 / sqrt(static_cast<double>(p.head_dim)));
  p.threads = count == 10 ? atoi(words[9]) : 1, p.l2_bytes = 512 * 1024;

  const int64_t q_size = p.heads * p.q_len * p.head_dim, k_size = p.kv_heads * p.kv_len * p.head_dim;
  const std::vector<char> q = read(q_size * itemsize(p.dtype)), k = read(k_size * itemsize(p.dtype)),
                          v = read(k_size * itemsize(p.dtype)), dout = read(q_size * itemsize(p.dtype));
  std::vector<char> out(q.size()), dq(q.size()), dk(k.size()), dv(k.size());
  std::vector<float> lse(p.heads * p.q_len);
  p.q = q.data(), p.k = k.data(), p.v = v.data(), p.out = out.data(), p.lse = lse.data();
  p.dout = dout.data(), p.dq = dq.data(), p.dk = dk.data(), p.dv = dv.data();
  for (int64_t* strides : {p.q_strides, p.out_strides, p.dout_strides, p.dq_strides})
    set_strides(strides, p.heads, p.q_len, p.head_dim);
  for (int64_t* strides : {p.k_strides, p.v_strides, p.dk_strides, p.dv_strides})
    set_strides(strides, p.kv_heads, p.kv_len, p.head_dim);
  p.lse_strides[0] = p.heads * p.q_len, p.lse_strides[1] = p.q_len, p.lse_strides[2] = 1;
  const attention::Variant& tested = attention::PYHPC_DRIVER_VARIANT;
  if (!tested.run(p) || !tested.backward(p)) return 4;
  fwrite(out.data(), 1, out.size(), stdout);
  fwrite(lse.data(), sizeof(float), lse.size(), stdout);
  for (const std::vector<char>* gradient : {&dq, &dk, &dv}) fwrite(gradient->data(), 1, gradient->size(), stdout);
}
