// The matrix instruction of sm_90a, wgmma.mma_async, and the shared-memory layout it reads:
//   d[64][n] (+)= a[64][k] b[k][n], k of 32 bytes, a and b in shared memory, d in the registers of a warpgroup.
//   bfloat16, float16, E4M3, E5M2, TF32: float d; int8: int32 d
// An operand lies there as the copy engine writes it with the 128-byte swizzle. "mn" is a's row, b's column.
//   along k:   each mn is one line of 128 bytes of k; lines follow each other
//   along mn:  16-bit operands only: each k is a line of 64 mn; 64 lines (8 KiB) make a block, blocks of 64 mn follow
// Source: PTX ISA 9.0, "Asynchronous warpgroup level matrix instructions", "Shared memory matrix layout".
#pragma once
#include <type_traits>

#include "core/cuda_hopper.h"

namespace pyhpc::cuda::wgmma {

constexpr int m = 64, k_bytes = 32, threads = 128;
constexpr int line_bytes = 128, lines_per_atom = 8, atom_bytes = line_bytes * lines_per_atom;
constexpr int block_lines = 64, block_bytes = block_lines * line_bytes;  // of either direction

template <class T>
using Sum = typename std::conditional<std::is_same<T, int8_t>::value, int32_t, float>::type;

// Where byte `offset` of unswizzled lines lies: in each atom of 8 lines the 16-byte chunks of line i are at chunk ^ i,
// so that a column of chunks touches all banks. The atom must be aligned to its 1024 bytes.
__host__ __device__ constexpr uint32_t swizzled(uint32_t offset) { return offset ^ (offset >> 7 & 7) << 4; }

// The descriptor of an operand that begins at a 1024-byte boundary of shared memory. The address moves in units of 16
// bytes; along k the leading offset is not used (1 by convention), the stride is that of the next 8 lines; along mn the
// leading offset is that of the next 64 mn, the stride that of the next 8 k. Bits 62 .. 63 = 1: swizzle of 128 bytes.
__host__ __device__ constexpr uint64_t descriptor(uint32_t address, bool along_mn) {
  const uint64_t leading = along_mn ? block_bytes >> 4 : 1, stride = atom_bytes >> 4;
  return (address & 0x3ffff) >> 4 | leading << 16 | stride << 32 | uint64_t{1} << 62;
}

// What the next k of an instruction add to a descriptor: 32 bytes within the swizzled line, or 16 lines.
__host__ __device__ constexpr uint64_t next_k(bool along_mn) { return (along_mn ? 16 * line_bytes : k_bytes) >> 4; }

// Row and column of register i of d in thread t of the warpgroup.
__host__ __device__ constexpr int d_row(int t, int i) { return t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8; }
__host__ __device__ constexpr int d_column(int t, int i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }

}  // namespace pyhpc::cuda::wgmma

#if !defined(__CUDACC__)
#include "core/cuda_wgmma_emulation.h"
#else

namespace pyhpc::cuda::wgmma {

// Registers and shared memory written before are the matrix unit's from here on.
__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until all but the `left` newest groups are done.
template <int left>
__device__ __forceinline__ void wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

// Keeps the compiler from moving accesses to d across a fence or a wait.
template <int count>
__device__ __forceinline__ void pin(float (&d)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int count>
__device__ __forceinline__ void pin(int32_t (&d)[count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

#define PYHPC_LIST_32                                                                                 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26" \
  ",%27,%28,%29,%30,%31"
#define PYHPC_LIST_64                                                                                    \
  PYHPC_LIST_32                                                                                          \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56" \
  ",%57,%58,%59,%60,%61,%62,%63"
#define PYHPC_LIST_128                                                                                   \
  PYHPC_LIST_64                                                                                          \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88" \
  ",%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110"  \
  ",%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define PYHPC_D4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define PYHPC_D16(c, i) PYHPC_D4(c, i), PYHPC_D4(c, i + 4), PYHPC_D4(c, i + 8), PYHPC_D4(c, i + 12)
#define PYHPC_D32(c) PYHPC_D16(c, 0), PYHPC_D16(c, 16)
#define PYHPC_D64(c) PYHPC_D32(c), PYHPC_D16(c, 32), PYHPC_D16(c, 48)
#define PYHPC_D128(c) PYHPC_D64(c), PYHPC_D16(c, 64), PYHPC_D16(c, 80), PYHPC_D16(c, 96), PYHPC_D16(c, 112)

// What follows the operands: signs of a and b, whether a and b lie along mn (operands x and y); integers have neither.
#define PYHPC_TURNED(x, y) ", 1, 1, %" x ", %" y
#define PYHPC_SIGNED(x, y) ", 1, 1"
#define PYHPC_PLAIN(x, y) ""
// The operands after d: descriptors of a and b, whether d is added to, whether a and b lie along mn.
#define PYHPC_WGMMA(form, list, d_operands, a_place, b_place, add_place, tail)                                     \
  asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" add_place ", 0;\n\twgmma.mma_async.sync.aligned.m64n" form \
               " {" list "}, %" a_place ", %" b_place ", p" tail ";\n\t}"                                          \
               : d_operands                                                                                        \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(a_along_mn), "n"(b_along_mn))
// By the number of sums: 64, 128 or 256 columns. `c` is the constraint of d's registers.
#define PYHPC_WGMMA_OF(form, c, tail)                                                         \
  if constexpr (count == 32)                                                                  \
    PYHPC_WGMMA("64" form, PYHPC_LIST_32, PYHPC_D32(c), "32", "33", "34", tail("35", "36"));  \
  else if constexpr (count == 64)                                                             \
    PYHPC_WGMMA("128" form, PYHPC_LIST_64, PYHPC_D64(c), "64", "65", "66", tail("67", "68")); \
  else                                                                                        \
    PYHPC_WGMMA("256" form, PYHPC_LIST_128, PYHPC_D128(c), "128", "129", "130", tail("131", "132"))

// d (+)= a b, asynchronously, by the 4 warps of a warpgroup together; the result is there after wait(). Without `add` d
// is overwritten. n = 2 count columns.
template <class T, bool a_along_mn, bool b_along_mn, int count>
__device__ __forceinline__ void multiply_add(Sum<T> (&d)[count], uint64_t a, uint64_t b, bool add) {
  static_assert(count == 32 || count == 64 || count == 128, "64, 128 or 256 columns");
  static_assert(sizeof(T) == 2 || !(a_along_mn || b_along_mn), "only operands of 16 bits may lie along mn");
  if constexpr (std::is_same<T, Bfloat16>::value) {
    PYHPC_WGMMA_OF("k16.f32.bf16.bf16", "+f", PYHPC_TURNED);
  } else if constexpr (std::is_same<T, Float16>::value) {
    PYHPC_WGMMA_OF("k16.f32.f16.f16", "+f", PYHPC_TURNED);
  } else if constexpr (std::is_same<T, Float8E4m3>::value) {
    PYHPC_WGMMA_OF("k32.f32.e4m3.e4m3", "+f", PYHPC_SIGNED);
  } else if constexpr (std::is_same<T, Float8E5m2>::value) {
    PYHPC_WGMMA_OF("k32.f32.e5m2.e5m2", "+f", PYHPC_SIGNED);
  } else if constexpr (std::is_same<T, Tf32>::value) {
    PYHPC_WGMMA_OF("k8.f32.tf32.tf32", "+f", PYHPC_SIGNED);
  } else {
    static_assert(std::is_same<T, int8_t>::value, "no such instruction");
    PYHPC_WGMMA_OF("k32.s32.s8.s8", "+r", PYHPC_PLAIN);
  }
}

}  // namespace pyhpc::cuda::wgmma
#endif
