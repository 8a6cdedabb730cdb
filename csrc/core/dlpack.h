// The part of the DLPack binary interface (dmlc/dlpack, version 1) that a consumer needs.
#pragma once
#include <stdint.h>

namespace pyhpc::dlpack {

enum DeviceType : int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };
enum TypeCode : uint8_t {
  int_code = 0,
  uint_code = 1,
  float_code = 2,
  bfloat_code = 4,
  complex_code = 5,
  bool_code = 6
};
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

// C functions of a producer, which live as long as the process: `__dlpack_c_exchange_api__` of its type, a capsule
// named "dlpack_exchange_api" (version 1.3).
struct ExchangeApi {
  uint32_t major, minor;
  ExchangeApi* previous;
  int (*allocate)(Tensor*, ManagedVersioned**, void*, void (*)(void*, const char*, const char*));
  int (*managed_from_object)(void*, ManagedVersioned**);
  int (*object_from_managed)(ManagedVersioned*, void**);
  int (*tensor_from_object)(void* object, Tensor* out);  // out is of the object's memory; -1: a Python error is set
  int (*current_stream)(int32_t, int32_t, void**);
};

}  // namespace pyhpc::dlpack
