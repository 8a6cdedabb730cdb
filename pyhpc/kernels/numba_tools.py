"""What the Numba variants share. Numba itself is imported inside the functions that need it: loading it takes half a
second."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def numba_threads(count: int) -> Iterator[int]:
    """Run Numba's parallel loops on `count` threads (0: all that Numba has; more than it has: all); gives how many."""
    import numba

    before = numba.get_num_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set when numba is imported
    threads = min(count or most, most)
    numba.set_num_threads(threads)
    try:
        yield threads
    finally:
        numba.set_num_threads(before)


def widened(array: np.ndarray) -> np.ndarray:
    """C-contiguous, and 16-bit floating point as float32, exactly: Numba's CPU code has no 16-bit types."""
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype.itemsize == 2 else None)


@functools.cache
def numba_cuda_absence() -> str | None:
    """Why Numba cannot compile for a GPU here, or None."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "the package numba-cuda is not installed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba warns when it finds no driver, which is the answer sought
        if not numba_cuda().is_available():
            return "numba-cuda finds no CUDA driver or GPU"
    return None


def numba_cuda() -> Any:
    """The module numba.cuda: of the package numba-cuda where it is installed."""
    return importlib.import_module("numba.cuda")


def numba_cuda_array(array: Any) -> Any:
    """`array`, of any library with __cuda_array_interface__, as Numba sees it: a view."""
    return array if hasattr(array, "copy_to_host") else numba_cuda().as_cuda_array(array)
