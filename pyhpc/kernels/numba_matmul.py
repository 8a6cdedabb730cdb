"""matmul in Numba: readable, portable, and independent of the C++ code, for a second opinion.

out[i, j] = Σ_p a[i, p] b[p, j]        summed in float64 (integers in int64), whatever the operands
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pyhpc.kernels.numba_tools import numba_cuda, numba_cuda_array, numba_threads

cuda: Any = None  # the module numba.cuda once a CUDA kernel is made: Numba looks for it among the globals


@functools.cache
def _cpu_kernel() -> Callable[..., None]:
    import numba

    rows, columns = 4, 256  # 8 KiB of sums stay in the first-level cache; a piece of b is used for 4 rows

    @numba.njit(parallel=True)
    def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        m, k = a.shape
        n = b.shape[1]
        for block in numba.prange((m + rows - 1) // rows):
            top, bottom = block * rows, min(m, (block + 1) * rows)
            for left in range(0, n, columns):
                right = min(n, left + columns)
                out[top:bottom, left:right] = 0.0
                for p in range(k):
                    for i in range(top, bottom):
                        x, sums, factors = a[i, p], out[i, left:right], b[p, left:right]
                        for j in range(right - left):  # contiguous pieces from 0: vectorised
                            sums[j] += x * factors[j]

    function: Callable[..., None] = multiply
    return function


def multiply_cpu(a: np.ndarray, b: np.ndarray, out: np.ndarray, threads: int) -> None:
    """Write a @ b (the last two axes; batches broadcast to out's) into `out`.

    The operands are copied to float64, which holds every operand type and every sum of int8 products exactly.
    """
    batch = out.shape[:-2]
    a, b = np.broadcast_to(a, batch + a.shape[-2:]), np.broadcast_to(b, batch + b.shape[-2:])
    product = np.empty(out.shape[-2:])
    with numba_threads(threads):
        for index in np.ndindex(batch):
            _cpu_kernel()(np.array(a[index], np.float64, order="C"), np.array(b[index], np.float64, order="C"), product)
            # Through int64: an int32 result wraps around, as the C++ variants' does.
            out[index] = product.astype(np.int64) if out.dtype.kind == "i" else product


@functools.cache
def _cuda_kernel() -> Any:
    global cuda
    cuda = numba_cuda()

    @cuda.jit  # type: ignore[untyped-decorator]
    def multiply(a: Any, b: Any, out: Any, zero: Any) -> None:
        i, j = cuda.blockIdx.y, cuda.grid(1)
        if j < out.shape[1]:
            total = zero[0]
            for p in range(a.shape[1]):
                total += (zero[0] + a[i, p]) * (zero[0] + b[p, j])
            out[i, j] = total

    return multiply


def multiply_cuda(a: Any, b: Any, out: Any) -> None:
    """As `multiply_cpu` for arrays on the GPU whose batches are equal: one thread an element."""
    a, b, out = (numba_cuda_array(x) for x in (a, b, out))
    kernel = _cuda_kernel()
    zero = cuda.to_device(np.zeros(1, np.int64 if a.dtype.kind == "i" else np.float64))
    m, n = out.shape[-2:]
    threads = 128
    for index in np.ndindex(out.shape[:-2]):
        kernel[(-(-n // threads), m), threads](a[index], b[index], out[index], zero)
