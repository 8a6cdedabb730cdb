"""matmul: C = A B, or C += A B, of the last two axes; earlier axes are a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.arrays import HOST, NAMES, Operand, describe, host_view, same_home, with_axis
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.kernel import Kernel
from pyhpc.kernels.matmul_check import Product, wrong_result, wrong_result_on_gpu
from pyhpc.kernels.matmul_packed import packed_operand
from pyhpc.kernels.matmul_problem import RESULT_DTYPE, MatmulProblem
from pyhpc.kernels.matmul_variants import peers, variants
from pyhpc.native import cpu, cuda


def matmul(
    a: Any,
    b: Any,
    *,
    out: Any = None,
    accumulate: bool = False,
    dtype: Any = None,
    check: bool = False,
    precision: str | None = None,
    threads: int | None = None,
    variant: str | None = None,
) -> Any:
    """The matrix product of `a` and `b`, as `numpy.matmul` but with `out=`, `accumulate=` and 16-bit operands.

        out[..., i, j] = Σ_p a[..., i, p] b[..., p, j]

    Takes NumPy, CuPy, PyTorch (CPU and CUDA) and Numba device arrays, and anything with DLPack, the buffer protocol or
    `__cuda_array_interface__`, of any strides (transposed, reversed, broadcast …); nothing is copied. The Python
    lock is released while computing. GPU arrays are computed on the caller's current stream, in order with the
    caller's other work.

    Args:
        a: (..., m, k), or (k,) for a vector that is multiplied as one row.
        b: (..., k, n), or (k,) for a vector that is multiplied as one column. Leading axes broadcast against a's. Or
            what `pyhpc.pack` made of a matrix.
        out: (..., m, n), where the product is written, of a's library and the result type. It must share no memory
            with a or b. The axis of a vector operand is absent, as in `numpy.matmul`.
        accumulate: add the product to what `out` holds.
        dtype: of a result that is not given: the type below, or the operands' own type where that is of 16 bits.
        check: compare the sum of every row of the result with a · (b · 1), as Huang and Abraham do ("Algorithm-based
            fault tolerance for matrix operations", 1984), within the proven rounding bound: an element that is wrong by
            more than the bound of its row's sum, γ_k Σ_j (|a| |b|)_ij, is found (int8: by anything), named and
            reported. Large products are summed from the caches while they are made (csrc/matmul/block_sums.h says what
            that leaves out); small ones, batches and 16-bit results, and all on a GPU, by one more pass over each
            array. Rows that hold Inf or NaN are not judged. On a GPU the error also names the multiprocessor and its
            tile; the call waits for the GPU, and float sums may err twice as much, as tensor cores cut off.
        precision: "tf32" permits a GPU to round float32 operands to TF32 (10 bits of fraction), which its tensor cores
            take at the speed of 16 bits halved: |error| ≤ 2^-9 (|a| |b|) more. Used on Hopper where both operands are
            contiguous along k; elsewhere, as with "float32", the default, nothing is rounded.
        threads: of the CPU; by default all that this process may use.
        variant: "numba", or a native one ("avx512", "avx2", "neon", "generic" …); by default the one that
            the environment's PYHPC_VARIANT names, or the best that runs here.

    Returns:
        `out`, or a new array of a's library: float64 → float64, float32, bfloat16 and float16 → float32, int8 → int32.
        A bfloat16 or float16 `out` of such operands gets the float32 sum, rounded once to nearest even.
        Elementwise |error| ≤ k u / (1 - k u) · (|a| |b|), u the unit roundoff of the result type (Higham 2002,
        §3.5), k rounded up to an even number for bfloat16; int8 exact modulo 2^32. The same call gives the same bits,
        whatever the number of threads.

    Raises:
        InvalidArgument: a shape, dtype, library or device that does not fit, an `out` that is read-only or overlaps
            an input.
        Unsupported: the variant or the GPU is absent; the sentence says why.
        WrongResult: with `check`, an element that rounding cannot explain; out holds it.
    """
    if precision not in (None, "float32", "tf32"):
        raise InvalidArgument(f"precision is {precision!r}; it must be 'float32' or 'tf32'")
    name = variant or ""  # C++ reads PYHPC_VARIANT
    if name != "numba" and not check and dtype is None:
        result = _multiply()(a, b, out, accumulate, threads or 0, name)
        if result is not None:  # the common case: matrices of NumPy or PyTorch
            return result
    left = describe(a, "a")
    packed = packed_operand(b, left)
    if packed is not None and (check or name == "numba"):
        raise InvalidArgument("b is packed, which check and numba cannot read; give the array itself")
    right = packed or describe(b, "b")
    return _matmul(left, right, out, _Call(accumulate, threads, name, check, dtype, precision == "tf32"))


class _Call(NamedTuple):
    """How a product is to be made."""

    accumulate: bool
    threads: int | None
    name: str
    check: bool
    dtype: Any
    tf32: bool


@functools.cache
def _multiply() -> Callable[..., Any]:
    function: Callable[..., Any] = cpu().matmul.multiply
    return function


def _matmul(a: Operand, b: Operand, out: Any, call: _Call) -> Any:
    """Operands of any library: a vector becomes a matrix, the result one of the same library."""
    if out is not None and call.dtype is not None:
        raise InvalidArgument("dtype is of a result that is made; out has its own, leave dtype out")
    operands = {"a": a, "b": b} if out is None else {"a": a, "b": b, "out": describe(out, "out")}
    same_home(operands)
    absent = [axis for axis, operand in ((-2, a), (-1, b)) if len(operand.shape) == 1]  # of the result
    if len(a.shape) == 1:
        a = a._replace(array=with_axis(a.array, 0), shape=(1, *a.shape))
    if len(b.shape) == 1:
        b = b._replace(array=with_axis(b.array, 1), shape=(*b.shape, 1))
    if out is None:
        shape = list(_result_shape(a.shape, b.shape))
        for axis in absent:
            del shape[axis]
        kind = _result_dtype(DTYPES.get(a.dtype, a.dtype), call.accumulate, call.dtype)
        out = a.library.empty(a, tuple(shape), NAMES[kind])
        operands["out"] = describe(out, "out")
    result = operands["out"]
    for axis in absent if len(absent) < 2 else (-1, -1):
        result = result._replace(array=with_axis(result.array, axis), shape=(*result.shape, 1))
    _dispatch(a, b, result, call)
    return out


def _dispatch(a: Operand, b: Operand, out: Operand, call: _Call) -> None:
    if a.device != HOST:
        if call.threads is not None:
            raise InvalidArgument("threads is for arrays on the CPU; leave it out for arrays on a GPU")
        how = (call.accumulate, a.library.stream(a), call.name)
        run = cuda().matmul.run_checked if call.check else cuda().matmul.run
        told = run(a.array, b.array, out.array, *how, tf32=call.tf32)
        if told is not None:
            kind = Product(DTYPES[a.dtype], DTYPES[out.dtype], a.shape[-1], call.accumulate, True, call.tf32)
            raise wrong_result_on_gpu(told, out.shape, kind)
    elif call.check:
        _checked((host_view(a), host_view(b), host_view(out)), call)
    elif call.name == "numba":
        _numba(host_view(a), host_view(b), host_view(out), call.accumulate, call.threads or 0)
    else:
        cpu().matmul.run(a.array, b.array, out.array, call.accumulate, call.threads or 0, call.name)


def _checked(arrays: tuple[np.ndarray, np.ndarray, np.ndarray], call: _Call) -> None:
    if call.name == "numba":
        raise InvalidArgument("check is of the native variants; leave variant out")
    start = arrays[2].copy() if call.accumulate else None
    row = cpu().matmul.run_checked(*arrays, call.accumulate, call.threads or 0, call.name)
    if row >= 0:
        raise wrong_result(arrays, start, row)


def _numba(a: np.ndarray, b: np.ndarray, out: np.ndarray, accumulate: bool, threads: int) -> None:
    from pyhpc.kernels.numba_matmul import multiply_cpu

    shape, dtype = _result_shape(a.shape, b.shape), _result_dtype(a.dtype, False)
    if a.dtype.itemsize == 2 and out.dtype == a.dtype:
        dtype = out.dtype
    if a.dtype != b.dtype or out.dtype != dtype or out.shape != shape:
        raise InvalidArgument(
            f"a is {a.dtype}, b {b.dtype}, out {out.dtype} {out.shape}; a and b must be alike, out {dtype} {shape}"
        )
    product = np.empty(shape, dtype)
    multiply_cpu(a, b, product, threads)
    np.add(out, product, out=out) if accumulate else np.copyto(out, product)


def _result_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """(..., m, n) of the product.

    Raises:
        InvalidArgument: the shapes do not fit.
    """
    if len(a) == len(b) == 2 and a[1] == b[0]:
        return a[0], b[1]
    for name, shape, form in (("a", a, "(..., m, k)"), ("b", b, "(..., k, n)")):
        if len(shape) < 2:
            raise InvalidArgument(f"{name} has shape {shape}; it must be a vector or at least {form}")
    if a[-1] != b[-2]:
        raise InvalidArgument(f"a {a} has k = {a[-1]} columns, but b {b} has {b[-2]} rows; they must be equal")
    try:
        return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    except ValueError:
        raise InvalidArgument(
            f"the batch dimensions of a {a} and b {b} do not broadcast: each pair must be equal or contain a 1"
        ) from None


_RESULTS = {DTYPES[operand]: DTYPES[result] for operand, result in RESULT_DTYPE.items()}


def _result_dtype(dtype: np.dtype | str, accumulate: bool, wanted: Any = None) -> np.dtype:
    """Type of a result that is not given, for operands of `dtype` (its name where NumPy has no such type)."""
    result = None if isinstance(dtype, str) else _RESULTS.get(dtype)
    if result is None:
        raise InvalidArgument(f"a and b are {dtype}; matmul takes {', '.join(RESULT_DTYPE)}")
    if accumulate:
        raise InvalidArgument("accumulate=True adds to out; give out")
    if wanted is None:
        return result
    possible = [result, np.dtype(dtype)] if np.dtype(dtype).itemsize == 2 else [result]
    name = str(wanted).removeprefix("torch.") if not isinstance(wanted, type) else np.dtype(wanted).name
    chosen = next((kind for kind in possible if name == NAMES[kind]), None)
    if chosen is None:
        names = " or ".join(NAMES[kind] for kind in possible)
        raise InvalidArgument(f"dtype is {name}; the product of {NAMES[np.dtype(dtype)]} arrays is {names}")
    return chosen


KERNEL = Kernel(
    name="matmul",
    summary="C = A B",
    problem_type=MatmulProblem,
    variants=variants,
    peers=peers,
    examples=(
        MatmulProblem(1, 1, 1, "float32"),
        MatmulProblem(1, 67, 130, "float64"),
        MatmulProblem(97, 1, 33, "float32", transpose_a=True),
        MatmulProblem(65, 97, 257, "float32", pattern="integers", transpose_b=True),
        MatmulProblem(65, 97, 257, "float64", pattern="integers"),
        MatmulProblem(33, 70, 129, "float64", transpose_a=True, transpose_b=True, pattern="ill-scaled"),
        MatmulProblem(49, 33, 65, "bfloat16", transpose_b=True),
        MatmulProblem(17, 129, 1, "bfloat16", pattern="uniform"),
        MatmulProblem(31, 33, 97, "float16", batch=3),
        MatmulProblem(16, 16, 513, "float16", transpose_a=True, pattern="ill-scaled"),
        MatmulProblem(65, 47, 131, "int8", transpose_a=True),
        MatmulProblem(13, 35, 100, "int8", batch=2, transpose_b=True, pattern="ill-scaled"),
        MatmulProblem(300, 200, 700, "float32", pattern="uniform", seed=7),
        MatmulProblem(20, 20, 20, "float32", pattern="zeros"),
        MatmulProblem(70, 33, 129, "float32", checked=True),
        MatmulProblem(9, 40, 70, "int8", batch=2, checked=True),
    ),
)
