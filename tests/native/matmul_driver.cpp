// Runs the matmul variants named on the command line, without Python, and compares every element with exact integer
// sums: the check for instruction sets that the tests' own processor does not have, under an emulator.
//   matmul_driver VARIANT...     exit status 0 and a line per variant, or 1 and the first wrong element
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <vector>

#include "core/machine.h"
#include "matmul/matmul.h"

// Caches so small that small matrices have several blocks in every direction.
namespace pyhpc {
const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = {1 << 10, 4 << 10, 16 << 10, 8, 8, 8};
  return sizes;
}
}  // namespace pyhpc

namespace pyhpc::matmul {
extern const Variant generic;
#if defined(__aarch64__)
extern const Variant neon;
#endif
}  // namespace pyhpc::matmul

namespace {

using namespace pyhpc;
using matmul::Problem;
using matmul::Variant;

const Variant* find(const char* name) {
#if defined(__aarch64__)
  if (strcmp(name, "neon") == 0) return &matmul::neon;
#endif
  return strcmp(name, "generic") == 0 ? &matmul::generic : nullptr;
}

// Small values that every dtype holds exactly, so that every sum below is exact and the comparison is for equality.
int value(int64_t i) { return static_cast<int>((i * 7919 + 13) % 15) - 7; }

template <class T>
T encode(int number);
template <>
double encode<double>(int number) {
  return number;
}
template <>
float encode<float>(int number) {
  return static_cast<float>(number);
}
template <>
int8_t encode<int8_t>(int number) {
  return static_cast<int8_t>(number);
}
struct Bits16 {
  uint16_t bits;
};
template <>
Bits16 encode<Bits16>(int number) {  // bfloat16: the upper half of float32
  const float single = static_cast<float>(number);
  uint32_t bits;
  memcpy(&bits, &single, sizeof bits);
  return {static_cast<uint16_t>(bits >> 16)};
}

// One product of m x k by k x n; `transposed` stores both operands by columns.
template <class In, class Out>
bool right(const Variant& variant, DType dtype, int64_t m, int64_t n, int64_t k, bool transposed) {
  std::vector<In> a(m * k), b(k * n);
  std::vector<Out> out(m * n, Out(77));
  const int64_t a_row = transposed ? 1 : k, a_column = transposed ? m : 1, b_row = transposed ? 1 : n,
                b_column = transposed ? k : 1;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t p = 0; p < k; ++p) a[i * a_row + p * a_column] = encode<In>(value(i * k + p));
  for (int64_t p = 0; p < k; ++p)
    for (int64_t j = 0; j < n; ++j) b[p * b_row + j * b_column] = encode<In>(value(3 * (p * n + j) + 1));
  Problem problem = {};
  problem.dtype = dtype, problem.m = m, problem.n = n, problem.k = k;
  problem.a = a.data(), problem.b = b.data(), problem.out = out.data();
  problem.a_row = a_row, problem.a_column = a_column, problem.b_row = b_row, problem.b_column = b_column;
  problem.out_row = n, problem.out_column = 1;
  if (!variant.run(problem, 2)) return false;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      int64_t sum = 0;
      for (int64_t p = 0; p < k; ++p) sum += value(i * k + p) * value(3 * (p * n + j) + 1);
      if (out[i * n + j] != static_cast<Out>(sum)) {
        printf("%s %s %ldx%ldx%ld: element (%ld, %ld) is %g, not %ld\n", variant.name, name(dtype), m, n, k, i, j,
               static_cast<double>(out[i * n + j]), sum);
        return false;
      }
    }
  return true;
}

bool right(const Variant& variant) {
  const int64_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {8, 12, 4}, {9, 13, 33}, {1, 50, 20}, {50, 1, 21}, {70, 90, 300}};
  for (const auto& size : sizes)
    for (const bool transposed : {false, true}) {
      const int64_t m = size[0], n = size[1], k = size[2];
      if (!right<double, double>(variant, DType::float64, m, n, k, transposed) ||
          !right<float, float>(variant, DType::float32, m, n, k, transposed) ||
          !right<Bits16, float>(variant, DType::bfloat16, m, n, k, transposed) ||
          !right<int8_t, int32_t>(variant, DType::int8, m, n, k, transposed))
        return false;
    }
  return true;
}

// float16 alone by its bit patterns: 1 x 1 products with 1, against the definition of binary16.
bool halves_right(const Variant& variant) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t a = static_cast<uint16_t>(bits), one = 0x3c00;
    float out = 77;
    Problem problem = {};
    problem.dtype = DType::float16, problem.m = problem.n = problem.k = 1, problem.a = &a, problem.b = &one,
    problem.out = &out;
    problem.a_row = problem.a_column = problem.b_row = problem.b_column = problem.out_row = problem.out_column = 1;
    if (!variant.run(problem, 1)) return false;
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                            : exponent     ? ldexpf(1024.0f + fraction, exponent - 25)
                                           : ldexpf(fraction, -24);
    const float expected = bits & 0x8000 ? -magnitude : magnitude;
    if (!(out == expected || (isnan(out) && isnan(expected)))) {
      printf("%s float16 %04x is %g, not %g\n", variant.name, bits, out, expected);
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** names) {
  for (int i = 1; i < count; ++i) {
    const Variant* variant = find(names[i]);
    if (!variant) {
      printf("%s is not in this driver\n", names[i]);
      return 1;
    }
    if (!right(*variant) || !halves_right(*variant)) return 1;
    printf("%s right\n", names[i]);
  }
  return 0;
}
