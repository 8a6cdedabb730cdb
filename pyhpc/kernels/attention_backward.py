"""attention_backward: the gradients of attention, without the matrix of scores."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pyhpc.errors import InvalidArgument, Unsupported
from pyhpc.kernels.arrays import HOST, describe, host_view, same_home
from pyhpc.kernels.attention_backward_problem import AttentionBackwardProblem
from pyhpc.kernels.attention_problem import ATTENTION_DTYPES, visible_keys
from pyhpc.kernels.kernel import Arrays, Kernel, Variant
from pyhpc.kernels.torch_tools import tensor, torch_absence, use_threads
from pyhpc.kernels.variants import native_variants
from pyhpc.native import cpu

_READ, _WRITTEN = ("dout", "q", "k", "v", "out", "lse"), ("dq", "dk", "dv")


def attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    gradients: tuple[Any, Any, Any] | None = None,
    threads: int | None = None,
    variant: str | None = None,
) -> tuple[Any, Any, Any]:
    """Gradients of `pyhpc.attention`: of Σ dout ∘ attention(q, k, v) with respect to q, k and v.

        dv = Pᵀ dout,   dq = scale dS k,   dk = scale dSᵀ q,   P = exp(scale q kᵀ - lse) where the key is visible,
        dS = P ∘ (dout vᵀ - rowsum(dout ∘ out))

    summed over the query heads that share a key-value head. The weights are computed again from lse (Dao 2023,
    "FlashAttention-2", algorithm 2), so memory grows with the lengths, not with their product; the result does not
    depend on the number of threads. Takes the same kinds of arrays as `pyhpc.attention`, on the CPU, of any strides,
    copies nothing and releases the Python lock.

    Args:
        dout: (batch, heads, q_len, head_dim), the gradient of the output, of q's dtype.
        q: (batch, heads, q_len, head_dim) float32, bfloat16 or float16; head_dim 16 … 256.
        k: (batch, kv_heads, kv_len, head_dim), heads a multiple of kv_heads.
        v: as k.
        out: what `attention` gave for q, k, v and the same options.
        lse: (batch, heads, q_len) float32, what it gave with `return_lse`.
        causal: as given to `attention`.
        window: as given to `attention`.
        scale: as given to `attention`.
        gradients: arrays for the three results, like q, k and v; they must not overlap any other.
        threads: of the CPU; by default all that this process may use.
        variant: "numba", or a native one ("avx512", "avx2", "neon", "generic" …); by default the best that runs here.

    Returns:
        (dq, dk, dv), `gradients` or new arrays of q's library and dtype. A query that sees no key adds nothing. The
        error bound is derived in pyhpc/kernels/attention_backward_problem.py.

    Raises:
        InvalidArgument: a shape, dtype, library or device that does not fit, a result that is read-only or overlaps
            another array.
        Unsupported: the arrays are on a GPU, or the variant is absent; the sentence says why.
    """
    if window is not None and window < 0:
        raise InvalidArgument(f"window is {window}; it must be a number of keys, or None for no window")
    if scale == 0:
        raise InvalidArgument("scale is 0; leave it out for 1/sqrt(head_dim)")
    given = dict(zip(_READ, (dout, q, k, v, out, lse), strict=True))
    operands = {name: describe(array, name) for name, array in given.items()}
    first = operands["q"]
    same_home(operands)
    if first.device != HOST:
        raise Unsupported("attention_backward runs on the CPU, and the arrays are on a GPU; move them to the host")
    if first.dtype not in ATTENTION_DTYPES:
        raise InvalidArgument(f"q is {first.dtype}; attention_backward takes {', '.join(ATTENTION_DTYPES)}")
    if gradients is None:
        shapes = first.shape, operands["k"].shape, operands["k"].shape
        dq, dk, dv = (first.library.empty(first, shape, first.dtype) for shape in shapes)
    else:
        dq, dk, dv = gradients
    results = dict(zip(_WRITTEN, (dq, dk, dv), strict=True))
    operands |= {name: describe(array, name) for name, array in results.items()}
    same_home(operands)
    masks = (bool(causal), -1 if window is None else window, scale or 0.0)
    if variant == "numba":
        _numba({name: host_view(operand) for name, operand in operands.items()}, masks, threads or 0)
    else:
        arrays = (operands[name].array for name in (*_READ, *_WRITTEN))
        cpu().attention.backward(*arrays, *masks, threads or 0, variant or "")  # C++ reads PYHPC_VARIANT
    return dq, dk, dv


def _numba(arrays: Arrays, masks: tuple[bool, int, float], threads: int) -> None:
    from pyhpc.kernels.numba_attention_backward import differentiate_cpu

    q, k = arrays["q"], arrays["k"]
    if q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise InvalidArgument(f"q {q.shape} and k {k.shape} must be (batch, heads, length, head_dim) and fit together")
    if q.shape[1] % max(1, k.shape[1]):
        raise InvalidArgument(f"q has {q.shape[1]} heads, k {k.shape[1]}; q's number must be a multiple of k's")
    expected = {name: k.shape if name in ("k", "v", "dk", "dv") else q.shape for name in arrays} | {"lse": q.shape[:3]}
    for name, array in arrays.items():
        if array.shape != expected[name] or array.dtype != (np.float32 if name == "lse" else q.dtype):
            raise InvalidArgument(
                f"{name} is {array.dtype} {array.shape}; with this q and k it must be "
                f"{'float32' if name == 'lse' else q.dtype} {expected[name]}"
            )
    causal, window, scale = masks
    lengths = q.shape[2], k.shape[2]
    differentiate_cpu(
        arrays,
        (arrays["dq"], arrays["dk"], arrays["dv"]),
        scale or 1 / np.sqrt(q.shape[3]),
        lambda queries: visible_keys(queries, lengths, causal, None if window < 0 else window),
        threads,
    )


def _run_cpu(problem: AttentionBackwardProblem, arrays: Arrays, out: np.ndarray, threads: int, name: str) -> None:
    masks = problem.causal, -1 if problem.window is None else problem.window, 0.0
    read = (arrays[key] for key in _READ)
    cpu().attention.backward(*read, *problem.gradients(out), *masks, threads, name)


def _run_numba(problem: AttentionBackwardProblem, arrays: Arrays, out: np.ndarray, threads: int) -> None:
    from pyhpc.kernels.numba_attention_backward import differentiate_cpu

    differentiate_cpu(arrays, problem.gradients(out), problem.head_dim**-0.5, problem.visible, threads)


@functools.cache
def variants() -> tuple[Variant, ...]:
    """Best first."""
    return (
        *native_variants("attention", _run_cpu),
        Variant("numba", "cpu", lambda problem: None, _run_numba),
    )


def _reject_torch(problem: AttentionBackwardProblem) -> str | None:
    if problem.causal and problem.kv_len < problem.q_len:
        return "PyTorch gives NaN to queries that see no key"
    return torch_absence()


def _prepare_torch(problem: AttentionBackwardProblem, arrays: Arrays) -> dict[str, Any]:
    """The graph of a forward run: its own output and log-sum-exp stand for the given ones."""
    import torch

    q, k, v = (tensor(arrays[name]).clone().requires_grad_() for name in "qkv")
    mask, plain_causal = None, problem.causal and problem.window is None and problem.q_len == problem.kv_len
    if not plain_causal and (problem.causal or problem.window is not None):
        first, stop = problem.visible(np.arange(problem.q_len))
        keys = np.arange(problem.kv_len)
        mask = torch.from_numpy((keys >= first[:, None]) & (keys < stop[:, None]))
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=plain_causal, enable_gqa=problem.heads != problem.kv_heads
    )
    return {"operands": (q, k, v), "out": out, "dout": tensor(arrays["dout"])}


def _run_torch(problem: AttentionBackwardProblem, arrays: dict[str, Any], out: np.ndarray, threads: int) -> None:
    import torch

    use_threads(threads)
    found = torch.autograd.grad(arrays["out"], arrays["operands"], arrays["dout"], retain_graph=True)
    for gradient, result in zip(found, problem.gradients(out), strict=True):
        tensor(result).copy_(gradient)  # it has no out=


def peers() -> tuple[Variant, ...]:
    """PyTorch's automatic differentiation of scaled_dot_product_attention."""
    return (Variant("torch", "cpu", _reject_torch, _run_torch, prepare=_prepare_torch),)


KERNEL = Kernel(
    name="attention_backward",
    summary="dQ, dK, dV of Σ dO ∘ softmax(Q Kᵀ / √d) V",
    problem_type=AttentionBackwardProblem,
    variants=variants,
    peers=peers,
    examples=(
        AttentionBackwardProblem(1, 1, 1, 1, 1, 16, "float32"),
        AttentionBackwardProblem(2, 3, 3, 33, 65, 64, "float32"),
        AttentionBackwardProblem(1, 4, 2, 70, 70, 32, "float32", causal=True),
        AttentionBackwardProblem(1, 2, 1, 129, 257, 80, "float32", causal=True, window=40),
        AttentionBackwardProblem(1, 1, 1, 20, 7, 17, "float32", causal=True),  # thirteen queries see no key
        AttentionBackwardProblem(1, 2, 2, 3, 900, 128, "float32"),  # several spans of keys
        AttentionBackwardProblem(1, 1, 1, 100, 300, 64, "float32", window=33, pattern="integers"),
        AttentionBackwardProblem(1, 2, 2, 50, 129, 256, "bfloat16"),
        AttentionBackwardProblem(1, 6, 2, 65, 129, 48, "bfloat16", causal=True, window=0),
        AttentionBackwardProblem(1, 1, 1, 64, 128, 128, "float32", pattern="ill-scaled"),
        AttentionBackwardProblem(2, 2, 1, 31, 97, 64, "float16", causal=True, pattern="uniform"),
    ),
)
