// How sm90.cu cuts a product into tiles: a cost model in clocks of a multiprocessor, tried on every candidate. Plain
// C++, no CUDA; explain() prints the candidates.
//
//   clocks = launch + fill + waves × (stages of k × slowest of {matrix unit, shared memory, L2} + store)
//            and no less than the bytes of a, b and out take through device memory
//
// The constants are of an H200 and are worked out, not measured: a change of one shows as a change of rank. To measure
// another candidate, name it in the environment: PYHPC_SM90_PLAN="columns,cluster rows,split,exchanged", as 256,2,1,0;
// a fifth number is the rows, if they are not 128.
#pragma once
#include <stdint.h>
#include <stdio.h>

#include <initializer_list>

#include "matmul/sm90_tiles.h"

namespace pyhpc::matmul::sm90_plan {

constexpr int tiles[][2] = {{128, 256}, {128, 128}, {128, 64}};  // rows, columns
constexpr int promoted_tiles[][2] = {{256, 128}, {128, 128}};    // with scales along k: two sets of sums
constexpr int line_bytes = 128, largest_split = 8;               // of a stage along k
constexpr double product_bytes_per_clock = 4096;  // bytes of a's element per multiply-add: m64n256k16 in 128 clocks
constexpr double shared_bytes_per_clock = 128;    // of one multiprocessor
constexpr double l2_bytes_per_clock = 6144;       // to all multiprocessors
constexpr double memory_bytes_per_clock = 2870;   // 4.3 TB/s at 1.5 GHz, the clock under load
constexpr double peer_bytes_per_clock = 32;       // from another block's shared memory
constexpr double launch_clocks = 3000, fill_clocks = 1500, cluster_clocks = 1000;
constexpr double clocks_per_microsecond = 1500;

// What is to be multiplied, as it is or with a and b exchanged (out^T = b^T a^T).
struct Shape {
  int64_t m, n, k, batches;
  int bytes, out_bytes;  // of an element of a and b, and of out
  bool scaled_along_k;
  bool by_box[2];  // whether the copy engine can write out: as it is, exchanged
  int multiprocessors;
};

struct Plan {
  bool exchanged;
  int rows, columns, cluster_rows, split, band;
  bool by_box;
  double clocks;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline double larger(double a, double b) { return a > b ? a : b; }

inline int64_t stages_of(const Shape& shape) { return ceil_div(shape.k * shape.bytes, line_bytes); }

// Blocks that run at one time in clusters of this size: a cluster lies in one GPC, whose odd multiprocessors stay idle.
// Clusters of 8 were seen to reach 120 of 132.
inline int64_t slots(const Shape& shape, int cluster) {
  const int usable = cluster <= 2   ? shape.multiprocessors
                     : cluster <= 4 ? shape.multiprocessors * 128 / 132
                                    : shape.multiprocessors * 120 / 132;
  return larger(usable / cluster, 1) * cluster;
}

inline sm90_tiles::Order order_of(const Shape& shape, const Plan& plan) {
  const int64_t m = plan.exchanged ? shape.n : shape.m, n = plan.exchanged ? shape.m : shape.n;
  return {static_cast<int>(ceil_div(m, plan.rows)), static_cast<int>(ceil_div(n, plan.columns)),
          static_cast<int>(shape.batches), plan.cluster_rows, plan.band};
}

// The band whose wave of tiles reads the fewest rows of a and columns of b.
inline int best_band(const Shape& shape, const Plan& plan) {
  const int64_t wave = slots(shape, plan.cluster_rows * plan.split) / (plan.cluster_rows * plan.split);
  int best = 1;
  int64_t fewest = INT64_MAX;
  for (int band = 1; band <= 32; band *= 2) {
    const int64_t read = band * plan.cluster_rows * plan.rows + ceil_div(wave, band) * plan.columns;
    if (read < fewest) fewest = read, best = band;
  }
  return best;
}

// Clocks for one stage of k in one block, `active` blocks at a time.
inline double stage_clocks(const Plan& plan, double active) {
  const double a = plan.rows * line_bytes, b = plan.columns * line_bytes;
  const double matrix = a * plan.columns / product_bytes_per_clock;
  const double shared = (a + 2 * b + a + b) / shared_bytes_per_clock;  // b is read by both consumers; both are written
  const double l2 = (a + b / plan.cluster_rows) * active / l2_bytes_per_clock;
  return larger(larger(matrix, shared), l2);
}

inline double store_clocks(const Shape& shape, const Plan& plan) {
  const double elements = static_cast<double>(plan.rows) * plan.columns;
  const double direct = elements / 4;  // a warp's store meets 8 sectors, one a clock
  if (plan.split > 1)
    return cluster_clocks + elements * 4 / shared_bytes_per_clock + elements * 4 / peer_bytes_per_clock +
           direct / plan.split;
  return plan.by_box ? 2 * elements * shape.out_bytes / shared_bytes_per_clock : direct;
}

inline double clocks(const Shape& shape, const Plan& plan) {
  const int cluster = plan.cluster_rows * plan.split;
  const int64_t blocks = sm90_tiles::steps(order_of(shape, plan)) * cluster, at_once = slots(shape, cluster);
  const double waves = static_cast<double>(ceil_div(blocks, at_once));
  const double stages = static_cast<double>(ceil_div(stages_of(shape), plan.split));
  const double active = static_cast<double>(blocks < at_once ? blocks : at_once);
  const double work = waves * (stages * stage_clocks(plan, active) + store_clocks(shape, plan));
  const double bytes =
      static_cast<double>(shape.batches) * (static_cast<double>(shape.bytes) * (shape.m + shape.n) * shape.k +
                                            static_cast<double>(shape.out_bytes) * shape.m * shape.n);
  return launch_clocks + fill_clocks + larger(work, bytes / memory_bytes_per_clock);
}

// Calls use(plan) for every candidate.
template <class Use>
void for_each(const Shape& shape, Use use) {
  constexpr int modes[][2] = {{2, 1}, {1, 1}, {1, 2}, {1, 4}, {1, 8}};  // cluster_rows, split
  const auto try_tile = [&](bool exchanged, const int (&tile)[2]) {
    for (const auto& mode : modes) {
      Plan plan = {exchanged, tile[0], tile[1], mode[0], mode[1], 1, mode[1] == 1 && shape.by_box[exchanged], 0};
      // A split pays where all blocks run at once; the kernel relies on it (one tile per cluster).
      if (plan.split > 1 && (stages_of(shape) < plan.split ||
                             sm90_tiles::steps(order_of(shape, plan)) * plan.split > slots(shape, plan.split)))
        continue;
      plan.band = best_band(shape, plan);
      plan.clocks = clocks(shape, plan);
      use(plan);
    }
  };
  if (shape.scaled_along_k)  // the scales of a and b are of different blocks: no exchange
    for (const auto& tile : promoted_tiles) try_tile(false, tile);
  else
    for (const bool exchanged : {false, true})
      for (const auto& tile : tiles) try_tile(exchanged, tile);
}

// The fastest candidate; of equals the first.
inline Plan best(const Shape& shape) {
  Plan found = {};
  for_each(shape, [&](const Plan& plan) {
    if (found.columns == 0 || plan.clocks < found.clocks) found = plan;
  });
  return found;
}

// The candidate that `name` describes, or, without a name, the best. No columns: there is no such candidate.
inline Plan chosen(const Shape& shape, const char* name) {
  if (!name || !*name) return best(shape);
  int columns = 0, cluster_rows = 0, split = 0, exchanged = 0, rows = 128;
  Plan found = {};
  if (sscanf(name, "%d,%d,%d,%d,%d", &columns, &cluster_rows, &split, &exchanged, &rows) < 4) return found;
  for_each(shape, [&](const Plan& plan) {
    if (plan.columns == columns && plan.rows == rows && plan.cluster_rows == cluster_rows && plan.split == split &&
        plan.exchanged == (exchanged != 0))
      found = plan;
  });
  return found;
}

// Every candidate with its time, a line each, the chosen one marked. Returns the length, as snprintf.
inline int explain(const Shape& shape, char* text, int size) {
  const Plan fastest = best(shape);
  int length = snprintf(text, static_cast<size_t>(size), "  tile     a,b       cluster  split  band  store   us\n");
  for_each(shape, [&](const Plan& plan) {
    const bool marked = plan.exchanged == fastest.exchanged && plan.rows == fastest.rows &&
                        plan.columns == fastest.columns && plan.cluster_rows == fastest.cluster_rows &&
                        plan.split == fastest.split;
    const int left = length < size ? size - length : 0;
    length += snprintf(left ? text + length : nullptr, static_cast<size_t>(left),
                       "%c %dx%-3d  %-9s %7d %6d %5d  %-6s %.1f\n", marked ? '*' : ' ', plan.rows, plan.columns,
                       plan.exchanged ? "exchanged" : "as given", plan.cluster_rows, plan.split, plan.band,
                       plan.by_box ? "box" : "direct", plan.clocks / clocks_per_microsecond);
  });
  return length;
}

}  // namespace pyhpc::matmul::sm90_plan
