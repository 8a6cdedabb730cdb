"""Products of 8-bit floating-point matrices with scales, as quantised networks use them."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.arrays import HOST, NAMES, TORCH, Operand, describe, host_view, same_home
from pyhpc.kernels.data import DTYPES
from pyhpc.native import cpu, cuda

FLOAT8 = {name: np.dtype(getattr(ml_dtypes, name)) for name in ("float8_e4m3fn", "float8_e5m2")}
RESULTS = ("float32", "bfloat16", "float16")
BLOCK = 128  # of k, and of n: what shares a scale


def scaled_matmul(
    a: Any,
    b: Any,
    *,
    scale_a: Any = 1.0,
    scale_b: Any = 1.0,
    out: Any = None,
    accumulate: bool = False,
    dtype: Any = None,
    operands: str | None = None,
    variant: str | None = None,
) -> Any:
    """The product of two matrices of 8-bit floating-point numbers (E4M3 or E5M2) that are multiplied by scales.

        out[i, j] = Σ_p (scale_a a)[i, p] (scale_b b)[p, j]

    A scale is a number, or a float32 array of a's library and device in one of these shapes, of any strides:

        one of all                                            (), (1,), (1, 1)
        one for each row of a, each column of b               (m, 1) or (m,);   (1, n) or (n,)
        one for each row of a and 128 of k,
        one for each 128 × 128 block of b                     (m, ⌈k/128⌉);     (⌈k/128⌉, ⌈n/128⌉)

    On Hopper, a and b must both be contiguous along k for the tensor cores to take 8 bits: a row by row, b column by
    column (as `torch._scaled_mm`), with 16-byte aligned lines. Other layouts, and other GPUs, compute the same more
    slowly: 8-bit numbers as float16 by the tensor cores, or, with scales along k, as float32. The CPU converts whole
    operands to float32.

    Args:
        a: (m, k), on a GPU also (..., m, k): PyTorch's float8 tensors, NumPy arrays of ml_dtypes' types, or uint8
            arrays of any library (CuPy and Numba have no such type) with `operands`.
        b: (k, n), of the same type.
        scale_a, scale_b: see above.
        out: (m, n) in float32, bfloat16 or float16.
        accumulate: add the product to what `out` holds.
        dtype: "float32" (if nothing is said), "bfloat16" or "float16", of a result that is not given.
        operands: "float8_e4m3fn" or "float8_e5m2": what a and b hold, if they are of uint8.
        variant: "sm90" or "sm80"; by default the best that takes the layout.

    Returns:
        `out`, or a new array of a's library. Hopper's tensor cores add 8-bit products in about 14 bits: without scales
        along k |error| can reach k/32 · 2^-13 · (|a| |b|); with them the sums of every 128 of k are added in float32,
        and the factor k/32 becomes 4. Elsewhere sums are float32 and the bound is that of `matmul`.

    Raises:
        InvalidArgument: a shape, dtype, library or device that does not fit.
        Unsupported: the variant or the GPU is absent.
    """
    left, right = (_float8(describe(x, name), name, operands) for x, name in ((a, "a"), (b, "b")))
    if left.dtype != right.dtype:
        raise InvalidArgument(f"a is {left.dtype} and b is {right.dtype}; they must be of the same dtype")
    given = {"a": left, "b": right}
    factor, scales = 1.0, {}
    for name, scale in (("scale_a", scale_a), ("scale_b", scale_b)):
        if isinstance(scale, (int, float, np.number)):
            factor *= float(scale)
        else:
            given[name] = scales[name] = describe(scale, name)
    same_home(given)
    result = describe(_result(left, right, dtype, accumulate) if out is None else out, "out")
    same_home(given | {"out": result})
    if left.device == HOST:
        if variant is not None:
            raise InvalidArgument("variant is for arrays on a GPU; leave it out for arrays on the CPU")
        _on_cpu(left, right, scales, factor, result, accumulate)
    else:
        arrays = (scales[name].array if name in scales else None for name in ("scale_a", "scale_b"))
        how = (accumulate, left.library.stream(left), variant or "", left.dtype, *arrays, factor)
        cuda().matmul.run(left.array, right.array, result.array, *how)
    return result.array if out is None else out


def _float8(operand: Operand, argument: str, operands: str | None) -> Operand:
    """The operand as an array of uint8, with the name of what it holds."""
    held = operands if operand.dtype == "uint8" else operand.dtype
    if held not in FLOAT8:
        raise InvalidArgument(
            f"{argument} is {operand.dtype}; give {' or '.join(FLOAT8)}, or uint8 and operands= which of them it holds"
        )
    if operand.dtype == "uint8":
        return operand._replace(dtype=held)
    if operands not in (None, held):
        raise InvalidArgument(f"{argument} is {held}, but operands says {operands}")
    if not hasattr(operand.array, "view"):
        raise InvalidArgument(
            f"{argument} is {operand.library.title} of {held}; give its bytes as uint8, and operands="
        )
    bits = sys.modules["torch"].uint8 if operand.library is TORCH else np.uint8
    return operand._replace(array=operand.array.view(bits), dtype=held)


def _result(a: Operand, b: Operand, dtype: Any, accumulate: bool) -> Any:
    """An array for the product."""
    if accumulate:
        raise InvalidArgument("accumulate=True adds to out; give out")
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if isinstance(dtype, type):
        name = NAMES.get(np.dtype(dtype), name)
    if name not in RESULTS:
        raise InvalidArgument(f"dtype is {name}; the result is {', '.join(RESULTS[:-1])} or {RESULTS[-1]}")
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise InvalidArgument(f"a has shape {a.shape} and b {b.shape}; they must be (m, k) and (k, n)")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return a.library.empty(a, (*batch, a.shape[-2], b.shape[-1]), name)


def _on_cpu(a: Operand, b: Operand, scales: dict[str, Operand], factor: float, out: Operand, accumulate: bool) -> None:
    """By float32 operands."""
    wide = []
    for name, operand, axis in (("scale_a", a, 0), ("scale_b", b, 1)):
        values = host_view(operand._replace(dtype="uint8")).view(FLOAT8[operand.dtype]).astype(np.float32)
        if name in scales:
            values *= _spread(host_view(scales[name]), name, values.shape, axis)
        wide.append(values)
    if factor != 1.0:
        wide[0] *= np.float32(factor)
    result = host_view(out)
    if out.dtype == "float32":
        cpu().matmul.run(*wide, result, accumulate)
    elif out.dtype in RESULTS:
        product = np.empty(result.shape, np.float32)
        cpu().matmul.run(*wide, product, False)
        result[...] = product + result.astype(np.float32) if accumulate else product
    else:
        raise InvalidArgument(f"out is {out.dtype}; it must be {', '.join(RESULTS[:-1])} or {RESULTS[-1]}")


def _spread(scale: np.ndarray, argument: str, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """A scale for every element of an operand, whose rows (columns) are along `axis`, k along the other."""
    if scale.dtype != DTYPES["float32"]:
        raise InvalidArgument(f"{argument} is {scale.dtype}; scales are float32")
    if scale.size == 1:
        return scale.reshape(())
    if len(shape) != 2:
        raise InvalidArgument(f"{argument} has shape {scale.shape}; operands of a batch have one scale in all")
    lines: list[int] = [1, 1]
    lines[axis] = shape[axis]
    if scale.shape in ((shape[axis],), tuple(lines)):
        return scale.reshape(lines)
    blocks = [-(-size // BLOCK) for size in shape]
    if axis == 0:
        blocks[0] = shape[0]
    if scale.shape != tuple(blocks):
        raise InvalidArgument(
            f"{argument} has shape {scale.shape}; it must be (1,), {tuple(lines)} or, for every {BLOCK} of k, "
            f"{tuple(blocks)}"
        )
    for i in (1,) if axis == 0 else (0, 1):
        scale = np.repeat(scale, BLOCK, i)
    return scale[: shape[0], : shape[1]]
