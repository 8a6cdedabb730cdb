"""The ways to run an `AttentionProblem`: C++ on the CPU and on CUDA, Numba on both, and the peers NumPy and PyTorch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pyhpc.kernels.attention_problem import AttentionProblem
from pyhpc.kernels.kernel import Arrays, Variant
from pyhpc.kernels.numba_tools import numba_cuda_absence
from pyhpc.kernels.torch_tools import tensor, torch_absence, use_threads
from pyhpc.kernels.variants import cuda_native_variants, native_variants
from pyhpc.native import cpu, cuda

_NAIVE_SCORES = 2**26  # of the naive peer: 256 MiB of float32


def _masks(problem: AttentionProblem) -> tuple[bool, int, float]:
    return problem.causal, -1 if problem.window is None else problem.window, 0.0


def _run_cpu(problem: AttentionProblem, arrays: Arrays, out: np.ndarray, threads: int, name: str) -> None:
    cpu().attention.run(arrays["q"], arrays["k"], arrays["v"], out, None, *_masks(problem), threads, name)


def _run_cuda(problem: AttentionProblem, arrays: Any, out: Any, stream: int, name: str) -> None:
    cuda().attention.run(arrays["q"], arrays["k"], arrays["v"], out, None, *_masks(problem), stream, name)


def _run_numba(problem: AttentionProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    from pyhpc.kernels.numba_attention import attend_cpu

    operands = arrays["q"], arrays["k"], arrays["v"]
    attend_cpu(operands, out, problem.head_dim**-0.5, problem.visible, threads)


def _run_numba_cuda(problem: AttentionProblem, arrays: Any, out: Any, threads: int) -> None:
    from pyhpc.kernels.numba_attention import attend_cuda

    operands = arrays["q"], arrays["k"], arrays["v"]
    attend_cuda(operands, out, problem.head_dim**-0.5, problem.visible)


def _reject_numba_cuda(problem: AttentionProblem) -> str | None:
    return "Numba has no bfloat16 arrays" if problem.dtype == "bfloat16" else numba_cuda_absence()


@functools.cache
def variants() -> tuple[Variant, ...]:
    """Best first."""
    return (
        *native_variants("attention", _run_cpu),
        Variant("numba", "cpu", lambda problem: None, _run_numba),
        *cuda_native_variants("attention", _run_cuda),
        Variant("numba-cuda", "cuda", _reject_numba_cuda, _run_numba_cuda, status="compiled only"),
    )


def _mask(problem: AttentionProblem) -> np.ndarray | None:
    """True where the key is visible, or None where every key is."""
    if not problem.causal and problem.window is None:
        return None
    first, stop = problem.visible(np.arange(problem.q_len))
    keys = np.arange(problem.kv_len)
    return np.asarray((keys >= first[:, None]) & (keys < stop[:, None]))


def _reject_numpy(problem: AttentionProblem) -> str | None:
    if problem.dtype != "float32":
        return f"NumPy has no fast product of {problem.dtype}"
    scores = problem.batch * problem.heads * problem.q_len * problem.kv_len
    return None if scores <= _NAIVE_SCORES else f"the naive formula would store {4 * scores / 1e9:.1f} GB of scores"


def _run_numpy(problem: AttentionProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    group = problem.heads // problem.kv_heads
    q, k, v = arrays["q"], np.repeat(arrays["k"], group, axis=1), np.repeat(arrays["v"], group, axis=1)
    scores = (q * np.float32(problem.head_dim**-0.5)) @ k.swapaxes(-1, -2)
    mask = _mask(problem)
    if mask is not None:
        scores[..., ~mask] = -np.inf
    highest = scores.max(axis=-1, keepdims=True)
    np.subtract(scores, np.where(np.isinf(highest), 0, highest), out=scores)
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    np.matmul(scores, v, out=out)
    np.divide(out, total, out=out, where=total > 0)


def _reject_torch(problem: AttentionProblem) -> str | None:
    if problem.causal and problem.kv_len < problem.q_len:
        return "PyTorch gives NaN to queries that see no key"
    return torch_absence()


def _prepare_torch(problem: AttentionProblem, arrays: Arrays) -> dict[str, Any]:
    import torch

    prepared = {name: tensor(array) for name, array in arrays.items()}
    mask = _mask(problem)
    # Its is_causal starts the diagonal at the first query and key, which is the contract only for equal lengths.
    plain_causal = problem.causal and problem.window is None and problem.q_len == problem.kv_len
    return prepared | {
        "is_causal": plain_causal,
        "mask": None if mask is None or plain_causal else torch.from_numpy(mask),
    }


def _run_torch(problem: AttentionProblem, arrays: dict[str, Any], out: np.ndarray, threads: int) -> None:
    import torch

    use_threads(threads)
    result = torch.nn.functional.scaled_dot_product_attention(
        arrays["q"],
        arrays["k"],
        arrays["v"],
        attn_mask=arrays["mask"],
        is_causal=arrays["is_causal"],
        enable_gqa=problem.heads != problem.kv_heads,
    )
    tensor(out).copy_(result)  # it has no out=


def peers() -> tuple[Variant, ...]:
    """NumPy (the formula as written, with the matrix of scores) and PyTorch's scaled_dot_product_attention."""
    return (
        Variant("numpy", "cpu", _reject_numpy, _run_numpy),
        Variant("torch", "cpu", _reject_torch, _run_torch, prepare=_prepare_torch),
    )
