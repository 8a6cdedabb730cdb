// Describes a strided tensor to the tensor copy engine: a batch of matrices, moved in boxes of 128-byte lines with the
// 128-byte swizzle.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "core/array.h"
#include "core/cuda_hopper.h"

namespace pyhpc::cuda {

// Sizes, strides and the box along x (contiguous), y (lines) and z (matrices); the box's z is 1.
struct TensorLayout {
  const void* data;
  DType dtype;
  int64_t size[3];
  int64_t stride[2];     // in elements, of y and z
  int box[2];            // of x and y
  bool as_tf32 = false;  // float32 is rounded to TF32 on its way to shared memory
};

constexpr int64_t tensor_alignment = 16;                     // bytes, of the data and of every stride
constexpr int64_t largest_tensor_size = int64_t{1} << 31;    // coordinates are 32-bit
constexpr int64_t largest_tensor_stride = int64_t{1} << 40;  // bytes, exclusive

// The driver's own encoder, found when it is first called: nothing links against the driver. Returns a cudaError_t.
int encode_tensor(const TensorLayout& layout, TensorMap& map);

}  // namespace pyhpc::cuda
