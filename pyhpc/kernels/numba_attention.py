"""attention in Numba: readable, portable, and independent of the C++ code, for a second opinion.

For each query: all its scores, their maximum, the weights, the weighted sum of values; in float64, two passes, no
online softmax.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pyhpc.kernels.numba_tools import numba_cuda, numba_cuda_array, numba_threads, widened

Visible = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

cuda: Any = None  # the module numba.cuda once a CUDA kernel is made: Numba looks for it among the globals


@functools.cache
def _cpu_kernel() -> Callable[..., None]:
    import numba

    # Sums may be reordered, so that a dot product is vectorised; NaN and infinity keep their meaning.
    @numba.njit(parallel=True, fastmath={"reassoc", "contract"})
    def attend(
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        out: np.ndarray,
        lse: np.ndarray,
        first: np.ndarray,
        stop: np.ndarray,
        scale: float,
    ) -> None:
        q_len, depth = q.shape
        for i in numba.prange(q_len):
            scores = np.empty(stop[i] - first[i])
            highest = -np.inf
            for j in range(first[i], stop[i]):
                score = 0.0
                for c in range(depth):
                    score += np.float64(q[i, c]) * k[j, c]
                scores[j - first[i]] = scale * score
                # Written so that NaN is kept as the maximum.
                highest = highest if highest >= scores[j - first[i]] else scores[j - first[i]]
            sums = np.zeros(depth)
            total = 0.0
            for j in range(first[i], stop[i]):
                weight = np.exp(scores[j - first[i]] - highest)
                total += weight
                for c in range(depth):
                    sums[c] += weight * v[j, c]
            seen = stop[i] > first[i]
            for c in range(depth):
                out[i, c] = sums[c] / total if seen else 0.0
            lse[i] = highest + np.log(total) if seen else -np.inf

    function: Callable[..., None] = attend
    return function


def attend_cpu(
    operands: tuple[np.ndarray, np.ndarray, np.ndarray], out: np.ndarray, scale: float, visible: Visible, threads: int
) -> np.ndarray:
    """Write attention of (q, k, v), each (batch, heads, length, d), into `out`; returns the log-sum-exp.

    `visible(queries)` gives the first visible key and one past the last of each query.
    """
    q, k, v = operands
    batch, heads, q_len, _ = q.shape
    lse = np.empty((batch, heads, q_len), np.float32)
    first, stop = visible(np.arange(q_len))
    with numba_threads(threads):
        for b, h in np.ndindex(batch, heads):
            group = h // (heads // k.shape[1])
            wide = np.empty(out.shape[2:], np.float32)
            _cpu_kernel()(
                widened(q[b, h]), widened(k[b, group]), widened(v[b, group]), wide, lse[b, h], first, stop, scale
            )
            out[b, h] = wide
    return lse


@functools.cache
def _cuda_kernel() -> Any:
    global cuda
    cuda = numba_cuda()

    @cuda.jit  # type: ignore[untyped-decorator]
    def attend(q: Any, k: Any, v: Any, out: Any, first: Any, stop: Any, scale: float) -> None:
        # One thread an element of the output; the maximum first, then weights and sum together.
        b, h = cuda.blockIdx.z // q.shape[1], cuda.blockIdx.z % q.shape[1]
        i, c = cuda.blockIdx.x, cuda.threadIdx.x
        group = h // (q.shape[1] // k.shape[1])
        highest = -math.inf
        for j in range(first[i], stop[i]):
            score = 0.0
            for x in range(q.shape[3]):
                score += float(q[b, h, i, x]) * float(k[b, group, j, x])
            highest = max(highest, scale * score)
        total, weighted = 0.0, 0.0
        for j in range(first[i], stop[i]):
            score = 0.0
            for x in range(q.shape[3]):
                score += float(q[b, h, i, x]) * float(k[b, group, j, x])
            weight = math.exp(scale * score - highest)
            total += weight
            weighted += weight * float(v[b, group, j, c])
        out[b, h, i, c] = weighted / total if stop[i] > first[i] else 0.0

    return attend


def attend_cuda(operands: tuple[Any, Any, Any], out: Any, scale: float, visible: Visible) -> None:
    """As `attend_cpu` for float32 and float16 arrays on the GPU, without the log-sum-exp."""
    q, k, v, out = (numba_cuda_array(x) for x in (*operands, out))
    batch, heads, q_len, depth = q.shape
    kernel = _cuda_kernel()
    first, stop = (cuda.to_device(bound) for bound in visible(np.arange(q_len)))
    kernel[(q_len, 1, batch * heads), depth](q, k, v, out, first, stop, scale)
