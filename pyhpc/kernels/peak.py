"""The arithmetic ceiling: multiply-adds on registers alone, x ← x·a + b.

The highest rate any kernel of that dtype can reach with this variant's instructions; other kernels name it by
`Problem.ceiling` = the dtype. 16-bit floats are converted and multiplied in float32 by the CPU kernels, so their
ceiling is the float32 rate; int8 accumulates in int32 by the best exact instruction of the processor. On a GPU all but
float32 are multiplied by the tensor cores, and there is TF32 (float32 in memory) and E4M3. How the loops count their
own operations, and why the count is exact: csrc/peak/peak.h, csrc/peak/cuda_loops.h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pyhpc.kernels.kernel import Arrays, Check, Kernel, Problem, Variant
from pyhpc.kernels.numba_tools import numba_threads
from pyhpc.kernels.variants import cuda_native_variants, native_variants
from pyhpc.native import cpu, cuda

CPU_DTYPES = ("float64", "float32", "bfloat16", "float16", "int8")
# dtype → blocks that keep the largest GPU of today busy for some 20 to 30 ms
_GPU_BLOCKS = {
    "float64": 1 << 17,
    "float32": 1 << 17,
    "tf32": 1 << 20,
    "bfloat16": 1 << 21,
    "float16": 1 << 21,
    "float8_e4m3fn": 1 << 22,
    "int8": 1 << 22,
}
DTYPES = tuple(_GPU_BLOCKS)
BLOCK_OPERATIONS = 3 << 22  # of one block, as in csrc/peak/peak.h


@dataclass(frozen=True)
class PeakProblem(Problem):
    """`blocks` blocks of 12 582 912 multiplications and additions, shared evenly among the threads.

    The rate does not depend on `blocks` once a thread (or multiprocessor) has a few hundred: the label is the dtype.
    """

    dtype: str
    blocks: int = 256
    kernel: ClassVar[str] = "peak"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}")
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}; it must be at least 1")

    @property
    def label(self) -> str:
        """The dtype."""
        return self.dtype

    @property
    def flops(self) -> int:
        """Multiplications and additions, each one operation."""
        return self.blocks * BLOCK_OPERATIONS

    @property
    def bytes(self) -> int:
        """The result alone: the loop touches no memory."""
        return 8

    @property
    def ceiling(self) -> str:
        """Itself."""
        return self.label

    def inputs(self) -> Arrays:
        """None: the values live in registers."""
        return {}

    def output(self) -> np.ndarray:
        """int64 of shape (1,), for the operations counted."""
        return np.full(1, np.iinfo(np.int64).min)

    def verify(self, result: np.ndarray, inputs: Arrays) -> Check:
        """Whether the computed values counted every operation, exactly."""
        counted = int(result[0])
        wrong = int(counted != self.flops)
        sentence = f"the computed values counted {counted} operations instead of {self.flops}" if wrong else None
        return Check(
            1, wrong, float("inf") if wrong else 0.0, "operations counted by the computed values, exact", sentence
        )


def saturating(dtype: str, threads: int) -> PeakProblem:
    """Keeps each of `threads` threads busy for some 20 to 40 ms, so that starting them does not show."""
    return PeakProblem(dtype, blocks=256 * threads)


def on_gpu(dtype: str) -> PeakProblem:
    """Keeps a whole GPU busy for long enough that starting does not show.

    Raises:
        ValueError: an unknown dtype.
    """
    return PeakProblem(dtype, blocks=_GPU_BLOCKS.get(dtype, 1))


@functools.cache
def _numba_loops() -> tuple[Callable[..., None], Callable[..., None]]:
    """The floating-point and the int8 loop in Numba, each filling `counted`, one element a share of the work."""
    import numba

    lanes = 64  # chains in flight: enough to hide the latency of a multiply-add at any vector width

    @numba.njit(parallel=True)
    def multiply_add(three: Any, third: Any, blocks: int, counted: np.ndarray) -> None:
        shares = counted.size
        for share in numba.prange(shares):
            x = np.empty(lanes, dtype=three.dtype)
            for _ in range(blocks * (share + 1) // shares - blocks * share // shares):
                for i in range(lanes):
                    x[i] = i
                for _ in range(BLOCK_OPERATIONS // (4 * lanes)):
                    for i in range(lanes):
                        x[i] = (x[i] * three[0] + three[0]) * third[0] + three[0]  # x + 4, by 4 operations
                for i in range(lanes):
                    counted[share] += np.int64(x[i]) - i

    @numba.njit(parallel=True)
    def dot(a: np.ndarray, b: np.ndarray, length: int, blocks: int, counted: np.ndarray) -> None:
        shares = counted.size
        for share in numba.prange(shares):
            for block in range(blocks * (share + 1) // shares - blocks * share // shares):
                for step in range(BLOCK_OPERATIONS // (2 * length)):
                    start = 2 * ((block + step) % 32)  # another start each time, or the compiler multiplies only once
                    total = np.int32(0)
                    for i in range(start, start + length):
                        total += np.int32(a[i]) * np.int32(b[i])
                    counted[share] += total

    return multiply_add, dot


def _run_numba(problem: PeakProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    multiply_add, dot = _numba_loops()
    with numba_threads(threads) as count:
        counted = np.zeros(count, dtype=np.int64)
        if problem.dtype == "int8":
            # -38·127 + 46·105 = 4: a pair counts its two multiplications and two additions.
            length = 4096
            a, b = (np.array(pair * (length // 2 + 32), np.int8) for pair in ([-38, 46], [127, 105]))
            dot(a, b, length, problem.blocks, counted)
        else:
            dtype = np.float64 if problem.dtype == "float64" else np.float32
            multiply_add(np.array([3], dtype), np.array([1 / 3], dtype), problem.blocks, counted)
    out[0] = counted.sum()


def _run_native(problem: PeakProblem, arrays: Arrays, out: np.ndarray, threads: int, name: str) -> None:
    out[0] = cpu().peak.run(problem.dtype, problem.blocks, threads, name)


def _run_cuda(problem: PeakProblem, arrays: Arrays, out: Any, stream: int, name: str) -> None:
    cuda().peak.run(problem.dtype, problem.blocks, out, stream, name)


def _only(variant: Variant, dtypes: tuple[str, ...], why: str) -> Variant:
    """`variant`, which multiplies `dtypes`."""
    return replace(
        variant, reject=lambda problem: variant.reject(problem) or (None if problem.dtype in dtypes else why)
    )


def _of_cuda(variant: Variant) -> Variant:
    if variant.name == "sm90":
        tensor = tuple(dtype for dtype in DTYPES if dtype != "float32")
        return _only(variant, tensor, "no tensor core multiplies whole float32 numbers")
    dtypes = tuple(dtype for dtype in DTYPES if dtype != "float8_e4m3fn")
    return _only(variant, dtypes, "mma.sync multiplies 8-bit floating point only since Ada")


@functools.cache
def _variants() -> tuple[Variant, ...]:
    on_cpu = (*native_variants("peak", _run_native), Variant("numba", "cpu", lambda problem: None, _run_numba))
    return (
        *(_only(variant, CPU_DTYPES, "it is a type of GPUs") for variant in on_cpu),
        *map(_of_cuda, cuda_native_variants("peak", _run_cuda)),
    )


KERNEL = Kernel(
    "peak",
    "x ← x·a + b in registers, on tensor cores d ← a b + d: the arithmetic ceiling",
    PeakProblem,
    _variants,
    examples=tuple(PeakProblem(dtype, blocks=3) for dtype in DTYPES),
)
