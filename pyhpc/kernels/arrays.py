"""What kind of array the caller gave: whose it is, where it lies, and how to make a result of the same kind.

No array library but NumPy is imported here: who gives a tensor has loaded its library. Reading the memory itself is
done in C++ (csrc/core/bind.h), from the same objects.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.kernels.data import DTYPES

HOST = -1  # Operand.device of memory that the CPU reads


class Operand(NamedTuple):
    """An argument, described."""

    array: Any  # what C++ reads: the argument itself or a view of it
    library: Library
    shape: tuple[int, ...]
    dtype: str  # "float32", "bfloat16" …
    device: int  # HOST or the ordinal of a CUDA device


@dataclass(frozen=True)
class Library:
    """One array library."""

    title: str  # "a PyTorch tensor"
    empty: Callable[[Operand, tuple[int, ...], str], Any]  # (like, shape, dtype) → uninitialised array of this library
    stream: Callable[[Operand], int]  # handle of the CUDA stream that the caller's work on this array is ordered by


def _no_stream(like: Operand) -> int:
    return 0


def _interface_stream(like: Operand) -> int:
    # __cuda_array_interface__ version 3: the stream, or None where no ordering is needed.
    return getattr(like.array, "__cuda_array_interface__", {}).get("stream") or 0


def _torch_empty(like: Operand, shape: tuple[int, ...], dtype: str) -> Any:
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype), device=like.array.device)


def _torch_stream(like: Operand) -> int:
    return int(sys.modules["torch"].cuda.current_stream(like.device).cuda_stream)


def _cupy_empty(like: Operand, shape: tuple[int, ...], dtype: str) -> Any:
    with like.array.device:
        return sys.modules["cupy"].empty(shape, DTYPES[dtype])


def _cupy_stream(like: Operand) -> int:
    return int(sys.modules["cupy"].cuda.get_current_stream().ptr)


def _numba_empty(like: Operand, shape: tuple[int, ...], dtype: str) -> Any:
    if dtype == "bfloat16":
        raise Unsupported("Numba has no bfloat16 array for the result; give PyTorch or CuPy arrays, or out=")
    return sys.modules["numba.cuda"].device_array(shape, DTYPES[dtype])


def _other_empty(like: Operand, shape: tuple[int, ...], dtype: str) -> Any:
    if like.device == HOST:
        return np.empty(shape, DTYPES[dtype])
    kind = type(like.array)
    raise Unsupported(f"the result for a {kind.__module__}.{kind.__name__} on a GPU cannot be made here; give out=")


NUMPY = Library("a NumPy array or buffer", lambda like, shape, dtype: np.empty(shape, DTYPES[dtype]), _no_stream)
TORCH = Library("a PyTorch tensor", _torch_empty, _torch_stream)
CUPY = Library("a CuPy array", _cupy_empty, _cupy_stream)
NUMBA = Library("a Numba device array", _numba_empty, _interface_stream)
OTHER = Library("an array of another library", _other_empty, _interface_stream)

NAMES = {kind: name for name, kind in DTYPES.items()}  # of NumPy dtypes: a look-up is ten times faster than dtype.name


def _describe_numpy(array: np.ndarray) -> Operand:
    return Operand(array, NUMPY, array.shape, NAMES.get(array.dtype) or str(array.dtype), HOST)


@functools.cache
def _torch_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _describe_torch(tensor: Any, argument: str) -> Operand:
    torch = sys.modules["torch"]
    if tensor.requires_grad:
        if torch.is_grad_enabled():
            raise InvalidArgument(
                f"{argument} requires grad, and pyhpc computes no gradients; give {argument}.detach(), "
                "or call under torch.no_grad()"
            )
        tensor = tensor.detach()
    if tensor.is_neg():
        raise InvalidArgument(f"{argument} is a negated view of memory; give {argument}.resolve_neg()")
    if tensor.layout is not torch.strided:
        raise InvalidArgument(f"{argument} is {tensor.layout}; give {argument}.to_dense()")
    return Operand(
        tensor, TORCH, tuple(tensor.shape), _torch_name(tensor.dtype), HOST if tensor.is_cpu else tensor.get_device()
    )


def describe(array: Any, argument: str) -> Operand:
    """What `array`, given as the parameter `argument`, is. Nothing is copied.

    Raises:
        InvalidArgument: it is no array, or a tensor that requires grad.
    """
    if isinstance(array, np.ndarray):
        return _describe_numpy(array)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _describe_torch(array, argument)
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        home = type(array).__module__.partition(".")[0]
        library = CUPY if home == "cupy" else NUMBA if home in ("numba", "numba_cuda") else OTHER
        return Operand(array, library, tuple(array.shape), str(array.dtype), _cuda_device(array))
    if hasattr(array, "__dlpack__"):
        device = HOST if array.__dlpack_device__()[0] == 1 else int(array.__dlpack_device__()[1])  # 1: kDLCPU
        return Operand(array, OTHER, tuple(array.shape), str(array.dtype).rpartition(".")[2], device)
    try:
        return _describe_numpy(np.asarray(memoryview(array)))
    except TypeError:
        raise InvalidArgument(
            f"{argument} is a {type(array).__name__}, not an array: give NumPy, PyTorch, CuPy, Numba, or anything with "
            "DLPack, the buffer protocol or __cuda_array_interface__"
        ) from None


def _cuda_device(array: Any) -> int:
    """Ordinal of the device that a CUDA array lies on, 0 where the array does not tell."""
    device = getattr(array, "__dlpack_device__", None)
    return 0 if device is None else int(device()[1])


def same_home(operands: dict[str, Operand]) -> Operand:
    """The first operand, after checking that all are of one library and on one device.

    Raises:
        InvalidArgument: they are not; the sentence names two that differ.
    """
    (first_name, first), *others = operands.items()
    for name, operand in others:
        if operand.library is not first.library:
            raise InvalidArgument(
                f"{first_name} is {first.library.title} and {name} is {operand.library.title}; "
                "give arrays of one library"
            )
        if operand.device != first.device:
            raise InvalidArgument(
                f"{first_name} is on {_place(first)} and {name} is on {_place(operand)}; move them to one device"
            )
    return first


def _place(operand: Operand) -> str:
    return "the CPU" if operand.device == HOST else f"cuda:{operand.device}"


def with_axis(array: Any, axis: int) -> Any:
    """A view of `array` with one more axis of length 1."""
    if not hasattr(array, "reshape"):
        array = np.from_dlpack(array)
    shape = list(array.shape)
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 1)
    return array.reshape(tuple(shape))


def host_view(operand: Operand) -> np.ndarray:
    """The memory of an operand on the CPU as a NumPy array.

    Raises:
        InvalidArgument: it is not on the CPU.
    """
    if operand.device != HOST:
        raise InvalidArgument(f"the operands are on {_place(operand)}; this variant takes arrays on the CPU")
    if isinstance(operand.array, np.ndarray):
        return operand.array
    if operand.library is TORCH:
        narrow = operand.dtype == "bfloat16"  # NumPy knows PyTorch's as 16 bits alone
        view: np.ndarray = (operand.array.view(sys.modules["torch"].int16) if narrow else operand.array).numpy()
        return view.view(DTYPES["bfloat16"]) if narrow else view
    return np.from_dlpack(operand.array)


def fetch(operand: Operand) -> np.ndarray:
    """A copy on the host of an operand in GPU memory, made by its own library in the order of the caller's stream.

    Raises:
        Unsupported: its library offers no copy.
    """
    if operand.library is TORCH:
        return host_view(describe(operand.array.cpu(), "the copy"))
    if operand.library is CUPY:
        copy: np.ndarray = sys.modules["cupy"].asnumpy(operand.array)
        return copy
    if operand.library is NUMBA:
        copy = operand.array.copy_to_host()
        return copy
    kind = type(operand.array)
    raise Unsupported(
        f"a {kind.__module__}.{kind.__name__} on a GPU cannot be copied here; give PyTorch or CuPy arrays"
    )


def store(host: np.ndarray, operand: Operand) -> None:
    """Write a host array of the same shape and dtype into an operand in GPU memory; the reverse of `fetch`."""
    if operand.library is TORCH:
        torch = sys.modules["torch"]
        bits = torch.from_numpy(host.view(np.int16)).view(torch.bfloat16) if operand.dtype == "bfloat16" else None
        operand.array.copy_(torch.from_numpy(host) if bits is None else bits)
    elif operand.library is CUPY:
        operand.array.set(host)
    else:
        operand.array.copy_to_device(host)
