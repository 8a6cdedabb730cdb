// Strided rows of float32, bfloat16 or float16 ↔ float32 scratch, zero-filled to a multiple of 16 columns.
#pragma once
#include "attention/attention.h"
#include "attention/simd.h"

namespace pyhpc::attention {
namespace {

constexpr double log2_e = 1.44269504088896340736;

inline int round_up(int x, int step) { return (x + step - 1) / step * step; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// The next elements, widened, or as many words of several of them.
template <class S, int terms = 1, class T>
inline typename S::Vec load_whole(const T* from) {
  if constexpr (terms == 1)
    return S::load(from);
  else
    return S::template read<typename S::Vec>(from);
}

template <class S, int terms = 1, class T>
inline typename S::Vec load_row(const T* from, int64_t stride, int count) {
  constexpr int elements = S::lanes * terms;
  if (stride == 1 && count >= elements) return load_whole<S, terms>(from);
  T row[elements] = {};
  for (int i = 0; i < count && i < elements; ++i) row[i] = from[i * stride];
  return load_whole<S, terms>(row);
}

template <class S, class T>
inline void store_row(T* to, int64_t stride, int count, typename S::Vec x) {
  if (stride == 1 && count >= S::lanes) return S::store(to, x);
  T row[S::lanes];
  S::store(row, x);
  for (int i = 0; i < count && i < S::lanes; ++i) to[i * stride] = row[i];
}

// Copy `rows` rows of keys or values to rows `stride` apart, a word holding elements of successive rows; zeros up to
// `padded` rows. True if an element is infinite or NaN.
template <class S, class T>
bool pack_rows(const T* from, const int64_t* strides, int rows, int padded, int head_dim, float* to, int stride) {
  using Bits = typename S::Bits;
  Bits seen = {};
  for (int row = 0; row < padded; row += S::terms, from += S::terms * strides[2], to += stride) {
    const auto put = [&](int c, const auto& load) {
      typename S::Vec x[S::terms] = {};
#pragma GCC unroll 2
      for (int term = 0; term < S::terms; ++term) {
        if (row + term >= rows) continue;
        x[term] = load(from + term * strides[2] + c * strides[3]);
        // One more in the exponent carries into the sign where the exponent is all ones.
        seen |= (S::template copy<Bits>(x[term]) & 0x7fffffff) + 0x00800000;
      }
      S::store(to + c, S::word(x));
    };
    int c = 0;
    if (strides[3] == 1)
      for (; c + S::lanes <= head_dim; c += S::lanes) put(c, [](const T* at) { return S::load(at); });
    for (; c < round_up(head_dim, 16); c += S::lanes)
      put(c, [&](const T* at) { return load_row<S>(at, strides[3], head_dim - c); });
  }
  uint32_t any = 0;
  for (int lane = 0; lane < S::lanes; ++lane) any |= seen[lane];
  return any >> 31;
}

// `lanes` words from column c on of up to `lanes` rows, transposed; zeros beyond the last row and column.
template <class S, class T>
inline void load_square(const T* const* rows, int count, int64_t stride, int c, int head_dim,
                        typename S::Vec (&x)[S::lanes]) {
  if (count >= S::lanes && stride == 1 && c + S::lanes * S::terms <= head_dim) {
#pragma GCC unroll 16
    for (int i = 0; i < S::lanes; ++i) x[i] = load_whole<S, S::terms>(rows[i] + c);
  } else {
    for (int i = 0; i < S::lanes; ++i)
      x[i] = i < count ? load_row<S, S::terms>(rows[i] + c * stride, stride, head_dim - c) : typename S::Vec{};
  }
  S::transpose(x);
}

// Transpose `rows` rows of keys, zeros up to `padded` of them: to[word of columns][row], words `to_stride` apart.
template <class S, int to_stride, class T>
void pack_columns(const T* from, const int64_t* strides, int rows, int padded, int head_dim, float* to) {
  for (int j = 0; j < padded; j += S::lanes) {
    const T* at[S::lanes];
    for (int i = 0; i < S::lanes; ++i) at[i] = from + (j + i) * strides[2];
    for (int c = 0; c < head_dim; c += S::lanes * S::terms) {
      typename S::Vec x[S::lanes];
      load_square<S>(at, rows - j, strides[3], c, head_dim, x);
#pragma GCC unroll 16
      for (int i = 0; i < S::lanes; ++i) S::store(to + (c / S::terms + i) * to_stride + j, x[i]);
    }
  }
}

// Ask for some rows while other work goes on: part number `part` of `parts` of them.
template <class T>
inline void prefetch_rows(const T* from, const int64_t* strides, int rows, int head_dim, int part, int parts) {
  constexpr int line = 64 / sizeof(T);
  for (int i = rows * part / parts; i < rows * (part + 1) / parts; ++i)
    for (int c = 0; c < head_dim; c += line) __builtin_prefetch(from + i * strides[2] + c * strides[3], 0, 2);
}

struct Range {
  int64_t begin, end;  // keys
  bool holds(const Range& other) const { return begin <= other.begin && other.end <= end; }
};

// Row r of a key-value head is query r / group of head kv_head · group + r % group: the heads of a group share their
// keys inside one block of rows, and rows in order see non-decreasing ranges of keys. A walk goes from row to row
// without a division for each.
struct Walk {
  const Problem& p;
  int64_t group, query, member;
  Walk(const Problem& p, int64_t row) : p(p), group(p.group()), query(row / group), member(row % group) {}
  void next() {
    if (++member == group) ++query, member = 0;
  }
  template <class T>
  T* pointer(T* base, const int64_t* strides, int64_t kv_head) const {
    return base + (kv_head * group + member) * strides[1] + query * strides[2];
  }
  // The keys that the row sees; begin ≥ end when none.
  Range visible() const {
    const int64_t place = query + p.kv_len - p.q_len;
    return {p.window >= 0 ? larger(0, place - p.window) : 0, p.causal ? smaller(p.kv_len, place + 1) : p.kv_len};
  }
};

inline Range visible(const Problem& p, int64_t row) { return Walk(p, row).visible(); }
template <class T>
inline T* row_pointer(T* base, const int64_t* strides, const Problem& p, int64_t kv_head, int64_t row) {
  return Walk(p, row).pointer(base, strides, kv_head);
}

// Where the keys seen by each of `count` rows begin and end inside the block at `first_key`; rows up to `width` see
// none.
inline void locate(Walk walk, int64_t count, int width, int64_t first_key, int32_t* begin, int32_t* end) {
  for (int i = 0; i < width; ++i, walk.next()) {
    const Range seen = i < count ? walk.visible() : Range{0, 0};
    begin[i] = static_cast<int32_t>(larger(0, smaller(seen.begin - first_key, key_block)));
    end[i] = static_cast<int32_t>(larger(0, smaller(seen.end - first_key, key_block)));
  }
}

// Natural log-sum-exp from the maximum (in powers of two) and the sum.
inline float log_sum_exp(float top, float sum) {
  constexpr double log_2 = 0.693147180559945309417;
  return sum == 0 ? -__builtin_inff() : static_cast<float>((top + __builtin_log2(sum)) * log_2);
}

}  // namespace
}  // namespace pyhpc::attention
