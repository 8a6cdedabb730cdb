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
