// What _cuda asks the CUDA driver and runtime, behind plain types: bindings need no CUDA header.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace pyhpc::cuda {

// Why no kernel can run here, as the end of "absent because ...", or "" if one can. Asked anew on each call: no state.
std::string absence();

// Throws DeviceError "<action> failed: <CUDA's name>: <CUDA's sentence>" unless `status`, a cudaError_t, is success.
void check(int status, const std::string& action);

struct Device {
  int ordinal, driver_version, runtime_version;  // versions as CUDA counts them: 13000 is 13.0
  int compute_capability_major, compute_capability_minor;
  int multiprocessors, shared_bytes_per_block, l2_bytes;
  int clock_kilohertz, memory_clock_kilohertz, memory_bus_bits;
  int64_t memory_bytes;
  bool ecc;
  std::string name, uuid, pci_bus;
};
std::vector<Device> devices();

// The ordinal of the device that owns `pointer`. An error if it is no device memory of this process.
int pointer_device(const void* pointer);

// Makes `ordinal` current and restores the caller's device afterwards.
class DeviceGuard {
 public:
  explicit DeviceGuard(int ordinal);
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  ~DeviceGuard();

 private:
  int previous = -1;
};

// A point in a stream's work, with a time stamp taken by the GPU. The stream must be of the same device.
class Event {
 public:
  explicit Event(int device);
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();
  void record(uintptr_t stream);
  void synchronize() const;
  double seconds_since(const Event& start) const;  // both must have completed

 private:
  const int device;
  void* handle = nullptr;
};

void synchronize(uintptr_t stream);

void* allocate(size_t bytes);                                                      // on the current device
void release(void* data) noexcept;                                                 // of any device
void copy(void* destination, const void* source, size_t bytes, uintptr_t stream);  // in stream order, any direction

}  // namespace pyhpc::cuda
