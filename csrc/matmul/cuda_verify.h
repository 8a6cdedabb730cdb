// A checked product on a GPU: makes it, compares the sum of every row of out with the product's (verify.h), and tells
// of the first wrong row all that names the element: the row again in float64, and which tiles cover it. Waits for the
// GPU.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "core/cuda_device.h"
#include "matmul/cuda_sums.h"
#include "matmul/tile_log.h"
#include "matmul/verify.h"

namespace pyhpc::matmul {

// Memory of the current GPU for `count` elements.
template <class T>
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t count, uintptr_t stream)
      : count(count),
        stream(stream),
        memory(static_cast<T*>(cuda::allocate(std::max<size_t>(1, count * sizeof(T)))), cuda::release) {}
  T* data() const { return memory.get(); }
  // After the work before it in the stream.
  std::vector<T> fetch(int64_t from = 0, int64_t elements = -1) const {
    std::vector<T> host(elements < 0 ? count : elements);
    if (!host.empty()) cuda::copy(host.data(), data() + from, host.size() * sizeof(T), stream);
    cuda::synchronize(stream);
    return host;
  }

 private:
  int64_t count;
  uintptr_t stream;
  std::unique_ptr<T, void (*)(void*) noexcept> memory;
};

// The first wrong row, counted over the batch, or -1.
struct WrongRow {
  int64_t row = -1;
  std::vector<double> again;   // n × 3: product, the sum of its terms' absolute values, out
  std::vector<double> before;  // n: what out held before the product was added to it
  std::vector<TileRecord> tiles;
};

// `run(records)` enqueues the product and writes `record_count` records, none if that is 0.
template <class Run>
WrongRow run_checked(const Problem& problem, int64_t record_count, uintptr_t stream, Run run) {
  const int64_t rows = batch_size(problem) * problem.m, n = problem.n;
  const DeviceMemory<TileRecord> records(record_count, stream);
  const auto make = [&] { cuda::check(run(record_count ? records.data() : nullptr), "launching matmul"); };
  if (rows * n == 0) return make(), WrongRow();
  const auto check = [](int status) { cuda::check(status, "launching the check of matmul"); };
  const DeviceMemory<double> weights(2 * batch_size(problem) * problem.k, stream), told(2 * rows, stream);
  const auto sums = [&](bool of_output) {
    check(enqueue_row_sums(problem, of_output, weights.data(), told.data(), stream));
    return told.fetch();
  };
  const DeviceMemory<double> held(problem.accumulate ? rows * n : 0, stream);
  std::vector<double> before(2 * rows);
  if (problem.accumulate) before = sums(true), check(enqueue_values(problem, held.data(), stream));
  make();
  const std::vector<double> expected = sums(false), found = sums(true);
  const Judge judge(problem, cuts_off);
  WrongRow wrong;
  for (int64_t row = 0; row < rows && wrong.row < 0; ++row)
    if (!judge.right(&expected[2 * row], &found[2 * row], &before[2 * row])) wrong.row = row;
  if (wrong.row < 0) return wrong;
  const DeviceMemory<double> again(3 * n, stream);
  check(enqueue_row(problem, wrong.row, again.data(), stream));
  wrong.again = again.fetch();
  wrong.before = problem.accumulate ? held.fetch(wrong.row * n, n) : std::vector<double>(n);
  const uint64_t item = wrong.row / problem.m, i = wrong.row % problem.m;
  for (const TileRecord& tile : records.fetch()) {
    const uint64_t height = tile.extent >> 32 & 0x7fffffff;
    if (tile.batch == item && tile.row <= i && i - tile.row < height) wrong.tiles.push_back(tile);
  }
  return wrong;
}

}  // namespace pyhpc::matmul
