// Matrix product on Hopper's tensor cores (sm_90a). float sums of bfloat16 and float16 of any transposition, and, with
// a and b contiguous along k, of TF32 and of E4M3 and E5M2 with scales; int32 sums of int8, contiguous along k. The
// kernel is in sm90_kernel.h, the choice of tiles in sm90_plan.h, what it refuses in sm90_operand.h. Allocates nothing
// and waits for nothing: a launch can be captured in a graph.
#include <stdlib.h>

#include "core/cuda_tensor_map.h"
#include "core/cuda_variant.h"
#include "matmul/sm90_kernel.h"
#include "matmul/sm90_operand.h"
#include "matmul/sm90_plan.h"
#include "matmul/tile_log.h"

namespace pyhpc::matmul {
namespace {

constexpr int invalid_value = 1;  // cudaErrorInvalidValue

using cuda::TensorMap;
using hopper::Tile;
using hopper::Work;
using sm90_operand::Operand;
using sm90_plan::Plan;
using sm90_plan::Shape;
namespace wgmma = cuda::wgmma;

Shape planned_shape(const Problem& problem, int multiprocessors) {
  return {problem.m,
          problem.n,
          problem.k,
          sm90_operand::batches(problem),
          itemsize(problem.dtype),
          itemsize(problem.out_dtype),
          problem.scales.along_k,
          {sm90_operand::out_by_box(problem), sm90_operand::out_by_box(sm90_operand::transposed(problem))},
          multiprocessors};
}

// The operand's map, with boxes of what one copy moves (hopper::load).
int encode(const Operand& x, const Problem& problem, int64_t batches, int extent, int sharers, TensorMap& map) {
  using sm90_operand::stride_for;
  const int64_t unit = sm90_operand::alignment / x.bytes;
  const bool along_k = sm90_operand::can_lie_along_k(x), batched = x.batch_stride != 0 && batches > 1;
  const int64_t lines = along_k ? x.mn : x.k, line_stride = along_k ? x.mn_stride : x.k_stride;
  return cuda::encode_tensor({x.data,
                              problem.dtype,
                              {along_k ? x.k : x.mn, lines, batched ? batches : 1},
                              {stride_for(line_stride, lines, unit), batched ? x.batch_stride : unit},
                              {wgmma::line_bytes / x.bytes, (along_k ? extent : wgmma::block_lines) / sharers},
                              problem.tf32},
                             map);
}

int encode_out(const Problem& problem, int64_t batches, TensorMap& map) {
  using sm90_operand::stride_for;
  const int bytes = itemsize(problem.out_dtype);
  const int64_t unit = sm90_operand::alignment / bytes;
  return cuda::encode_tensor({problem.out,
                              problem.out_dtype,
                              {problem.n, problem.m, batches},
                              {stride_for(problem.out_row, problem.m, unit),
                               stride_for(sm90_operand::last(problem, problem.out_batch, unit), batches, unit)},
                              {wgmma::line_bytes / bytes, wgmma::m}},
                             map);
}

// How and where a product is enqueued.
struct Launch {
  Plan plan;
  int multiprocessors;
  TileLog log;
  uintptr_t stream;
};

Work work_of(const Problem& problem, const Shape& shape, const Launch& how) {
  const Plan& plan = how.plan;
  Work work = {};
  work.order = sm90_plan::order_of(shape, plan);
  work.m = problem.m, work.n = problem.n;
  work.k_blocks = static_cast<int>(cuda::blocks_for(problem.k * itemsize(problem.dtype), wgmma::line_bytes));
  work.split = plan.split;
  work.a_batched = sm90_operand::last(problem, problem.a_batch, 0) != 0;
  work.b_batched = sm90_operand::last(problem, problem.b_batch, 0) != 0;
  work.out = problem.out, work.out_dtype = problem.out_dtype, work.scales = problem.scales;
  work.out_row = problem.out_row, work.out_column = problem.out_column;
  work.out_batch = sm90_operand::last(problem, problem.out_batch, 0);
  work.accumulate = problem.accumulate, work.by_box = plan.by_box;
  work.exchanged = plan.exchanged, work.log = how.log;
  return work;
}

template <class Tile>
int launch_tile(const Problem& problem, const Shape& shape, const Launch& how) {
  const Plan& plan = how.plan;
  const Work work = work_of(problem, shape, how);
  const int64_t batches = shape.batches;
  TensorMap a = {}, b = {}, out = {};
  int status = encode(sm90_operand::operand_a(problem), problem, batches, Tile::rows, 1, a);
  if (!status) status = encode(sm90_operand::operand_b(problem), problem, batches, Tile::columns, plan.cluster_rows, b);
  if (!status && plan.by_box) status = encode_out(problem, batches, out);
  if (status) return status;
  const int cluster = plan.cluster_rows * plan.split;
  const int64_t blocks = sm90_tiles::steps(work.order) * cluster, at_once = sm90_plan::slots(shape, cluster);
  return cuda::launch_clusters(hopper::kernel<Tile>, blocks < at_once ? blocks : at_once, cluster, hopper::threads,
                               Tile::shared_bytes, how.stream, a, b, out, work);
}

template <class T, int columns>
int launch_columns(const Problem& problem, const Shape& shape, const Launch& how) {
  if constexpr (sizeof(T) == 2) {
    const bool a_along_m = !sm90_operand::can_lie_along_k(sm90_operand::operand_a(problem));
    const bool b_along_n = !sm90_operand::can_lie_along_k(sm90_operand::operand_b(problem));
    if (a_along_m)
      return b_along_n ? launch_tile<Tile<T, columns, true, true>>(problem, shape, how)
                       : launch_tile<Tile<T, columns, true, false>>(problem, shape, how);
    if (b_along_n) return launch_tile<Tile<T, columns, false, true>>(problem, shape, how);
  }
  return launch_tile<Tile<T, columns, false, false>>(problem, shape, how);
}

template <class T>
int launch(const Problem& problem, const Shape& shape, const Launch& how) {
  if constexpr (hopper::is_float8<T>) {
    if (problem.scales.along_k)
      return how.plan.rows == 256 ? launch_tile<Tile<T, 128, false, false, 2, true>>(problem, shape, how)
                                  : launch_tile<Tile<T, 128, false, false, 1, true>>(problem, shape, how);
  }
  switch (how.plan.columns) {
    case 256:
      return launch_columns<T, 256>(problem, shape, how);
    case 128:
      return launch_columns<T, 128>(problem, shape, how);
    default:
      return launch_columns<T, 64>(problem, shape, how);
  }
}

// Enqueues a product whose batch has at most one dimension.
int enqueue(const Problem& problem, const Launch& how) {
  const Shape shape = planned_shape(problem, how.multiprocessors);
  const Problem chosen = how.plan.exchanged ? sm90_operand::transposed(problem) : problem;
  switch (problem.dtype) {
    case DType::bfloat16:
      return launch<cuda::Bfloat16>(chosen, shape, how);
    case DType::float16:
      return launch<cuda::Float16>(chosen, shape, how);
    case DType::float8_e4m3fn:
      return launch<cuda::Float8E4m3>(chosen, shape, how);
    case DType::float8_e5m2:
      return launch<cuda::Float8E5m2>(chosen, shape, how);
    case DType::int8:
      return launch<int8_t>(chosen, shape, how);
    default:
      return launch<cuda::Tf32>(chosen, shape, how);
  }
}

// As enqueue for each of the outer dimensions of the batch, most of all products have none.
int enqueue_all(Problem problem, const Launch& how) {
  if (problem.batch_ndim <= 1) return enqueue(problem, how);
  const auto shift = [](auto* data, int64_t elements, int bytes) {
    return static_cast<decltype(data)>(
        const_cast<char*>(static_cast<const char*>(static_cast<const void*>(data)) + elements * bytes));
  };
  Problem inner = problem;
  --inner.batch_ndim;
  for (int i = 0; i < inner.batch_ndim; ++i) {
    inner.batch_shape[i] = problem.batch_shape[i + 1];
    inner.a_batch[i] = problem.a_batch[i + 1];
    inner.b_batch[i] = problem.b_batch[i + 1];
    inner.out_batch[i] = problem.out_batch[i + 1];
  }
  for (int64_t step = 0; step < problem.batch_shape[0]; ++step) {
    inner.a = shift(problem.a, step * problem.a_batch[0], itemsize(problem.dtype));
    inner.b = shift(problem.b, step * problem.b_batch[0], itemsize(problem.dtype));
    inner.out = shift(problem.out, step * problem.out_batch[0], itemsize(problem.out_dtype));
    if (const int status = enqueue_all(inner, how)) return status;
  }
  return 0;
}

bool is_empty(const Problem& merged) {
  bool empty = merged.m == 0 || merged.n == 0;
  for (int i = 0; i < merged.batch_ndim; ++i) empty = empty || merged.batch_shape[i] == 0;
  return empty;
}

// The plan of a product whose batch is merged, for the current GPU. Returns a cudaError_t.
int plan_for(const Problem& merged, Launch& how) {
  if (const int status = cuda::count_multiprocessors(how.multiprocessors)) return status;
  how.plan = sm90_plan::chosen(planned_shape(merged, how.multiprocessors), getenv("PYHPC_SM90_PLAN"));
  return how.plan.columns ? 0 : invalid_value;
}

int run(const Problem& problem, uintptr_t stream) {
  const Problem merged = sm90_operand::merged(problem);
  if (is_empty(merged)) return 0;
  Launch how = {{}, 0, {}, stream};
  const int status = plan_for(merged, how);
  return status ? status : enqueue_all(merged, how);
}

}  // namespace

int64_t count_records(const Problem& problem) {
  const Problem merged = sm90_operand::merged(problem);
  Launch how = {};
  if (sm90_operand::refusal(problem) || merged.batch_ndim > 1 || is_empty(merged) || plan_for(merged, how)) return 0;
  const Shape shape = planned_shape(merged, how.multiprocessors);
  return sm90_tiles::steps(sm90_plan::order_of(shape, how.plan)) * how.plan.cluster_rows * how.plan.split;
}

int run_logged(const Problem& problem, const TileLog& log, uintptr_t stream) {
  const Problem merged = sm90_operand::merged(problem);
  Launch how = {{}, 0, log, stream};
  const int status = plan_for(merged, how);
  return status ? status : enqueue_all(merged, how);
}

extern const cuda::Variant<Problem> sm90;
const cuda::Variant<Problem> sm90 = {"sm90", run, sm90_operand::refusal};

}  // namespace pyhpc::matmul
