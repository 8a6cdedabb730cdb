// Products of 16-bit operands whose result is of 16 bits too: the whole sum in float32, rounded once, to nearest even.
// It is made in float32 memory beside out and narrowed from there, in pieces of at most `scratch_bytes`; to read and
// write that memory costs little beside a product that is worth the time.
#pragma once
#include "core/workspace.h"
#include "matmul/blocked.h"

namespace pyhpc::matmul {
namespace {

constexpr int64_t scratch_bytes = 64 << 20;
constexpr int64_t least_rows = 512;  // of a piece: b is packed again for each

// float32 -> 16 bits, to nearest even, as IEEE 754 says; NaN stays NaN, quiet.
template <class Output, int bytes>
struct Narrow {
  using Bits = Vector<uint32_t, bytes>;
  static constexpr int lanes = bytes / 4;

  static void store(const float* from, Output* to, int64_t step, int64_t count) {
    float near[lanes] = {};
    const bool whole = count >= lanes;
    if (!whole) memcpy(near, from, sizeof(float) * count);
    const auto half =
        __builtin_convertvector(rounded(load<Bits>(whole ? from : near), Output{}), Vector<uint16_t, bytes / 2>);
    if (whole && step == 1) {
      memcpy(to, &half, sizeof half);
      return;
    }
    for (int64_t i = 0; i < lanes && i < count; ++i) to[i * step].bits = half[i];
  }

 private:
  static Bits choose(Bits mask, Bits yes, Bits no) { return (mask & yes) | (~mask & no); }

  static Bits rounded(Bits value, BFloat16) {
    const Bits nearest = (value + 0x7fffu + ((value >> 16) & 1u)) >> 16;
    const Bits is_nan = reinterpret_cast<Bits>((value & 0x7fffffffu) > 0x7f800000u);
    return choose(is_nan, (value >> 16) | 0x40u, nearest);
  }

  static Bits rounded(Bits value, Float16) {
    const Bits sign = (value >> 16) & 0x8000u, size = value & 0x7fffffffu;
    const Bits normal = ((size + 0xfffu + ((size >> 13) & 1u)) >> 13) - (112u << 10);
    // Below 2^-14 results are multiples of 2^-24, the distance of neighbours of 1/2: adding it rounds.
    const Vector<float, bytes> shifted = reinterpret_cast<Vector<float, bytes>>(size) + 0.5f;
    const Bits subnormal = reinterpret_cast<Bits>(shifted) - 0x3f000000u;
    const Bits is_subnormal = reinterpret_cast<Bits>(size < (113u << 23));
    const Bits is_large = reinterpret_cast<Bits>(size >= 0x477ff000u);  // 65520 and more round to infinity
    const Bits is_nan = reinterpret_cast<Bits>(size > 0x7f800000u);
    const Bits finite = choose(is_subnormal, subnormal, normal);
    const Bits special = choose(is_nan, 0x7e00u | ((size >> 13) & 0x1ffu), Bits{} + 0x7c00u);
    return sign | choose(is_large, special, finite);
  }
};

// The rows of `wide`, (items, m, n) and contiguous, to those of problem.out or, `widening`, the other way.
template <class Output, int bytes>
void copy_rows(const Problem& problem, int64_t items, float* wide, bool widening, int threads) {
  in_parallel(threads, [&](Team team) {
    const Range mine = part(items * problem.m, 1, team.rank, team.size);
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      int64_t item = row / problem.m, at = row % problem.m * problem.out_row;
      for (int i = problem.batch_ndim - 1; i >= 0; --i) {
        at += item % problem.batch_shape[i] * problem.out_batch[i];
        item /= problem.batch_shape[i];
      }
      Output* out = static_cast<Output*>(problem.out) + at;
      float* from = wide + row * problem.n;
      constexpr int lanes = bytes / 4;
      for (int64_t j = 0; j < problem.n; j += lanes) {
        Output* to = out + j * problem.out_column;
        if (widening) {
          const auto words = gather<float, Output, bytes>(to, problem.out_column, problem.n - j);
          memcpy(from + j, &words, sizeof(float) * smaller(lanes, problem.n - j));
        } else {
          Narrow<Output, bytes>::store(from + j, to, problem.out_column, problem.n - j);
        }
      }
    }
  });
}

// One piece, into `wide` and from there to out.
template <class Output, int bytes, class Run>
bool narrow_piece(const Problem& piece, int64_t items, float* wide, int threads, const Run& run) {
  Problem product = piece;
  product.narrow = false, product.out = wide;
  product.out_column = 1, product.out_row = piece.n;
  int64_t step = piece.m * piece.n;
  for (int i = piece.batch_ndim - 1; i >= 0; --i) product.out_batch[i] = step, step *= piece.batch_shape[i];
  const bool shared = static_cast<double>(items) * piece.m * piece.n > least_shared_work;
  const int copiers = shared ? threads : 1;
  if (piece.accumulate) copy_rows<Output, bytes>(piece, items, wide, true, copiers);
  if (!run(product, threads)) return false;
  copy_rows<Output, bytes>(piece, items, wide, false, copiers);
  return true;
}

// run(problem, threads), which computes float32, for a problem whose out is 16-bit.
template <class Output, int bytes, class Run>
bool narrowed(const Problem& problem, int threads, const Run& run) {
  int64_t items = 1;
  for (int i = 0; i < problem.batch_ndim; ++i) items *= problem.batch_shape[i];
  if (items == 0 || problem.m == 0 || problem.n == 0) return true;
  const int64_t row_bytes = problem.n * static_cast<int64_t>(sizeof(float));
  const bool whole = items * problem.m * row_bytes <= scratch_bytes;
  int64_t rows = scratch_bytes / row_bytes;
  rows = smaller(problem.m, rows < least_rows ? least_rows : rows);
  auto* wide = static_cast<float*>(workspace(2, (whole ? items * problem.m : rows) * row_bytes));
  if (!wide) return false;
  if (whole) return narrow_piece<Output, bytes>(problem, items, wide, threads, run);
  for (int64_t item = 0; item < items; ++item) {
    Problem piece = problem;
    piece.batch_ndim = 0;
    const Output *a = static_cast<const Output*>(problem.a), *b = static_cast<const Output*>(problem.b);
    auto* out = static_cast<Output*>(problem.out);
    int64_t rest = item;
    for (int i = problem.batch_ndim - 1; i >= 0; --i) {
      const int64_t index = rest % problem.batch_shape[i];
      rest /= problem.batch_shape[i];
      a += index * problem.a_batch[i], b += index * problem.b_batch[i], out += index * problem.out_batch[i];
    }
    piece.b = b;
    for (int64_t i = 0; i < problem.m; i += rows) {
      piece.m = smaller(rows, problem.m - i);
      piece.a = a + i * problem.a_row, piece.out = out + i * problem.out_row;
      if (!narrow_piece<Output, bytes>(piece, 1, wide, threads, run)) return false;
    }
  }
  return true;
}

// run(problem, threads), or through float32 where out is narrower.
template <class Target, class Run>
bool with_any_output(const Problem& problem, int threads, const Run& run) {
  constexpr int bytes = Target::vector_bytes;
  if (!problem.narrow) return run(problem, threads);
  if (problem.dtype == DType::bfloat16) return narrowed<BFloat16, bytes>(problem, threads, run);
  return narrowed<Float16, bytes>(problem, threads, run);
}

}  // namespace
}  // namespace pyhpc::matmul
