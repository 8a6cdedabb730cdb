// Device queries, events and memory over the CUDA runtime, which is linked statically and loads the driver at its first
// call. absence() asks the driver itself, because the runtime gives one error for three different reasons.
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/cuda_device.h"
#include "core/error.h"
#include "core/machine.h"

namespace pyhpc {
namespace cuda {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int attribute(cudaDeviceAttr which, int ordinal) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, ordinal), "reading an attribute of GPU " + std::to_string(ordinal));
  return value;
}

std::string uuid_text(const unsigned char* bytes) {  // as nvidia-smi prints it
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    char digits[3];
    snprintf(digits, sizeof digits, "%02x", bytes[i]);
    text += (i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "") + std::string(digits);
  }
  return text;
}

std::string describe(int status) {
  const auto error = static_cast<cudaError_t>(status);
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// The driver's own version and whether it can start: what cudaGetDeviceCount would hide behind one error.
std::string driver_absence() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver) return "there is no NVIDIA driver (libcuda.so.1 was not found)";
  const auto get_version = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
  int version = 0;
  if (!get_version || get_version(&version) != 0) return "the NVIDIA driver does not tell its version";
  if (version / 1000 < CUDART_VERSION / 1000)
    return "the NVIDIA driver supports CUDA " + version_text(version) + ", but this build needs CUDA " +
           version_text(CUDART_VERSION / 1000 * 1000) + " or newer";
  return "";
}

}  // namespace

std::string absence() {
  const std::string driver = driver_absence();
  if (!driver.empty()) return driver;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    const char* visible = getenv("CUDA_VISIBLE_DEVICES");
    return "no GPU is visible" + (visible ? " (CUDA_VISIBLE_DEVICES='" + std::string(visible) + "')" : std::string());
  }
  if (status != cudaSuccess) return "the NVIDIA driver cannot start (" + describe(status) + ")";
  return "";
}

void check(int status, const std::string& action) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the caller learns of it here, not in the next unrelated call
  throw Error(ErrorKind::device, action + " failed: " + describe(status));
}

std::vector<Device> devices() {
  int count = 0, driver = 0, runtime = 0;
  check(cudaGetDeviceCount(&count), "counting the GPUs");
  check(cudaDriverGetVersion(&driver), "reading the driver's version");
  check(cudaRuntimeGetVersion(&runtime), "reading the runtime's version");
  std::vector<Device> found;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, ordinal), "reading the properties of GPU " + std::to_string(ordinal));
    char bus[32] = "";
    check(cudaDeviceGetPCIBusId(bus, sizeof bus, ordinal), "reading the PCI address of GPU " + std::to_string(ordinal));
    Device device;
    device.ordinal = ordinal;
    device.driver_version = driver;
    device.runtime_version = runtime;
    device.compute_capability_major = properties.major;
    device.compute_capability_minor = properties.minor;
    device.multiprocessors = properties.multiProcessorCount;
    device.shared_bytes_per_block = static_cast<int>(properties.sharedMemPerBlockOptin);
    device.l2_bytes = properties.l2CacheSize;
    device.clock_kilohertz = attribute(cudaDevAttrClockRate, ordinal);
    device.memory_clock_kilohertz = attribute(cudaDevAttrMemoryClockRate, ordinal);
    device.memory_bus_bits = properties.memoryBusWidth;
    device.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    device.ecc = properties.ECCEnabled;
    device.name = properties.name;
    device.uuid = uuid_text(reinterpret_cast<const unsigned char*>(properties.uuid.bytes));
    device.pci_bus = bus;
    found.push_back(device);
  }
  return found;
}

int pointer_device(const void* pointer) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, pointer), "asking which GPU owns a pointer");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    throw Error(ErrorKind::invalid, "the pointer is not GPU memory of this process");
  return attributes.device;
}

DeviceGuard::DeviceGuard(int ordinal) {
  check(cudaGetDevice(&previous), "asking for the current GPU");
  check(cudaSetDevice(ordinal), "choosing GPU " + std::to_string(ordinal));
}

// A destructor cannot throw; a device that was current a moment ago can be made current again.
DeviceGuard::~DeviceGuard() { cudaSetDevice(previous); }

Event::Event(int device) : device(device) {
  const DeviceGuard guard(device);
  cudaEvent_t event;
  check(cudaEventCreate(&event), "creating an event");
  handle = event;
}

Event::~Event() { cudaEventDestroy(static_cast<cudaEvent_t>(handle)); }

void Event::record(uintptr_t stream) {
  const DeviceGuard guard(device);  // the default stream, 0, is the current device's
  check(cudaEventRecord(static_cast<cudaEvent_t>(handle), reinterpret_cast<cudaStream_t>(stream)),
        "recording an event");
}

void Event::synchronize() const {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(handle)), "waiting for an event");
}

double Event::seconds_since(const Event& start) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start.handle), static_cast<cudaEvent_t>(handle)),
        "reading the time between two events");
  return milliseconds * 1e-3;
}

void synchronize(uintptr_t stream) {
  check(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream)), "waiting for the stream");
}

void* allocate(size_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "allocating " + std::to_string(bytes) + " bytes on the GPU");
  return data;
}

void release(void* data) noexcept { cudaFree(data); }

void copy(void* destination, const void* source, size_t bytes, uintptr_t stream) {
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, reinterpret_cast<cudaStream_t>(stream)),
        "copying " + std::to_string(bytes) + " bytes");
}

}  // namespace cuda

// The CUDA module's answer to choose() (core/variant.h): the targets are GPU generations and the GPU is the current
// one.
const char* const targets[] = {"sm90", "sm80", nullptr};

const char* target_refusal(const char* target) {
  int ordinal = 0, major = 0;
  cuda::check(cudaGetDevice(&ordinal), "asking for the current GPU");
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal),
              "reading the compute capability");
  const std::string name = target;
  if (name == "sm90") return major == 9 ? nullptr : "the GPU is not of compute capability 9.0 (Hopper)";
  if (name == "sm80") return major >= 8 ? nullptr : "the GPU's compute capability is below 8.0 (Ampere)";
  return "this build has no code for that target";
}

}  // namespace pyhpc
