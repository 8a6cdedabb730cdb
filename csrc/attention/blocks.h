// Many query rows: lanes run along the queries, so maximum, sum and rescale of the online softmax are vertical.
//
//   for each block of key_block keys, packed once for the whole chunk of rows:
//     for each block of up to query_vectors · lanes rows that sees some of it:
//       S^T = K Q^T           tiles of `tile` keys × the block's rows in registers; masked only at the edges
//       P = 2^(S − max), sum, rescale = 2^(old max − max)
//       O^T = O^T · rescale + V^T P^T     tiles of `tile` columns of V × the block's rows
//
// Q^T and O^T of a chunk stay in L2, a block's scores in L1. Both products broadcast from a packed block of rows: K^T
// by columns, V by keys, with strides that are constants, so that no instruction is spent on addresses.
#pragma once
#include "attention/product.h"

namespace pyhpc::attention {
namespace {

// The state of one block of rows: width = vectors · lanes of them.
struct Rows {
  int width;
  int64_t first, count;        // rows of the key-value head
  Range any, all;              // keys that some row sees, keys that every row sees
  bool fresh;                  // nothing attended yet: q and o are not filled
  float *q, *o;                // [word of columns][width], [column][width]
  float factor;                // from q · k to exponents of 2
  float *top, *sum;            // [width]: running maximum and sum
  float *block_top, *rescale;  // [width]: maximum of this key block, factor of the earlier ones
  int32_t *begin, *end;        // [width]: visible keys of each row, relative to the key block
};

struct Keys {
  const float *k, *v;  // [word of columns][key_stride], [word of keys][value_stride]
  int64_t first;
  int count;
  bool poisoned;  // some value is infinite or NaN: hidden ones must not be multiplied by 0
};

// What a score tile sums: some words with more to come, or the last ones, then also with a mask.
enum class Part { inner, last, masked };

// The tiles are not inlined: their sums need nearly all registers, and a caller's values would push some out.
// `words` words of K^T and Q^T, added to the scores so far unless they are the first.
template <class S, int vectors, Part part>
__attribute__((noinline)) void score_tile(const float* k, const float* q, int words, bool first, const Rows& rows,
                                          int key, float* scores) {
  using Vec = typename S::Vec;
  using Int = typename S::Int;
  Vec sums[S::tile][vectors] = {};
  if (!first)
#pragma GCC unroll 8
    for (int i = 0; i < S::tile; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[i][v] = S::load(scores + (i * vectors + v) * S::lanes);
  multiply<S, key_stride, 1, vectors * S::lanes>(k, q, words, sums);
#pragma GCC unroll 8
  for (int i = 0; i < S::tile; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      if (part != Part::inner && S::terms > 1) sums[i][v] *= rows.factor;
      if (part == Part::masked) {
        const Int begin = S::template read<Int>(rows.begin + v * S::lanes),
                  end = S::template read<Int>(rows.end + v * S::lanes);
        sums[i][v] = (begin <= key + i) & (key + i < end) ? sums[i][v] : S::splat(-__builtin_inff());
      }
      S::store(scores + (i * vectors + v) * S::lanes, sums[i][v]);
    }
  if (part == Part::inner) return;
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    Vec top = S::load(rows.block_top + v * S::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < S::tile; ++i) top = S::max(top, sums[i][v]);
    S::store(rows.block_top + v * S::lanes, top);
  }
}

// Scores become words of weights; the rows' maximum, sum and rescale factor move on.
template <class S, int vectors>
inline void soften(float* scores, int keys, const Rows& rows) {
  using Vec = typename S::Vec;
  Vec base[vectors], sum[vectors] = {};
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    const Vec old = S::load(rows.top + v * S::lanes), top = S::max(old, S::load(rows.block_top + v * S::lanes));
    base[v] = top == -__builtin_inff() ? Vec{} : top;  // nothing seen yet: every weight is 2^−inf = 0
    S::store(rows.top + v * S::lanes, top);
    S::store(rows.rescale + v * S::lanes, S::exp2(old - base[v]));
  }
  for (int j = 0; j < keys; j += S::terms)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Vec weights[S::terms];
#pragma GCC unroll 2
      for (int term = 0; term < S::terms; ++term) {
        weights[term] = S::exp2(S::load(scores + ((j + term) * vectors + v) * S::lanes) - base[v]);
        sum[v] += weights[term];
      }
      S::store(scores + (j / S::terms * vectors + v) * S::lanes, S::word(weights));
    }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    const Vec old = S::load(rows.sum + v * S::lanes), rescale = S::load(rows.rescale + v * S::lanes);
    S::store(rows.sum + v * S::lanes, old * rescale + sum[v]);
  }
}

// `count` columns of the output, from a block of values and of weights; the first block overwrites.
template <class S, int count, int vectors>
__attribute__((noinline)) void output_tile(const float* values, int words, const float* weights, const Rows& rows,
                                           float* o) {
  using Vec = typename S::Vec;
  Vec sums[count][vectors] = {};
  multiply<S, value_stride, 1, vectors * S::lanes>(values, weights, words, sums);
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = o + (i * vectors + v) * S::lanes;
      if (!rows.fresh) sums[i][v] += S::load(at) * S::load(rows.rescale + v * S::lanes);
      S::store(at, sums[i][v]);
    }
}

// The same where weights of 0 are skipped.
template <class S, int vectors>
__attribute__((noinline)) void output_poisoned(const float* values, int words, const float* weights, const Rows& rows,
                                               float* o) {
  using Vec = typename S::Vec;
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    Vec sum = {};
    const auto add = [&](Vec value, Vec weight) { sum = weight == 0.0f ? sum : sum + value * weight; };
    for (int j = 0; j < words; ++j) {
      const Vec value = S::splat(values[j * value_stride]), weight = S::load(weights + (j * vectors + v) * S::lanes);
      add(S::template element<0>(value), S::template element<0>(weight));
      if (S::terms == 2) add(S::template element<1>(value), S::template element<1>(weight));
    }
    if (!rows.fresh) sum += S::load(o + v * S::lanes) * S::load(rows.rescale + v * S::lanes);
    S::store(o + v * S::lanes, sum);
  }
}

// Columns of the output in tiles; the last one is as narrow as it needs to be.
template <class S, int vectors, int count = S::tile>
void output_tiles(const float* values, int columns, int words, const float* weights, const Rows& rows, float* o) {
  const int step = vectors * S::lanes;
  for (; columns >= count - 1; columns -= count, values += count, o += count * step)
    output_tile<S, count, vectors>(values, words, weights, rows, o);
  if constexpr (count > 2) output_tiles<S, vectors, count - 2>(values, columns, words, weights, rows, o);
}

template <class S, int vectors, class Ahead>
void attend(const Problem& p, const Rows& rows, const Keys& keys, float* scores, const Ahead& ahead) {
  const int head_dim = static_cast<int>(p.head_dim), words = (head_dim + S::terms - 1) / S::terms;
  const int width = vectors * S::lanes;
  // The part of the block that some row sees.
  const int begin = static_cast<int>(larger(0, rows.any.begin - keys.first)) / key_step<S> * key_step<S>,
            end = round_up(static_cast<int>(smaller(keys.count, rows.any.end - keys.first)), key_step<S>);
  const bool masked = !rows.all.holds({keys.first + begin, keys.first + end});
  for (int i = 0; i < width; ++i) rows.block_top[i] = -__builtin_inff();
  if (masked) locate(Walk(p, rows.first), rows.count, width, keys.first, rows.begin, rows.end);
  for (int c = 0; c < words; c += score_words)
    for (int j = begin; j < end; j += S::tile) {
      const float *k = keys.k + j + c * key_stride, *q = rows.q + c * width;
      float* at = scores + (j - begin) * width;
      const int left = round_up(words - c, 4);
      if (c == 0) ahead(j / S::tile, end / S::tile);
      if (left > score_words)
        score_tile<S, vectors, Part::inner>(k, q, score_words, c == 0, rows, j, at);
      else if (rows.all.holds({keys.first + j, keys.first + j + S::tile}))
        score_tile<S, vectors, Part::last>(k, q, left, c == 0, rows, j, at);
      else
        score_tile<S, vectors, Part::masked>(k, q, left, c == 0, rows, j, at);
    }
  soften<S, vectors>(scores, end - begin, rows);
  const float* values = keys.v + begin / S::terms * value_stride;
  const int count = (end - begin) / S::terms;
  if (masked && keys.poisoned)
    for (int c = 0; c < head_dim; ++c) output_poisoned<S, vectors>(values + c, count, scores, rows, rows.o + c * width);
  else
    output_tiles<S, vectors>(values, head_dim, count, scores, rows, rows.o);
}

// The block's number of vectors becomes a compile-time constant.
template <class S, int vectors, class Ahead>
void attend_any(const Problem& p, const Rows& rows, const Keys& keys, float* scores, const Ahead& ahead) {
  if constexpr (vectors > 1)
    if (rows.width < vectors * S::lanes) return attend_any<S, vectors - 1>(p, rows, keys, scores, ahead);
  attend<S, vectors>(p, rows, keys, scores, ahead);
}

// One key-value head of one batch: its arrays.
template <class T>
struct Head {
  const Problem& p;
  int64_t kv_head;
  const T *q, *k, *v;
  T* out;
  float* lse;
  Head(const Problem& p, int64_t batch, int64_t kv_head)
      : p(p),
        kv_head(kv_head),
        q(static_cast<const T*>(p.q) + batch * p.q_strides[0]),
        k(static_cast<const T*>(p.k) + batch * p.k_strides[0] + kv_head * p.k_strides[1]),
        v(static_cast<const T*>(p.v) + batch * p.v_strides[0] + kv_head * p.v_strides[1]),
        out(static_cast<T*>(p.out) + batch * p.out_strides[0]),
        lse(p.lse ? p.lse + batch * p.lse_strides[0] : nullptr) {}
};

// Q^T, times scale · log2(e) so that scores are exponents of 2; words of several elements as they are.
template <class S, class T>
void pack_queries(const Head<T>& head, const Rows& rows) {
  const Problem& p = head.p;
  const int head_dim = static_cast<int>(p.head_dim);
  Walk walk(p, rows.first);
  for (int start = 0; start < rows.width; start += S::lanes) {
    const T* at[S::lanes];
    for (int i = 0; i < S::lanes; ++i, walk.next()) at[i] = walk.pointer(head.q, p.q_strides, head.kv_head);
    for (int c = 0; c < head_dim; c += S::lanes * S::terms) {
      typename S::Vec x[S::lanes];
      load_square<S>(at, static_cast<int>(rows.count) - start, p.q_strides[3], c, head_dim, x);
#pragma GCC unroll 16
      for (int i = 0; i < S::lanes; ++i)
        S::store(rows.q + (c / S::terms + i) * rows.width + start, S::terms == 1 ? x[i] * rows.factor : x[i]);
    }
  }
}

template <class S, class T>
void write_rows(const Head<T>& head, const Rows& rows) {
  using Vec = typename S::Vec;
  const Problem& p = head.p;
  const int head_dim = static_cast<int>(p.head_dim);
  Walk walk(p, rows.first);
  for (int start = 0; start < rows.width; start += S::lanes) {
    T* to[S::lanes];
    const int count = static_cast<int>(smaller(S::lanes, rows.count - start));
    for (int i = 0; i < count; ++i, walk.next()) {
      to[i] = walk.pointer(head.out, p.out_strides, head.kv_head);
      if (head.lse)
        *walk.pointer(head.lse, p.lse_strides, head.kv_head) = log_sum_exp(rows.top[start + i], rows.sum[start + i]);
    }
    const Vec sum = S::load(rows.sum + start), share = 1.0f / (sum == 0.0f ? S::splat(1.0f) : sum);
    for (int c = 0; c < head_dim; c += S::lanes) {
      Vec x[S::lanes];
#pragma GCC unroll 16
      for (int i = 0; i < S::lanes; ++i) x[i] = S::load(rows.o + (c + i) * rows.width + start) * share;
      S::transpose(x);
      for (int i = 0; i < count; ++i) store_row<S>(to[i] + c * p.out_strides[3], p.out_strides[3], head_dim - c, x[i]);
    }
  }
}

// Scratch of one thread, in floats: K^T, V, scores, and the state of a chunk of rows.
template <class S>
struct BlocksScratch {
  static constexpr int width = S::query_vectors * S::lanes;
  int columns;
  int64_t keys, values, scores, block;
  explicit BlocksScratch(const Problem& p)
      : columns(round_up(static_cast<int>(p.head_dim), 16)),
        keys(int64_t{columns} * key_stride),
        values(int64_t{key_block} * value_stride),
        scores(int64_t{key_block} * width),
        block(int64_t{2} * columns * width + 6 * width) {}
  int64_t floats(int64_t chunk_rows) const { return keys + values + scores + (chunk_rows + width - 1) / width * block; }

  Rows rows(const Problem& p, float* at, int64_t first, int64_t end) const {
    Rows rows;
    rows.first = first;
    rows.count = smaller(width, end - first);
    rows.width = round_up(static_cast<int>(rows.count), S::lanes);
    const Range low = visible(p, first), high = visible(p, first + rows.count - 1);
    rows.any = {low.begin, high.end};
    rows.all = {high.begin, low.end};
    rows.fresh = true;
    rows.factor = static_cast<float>(p.scale * log2_e);
    rows.q = at;
    rows.o = rows.q + columns * width;
    rows.top = rows.o + columns * width;
    rows.sum = rows.top + width;
    rows.rescale = rows.sum + width;
    rows.block_top = rows.rescale + width;
    rows.begin = reinterpret_cast<int32_t*>(rows.block_top + width);
    rows.end = rows.begin + width;
    for (int i = 0; i < width; ++i) rows.top[i] = -__builtin_inff(), rows.sum[i] = 0;
    return rows;
  }
};

constexpr int max_blocks = 64;  // of rows in a chunk

// Rows of a chunk: as many as keep Q^T and O^T in half of L2, and few enough that every thread gets about four chunks.
template <class S>
int64_t chunk_rows(const Problem& p) {
  constexpr int width = S::query_vectors * S::lanes;
  const int64_t cached = p.l2_bytes / 2 / (2 * sizeof(float) * p.head_dim);
  const int64_t shared = p.rows() * p.batch * p.kv_heads / (4 * int64_t{p.threads});
  const int64_t rows = larger(width, smaller(smaller(cached, shared), 512));
  return smaller(p.rows(), (rows + width - 1) / width * width);
}

// What comes into L2 a few lines at a time while the tiles of a block of rows are busy.
template <class T>
struct Prefetch {
  const Head<T>& head;
  int64_t key;                // the next block of keys
  int count, share, shares;   // its length; which share of it
  const Rows *coming, *last;  // the rows whose queries are next, the rows whose outputs are; or nullptr
  void operator()(int part, int parts) const {
    const Problem& p = head.p;
    const int head_dim = static_cast<int>(p.head_dim);
    prefetch_rows(head.k + key * p.k_strides[2], p.k_strides, count, head_dim, share * parts + part, shares * parts);
    prefetch_rows(head.v + key * p.v_strides[2], p.v_strides, count, head_dim, share * parts + part, shares * parts);
    if (coming) prefetch_queries<false>(head.q, p.q_strides, *coming, part, parts);
    if (last) prefetch_queries<true>(head.out, p.out_strides, *last, part, parts);
  }
  template <bool write, class Element>
  void prefetch_queries(Element* base, const int64_t* strides, const Rows& rows, int part, int parts) const {
    Walk walk(head.p, rows.first + rows.count * part / parts);
    for (int64_t i = rows.count * part / parts; i < rows.count * (part + 1) / parts; ++i, walk.next())
      for (int c = 0; c < head.p.head_dim; c += 64 / static_cast<int>(sizeof(T)))
        __builtin_prefetch(walk.pointer(base, strides, head.kv_head) + c * strides[3], write ? 1 : 0, 2);
  }
};

// Rows [first, end) of one key-value head.
template <class S, class T>
void attend_chunk(const Head<T>& head, int64_t first, int64_t end, float* memory) {
  const Problem& p = head.p;
  const BlocksScratch<S> scratch(p);
  float *k = memory, *v = k + scratch.keys, *scores = v + scratch.values, *state = scores + scratch.scores;
  const int blocks = static_cast<int>((end - first + scratch.width - 1) / scratch.width);
  Rows rows[max_blocks];
  Range any = {p.kv_len, 0};
  for (int i = 0; i < blocks; ++i) {
    rows[i] = scratch.rows(p, state + i * scratch.block, first + i * scratch.width, end);
    any = {smaller(any.begin, rows[i].any.begin), larger(any.end, rows[i].any.end)};
  }
  const int head_dim = static_cast<int>(p.head_dim);
  for (int64_t j = any.begin / key_block * key_block; j < any.end; j += key_block) {
    const int count = static_cast<int>(smaller(key_block, p.kv_len - j));
    pack_columns<S, key_stride>(head.k + j * p.k_strides[2], p.k_strides, count, round_up(count, key_step<S>), head_dim,
                                k);
    const bool poisoned = pack_rows<S>(head.v + j * p.v_strides[2], p.v_strides, count, round_up(count, key_step<S>),
                                       head_dim, v, value_stride);
    const int next = static_cast<int>(larger(0, smaller(key_block, any.end - j - key_block)));
    for (int i = 0; i < blocks; ++i) {
      if (rows[i].any.begin >= j + count || j >= rows[i].any.end) continue;
      if (rows[i].fresh) pack_queries<S>(head, rows[i]);
      const bool last = rows[i].any.end <= j + key_block;
      const Rows* coming = i + 1 < blocks && rows[i + 1].fresh ? &rows[i + 1] : nullptr;
      const Prefetch<T> ahead = {head, j + key_block, next, i, blocks, coming, last ? &rows[i] : nullptr};
      attend_any<S, S::query_vectors>(p, rows[i], Keys{k, v, j, count, poisoned}, scores, ahead);
      rows[i].fresh = false;
      if (last) write_rows<S>(head, rows[i]);
    }
  }
  for (int i = 0; i < blocks; ++i)
    if (rows[i].fresh) {  // no key is seen
      for (int64_t at = 0; at < scratch.columns * scratch.width; ++at) rows[i].o[at] = 0;
      write_rows<S>(head, rows[i]);
    }
}

}  // namespace
}  // namespace pyhpc::attention
