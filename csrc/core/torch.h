// PyTorch, where the caller has loaded it, through the C functions that it offers (DLPack's exchange interface, PyTorch
// 2.10): to read a tensor by steps in Python takes longer than a small product.
#pragma once
#include <pybind11/pybind11.h>

#include "core/array.h"
#include "core/dlpack.h"

namespace pyhpc::torch {
namespace py = pybind11;

struct Library {
  PyTypeObject* tensor = nullptr;
  const dlpack::ExchangeApi* functions = nullptr;                          // null: a version without them
  PyObject *is_cpu, *requires_grad, *is_neg, *new_empty, *dtype_argument;  // names: to make strings of them takes time
};

// What is loaded; found once, under the Python lock.
inline const Library& library() {
  static Library found;
  if (found.tensor) return found;
  PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
  if (!module || !py::hasattr(module, "Tensor")) return found;  // not loaded, or not to the end
  const py::object tensor = py::getattr(module, "Tensor");
  if (py::hasattr(tensor, "__dlpack_c_exchange_api__")) {
    const py::capsule capsule = tensor.attr("__dlpack_c_exchange_api__");
    const auto* functions = capsule.get_pointer<const dlpack::ExchangeApi>();
    if (functions->major == 1 && functions->tensor_from_object) found.functions = functions;
  }
  found.is_cpu = PyUnicode_InternFromString("is_cpu");
  found.requires_grad = PyUnicode_InternFromString("requires_grad");
  found.is_neg = PyUnicode_InternFromString("is_neg");
  found.new_empty = PyUnicode_InternFromString("new_empty");
  found.dtype_argument = py::make_tuple("dtype").release().ptr();
  found.tensor = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr());
  return found;
}

inline bool is_tensor(py::handle object) { return library().functions && Py_TYPE(object.ptr()) == library().tensor; }

// Whether those functions show all that `object` is: a tensor (of no derived type) in memory that the CPU reads, which
// records no gradients and is no negated view.
inline bool shows(py::handle object) {
  if (!is_tensor(object)) return false;
  const Library& torch = library();
  const auto is = [](PyObject* answer, PyObject* wanted) {
    if (!answer) throw py::error_already_set();
    Py_DECREF(answer);  // True and False live on
    return answer == wanted;
  };
  return is(PyObject_GetAttr(object.ptr(), torch.is_cpu), Py_True) &&
         is(PyObject_GetAttr(object.ptr(), torch.requires_grad), Py_False) &&
         is(PyObject_CallMethodNoArgs(object.ptr(), torch.is_neg), Py_False);
}

// What they show; false where there is no such memory (sparse tensors, say).
inline bool show(py::handle object, dlpack::Tensor& tensor) {
  if (!shows(object)) return false;
  if (library().functions->tensor_from_object(object.ptr(), &tensor) == 0) return true;
  PyErr_Clear();  // the caller takes the way in Python, which says what is wrong
  return false;
}

// A contiguous tensor of undefined content, on the device of `like`.
inline py::object empty(py::handle like, DType type, int ndim, const int64_t* shape) {
  PyObject* arguments[Array::max_ndim + 2] = {like.ptr()};  // sizes one by one: a tuple of them takes 1 us more
  py::object sizes[Array::max_ndim];
  for (int i = 0; i < ndim; ++i) sizes[i] = py::int_(shape[i]), arguments[i + 1] = sizes[i].ptr();
  const py::object dtype =
      py::reinterpret_borrow<py::module_>(PyDict_GetItemString(PyImport_GetModuleDict(), "torch")).attr(name(type));
  arguments[ndim + 1] = dtype.ptr();
  PyObject* made = PyObject_VectorcallMethod(library().new_empty, arguments, ndim + 1, library().dtype_argument);
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

}  // namespace pyhpc::torch
