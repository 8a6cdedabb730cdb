"""attention backward in Numba: readable, portable, and independent of the C++ code, for a second opinion.

Two loops over the pairs in float64, each computing the weights again: one over queries for dq, one over keys for dk and
dv, so that every result has one owner.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pyhpc.kernels.numba_attention import Visible
from pyhpc.kernels.numba_tools import numba_threads, widened

Operands = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # dout, q, k, v, lse, delta
Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]  # dq, dk, dv


@functools.cache
def _kernel() -> Callable[..., None]:
    import numba

    jit: Any = numba.njit  # its stubs know no function of several arguments

    @jit(fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
    def dot(x: np.ndarray, i: int, y: np.ndarray, j: int) -> float:
        total = 0.0
        for c in range(x.shape[1]):
            total += np.float64(x[i, c]) * y[j, c]
        return total

    @jit  # type: ignore[untyped-decorator]
    def pair(i: int, j: int, head: Operands, scale: float) -> tuple[float, float]:
        dout, q, k, v, lse, delta = head
        weight = np.exp(scale * dot(q, i, k, j) - lse[i])
        return weight, weight * (dot(dout, i, v, j) - delta[i])

    # The loops add to what is there; results are float64.
    @jit(parallel=True)  # type: ignore[untyped-decorator]
    def differentiate(head: Operands, gradients: Gradients, first: np.ndarray, stop: np.ndarray, scale: float) -> None:
        dout, q, k, _, _, _ = head
        dq, dk, dv = gradients
        for i in numba.prange(q.shape[0]):
            for j in range(first[i], stop[i]):
                _, slope = pair(i, j, head, scale)
                for c in range(q.shape[1]):
                    dq[i, c] += scale * slope * k[j, c]
        for j in numba.prange(k.shape[0]):
            for i in range(q.shape[0]):
                if first[i] <= j and j < stop[i]:
                    weight, slope = pair(i, j, head, scale)
                    for c in range(q.shape[1]):
                        dk[j, c] += scale * slope * q[i, c]
                        dv[j, c] += weight * dout[i, c]

    function: Callable[..., None] = differentiate
    return function


def differentiate_cpu(
    operands: dict[str, np.ndarray],
    gradients: Gradients,
    scale: float,
    visible: Visible,
    threads: int,
) -> None:
    """Write dq, dk and dv of the operands dout, q, k, v, out (batch, heads, length, d) and lse (batch, heads, length).

    `visible(queries)` gives the first visible key and one past the last of each query.
    """
    dq, dk, dv = gradients
    batch, heads, q_len, _ = dq.shape
    kv_heads, kv_len = dk.shape[1:3]
    first, stop = visible(np.arange(q_len))
    with numba_threads(threads):
        for b, g in np.ndindex(batch, kv_heads):
            key_sums = np.zeros((2, kv_len, dk.shape[3]))
            for h in range(g * (heads // kv_heads), (g + 1) * (heads // kv_heads)):
                dout, q, out = (widened(operands[name][b, h]) for name in ("dout", "q", "out"))
                k, v = (widened(operands[name][b, g]) for name in "kv")
                delta = (dout.astype(np.float64) * out).sum(axis=1)
                head = dout, q, k, v, np.ascontiguousarray(operands["lse"][b, h]), delta
                query_sums = np.zeros(q.shape)
                _kernel()(head, (query_sums, *key_sums), first, stop, scale)
                dq[b, h] = query_sums
            dk[b, g], dv[b, g] = key_sums
