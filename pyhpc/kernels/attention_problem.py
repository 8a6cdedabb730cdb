"""One attention to run: its work model, its operands and the proof of its result.

Error bound. All arithmetic is float32 (u = 2^-24) with an exponential of relative error e = 2^-22; the operands are
exact. With s_j the scores of one query, P_j its weights, and n blocks of B keys of L visible ones (16-bit types may
round the weights to their own type, u_P, before the second product, as tensor cores need it), a weight is computed
with a relative error of at most exp(r) - 1,

    r = (d + 3) u scale |q|₂ max_j |k_j|₂    a dot product of d terms (Higham 2002, §3.5; Cauchy–Schwarz), and the scale
      + u (max s - min s)                    rounding of the exponents; over the rescales it telescopes
      + (n + 1)(e + u) + (B + 2n) u          exponentials and rescales; sums inside a block, then over the blocks
      + u_P

and since the output is a quotient of two sums with these weights (online softmax: Milakov and Gimelshein 2018; Rabe and
Staats 2021; Dao et al. 2022), with θ = exp(r) - 1

    |Ô - O| ≤ θ / (1 - θ) · (Σ_j P_j |v_j| + |O|) + 3u |O| + u_out |O| + weights below 2^-126, taken as 0.

Instructions that multiply pairs of bfloat16 take subnormal operands and results for zero: r grows by
d scale 2^-126 (max |q| + max |k| + 2), the bound by 3 L 2^-126.

A float16 weight below 2^-14 is subnormal and rounded by up to 2^-25 instead: L of them add 2^-24 L max |v| / Σ P to the
bound, numerator and denominator together.

Any block from 32 to 512 keys is allowed for: the terms in n and B are convex in B, so the ends give the largest. The
float64 reference has the same bound with 2^-53 for u, 2^-29 of it. With the pattern "integers" all scores are 0,
every weight is exactly 1 and all sums are exact, so only the division and the output's rounding remain, 3u |O| +
u_out |O|: one key too many or too few is seen however long the sequence.

Work: 2 d operations for each visible (query, key) pair in each of the two products; the softmax itself is not counted
(the convention of FlashAttention, Dao et al. 2022). Each operand is moved once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ml_dtypes import finfo

from pyhpc.kernels.data import (
    DTYPES,
    UNIT_ROUNDOFF,
    gamma,
    generator,
    operand,
    poisoned,
    require_choice,
    require_sizes,
)
from pyhpc.kernels.kernel import Arrays, Check, Problem
from pyhpc.kernels.verification import Tally, refuse_shape

ATTENTION_DTYPES = ("float32", "bfloat16", "float16")
SMALLEST_HEAD, LARGEST_HEAD = 16, 256
PATTERNS = ("normal", "uniform", "zeros", "integers", "ill-scaled")

_EXP_ERROR = 2.0**-22
_KEY_BLOCKS = (32, 512)
_AFFORDABLE_SCORES = 2**26  # of the reference: under two seconds of float64 exponentials
_PANEL_SCORES = 2**22  # of one float64 panel: 32 MiB


def visible_keys(
    queries: np.ndarray, lengths: tuple[int, int], causal: bool, window: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """First visible key and one past the last of each query; lengths = (q_len, kv_len).

    Query i stands at place i + kv_len - q_len among the keys: the causal diagonal ends at the last query and key.
    """
    q_len, kv_len = lengths
    place = queries + (kv_len - q_len)
    stop = np.clip(place + 1, 0, kv_len) if causal else np.full_like(queries, kv_len)
    first = np.zeros_like(queries) if window is None else np.clip(place - window, 0, kv_len)
    return first, np.maximum(stop, first)


@dataclass(frozen=True)
class AttentionProblem(Problem):
    """O = softmax(Q Kᵀ / √d) V, Q and O (batch, heads, q_len, head_dim), K and V (batch, kv_heads, kv_len, head_dim).

    Raises:
        ValueError: a size below 1, heads that are no multiple of kv_heads, a head dimension outside 16 … 256, an
            unknown dtype or pattern.
    """

    kernel: ClassVar[str] = "attention"
    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    dtype: str
    causal: bool = False
    window: int | None = None
    pattern: str = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        require_sizes({name: getattr(self, name) for name in ("batch", "heads", "kv_heads", "q_len", "kv_len")})
        require_sizes({"head_dim": self.head_dim}, lowest=SMALLEST_HEAD)
        require_sizes(
            {"seed": self.seed} if self.window is None else {"seed": self.seed, "window": self.window}, lowest=0
        )
        if self.head_dim > LARGEST_HEAD:
            raise ValueError(f"head_dim is {self.head_dim}; it must be at most {LARGEST_HEAD}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads is {self.heads}, which is no multiple of kv_heads, {self.kv_heads}")
        require_choice("dtype", self.dtype, ATTENTION_DTYPES)
        require_choice("pattern", self.pattern, PATTERNS)

    @property
    def label(self) -> str:
        """ "bfloat16 1x32/8x4096x4096x128 causal": batch x heads/kv_heads x q_len x kv_len x head_dim."""
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        parts = [self.dtype, f"{self.batch}x{heads}x{self.q_len}x{self.kv_len}x{self.head_dim}"]
        if self.causal:
            parts.append("causal")
        if self.window is not None:
            parts.append(f"window {self.window}")
        if self.pattern != "normal":
            parts.append(self.pattern)
        if self.seed:
            parts.append(f"seed {self.seed}")
        return " ".join(parts)

    def visible(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First visible key and one past the last of each query."""
        return visible_keys(queries, (self.q_len, self.kv_len), self.causal, self.window)

    @property
    def pairs(self) -> int:
        """Visible (query, key) pairs of one head, counted exactly."""
        first, stop = self.visible(np.arange(self.q_len))
        return int((stop - first).sum())

    @property
    def flops(self) -> int:
        """4 d for each visible pair of each head."""
        return 4 * self.batch * self.heads * self.pairs * self.head_dim

    @property
    def bytes(self) -> int:
        """Q, K and V read once, O written once."""
        rows = 2 * self.heads * self.q_len + 2 * self.kv_heads * self.kv_len
        return self.batch * rows * self.head_dim * DTYPES[self.dtype].itemsize

    @property
    def ceiling(self) -> str:
        """The peak of the operand type."""
        return self.dtype

    def inputs(self) -> Arrays:
        """ "q" (batch, heads, q_len, d), "k" and "v" (batch, kv_heads, kv_len, d).

        "integers" has q = 0; "ill-scaled" has sharp weights (scores of deviation 4) and values of any magnitude.
        """

        def draw(name: str, heads: int, length: int, pattern: str) -> np.ndarray:
            return operand((self.batch, heads, length, self.head_dim), self.dtype, pattern, self.seed, name)

        scores = "normal" if self.pattern in ("integers", "ill-scaled") else self.pattern
        q = draw("q", self.heads, self.q_len, "zeros" if self.pattern == "integers" else scores)
        if self.pattern == "ill-scaled":
            q = (q * DTYPES[self.dtype].type(4)).astype(q.dtype, copy=False)
        return {
            "q": q,
            "k": draw("k", self.kv_heads, self.kv_len, scores),
            "v": draw("v", self.kv_heads, self.kv_len, self.pattern),
        }

    def output(self) -> np.ndarray:
        """(batch, heads, q_len, head_dim) in the operands' type."""
        return poisoned((self.batch, self.heads, self.q_len, self.head_dim), self.dtype)

    def verify(self, result: np.ndarray, inputs: Arrays) -> Check:
        """Compare with float64, every row where that is affordable (2^26 scores).

        Beyond, each head's first and last row and a random sample are compared, and every element must lie in the
        range of the values of its column: an output is a convex combination of them, whatever the weights.
        """
        refused = refuse_shape(result, (self.batch, self.heads, self.q_len, self.head_dim))
        if refused is not None:
            return refused
        tally = Tally()
        every = self.batch * self.heads * self.q_len * self.kv_len <= _AFFORDABLE_SCORES
        for b, h in np.ndindex(self.batch, self.heads):
            group = h // (self.heads // self.kv_heads)
            q, k, v, out = inputs["q"][b, h], inputs["k"][b, group], inputs["v"][b, group], result[b, h]
            k, v = k.astype(np.float64), v.astype(np.float64)
            rows = np.arange(self.q_len) if every else self._sample(b * self.heads + h)
            step = max(1, _PANEL_SCORES // self.kv_len)
            for panel in (rows[start : start + step] for start in range(0, len(rows), step)):
                reference, tolerance = self._reference(q[panel].astype(np.float64), k, v, panel, str(out.dtype))
                found = out[panel].astype(np.float64)
                tally.compare(found, reference, tolerance, f"out[{b}, {h}]", (int(panel[0]), 0))
            if not every:
                self._compare_range(tally, out, v, f"out[{b}, {h}] against the range of v,")
        if every:
            return tally.check("every element against float64")
        return tally.check("row sample against float64, every element against the range of its values")

    def _sample(self, head: int) -> np.ndarray:
        """The rows of one head that are compared where not all are."""
        count = min(self.q_len, max(1, _AFFORDABLE_SCORES // (self.batch * self.heads * self.kv_len)))
        drawn = generator(self.seed, f"rows {head}").choice(self.q_len, count, replace=False)
        return np.unique(np.concatenate([drawn, [0, self.q_len - 1]]))

    def _reference(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, rows: np.ndarray, result_dtype: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Output rows and their tolerances (head comment)."""
        first, stop = self.visible(rows)
        keys = np.arange(self.kv_len)
        seen = (keys >= first[:, None]) & (keys < stop[:, None])
        scale = 1.0 / np.sqrt(self.head_dim)
        scores = (q @ k.T) * scale
        highest = np.max(scores, axis=1, where=seen, initial=-np.inf)
        lowest = np.min(scores, axis=1, where=seen, initial=np.inf)
        blind = stop == first
        highest[blind] = lowest[blind] = 0.0
        weights = np.exp(scores - highest[:, None], out=np.zeros_like(scores), where=seen)
        total = weights.sum(axis=1, keepdims=True)
        total[blind] = 1.0
        reference, magnitude = weights @ v / total, weights @ np.abs(v) / total
        u = UNIT_ROUNDOFF["float32"]
        tolerance = (3 * u + _rounding(result_dtype)) * np.abs(reference)
        if self.pattern in ("integers", "zeros"):  # all scores 0, all sums exact
            return reference, tolerance
        norms = np.linalg.norm(q, axis=1) * np.linalg.norm(k, axis=1).max()
        exponent = (self.head_dim + 3) * u * scale * norms + u * (highest - lowest) + self._block_error(stop - first)
        tiny = float(np.finfo(np.float32).tiny)
        if self.dtype == "bfloat16":
            exponent += self.head_dim * scale * tiny * (np.abs(q).max() + np.abs(k).max() + 2)
        theta = np.expm1(exponent * (1 + 2.0**-28))[:, None]
        share = np.divide(theta, 1 - theta, out=np.full_like(theta, np.inf), where=theta < 1)
        vanished = self.kv_len * tiny * np.abs(v).max()
        if self.dtype == "bfloat16":
            vanished += 3 * self.kv_len * tiny
        if self.dtype == "float16":
            vanished = vanished + 2.0**-24 * (stop - first)[:, None] / total * np.abs(v).max()
        smallest: Any = finfo(DTYPES[result_dtype]).tiny  # type: ignore[no-untyped-call]
        vanished += _rounding(result_dtype) * float(smallest)  # rounding below the normal numbers
        return reference, share * (magnitude + np.abs(reference)) + tolerance + vanished * ~blind[:, None]

    def _block_error(self, length: np.ndarray) -> np.ndarray:
        """The terms of r that depend on how L keys are cut into blocks, at the worse end of the range."""
        u = UNIT_ROUNDOFF["float32"]

        def error(block: int) -> np.ndarray:
            blocks = -(-length // block)
            terms: np.ndarray = (blocks + 1) * (_EXP_ERROR + u) + (np.minimum(block, length) + 2 * blocks) * u
            return terms

        worse: np.ndarray = np.maximum(*(error(block) for block in _KEY_BLOCKS))
        return worse + _rounding(self.dtype)

    def _compare_range(self, tally: Tally, out: np.ndarray, v: np.ndarray, where: str) -> None:
        """Every element lies between the least and the greatest value of its column, but for roundings."""
        low, high = v.min(axis=0), v.max(axis=0)
        if self.causal and self.kv_len < self.q_len:  # the queries that see no key give 0
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        slack = 2 * gamma(2 * self.kv_len, UNIT_ROUNDOFF["float32"]) + 2 * _rounding(self.dtype)
        slack += 2.0**-24 * self.kv_len if self.dtype == "float16" else 0.0
        middle, tolerance = (high + low) / 2, (high - low) / 2 + slack * np.abs(v).max(axis=0)
        for start in range(0, len(out), _PANEL_SCORES // self.head_dim):
            found = out[start : start + _PANEL_SCORES // self.head_dim].astype(np.float64)
            shape = found.shape
            tally.compare(found, np.broadcast_to(middle, shape), np.broadcast_to(tolerance, shape), where, (start, 0))


def _rounding(dtype: str) -> float:
    """Relative error of rounding a float32 to `dtype`."""
    return 0.0 if dtype == "float32" else UNIT_ROUNDOFF[dtype]
