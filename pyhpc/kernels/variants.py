"""The variants that every kernel with native code has: one for each C++ target and each CUDA target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyhpc.device import status
from pyhpc.kernels.arrays import describe
from pyhpc.kernels.kernel import Variant
from pyhpc.native import cpu, cuda_variants


def native_variants(kernel: str, run: Callable[..., None]) -> tuple[Variant, ...]:
    """One variant for each target that this build has of csrc/`kernel`, best first; none if there is no such folder.

    `run(problem, arrays, out, threads, name)` calls the C++ function.
    """

    def variant(name: str, refusal: str) -> Variant:
        def run_target(problem: Any, arrays: Any, out: Any, threads: int) -> None:
            run(problem, arrays, out, threads, name)

        return Variant(name, "cpu", lambda problem: refusal or None, run_target)

    folder = getattr(cpu(), kernel, None)
    return () if folder is None else tuple(variant(name, refusal) for name, refusal in folder.variants())


def cuda_native_variants(kernel: str, run: Callable[..., None]) -> tuple[Variant, ...]:
    """As `native_variants` for the CUDA targets; `run(problem, arrays, out, stream, name)`."""

    def variant(name: str, refusal: str) -> Variant:
        def run_target(problem: Any, arrays: Any, out: Any, threads: int) -> None:
            result = describe(out, "out")
            run(problem, arrays, out, result.library.stream(result), name)

        return Variant(name, "cuda", lambda problem: refusal or None, run_target, status(kernel, name))

    return tuple(variant(name, refusal) for name, refusal in cuda_variants(kernel))
