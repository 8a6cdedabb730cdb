// Python arrays of any kind as pyhpc::Array, without a copy: NumPy (with ml_dtypes' bfloat16), DLPack producers
// (PyTorch, CuPy, JAX ...), __cuda_array_interface__ (Numba, CuPy) and the buffer protocol.
// Only bind.cpp files, module.cpp and cuda_module.cpp include this.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <string>

#include "core/array.h"
#include "core/dlpack.h"
#include "core/error.h"
#include "core/torch.h"

namespace pyhpc {
namespace py = pybind11;

// An Array with whatever keeps its memory alive.
struct Borrowed : Array {
  py::object owner;
  Py_buffer buffer = {};
  Borrowed() = default;
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() {
    if (buffer.obj) PyBuffer_Release(&buffer);
  }
};

// `argument` is the parameter's name, for the error sentence.
inline void borrow(py::handle object, const char* argument, Borrowed& out);

namespace bind_detail {

inline void fail(const char* argument, const std::string& what) {
  throw Error(ErrorKind::invalid, std::string(argument) + " " + what);
}

inline DType dtype_of(char kind, int size, const char* argument) {  // kind as in NumPy: f i u
  switch (kind) {
    case 'f':
      if (size == 8) return DType::float64;
      if (size == 4) return DType::float32;
      if (size == 2) return DType::float16;
      break;
    case 'i':
      if (size == 8) return DType::int64;
      if (size == 4) return DType::int32;
      if (size == 2) return DType::int16;
      if (size == 1) return DType::int8;
      break;
    case 'u':
      if (size == 8) return DType::uint64;
      if (size == 4) return DType::uint32;
      if (size == 2) return DType::uint16;
      if (size == 1) return DType::uint8;
      break;
    default:
      break;
  }
  fail(argument, std::string("has element kind '") + kind + std::to_string(8 * size) + "', which no kernel takes");
  return DType::float64;
}

inline void set_ndim(Borrowed& out, int64_t ndim, const char* argument) {
  if (ndim > Array::max_ndim) fail(argument, "has " + std::to_string(ndim) + " dimensions; at most 8 are supported");
  out.ndim = static_cast<int>(ndim);
}

inline void contiguous_strides(Borrowed& out) {
  int64_t step = 1;
  for (int i = out.ndim - 1; i >= 0; --i) out.strides[i] = step, step *= out.shape[i];
}

// Byte strides must be whole elements: a kernel steps in elements.
inline void set_byte_stride(Borrowed& out, int axis, int64_t bytes, const char* argument) {
  const int size = itemsize(out.dtype);
  if (out.shape[axis] > 1 && (bytes & (size - 1)))  // sizes are powers of two: a division would take longer than all
    fail(argument,
         "has a stride of " + std::to_string(bytes) + " bytes, which is not a whole number of elements; copy it first");
  out.strides[axis] = bytes >> __builtin_ctz(size);
}

inline void from_numpy(py::handle object, const char* argument, Borrowed& out) {
  const py::array array = py::reinterpret_borrow<py::array>(object);
  const py::dtype type = array.dtype();
  static std::atomic<int> bfloat16_number{-1};  // NumPy numbers the type when ml_dtypes is imported
  const int number = type.num();
  if (number == bfloat16_number) {
    out.dtype = DType::bfloat16;
  } else if (number >= 256 && py::str(type.attr("name")).cast<std::string>() == "bfloat16") {
    bfloat16_number = number;
    out.dtype = DType::bfloat16;
  } else {
    if (const char order = type.byteorder(); order == '>')
      fail(argument, "is big-endian; convert it to the native byte order first");
    out.dtype = dtype_of(type.kind(), static_cast<int>(type.itemsize()), argument);
  }
  set_ndim(out, array.ndim(), argument);
  for (int i = 0; i < out.ndim; ++i) {
    out.shape[i] = array.shape(i);
    set_byte_stride(out, i, array.strides(i), argument);
  }
  out.data = const_cast<void*>(array.data());
  out.writable = array.writeable();
  out.owner = array;
}

inline void from_tensor(const dlpack::Tensor& tensor, bool writable, const char* argument, Borrowed& out) {
  if (tensor.dtype.lanes != 1) fail(argument, "has vector elements, which no kernel takes");
  const int size = tensor.dtype.bits / 8;
  switch (tensor.dtype.code) {
    case dlpack::float_code:
      out.dtype = dtype_of('f', size, argument);
      break;
    case dlpack::int_code:
      out.dtype = dtype_of('i', size, argument);
      break;
    case dlpack::uint_code:
      out.dtype = dtype_of('u', size, argument);
      break;
    case dlpack::bfloat_code:
      out.dtype = DType::bfloat16;
      break;
    case dlpack::complex_code:
    case dlpack::bool_code:
      fail(argument, std::string("has ") + (tensor.dtype.code == dlpack::bool_code ? "bool" : "complex") +
                         " elements, which no kernel takes");
      break;
    default:
      fail(argument, "has a DLPack element type that no kernel takes");
  }
  set_ndim(out, tensor.ndim, argument);
  for (int i = 0; i < out.ndim; ++i) out.shape[i] = tensor.shape[i];
  if (tensor.strides)
    for (int i = 0; i < out.ndim; ++i) out.strides[i] = tensor.strides[i];
  else
    contiguous_strides(out);
  const auto kind = tensor.device.type;
  if (kind == dlpack::cuda || kind == dlpack::cuda_managed)
    out.device = tensor.device.id;
  else if (kind != dlpack::cpu && kind != dlpack::cuda_host)
    fail(argument, "is on a device of DLPack type " + std::to_string(kind) + "; only the CPU and CUDA are supported");
  out.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  out.writable = writable;
}

// The capsule of DLPack 1, which tells read-only memory, where the producer knows it, else the older one.
inline py::object versioned_capsule(py::handle object) {
  try {
    return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    return object.attr("__dlpack__")();
  }
}

inline void from_dlpack(py::handle object, const char* argument, Borrowed& out) {
  // The capsule keeps its name, so its own destructor releases the tensor when `owner` goes.
  if (py::hasattr(object, "__dlpack_device__") &&
      object.attr("__dlpack_device__")().cast<py::tuple>()[0].cast<int>() == dlpack::cuda)
    out.owner =
        object.attr("__dlpack__")(py::arg("stream") = -1);  // -1: no synchronisation, we launch on the caller's stream
  else
    out.owner = versioned_capsule(object);
  PyObject* capsule = out.owner.ptr();
  if (PyCapsule_IsValid(capsule, "dltensor"))
    return from_tensor(static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, "dltensor"))->tensor, true, argument,
                       out);
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    auto* managed = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    return from_tensor(managed->tensor, !(managed->flags & dlpack::flag_read_only), argument, out);
  }
  fail(argument, "gave something else than a DLPack capsule");
}

inline void from_cuda_interface(py::handle object, const char* argument, Borrowed& out) {
  const py::dict description = object.attr("__cuda_array_interface__");
  const std::string type = description["typestr"].cast<std::string>();
  // The interface has no code for bfloat16: PyTorch gives what NumPy says of ml_dtypes' type, and so do we.
  if (type == "<V2")
    out.dtype = DType::bfloat16;
  else
    out.dtype = dtype_of(type.at(1), std::stoi(type.substr(2)), argument);
  const py::tuple shape = description["shape"], data = description["data"];
  set_ndim(out, static_cast<int64_t>(shape.size()), argument);
  for (int i = 0; i < out.ndim; ++i) out.shape[i] = shape[i].cast<int64_t>();
  if (description.contains("strides") && !description["strides"].is_none()) {
    const py::tuple strides = description["strides"];
    for (int i = 0; i < out.ndim; ++i) set_byte_stride(out, i, strides[i].cast<int64_t>(), argument);
  } else {
    contiguous_strides(out);
  }
  out.data = reinterpret_cast<void*>(data[0].cast<uintptr_t>());
  out.writable = !data[1].cast<bool>();
  out.device = 0;  // the interface does not say; _cuda asks the driver for the pointer's device
  out.owner = py::reinterpret_borrow<py::object>(object);
}

inline void from_buffer(py::handle object, const char* argument, Borrowed& out) {
  if (PyObject_GetBuffer(object.ptr(), &out.buffer, PyBUF_RECORDS_RO) != 0) throw py::error_already_set();
  const char* format = out.buffer.format ? out.buffer.format : "B";
  if (*format == '@' || *format == '=' || *format == '<') ++format;  // every target is little-endian
  const int size = static_cast<int>(out.buffer.itemsize);
  const std::string code = format;
  if (code == "d" || code == "f" || code == "e")
    out.dtype = dtype_of('f', size, argument);
  else if (code == "b" || code == "h" || code == "i" || code == "l" || code == "q")
    out.dtype = dtype_of('i', size, argument);
  else if (code == "B" || code == "H" || code == "I" || code == "L" || code == "Q")
    out.dtype = dtype_of('u', size, argument);
  else
    fail(argument, "has buffer format '" + code + "', which no kernel takes");
  set_ndim(out, out.buffer.ndim, argument);
  for (int i = 0; i < out.ndim; ++i) out.shape[i] = out.buffer.shape[i];
  if (out.buffer.strides)
    for (int i = 0; i < out.ndim; ++i) set_byte_stride(out, i, out.buffer.strides[i], argument);
  else
    contiguous_strides(out);  // ctypes gives none, though asked
  out.data = out.buffer.buf;
  out.writable = !out.buffer.readonly;
}

inline void check_alignment(const char* argument, const Borrowed& out) {
  if (reinterpret_cast<uintptr_t>(out.data) & (itemsize(out.dtype) - 1))
    fail(argument, "is not aligned to its element size; copy it first");
}

}  // namespace bind_detail

// Reads an array that takes no step in Python to read: false if `object` is another one.
inline bool borrow_directly(py::handle object, const char* argument, Borrowed& out) {
  dlpack::Tensor tensor;
  if (py::isinstance<py::array>(object)) {
    bind_detail::from_numpy(object, argument, out);
  } else if (torch::show(object, tensor)) {
    bind_detail::from_tensor(tensor, true, argument, out);
    out.owner = py::reinterpret_borrow<py::object>(object);
  } else {
    return false;
  }
  bind_detail::check_alignment(argument, out);
  return true;
}

inline void borrow(py::handle object, const char* argument, Borrowed& out) {
  if (borrow_directly(object, argument, out)) return;
  if (py::hasattr(object, "__dlpack__"))
    bind_detail::from_dlpack(object, argument, out);
  else if (py::hasattr(object, "__cuda_array_interface__"))
    bind_detail::from_cuda_interface(object, argument, out);
  else if (PyObject_CheckBuffer(object.ptr()))
    bind_detail::from_buffer(object, argument, out);
  else
    bind_detail::fail(
        argument,
        "is a " + std::string(Py_TYPE(object.ptr())->tp_name) +
            ", not an array: give NumPy, PyTorch, CuPy, Numba, or anything with DLPack, the buffer protocol or "
            "__cuda_array_interface__");
  bind_detail::check_alignment(argument, out);
}

// Whether `object` is a numpy.ndarray itself, of no derived type.
inline bool is_ndarray(py::handle object) { return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

// A C-contiguous NumPy array of undefined content; py::array's own constructors make vectors of the shape and strides.
inline py::object empty_ndarray(const py::dtype& type, int ndim, const int64_t* shape) {
  const auto& numpy = py::detail::npy_api::get();
  static_assert(sizeof(Py_intptr_t) == sizeof(int64_t));
  PyObject* array =
      numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, py::dtype(type).release().ptr(), ndim,
                                  reinterpret_cast<const Py_intptr_t*>(shape), nullptr, nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(array);
}

// Sets Python's error to the class of pyhpc.errors that the kind names.
inline void set_error(const Error& error) {
  const char* names[] = {"InvalidArgument", "Unsupported", "DeviceError", "CommunicationError"};
  const py::object type = py::module_::import("pyhpc.errors").attr(names[static_cast<int>(error.kind)]);
  PyErr_SetString(type.ptr(), error.what());
}

// Turns pyhpc::Error into a Python error. Called once by each module.
inline void register_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const Error& error) {
      set_error(error);
    }
  });
}

}  // namespace pyhpc
