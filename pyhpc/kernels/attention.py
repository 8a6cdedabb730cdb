"""attention: softmax(scale Q Kᵀ) V for every head, forward, without the matrix of scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.arrays import HOST, Operand, describe, host_view, same_home
from pyhpc.kernels.attention_problem import ATTENTION_DTYPES, AttentionProblem, visible_keys
from pyhpc.kernels.attention_variants import peers, variants
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.kernel import Kernel
from pyhpc.native import cpu, cuda


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    out: Any = None,
    return_lse: bool = False,
    threads: int | None = None,
    variant: str | None = None,
) -> Any:
    """Scaled dot-product attention (Vaswani et al. 2017), forward.

        out[b, h, i, :] = Σ_j P[i, j] v[b, g, j, :],   P[i, :] = softmax over the visible j of scale · q[b, h, i, :]
        · k[b, g, j, :]

    with g = h // (heads / kv_heads): grouped-query attention where k and v have fewer heads (Ainslie et al. 2023).
    Computed by online softmax (Dao et al. 2022), so memory grows with the lengths, not with their product.

    Takes the same kinds of arrays as `pyhpc.matmul`, of any strides, copies nothing, releases the Python lock, and
    works on the caller's current stream.

    Args:
        q: (batch, heads, q_len, head_dim) float32, bfloat16 or float16; head_dim 16 … 256.
        k: (batch, kv_heads, kv_len, head_dim), heads a multiple of kv_heads.
        v: as k.
        causal: query i sees key j only if j ≤ i + kv_len - q_len: the last query sees all keys.
        window: query i sees key j only if i + kv_len - q_len - j ≤ window: itself and `window` keys before it.
        scale: of the scores; by default 1/√head_dim. Finite, and not 0.
        out: (batch, heads, q_len, head_dim), where the result is written, of q's library and dtype.
        return_lse: also return log Σ_j exp(score) of each query.
        threads: of the CPU; by default all that this process may use.
        variant: "numba", or a native one ("avx512", "avx2", "neon", "generic" …); by default the one that
            the environment's PYHPC_VARIANT names, or the best that runs here.

    Returns:
        `out` or a new array of q's library and dtype; with `return_lse`, the pair (out, lse), lse (batch, heads,
        q_len) float32. A query that sees no key gives 0, and lse -inf. Sums are float32; the error bound is derived in
        pyhpc/kernels/attention_problem.py.

    Raises:
        InvalidArgument: a shape, dtype, library or device that does not fit, an `out` that is read-only or overlaps
            an input.
        Unsupported: the variant or the GPU is absent; the sentence says why.
    """
    if window is not None and window < 0:
        raise InvalidArgument(f"window is {window}; it must be a number of keys, or None for no window")
    if scale == 0:
        raise InvalidArgument("scale is 0; leave it out for 1/sqrt(head_dim)")
    masks = (bool(causal), -1 if window is None else window, scale or 0.0)
    name = variant or ""  # C++ reads PYHPC_VARIANT
    lse: Any = None
    if (
        type(q) is type(k) is type(v) is np.ndarray
        and (out is None or type(out) is np.ndarray)
        and not name.startswith("numba")
        and q.dtype in _DTYPES
    ):
        # The common case, short: what is left is the C++ function and the results' allocation.
        out = np.empty(q.shape, q.dtype) if out is None else out
        lse = np.empty(q.shape[:3], np.float32) if return_lse else None
        cpu().attention.run(q, k, v, out, lse, *masks, threads or 0, name)
    else:
        operands = {"q": describe(q, "q"), "k": describe(k, "k"), "v": describe(v, "v")}
        out, lse = _attention(operands, out, return_lse, masks, threads, name)
    return (out, lse) if return_lse else out


_DTYPES = frozenset(DTYPES[name] for name in ATTENTION_DTYPES)


def _attention(
    operands: dict[str, Operand],
    out: Any,
    return_lse: bool,
    masks: tuple[bool, int, float],
    threads: int | None,
    name: str,
) -> tuple[Any, Any]:
    """Operands of any library: results are of the same one."""
    if out is not None:
        operands["out"] = describe(out, "out")
    first = same_home(operands)
    if first.dtype not in ATTENTION_DTYPES:
        raise InvalidArgument(f"q is {first.dtype}; attention takes {', '.join(ATTENTION_DTYPES)}")
    if out is None:
        out = first.library.empty(first, first.shape, first.dtype)
        operands["out"] = describe(out, "out")
    lse = first.library.empty(first, first.shape[:3], "float32") if return_lse else None
    _dispatch(operands, None if lse is None else describe(lse, "lse"), masks, threads, name)
    return out, lse


def _dispatch(
    operands: dict[str, Operand], lse: Operand | None, masks: tuple[bool, int, float], threads: int | None, name: str
) -> None:
    """Run on the device that the operands are on; masks = (causal, window or -1, scale or 0)."""
    q = operands["q"]
    arrays = [operands[key].array for key in ("q", "k", "v", "out")] + [None if lse is None else lse.array]
    if q.device != HOST:
        if threads is not None:
            raise InvalidArgument("threads is for arrays on the CPU; leave it out for arrays on a GPU")
        cuda().attention.run(*arrays, *masks, q.library.stream(q), name)
    elif name == "numba":
        views = {key: host_view(operand) for key, operand in operands.items()}
        _numba(views, None if lse is None else host_view(lse), masks, threads or 0)
    else:
        cpu().attention.run(*arrays, *masks, threads or 0, name)


def _numba(arrays: dict[str, np.ndarray], lse: np.ndarray | None, masks: tuple[bool, int, float], threads: int) -> None:
    from pyhpc.kernels.numba_attention import attend_cpu

    q, k, v, out = (arrays[name] for name in ("q", "k", "v", "out"))
    if {x.ndim for x in (q, k, v)} != {4} or len({x.dtype for x in (q, k, v, out)}) > 1:
        raise InvalidArgument("q, k, v and out must be (batch, heads, length, head_dim) of one dtype")
    if q.shape != out.shape or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise InvalidArgument(f"q {q.shape}, k {k.shape}, v {v.shape} and out {out.shape} do not fit together")
    if q.shape[1] % max(1, k.shape[1]):
        raise InvalidArgument(
            f"q has {q.shape[1]} heads, k and v {k.shape[1]}; q's number must be a multiple of theirs"
        )
    causal, window, scale = masks
    result = np.empty_like(out)
    sums = attend_cpu(
        (q, k, v),
        result,
        scale or 1 / np.sqrt(q.shape[3]),
        lambda queries: visible_keys(queries, (q.shape[2], k.shape[2]), causal, None if window < 0 else window),
        threads,
    )
    np.copyto(out, result)
    if lse is not None:
        np.copyto(lse, sums)


KERNEL = Kernel(
    name="attention",
    summary="O = softmax(Q Kᵀ / √d) V",
    problem_type=AttentionProblem,
    variants=variants,
    peers=peers,
    examples=(
        AttentionProblem(1, 1, 1, 1, 1, 16, "float32"),
        AttentionProblem(2, 3, 3, 33, 65, 64, "float32"),
        AttentionProblem(1, 4, 2, 70, 70, 32, "float32", causal=True),
        AttentionProblem(1, 2, 1, 130, 257, 80, "float32", causal=True, window=40),
        AttentionProblem(1, 1, 1, 20, 7, 16, "float32", causal=True),  # thirteen queries see no key
        AttentionProblem(1, 2, 2, 1, 300, 128, "float32"),  # decoding
        AttentionProblem(1, 2, 1, 129, 513, 24, "float32", causal=True, pattern="integers"),
        AttentionProblem(1, 1, 1, 100, 300, 64, "float32", window=33, pattern="integers"),
        AttentionProblem(1, 2, 2, 50, 129, 256, "bfloat16"),
        AttentionProblem(1, 6, 2, 65, 129, 48, "bfloat16", causal=True, window=0),
        AttentionProblem(1, 1, 1, 64, 128, 128, "bfloat16", pattern="ill-scaled"),
        AttentionProblem(2, 2, 1, 31, 97, 64, "float16", causal=True, pattern="uniform"),
        AttentionProblem(1, 1, 1, 40, 200, 96, "float16", pattern="integers", seed=3),
    ),
)
