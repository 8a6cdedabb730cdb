// Attention backward: with P = exp(scale · q kᵀ − lse) of the visible pairs, computed again (Dao 2023, Algorithm 2),
//
//   dv = Pᵀ dout     dS = P ∘ (dout vᵀ − δ),  δ_i = Σ_c dout_ic out_ic     dq = scale dS k     dk = scale dSᵀ q
//
// dk and dv summed over the query heads of a group. Never more of the q_len × kv_len matrix than a block.
//
//   for each query row:                                δ and lse · log2(e)
//   for each span of keys of a key-value head, a task:
//     for each group of blocks of key_block keys:      K^T, V^T, K packed; dk, dv gathered
//       for each block of rows, packed:
//         for each block of keys that it sees:         S^T = K Q^T, dP^T = V dout^T; P, dS in place
//                                                      dq^T += K^T dS^T,  dv += P^T dout,  dk += dS^T q
//   for each block of rows:                            dq is the sum over the spans, in order
//
// The spans depend on the problem alone, each block of dk and dv has one owner, and dq is added up in the order of the
// keys: any number of threads gives the same bits.
#pragma once
#include "attention/product.h"
#include "core/workspace.h"

namespace pyhpc::attention {
namespace {

constexpr int max_group = 4;  // blocks of keys that meet a block of rows while it is packed
constexpr int64_t wanted_tasks = 64, partial_bytes = int64_t{256} << 20;  // of dq, over all spans

template <class S>
struct BackwardPlan {
  static constexpr int width = S::query_vectors * S::lanes;  // rows of a block
  int head_dim, columns;
  int64_t heads, blocks, key_blocks, spans, span_blocks, group;
  explicit BackwardPlan(const Problem& p)
      : head_dim(static_cast<int>(p.head_dim)),
        columns(round_up(head_dim, 16)),
        heads(p.batch * p.kv_heads),
        blocks((p.rows() + width - 1) / width),
        key_blocks((p.kv_len + key_block - 1) / key_block) {
    const int64_t affordable = partial_bytes / (heads * blocks * block_floats() * 4 + 1);
    const int64_t parts = smaller(smaller(key_blocks / 4, (wanted_tasks + heads - 1) / heads), affordable);
    span_blocks = (key_blocks + larger(1, parts) - 1) / larger(1, parts);
    spans = larger(1, span_blocks > 0 ? (key_blocks + span_blocks - 1) / span_blocks : 0);
    // A group's K^T, V^T, K, dk and dv take up to half of L2.
    group = larger(1, smaller(max_group, p.l2_bytes / 2 / (5 * sizeof(float) * key_block * columns)));
  }
  int64_t block_floats() const { return int64_t{columns} * width; }
  int64_t shared_floats() const { return heads * blocks * (2 * width + spans * block_floats()); }
  // In memory shared by all tasks: δ and lse of a block of rows; what a span adds to its dq, [column][width].
  float* statistics(float* shared, int64_t head, int64_t block) const {
    return shared + (head * blocks + block) * 2 * width;
  }
  float* partial(float* shared, int64_t head, int64_t part, int64_t block) const {
    return shared + heads * blocks * 2 * width + ((head * spans + part) * blocks + block) * block_floats();
  }
};

// One key-value head of one batch.
template <class T>
struct BackwardHead {
  const BackwardProblem& p;
  int64_t kv_head;
  const T *q, *k, *v, *out, *dout;
  const float* lse;
  T *dq, *dk, *dv;
  BackwardHead(const BackwardProblem& p, int64_t head) : p(p), kv_head(head % p.kv_heads) {
    const int64_t batch = head / p.kv_heads;
    const auto keys = [&](const void* base, const int64_t* strides) {
      return static_cast<const T*>(base) + batch * strides[0] + kv_head * strides[1];
    };
    q = static_cast<const T*>(p.q) + batch * p.q_strides[0];
    out = static_cast<const T*>(p.out) + batch * p.out_strides[0];
    dout = static_cast<const T*>(p.dout) + batch * p.dout_strides[0];
    lse = p.lse + batch * p.lse_strides[0];
    dq = static_cast<T*>(p.dq) + batch * p.dq_strides[0];
    k = keys(p.k, p.k_strides), v = keys(p.v, p.v_strides);
    dk = const_cast<T*>(keys(p.dk, p.dk_strides)), dv = const_cast<T*>(keys(p.dv, p.dv_strides));
  }
};

// A block of keys in scratch.
struct KeyBlock {
  float *k_columns, *v_columns;  // [column][key_stride]
  float *k_rows, *dk, *dv;       // [key][value_stride]
  int64_t first;
  int count;
  bool poisoned;  // some key is infinite or NaN
};

// Scratch of one thread.
template <class S>
struct BackwardScratch {
  static constexpr int width = BackwardPlan<S>::width;
  KeyBlock keys[max_group];
  float *q_columns, *dout_columns, *q_rows, *dout_rows;  // of a block of rows
  float *weights, *slopes;                               // P and dS, [key][width]
  int32_t *begin, *end;                                  // visible keys of each row, relative to the block
  static int64_t key_floats(int columns) { return 2 * columns * key_stride + 3 * key_block * value_stride; }
  static int64_t floats(int columns) {
    return max_group * key_floats(columns) + 2 * width * (columns + value_stride + key_block + 1);
  }
  BackwardScratch(float* memory, int columns) {
    const auto take = [&](int64_t count) { return memory += count, memory - count; };
    for (KeyBlock& block : keys) {
      block.k_columns = take(columns * key_stride), block.v_columns = take(columns * key_stride);
      block.k_rows = take(key_block * value_stride);
      block.dk = take(key_block * value_stride), block.dv = take(key_block * value_stride);
    }
    q_columns = take(columns * width), dout_columns = take(columns * width);
    q_rows = take(width * value_stride), dout_rows = take(width * value_stride);
    weights = take(key_block * width), slopes = take(key_block * width);
    begin = reinterpret_cast<int32_t*>(take(width)), end = reinterpret_cast<int32_t*>(take(width));
  }
};

// to[i][v] = or += the product; `to` has rows to_stride apart.
template <class S, int step_stride, int item_stride, int row, int count, int vectors>
__attribute__((noinline)) void add_tile(const float* from, const float* with, int steps, float* to, int to_stride,
                                        bool fresh) {
  typename S::Vec sums[count][vectors] = {};
  multiply<S, step_stride, item_stride, row>(from, with, steps, sums);
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = to + i * to_stride + v * S::lanes;
      if (!fresh) sums[i][v] += S::load(at);
      S::store(at, sums[i][v]);
    }
}

// products[key][row] = Σ_c keys[c][key] rows[c][row] for the keys [begin, end).
template <class S>
void pair_products(const float* keys, const float* rows, int head_dim, int begin, int end, float* products) {
  constexpr int width = BackwardPlan<S>::width;
  for (int c = 0; c < head_dim; c += score_words)
    for (int j = begin; j < end; j += S::tile)
      add_tile<S, key_stride, 1, width, S::tile, S::query_vectors>(
          keys + j + c * key_stride, rows + c * width,
          static_cast<int>(smaller(score_words, round_up(head_dim - c, 4))), products + j * width, width, c == 0);
}

// dq[c][row] += Σ_key keys[key][c] slopes[key][row]; the last tile is as narrow as it needs to be.
template <class S, int count = S::tile>
void add_queries(const float* keys, const float* slopes, int columns, int count_keys, float* dq) {
  constexpr int width = BackwardPlan<S>::width;
  for (; columns >= count - 1; columns -= count, keys += count, dq += count * width)
    add_tile<S, value_stride, 1, width, count, S::query_vectors>(keys, slopes, count_keys, dq, width, false);
  if constexpr (count > 2) add_queries<S, count - 2>(keys, slopes, columns, count_keys, dq);
}

// to[key][c] += Σ_row pairs[key][row] rows[row][c] for the keys [begin, end).
template <class S, int vectors = 4>
void add_keys(const float* pairs, const float* rows, int columns, int begin, int end, float* to) {
  constexpr int width = BackwardPlan<S>::width;
  for (; columns >= vectors * S::lanes;
       columns -= vectors * S::lanes, rows += vectors * S::lanes, to += vectors * S::lanes)
    for (int j = begin; j < end; j += S::tile)
      add_tile<S, 1, width, value_stride, S::tile, vectors>(pairs + j * width, rows, width, to + j * value_stride,
                                                            value_stride, false);
  if constexpr (vectors > 1) add_keys<S, vectors - 1>(pairs, rows, columns, begin, end, to);
}

// Scores become P and dP becomes dS, for the keys [first, last) of a block; both are 0 where the key is hidden.
template <class S, bool masked>
void differentiate(const BackwardScratch<S>& scratch, const float* delta, const float* lse, int first, int last) {
  using Vec = typename S::Vec;
  using Int = typename S::Int;
  for (int v = 0; v < scratch.width; v += S::lanes) {
    const Vec shift = S::load(lse + v), mean = S::load(delta + v);
    const Int begin = S::template read<Int>(scratch.begin + v), end = S::template read<Int>(scratch.end + v);
    for (int j = first; j < last; ++j) {
      float *weight = scratch.weights + j * scratch.width + v, *slope = scratch.slopes + j * scratch.width + v;
      Vec p = S::exp2(S::load(weight) - shift), ds = p * (S::load(slope) - mean);
      if (masked) {
        const Int seen = (begin <= j) & (j < end);
        p = seen ? p : Vec{}, ds = seen ? ds : Vec{};
      }
      S::store(weight, p), S::store(slope, ds);
    }
  }
}

// The three sums where infinite or NaN operands meet hidden pairs: these are skipped instead of multiplied by 0.
template <class S>
void add_guarded(const BackwardScratch<S>& scratch, const KeyBlock& keys, int head_dim, int first, int last,
                 float* dq) {
  for (int j = first; j < last; ++j)
    for (int i = 0; i < scratch.width; ++i) {
      const float p = scratch.weights[j * scratch.width + i], ds = scratch.slopes[j * scratch.width + i];
      for (int c = 0; c < head_dim; ++c) {
        if (p != 0) keys.dv[j * value_stride + c] += p * scratch.dout_rows[i * value_stride + c];
        if (ds != 0) keys.dk[j * value_stride + c] += ds * scratch.q_rows[i * value_stride + c];
        if (ds != 0) dq[c * scratch.width + i] += ds * keys.k_rows[j * value_stride + c];
      }
    }
}

// A block of rows of queries or of dout, both as rows and as columns times `factor`, zeros beyond the last row. True if
// an element is infinite or NaN.
template <class S, class T>
bool pack_both(const T* base, const int64_t* strides, int64_t kv_head, Walk walk, int count, float factor, float* rows,
               float* columns) {
  constexpr int width = BackwardPlan<S>::width;
  const int head_dim = static_cast<int>(walk.p.head_dim);
  bool poisoned = false;
  for (int start = 0; start < width; start += S::lanes) {
    const T* at[S::lanes];
    for (int i = 0; i < S::lanes; ++i, walk.next()) {
      at[i] = walk.pointer(base, strides, kv_head);
      const int real = start + i < count ? 1 : 0;
      poisoned |= pack_rows<S>(at[i], strides, real, 1, head_dim, rows + (start + i) * value_stride, value_stride);
    }
    for (int c = 0; c < head_dim; c += S::lanes) {
      typename S::Vec x[S::lanes];
      load_square<S>(at, count - start, strides[3], c, head_dim, x);
#pragma GCC unroll 16
      for (int i = 0; i < S::lanes; ++i) S::store(columns + (c + i) * width + start, x[i] * factor);
    }
  }
  return poisoned;
}

// A block of rows: which they are, and the keys that they see, in order of the rows.
template <class S>
struct RowBlock {
  int64_t first;
  int count;
  Walk walk;
  Range low, high;  // of the first and the last row
  RowBlock(const Problem& p, int64_t block)
      : first(block * BackwardPlan<S>::width),
        count(static_cast<int>(smaller(BackwardPlan<S>::width, p.rows() - first))),
        walk(p, first),
        low(walk.visible()),
        high(visible(p, first + count - 1)) {}
  // The part of a block of keys that some row sees, in whole steps.
  int begin(const KeyBlock& keys) const {
    return static_cast<int>(larger(0, low.begin - keys.first)) / key_step<S> * key_step<S>;
  }
  int end(const KeyBlock& keys) const {
    return round_up(static_cast<int>(smaller(keys.count, high.end - keys.first)), key_step<S>);
  }
};

// What a block of rows, packed in scratch, and a block of keys give each other.
template <class S>
void meet(const BackwardScratch<S>& scratch, const RowBlock<S>& rows, const KeyBlock& keys, bool poisoned,
          const float* statistics, float* dq) {
  constexpr int width = BackwardPlan<S>::width;
  const int head_dim = static_cast<int>(rows.walk.p.head_dim), columns = round_up(head_dim, 16);
  const int begin = rows.begin(keys), end = rows.end(keys);
  if (begin >= end) return;
  pair_products<S>(keys.k_columns, scratch.q_columns, head_dim, begin, end, scratch.weights);
  pair_products<S>(keys.v_columns, scratch.dout_columns, head_dim, begin, end, scratch.slopes);
  const bool masked = !Range{rows.high.begin, rows.low.end}.holds({keys.first + begin, keys.first + end});
  if (masked) {
    locate(rows.walk, rows.count, width, keys.first, scratch.begin, scratch.end);
    differentiate<S, true>(scratch, statistics, statistics + width, begin, end);
  } else {
    differentiate<S, false>(scratch, statistics, statistics + width, begin, end);
  }
  if (masked && (poisoned || keys.poisoned)) return add_guarded<S>(scratch, keys, head_dim, begin, end, dq);
  add_queries<S>(keys.k_rows + begin * value_stride, scratch.slopes + begin * width, head_dim, end - begin, dq);
  add_keys<S>(scratch.weights, scratch.dout_rows, columns, begin, end, keys.dv);
  add_keys<S>(scratch.slopes, scratch.q_rows, columns, begin, end, keys.dk);
}

// The keys from `first` on, packed, with gradients of 0.
template <class S, class T>
void pack_keys(const BackwardHead<T>& head, int64_t first, KeyBlock& keys) {
  const BackwardProblem& p = head.p;
  const int head_dim = static_cast<int>(p.head_dim), columns = round_up(head_dim, 16);
  const T *k = head.k + first * p.k_strides[2], *v = head.v + first * p.v_strides[2];
  keys.first = first, keys.count = static_cast<int>(smaller(key_block, p.kv_len - first));
  const int padded = round_up(keys.count, key_step<S>);
  pack_columns<S, key_stride>(k, p.k_strides, keys.count, padded, head_dim, keys.k_columns);
  pack_columns<S, key_stride>(v, p.v_strides, keys.count, padded, head_dim, keys.v_columns);
  keys.poisoned = pack_rows<S>(k, p.k_strides, keys.count, padded, head_dim, keys.k_rows, value_stride);
  for (int i = 0; i < padded; ++i)
    for (int c = 0; c < columns; ++c) keys.dk[i * value_stride + c] = keys.dv[i * value_stride + c] = 0;
}

template <class S, class T>
void write_keys(const BackwardHead<T>& head, const KeyBlock& keys) {
  const BackwardProblem& p = head.p;
  const int head_dim = static_cast<int>(p.head_dim);
  for (int i = 0; i < keys.count; ++i)
    for (int c = 0; c < head_dim; c += S::lanes) {
      store_row<S>(head.dk + (keys.first + i) * p.dk_strides[2] + c * p.dk_strides[3], p.dk_strides[3], head_dim - c,
                   S::load(keys.dk + i * value_stride + c) * p.scale);
      store_row<S>(head.dv + (keys.first + i) * p.dv_strides[2] + c * p.dv_strides[3], p.dv_strides[3], head_dim - c,
                   S::load(keys.dv + i * value_stride + c));
    }
}

// One span of keys of one key-value head: its dk and dv, and what it adds to dq.
template <class S, class T>
void backward_span(const BackwardProblem& p, const BackwardPlan<S>& plan, int64_t task, float* memory, float* shared) {
  const int64_t number = task % plan.heads, part = task / plan.heads;
  const BackwardHead<T> head(p, number);
  BackwardScratch<S> scratch(memory, plan.columns);
  float* dq = plan.partial(shared, number, part, 0);
  for (int64_t i = 0; i < plan.blocks * plan.block_floats(); ++i) dq[i] = 0;
  const float factor = static_cast<float>(p.scale * log2_e);
  const int64_t last = smaller(plan.key_blocks, (part + 1) * plan.span_blocks);
  for (int64_t j = part * plan.span_blocks; j < last; j += plan.group) {
    const int count = static_cast<int>(smaller(plan.group, last - j));
    for (int i = 0; i < count; ++i) pack_keys<S>(head, (j + i) * key_block, scratch.keys[i]);
    for (int64_t block = 0; block < plan.blocks; ++block) {
      const RowBlock<S> rows(p, block);
      if (rows.low.begin >= scratch.keys[count - 1].first + key_block || rows.high.end <= scratch.keys[0].first)
        continue;
      bool poisoned = pack_both<S>(head.q, p.q_strides, head.kv_head, rows.walk, rows.count, factor, scratch.q_rows,
                                   scratch.q_columns);
      poisoned |= pack_both<S>(head.dout, p.dout_strides, head.kv_head, rows.walk, rows.count, 1, scratch.dout_rows,
                               scratch.dout_columns);
      for (int i = 0; i < count; ++i)
        meet<S>(scratch, rows, scratch.keys[i], poisoned, plan.statistics(shared, number, block),
                dq + block * plan.block_floats());
    }
    for (int i = 0; i < count; ++i) write_keys<S>(head, scratch.keys[i]);
  }
}

// δ and lse · log2(e) of a block of rows.
template <class S, class T>
void summarise(const BackwardHead<T>& head, int64_t block, float* statistics) {
  const BackwardProblem& p = head.p;
  constexpr int width = BackwardPlan<S>::width;
  const int head_dim = static_cast<int>(p.head_dim);
  Walk walk(p, block * width);
  for (int i = 0; i < width; ++i, walk.next()) {
    statistics[i] = statistics[width + i] = 0;
    if (block * width + i >= p.rows()) continue;
    const T *out = walk.pointer(head.out, p.out_strides, head.kv_head),
            *dout = walk.pointer(head.dout, p.dout_strides, head.kv_head);
    typename S::Vec sums = {};
    for (int c = 0; c < head_dim; c += S::lanes)
      sums += load_row<S>(out + c * p.out_strides[3], p.out_strides[3], head_dim - c) *
              load_row<S>(dout + c * p.dout_strides[3], p.dout_strides[3], head_dim - c);
    for (int lane = 0; lane < S::lanes; ++lane) statistics[i] += sums[lane];
    statistics[width + i] = static_cast<float>(*walk.pointer(head.lse, p.lse_strides, head.kv_head) * log2_e);
  }
}

// dq of a block of rows: the spans' parts in order.
template <class S, class T>
void gather(const BackwardHead<T>& head, const BackwardPlan<S>& plan, int64_t number, int64_t block, float* shared) {
  const BackwardProblem& p = head.p;
  float* sum = plan.partial(shared, number, 0, block);
  for (int64_t part = 1; part < plan.spans; ++part) {
    const float* more = plan.partial(shared, number, part, block);
    for (int64_t i = 0; i < plan.block_floats(); i += S::lanes) S::store(sum + i, S::load(sum + i) + S::load(more + i));
  }
  Walk walk(p, block * plan.width);
  for (int start = 0; start < plan.width; start += S::lanes) {
    const int count = static_cast<int>(smaller(S::lanes, p.rows() - block * plan.width - start));
    T* to[S::lanes];
    for (int i = 0; i < count; ++i, walk.next()) to[i] = walk.pointer(head.dq, p.dq_strides, head.kv_head);
    for (int c = 0; c < plan.head_dim && count > 0; c += S::lanes) {
      typename S::Vec x[S::lanes];
#pragma GCC unroll 16
      for (int i = 0; i < S::lanes; ++i) x[i] = S::load(sum + (c + i) * plan.width + start) * p.scale;
      S::transpose(x);
      for (int i = 0; i < count; ++i)
        store_row<S>(to[i] + c * p.dq_strides[3], p.dq_strides[3], plan.head_dim - c, x[i]);
    }
  }
}

template <class S, class T>
bool backward_any(const BackwardProblem& p) {
  const BackwardPlan<S> plan(p);
  float* shared = static_cast<float*>(workspace(1, sizeof(float) * plan.shared_floats()));
  if (!shared) return false;
  const int64_t blocks = plan.heads * plan.blocks, tasks = plan.heads * plan.spans;
  [[maybe_unused]] const int threads = static_cast<int>(smaller(p.threads, larger(blocks, tasks)));
  bool enough = true;
#pragma omp parallel num_threads(threads) reduction(&& : enough) if (threads > 1)
  {
    float* memory = static_cast<float*>(workspace(0, sizeof(float) * BackwardScratch<S>::floats(plan.columns)));
    enough = memory != nullptr;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; ++i)
      summarise<S>(BackwardHead<T>(p, i / plan.blocks), i % plan.blocks,
                   plan.statistics(shared, i / plan.blocks, i % plan.blocks));
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task)
      if (memory) backward_span<S, T>(p, plan, task, memory, shared);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; ++i)
      gather<S>(BackwardHead<T>(p, i / plan.blocks), plan, i / plan.blocks, i % plan.blocks, shared);
  }
  return enough;
}

}  // namespace
}  // namespace pyhpc::attention
