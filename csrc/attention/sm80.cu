// Attention forward for every GPU since Ampere, by online softmax (Dao et al. 2022): see attention.h for the contract.
//   bfloat16, float16   tensor cores: 64 queries a block, 16 a warp; the weights are rounded to the input type before
//   they
//                       multiply v, as in every tensor-core attention, and summed unrounded
//   float32             fused multiply-adds: 32 queries a block, four lanes a query
// The head dimension is padded with zeros to 32, 64, 128 or 256. Simple on purpose: no asynchronous copies.
#include "attention/cuda_mask.h"
#include "core/cuda_mma.h"
#include "core/cuda_variant.h"

namespace pyhpc::attention {
namespace {

using cuda::Bfloat16;
using cuda::Float16;

constexpr float log2_e = 1.4426950408889634f;
constexpr int threads = 128;

// ---- tensor cores ----

template <int width>
struct Tiles {
  static constexpr int queries = 64,
                       keys = width > 128 ? 32 : 64;  // v and the sums must fit shared memory and registers
  static constexpr int score_tiles = keys / cuda::mma::n, out_tiles = width / cuda::mma::n;
  // Rows of pairs of 16-bit elements; the padding spreads the rows that a warp reads over all banks.
  uint32_t q[queries][width / 2 + 4], k[keys][width / 2 + 4];
  uint32_t v[width][keys / 2 + 4];  // transposed: pairs of keys
  int not_finite;                   // whether v has Inf or NaN
};

__device__ inline bool finite(Bfloat16 value) { return (value.bits & 0x7f80) != 0x7f80; }
__device__ inline bool finite(Float16 value) { return (value.bits & 0x7c00) != 0x7c00; }

template <class T, int rows, int words>
__device__ void load_rows(const Rows<const T>& from, int64_t first, uint32_t (&to)[rows][words]) {
  constexpr int width = (words - 4) * 2;
#pragma unroll 8
  for (int i = threadIdx.x; i < rows * width; i += threads)
    reinterpret_cast<T*>(to[i / width])[i % width] = from.at(first + i / width, i % width);
}

// Inf and NaN are kept out of the tile, because a hidden key's zero weight would turn them into NaN: see
// add_not_finite.
template <class T, int width>
__device__ void load_values(const Rows<const T>& v, int64_t first, Tiles<width>& tiles) {
#pragma unroll 8
  for (int i = threadIdx.x; i < tiles.keys * width; i += threads) {
    T value = v.at(first + i / width, i % width);
    if (!finite(value)) tiles.not_finite = 1, value = T{};
    reinterpret_cast<T*>(tiles.v[i % width])[i / width] = value;
  }
}

// What one warp knows: its 16 query rows, of which each lane holds parts of two (row 0: group, row 1: group + 8).
template <int width>
struct WarpState {
  float out[Tiles<width>::out_tiles][4];
  Softmax rows[2];
};

template <class T, int width>
__device__ __forceinline__ void score(const Tiles<width>& tiles, int row, int lane,
                                      float (&scores)[Tiles<width>::score_tiles][4]) {
  using namespace cuda::mma;
#pragma unroll
  for (int d = 0; d < width; d += k) {
    uint32_t a[a_registers];
#pragma unroll
    for (int i = 0; i < a_registers; ++i) a[i] = tiles.q[row + a_row(lane, i)][(d + a_k(lane, i)) / 2];
#pragma unroll
    for (int t = 0; t < Tiles<width>::score_tiles; ++t) {
      uint32_t b[b_registers];
#pragma unroll
      for (int i = 0; i < b_registers; ++i) b[i] = tiles.k[t * n + b_column(lane)][(d + b_k(lane, i)) / 2];
      multiply_add(T{}, scores[t], a, b);
    }
  }
}

// Scores become weights exp2(score − largest so far); what was summed before is rescaled.
template <int width>
__device__ __forceinline__ void weigh(const Problem& p, int64_t query, int64_t first_key, int lane,
                                      float (&scores)[Tiles<width>::score_tiles][4], WarpState<width>& state) {
  using namespace cuda::mma;
  float largest[2] = {-INFINITY, -INFINITY};
  const float scale = p.scale * log2_e;
#pragma unroll
  for (int t = 0; t < Tiles<width>::score_tiles; ++t)
#pragma unroll
    for (int i = 0; i < c_registers; ++i) {
      const bool seen = visible(p, query + c_row(lane, i), first_key + t * n + c_column(lane, i));
      scores[t][i] = seen ? scores[t][i] * scale : -INFINITY;
      largest[i / 2] = fmaxf(largest[i / 2], scores[t][i]);
    }
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) factor[r] = state.rows[r].raise(quad_largest(largest[r]));
#pragma unroll
  for (int t = 0; t < Tiles<width>::out_tiles; ++t)
#pragma unroll
    for (int i = 0; i < c_registers; ++i) state.out[t][i] *= factor[i / 2];
#pragma unroll
  for (int t = 0; t < Tiles<width>::score_tiles; ++t)
#pragma unroll
    for (int i = 0; i < c_registers; ++i) {
      scores[t][i] = exp2f(scores[t][i] - state.rows[i / 2].base());
      state.rows[i / 2].sum += scores[t][i];  // this lane's part; added up at the end
    }
}

// out += weights · v. A pair of score tiles is, register by register, one operand a of the next product.
template <class T, int width>
__device__ __forceinline__ void mix(const Tiles<width>& tiles, int lane,
                                    const float (&weights)[Tiles<width>::score_tiles][4], WarpState<width>& state) {
  using namespace cuda::mma;
#pragma unroll
  for (int key = 0; key < Tiles<width>::keys; key += k) {
    uint32_t a[a_registers];
#pragma unroll
    for (int i = 0; i < a_registers; ++i) {
      const float (&tile)[4] = weights[key / n + i / 2];
      a[i] = cuda::packed(cuda::converted<T>(tile[i % 2 * 2]), cuda::converted<T>(tile[i % 2 * 2 + 1]));
    }
#pragma unroll
    for (int t = 0; t < Tiles<width>::out_tiles; ++t) {
      uint32_t b[b_registers];
#pragma unroll
      for (int i = 0; i < b_registers; ++i) b[i] = tiles.v[t * n + b_column(lane)][(key + b_k(lane, i)) / 2];
      multiply_add(T{}, state.out[t], a, b);
    }
  }
}

// A weight of a visible key is positive, so weight · Inf is that Inf, and weight · NaN is NaN.
template <class T, int width>
__device__ void add_not_finite(const Problem& p, const Rows<const T>& v, int64_t query, int64_t first_key, int lane,
                               WarpState<width>& state) {
  using namespace cuda::mma;
  for (int key = 0; key < Tiles<width>::keys; ++key)
#pragma unroll
    for (int t = 0; t < Tiles<width>::out_tiles; ++t)
#pragma unroll
      for (int i = 0; i < c_registers; ++i) {
        const T value = v.at(first_key + key, t * n + c_column(lane, i));
        if (!finite(value) && visible(p, query + c_row(lane, i), first_key + key))
          state.out[t][i] += cuda::to_float(value);
      }
}

template <class T, int width>
__device__ __forceinline__ void store(const Problem& p, const Task& task, int64_t query, int lane,
                                      WarpState<width>& state) {
  using namespace cuda::mma;
#pragma unroll
  for (int r = 0; r < 2; ++r) state.rows[r].sum = quad_sum(state.rows[r].sum);
#pragma unroll
  for (int t = 0; t < Tiles<width>::out_tiles; ++t)
#pragma unroll
    for (int i = 0; i < c_registers; ++i)
      store_row<T>(p, task, query + c_row(lane, i), t * n + c_column(lane, i),
                   state.out[t][i] * state.rows[i / 2].scale());
  if (lane % 4 == 0)
    for (int r = 0; r < 2; ++r) store_lse(p, task, query + c_row(lane, 2 * r), state.rows[r]);
}

template <class T, int width>
__global__ void __launch_bounds__(threads) tensor_kernel(Problem p) {
  using Shared = Tiles<width>;
  Shared& tiles = *reinterpret_cast<Shared*>(cuda::shared_memory());
  const Task task = task_of(p, blockIdx.x, Shared::queries);
  const auto k = rows_of<T>(p, p.k, p.k_strides, task.batch, task.kv_head, p.kv_len);
  const auto v = rows_of<T>(p, p.v, p.v_strides, task.batch, task.kv_head, p.kv_len);
  const int lane = threadIdx.x % cuda::warp_size, row = threadIdx.x / cuda::warp_size * cuda::mma::m;
  const int64_t query = task.first_query + row;
  WarpState<width> state = {};
  load_rows(rows_of<T>(p, p.q, p.q_strides, task.batch, task.head, p.q_len), task.first_query, tiles.q);
  const Keys keys = keys_of(p, task.first_query, Shared::queries, Shared::keys);
  for (int64_t first = keys.begin; first < keys.end; first += Shared::keys) {
    if (threadIdx.x == 0) tiles.not_finite = 0;
    __syncthreads();  // the last tiles are used up, the flag is down
    load_rows(k, first, tiles.k);
    load_values(v, first, tiles);
    __syncthreads();
    float weights[Shared::score_tiles][4] = {};
    score<T>(tiles, row, lane, weights);
    weigh(p, query, first, lane, weights, state);
    mix<T>(tiles, lane, weights, state);
    if (tiles.not_finite) add_not_finite(p, v, query, first, lane, state);
    __syncthreads();  // all have read the flag
  }
  store<T>(p, task, query, lane, state);
}

// ---- float32 ----

template <int width>
struct PlainTiles {
  static constexpr int queries = 32, keys = 32, lanes = threads / queries;  // lanes that share a query row
  float q[queries][width + 1], kv[keys][width + 1], weights[queries][keys + 1];
};
constexpr float hidden = -1;  // in place of a weight

template <int rows, int columns>
__device__ void load_rows(const Rows<const float>& from, int64_t first, float (&to)[rows][columns]) {
#pragma unroll 8
  for (int i = threadIdx.x; i < rows * (columns - 1); i += threads)
    to[i / (columns - 1)][i % (columns - 1)] = from.at(first + i / (columns - 1), i % (columns - 1));
}

// This lane's weights, of keys lane, lane + 4, ..., go to shared memory; returns the factor for what was summed before.
template <int width>
__device__ float plain_weights(const Problem& p, int64_t query, int64_t first_key, int row, int lane,
                               PlainTiles<width>& tiles, Softmax& softmax) {
  constexpr int own = PlainTiles<width>::keys / PlainTiles<width>::lanes;
  float scores[own] = {}, largest = -INFINITY;
#pragma unroll 8
  for (int d = 0; d < width; ++d)
#pragma unroll
    for (int i = 0; i < own; ++i) scores[i] = fmaf(tiles.q[row][d], tiles.kv[lane + i * tiles.lanes][d], scores[i]);
  const float scale = p.scale * log2_e;
#pragma unroll
  for (int i = 0; i < own; ++i) {
    scores[i] = visible(p, query, first_key + lane + i * tiles.lanes) ? scores[i] * scale : -INFINITY;
    largest = fmaxf(largest, scores[i]);
  }
  const float factor = softmax.raise(quad_largest(largest));
#pragma unroll
  for (int i = 0; i < own; ++i) {
    const float weight = exp2f(scores[i] - softmax.base());
    softmax.sum += weight;
    const bool seen = visible(p, query, first_key + lane + i * tiles.lanes);
    tiles.weights[row][lane + i * tiles.lanes] = seen ? weight : hidden;
  }
  return factor;
}

template <int width>
__global__ void __launch_bounds__(threads) plain_kernel(Problem p) {
  using Shared = PlainTiles<width>;
  constexpr int own = width / Shared::lanes;
  Shared& tiles = *reinterpret_cast<Shared*>(cuda::shared_memory());
  const Task task = task_of(p, blockIdx.x, Shared::queries);
  const auto k = rows_of<float>(p, p.k, p.k_strides, task.batch, task.kv_head, p.kv_len);
  const auto v = rows_of<float>(p, p.v, p.v_strides, task.batch, task.kv_head, p.kv_len);
  const int row = threadIdx.x / Shared::lanes, lane = threadIdx.x % Shared::lanes;
  const int64_t query = task.first_query + row;
  float out[own] = {};
  Softmax softmax;
  load_rows(rows_of<float>(p, p.q, p.q_strides, task.batch, task.head, p.q_len), task.first_query, tiles.q);
  const Keys keys = keys_of(p, task.first_query, Shared::queries, Shared::keys);
  for (int64_t first = keys.begin; first < keys.end; first += Shared::keys) {
    __syncthreads();  // the last values are used up
    load_rows(k, first, tiles.kv);
    __syncthreads();
    const float factor = plain_weights(p, query, first, row, lane, tiles, softmax);
    __syncthreads();  // the keys are used up and the weights written: values take the keys' place
    load_rows(v, first, tiles.kv);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < own; ++i) out[i] *= factor;
    for (int key = 0; key < Shared::keys; ++key) {
      const float weight = tiles.weights[row][key];
      if (weight == hidden) continue;  // 0 would turn a hidden Inf into NaN
#pragma unroll
      for (int i = 0; i < own; ++i) out[i] = fmaf(weight, tiles.kv[key][lane + i * Shared::lanes], out[i]);
    }
  }
  softmax.sum = quad_sum(softmax.sum);
#pragma unroll
  for (int i = 0; i < own; ++i) store_row<float>(p, task, query, lane + i * Shared::lanes, out[i] * softmax.scale());
  if (lane == 0) store_lse(p, task, query, softmax);
}

int launch(void (*kernel)(Problem), int queries, size_t shared_bytes, const Problem& p, uintptr_t stream) {
  const int64_t blocks = p.batch * p.heads * cuda::blocks_for(p.q_len, queries);
  return blocks ? cuda::launch(kernel, blocks, threads, shared_bytes, stream, p)
                : 0;  // a launch of no blocks is an error
}

template <class T, int width>
int run_tiles(const Problem& p, uintptr_t stream) {
  if constexpr (sizeof(T) == sizeof(float))
    return launch(plain_kernel<width>, PlainTiles<width>::queries, sizeof(PlainTiles<width>), p, stream);
  else
    return launch(tensor_kernel<T, width>, Tiles<width>::queries, sizeof(Tiles<width>), p, stream);
}

template <class T>
int run_type(const Problem& p, uintptr_t stream) {
  if (p.head_dim <= 32) return run_tiles<T, 32>(p, stream);
  if (p.head_dim <= 64) return run_tiles<T, 64>(p, stream);
  if (p.head_dim <= 128) return run_tiles<T, 128>(p, stream);
  return run_tiles<T, 256>(p, stream);
}

int run(const Problem& p, uintptr_t stream) {
  switch (p.dtype) {
    case DType::bfloat16:
      return run_type<Bfloat16>(p, stream);
    case DType::float16:
      return run_type<Float16>(p, stream);
    default:
      return run_type<float>(p, stream);
  }
}

}  // namespace

extern const cuda::Variant<Problem> sm80;
const cuda::Variant<Problem> sm80 = {"sm80", run};

}  // namespace pyhpc::attention
