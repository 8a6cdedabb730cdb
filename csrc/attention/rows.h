// Few query rows against many keys (decode): lanes run along the head dimension, so that no lane idles, and every key
// and value is read once, for all query heads of its group, straight from the caller's arrays where they allow it.
//
//   for each span of keys, a task of its own:   (o, max, sum) of its keys, by blocks of key_block with online softmax
//   for each row:                               its spans combined in order
//
// Rows are taken in packs of 1, 2, 4 or 8: a loaded key or value serves the whole pack, and the sums of `lanes` pairs
// of key and row, added in one tree, leave the scores as [key][row]. The spans have a fixed length: a single head with
// a long cache still occupies all threads, and the bits are the same with any number of them.
//
// Bound by memory, it must ask for the keys and values early, and spend few instructions on each of their lines. Hence
// the prefetches between the multiplications, the order of columns in which bfloat16 needs no shuffle, and the maxima
// and sums of the rows that stay in vectors.
#pragma once
#include <type_traits>

#include "attention/pack.h"
#include "core/workspace.h"

namespace pyhpc::attention {
namespace {

constexpr int few_rows = 16;               // above, lanes along the queries are faster
constexpr int max_pack = 8;                // rows
constexpr int span_keys = 16 * key_block;  // long enough that combining costs nothing
constexpr int step_keys = 16;              // stay in L1 while all packs use them
constexpr int ahead_bytes = 6144;          // between what is asked for and what is used; multiples of 4096 are slower
constexpr int max_lanes = 16;

// What one row knows after some keys: o[columns], the maximum and the sum.
struct Partial {
  float *o, *top, *sum;
};

struct RowsPlan {
  int head_dim, columns;
  int64_t heads, rows, spans;
  explicit RowsPlan(const Problem& p)
      : head_dim(static_cast<int>(p.head_dim)),
        columns(round_up(head_dim, 16)),
        heads(p.batch * p.kv_heads),
        rows(p.rows()),
        spans(larger(1, (p.kv_len + span_keys - 1) / span_keys)) {}
  int64_t partial_floats() const { return heads * spans * rows * (columns + 16); }
  int64_t pack_floats() const { return max_pack * (2 * columns + key_block); }
  int64_t scratch_floats() const { return step_keys * columns + (few_rows / max_pack + 1) * pack_floats(); }
  Partial partial(float* all, int64_t head, int64_t part, int64_t row) const {
    float* at = all + ((head * spans + part) * rows + row) * (columns + 16);
    return {at, at + columns, at + columns + 1};
  }
};

// `size` rows that share each load of a key or value, the last ones possibly zero.
struct Pack {
  int size, count, first;
  float *q, *o, *scores;                   // [row][column], [row][column], [key][row]
  float tops[max_lanes], sums[max_lanes];  // (key, row): the row's maximum, the sum over every so many keys
  Range seen[max_pack];                    // keys
};

// call(integral_constant<int, size>) for the pack's size.
template <int size = max_pack, class Call>
inline void with_size(int wanted, const Call& call) {
  if (wanted == size) return call(std::integral_constant<int, size>{});
  if constexpr (size > 1) with_size<size / 2>(wanted, call);
}

template <class S>
constexpr int largest_pack = S::lanes < max_pack ? S::lanes : max_pack;

// One vector of columns, or pairs of vectors in the order that is cheapest to convert, the same for queries, keys,
// values and outputs: a pair of bfloat16 vectors is the elements of even index, then those of odd index.
template <class S, int vectors, class T>
inline __attribute__((always_inline)) void load_columns(const T* from, typename S::Vec (&x)[vectors]) {
#pragma GCC unroll 4
  for (int i = 0; i < vectors; ++i)
    if constexpr (std::is_same_v<T, Bfloat16> && vectors > 1) {
      const auto both = S::template read<typename S::Bits>(from + i / 2 * 2 * S::lanes);
      x[i] = S::template copy<typename S::Vec>(i % 2 ? both & 0xffff0000 : both << 16);
    } else {
      x[i] = S::load(from + i * S::lanes);
    }
}

// The inverse, rounding.
template <class S, int vectors, class T>
inline void store_columns(T* to, const typename S::Vec (&x)[vectors]) {
  if constexpr (std::is_same_v<T, Bfloat16> && vectors == 2) {
    const auto both = S::bfloat16_bits(x[0]) | S::bfloat16_bits(x[1]) << 16;
    __builtin_memcpy(to, &both, sizeof both);
  } else {
    for (int i = 0; i < vectors; ++i) S::store(to + i * S::lanes, x[i]);
  }
}

// call(column, integral_constant<int, vectors>) over all columns: in steps of `vectors`, at most; the last may be one.
template <class S, int vectors, class Call>
inline __attribute__((always_inline)) void each_columns(int columns, const Call& call, int c = 0) {
  for (; c + vectors * S::lanes <= columns; c += vectors * S::lanes) call(c, std::integral_constant<int, vectors>{});
  if constexpr (vectors > 1) each_columns<S, vectors / 2>(columns, call, c);
}

// Rows that will be needed soon: each row used now asks for one of them, line by line and evenly, so that memory and
// arithmetic are busy at the same time (a processor has about 12 line fill buffers: a burst would stop it). Where
// `parts` calls go over the same rows, call number `part` asks for every so many of them. Nothing: asks for none.
template <class T, int part = 0, int parts = 1>
struct Ahead {
  const T* rows;
  int64_t stride;
  template <class S, int vectors>
  inline __attribute__((always_inline)) void fetch(int row, int column) const {
    if (row % parts == part)
      for (int c = 0; c < vectors * S::lanes; c += 64 / static_cast<int>(sizeof(T)))
        __builtin_prefetch(rows + row * stride + column + c);
  }
  template <int some, int all>
  Ahead<T, some, all> share(int row) const {
    return {rows + row * stride, stride};
  }
};
struct Nothing {
  template <class S, int vectors>
  void fetch(int, int) const {}
  template <int some, int all>
  Nothing share(int) const {
    return {};
  }
};

// Scores of lanes / size keys with `size` rows: lane (key, row) of the result.
template <class S, int size, class T, class Soon>
inline typename S::Vec dots(const T* k, int64_t stride, const float* q, int columns, const Soon& soon) {
  typename S::Vec sums[S::lanes] = {};
  each_columns<S, 2>(columns, [&](int c, auto vectors) __attribute__((always_inline)) {
    typename S::Vec x[size][vectors], key[vectors];
#pragma GCC unroll 8
    for (int r = 0; r < size; ++r) load_columns<S>(q + r * columns + c, x[r]);
#pragma GCC unroll 16
    for (int i = 0; i < S::lanes / size; ++i) {
      load_columns<S>(k + i * stride + c, key);
      soon.template fetch<S, vectors>(i, c);
#pragma GCC unroll 8
      for (int r = 0; r < size; ++r)
        for (int v = 0; v < vectors; ++v) sums[i * size + r] += key[v] * x[r][v];
    }
  });
  return S::sum_each(sums);
}

// o[row] += Σ_j weights[j][row] v[j] for `rows` rows and `vectors` vectors of columns; weights are `step` apart.
template <class S, int rows, int vectors, class T, class Soon>
inline void weigh(const T* v, int64_t stride, const float* weights, int step, int keys, float* o, int columns,
                  const Soon& soon, int c) {
  typename S::Vec sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) load_columns<S>(o + r * columns + c, sums[r]);
#pragma GCC unroll 2
  for (int j = 0; j < keys; ++j) {
    typename S::Vec x[vectors];
    load_columns<S>(v + j * stride + c, x);
    soon.template fetch<S, vectors>(j, c);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const auto weight = S::splat(weights[j * step + r]);
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) sums[r][i] += x[i] * weight;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) store_columns<S>(o + r * columns + c, sums[r]);
}

template <class S, int rows, class T, class Soon>
inline void weigh_all(const T* v, int64_t stride, const float* weights, int step, int keys, float* o, int columns,
                      const Soon& soon) {
  each_columns<S, (rows > 4 ? 2 : 4)>(columns, [&](int c, auto vectors) {  // the sums fill half of 32 registers
    weigh<S, rows, vectors>(v, stride, weights, step, keys, o, columns, soon, c);
  });
}

// Where the keys [first, first + count) that a row of the pack sees begin and end.
inline Range seen_of(const Pack& pack, int row, int64_t first, int count) {
  const Range& seen = pack.seen[row];
  const int64_t begin = larger(0, smaller(count, seen.begin - first));
  return {begin, larger(begin, smaller(count, seen.end - first))};
}

// Each row's maximum in all of its lanes (key, row).
template <class S, int size>
inline typename S::Vec max_of_rows(typename S::Vec x) {
  if constexpr (size == S::lanes)
    return x;
  else
    return max_of_rows<S, 2 * size>(S::max(x, S::template rotate<size>(x)));
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
  const Vec before = S::load(pack.tops);
  Vec tops = before;
  for (int j = 0; j < padded * size; j += S::lanes) tops = S::max(tops, S::load(pack.scores + j));
  tops = max_of_rows<S, size>(tops);
  const Vec base = tops == -__builtin_inff() ? Vec{} : tops, rescale = S::exp2(before - base);
  Vec sums = S::load(pack.sums) * rescale;
  for (int j = 0; j < padded * size; j += S::lanes) {
    const Vec weights = S::exp2(S::load(pack.scores + j) - base);
    S::store(pack.scores + j, weights);
    sums += weights;
  }
  S::store(pack.tops, tops), S::store(pack.sums, sums);
  for (int r = 0; r < size; ++r)
    if (rescale[r] != 1.0f)  // a maximum seldom moves after the first blocks
      for (int c = 0; c < columns; c += S::lanes)
        S::store(pack.o + r * columns + c, S::load(pack.o + r * columns + c) * rescale[r]);
}

template <class S>
float exp2_of(float x) {
  return S::exp2(S::splat(x))[0];
}

// The columns of a row, zeros up to `columns`.
template <class T>
void copy_row(const T* from, int64_t stride, int head_dim, int columns, T* to) {
  for (int c = 0; c < columns; ++c) to[c] = c < head_dim ? from[c * stride] : T{};
}

// Some rows of keys or values, whole vectors of them: the caller's own memory where it is fit, else a copy.
template <class T, class Use>
inline void with_rows(const T* from, const int64_t* strides, int rows, int padded, int head_dim, T* scratch,
                      const Use& use) {
  if (strides[3] == 1 && rows == padded && head_dim % 16 == 0) return use(from, strides[2]);
  const int columns = round_up(head_dim, 16);
  for (int i = 0; i < padded; ++i)
    copy_row(from + i * strides[2], strides[3], i < rows ? head_dim : 0, columns, scratch + i * columns);
  use(const_cast<const T*>(scratch), int64_t{columns});
}

// One span of keys of one key-value head.
template <class T>
struct Span {
  const Problem& p;
  const RowsPlan& plan;
  const T *keys, *values;
  T* scratch;  // step_keys rows
  int packs = 0;
  Pack pack[few_rows] = {};
  Span(const Problem& p, const RowsPlan& plan, int64_t head, T* scratch)
      : p(p),
        plan(plan),
        keys(static_cast<const T*>(p.k) + head / p.kv_heads * p.k_strides[0] + head % p.kv_heads * p.k_strides[1]),
        values(static_cast<const T*>(p.v) + head / p.kv_heads * p.v_strides[0] + head % p.kv_heads * p.v_strides[1]),
        scratch(scratch) {}
};

// Scores of step_keys keys from key `first` of the block on. Of 8 rows, 4 and then the others meet the same keys: 4
// rows with 4 keys need the fewest loads of 16 sums.
template <class S, int size, class T, class Soon>
void score(const Pack& pack, const T* k, int64_t stride, int first, int columns, const Soon& soon) {
  constexpr int rows = size < 4 ? size : 4, keys = S::lanes / rows;
  for (int i = 0; i < step_keys; i += keys) {
    float* scores = pack.scores + (first + i) * size;
    const auto low = dots<S, rows>(k + i * stride, stride, pack.q, columns, soon.template share<0, size / rows>(i));
    if constexpr (rows == size) {
      S::store(scores, low);
    } else {
      const auto high = dots<S, rows>(k + i * stride, stride, pack.q + rows * columns, columns,
                                      soon.template share<1, size / rows>(i));
      for (int key = 0; key < keys; ++key) {
        __builtin_memcpy(scores + key * size, reinterpret_cast<const float*>(&low) + key * rows, rows * sizeof(float));
        __builtin_memcpy(scores + key * size + rows, reinterpret_cast<const float*>(&high) + key * rows,
                         rows * sizeof(float));
      }
    }
  }
}

// Adds `count` values, the first of them key `first` + `at` and the block's number `at`.
template <class S, int size, class T, class Soon>
void add_values(const Pack& pack, const T* v, int64_t stride, int64_t first, int at, int count, int columns,
                const Soon& soon) {
  const float* weights = pack.scores + at * size;
  bool whole = true;  // every row sees all of them
  for (int r = 0; r < pack.count; ++r) whole &= pack.seen[r].holds({first + at, first + at + count});
  if (whole) return weigh_all<S, size>(v, stride, weights, size, count, pack.o, columns, soon);
  for (int r = 0; r < pack.count; ++r) {  // a hidden value may be infinite or NaN
    const Range seen = seen_of(pack, r, first + at, count);
    weigh_all<S, 1>(v + seen.begin * stride, stride, weights + seen.begin * size + r, size,
                    static_cast<int>(seen.end - seen.begin), pack.o + r * columns, columns, Nothing{});
  }
}

// call(pack, integral_constant<int, size>, what it asks for) for all packs, while row `now` of `rows` is used.
template <class S, class T, class Call>
inline void each_pack(Span<T>& span, const T* rows, int64_t stride, int64_t now, const Call& call) {
  const Problem& p = span.p;
  const int64_t distance = ahead_bytes / static_cast<int>(p.head_dim * sizeof(T));
  const int64_t soon = larger(0, smaller(now + distance, p.kv_len - step_keys));
  for (Pack* pack = span.pack; pack < span.pack + span.packs; ++pack)
    with_size<largest_pack<S>>(pack->size, [&](auto size) {
      if (pack == span.pack)
        call(*pack, size, Ahead<T>{rows + soon * stride, stride});
      else
        call(*pack, size, Nothing{});
    });
}

// The keys [first, first + count) for all rows.
template <class S, class T>
void attend_block(Span<T>& span, int64_t first, int count) {
  const Problem& p = span.p;
  const int columns = span.plan.columns, head_dim = span.plan.head_dim;
  const int64_t k_stride = p.k_strides[2], v_stride = p.v_strides[2];
  for (int j = 0; j < count; j += step_keys) {
    const int keys = static_cast<int>(smaller(step_keys, count - j));
    with_rows(span.keys + (first + j) * k_stride, p.k_strides, keys, step_keys, head_dim, span.scratch,
              [&](const T* k, int64_t stride) {
                each_pack<S>(span, span.keys, k_stride, first + j, [&](Pack& pack, auto size, const auto& soon) {
                  score<S, size>(pack, k, stride, j, columns, soon);
                });
              });
  }
  for (Pack* pack = span.pack; pack < span.pack + span.packs; ++pack)
    with_size<largest_pack<S>>(pack->size, [&](auto size) { soften_pack<S, size>(*pack, first, count, columns); });
  for (int j = 0; j < count; j += step_keys) {
    const int keys = static_cast<int>(smaller(step_keys, count - j));
    with_rows(span.values + (first + j) * v_stride, p.v_strides, keys, keys, head_dim, span.scratch,
              [&](const T* v, int64_t stride) {
                each_pack<S>(span, span.values, v_stride, first + j, [&](Pack& pack, auto size, const auto& soon) {
                  add_values<S, size>(pack, v, stride, first, j, keys, columns, soon);
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
  T row[max_head_dim];
  for (int64_t first = 0; first < plan.rows; ++span.packs) {
    Pack& pack = span.pack[span.packs];
    pack.size = 1, pack.first = static_cast<int>(first);
    while (pack.size < plan.rows - first && pack.size < largest_pack<S>) pack.size *= 2;
    pack.count = static_cast<int>(smaller(pack.size, plan.rows - first));
    pack.q = memory, pack.o = pack.q + pack.size * plan.columns, pack.scores = pack.o + pack.size * plan.columns;
    memory = pack.scores + pack.size * key_block;
    for (int lane = 0; lane < S::lanes; ++lane) pack.tops[lane] = -__builtin_inff(), pack.sums[lane] = 0;
    for (int r = 0; r < pack.size; ++r) {
      const Walk walk(p, first + r);
      const bool real = r < pack.count;
      pack.seen[r] = real ? walk.visible() : Range{0, 0};
      const T* from = walk.pointer(q, p.q_strides, head % p.kv_heads);
      copy_row(from, p.q_strides[3], real ? plan.head_dim : 0, plan.columns, row);
      each_columns<S, 2>(plan.columns, [&](int c, auto vectors) {
        typename S::Vec x[vectors], zero[vectors] = {};
        load_columns<S>(row + c, x);
        for (int i = 0; i < vectors; ++i) x[i] *= factor;
        store_columns<S>(pack.q + r * plan.columns + c, x);
        store_columns<S>(pack.o + r * plan.columns + c, zero);
      });
    }
    first += pack.count;
  }
}

// The keys of one span, for all rows of one key-value head.
template <class S, class T>
void attend_span(const Problem& p, const RowsPlan& plan, int64_t head, int64_t part, float* memory, float* partials) {
  Span<T> span(p, plan, head, reinterpret_cast<T*>(memory));
  pack_span<S>(span, head, memory + step_keys * plan.columns);
  const int64_t begin = larger(part * span_keys, visible(p, 0).begin / key_block * key_block);
  const int64_t end = smaller((part + 1) * span_keys, visible(p, plan.rows - 1).end);
  for (int64_t j = begin; j < end; j += key_block)
    attend_block<S>(span, j, static_cast<int>(smaller(key_block, p.kv_len - j)));
  for (const Pack* pack = span.pack; pack < span.pack + span.packs; ++pack)
    for (int r = 0; r < pack->count; ++r) {
      const Partial row = plan.partial(partials, head, part, pack->first + r);
      *row.top = pack->tops[r], *row.sum = 0;
      for (int lane = r; lane < S::lanes; lane += pack->size) *row.sum += pack->sums[lane];
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
  T result[max_head_dim];
  each_columns<S, 2>(plan.columns, [&](int c, auto vectors) {
    typename S::Vec x[vectors];
    load_columns<S>(row.o + c, x);
    for (int i = 0; i < vectors; ++i) x[i] *= share;
    store_columns<S>(result + c, x);
  });
  for (int c = 0; c < plan.head_dim; ++c) out[c * p.out_strides[3]] = result[c];
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
