// Whether two strided arrays share memory, and whether one array's elements share memory with each other.
// Host code for bindings. Exact for arrays that are blocks, slices or views of each other in any practical sense; where
// that would need too long a search the answer is the careful one, "yes".
#pragma once
#include <stdint.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "core/array.h"

namespace pyhpc {
namespace overlap_detail {

// The elements of an array as a box: strides in bytes, positive, largest first, dimensions of one element left out.
struct Box {
  uintptr_t begin = 0;
  int64_t itemsize = 0;
  int ndim = 0;
  int64_t shape[Array::max_ndim] = {}, strides[Array::max_ndim] = {};

  explicit Box(const Array& array)
      : begin(reinterpret_cast<uintptr_t>(array.data)), itemsize(pyhpc::itemsize(array.dtype)) {
    for (int i = 0; i < array.ndim; ++i) {
      if (array.shape[i] == 1) continue;
      const int64_t step = array.strides[i] * itemsize;
      if (step < 0) begin += step * (array.shape[i] - 1);
      int at = ndim++;
      for (; at > 0 && strides[at - 1] < std::abs(step); --at) shape[at] = shape[at - 1], strides[at] = strides[at - 1];
      shape[at] = array.shape[i], strides[at] = std::abs(step);
    }
  }
  int64_t extent(int from = 0) const {  // bytes from the first to the end of the last element
    int64_t bytes = itemsize;
    for (int i = from; i < ndim; ++i) bytes += (shape[i] - 1) * strides[i];
    return bytes;
  }
  bool dense() const {
    return ndim == 0 ||
           (strides[ndim - 1] <= itemsize && extent() == itemsize + (shape[0] - 1) * strides[0] && ndim == 1);
  }
};

// Halves the larger box until the two are apart or both are dense ranges; `budget` bounds the steps.
inline bool meet(const Box& x, const Box& y, int& budget) {
  if (x.begin + x.extent() <= y.begin || y.begin + y.extent() <= x.begin) return false;
  if ((x.dense() && y.dense()) || --budget < 0) return true;
  const bool split_x = !x.dense() && (y.dense() || x.extent() >= y.extent());
  Box low = split_x ? x : y;
  const Box& other = split_x ? y : x;
  Box high = low;
  const int64_t half = low.shape[0] / 2;
  low.shape[0] = half, high.shape[0] -= half, high.begin += half * low.strides[0];
  for (Box* part : {&low, &high})
    if (part->shape[0] == 1) {
      --part->ndim;
      std::copy(part->shape + 1, part->shape + 1 + part->ndim, part->shape);
      std::copy(part->strides + 1, part->strides + 1 + part->ndim, part->strides);
    }
  return meet(low, other, budget) || meet(high, other, budget);
}

// The bytes from the first to the end of the last element; nothing for an empty array.
struct Bytes {
  uintptr_t begin = 0, end = 0;

  explicit Bytes(const Array& array) {
    const int64_t item = itemsize(array.dtype);
    uintptr_t low = reinterpret_cast<uintptr_t>(array.data), high = low + item;
    for (int i = 0; i < array.ndim; ++i) {
      if (array.shape[i] == 0) return;
      const int64_t reach = (array.shape[i] - 1) * array.strides[i] * item;
      (reach < 0 ? low : high) += reach;
    }
    begin = low, end = high;
  }
};

// Whether each dimension steps over all that the later ones span, as in slices of a C-contiguous array.
inline bool nested(const Array& array) {
  int64_t extent = 1;
  for (int i = array.ndim - 1; i >= 0; --i) {
    const int64_t step = std::abs(array.strides[i]);
    if (array.shape[i] > 1 && step < extent) return false;
    extent += (array.shape[i] - 1) * step;
  }
  return true;
}

}  // namespace overlap_detail

// Whether any byte belongs to both arrays (of the same device).
inline bool share_memory(const Array& x, const Array& y) {
  const overlap_detail::Bytes first(x), second(y);
  if (first.end <= second.begin || second.end <= first.begin) return false;
  const overlap_detail::Box a(x), b(y);
  // All elements lie on combs of the strides' common divisor: interleaved slices never meet.
  int64_t comb = 0;
  for (int i = 0; i < a.ndim; ++i) comb = std::gcd(comb, a.strides[i]);
  for (int i = 0; i < b.ndim; ++i) comb = std::gcd(comb, b.strides[i]);
  if (comb > 0) {
    const int64_t offset = (static_cast<int64_t>(b.begin - a.begin) % comb + comb) % comb;
    if (offset >= a.itemsize && offset + b.itemsize <= comb) return false;
  }
  int budget = 200000;
  return overlap_detail::meet(a, b, budget);
}

// Whether two different indices of the array can name the same memory, as a stride of 0 makes them.
inline bool overlaps_itself(const Array& array) {
  if (array.size() == 0 || overlap_detail::nested(array)) return false;
  const overlap_detail::Box box(array);
  for (int i = 0; i < box.ndim; ++i)
    if (box.strides[i] < box.extent(i + 1)) return true;
  return false;
}

}  // namespace pyhpc
