// Hopper's own instructions (sm_90a) as functions: mbarriers, clusters, the tensor copy engine (TMA), asynchronous
// proxies, register reallocation. The matrix instruction is in core/cuda_wgmma.h. Source: PTX ISA 9.0.
// A plain C++ compiler gets core/cuda_hopper_emulation.h, which runs the same kernels on the CPU.
//
// Shared-memory addresses are what the instructions take: 32-bit offsets in the block's own window (`address_of`).
// An instruction of the copy engine is asynchronous: it completes on an mbarrier (loads) or by group (stores).
#pragma once
#include <string.h>

#include "core/cuda_kernel.h"

namespace pyhpc::cuda {

// A tensor as the copy engine knows it; the driver fills it in (core/cuda_tensor_map.h).
struct alignas(128) TensorMap {
  unsigned char opaque[128];
};

using Mbarrier = uint64_t;

// Where a box begins: element along the contiguous direction, row, matrix of the batch.
struct Corner {
  int x, y, z;
};

}  // namespace pyhpc::cuda

#if !defined(__CUDACC__)
#include "core/cuda_hopper_emulation.h"
#else

namespace pyhpc::cuda {

__device__ __forceinline__ uint32_t address_of(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// ---- where and when ----

__device__ __forceinline__ uint64_t read_clock() { return static_cast<uint64_t>(clock64()); }  // its own cycles
__device__ __forceinline__ uint64_t read_nanoseconds() {  // of the whole GPU; advances in steps of up to a microsecond
  uint64_t value;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value));
  return value;
}

// ---- clusters ----

__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// All threads of all blocks of the cluster; what they wrote before, also to shared memory, is seen after.
__device__ __forceinline__ void synchronize_cluster() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// The 4 bytes at this block's `address`, but in the block of `rank`.
template <class T>
__device__ __forceinline__ T load_of_rank(uint32_t address, int rank) {
  static_assert(sizeof(T) == 4, "one register");
  uint32_t there, bits;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(bits) : "r"(there) : "memory");
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

__device__ __forceinline__ void store_shared(uint32_t address, uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, int32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(first), "f"(second) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, int32_t first, int32_t second) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(first), "r"(second) : "memory");
}

// `threads` threads that name the same barrier 1 .. 15 (0 is __syncthreads).
__device__ __forceinline__ void synchronize_named(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- mbarriers ----

__device__ __forceinline__ void mbarrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the cluster; a barrier of the cluster follows.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// One arrival, and `bytes` more that the copy engine must deliver before the phase ends.
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// One arrival at the same barrier of the block of `rank`, this one or a peer.
__device__ __forceinline__ void mbarrier_arrive_at(uint32_t barrier, int rank) {
  asm volatile(
      "{\n\t.reg .b32 there;\n\tmapa.shared::cluster.u32 there, %0, %1;\n\t"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n\t}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// Until the phase of this parity has ended. A new barrier counts as if its phase of parity 1 had ended.
// `acquire.cluster` because arrivals and bytes may come from a peer block.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
}

// ---- the tensor copy engine ----

__device__ __forceinline__ void prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// A box of the tensor to shared memory at `to`; what lies outside the tensor is written as zero. Its bytes count at
// `barrier`. With `ranks` (a bit for each) the same bytes go to the same places of those blocks of the cluster.
__device__ __forceinline__ void load_box(const TensorMap& map, uint32_t to, uint32_t barrier, Corner corner) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(corner.x), "r"(corner.y), "r"(corner.z)
      : "memory");
}
__device__ __forceinline__ void load_box(const TensorMap& map, uint32_t to, uint32_t barrier, Corner corner,
                                         uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(corner.x), "r"(corner.y), "r"(corner.z), "h"(ranks)
      : "memory");
}

// A box from shared memory to the tensor; what lies outside is not written.
__device__ __forceinline__ void store_box(const TensorMap& map, uint32_t from, Corner corner) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(from), "r"(corner.x), "r"(corner.y), "r"(corner.z)
               : "memory");
}
__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until all but the `left` newest groups of this thread's stores have read their shared memory.
template <int left>
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(left) : "memory");
}
// Until all of them are done.
__device__ __forceinline__ void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Ordinary writes of this thread to shared memory come before asynchronous reads that follow a barrier.
__device__ __forceinline__ void fence_shared_for_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- registers: executed by whole warpgroups (4 warps) ----

template <int count>
__device__ __forceinline__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

// Multiprocessors of the current device. Returns a cudaError_t.
inline int count_multiprocessors(int& count) {
  int device = 0;
  const cudaError_t status = cudaGetDevice(&device);
  return status != cudaSuccess ? status : cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
}

// Enqueues kernel(arguments...) in clusters of `cluster` blocks. Returns the launch's own cudaError_t.
template <class... Parameters>
int launch_clusters(void (*kernel)(Parameters...), int64_t blocks, int cluster, int threads, size_t shared_bytes,
                    uintptr_t stream, Parameters... arguments) {
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  const auto function = reinterpret_cast<const void*>(kernel);
  const cudaError_t status =
      cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = reinterpret_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  void* pointers[] = {&arguments...};
  return cudaLaunchKernelExC(&config, function, pointers);
}

}  // namespace pyhpc::cuda
#endif
