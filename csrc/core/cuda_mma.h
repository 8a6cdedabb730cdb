// The tensor-core operation of sm_80 and its register maps (PTX manual, "Matrix fragments for mma.m16n8k16"):
//   d[16][8] = a[16][16] b[16][8] + c[16][8], 16-bit a and b, float c and d, one warp.
// Lane l holds in register i of a, b, c the elements whose first index and column are given below; 32-bit registers of
// a and b hold two elements that follow each other along k.
#pragma once
#include "core/cuda_kernel.h"

namespace pyhpc::cuda::mma {

constexpr int m = 16, n = 8, k = 16;
constexpr int a_registers = 4, b_registers = 2, c_registers = 4;

__host__ __device__ constexpr int group(int lane) { return lane / 4; }
__host__ __device__ constexpr int pair(int lane) { return lane % 4 * 2; }

__host__ __device__ constexpr int a_row(int lane, int i) { return group(lane) + i % 2 * 8; }
__host__ __device__ constexpr int a_k(int lane, int i) { return pair(lane) + i / 2 * 8; }  // and the next
__host__ __device__ constexpr int b_column(int lane) { return group(lane); }
__host__ __device__ constexpr int b_k(int lane, int i) { return pair(lane) + i * 8; }  // and the next
__host__ __device__ constexpr int c_row(int lane, int i) { return group(lane) + i / 2 * 8; }
__host__ __device__ constexpr int c_column(int lane, int i) { return pair(lane) + i % 2; }

#if defined(__CUDACC__)

#define PYHPC_MMA(type)                                            \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type       \
      ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])             \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

__device__ __forceinline__ void multiply_add(Bfloat16, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PYHPC_MMA("bf16");
}
__device__ __forceinline__ void multiply_add(Float16, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PYHPC_MMA("f16");
}
#undef PYHPC_MMA

#else

struct Operands {
  uint32_t a[4], b[2];
  float c[4];
};
struct Result {
  float d[4];
};

// Element i (0..7) of a lane's a, i (0..3) of b and of c, as the manual numbers and places them.
inline int element_row_a(int lane, int i) { return (i < 2 || (i >= 4 && i < 6)) ? lane >> 2 : (lane >> 2) + 8; }
inline int element_column_a(int lane, int i) { return (lane % 4) * 2 + (i & 1) + (i >= 4 ? 8 : 0); }
inline int element_row_b(int lane, int i) { return (lane % 4) * 2 + (i & 1) + (i >= 2 ? 8 : 0); }
inline int element_row_c(int lane, int i) { return i < 2 ? lane >> 2 : (lane >> 2) + 8; }
inline int element_column_c(int lane, int i) { return (lane % 4) * 2 + (i & 1); }

template <class T>
float element(const uint32_t* registers, int i) {
  return to_float(T{static_cast<uint16_t>(registers[i / 2] >> i % 2 * 16)});
}

template <class T>
void multiply_add_warp(const Operands* in, Result* out) {
  float a[m][k], b[k][n], d[m][n];
  for (int lane = 0; lane < emulation::lanes; ++lane) {
    for (int i = 0; i < 8; ++i) a[element_row_a(lane, i)][element_column_a(lane, i)] = element<T>(in[lane].a, i);
    for (int i = 0; i < 4; ++i) b[element_row_b(lane, i)][lane >> 2] = element<T>(in[lane].b, i);
    for (int i = 0; i < 4; ++i) d[element_row_c(lane, i)][element_column_c(lane, i)] = in[lane].c[i];
  }
  for (int row = 0; row < m; ++row)
    for (int column = 0; column < n; ++column)
      for (int i = 0; i < k; ++i) d[row][column] += a[row][i] * b[i][column];
  for (int lane = 0; lane < emulation::lanes; ++lane)
    for (int i = 0; i < 4; ++i) out[lane].d[i] = d[element_row_c(lane, i)][element_column_c(lane, i)];
}

template <class T>
void multiply_add(T, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Operands operands;
  memcpy(operands.a, a, sizeof a);
  memcpy(operands.b, b, sizeof b);
  memcpy(operands.c, c, sizeof c);
  const Result result = emulation::warp_operation<Result>(operands, multiply_add_warp<T>);
  memcpy(c, result.d, sizeof c);
}

#endif

}  // namespace pyhpc::cuda::mma

// The float64 operation: d[16][8] = a[16][16] b[16][8] + c, one instruction of sm_90 (mma.m16n8k8.f64); sm_80 has it
// in eighths (mma.m8n8k4.f64), with the same elements in the same lanes.
namespace pyhpc::cuda::mma_double {

constexpr int m = 16, n = 8, k = 8;
constexpr int a_registers = 4, b_registers = 2;

__host__ __device__ constexpr int a_row(int lane, int i) { return lane / 4 + i % 2 * 8; }
__host__ __device__ constexpr int a_k(int lane, int i) { return lane % 4 + i / 2 * 4; }
__host__ __device__ constexpr int b_column(int lane) { return lane / 4; }
__host__ __device__ constexpr int b_k(int lane, int i) { return lane % 4 + i * 4; }
using mma::c_column;
using mma::c_row;

#if defined(__CUDACC__)

__device__ __forceinline__ void multiply_add(double (&c)[4], const double (&a)[4], const double (&b)[2]) {
#if __CUDA_ARCH__ >= 900
  asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
#pragma unroll
  for (int i = 0; i < 4; ++i)
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
        : "+d"(c[i % 2 * 2]), "+d"(c[i % 2 * 2 + 1])
        : "d"(a[i]), "d"(b[i / 2]));
#endif
}

#else

struct Operands {
  double a[4], b[2], c[4];
};
struct Result {
  double d[4];
};

// Element i of a lane's a, b and c is where the manual's figures for m16n8k8 with .f64 place it.
inline void multiply_add_warp(const Operands* in, Result* out) {
  double a[16][8], b[8][8], d[16][8];
  for (int lane = 0; lane < emulation::lanes; ++lane) {
    const int group = lane >> 2, thread = lane & 3;
    for (int i = 0; i < 4; ++i) a[i & 1 ? group + 8 : group][(i >= 2 ? 4 : 0) + thread] = in[lane].a[i];
    for (int i = 0; i < 2; ++i) b[thread + 4 * i][group] = in[lane].b[i];
    for (int i = 0; i < 4; ++i) d[i < 2 ? group : group + 8][thread * 2 + (i & 1)] = in[lane].c[i];
  }
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column)
      for (int i = 0; i < 8; ++i) d[row][column] += a[row][i] * b[i][column];
  for (int lane = 0; lane < emulation::lanes; ++lane)
    for (int i = 0; i < 4; ++i) out[lane].d[i] = d[i < 2 ? lane >> 2 : (lane >> 2) + 8][(lane & 3) * 2 + (i & 1)];
}

inline void multiply_add(double (&c)[4], const double (&a)[4], const double (&b)[2]) {
  Operands operands;
  memcpy(operands.a, a, sizeof a);
  memcpy(operands.b, b, sizeof b);
  memcpy(operands.c, c, sizeof c);
  const Result result = emulation::warp_operation<Result>(operands, multiply_add_warp);
  memcpy(c, result.d, sizeof c);
}

#endif

}  // namespace pyhpc::cuda::mma_double
