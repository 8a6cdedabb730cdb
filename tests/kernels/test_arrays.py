"""Whose array it is, where it lies, and a result of the same kind."""

import array as standard_array
import types

import ml_dtypes
import numpy as np
import pytest

from pyhpc import matmul
from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.kernels.arrays import HOST, NUMBA, NUMPY, OTHER, TORCH, describe, host_view, same_home, with_axis


class Exporter:
    """Another library's array: nothing but DLPack, a shape and a dtype."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __dlpack__(self, **arguments: object) -> object:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class OnGpu:
    """A CUDA array as far as its description goes."""

    shape, dtype = (2, 3), np.dtype("float32")

    def __init__(self, ordinal: int = 0, stream: int | None = None) -> None:
        self.ordinal = ordinal
        self.__cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "stream": stream}

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.ordinal)


def test_numpy_arrays_of_every_dtype_are_described():
    for dtype in ("float64", "float32", "float16", "int8", "uint16"):
        operand = describe(np.empty((2, 3), dtype), "a")
        assert (operand.library, operand.shape, operand.dtype, operand.device) == (NUMPY, (2, 3), dtype, HOST)
    assert describe(np.empty(2, ml_dtypes.bfloat16), "a").dtype == "bfloat16"
    assert describe(np.empty(2, np.complex64), "a").dtype == "complex64"


def test_buffers_are_numpy_arrays_of_the_same_memory():
    values = standard_array.array("f", [1, 2, 3])
    operand = describe(values, "a")
    assert operand.library is NUMPY
    operand.array[1] = 7
    assert values[1] == 7


def test_what_is_no_array_is_refused_in_one_sentence():
    for nothing in ([[1.0]], 3.0, None, "text"):
        with pytest.raises(
            InvalidArgument, match=f"^a is a {type(nothing).__name__}, not an array: give NumPy, PyTorch"
        ):
            describe(nothing, "a")


def test_torch_tensors_are_described_without_a_copy():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3, 4)
    operand = describe(tensor.T, "a")
    assert (operand.library, operand.shape, operand.dtype, operand.device) == (TORCH, (4, 3), "float32", HOST)
    operand.array[0, 2] = 5
    assert tensor[2, 0] == 5
    sixteen = torch.zeros(2, dtype=torch.bfloat16)
    view = host_view(describe(sixteen, "a"))
    view[1] = 3
    assert view.dtype == ml_dtypes.bfloat16
    assert sixteen[1] == 3


def test_a_tensor_that_requires_grad_is_refused_except_where_gradients_are_off():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(2, requires_grad=True)
    with pytest.raises(InvalidArgument, match=r"give q\.detach\(\), or call under torch\.no_grad\(\)"):
        describe(tensor, "q")
    parameter = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    with torch.no_grad():  # as in inference with a model's parameters
        assert not describe(parameter, "q").array.requires_grad
        assert matmul(parameter, parameter).tolist() == [[2, 2], [2, 2]]


def test_another_librarys_array_is_read_through_dlpack():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    operand = describe(Exporter(values), "a")
    assert (operand.library, operand.shape, operand.dtype, operand.device) == (OTHER, (2, 3), "float32", HOST)
    assert np.shares_memory(host_view(operand), values)
    assert with_axis(operand.array, 0).shape == (1, 2, 3)


def test_a_gpu_array_is_described_by_its_device_and_stream():
    operand = describe(OnGpu(ordinal=3, stream=1234), "a")
    assert (operand.library, operand.device, operand.dtype) == (OTHER, 3, "float32")
    assert operand.library.stream(operand) == 1234
    unordered = describe(OnGpu(), "a")
    assert unordered.library.stream(unordered) == 0
    with pytest.raises(Unsupported, match=r"cannot be made here; give out="):
        operand.library.empty(operand, (2, 2), "float32")
    with pytest.raises(InvalidArgument, match="cuda:3; this variant takes arrays on the CPU"):
        host_view(operand)


def test_a_numba_device_array_is_known_by_its_home():
    array = type("DeviceNDArray", (OnGpu,), {"__module__": "numba.cuda.cudadrv.devicearray"})()
    assert describe(array, "a").library is NUMBA


def test_arrays_of_two_libraries_or_devices_are_refused():
    host, first, second = describe(np.empty(1), "a"), describe(OnGpu(), "b"), describe(OnGpu(ordinal=1), "c")
    with pytest.raises(
        InvalidArgument, match=r"^a is a NumPy array or buffer and b is an array of another library; give"
    ):
        same_home({"a": host, "b": first})
    with pytest.raises(InvalidArgument, match=r"^b is on cuda:0 and c is on cuda:1; move them to one device$"):
        same_home({"b": first, "c": second})
    assert same_home({"a": host, "b": host}) is host


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_an_axis_is_added_where_numpy_adds_it(axis):
    values = np.arange(3.0)[::-1]
    assert with_axis(values, axis).shape == np.expand_dims(values, axis).shape
    assert np.shares_memory(with_axis(values, axis), values)


def test_a_cupy_result_is_made_on_the_arrays_device_and_ordered_by_the_current_stream(monkeypatch):
    # A stand-in for CuPy: what is tested is which of its functions are asked.
    made = []

    class Device:
        def __enter__(self) -> None:
            made.append("device")

        def __exit__(self, *error: object) -> None:
            pass

    cupy = types.SimpleNamespace(
        empty=lambda shape, dtype: made.append((shape, dtype)),
        cuda=types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=77)),
    )
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    array = type("ndarray", (OnGpu,), {"__module__": "cupy", "device": Device()})()
    operand = describe(array, "a")
    operand.library.empty(operand, (2, 2), "bfloat16")
    assert made == ["device", ((2, 2), np.dtype(ml_dtypes.bfloat16))]
    assert operand.library.stream(operand) == 77
