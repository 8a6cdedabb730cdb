// Runs the matmul variants named on the command line, without Python, and compares every element with exact integer
// sums: the check for instruction sets that the tests' own processor does not have, under an emulator.
//   matmul_driver VARIANT...     exit status 0 and a line per variant, or 1 and the first wrong element
// Besides generic it knows the variant PYHPC_DRIVER_VARIANT that it is compiled for.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>
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
#ifdef PYHPC_DRIVER_VARIANT
extern const Variant PYHPC_DRIVER_VARIANT;
#endif
}  // namespace pyhpc::matmul

namespace {

using namespace pyhpc;
using matmul::Problem;
using matmul::Variant;

const Variant* find(const char* name) {
#ifdef PYHPC_DRIVER_VARIANT
  if (strcmp(name, matmul::PYHPC_DRIVER_VARIANT.name) == 0) return &matmul::PYHPC_DRIVER_VARIANT;
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

// `sums` of a row: (sum, sum of absolute values), those of integers modulo 2^32, without the second.
bool same(const double* sums, int64_t sum, int64_t size, DType dtype) {
  if (dtype == DType::int8) return sums[0] == static_cast<uint32_t>(sum);
  return sums[0] == static_cast<double>(sum) && (size < 0 || sums[1] == static_cast<double>(size));
}

// One product of m x k by k x n, with its checksums; `transposed` stores both operands by columns.
template <class In, class Out>
bool right(const Variant& variant, DType dtype, int64_t m, int64_t n, int64_t k, bool transposed) {
  std::vector<In> a(m * k), b(k * n);
  std::vector<int> left(m * k), right(k * n);
  std::vector<double> product_sums(2 * m), out_sums(2 * m);
  std::vector<Out> out(m * n, Out(77));
  const int64_t a_row = transposed ? 1 : k, a_column = transposed ? m : 1, b_row = transposed ? 1 : n,
                b_column = transposed ? k : 1;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t p = 0; p < k; ++p) a[i * a_row + p * a_column] = encode<In>(left[i * k + p] = value(i * k + p));
  for (int64_t p = 0; p < k; ++p)
    for (int64_t j = 0; j < n; ++j)
      b[p * b_row + j * b_column] = encode<In>(right[p * n + j] = value(3 * (p * n + j) + 1));
  Problem problem = {};
  problem.dtype = dtype, problem.m = m, problem.n = n, problem.k = k;
  problem.a = a.data(), problem.b = b.data(), problem.out = out.data();
  problem.a_row = a_row, problem.a_column = a_column, problem.b_row = b_row, problem.b_column = b_column;
  problem.out_row = n, problem.out_column = 1;
  if (!variant.run_checked(problem, product_sums.data(), out_sums.data(), 2)) return false;
  for (int64_t i = 0; i < m; ++i) {
    int64_t row_sum = 0, row_size = 0;
    for (int64_t j = 0; j < n; ++j) {
      int sum = 0, size = 0;
      for (int64_t p = 0; p < k; ++p) {
        const int term = left[i * k + p] * right[p * n + j];
        sum += term, size += abs(term);
      }
      row_sum += sum, row_size += size;
      if (out[i * n + j] != static_cast<Out>(sum)) {
        printf("%s %s %ldx%ldx%ld: element (%ld, %ld) is %g, not %d\n", variant.name, name(dtype), m, n, k, i, j,
               static_cast<double>(out[i * n + j]), sum);
        return false;
      }
    }
    if (!same(&product_sums[2 * i], row_sum, row_size, dtype) || !same(&out_sums[2 * i], row_sum, -1, dtype)) {
      printf("%s %s %ldx%ldx%ld: the checksums of row %ld are (%g, %g) and %g, not (%ld, %ld)\n", variant.name,
             name(dtype), m, n, k, i, product_sums[2 * i], product_sums[2 * i + 1], out_sums[2 * i], row_sum, row_size);
      return false;
    }
  }
  return true;
}

bool right(const Variant& variant) {
  const int64_t sizes[][3] = {{1, 1, 1},   {3, 5, 7},   {8, 12, 4},    {9, 13, 33},
                              {1, 50, 20}, {50, 1, 21}, {70, 90, 300}, {130, 150, 120}};  // the last one for a team
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

// bfloat16 numbers of any kind: 'n' around 1, 's' with subnormal ones among large ones, 'x' with Inf and NaN too.
uint16_t pattern(char kind, int64_t i) {
  const uint32_t random = static_cast<uint32_t>((i + 1) * 2654435761u) >> 7, sign = random << 15 & 0x8000;
  if (kind != 'n' && random % 7 == 0) return static_cast<uint16_t>(sign | (random >> 4 & 0x7f));
  if (kind == 'x' && random % 211 == 1) return static_cast<uint16_t>(sign | (random & 1 << 9 ? 0x7f80 : 0x7fc0));
  const uint32_t exponent = kind == 'n' ? 120 + random % 12 : random % 5 ? 60 + random % 80 : 180;
  return static_cast<uint16_t>(sign | exponent << 7 | (random >> 11 & 0x7f));
}

double widened(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

// A matrix of bfloat16 with gaps between its rows (or, transposed, its columns), or backwards.
struct Matrix {
  int64_t rows, columns, row_step, column_step;
  std::vector<uint16_t> memory;
  const uint16_t* first;
  Matrix(int64_t rows, int64_t columns, char layout, char kind, int64_t seed)
      : rows(rows), columns(columns), row_step(layout == 't' ? 1 : columns + 3), column_step(layout == 't' ? rows : 1) {
    memory.resize((rows + 1) * (columns + 4));
    first = memory.data();
    if (layout == 'r') first += (rows - 1) * row_step, row_step = -row_step;
    for (size_t i = 0; i < memory.size(); ++i) memory[i] = pattern(kind, static_cast<int64_t>(i) + seed);
  }
  double operator()(int64_t i, int64_t j) const { return widened(first[i * row_step + j * column_step]); }
};

// Of every element, in order: the sum and the sum of absolute values.
struct Product {
  std::vector<double> sums, sizes;
  Product(const Matrix& a, const Matrix& b) {
    for (int64_t i = 0; i < a.rows; ++i)
      for (int64_t j = 0; j < b.columns; ++j) {
        double sum = 0, size = 0;
        for (int64_t p = 0; p < a.columns; ++p) sum += a(i, p) * b(p, j), size += fabs(a(i, p) * b(p, j));
        sums.push_back(sum), sizes.push_back(size);
      }
  }
};

struct Way {
  bool narrow, accumulate, packed;
  int threads;
};

// Every element within the bound of matmul_problem.py: k roundings of float32, k underflows, and one of bfloat16.
bool within_bound(const Variant& variant, const Matrix& a, const Matrix& b, const Product& product, const Way& way) {
  const int64_t m = a.rows, n = b.columns, k = a.columns;
  std::vector<float> wide(m * n, 3);
  std::vector<uint16_t> narrow(m * n, 0x4040);  // 3
  Problem problem = {};
  problem.dtype = DType::bfloat16, problem.m = m, problem.n = n, problem.k = k;
  problem.a = a.first, problem.a_row = a.row_step, problem.a_column = a.column_step;
  problem.b = b.first, problem.b_row = b.row_step, problem.b_column = b.column_step;
  problem.out = way.narrow ? static_cast<void*>(narrow.data()) : wide.data();
  problem.out_row = n, problem.out_column = 1, problem.accumulate = way.accumulate, problem.narrow = way.narrow;
  if (way.packed) {
    void* packed = aligned_alloc(64, (variant.pack(problem, nullptr, 1) + 63) / 64 * 64);
    variant.pack(problem, packed, way.threads);
    const bool done = variant.run_packed(problem, packed, way.threads);
    free(packed);
    if (!done) return false;
  } else if (!variant.run(problem, way.threads)) {
    return false;
  }
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const double start = way.accumulate ? 3 : 0;
      const double sum = start + product.sums[i * n + j], size = start + product.sizes[i * n + j];
      const double found = way.narrow ? widened(narrow[i * n + j]) : wide[i * n + j];
      const double last = way.narrow ? 0x1p-8 * 1.01 : 0;
      const double bound = size * ((k + 1) * 0x1.01p-24 + last) + (k + 1) * 0x1p-126;
      if (isnan(sum) ? isnan(found) : isinf(sum) || size > 0x1.fp127 ? true : fabs(found - sum) <= bound) continue;
      printf("%s bfloat16 %ldx%ldx%ld%s%s%s: element (%ld, %ld) is %g, not %g +- %g\n", variant.name, m, n, k,
             way.narrow ? " narrow" : "", way.accumulate ? " accumulate" : "", way.packed ? " packed" : "", i, j, found,
             sum, bound);
      return false;
    }
  return true;
}

bool bfloats_right(const Variant& variant) {
  const int64_t sizes[][3] = {{1, 1, 1},   {1, 70, 9},   {5, 3, 2},    {5, 65, 31},
                              {6, 64, 64}, {7, 129, 65}, {33, 50, 18}, {50, 130, 101}};
  const Way ways[] = {{false, false, false, 1},
                      {false, true, false, 2},
                      {true, true, false, 2},
                      {true, false, true, 1},
                      {false, true, true, 3}};
  for (const auto& size : sizes)
    for (const char kind : {'n', 's', 'x'})
      for (const char a_layout : {'n', 't', 'r'})
        for (const char b_layout : {'n', 't', 'r'}) {
          const Matrix a(size[0], size[2], a_layout, kind, 0), b(size[2], size[1], b_layout, kind, 12345);
          const Product product(a, b);
          for (const Way& way : ways)
            if (!within_bound(variant, a, b, product, way)) return false;
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
    if (!right(*variant) || !halves_right(*variant) || !bfloats_right(*variant)) return 1;
    printf("%s right\n", names[i]);
  }
  return 0;
}
