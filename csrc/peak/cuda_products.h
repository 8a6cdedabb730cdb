// The tensor-core instructions mma.sync as types: d[m][8] += a[m][k] b[k][8] by one warp.
// Lane l holds in element e of register i of an operand that has `per` elements a register
//   a[l/4 + 8 (i % (m/8))][k],   b[k][l/4],   k = (l%4) per + e + 4 per i',   i' = i / (m/8) for a, i for b
// and in register i of d the element [l/4 + 8 (i/2)][2 (l%4) + i%2].
// Source: PTX ISA 9.0, "Warp-level matrix instructions", "Matrix fragments for mma".
#pragma once
#include "core/cuda_kernel.h"
#include "peak/cuda_loops.h"

namespace pyhpc::peak {
namespace {

template <class Number, class RegisterType, class SumType, int rows, int depth>
struct Shape {
  using Element = Number;
  using Register = RegisterType;
  using Sum = SumType;
  static constexpr int m = rows, k = depth, operations = 2 * rows * 8 * depth;
  static constexpr int per_register = sizeof(Register) / sizeof(Element);
  static constexpr int a_registers = rows * depth / 32 / per_register, b_registers = depth / 4 / per_register,
                       sums = rows / 4;
};

// A register of an operand whose elements along k are even, odd, even, odd ...; which k it begins with is even but for
// one element a register, where it is the lane's parity.
__device__ inline double pairs(double, int lane, int even, int odd) { return lane % 2 ? odd : even; }
__device__ inline uint32_t pairs(float, int lane, int even, int odd) {
  const float value = static_cast<float>(lane % 2 ? odd : even);
#if defined(__CUDACC__)
  return __float_as_uint(value);
#else
  return emulation::bits_of_float(value);
#endif
}
template <class Half>  // Bfloat16, Float16
__device__ inline uint32_t pairs(Half, int, int even, int odd) {
  return cuda::packed(cuda::converted<Half>(static_cast<float>(even)), cuda::converted<Half>(static_cast<float>(odd)));
}
__device__ inline uint32_t pairs(int8_t, int, int even, int odd) {
  return static_cast<uint32_t>((even & 255) | (odd & 255) << 8) * 0x10001;
}

#if defined(__CUDACC__)

#define PYHPC_MMA_4(instruction, sum)                                      \
  asm(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+" sum(d[0]), "+" sum(d[1]), "+" sum(d[2]), "+" sum(d[3])         \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

__device__ __forceinline__ void instruction(cuda::Bfloat16, float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
  PYHPC_MMA_4("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "f");
}
__device__ __forceinline__ void instruction(cuda::Float16, float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
  PYHPC_MMA_4("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "f");
}
__device__ __forceinline__ void instruction(float, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PYHPC_MMA_4("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "f");
}
__device__ __forceinline__ void instruction(int8_t, int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  PYHPC_MMA_4("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", "r");
}
#undef PYHPC_MMA_4
__device__ __forceinline__ void instruction(double, double (&d)[2], const double (&a)[1], const double (&b)[1]) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a[0]), "d"(b[0]));
}
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void instruction(double, double (&d)[4], const double (&a)[8], const double (&b)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7,%8,%9,%10,%11}, "
      "{%12,%13,%14,%15}, {%0,%1,%2,%3};"
      : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]),
        "d"(b[2]), "d"(b[3]));
}
#endif

template <class Shape>
__device__ __forceinline__ void multiply_add(typename Shape::Sum (&d)[Shape::sums],
                                             const typename Shape::Register (&a)[Shape::a_registers],
                                             const typename Shape::Register (&b)[Shape::b_registers]) {
  instruction(typename Shape::Element{}, d, a, b);
}

#else

// On the CPU the last lane to arrive multiplies, element by element.
inline double value_of(double, double bits, int) { return bits; }
inline float value_of(float, uint32_t bits, int) { return emulation::float_of_bits(bits); }
inline int32_t value_of(int8_t, uint32_t bits, int e) { return static_cast<int8_t>(bits >> 8 * e); }
template <class Half>
float value_of(Half, uint32_t bits, int e) {
  return cuda::to_float(Half{static_cast<uint16_t>(bits >> 16 * e)});
}

template <class Shape>
struct Lane {
  const typename Shape::Register *a, *b;
  typename Shape::Sum* d;
};

template <class Shape>
void multiply_warp(const Lane<Shape>* lanes, char*) {
  constexpr int per = Shape::per_register, halves = Shape::m / 8;
  constexpr typename Shape::Element type = {};
  static typename Shape::Sum a[Shape::m][Shape::k], b[8][Shape::k];
  for (int lane = 0; lane < cuda::warp_size; ++lane)
    for (int e = 0; e < per; ++e) {
      for (int i = 0; i < Shape::a_registers; ++i)
        a[lane / 4 + 8 * (i % halves)][lane % 4 * per + e + 4 * per * (i / halves)] =
            value_of(type, lanes[lane].a[i], e);
      for (int i = 0; i < Shape::b_registers; ++i)
        b[lane / 4][lane % 4 * per + e + 4 * per * i] = value_of(type, lanes[lane].b[i], e);
    }
  for (int lane = 0; lane < cuda::warp_size; ++lane)
    for (int i = 0; i < Shape::sums; ++i)
      for (int k = 0; k < Shape::k; ++k)
        lanes[lane].d[i] += a[lane / 4 + 8 * (i / 2)][k] * b[2 * (lane % 4) + i % 2][k];
}

template <class Shape>
void multiply_add(typename Shape::Sum (&d)[Shape::sums], const typename Shape::Register (&a)[Shape::a_registers],
                  const typename Shape::Register (&b)[Shape::b_registers]) {
  emulation::warp_operation<char>(Lane<Shape>{a, b, d}, multiply_warp<Shape>);
}

#endif

// d += a b again and again, with `chains` independent d to hide the latency; as `Loop` of cuda_loops.h.
template <class Shape, int chains>
struct ProductLoop {
  static constexpr int warp_operations = Shape::operations * chains;  // of one step

  __device__ static int64_t run(int steps) {
    typename Shape::Register a[Shape::a_registers], b[Shape::b_registers];
    typename Shape::Sum sums[chains][Shape::sums] = {};
    const int lane = threadIdx.x % cuda::warp_size;
    for (auto& one : a) one = pairs(typename Shape::Element{}, lane, first_even, first_odd);
    for (auto& one : b) one = pairs(typename Shape::Element{}, lane, second_even, second_odd);
    for (int step = 0; step < steps; ++step)
#pragma unroll
      for (int i = 0; i < chains; ++i) multiply_add<Shape>(sums[i], a, b);
    int64_t counted = 0;
#pragma unroll
    for (int i = 0; i < chains; ++i) counted += total(sums[i]);
    return counted;
  }
};

}  // namespace
}  // namespace pyhpc::peak
