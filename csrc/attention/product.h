// The product that all of attention's loops are made of, in registers, and the layouts of what it reads:
//
//   sums[i][v] += Σ_step from[step · step_stride + i · item_stride] · with[step · row + v · lanes …]
//
// One side is broadcast word by word, the other read as vectors of words; a word is S::terms elements, and products of
// words are sums of products. All strides are constants, so that no instruction is spent on addresses; the loop is
// unrolled by 4, the number of steps a multiple of it.
#pragma once
#include "attention/pack.h"

namespace pyhpc::attention {
namespace {

// Floats between rows of a packed block, both an odd number of 64-byte lines: the rows spread over all L1 sets.
constexpr int key_stride = 112, value_stride = 272;
static_assert(key_stride >= key_block && value_stride >= max_head_dim, "a row holds all keys or all columns");

// Words of columns of Q^T that stay in L1 while all keys of a block pass by.
constexpr int score_words = 64;

// Keys are taken in steps that are whole tiles and whole rounds of the unrolled loop.
template <class S>
constexpr int key_step = S::tile % (4 * S::terms) == 0   ? S::tile
                         : S::tile % (2 * S::terms) == 0 ? 2 * S::tile
                                                         : 4 * S::tile;

template <class S, int step_stride, int item_stride, int row, int count, int vectors>
inline __attribute__((always_inline)) void multiply(const float* from, const float* with, int steps,
                                                    typename S::Vec (&sums)[count][vectors]) {
  for (int step = 0; step < steps; step += 4) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      typename S::Vec x[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) x[v] = S::load(with + u * row + v * S::lanes);
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) {
        const typename S::Vec factor = S::splat(from[u * step_stride + i * item_stride]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[i][v] = S::multiply_add(sums[i][v], factor, x[v]);
      }
    }
    from += 4 * step_stride, with += 4 * row;
  }
}

}  // namespace
}  // namespace pyhpc::attention
