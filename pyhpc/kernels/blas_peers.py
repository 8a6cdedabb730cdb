"""BLAS libraries as peers of matmul, called through the C interface that they share, and each one's own extensions.

    cblas_Xgemm(row-major, op(A), op(B), m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)

OpenBLAS and MKL come from PyPI (the extra `peers`), AOCL is found where it is installed. MKL multiplies bfloat16,
float16 and int8 too: its int8 product takes unsigned bytes on the left, so those are shifted by 128 beforehand and the
shift is given as A's offset. BLIS comes as the package `blis`, which is built without threads.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyhpc.errors import Unsupported
from pyhpc.kernels.kernel import Arrays, Variant
from pyhpc.kernels.matmul_problem import MatmulProblem
from pyhpc.native import cpu

_ROW_MAJOR, _AS_IS, _TRANSPOSED, _FIXED_OFFSET = 101, 111, 112, 173  # of cblas.h and mkl_cblas.h
_INSTALL = "is not installed (pip install 'pyhpc[peers]')"


@dataclass(frozen=True)
class Library:
    """One BLAS library."""

    name: str  # of the peer
    title: str
    locate: Callable[[], str | None]  # the path of the shared object, None where it is not installed
    functions: dict[str, str]  # dtype → its product
    integer: Any  # the C type of sizes
    set_threads: str

    def load(self) -> ctypes.CDLL:
        """The library; it stays loaded."""
        return _load(self.locate() or "")


@functools.cache
def _load(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)


@functools.cache
def _openblas() -> str | None:
    if importlib.util.find_spec("scipy_openblas64") is None:
        return None
    import scipy_openblas64

    return str(Path(scipy_openblas64.get_lib_dir()) / f"lib{scipy_openblas64.get_library()}.so")


@functools.cache
def _mkl() -> str | None:
    try:
        files = importlib.metadata.files("mkl") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name.startswith("libmkl_rt.so")), None)


@functools.cache
def _aocl() -> str | None:
    return ctypes.util.find_library("blis-mt")


LIBRARIES = (
    Library(
        "openblas",
        f"the package scipy-openblas64 {_INSTALL}",
        _openblas,
        {"float64": "scipy_cblas_dgemm64_", "float32": "scipy_cblas_sgemm64_"},
        ctypes.c_int64,
        "scipy_openblas_set_num_threads64_",
    ),
    Library(
        "mkl",
        f"the package mkl {_INSTALL}",
        _mkl,
        {
            "float64": "cblas_dgemm",
            "float32": "cblas_sgemm",
            "bfloat16": "cblas_gemm_bf16bf16f32",
            "float16": "cblas_gemm_f16f16f32",
            "int8": "cblas_gemm_s8u8s32",
        },
        ctypes.c_int,
        "MKL_Set_Num_Threads",
    ),
    Library(
        "aocl",
        "AOCL's libblis-mt.so is not on the library path",
        _aocl,
        {"float64": "cblas_dgemm", "float32": "cblas_sgemm"},
        ctypes.c_int,
        "bli_thread_set_num_threads",
    ),
)


def _reject(library: Library, problem: MatmulProblem) -> str | None:
    if problem.dtype not in library.functions:
        return f"{library.name} has no product of {problem.dtype}"
    if problem.batch > 1:
        return "CBLAS multiplies one pair of matrices"
    return None if library.locate() else library.title


def _prepare(problem: MatmulProblem, arrays: Arrays) -> Arrays:
    if problem.dtype != "int8":
        return arrays
    return arrays | {"a": (arrays["a"] ^ np.int8(-128)).view(np.uint8)}  # keeps the order of storage


def _stored(array: np.ndarray, integer: Any) -> tuple[int, Any]:
    """How a matrix is stored row by row: as it is or transposed, and its leading dimension."""
    if array.flags.c_contiguous:
        return _AS_IS, integer(max(1, array.shape[1]))
    return _TRANSPOSED, integer(max(1, array.shape[0]))


def _run(library: Library, problem: MatmulProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    loaded, integer = library.load(), library.integer
    getattr(loaded, library.set_threads)(integer(threads or cpu().available_threads()))
    a, b = arrays["a"], arrays["b"]
    (order_a, a_step), (order_b, b_step) = _stored(a, integer), _stored(b, integer)
    real = ctypes.c_double if problem.dtype == "float64" else ctypes.c_float
    left, right, result = (ctypes.c_void_p(x.ctypes.data) for x in (a, b, out))
    sizes = [integer(size) for size in (problem.m, problem.n, problem.k)]
    function = getattr(loaded, library.functions[problem.dtype])
    function.restype = None
    last = integer(problem.n)
    if problem.dtype == "int8":
        offset = ctypes.byref(ctypes.c_int32(0))
        function(_ROW_MAJOR, order_a, order_b, _FIXED_OFFSET, *sizes, real(1), left, a_step, ctypes.c_int8(-128), right,
                 b_step, ctypes.c_int8(0), real(0), result, last, offset)  # fmt: skip
    else:
        function(_ROW_MAJOR, order_a, order_b, *sizes, real(1), left, a_step, right, b_step, real(0), result, last)


def _reject_blis(problem: MatmulProblem) -> str | None:
    if problem.dtype not in ("float64", "float32"):
        return f"blis has no product of {problem.dtype}"
    if problem.batch > 1:
        return "blis multiplies one pair of matrices"
    if problem.transpose_a or problem.transpose_b:
        return "the package blis takes the sizes of a transposed float64 operand for those of the product"
    return None if importlib.util.find_spec("blis") else f"the package blis {_INSTALL}"


def _run_blis(problem: MatmulProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    from blis.py import gemm

    if threads > 1:
        raise Unsupported("the package blis is built without threads; compare with it on 1 thread")
    gemm(arrays["a"], arrays["b"], out=out, beta=0.0)


def blas_peers() -> tuple[Variant, ...]:
    """One variant a library; each says why where it is absent."""
    shared = tuple(
        Variant(
            library.name,
            "cpu",
            functools.partial(_reject, library),
            functools.partial(_run, library),
            prepare=_prepare,
        )
        for library in LIBRARIES
    )
    return (*shared, Variant("blis", "cpu", _reject_blis, _run_blis))
