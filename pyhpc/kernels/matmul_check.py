"""Checked products: what `matmul(..., check=True)` does when a row's checksum is wrong.

The checksums (csrc/matmul/checksum.h, block_sums.h, sm80_sums.h, verify.h) tell the row. That row alone is then
computed again in float64, column by column, which tells the element; the bound is that of matmul_problem.py, on a GPU
that of verify.h. A GPU also tells which of its multiprocessors computed the tile of that element.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyhpc.errors import WrongResult
from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF, gamma

_PANEL_ELEMENTS = 2**22  # of b in float64 at a time: 32 MiB


class Product(NamedTuple):
    """What the bound of an element depends on."""

    dtype: np.dtype  # of a and b
    out: np.dtype
    k: int
    accumulate: bool
    on_gpu: bool = False
    tf32: bool = False


class _Row(NamedTuple):
    """A row of out and, in float64, what it should be."""

    place: tuple[int, ...]  # batch first
    found: np.ndarray
    product: np.ndarray
    size: np.ndarray  # |a| |b|
    before: np.ndarray  # what out held before the product was added to it


def wrong_result(arrays: tuple[np.ndarray, np.ndarray, np.ndarray], start: np.ndarray | None, row: int) -> WrongResult:
    """The error that names the worst element of `row` (counted over the batch) of out in (a, b, out).

    `start` is what out held before the product was added to it, None if it was not.
    """
    a, b, out = arrays
    index = tuple(int(step) for step in np.unravel_index(row, out.shape[:-1]))
    left = np.broadcast_to(a, (*out.shape[:-2], *a.shape[-2:]))[index]
    right = np.broadcast_to(b, (*out.shape[:-2], *b.shape[-2:]))[index[:-1]]
    before = np.zeros(out.shape[-1]) if start is None else start[index].astype(np.float64)
    told = _Row(index, out[index], *_again(left, right), before)
    return WrongResult(*_worst(told, Product(a.dtype, out.dtype, len(left), start is not None)))


def wrong_result_on_gpu(told: tuple[int, Any, Any, Any], shape: tuple[int, ...], product: Product) -> WrongResult:
    """The same of what `_cuda.matmul.run_checked` told; `shape` is that of out."""
    row, again, before, tiles = told
    index = tuple(int(step) for step in np.unravel_index(row, shape[:-1]))
    found = again[:, 2].astype(product.out)
    worst = _worst(_Row(index, found, again[:, 0], again[:, 1], before[:, 0]), product)
    column = worst[0][-1]
    own = [tile for tile in tiles if tile[2] <= column < tile[2] + tile[4]]
    if not own:
        return WrongResult(*worst)
    _, first_row, first_column, rows, columns = own[0]
    tile = (
        slice(first_row, min(first_row + rows, shape[-2])),
        slice(first_column, min(first_column + columns, shape[-1])),
    )
    return WrongResult(*worst, tile, tuple(number for number, *_ in own))


def _worst(row: _Row, product: Product) -> tuple[tuple[int, ...], float, float, float]:
    """Index, value, right value and tolerance of the element that is furthest beyond its tolerance."""
    expected = row.product + row.before
    tolerance = _tolerance(expected, row.size + np.abs(row.before), product)
    if product.out.kind == "i":  # sums wrap around
        error = np.abs((row.found.astype(np.int64) - expected.astype(np.int64)).astype(np.int32).astype(np.float64))
        expected = expected.astype(np.int64).astype(np.int32)
    else:
        with np.errstate(invalid="ignore"):
            error = np.nan_to_num(np.abs(row.found - expected), nan=np.inf)
    j = int(np.argmax(error - tolerance))
    return (*row.place, j), row.found[j].item(), expected[j].item(), float(tolerance[j])


def _again(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row of the product in float64 (exact for int8), and the sums of the absolute values of its terms."""
    k, n = right.shape
    value, size = np.empty(n), np.empty(n)
    row = left.astype(np.float64)
    step = max(1, _PANEL_ELEMENTS // max(1, k))
    for first in range(0, n, step):
        panel = right[:, first : first + step].astype(np.float64)
        value[first : first + step] = row @ panel
        size[first : first + step] = np.abs(row) @ np.abs(panel)
    return value, size


def _tolerance(expected: np.ndarray, size: np.ndarray, product: Product) -> np.ndarray:
    """How far the elements may be from `expected`."""
    if product.out.kind == "i":
        return np.zeros(size.shape)
    k, working = product.k, "float64" if product.dtype == np.float64 else "float32"
    roundings = k + k % 2 if product.dtype == DTYPES["bfloat16"] else k  # as in matmul_problem.py
    unit = UNIT_ROUNDOFF[working] * (2 if product.on_gpu and working == "float32" else 1)  # as in verify.h
    bound = gamma(roundings + product.accumulate, unit) + 2 * gamma(k + 1, UNIT_ROUNDOFF["float64"])
    tolerance = (bound + (2.0**-9 if product.tf32 else 0)) * size + k * float(np.finfo(working).tiny)
    if product.out.itemsize == 2:
        tolerance = tolerance + UNIT_ROUNDOFF[product.out.name] * (np.abs(expected) + tolerance) + 2.0**-25
    return tolerance
