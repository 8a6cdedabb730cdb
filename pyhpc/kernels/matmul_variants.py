"""The ways to run a `MatmulProblem`: C++ on the CPU and on CUDA, Numba on both, and the peers NumPy and PyTorch."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from pyhpc.errors import Unsupported
from pyhpc.kernels.blas_peers import blas_peers
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.kernel import Arrays, Variant
from pyhpc.kernels.matmul_check import Product, wrong_result, wrong_result_on_gpu
from pyhpc.kernels.matmul_problem import RESULT_DTYPE, MatmulProblem
from pyhpc.kernels.numba_tools import numba_cuda_absence
from pyhpc.kernels.torch_tools import tensor, torch_absence, use_threads
from pyhpc.kernels.variants import cuda_native_variants, native_variants
from pyhpc.native import cpu, cuda


def _run_cpu(problem: MatmulProblem, arrays: Arrays, out: np.ndarray, threads: int, name: str) -> None:
    product = (arrays["a"], arrays["b"], out)
    if not problem.checked:
        cpu().matmul.run(*product, False, threads, name)
    elif (row := cpu().matmul.run_checked(*product, False, threads, name)) >= 0:
        raise wrong_result(product, None, row)


def _without_checksums(variant: Variant) -> Variant:
    """`variant`, which refuses checked products."""

    def reject(problem: MatmulProblem) -> str | None:
        return variant.reject(problem) or ("it computes no checksums" if problem.checked else None)

    return replace(variant, reject=reject)


def _reject_packed(problem: MatmulProblem) -> str | None:
    return "one matrix is packed, not a batch" if problem.batch > 1 else None


def _prepare_packed(problem: MatmulProblem, arrays: Arrays) -> dict[str, Any]:
    return arrays | {"b": cpu().matmul.pack(arrays["b"])}


def _run_packed(problem: MatmulProblem, arrays: dict[str, Any], out: np.ndarray, threads: int) -> None:
    cpu().matmul.run(arrays["a"], arrays["b"], out, False, threads)


def _run_cuda(problem: MatmulProblem, arrays: Any, out: Any, stream: int, name: str) -> None:
    product = (arrays["a"], arrays["b"], out)
    if not problem.checked:
        cuda().matmul.run(*product, False, stream, name)
    elif (told := cuda().matmul.run_checked(*product, False, stream, name)) is not None:
        kind = Product(DTYPES[problem.dtype], DTYPES[RESULT_DTYPE[problem.dtype]], problem.k, False, on_gpu=True)
        raise wrong_result_on_gpu(told, out.shape, kind)


def _run_numba(problem: MatmulProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    from pyhpc.kernels.numba_matmul import multiply_cpu

    multiply_cpu(arrays["a"], arrays["b"], out, threads)


def _run_numba_cuda(problem: MatmulProblem, arrays: Any, out: Any, threads: int) -> None:
    from pyhpc.kernels.numba_matmul import multiply_cuda

    multiply_cuda(arrays["a"], arrays["b"], out)


def _reject_numba_cuda(problem: MatmulProblem) -> str | None:
    return "Numba has no bfloat16 arrays" if problem.dtype == "bfloat16" else numba_cuda_absence()


@functools.cache
def variants() -> tuple[Variant, ...]:
    """Best first."""
    return (
        *native_variants("matmul", _run_cpu),
        _without_checksums(Variant("numba", "cpu", lambda problem: None, _run_numba)),
        _without_checksums(Variant("packed", "cpu", _reject_packed, _run_packed, prepare=_prepare_packed)),
        *cuda_native_variants("matmul", _run_cuda),
        _without_checksums(Variant("numba-cuda", "cuda", _reject_numba_cuda, _run_numba_cuda, status="compiled only")),
    )


def _reject_numpy(problem: MatmulProblem) -> str | None:
    return None if problem.dtype in ("float64", "float32") else f"NumPy has no fast product of {problem.dtype}"


def _run_numpy(problem: MatmulProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    available: int = cpu().available_threads()
    if threads not in (0, available):
        raise Unsupported(
            f"NumPy's BLAS fixed its thread count when it was loaded; start with OMP_NUM_THREADS={threads} "
            f"to compare on {threads}"
        )
    np.matmul(arrays["a"], arrays["b"], out=out)


def _reject_torch(problem: MatmulProblem) -> str | None:
    if problem.dtype == "int8" and problem.batch > 1:
        return "PyTorch has no batched int8 product"
    return torch_absence()


def _prepare_torch(problem: MatmulProblem, arrays: Arrays) -> dict[str, Any]:
    return {name: tensor(array) for name, array in arrays.items()}


def _torch_output(problem: MatmulProblem) -> np.ndarray:
    # PyTorch's product of 16-bit matrices is of 16 bits.
    expected = problem.output()
    if RESULT_DTYPE[problem.dtype] != "float32":
        return expected
    return expected.astype(DTYPES[problem.dtype])


def _run_torch(problem: MatmulProblem, arrays: dict[str, Any], out: np.ndarray, threads: int) -> None:
    import torch

    use_threads(threads)
    a, b, result = arrays["a"], arrays["b"], tensor(out)
    if problem.dtype == "int8":
        torch._int_mm(a, b, out=result)
    elif result.dtype == a.dtype:
        torch.matmul(a, b, out=result)
    else:  # given a float32 array for a 16-bit product
        result.copy_(torch.matmul(a, b))


def _reject_torch_packed(problem: MatmulProblem) -> str | None:
    if problem.dtype not in ("float32", "bfloat16"):
        return f"oneDNN packs no {problem.dtype} weights for PyTorch"
    if problem.batch > 1 or problem.transpose_a:
        return "PyTorch's product with packed weights takes one row-major matrix"
    if (absence := torch_absence()) is not None:
        return absence
    import torch

    if problem.dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN has no bfloat16 product for this processor"
    return None


def _prepare_torch_packed(problem: MatmulProblem, arrays: Arrays) -> dict[str, Any]:
    import torch

    weight = tensor(np.ascontiguousarray(arrays["b"].T))  # (n, k), as PyTorch's linear layers keep it
    return {"a": tensor(arrays["a"]), "weight": torch.ops.mkldnn._reorder_linear_weight(weight, problem.m)}


def _run_torch_packed(problem: MatmulProblem, arrays: dict[str, Any], out: np.ndarray, threads: int) -> None:
    import torch

    use_threads(threads)
    arrays["result"] = torch.ops.mkldnn._linear_pointwise(arrays["a"], arrays["weight"], None, "none", [], "")


def _collect_torch_packed(problem: MatmulProblem, arrays: dict[str, Any], out: np.ndarray) -> None:
    # Taken, not kept: a result that stays from an earlier run would hide a run that wrote none.
    if (result := arrays.pop("result", None)) is not None:
        tensor(out).copy_(result)


def peers() -> tuple[Variant, ...]:
    """NumPy (its BLAS), PyTorch (MKL, oneDNN), PyTorch with weights packed beforehand as its compiler does for a frozen
    model, and the BLAS libraries; `torch` and `torch-packed` return 16-bit products in 16 bits.
    """
    known = (
        Variant("numpy", "cpu", _reject_numpy, _run_numpy),
        Variant("torch", "cpu", _reject_torch, _run_torch, prepare=_prepare_torch, output=_torch_output),
        Variant(
            "torch-packed",
            "cpu",
            _reject_torch_packed,
            _run_torch_packed,
            prepare=_prepare_torch_packed,
            output=_torch_output,
            collect=_collect_torch_packed,
        ),
        *blas_peers(),
    )
    return tuple(map(_without_checksums, known))
