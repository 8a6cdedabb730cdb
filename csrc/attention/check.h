// The argument checks of attention and the Problem they end in, for the CPU's and for CUDA's binding, which alone know
// on what device the arrays must be.
#pragma once
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <utility>

#include "attention/attention.h"
#include "core/error.h"

namespace pyhpc::attention {

inline std::string shape_of(const Array& array) {
  std::string text = "(";
  for (int i = 0; i < array.ndim; ++i) text += (i ? ", " : "") + std::to_string(array.shape[i]);
  return text + ")";
}

inline void require_shape(const Array& array, const char* argument, std::initializer_list<int64_t> shape,
                          const char* meaning) {
  Array wanted;
  wanted.ndim = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), wanted.shape);
  bool same = array.ndim == wanted.ndim;
  for (int i = 0; same && i < array.ndim; ++i) same = array.shape[i] == wanted.shape[i];
  require(same, [&] {
    return std::string(argument) + " has shape " + shape_of(array) + "; it must be " + meaning + " = " +
           shape_of(wanted);
  });
}

// The bytes from the first to the last element, whatever the strides' signs.
inline std::pair<uintptr_t, uintptr_t> extent(const Array& array) {
  int64_t low = 0, high = 1;
  for (int i = 0; i < array.ndim; ++i) {
    if (array.shape[i] == 0) return {0, 0};
    const int64_t reach = (array.shape[i] - 1) * array.strides[i];
    (reach < 0 ? low : high) += reach;
  }
  const uintptr_t base = reinterpret_cast<uintptr_t>(array.data);
  return {base + low * itemsize(array.dtype), base + high * itemsize(array.dtype)};
}

inline void require_apart(const Array& result, const char* name, const Array& other, const char* other_name) {
  const auto a = extent(result), b = extent(other);
  require(a.second <= b.first || b.second <= a.first, [&] {
    return std::string(name) + " and " + other_name + " span the same memory; give " + name + " memory of its own";
  });
}

inline void require_result(const Array& result, const char* name) {
  require(result.writable, [&] { return std::string(name) + " is read-only; give an array that can be written"; });
  for (int i = 0; i < result.ndim; ++i)
    require(result.shape[i] < 2 || result.strides[i] != 0 || result.size() == 0, [&] {
      return std::string(name) + " has stride 0 along dimension " + std::to_string(i) + ": its elements share memory";
    });
}

inline void check(const Array& q, const Array& k, const Array& v, const Array& out) {
  require(q.dtype == DType::float32 || q.dtype == DType::bfloat16 || q.dtype == DType::float16,
          [&] { return std::string("q is ") + name(q.dtype) + "; attention takes float32, bfloat16 and float16"; });
  require(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype, [&] {
    return std::string("q is ") + name(q.dtype) + ", k " + name(k.dtype) + ", v " + name(v.dtype) + ", out " +
           name(out.dtype) + "; all four must have one type";
  });
  require(q.ndim == 4, [&] { return "q has shape " + shape_of(q) + "; it must be (batch, heads, q_len, head_dim)"; });
  require(k.ndim == 4,
          [&] { return "k has shape " + shape_of(k) + "; it must be (batch, kv_heads, kv_len, head_dim)"; });
  require_shape(k, "k", {q.shape[0], k.shape[1], k.shape[2], q.shape[3]},
                "(q's batch, kv_heads, kv_len, q's head_dim)");
  require_shape(v, "v", {k.shape[0], k.shape[1], k.shape[2], k.shape[3]}, "k's shape");
  require_shape(out, "out", {q.shape[0], q.shape[1], q.shape[2], q.shape[3]}, "q's shape");
  require(k.shape[1] > 0 ? q.shape[1] % k.shape[1] == 0 : q.shape[1] == 0, [&] {
    return "q has " + std::to_string(q.shape[1]) + " heads, k and v " + std::to_string(k.shape[1]) +
           "; q's number must be a multiple of theirs";
  });
  if (q.shape[3] < min_head_dim || q.shape[3] > max_head_dim)
    throw Error(ErrorKind::unsupported, "head_dim is " + std::to_string(q.shape[3]) + "; attention takes 16 to 256");
  require_result(out, "out");
  require_apart(out, "out", q, "q"), require_apart(out, "out", k, "k"), require_apart(out, "out", v, "v");
}

inline void check_lse(const Array& lse, const Array& q, const Array& k, const Array& v, const Array& out) {
  require(lse.dtype == DType::float32,
          [&] { return std::string("lse is ") + name(lse.dtype) + "; it must be float32"; });
  require_shape(lse, "lse", {q.shape[0], q.shape[1], q.shape[2]}, "(batch, heads, q_len)");
  require_result(lse, "lse");
  require_apart(lse, "lse", q, "q"), require_apart(lse, "lse", k, "k"), require_apart(lse, "lse", v, "v");
  require_apart(lse, "lse", out, "out");
}

inline void set_strides(int64_t* to, const Array& array) {
  for (int i = 0; i < array.ndim; ++i) to[i] = array.strides[i];
}

struct Options {
  bool causal;
  int64_t window;
  double scale;  // 0: 1/sqrt(head_dim)
};

// Checks everything but the devices. `lse` may be null; threads and l2_bytes are the CPU binding's to set.
inline Problem problem_of(const Array& q, const Array& k, const Array& v, const Array& out, const Array* lse,
                          const Options& options) {
  check(q, k, v, out);
  if (lse) check_lse(*lse, q, k, v, out);
  require(options.window >= -1,
          [&] { return "window is " + std::to_string(options.window) + "; it must be -1 (none) or a number of keys"; });
  require(std::isfinite(options.scale), "scale is not finite; 0 means 1/sqrt(head_dim)");
  Problem p = {};
  p.dtype = q.dtype;
  p.batch = q.shape[0], p.heads = q.shape[1], p.q_len = q.shape[2], p.head_dim = q.shape[3];
  p.kv_heads = k.shape[1], p.kv_len = k.shape[2];
  p.q = q.data, p.k = k.data, p.v = v.data, p.out = out.data;
  set_strides(p.q_strides, q), set_strides(p.k_strides, k), set_strides(p.v_strides, v),
      set_strides(p.out_strides, out);
  if (lse) p.lse = static_cast<float*>(lse->data), set_strides(p.lse_strides, *lse);
  p.causal = options.causal;
  p.window = options.window;
  p.scale = static_cast<float>(options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(p.head_dim)));
  return p;
}

// The arrays of the backward run: what is read, and what is written.
struct BackwardArrays {
  const Array &dout, &q, &k, &v, &out, &lse, &dq, &dk, &dv;
};

inline void check_backward(const BackwardArrays& a) {
  const auto like = [&](const Array& array, const char* argument, const Array& model, const char* meaning) {
    require(array.dtype == a.q.dtype, [&] {
      return std::string(argument) + " is " + name(array.dtype) + "; it must be q's type, " + name(a.q.dtype);
    });
    require_shape(array, argument, {model.shape[0], model.shape[1], model.shape[2], model.shape[3]}, meaning);
  };
  like(a.dout, "dout", a.q, "q's shape"), like(a.dq, "dq", a.q, "q's shape");
  like(a.dk, "dk", a.k, "k's shape"), like(a.dv, "dv", a.k, "k's shape");
  using Named = std::pair<const char*, const Array&>;
  for (const auto& [argument, array] : {Named{"dq", a.dq}, Named{"dk", a.dk}, Named{"dv", a.dv}}) {
    require_result(array, argument);
    for (const auto& [other_argument, other] : {Named{"dout", a.dout}, Named{"q", a.q}, Named{"k", a.k},
                                                Named{"v", a.v}, Named{"out", a.out}, Named{"lse", a.lse}})
      require_apart(array, argument, other, other_argument);
  }
  require_apart(a.dk, "dk", a.dq, "dq"), require_apart(a.dv, "dv", a.dq, "dq"), require_apart(a.dv, "dv", a.dk, "dk");
}

// Checks everything but the devices, as problem_of.
inline BackwardProblem backward_problem_of(const BackwardArrays& a, const Options& options) {
  BackwardProblem p = {};
  // As for the forward run, whose results may be read-only here.
  Array out = a.out, lse = a.lse;
  out.writable = lse.writable = true;
  static_cast<Problem&>(p) = problem_of(a.q, a.k, a.v, out, &lse, options);
  check_backward(a);
  p.dout = a.dout.data, p.dq = a.dq.data, p.dk = a.dk.data, p.dv = a.dv.data;
  set_strides(p.dout_strides, a.dout), set_strides(p.dq_strides, a.dq), set_strides(p.dk_strides, a.dk),
      set_strides(p.dv_strides, a.dv);
  return p;
}

}  // namespace pyhpc::attention
