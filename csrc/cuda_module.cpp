// The Python module _cuda: device queries, events, plain device memory, and what every csrc/<kernel>/bind_cuda.cpp
// adds. It imports on a machine without a driver; absence() then says why nothing else works.
#include "core/bind.h"
#include "core/cuda_device.h"

namespace py = pybind11;

#define PYHPC_KERNEL(kernel) \
  namespace pyhpc::kernel {  \
  void bind(py::module_&);   \
  }
#include "cuda_kernels.inc"
#undef PYHPC_KERNEL

namespace pyhpc::cuda {
namespace {

py::dict to_dict(const Device& device) {
  using namespace py::literals;
  return py::dict(
      "ordinal"_a = device.ordinal, "name"_a = device.name, "uuid"_a = device.uuid, "pci_bus"_a = device.pci_bus,
      "compute_capability"_a = py::make_tuple(device.compute_capability_major, device.compute_capability_minor),
      "multiprocessors"_a = device.multiprocessors, "memory_bytes"_a = device.memory_bytes,
      "l2_bytes"_a = device.l2_bytes, "shared_bytes_per_block"_a = device.shared_bytes_per_block,
      "clock_hertz"_a = device.clock_kilohertz * 1e3, "memory_clock_hertz"_a = device.memory_clock_kilohertz * 1e3,
      "memory_bus_bits"_a = device.memory_bus_bits, "ecc"_a = device.ecc, "driver_version"_a = device.driver_version,
      "runtime_version"_a = device.runtime_version);
}

// Bytes on one GPU, freed with the object. Other libraries see it as an array of uint8.
class Memory {
 public:
  Memory(size_t bytes, int device) : bytes(bytes), device(device) {
    const DeviceGuard guard(device);
    data = allocate(bytes);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { release(data); }

  // Bytes from or to a C-contiguous host array; returns when they have arrived.
  void transfer(py::handle host, bool to_host, uintptr_t stream) {
    Borrowed array;
    borrow(host, "host", array);
    require(array.device == Array::cpu, "host is not in CPU memory");
    require(!to_host || array.writable, "host is read-only");
    require(static_cast<size_t>(array.size()) * itemsize(array.dtype) == bytes,
            "host has " + std::to_string(array.size() * itemsize(array.dtype)) + " bytes but the GPU memory " +
                std::to_string(bytes));
    int64_t step = 1;
    for (int i = array.ndim - 1; i >= 0; step *= array.shape[i--])
      require(array.shape[i] <= 1 || array.strides[i] == step, "host is not C-contiguous");
    const DeviceGuard guard(device);
    const py::gil_scoped_release released;
    copy(to_host ? array.data : data, to_host ? data : array.data, bytes, stream);
    synchronize(stream);
  }

  const size_t bytes;
  const int device;
  void* data = nullptr;
};

void bind_devices(py::module_& module) {
  module.def(
      "absence",
      []() -> py::object {
        const std::string reason = absence();
        return reason.empty() ? py::object(py::none()) : py::object(py::str(reason));
      },
      "Why no kernel can run here, as the end of \"absent because ...\", or None.");
  module.def(
      "devices",
      [] {
        py::list result;
        for (const Device& device : devices()) result.append(to_dict(device));
        return result;
      },
      "What the driver says of each visible GPU.");
  module.def(
      "pointer_device", [](uintptr_t pointer) { return pointer_device(reinterpret_cast<void*>(pointer)); },
      py::arg("pointer"), "Ordinal of the GPU that owns this address.");
  module.def(
      "synchronize",
      [](int device, uintptr_t stream) {
        const DeviceGuard guard(device);
        const py::gil_scoped_release released;
        synchronize(stream);
      },
      py::arg("device") = 0, py::arg("stream") = 0, "Wait until the work in `stream` is done.");
}

void bind_objects(py::module_& module) {
  py::class_<Event>(module, "Event", "A point in a stream's work, time-stamped by the GPU.")
      .def(py::init<int>(), py::arg("device") = 0)
      .def("record", &Event::record, py::arg("stream") = 0, "Mark this point of `stream`.")
      .def("synchronize", &Event::synchronize, py::call_guard<py::gil_scoped_release>(),
           "Wait until the point is reached.")
      .def("seconds_since", &Event::seconds_since, py::arg("start"),
           "GPU time from `start` to this point; both reached.");
  py::class_<Memory>(module, "Memory", "Bytes on one GPU, freed with the object; other libraries see uint8.")
      .def(py::init<size_t, int>(), py::arg("bytes"), py::arg("device") = 0)
      .def_readonly("bytes", &Memory::bytes)
      .def_readonly("device", &Memory::device)
      .def_property_readonly("pointer", [](const Memory& self) { return reinterpret_cast<uintptr_t>(self.data); })
      .def_property_readonly("__cuda_array_interface__",
                             [](const Memory& self) {
                               using namespace py::literals;
                               return py::dict(
                                   "shape"_a = py::make_tuple(self.bytes), "typestr"_a = "|u1", "version"_a = 3,
                                   "data"_a = py::make_tuple(reinterpret_cast<uintptr_t>(self.data), false));
                             })
      .def(
          "copy_from", [](Memory& self, py::object host, uintptr_t stream) { self.transfer(host, false, stream); },
          py::arg("host"), py::arg("stream") = 0, "Fill from a C-contiguous host array of as many bytes.")
      .def(
          "copy_to", [](Memory& self, py::object host, uintptr_t stream) { self.transfer(host, true, stream); },
          py::arg("host"), py::arg("stream") = 0, "Fill a C-contiguous host array of as many bytes.");
}

}  // namespace
}  // namespace pyhpc::cuda

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
  module.doc() = "CUDA kernels. Private: use the functions of pyhpc.";
  pyhpc::register_errors(module);
  pyhpc::cuda::bind_devices(module);
  pyhpc::cuda::bind_objects(module);
#define PYHPC_KERNEL(kernel)                         \
  {                                                  \
    py::module_ sub = module.def_submodule(#kernel); \
    pyhpc::kernel::bind(sub);                        \
  }
#include "cuda_kernels.inc"
#undef PYHPC_KERNEL
}
