// Few query rows against many keys (decode): lanes run along the head dimension, so that no lane idles, and every key
// and value is read once, for all query heads of its group, straight from the caller's arrays where they allow it.
//
//   for each span of keys, a task of its own:   (o, max, sum) of its keys, by blocks of key_block with online softmax
//   for each row:                               its spans combined in order
//
// Rows are taken in packs of 1, 2, 4 or 8: a loaded key or value serves the whole pack, and the sums of `lanes` pairs
// of key and row, added in one tree, leave the scores as [key][row]. The spans have a fixed length: a single head with
// a long cache still occupies all threads, and the bits are the same with any number of them.
#pragma once
#include <type_traits>

#include "attention/pack.h"
#include "core/workspace.h"

namespace pyhpc::attention {
namespace {

constexpr int few_rows = 16;               // above, lanes along the queries are faster
constexpr int max_pack = 8;                // rows
constexpr int span_keys = 16 * key_block;  // long enough that combining costs nothing
constexpr int value_keys = 32;             // keys whose values stay in L1 while all columns of all rows use them

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
  int64_t pack_floats() const { return max_pack * (2 * columns + key_block); }
  int64_t scratch_floats() const { return value_keys * stride + (few_rows / max_pack + 1) * pack_floats(); }
  Partial partial(float* all, int64_t head, int64_t part, int64_t row) const {
    float* at = all + ((head * spans + part) * rows + row) * (columns + 16);
    return {at, at + columns, at + columns + 1};
  }
};

// `size` rows that share each load of a key or value, the last ones possibly zero.
struct Pack {
  int size, count, first;
  float *q, *o, *scores;  // [row][column], [row][column], [key][row]
  float top[max_pack], sum[max_pack];
  Range seen[max_pack];  // keys
};

// call(integral_constant<int, size>) for the pack's size.
template <int size = max_pack, class Call>
inline void with_size(int wanted, const Call& call) {
  if (wanted == size) return call(std::integral_constant<int, size>{});
  if constexpr (size > 1) with_size<size / 2>(wanted, call);
}

template <class S>
constexpr int largest_pack = S::lanes < max_pack ? S::lanes : max_pack;

// The sum of each of `count` vectors, vector i in lanes i, i + count …: added in a tree of interleavings, unrolled by
// recursion so that all stay in registers.
template <class S, int count>
inline __attribute__((always_inline)) typename S::Vec add_lanes(const typename S::Vec (&x)[count]) {
  if constexpr (count == 1) {
    return x[0];
  } else {
    typename S::Vec sums[count / 2];
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; ++i)
      sums[i] = S::interleave_low(x[i], x[i + count / 2]) + S::interleave_high(x[i], x[i + count / 2]);
    return add_lanes<S>(sums);
  }
}

// Rows that will be needed soon: each row used now asks for one of them, line by line, so that memory and arithmetic
// are busy at the same time.
template <class T>
struct Ahead {
  const T* rows;
  int64_t stride;
  void fetch(int row, int column) const { __builtin_prefetch(rows + row * stride + column, 0, 2); }
};

// Scores of lanes / size keys with `size` rows: lane (key, row) of the result.
template <class S, int size, class Element, class T>
inline typename S::Vec dots(const Element* k, int64_t stride, const float* q, int columns, const Ahead<T>& ahead) {
  typename S::Vec sums[S::lanes] = {};
  for (int c = 0; c < columns; c += S::lanes) {
    typename S::Vec x[size];
#pragma GCC unroll 8
    for (int r = 0; r < size; ++r) x[r] = S::load(q + r * columns + c);
#pragma GCC unroll 16
    for (int i = 0; i < S::lanes / size; ++i) {
      const auto key = S::load(k + i * stride + c);
      ahead.fetch(i, c);
#pragma GCC unroll 8
      for (int r = 0; r < size; ++r) sums[i * size + r] += key * x[r];
    }
  }
  return add_lanes<S>(sums);
}

// o[row] += Σ_j weights[j][row] v[j] for `rows` rows and `vectors` vectors of columns; weights are `step` apart.
template <class S, int rows, int vectors, class Element, class T>
inline void weigh(const Element* v, int64_t stride, const float* weights, int step, int keys, float* o, int columns,
                  const Ahead<T>& ahead) {
  typename S::Vec sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) sums[r][i] = S::load(o + r * columns + i * S::lanes);
  for (int j = 0; j < keys; ++j) {
    typename S::Vec x[vectors];
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
      x[i] = S::load(v + j * stride + i * S::lanes);
      ahead.fetch(j, i * S::lanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const auto weight = S::splat(weights[j * step + r]);
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) sums[r][i] += x[i] * weight;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) S::store(o + r * columns + i * S::lanes, sums[r][i]);
}

template <class S, int rows, class Element, class T>
inline void weigh_all(const Element* v, int64_t stride, const float* weights, int step, int keys, float* o, int columns,
                      const Ahead<T>& ahead) {
  constexpr int vectors = rows > 4 ? 2 : 4;  // the sums fill half of 32 registers
  int c = 0;
  for (; c + vectors * S::lanes <= columns; c += vectors * S::lanes)
    weigh<S, rows, vectors>(v + c, stride, weights, step, keys, o + c, columns, Ahead<T>{ahead.rows + c, ahead.stride});
  for (; c < columns; c += S::lanes)
    weigh<S, rows, 1>(v + c, stride, weights, step, keys, o + c, columns, Ahead<T>{ahead.rows + c, ahead.stride});
}

template <class S>
float exp2_of(float x) {
  return S::exp2(S::splat(x))[0];
}

// Where the keys [first, first + count) that a row of the pack sees begin and end.
inline Range seen_of(const Pack& pack, int row, int64_t first, int count) {
  const Range& seen = pack.seen[row];
  const int64_t begin = larger(0, smaller(count, seen.begin - first));
  return {begin, larger(begin, smaller(count, seen.end - first))};
}

// Scores of a block become weights; o, maximum and sum move on. Hidden keys, and those that fill the last vector up,
// weigh nothing.
template <class S, int size>
void soften_pack(Pack& pack, int64_t first, int count, int columns) {
  using Vec = typename S::Vec;
  const int padded = round_up(count, S::lanes);
  for (int r = 0; r < size; ++r) {
    const Range seen = seen_of(pack, r, first, count);
    for (int j = 0; j < seen.begin; ++j) pack.scores[j * size + r] = -__builtin_inff();
    for (int j = static_cast<int>(seen.end); j < padded; ++j) pack.scores[j * size + r] = -__builtin_inff();
  }
  Vec tops = S::splat(-__builtin_inff()), sums = {};
  for (int j = 0; j < padded * size; j += S::lanes) tops = S::max(tops, S::load(pack.scores + j));
  float top[size], base[S::lanes], rescale[size];
  for (int r = 0; r < size; ++r) top[r] = pack.top[r];
  for (int lane = 0; lane < S::lanes; ++lane) {
    float& highest = top[lane % size];
    highest = tops[lane] > highest ? tops[lane] : highest;
  }
  for (int lane = 0; lane < S::lanes; ++lane)
    base[lane] = top[lane % size] == -__builtin_inff() ? 0.0f : top[lane % size];
  for (int j = 0; j < padded * size; j += S::lanes) {
    const Vec weights = S::exp2(S::load(pack.scores + j) - S::load(base));
    S::store(pack.scores + j, weights);
    sums += weights;
  }
  for (int r = 0; r < size; ++r) {
    rescale[r] = exp2_of<S>(pack.top[r] - base[r]);
    pack.sum[r] *= rescale[r], pack.top[r] = top[r];
    for (int c = 0; c < columns; c += S::lanes)
      S::store(pack.o + r * columns + c, S::load(pack.o + r * columns + c) * rescale[r]);
  }
  for (int lane = 0; lane < S::lanes; ++lane) pack.sum[lane % size] += sums[lane];
}

// Some rows of keys or values as float32 or as they are: the caller's own memory where it is fit, else a copy.
template <class S, class T, class Use>
inline void with_rows(const T* from, const int64_t* strides, int rows, int padded, int head_dim, float* scratch,
                      const Use& use) {
  if (strides[3] == 1 && rows == padded && head_dim % 16 == 0) return use(from, strides[2]);
  const int64_t stride = row_stride(head_dim);
  pack_rows<S, false>(from, strides, rows, padded, head_dim, scratch, static_cast<int>(stride));
  use(static_cast<const float*>(scratch), stride);
}

// One span of keys of one key-value head.
template <class T>
struct Span {
  const Problem& p;
  const RowsPlan& plan;
  const T *keys, *values;
  float* scratch;  // value_keys rows
  int packs = 0;
  Pack pack[few_rows] = {};
  Span(const Problem& p, const RowsPlan& plan, int64_t head, float* scratch)
      : p(p),
        plan(plan),
        keys(static_cast<const T*>(p.k) + head / p.kv_heads * p.k_strides[0] + head % p.kv_heads * p.k_strides[1]),
        values(static_cast<const T*>(p.v) + head / p.kv_heads * p.v_strides[0] + head % p.kv_heads * p.v_strides[1]),
        scratch(scratch) {}
};

// The keys [first, first + count) for all rows.
template <class S, class T>
void attend_block(Span<T>& span, int64_t first, int count) {
  const Problem& p = span.p;
  const int columns = span.plan.columns, head_dim = span.plan.head_dim;
  for (int j = 0; j < count; j += S::lanes) {
    const int keys = static_cast<int>(smaller(S::lanes, count - j));
    with_rows<S>(span.keys + (first + j) * p.k_strides[2], p.k_strides, keys, S::lanes, head_dim, span.scratch,
                 [&](auto* k, int64_t stride) {
                   for (Pack* pack = span.pack; pack < span.pack + span.packs; ++pack)
                     with_size<largest_pack<S>>(pack->size, [&](auto size) {
                       for (int i = 0; i < S::lanes; i += S::lanes / size) {
                         const Ahead<T> ahead = {span.values + (first + j + i) * p.v_strides[2], p.v_strides[2]};
                         S::store(pack->scores + (j + i) * size,
                                  dots<S, size>(k + i * stride, stride, pack->q, columns, ahead));
                       }
                     });
                 });
  }
  for (Pack* pack = span.pack; pack < span.pack + span.packs; ++pack)
    with_size<largest_pack<S>>(pack->size, [&](auto size) { soften_pack<S, size>(*pack, first, count, columns); });
  for (int j = 0; j < count; j += value_keys) {
    const int keys = static_cast<int>(smaller(value_keys, count - j));
    const int64_t next = smaller(first + key_block + j, p.kv_len - keys);
    const Ahead<T> ahead = {span.keys + next * p.k_strides[2], p.k_strides[2]};
    with_rows<S>(span.values + (first + j) * p.v_strides[2], p.v_strides, keys, keys, head_dim, span.scratch,
                 [&](auto* v, int64_t stride) {
                   for (Pack* pack = span.pack; pack < span.pack + span.packs; ++pack)
                     with_size<largest_pack<S>>(pack->size, [&](auto size) {
                       const float* weights = pack->scores + j * size;
                       bool whole = true;  // every row sees all of these keys
                       for (int r = 0; r < pack->count; ++r)
                         whole &= pack->seen[r].holds({first + j, first + j + keys});
                       if (whole) return weigh_all<S, size>(v, stride, weights, size, keys, pack->o, columns, ahead);
                       for (int r = 0; r < pack->count; ++r) {  // a hidden value may be infinite or NaN
                         const Range seen = seen_of(*pack, r, first + j, keys);
                         weigh_all<S, 1>(v + seen.begin * stride, stride, weights + seen.begin * size + r, size,
                                         static_cast<int>(seen.end - seen.begin), pack->o + r * columns, columns,
                                         ahead);
                       }
                     });
                 });
  }
}

// Rows in packs, with their queries times scale · log2(e): scores are exponents of 2.
template <class S, class T>
void pack_span(Span<T>& span, int64_t head, float* memory) {
  const Problem& p = span.p;
  const RowsPlan& plan = span.plan;
  const float factor = static_cast<float>(p.scale * log2_e);
  const T* q = static_cast<const T*>(p.q) + head / p.kv_heads * p.q_strides[0];
  for (int64_t first = 0; first < plan.rows; ++span.packs) {
    Pack& pack = span.pack[span.packs];
    pack.size = 1, pack.first = static_cast<int>(first);
    while (pack.size < plan.rows - first && pack.size < largest_pack<S>) pack.size *= 2;
    pack.count = static_cast<int>(smaller(pack.size, plan.rows - first));
    pack.q = memory, pack.o = pack.q + pack.size * plan.columns, pack.scores = pack.o + pack.size * plan.columns;
    memory = pack.scores + pack.size * key_block;
    for (int r = 0; r < pack.size; ++r) {
      const Walk walk(p, first + r);
      const bool real = r < pack.count;
      pack.top[r] = -__builtin_inff(), pack.sum[r] = 0;
      pack.seen[r] = real ? walk.visible() : Range{0, 0};
      const T* from = real ? walk.pointer(q, p.q_strides, head % p.kv_heads) : nullptr;
      for (int c = 0; c < plan.columns; c += S::lanes) {
        const auto x = real ? load_row<S>(from + c * p.q_strides[3], p.q_strides[3], plan.head_dim - c) * factor
                            : typename S::Vec{};
        S::store(pack.q + r * plan.columns + c, x);
        S::store(pack.o + r * plan.columns + c, typename S::Vec{});
      }
    }
    first += pack.count;
  }
}

// The keys of one span, for all rows of one key-value head.
template <class S, class T>
void attend_span(const Problem& p, const RowsPlan& plan, int64_t head, int64_t part, float* memory, float* partials) {
  Span<T> span(p, plan, head, memory);
  pack_span<S>(span, head, memory + value_keys * plan.stride);
  const int64_t begin = larger(part * span_keys, visible(p, 0).begin / key_block * key_block);
  const int64_t end = smaller((part + 1) * span_keys, visible(p, plan.rows - 1).end);
  for (int64_t j = begin; j < end; j += key_block)
    attend_block<S>(span, j, static_cast<int>(smaller(key_block, p.kv_len - j)));
  for (const Pack* pack = span.pack; pack < span.pack + span.packs; ++pack)
    for (int r = 0; r < pack->count; ++r) {
      const Partial row = plan.partial(partials, head, part, pack->first + r);
      *row.top = pack->top[r], *row.sum = pack->sum[r];
      for (int c = 0; c < plan.columns; c += S::lanes) S::store(row.o + c, S::load(pack->o + r * plan.columns + c));
    }
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
