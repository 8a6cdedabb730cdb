// cuTensorMapEncodeTiled through cudaGetDriverEntryPointByVersion. Source: CUDA driver API, "Tensor map object
// management".
#include <cuda.h>
#include <cudaTypedefs.h>

#include "core/cuda_tensor_map.h"

namespace pyhpc::cuda {
namespace {

constexpr int cuda_12 = 12000;  // where the encoder came

int find_encoder(PFN_cuTensorMapEncodeTiled_v12000& encoder) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, cuda_12, cudaEnableDefault, &found);
  if (status != cudaSuccess) return status;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorCallRequiresNewerDriver;
  encoder = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  return cudaSuccess;
}

CUtensorMapDataType type_of(DType dtype) {
  switch (dtype) {
    case DType::bfloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case DType::float16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case DType::float32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  }
}

}  // namespace

int encode_tensor(const TensorLayout& layout, TensorMap& map) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
  static PFN_cuTensorMapEncodeTiled_v12000 encoder = nullptr;
  if (!encoder)
    if (const int status = find_encoder(encoder)) return status;
  cuuint64_t size[3], stride[2];
  for (int i = 0; i < 3; ++i) size[i] = static_cast<cuuint64_t>(layout.size[i]);
  for (int i = 0; i < 2; ++i) stride[i] = static_cast<cuuint64_t>(layout.stride[i] * itemsize(layout.dtype));
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(layout.box[0]), static_cast<cuuint32_t>(layout.box[1]), 1};
  const cuuint32_t every[3] = {1, 1, 1};
  // Lines are prefetched into L2 in 256 bytes: two boxes that follow each other along x.
  const CUresult status = encoder(
      reinterpret_cast<CUtensorMap*>(&map), layout.as_tf32 ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 : type_of(layout.dtype),
      3, const_cast<void*>(layout.data), size, stride, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace pyhpc::cuda
