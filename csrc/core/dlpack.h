// The part of the DLPack binary interface (dmlc/dlpack, version 1) that a consumer needs.
#pragma once
#include <stdint.h>

namespace pyhpc::dlpack {

enum DeviceType : int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };
enum TypeCode : uint8_t { int_code = 0, uint_code = 1, float_code = 2, bfloat_code = 4 };
constexpr uint64_t flag_read_only = 1;

struct Device {
  int32_t type;
  int32_t id;
};
struct Type {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  Type dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means C-contiguous
  uint64_t byte_offset;
};
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};
struct ManagedVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};

}  // namespace pyhpc::dlpack
