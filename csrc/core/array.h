// A strided array in memory, whoever owns it: what bindings hand to kernels. Plain data, no ownership.
#pragma once
#include <stdint.h>

namespace pyhpc {

enum class DType : int {
  float64,
  float32,
  float16,
  bfloat16,
  int64,
  int32,
  int16,
  int8,
  uint64,
  uint32,
  uint16,
  uint8,
  float8_e4m3fn,
  float8_e5m2
};

inline int itemsize(DType type) {
  switch (type) {
    case DType::float64:
    case DType::int64:
    case DType::uint64:
      return 8;
    case DType::float32:
    case DType::int32:
    case DType::uint32:
      return 4;
    case DType::float16:
    case DType::bfloat16:
    case DType::int16:
    case DType::uint16:
      return 2;
    case DType::int8:
    case DType::uint8:
    case DType::float8_e4m3fn:
    case DType::float8_e5m2:
      return 1;
  }
  return 0;
}

inline bool is_float8(DType type) { return type == DType::float8_e4m3fn || type == DType::float8_e5m2; }

inline const char* name(DType type) {
  constexpr const char* names[] = {"float64", "float32", "float16",       "bfloat16",   "int64",
                                   "int32",   "int16",   "int8",          "uint64",     "uint32",
                                   "uint16",  "uint8",   "float8_e4m3fn", "float8_e5m2"};
  return names[static_cast<int>(type)];
}

struct Array {
  static constexpr int max_ndim = 8;
  static constexpr int cpu = -1;
  void* data = nullptr;
  DType dtype = DType::float64;
  int ndim = 0;
  int64_t shape[max_ndim] = {};
  int64_t strides[max_ndim] = {};  // in elements; any sign, zero allowed
  bool writable = false;
  int device = cpu;  // cpu, or the ordinal of a CUDA device

  int64_t size() const {
    int64_t count = 1;
    for (int i = 0; i < ndim; ++i) count *= shape[i];
    return count;
  }
};

}  // namespace pyhpc
