// Few query rows against many keys (decode): lanes run along the head dimension, so that no lane idles and every key
// and value is read once, for all query heads of its group.
//
//   for each span of keys, a task of its own:   (o, max, sum) of its keys, by blocks of key_block with online softmax
//   for each row:                               its spans combined in order
//
// The spans have a fixed length: a single head with a long cache still occupies all threads, and the bits are the same
// with any number of them.
#pragma once
#include "attention/pack.h"
#include "core/workspace.h"

namespace pyhpc::attention {
namespace {

constexpr int few_rows = 8;                // above, lanes along the queries are faster
constexpr int span_keys = 16 * key_block;  // long enough that combining costs nothing
constexpr int output_vectors = 4;          // vectors of columns that accumulate together

// What one row knows after some keys: o[columns], the maximum and the sum.
struct Partial {
  float *o, *top, *sum;
};

struct RowsPlan {
  int head_dim, columns, stride;
  int64_t heads, rows, spans;
  explicit RowsPlan(const Problem& p)
      : head_dim(static_cast<int>(p.head_dim)),
        columns(round_up(head_dim, 16)),
        stride(row_stride(head_dim)),
        heads(p.batch * p.kv_heads),
        rows(p.rows()),
        spans(larger(1, (p.kv_len + span_keys - 1) / span_keys)) {}
  int64_t partial_floats() const { return heads * spans * rows * (columns + 16); }
  int64_t scratch_floats() const { return 16 * stride + rows * (columns + key_block); }
  Partial partial(float* all, int64_t head, int64_t part, int64_t row) const {
    float* at = all + ((head * spans + part) * rows + row) * (columns + 16);
    return {at, at + columns, at + columns + 1};
  }
};

// Dot products of q with `lanes` rows of keys, key i in lane i: the accumulators are added in a tree of interleavings.
template <class S>
inline typename S::Vec dots(const float* k, int64_t stride, const float* q, int columns) {
  typename S::Vec acc[S::lanes] = {};
  for (int c = 0; c < columns; c += S::lanes) {
    const auto x = S::load(q + c);
#pragma GCC unroll 16
    for (int i = 0; i < S::lanes; ++i) acc[i] += S::load(k + i * stride + c) * x;
  }
#pragma GCC unroll 4
  for (int half = S::lanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      acc[i] = S::interleave_low(acc[i], acc[i + half]) + S::interleave_high(acc[i], acc[i + half]);
  return acc[0];
}

// o += Σ_j weights[j] v[j], for `vectors` vectors of columns.
template <class S, int vectors>
inline void weigh(const float* v, int64_t stride, const float* weights, int keys, float* o) {
  typename S::Vec acc[vectors];
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i) acc[i] = S::load(o + i * S::lanes);
  for (int j = 0; j < keys; ++j) {
    const auto p = S::splat(weights[j]);
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) acc[i] += S::load(v + j * stride + i * S::lanes) * p;
  }
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i) S::store(o + i * S::lanes, acc[i]);
}

template <class S>
float exp2_of(float x) {
  return S::exp2(S::splat(x))[0];
}

// Scores [begin, end) of a block become weights, its neighbours up to whole vectors 0; o, maximum and sum move on.
template <class S>
void soften_row(float* scores, int begin, int end, int columns, const Partial& row) {
  using Vec = typename S::Vec;
  const int first = begin / S::lanes * S::lanes, last = round_up(end, S::lanes);
  for (int j = first; j < begin; ++j) scores[j] = -__builtin_inff();
  for (int j = end; j < last; ++j) scores[j] = -__builtin_inff();
  Vec tops = S::splat(*row.top), sums = {};
  for (int j = first; j < last; j += S::lanes) tops = S::max(tops, S::load(scores + j));
  float top = tops[0];
  for (int lane = 1; lane < S::lanes; ++lane) top = tops[lane] > top ? tops[lane] : top;
  const float base = top == -__builtin_inff() ? 0.0f : top, rescale = exp2_of<S>(*row.top - base);
  for (int j = first; j < last; j += S::lanes) {
    const Vec weights = S::exp2(S::load(scores + j) - base);
    S::store(scores + j, weights);
    sums += weights;
  }
  float sum = *row.sum * rescale;
  for (int lane = 0; lane < S::lanes; ++lane) sum += sums[lane];
  *row.top = top, *row.sum = sum;
  for (int c = 0; c < columns; c += S::lanes) S::store(row.o + c, S::load(row.o + c) * rescale);
}

// `lanes` rows of keys or values in float32: the caller's own memory where it is fit, else a copy small enough for L1.
struct Tile {
  const float* data;
  int64_t stride;
};
template <class S, class T>
inline Tile tile_of(const T* from, const int64_t* strides, int rows, int head_dim, float* scratch) {
  if constexpr (sizeof(T) == sizeof(float))
    if (strides[3] == 1 && rows == S::lanes && head_dim % 16 == 0) return {from, strides[2]};
  pack_rows<S, false>(from, strides, rows, S::lanes, head_dim, scratch, row_stride(head_dim));
  return {scratch, row_stride(head_dim)};
}

template <class T>
struct Span {
  const Problem& p;
  const RowsPlan& plan;
  const T *keys, *values;  // of the key-value head
  Partial rows[few_rows];
  float *q, *scores, *scratch;  // [row][column], [row][key_block], one tile
};

// The keys [first, first + count) for all rows.
template <class S, class T>
void attend_block(const Span<T>& span, int64_t first, int count) {
  const Problem& p = span.p;
  const RowsPlan& plan = span.plan;
  int begin[few_rows], end[few_rows];  // visible keys of the block
  for (int j = 0; j < count; j += S::lanes) {
    const int keys = static_cast<int>(smaller(S::lanes, count - j));
    const Tile k = tile_of<S>(span.keys + (first + j) * p.k_strides[2], p.k_strides, keys, plan.head_dim, span.scratch);
    for (int64_t r = 0; r < plan.rows; ++r)
      S::store(span.scores + r * key_block + j, dots<S>(k.data, k.stride, span.q + r * plan.columns, plan.columns));
  }
  for (int64_t r = 0; r < plan.rows; ++r) {
    const Range seen = visible(p, r);
    begin[r] = static_cast<int>(larger(0, smaller(count, seen.begin - first)));
    end[r] = static_cast<int>(larger(begin[r], smaller(count, seen.end - first)));
    if (begin[r] < end[r]) soften_row<S>(span.scores + r * key_block, begin[r], end[r], plan.columns, span.rows[r]);
  }
  for (int j = 0; j < count; j += S::lanes) {
    const int keys = static_cast<int>(smaller(S::lanes, count - j));
    const Tile v =
        tile_of<S>(span.values + (first + j) * p.v_strides[2], p.v_strides, keys, plan.head_dim, span.scratch);
    for (int64_t r = 0; r < plan.rows; ++r) {
      const int low = begin[r] > j ? begin[r] : j, high = end[r] < j + keys ? end[r] : j + keys;
      const float *weights = span.scores + r * key_block + low, *from = v.data + (low - j) * v.stride;
      float* o = span.rows[r].o;
      int c = 0;
      for (; c + output_vectors * S::lanes <= plan.columns; c += output_vectors * S::lanes)
        weigh<S, output_vectors>(from + c, v.stride, weights, high - low, o + c);
      for (; c < plan.columns; c += S::lanes) weigh<S, 1>(from + c, v.stride, weights, high - low, o + c);
    }
  }
}

// The keys of one span, for all rows of one key-value head.
template <class S, class T>
void attend_span(const Problem& p, const RowsPlan& plan, int64_t head, int64_t part, float* memory, float* partials) {
  const int64_t batch = head / p.kv_heads, kv_head = head % p.kv_heads;
  Span<T> task = {p, plan};
  task.keys = static_cast<const T*>(p.k) + batch * p.k_strides[0] + kv_head * p.k_strides[1];
  task.values = static_cast<const T*>(p.v) + batch * p.v_strides[0] + kv_head * p.v_strides[1];
  task.scratch = memory, task.q = memory + 16 * plan.stride, task.scores = task.q + plan.rows * plan.columns;
  const float factor = static_cast<float>(p.scale * log2_e);
  for (int64_t r = 0; r < plan.rows; ++r) {
    const T* q = row_pointer(static_cast<const T*>(p.q) + batch * p.q_strides[0], p.q_strides, p, kv_head, r);
    const Partial row = task.rows[r] = plan.partial(partials, head, part, r);
    *row.top = -__builtin_inff(), *row.sum = 0;
    for (int c = 0; c < plan.columns; c += S::lanes) {
      const auto x = load_row<S>(q + c * p.q_strides[3], p.q_strides[3], plan.head_dim - c);
      S::store(task.q + r * plan.columns + c, x * factor);
      S::store(row.o + c, typename S::Vec{});
    }
  }
  const int64_t begin = larger(part * span_keys, visible(p, 0).begin / key_block * key_block);
  const int64_t end = smaller((part + 1) * span_keys, visible(p, plan.rows - 1).end);
  for (int64_t j = begin; j < end; j += key_block)
    attend_block<S>(task, j, static_cast<int>(smaller(key_block, p.kv_len - j)));
}

// The spans of one row become its output and log-sum-exp. The first span's place holds the result.
template <class S, class T>
void combine(const Problem& p, const RowsPlan& plan, int64_t head, int64_t r, float* partials) {
  const int64_t batch = head / p.kv_heads, kv_head = head % p.kv_heads;
  const Partial row = plan.partial(partials, head, 0, r);
  for (int64_t part = 1; part < plan.spans; ++part) {
    const Partial other = plan.partial(partials, head, part, r);
    const float top = *other.top > *row.top ? *other.top : *row.top, base = top == -__builtin_inff() ? 0.0f : top;
    const float mine = exp2_of<S>(*row.top - base), its = exp2_of<S>(*other.top - base);
    for (int c = 0; c < plan.columns; c += S::lanes)
      S::store(row.o + c, S::load(row.o + c) * mine + S::load(other.o + c) * its);
    *row.sum = *row.sum * mine + *other.sum * its;
    *row.top = top;
  }
  const float share = 1.0f / (*row.sum == 0 ? 1.0f : *row.sum);
  T* out = row_pointer(static_cast<T*>(p.out) + batch * p.out_strides[0], p.out_strides, p, kv_head, r);
  for (int c = 0; c < plan.head_dim; c += S::lanes)
    store_row<S>(out + c * p.out_strides[3], p.out_strides[3], plan.head_dim - c, S::load(row.o + c) * share);
  if (p.lse)
    *row_pointer(p.lse + batch * p.lse_strides[0], p.lse_strides, p, kv_head, r) = log_sum_exp(*row.top, *row.sum);
}

template <class S, class T>
bool run_rows(const Problem& p) {
  const RowsPlan plan(p);
  float* partials = static_cast<float*>(workspace(1, sizeof(float) * plan.partial_floats()));
  if (!partials) return false;
  const int64_t tasks = plan.heads * plan.spans;
  const int threads = static_cast<int>(smaller(p.threads, tasks));
  bool enough = true;
#pragma omp parallel num_threads(threads) reduction(&& : enough) if (threads > 1)
  {
    float* memory = static_cast<float*>(workspace(0, sizeof(float) * plan.scratch_floats()));
    enough = memory != nullptr;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task)
      if (memory) attend_span<S, T>(p, plan, task / plan.spans, task % plan.spans, memory, partials);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < plan.heads * plan.rows; ++row)
      if (memory) combine<S, T>(p, plan, row / plan.rows, row % plan.rows, partials);
  }
  return enough;
}

}  // namespace
}  // namespace pyhpc::attention
