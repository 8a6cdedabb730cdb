"""The arrays of an all-reduce, checked: what is combined, where the result goes, and how it gets home.

Elements are combined in C order. What is not contiguous, or lies in GPU memory, goes through a contiguous host array.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.arrays import HOST, NAMES, Operand, describe, fetch, host_view, same_home, store
from pyhpc.kernels.data import DTYPES


class Arrays(NamedTuple):
    """One rank's arrays, flattened to what is combined."""

    x: np.ndarray  # contiguous: (elements,), or (contributions, elements) where an axis was given
    out: np.ndarray  # contiguous, (elements,): x itself, or apart from it
    answer: Any  # what the caller gets
    strided: np.ndarray | None = None  # where `out` is copied to in the end
    on_gpu: Operand | None = None  # likewise, in GPU memory

    def finish(self) -> Any:
        """Bring the result home."""
        if self.strided is not None:
            self.strided[...] = self.out.reshape(self.strided.shape)
        if self.on_gpu is not None:
            store(self.out.reshape(self.on_gpu.shape), self.on_gpu)
        return self.answer


def take(x: Any, out: Any, axis: int | None = None) -> Arrays:
    """Check `x` and `out` of this rank, and make `out` where it is None.

    Raises:
        InvalidArgument, Unsupported: they cannot be taken; the sentence says why.
    """
    operand = None if type(x) is np.ndarray else describe(x, "x")
    staged = operand is not None and operand.device != HOST
    source = _checked(fetch(operand)) if operand is not None and staged else _host(x, "x")
    shape = _result_shape(source, axis)
    flat = np.ascontiguousarray(source).reshape(-1 if axis is None else (len(source), math.prod(shape)))
    if operand is not None and staged:
        answer = operand.library.empty(operand, shape, operand.dtype) if out is None else out
        result = np.empty(math.prod(shape), source.dtype)
        return Arrays(flat, result, answer, on_gpu=_home(operand, shape, answer))
    if out is None:
        like = describe(x, "x")
        answer = like.library.empty(like, shape, NAMES[source.dtype])
        return Arrays(flat, _host(answer, "out").reshape(-1), answer)
    target = source if out is x else _host(out, "out")
    if not (out is x or type(x) is type(out) is np.ndarray):
        same_home({"x": describe(x, "x"), "out": describe(out, "out")})
    in_place = _check_out(source, target, shape)
    if target.flags.c_contiguous:
        return Arrays(flat, flat if in_place else target.reshape(-1), out)
    return Arrays(flat, flat if in_place else np.empty(target.size, target.dtype), out, target)


def _result_shape(source: np.ndarray, axis: int | None) -> tuple[int, ...]:
    if axis is None:
        return source.shape
    if axis != 0 or source.ndim == 0 or len(source) == 0:
        raise InvalidArgument(
            f"axis is {axis} and x has shape {source.shape}; axis must be None, or 0 for an x whose first axis counts "
            "this rank's contributions, one at least"
        )
    return source.shape[1:]


def _home(x: Operand, shape: tuple[int, ...], out: Any) -> Operand:
    """`out`, which is to take the result of an `x` in GPU memory."""
    home = same_home({"out": describe(out, "out"), "x": x})
    if (home.shape, home.dtype) != (shape, x.dtype):
        raise InvalidArgument(
            f"out has shape {home.shape} and dtype {home.dtype}; the result has {shape} and {x.dtype}, and they must "
            "agree"
        )
    return home


def _host(array: Any, argument: str) -> np.ndarray:
    """`array` as a NumPy array of the same memory."""
    if type(array) is not np.ndarray:
        array = host_view(describe(array, argument))
    return _checked(array, argument)


def _checked(array: np.ndarray, argument: str = "x") -> np.ndarray:
    """`array`, whose dtype is one that is combined."""
    if array.dtype not in NAMES:
        names = ", ".join(DTYPES)
        raise InvalidArgument(
            f"{argument} has dtype {array.dtype.str}; it must be one of {names}, in native byte order"
        )
    return array


def _check_out(source: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Refuse an `out` that cannot take the result; whether it is the memory of `source`."""
    if target.shape != shape or target.dtype != source.dtype:
        raise InvalidArgument(
            f"out has shape {target.shape} and dtype {NAMES[target.dtype]}; the result has {shape} and "
            f"{NAMES[source.dtype]}, and they must agree"
        )
    if not target.flags.writeable:
        raise InvalidArgument("out is read-only")
    if 0 in target.strides and any(s == 0 and n > 1 for s, n in zip(target.strides, target.shape, strict=True)):
        raise InvalidArgument("out has several elements in one place (a stride of 0)")
    if target is source:
        return True
    if not np.may_share_memory(source, target):  # compares bounds only: quick
        return False
    if source.ctypes.data == target.ctypes.data and source.strides == target.strides:
        return True
    if np.shares_memory(source, target):
        raise InvalidArgument("out overlaps x in part; give x itself for in place, or separate memory")
    return False
