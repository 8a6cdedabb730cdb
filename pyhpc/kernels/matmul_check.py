"""Checked products: what `matmul(..., check=True)` does when a row's checksum is wrong.

The checksums (csrc/matmul/checksum.h, block_sums.h, verify.h) tell the row. That row alone is then computed again in
float64, column by column, which tells the element; the bound is that of matmul_problem.py.
"""

from __future__ import annotations

import numpy as np

from pyhpc.errors import WrongResult
from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF, gamma

_PANEL_ELEMENTS = 2**22  # of b in float64 at a time: 32 MiB


def wrong_result(arrays: tuple[np.ndarray, np.ndarray, np.ndarray], start: np.ndarray | None, row: int) -> WrongResult:
    """The error that names the worst element of `row` (counted over the batch) of out in (a, b, out).

    `start` is what out held before the product was added to it, None if it was not.
    """
    a, b, out = arrays
    *batch, i = (int(index) for index in np.unravel_index(row, out.shape[:-1]))
    at = tuple(batch)
    left = np.broadcast_to(a, (*out.shape[:-2], *a.shape[-2:]))[at][i]
    right = np.broadcast_to(b, (*out.shape[:-2], *b.shape[-2:]))[at]
    found, before = out[at][i], np.zeros(1) if start is None else start[at][i]
    expected, tolerance = _expected(left, right, np.broadcast_to(before, found.shape), start is not None)
    if out.dtype.itemsize == 2:
        tolerance = tolerance + UNIT_ROUNDOFF[out.dtype.name] * (np.abs(expected) + tolerance) + 2.0**-25
    if out.dtype.kind == "i":  # sums wrap around
        error = np.abs((found.astype(np.int64) - expected.astype(np.int64)).astype(np.int32).astype(np.float64))
        expected = expected.astype(np.int64).astype(np.int32)
    else:
        with np.errstate(invalid="ignore"):
            error = np.nan_to_num(np.abs(found - expected), nan=np.inf)
    j = int(np.argmax(error - tolerance))
    index = (*at, i, j)
    return WrongResult(index, found[j].item(), expected[j].item(), float(tolerance[j]))


def _expected(left: np.ndarray, right: np.ndarray, before: np.ndarray, added: bool) -> tuple[np.ndarray, np.ndarray]:
    """One row of the product in float64 (exact for int8), and how far the result may be from it."""
    k, n = right.shape
    value, size = np.empty(n), np.empty(n)
    row = left.astype(np.float64)
    step = max(1, _PANEL_ELEMENTS // max(1, k))
    for first in range(0, n, step):
        panel = right[:, first : first + step].astype(np.float64)
        value[first : first + step] = row @ panel
        size[first : first + step] = np.abs(row) @ np.abs(panel)
    held = before.astype(np.float64)
    value, size = value + held, size + np.abs(held)
    if left.dtype.kind == "i":
        return value, np.zeros(n)
    working = "float64" if left.dtype == np.float64 else "float32"
    roundings = k + k % 2 if left.dtype == DTYPES["bfloat16"] else k  # as in matmul_problem.py
    bound = gamma(roundings + added, UNIT_ROUNDOFF[working]) + 2 * gamma(k + 1, UNIT_ROUNDOFF["float64"])
    return value, bound * size + k * float(np.finfo(working).tiny)
