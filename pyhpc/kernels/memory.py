"""The bandwidth ceiling of each cache level and of DRAM: read, copy, triad and fill on float64 arrays.

Bytes are counted as STREAM counts them (J. D. McCalpin, "Memory Bandwidth and Machine Balance in Current High
Performance Computers", 1995; www.cs.virginia.edu/stream): the words that the formula names, so read 1, copy 2, triad 3,
fill 1 an element; the read of a line before it is written (write-allocate) is not counted. Streaming stores avoid that
read, which is why they are faster from DRAM and slower within the caches: the ceiling is the better of the two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pyhpc.errors import Unsupported
from pyhpc.kernels.kernel import Arrays, Check, Kernel, Problem, Variant
from pyhpc.kernels.numba_tools import numba_threads
from pyhpc.kernels.variants import cuda_native_variants, native_variants
from pyhpc.native import cpu, cuda

SCALAR = 3.0  # as in csrc/memory/memory.h
INPUTS = {"read": ("a",), "copy": ("a",), "triad": ("a", "b"), "fill": ()}
FLOPS = {"read": 1, "copy": 0, "triad": 2, "fill": 0}  # an element
LEVELS = ("L1", "L2", "L3", "DRAM")
STORES = ("normal", "streaming")
_KIB, _MIB = 1 << 10, 1 << 20
_GPU_PARTS = 1 << 14  # of a sum on a GPU, a thread block each: many times more than it runs at once
_PERIOD = 1021  # of the values 0, 1, 2 …: prime, so that a shifted or swapped line shows


@dataclass(frozen=True)
class MemoryProblem(Problem):
    """`op` over arrays that together take `footprint_bytes`, gone over `repeats` times.

    `threads` (0: all available) is how many threads touch the arrays first, each its own part; run with as many.
    """

    op: str
    footprint_bytes: int
    level: str = "DRAM"
    stores: str = "normal"
    repeats: int = 1
    threads: int = 0
    kernel: ClassVar[str] = "memory"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("op", self.op, tuple(INPUTS)),
            ("level", self.level, LEVELS),
            ("stores", self.stores, STORES),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        if self.op == "read" and self.stores != "normal":
            raise ValueError("stores is 'streaming', but read stores nothing")
        for name, number, least in (("repeats", self.repeats, 1), ("threads", self.threads, 0)):
            if number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        if self.elements < 1:
            raise ValueError(f"footprint_bytes is {self.footprint_bytes}; {self.op} needs at least {8 * self.arrays}")

    @property
    def arrays(self) -> int:
        """How many arrays share the footprint."""
        return len(INPUTS[self.op]) + (self.op != "read")

    @property
    def elements(self) -> int:
        """Elements of each array: whole cache lines where there is at least one."""
        elements = self.footprint_bytes // self.arrays // 8
        return elements // 8 * 8 or elements

    @property
    def label(self) -> str:
        """Such as "triad DRAM 256MiB streaming"."""
        unit, name = (_MIB, "MiB") if self.footprint_bytes % _MIB == 0 else (_KIB, "KiB")
        size = f"{self.footprint_bytes / unit:g}{name}"
        return f"{self.op} {self.level} {size}" + (" streaming" if self.stores == "streaming" else "")

    @property
    def flops(self) -> int:
        """Additions and multiplications of the formula."""
        return FLOPS[self.op] * self.elements * self.repeats

    @property
    def bytes(self) -> int:
        """Bytes as STREAM counts them, over all repeats."""
        return self.arrays * 8 * self.elements * self.repeats

    @property
    def ceiling(self) -> str:
        """The float64 peak, far above."""
        return "float64"

    def inputs(self) -> Arrays:
        """Small whole numbers, so that every sum is exact; pages first touched by the threads that use them."""
        arrays = {name: _touched(self.elements, self.threads) for name in INPUTS[self.op]}
        for step, array in enumerate(arrays.values(), start=1):
            _fill_periodic(array, step)
        return arrays

    def output(self) -> np.ndarray:
        """c, or for read one element for the sum; all NaN. (On a GPU read gives the sums of equal parts.)"""
        out = np.empty(1) if self.op == "read" else _touched(self.elements, self.threads)
        out.fill(np.nan)
        return out

    def verify(self, result: np.ndarray, inputs: Arrays) -> Check:
        """Whether every element (for read: the sum over all repeats) is exactly right."""
        expected: np.ndarray
        if self.op == "read":
            expected, result = np.array([self.repeats * float(inputs["a"].sum())]), np.array([float(result.sum())])
        elif self.op == "fill":
            expected = np.full(self.elements, SCALAR)
        else:
            expected = inputs["a"] if self.op == "copy" else inputs["a"] + SCALAR * inputs["b"]
        bad = np.flatnonzero(~(result == expected))
        sentence = f"element {bad[0]} is {result[bad[0]]} instead of {expected[bad[0]]}" if bad.size else None
        return Check(expected.size, bad.size, float("inf") if bad.size else 0.0, "every element, exact", sentence)


def footprint(level: str, cache_bytes: Mapping[str, int], threads: int = 1) -> int:
    """A working set in bytes, of all arrays and threads together, that lives in `level`.

    Half of each thread's L1 or L2; a quarter of the L3, which others may share; for DRAM a power of two of at least
    four times the L3, as STREAM asks, and 32 MiB a thread, which exceeds the L3 share of a core on today's processors.

    Args:
        level: "L1", "L2", "L3" or "DRAM".
        cache_bytes: bytes of "l1d", "l2", "l3" one core can use; 0 or absent where unknown.
        threads: how many threads share the arrays.

    Raises:
        Unsupported: the machine does not tell this cache's size, or the L3 is no larger than the L2 caches together.
    """
    l1d, l2, l3 = (cache_bytes.get(name, 0) for name in ("l1d", "l2", "l3"))
    if level == "DRAM":
        return 1 << (max(4 * max(l2, l3), threads * 32 * _MIB) - 1).bit_length()
    known = {"L1": l1d, "L2": l2, "L3": l3}[level]
    if known == 0:
        raise Unsupported(f"this machine does not tell the size of its {level} cache")
    if level == "L3":
        if l3 // 4 < 2 * threads * l2:
            raise Unsupported(f"an L3 of {l3} bytes cannot be told from {threads} L2 caches of {l2} bytes")
        return l3 // 4 // _KIB * _KIB
    return threads * (known // 2 // _KIB * _KIB)


def on_gpu(op: str, **fields: Any) -> MemoryProblem:
    """The problem that measures a GPU's memory: 1 GiB, eight times the largest L2 cache (126 MB, NVIDIA B200)."""
    return MemoryProblem(op, 1 << 30, **fields)


def at_level(
    op: str, level: str, cache_bytes: Mapping[str, int], threads: int = 1, stores: str = "normal"
) -> MemoryProblem:
    """The problem that measures `level` with `threads` threads: repeated until each thread has moved some 128 MiB."""
    size = footprint(level, cache_bytes, threads)
    repeats = max(1, threads * 128 * _MIB // size)
    return MemoryProblem(op, size, level, stores, repeats, threads)


def _touched(elements: int, threads: int) -> np.ndarray:
    """An uninitialised page-aligned array whose pages belong to the threads that will use them."""
    pages = np.empty(elements + 512)
    start = -(pages.ctypes.data // 8) % 512
    array = pages[start : start + elements]
    cpu().memory.run("fill", None, None, array, threads=threads)
    return array


def _fill_periodic(array: np.ndarray, step: int) -> None:
    """array[i] = step · (i mod period), by copies of one period."""
    period = step * np.arange(_PERIOD, dtype=np.float64)
    whole = array.size // _PERIOD * _PERIOD
    array[:whole].reshape(-1, _PERIOD)[:] = period
    array[whole:] = period[: array.size - whole]


def _run_native(problem: MemoryProblem, arrays: Arrays, out: np.ndarray, threads: int, name: str) -> None:
    c = None if problem.op == "read" else out
    streaming = problem.stores == "streaming"
    total = cpu().memory.run(problem.op, arrays.get("a"), arrays.get("b"), c, problem.repeats, streaming, threads, name)
    if problem.op == "read":
        out[0] = total


@functools.cache
def _numba_loops() -> dict[str, Callable[..., None]]:
    """The four operations in Numba, each over (a, b, out, repeats)."""
    import numba

    @numba.njit(parallel=True)
    def read(a: np.ndarray, b: np.ndarray, out: np.ndarray, repeats: int) -> None:
        total = 0.0
        for _ in range(repeats):
            part = 0.0
            for i in numba.prange(a.size):
                part += a[i]
            total += part
        out[0] = total

    @numba.njit(parallel=True)
    def copy(a: np.ndarray, b: np.ndarray, out: np.ndarray, repeats: int) -> None:
        for _ in range(repeats):
            for i in numba.prange(out.size):
                out[i] = a[i]

    @numba.njit(parallel=True)
    def triad(a: np.ndarray, b: np.ndarray, out: np.ndarray, repeats: int) -> None:
        for _ in range(repeats):
            for i in numba.prange(out.size):
                out[i] = a[i] + SCALAR * b[i]

    @numba.njit(parallel=True)
    def fill(a: np.ndarray, b: np.ndarray, out: np.ndarray, repeats: int) -> None:
        for _ in range(repeats):
            for i in numba.prange(out.size):
                out[i] = SCALAR

    return {"read": read, "copy": copy, "triad": triad, "fill": fill}


def _run_numba(problem: MemoryProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    with numba_threads(threads):
        _numba_loops()[problem.op](arrays.get("a", out), arrays.get("b", out), out, problem.repeats)


def _reject_numba(problem: MemoryProblem) -> str | None:
    return "Numba has no streaming stores" if problem.stores == "streaming" else None


def _run_cuda(problem: MemoryProblem, arrays: Any, out: Any, stream: int, name: str) -> None:
    for _ in range(problem.repeats):
        cuda().memory.run(problem.op, arrays.get("a"), arrays.get("b"), out, stream, name)


def _reject_cuda(problem: MemoryProblem) -> str | None:
    if problem.op == "read" and problem.repeats > 1:
        return "on a GPU, read keeps no sum of several repeats"
    if problem.stores == "streaming":
        return "stores cannot be chosen on a GPU"
    return None if problem.level == "DRAM" else "the levels are those of the processor's caches; give footprint_bytes"


def _cuda_output(problem: MemoryProblem) -> np.ndarray:
    """As problem.output(), but for read the sums of as many parts as fill a GPU: exact, in a fixed order."""
    return np.full(_GPU_PARTS, np.nan) if problem.op == "read" else problem.output()


def _cuda_variant(variant: Variant) -> Variant:
    refuse = variant.reject
    return replace(variant, reject=lambda problem: refuse(problem) or _reject_cuda(problem), output=_cuda_output)


@functools.cache
def _variants() -> tuple[Variant, ...]:
    return (
        *native_variants("memory", _run_native),
        Variant("numba", "cpu", _reject_numba, _run_numba),
        *map(_cuda_variant, cuda_native_variants("memory", _run_cuda)),
    )


def _run_numpy(problem: MemoryProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    """NumPy on one thread; triad takes two passes, because NumPy has no fused one."""
    for _ in range(problem.repeats):
        if problem.op == "copy":
            np.copyto(out, arrays["a"])
        elif problem.op == "fill":
            out.fill(SCALAR)
        else:
            np.multiply(arrays["b"], SCALAR, out=out)
            np.add(out, arrays["a"], out=out)


def _reject_numpy(problem: MemoryProblem) -> str | None:
    if problem.op == "read":
        return "NumPy's sum is pairwise: it is bound by arithmetic, not by memory"
    return "NumPy's stores cannot be chosen" if problem.stores == "streaming" else None


KERNEL = Kernel(
    "memory",
    "read Σa, copy c = a, triad c = a + 3b, fill c = 3: the bandwidth ceiling",
    MemoryProblem,
    _variants,
    peers=lambda: (Variant("numpy", "cpu", _reject_numpy, _run_numpy),),
    examples=(
        *(MemoryProblem(op, footprint_bytes=footprint) for op in INPUTS for footprint in (24, 50_000)),
        *(MemoryProblem(op, footprint_bytes=70_000, stores="streaming", repeats=2) for op in INPUTS if op != "read"),
    ),
)
