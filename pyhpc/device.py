"""Arrays on a GPU, made and read with nothing but `_cuda`, or through CuPy; which kernels ran on which GPU.

The only importer of cupy, inside the function that needs it. Streams of a caller's arrays are asked of their library in
`kernels.arrays`; the GPU's clock is `measure.clock.device_clock`, its power and temperature `measure.nvml`.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.native import cuda

# On which GPU a CUDA variant was seen to give right results, and when: (kernel, target) → "H200, 2026-01-31".
_RAN: dict[tuple[str, str], str] = {}


def status(kernel: str, target: str) -> str:
    """What is known of a CUDA variant beyond that it compiles: the GPU it ran on, or that there was none yet."""
    return f"ran on {_RAN[kernel, target]}" if (kernel, target) in _RAN else "compiled only: never ran on a GPU"


def cupy() -> ModuleType:
    """CuPy.

    Raises:
        Unsupported: it is not installed or does not load; the sentence says why and what to install.
    """
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise Unsupported(f"CuPy is absent because {error}; pip install 'pyhpc[cuda]'") from error


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A C-contiguous array in GPU memory, which lives as long as this object. Every library that reads
    `__cuda_array_interface__` (Numba, CuPy, PyTorch) and every function of pyhpc takes it without a copy.

    The interface has no type code for bfloat16: its type string is ml_dtypes' own, "<V2", as PyTorch's is."""

    memory: Any  # _cuda.Memory
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface."""
        data = (self.memory.pointer, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "strides": None, "version": 3}


def to_device(array: np.ndarray, device: int = 0) -> DeviceArray:
    """A copy of `array`, of any shape and strides, in the memory of GPU `device`.

    Raises:
        Unsupported: there is no CUDA build, driver or GPU, or no kernel takes the dtype.
        DeviceError: the memory cannot be had, or the copy fails.
    """
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise Unsupported(f"no kernel takes {array.dtype.name}")
    memory = cuda().Memory(array.nbytes, device)
    memory.copy_from(np.ascontiguousarray(array))
    return DeviceArray(memory, array.shape, array.dtype)


def to_host(array: DeviceArray, stream: int = 0) -> np.ndarray:
    """A copy in CPU memory, after the work that is already in `stream`.

    Raises:
        DeviceError: that work, or the copy, failed.
    """
    if array.memory.bytes != math.prod(array.shape) * array.dtype.itemsize:
        raise InvalidArgument(
            f"array has shape {array.shape} and dtype {array.dtype}, but its memory {array.memory.bytes} bytes"
        )
    result = np.empty(array.shape, array.dtype)
    array.memory.copy_to(result, stream)
    return result
