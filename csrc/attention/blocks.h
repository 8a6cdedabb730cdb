// Many query rows: lanes run along the queries, so maximum, sum and rescale of the online softmax are vertical.
//
//   for each block of key_block keys, packed once for the whole chunk of rows:
//     for each block of up to query_vectors · lanes rows that sees some of it:
//       S^T = K Q^T           tiles of key_tile keys × the block's rows in registers; masked only at the edges
//       P = 2^(S − max), sum, rescale = 2^(old max − max)
//       O^T = O^T · rescale + V^T P^T     tiles of key_tile columns of V × the block's rows
//
// Q^T and O^T of a chunk stay in L2, a block's scores in L1. K and V are read as broadcasts from rows: no
// transposition.
#pragma once
#include "attention/pack.h"

namespace pyhpc::attention {
namespace {

// The state of one block of rows: width = vectors · lanes of them.
struct Rows {
  int width;
  int64_t first, count;        // rows of the key-value head
  Range any, all;              // keys that some row sees, keys that every row sees
  float *q, *o;                // [column][width]
  float *top, *sum;            // [width]: running maximum and sum
  float *block_top, *rescale;  // [width]: maximum of this key block, factor of the earlier ones
  int32_t *begin, *end;        // [width]: visible keys of each row, relative to the key block
};

struct Keys {
  const float *k, *v;  // [key][row_stride]
  int64_t first;
  int count;      // padded with zero rows to a multiple of key_tile
  bool poisoned;  // some value is infinite or NaN: hidden ones must not be multiplied by 0
};

// The tiles are not inlined: their accumulators need nearly all registers, and a caller's values would push some out.
template <class S, int vectors, bool masked>
__attribute__((noinline)) void score_tile(const float* k, int head_dim, const Rows& rows, int key, float* scores) {
  using Vec = typename S::Vec;
  using Int = typename S::Int;
  const int stride = row_stride(head_dim);
  Vec acc[S::key_tile][vectors] = {};
  for (int c = 0; c < head_dim; ++c) {
    Vec q[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) q[v] = S::load(rows.q + (c * vectors + v) * S::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < S::key_tile; ++i) {
      const Vec x = S::splat(k[i * stride + c]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) acc[i][v] += x * q[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < S::key_tile; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      if (masked) {
        const Int begin = S::template read<Int>(rows.begin + v * S::lanes),
                  end = S::template read<Int>(rows.end + v * S::lanes);
        acc[i][v] = (begin <= key + i) & (key + i < end) ? acc[i][v] : S::splat(-__builtin_inff());
      }
      S::store(scores + (i * vectors + v) * S::lanes, acc[i][v]);
    }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    typename S::Vec top = S::load(rows.block_top + v * S::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < S::key_tile; ++i) top = S::max(top, acc[i][v]);
    S::store(rows.block_top + v * S::lanes, top);
  }
}

// Scores become weights; the rows' maximum, sum and rescale factor move on.
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
  for (int j = 0; j < keys; ++j)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = scores + (j * vectors + v) * S::lanes;
      const Vec weight = S::exp2(S::load(at) - base[v]);
      S::store(at, weight);
      sum[v] += weight;
    }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    const Vec old = S::load(rows.sum + v * S::lanes), rescale = S::load(rows.rescale + v * S::lanes);
    S::store(rows.sum + v * S::lanes, old * rescale + sum[v]);
  }
}

template <class S, int vectors, bool poisoned>
__attribute__((noinline)) void output_tile(const float* values, int stride, int keys, const float* weights,
                                           const float* rescale, float* o) {
  using Vec = typename S::Vec;
  Vec acc[S::key_tile][vectors] = {};
  for (int j = 0; j < keys; ++j) {
    Vec p[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) p[v] = S::load(weights + (j * vectors + v) * S::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < S::key_tile; ++i) {
      const Vec x = S::splat(values[j * stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        if (poisoned)
          acc[i][v] = p[v] == 0.0f ? acc[i][v] : acc[i][v] + x * p[v];
        else
          acc[i][v] += x * p[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < S::key_tile; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = o + (i * vectors + v) * S::lanes;
      S::store(at, S::load(at) * S::load(rescale + v * S::lanes) + acc[i][v]);
    }
}

// Where each row's visible keys begin and end inside this block of keys.
inline void locate(const Problem& p, const Rows& rows, const Keys& keys) {
  for (int i = 0; i < rows.width; ++i) {
    const Range seen = i < rows.count ? visible(p, rows.first + i) : Range{0, 0};
    rows.begin[i] = static_cast<int32_t>(larger(0, smaller(seen.begin - keys.first, key_block)));
    rows.end[i] = static_cast<int32_t>(larger(0, smaller(seen.end - keys.first, key_block)));
  }
}

template <class S, int vectors, class Ahead>
void attend(const Problem& p, const Rows& rows, const Keys& keys, float* scores, const Ahead& ahead) {
  const int head_dim = static_cast<int>(p.head_dim), stride = row_stride(head_dim),
            count = round_up(keys.count, S::key_tile);
  const bool masked = !rows.all.holds({keys.first, keys.first + count});
  for (int i = 0; i < rows.width; ++i) rows.block_top[i] = -__builtin_inff();
  if (masked) locate(p, rows, keys);
  for (int j = 0; j < count; j += S::key_tile) {
    float* at = scores + j * rows.width;
    ahead(j / S::key_tile, count / S::key_tile);
    if (masked)
      score_tile<S, vectors, true>(keys.k + j * stride, head_dim, rows, j, at);
    else
      score_tile<S, vectors, false>(keys.k + j * stride, head_dim, rows, j, at);
  }
  soften<S, vectors>(scores, count, rows);
  for (int c = 0; c < head_dim; c += S::key_tile) {
    if (masked && keys.poisoned)
      output_tile<S, vectors, true>(keys.v + c, stride, count, scores, rows.rescale, rows.o + c * rows.width);
    else
      output_tile<S, vectors, false>(keys.v + c, stride, count, scores, rows.rescale, rows.o + c * rows.width);
  }
}

// The block's number of vectors becomes a compile-time constant.
template <class S, int vectors, class Ahead>
void attend_any(const Problem& p, const Rows& rows, const Keys& keys, float* scores, const Ahead& ahead) {
  if constexpr (vectors > 1)
    if (rows.width < vectors * S::lanes) return attend_any<S, vectors - 1>(p, rows, keys, scores, ahead);
  attend<S, vectors>(p, rows, keys, scores, ahead);
}

// Q^T, times scale · log2(e): scores are exponents of 2.
template <class S, class T>
void pack_queries(const Problem& p, const T* q, int64_t kv_head, const Rows& rows) {
  const int head_dim = static_cast<int>(p.head_dim);
  const float factor = static_cast<float>(p.scale * log2_e);
  for (int start = 0; start < rows.width; start += S::lanes)
    for (int c = 0; c < head_dim; c += S::lanes) {
      typename S::Vec x[S::lanes];
      for (int i = 0; i < S::lanes; ++i) {
        x[i] = typename S::Vec{};
        if (start + i < rows.count)
          x[i] = load_row<S>(row_pointer(q, p.q_strides, p, kv_head, rows.first + start + i) + c * p.q_strides[3],
                             p.q_strides[3], head_dim - c);
      }
      S::transpose(x);
      for (int i = 0; i < S::lanes; ++i) S::store(rows.q + (c + i) * rows.width + start, x[i] * factor);
    }
}

template <class S, class T>
void write_rows(const Problem& p, T* out, float* lse, int64_t kv_head, const Rows& rows) {
  using Vec = typename S::Vec;
  const int head_dim = static_cast<int>(p.head_dim);
  for (int start = 0; start < rows.width; start += S::lanes) {
    const Vec sum = S::load(rows.sum + start), share = 1.0f / (sum == 0.0f ? S::splat(1.0f) : sum);
    for (int c = 0; c < head_dim; c += S::lanes) {
      Vec x[S::lanes];
      for (int i = 0; i < S::lanes; ++i) x[i] = S::load(rows.o + (c + i) * rows.width + start) * share;
      S::transpose(x);
      for (int i = 0; i < S::lanes && start + i < rows.count; ++i)
        store_row<S>(row_pointer(out, p.out_strides, p, kv_head, rows.first + start + i) + c * p.out_strides[3],
                     p.out_strides[3], head_dim - c, x[i]);
    }
  }
  if (lse)
    for (int i = 0; i < rows.count; ++i)
      *row_pointer(lse, p.lse_strides, p, kv_head, rows.first + i) = log_sum_exp(rows.top[i], rows.sum[i]);
}

// Scratch of one thread, in floats: K, V, scores, and the state of a chunk of rows.
template <class S>
struct BlocksScratch {
  static constexpr int width = S::query_vectors * S::lanes;
  int columns;
  int64_t keys, scores, block;
  explicit BlocksScratch(const Problem& p)
      : columns(round_up(static_cast<int>(p.head_dim), 16)),
        keys(int64_t{key_block} * row_stride(static_cast<int>(p.head_dim))),
        scores(int64_t{key_block} * width),
        block(int64_t{2} * columns * width + 6 * width) {}
  int64_t floats(int64_t chunk_rows) const { return 2 * keys + scores + (chunk_rows + width - 1) / width * block; }

  Rows rows(const Problem& p, float* at, int64_t first, int64_t end) const {
    Rows rows;
    rows.first = first;
    rows.count = smaller(width, end - first);
    rows.width = round_up(static_cast<int>(rows.count), S::lanes);
    const Range low = visible(p, first), high = visible(p, first + rows.count - 1);
    rows.any = {low.begin, high.end};
    rows.all = {high.begin, low.end};
    rows.q = at;
    rows.o = rows.q + columns * width;
    rows.top = rows.o + columns * width;
    rows.sum = rows.top + width;
    rows.rescale = rows.sum + width;
    rows.block_top = rows.rescale + width;
    rows.begin = reinterpret_cast<int32_t*>(rows.block_top + width);
    rows.end = rows.begin + width;
    for (int64_t i = 0; i < columns * width; ++i) rows.o[i] = 0;
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

// Rows [first, end) of one key-value head.
template <class S, class T>
void attend_chunk(const Problem& p, int64_t batch, int64_t kv_head, int64_t first, int64_t end, float* memory) {
  const BlocksScratch<S> scratch(p);
  float *k = memory, *v = k + scratch.keys, *scores = v + scratch.keys, *state = scores + scratch.scores;
  const T* keys_from = static_cast<const T*>(p.k) + batch * p.k_strides[0] + kv_head * p.k_strides[1];
  const T* values_from = static_cast<const T*>(p.v) + batch * p.v_strides[0] + kv_head * p.v_strides[1];
  const int blocks = static_cast<int>((end - first + scratch.width - 1) / scratch.width);
  Rows rows[max_blocks];
  Range any = {p.kv_len, 0};
  for (int i = 0; i < blocks; ++i) {
    rows[i] = scratch.rows(p, state + i * scratch.block, first + i * scratch.width, end);
    pack_queries<S>(p, static_cast<const T*>(p.q) + batch * p.q_strides[0], kv_head, rows[i]);
    any = {smaller(any.begin, rows[i].any.begin), larger(any.end, rows[i].any.end)};
  }
  const int head_dim = static_cast<int>(p.head_dim);
  for (int64_t j = any.begin / key_block * key_block; j < any.end; j += key_block) {
    const int count = static_cast<int>(smaller(key_block, p.kv_len - j)), padded = round_up(count, S::key_tile);
    pack_rows<S, false>(keys_from + j * p.k_strides[2], p.k_strides, count, padded, head_dim, k);
    const bool poisoned = pack_rows<S, true>(values_from + j * p.v_strides[2], p.v_strides, count, padded, head_dim, v);
    const int next = static_cast<int>(larger(0, smaller(key_block, any.end - j - key_block)));
    for (int i = 0; i < blocks; ++i) {
      // The next keys come into L2 a few lines at a time, while the tiles are busy.
      const auto ahead = [&](int part, int parts) {
        const int64_t at = j + key_block;
        prefetch_rows(keys_from + at * p.k_strides[2], p.k_strides, next, head_dim, i * parts + part, blocks * parts);
        prefetch_rows(values_from + at * p.v_strides[2], p.v_strides, next, head_dim, i * parts + part, blocks * parts);
      };
      if (rows[i].any.begin < j + count && j < rows[i].any.end)
        attend_any<S, S::query_vectors>(p, rows[i], Keys{k, v, j, count, poisoned}, scores, ahead);
    }
  }
  for (int i = 0; i < blocks; ++i)
    write_rows<S>(p, static_cast<T*>(p.out) + batch * p.out_strides[0],
                  p.lse ? p.lse + batch * p.lse_strides[0] : nullptr, kv_head, rows[i]);
}

}  // namespace
}  // namespace pyhpc::attention
