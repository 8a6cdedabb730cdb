"""The ways to all-reduce: algorithms across the ranks of an MPI world, and reductions inside one process.

An algorithm takes problems of as many ranks as the world it runs in, one contribution a rank. The variants of the
native reduction and Numba fold all contributions in rank order inside one process: the definition, and the local step
of every algorithm. Peers: MPI_Allreduce across ranks, NumPy inside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pyhpc.comm import absence, channel, launch, library
from pyhpc.kernels.allreduce_problem import OPS, AllreduceProblem
from pyhpc.kernels.kernel import Arrays, Variant
from pyhpc.kernels.numba_tools import widened
from pyhpc.kernels.schedules.schedule import algorithms
from pyhpc.kernels.variants import native_variants
from pyhpc.native import cpu


def algorithm_refusal(name: str, dtype: str, op: str) -> str | None:
    """Why this algorithm cannot combine this, or None."""
    if name != "mpi":
        return None
    if dtype in ("float16", "bfloat16"):
        return f"MPI_Allreduce has no {dtype}"
    if op == "sum" and dtype in ("int8", "uint8", "int16", "uint16") and library().startswith("Open MPI"):
        return f"Open MPI's MPI_Allreduce saturates sums of {dtype} (5.0.11 with AVX); they must wrap"
    return None


def _across_ranks(name: str) -> Variant:
    """An algorithm: one contribution a rank, in an MPI world of the problem's ranks."""

    def reject(problem: AllreduceProblem) -> str | None:
        if problem.buffer != "ordinary":
            return "arrays in the window are measured by `pyhpc accept` and `pyhpc bench allreduce`"
        if problem.ranks == 1:
            return "one rank has nothing to exchange"
        started = launch()
        ranks = 1 if started is None else started.ranks or channel().ranks
        if ranks != problem.ranks:
            return f"needs {problem.ranks} MPI ranks; this process is one of {ranks}"
        reason = absence()
        return (
            algorithm_refusal(name, problem.dtype, problem.op) if reason is None else f"MPI is absent because {reason}"
        )

    def prepare(problem: AllreduceProblem, arrays: Arrays) -> Arrays:
        return {"contribution": problem.contribution(channel().rank)}

    def run(problem: AllreduceProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
        from pyhpc.kernels.allreduce import allreduce

        x = arrays["contribution"] if "contribution" in arrays else arrays["contributions"][channel().rank]
        allreduce(x, op=problem.op, algorithm=name, order=problem.order, out=out, checked=False)

    return Variant(name, "cpu", reject, run, prepare=prepare)


def _fold(problem: AllreduceProblem, arrays: Arrays, out: np.ndarray, threads: int, name: str) -> None:
    """The native reduction, contribution by contribution."""
    rows = arrays["contributions"]
    left = rows[0]
    if problem.ranks == 1:
        out[:] = left
    for right in rows[1:]:
        cpu().allreduce.reduce(left, right, out, problem.op, threads=threads, variant=name)
        left = out


@functools.cache
def _numba_fold(op: str) -> Callable[[np.ndarray, np.ndarray], None]:
    """The defining loop in Numba."""
    import numba

    @numba.njit
    def add(a: Any, b: Any) -> Any:
        return a + b

    @numba.njit
    def multiply(a: Any, b: Any) -> Any:
        return a * b

    @numba.njit
    def smaller(a: Any, b: Any) -> Any:
        return b if b < a or b != b else a  # b != b: NaN propagates

    @numba.njit
    def larger(a: Any, b: Any) -> Any:
        return b if b > a or b != b else a

    combine = {"sum": add, "prod": multiply, "min": smaller, "max": larger}[op]

    # One thread: a second opinion on the result; compiling a parallel loop for every dtype would take longer than it
    # saves.
    @numba.njit(nogil=True)
    def fold(contributions: np.ndarray, out: np.ndarray) -> None:
        for i in range(out.size):
            value = contributions[0, i]
            for rank in range(1, contributions.shape[0]):
                # Numba widens integers; the store wraps them again, which is the same modulo the type's range.
                value = combine(value, contributions[rank, i])
            out[i] = value

    compiled: Callable[[np.ndarray, np.ndarray], None] = fold
    return compiled


def _numba() -> Variant:
    def run(problem: AllreduceProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
        rows, result = arrays["contributions"], out
        if problem.dtype in ("float16", "bfloat16"):
            rows, result = widened(rows), np.empty(out.shape, np.float32)
        _numba_fold(problem.op)(rows, result)
        if result is not out:
            out[:] = result

    return Variant("numba", "cpu", lambda problem: None, run)


@functools.cache
def variants() -> tuple[Variant, ...]:
    """Algorithms, then reductions inside the process, best first."""
    return (*map(_across_ranks, algorithms()), *native_variants("allreduce", _fold), _numba())


@functools.cache
def peers() -> tuple[Variant, ...]:
    """MPI_Allreduce and NumPy."""

    def run(problem: AllreduceProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
        # dtype: NumPy would widen small integers.
        OPS[problem.op].reduce(arrays["contributions"], axis=0, dtype=out.dtype, out=out)

    return (_across_ranks("mpi"), Variant("numpy", "cpu", lambda problem: None, run))
