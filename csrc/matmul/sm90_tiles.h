// The order in which a persistent grid visits the tiles of a batch of matrices, and the ring of stages. Host and
// device.
#pragma once
#include <stdint.h>

#if defined(__CUDACC__)
#define PYHPC_HOST_DEVICE __host__ __device__
#else
#define PYHPC_HOST_DEVICE
#endif

namespace pyhpc::matmul::sm90_tiles {

// A step is what a cluster computes at once: `cluster_rows` tiles below each other. Steps go down a band of `band`
// steps, then to the next column: the tiles in flight at one time cover a compact rectangle of the output, whose
// operands stay in L2.
struct Order {
  int rows, columns, batches;  // tiles
  int cluster_rows;            // 1 or 2
  int band;                    // steps
};

struct Place {
  int row, column, batch;  // of the tile of the cluster's first block
};

PYHPC_HOST_DEVICE inline int step_rows(const Order& order) {
  return (order.rows + order.cluster_rows - 1) / order.cluster_rows;
}

PYHPC_HOST_DEVICE inline int64_t steps(const Order& order) {
  return static_cast<int64_t>(step_rows(order)) * order.columns * order.batches;
}

// The steps of all matrices are fewer than 2^31: the producer has 40 registers, too few for divisions in 64 bits.
PYHPC_HOST_DEVICE inline Place place_of(const Order& order, int step) {
  const int rows = step_rows(order), per_matrix = rows * order.columns, in_matrix = step % per_matrix;
  const int band = rows < order.band ? rows : order.band, per_band = band * order.columns;
  const int first = in_matrix / per_band * band, in_band = in_matrix % per_band;
  const int height = rows - first < band ? rows - first : band;
  return {(first + in_band % height) * order.cluster_rows, in_band / height, step / per_matrix};
}

// The stages are used in turn; each turn around the ring flips the parity of the phase to wait for.
template <int stages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  PYHPC_HOST_DEVICE void advance() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

}  // namespace pyhpc::matmul::sm90_tiles
