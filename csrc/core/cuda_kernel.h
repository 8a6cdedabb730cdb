// What a CUDA target file is written in: thread indices, shared memory, warp exchanges, 16-bit types, launch().
// nvcc gets the instructions themselves. A plain C++ compiler gets core/cuda_emulation.h, which runs the same source
// thread by thread on the CPU: that is how the kernels are tested where there is no GPU.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

namespace pyhpc::cuda {

constexpr int warp_size = 32;

// IEEE binary16 and bfloat16 as stored. Arithmetic is in float.
struct Float16 {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};
// 8-bit floating point (OCP 8-bit floating point specification, 2023): E4M3 has no infinity and one NaN of each sign.
struct Float8E4m3 {
  uint8_t bits;
};
struct Float8E5m2 {
  uint8_t bits;
};
// A float of which sign, exponent and the 10 highest fraction bits count.
struct Tf32 {
  uint32_t bits;
};

}  // namespace pyhpc::cuda

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "core/cuda_emulation.h"
#endif

namespace pyhpc::cuda {

#if defined(__CUDACC__)

__device__ inline float to_float(Bfloat16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
__device__ inline float to_float(Float16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}
__device__ inline void from_float(float value, Bfloat16& result) {
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
}
__device__ inline void from_float(float value, Float16& result) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
}

// Sum of `c` and the four products of the signed bytes in `a` and `b`.
__device__ inline int32_t dot_bytes(int32_t a, int32_t b, int32_t c) { return __dp4a(a, b, c); }
__device__ inline float exchange_xor(float value, int lane_mask) { return __shfl_xor_sync(~0u, value, lane_mask); }
__device__ inline int32_t exchange_xor(int32_t value, int lane_mask) { return __shfl_xor_sync(~0u, value, lane_mask); }
// The multiprocessor that runs this block; the numbers stay while the GPU is not partitioned anew.
__device__ inline uint32_t multiprocessor_number() {
  uint32_t number;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(number));
  return number;
}
__device__ inline void synchronize_warp() { __syncwarp(); }
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

// Enqueues kernel(arguments...) on `stream` of the current device. Returns the launch's own cudaError_t.
template <class... Parameters>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes, uintptr_t stream,
           Parameters... arguments) {
  constexpr size_t always_allowed = 48 << 10;  // more dynamic shared memory must be asked for
  if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
  const auto function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > always_allowed) {
    const cudaError_t status =
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (status != cudaSuccess) return status;
  }
  void* pointers[] = {&arguments...};
  return cudaLaunchKernel(function, dim3(static_cast<unsigned>(blocks)), dim3(threads), pointers, shared_bytes,
                          reinterpret_cast<cudaStream_t>(stream));
}

#endif

__device__ inline float to_float(float value) { return value; }
__device__ inline void from_float(float value, float& result) { result = value; }

template <class To>
__device__ inline To converted(float value) {
  To result;
  from_float(value, result);
  return result;
}

// Every 8-bit number is one of 16 bits: E5M2 is its upper half; E4M3's exponent counts from 7, not 15.
__device__ inline Float16 to_half(Float8E5m2 value) { return {static_cast<uint16_t>(value.bits << 8)}; }
__device__ inline Float16 to_half(Float8E4m3 value) {
  const uint16_t sign = static_cast<uint16_t>((value.bits & 0x80) << 8), magnitude = value.bits & 0x7f;
  if (magnitude == 0x7f) return {static_cast<uint16_t>(sign | 0x7e00)};
  return converted<Float16>(to_float(Float16{static_cast<uint16_t>(sign | magnitude << 7)}) * 256);
}
__device__ inline float to_float(Float8E4m3 value) { return to_float(to_half(value)); }
__device__ inline float to_float(Float8E5m2 value) { return to_float(to_half(value)); }

// Two 16-bit values as one register, `first` in the low half: the order of consecutive elements in memory.
template <class T>
__device__ inline uint32_t packed(T first, T second) {
  return first.bits | static_cast<uint32_t>(second.bits) << 16;
}

__host__ __device__ inline int64_t blocks_for(int64_t count, int64_t per_block) {
  return (count + per_block - 1) / per_block;
}

}  // namespace pyhpc::cuda
