"""Arrays on a GPU, made and read with nothing but `_cuda`, or through CuPy; which kernels ran on which GPU.

The only importer of cupy, inside the function that needs it. Streams of a caller's arrays are asked of their library in
`kernels.arrays`; the GPU's clock is `measure.clock.device_clock`, its power and temperature `measure.nvml`.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.native import cuda

_RUNS = Path(__file__).with_name("device_runs.json")


class Run(NamedTuple):
    """A CUDA variant was seen to give right results on a GPU."""

    kernel: str
    variant: str  # "sm90", "sm80" …
    gpu: str  # its name
    date: str  # ISO 8601
    problem: str  # "bfloat16 8192x8192x8192"
    rate: str  # "790 TFLOP/s settled, 1.01 of torch"


def runs(path: Path = _RUNS) -> tuple[Run, ...]:
    """Every recorded run, the oldest first. `benchmarks/device.py --record` writes them."""
    return tuple(Run(**run) for run in json.loads(path.read_text("utf-8")))


def record(new: Iterable[Run], path: Path = _RUNS) -> None:
    """Add runs; one of the same variant, GPU and problem takes the place of the older."""
    kept = {(*run[:3], run.problem): run for run in (*runs(path), *new)}
    lines = ",\n  ".join(json.dumps(run._asdict()) for run in sorted(kept.values(), key=lambda run: (run.date, run)))
    path.write_text(f"[\n  {lines}\n]\n" if lines else "[]\n", "utf-8")


def status(kernel: str, target: str) -> str:
    """What is known of a CUDA variant beyond that it compiles: the GPU it ran on last and how fast, or that there was
    none yet."""
    found = [run for run in runs() if (run.kernel, run.variant) == (kernel, target)]
    if not found:
        return "compiled only: never ran on a GPU"
    return f"ran on {found[-1].gpu}, {found[-1].date}: {found[-1].problem}, {found[-1].rate}"


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
