"""One backward attention to run: its work model, its operands and the proof of its result.

What is computed is a function of six operands, all taken as exact: with p_ij = exp(scale q_i·k_j - lse_i) of the
visible pairs, g_ij = dout_i·v_j and δ_i = dout_i·out_i (Dao 2023, "FlashAttention-2", algorithm 2),

    dv_j = Σ_i p_ij dout_i      s_ij = p_ij (g_ij - δ_i)      dq_i = scale Σ_j s_ij k_j      dk_j = scale Σ_i s_ij q_i

Error bound. All arithmetic is float32 (u = 2^-24) with an exponential of relative error e = 2^-22; 16-bit types may
round p, s and δ's out to their own type (u_P), as tensor cores need it. For one pair, with θ = exp(a)(1 + u_P) - 1,

    a = (d + 3) u scale Σ_c |q_c k_c| + u |lse| + u |scale q·k - lse| + e          the exponent
    |p̂ - p| ≤ θ p + 2^-126
    |ŝ - s| ≤ p (((1+θ)(1+u)²(1+u_P) - 1) t + (1+θ)(1+u)²(1+u_P) b) + 2^-126 t,   t = |g - δ|
    b = (d + 2) u Σ_c |dout_c v_c| + ((d + 2) u + u_P) Σ_c |dout_c out_c|          dot products of d terms

and a sum of n such terms, by blocks of B terms whose sums are added in turn, adds γ(B + n/B + 64) of its magnitude;
blocks from 8 to 512 and 64 partial results are allowed for. Higham 2002, §3.1 and §4.2. At last the factor `scale` and
the rounding to the result's type: (3u + u_out) of the result. float16 loses up to 2^-24 of each p and s below 2^-14.

Work: 10 d operations for each visible pair, five products; those that are computed again are not counted (the
convention of Dao 2023). Each operand is moved once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from pyhpc.kernels.attention_problem import AttentionProblem
from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF, gamma, generator, operand, poisoned
from pyhpc.kernels.kernel import Arrays, Check
from pyhpc.kernels.verification import Tally, refuse_shape

_EXP_ERROR = 2.0**-22
_BLOCKS, _PARTIAL_RESULTS = (8, 512), 64
_AFFORDABLE_PAIRS = 2**26  # of the reference: some ten seconds
_PANEL_PAIRS = 2**21  # of one float64 panel: 16 MiB
_TINY = 2.0**-126


class _Pairs(NamedTuple):
    """p and s of some queries and keys, with the bounds of their errors."""

    p: np.ndarray
    s: np.ndarray
    p_error: np.ndarray
    s_error: np.ndarray


@dataclass(frozen=True)
class AttentionBackwardProblem(AttentionProblem):
    """The gradients of Σ dout ∘ attention(q, k, v); sizes, masks and patterns as `AttentionProblem`.

    The result is one array: dq, dk and dv, each in C order, one after the other (`gradients` gives the three).
    """

    kernel: ClassVar[str] = "attention_backward"

    @property
    def flops(self) -> int:
        """10 d for each visible pair of each head."""
        return super().flops // 4 * 10

    @property
    def bytes(self) -> int:
        """q, out, dout, k, v read and dq, dk, dv written once; lse is float32."""
        rows = self.head_dim * DTYPES[self.dtype].itemsize * self.batch
        return rows * 4 * (self.heads * self.q_len + self.kv_heads * self.kv_len) + 4 * self.batch * self.heads * (
            self.q_len
        )

    def inputs(self) -> Arrays:
        """ "q", "k", "v" as the forward problem's, "dout", and the "out" and "lse" of a float64 forward run."""
        arrays = super().inputs()
        shape = (self.batch, self.heads, self.q_len, self.head_dim)
        pattern = "normal" if self.pattern == "ill-scaled" else self.pattern
        out, lse = np.zeros(shape, DTYPES[self.dtype]), np.full(shape[:3], -np.inf, np.float32)
        for b, h in np.ndindex(*shape[:2]):
            group = h // (self.heads // self.kv_heads)
            k, v = (arrays[name][b, group].astype(np.float64) for name in "kv")
            for rows in _panels(np.arange(self.q_len), self.kv_len):
                seen = self._seen(rows)
                scores = np.where(
                    seen, arrays["q"][b, h, rows].astype(np.float64) @ k.T / np.sqrt(self.head_dim), -np.inf
                )
                highest = np.maximum(scores.max(axis=1, keepdims=True), np.finfo(np.float64).min)
                weights = np.exp(scores - highest)
                total = weights.sum(axis=1, keepdims=True)
                sees = seen.any(axis=1)
                out[b, h, rows[sees]] = (weights @ v)[sees] / total[sees]
                lse[b, h, rows[sees]] = (highest[sees] + np.log(total[sees]))[:, 0]
        return arrays | {"dout": operand(shape, self.dtype, pattern, self.seed, "dout"), "out": out, "lse": lse}

    def output(self) -> np.ndarray:
        """All elements of dq, dk and dv, in the operands' type."""
        queries, keys = self.heads * self.q_len, self.kv_heads * self.kv_len
        return poisoned((self.batch * (queries + 2 * keys) * self.head_dim,), self.dtype)

    def gradients(self, result: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The views dq, dk and dv of a result."""
        queries = (self.batch, self.heads, self.q_len, self.head_dim)
        keys = (self.batch, self.kv_heads, self.kv_len, self.head_dim)
        first, second = int(np.prod(queries)), int(np.prod(keys))
        return (
            result[:first].reshape(queries),
            result[first : first + second].reshape(keys),
            result[first + second :].reshape(keys),
        )

    def verify(self, result: np.ndarray, inputs: Arrays) -> Check:
        """Compare with float64, every row and key where that is affordable (2^26 pairs), else a sample of both.

        Then every other element must still be finite.
        """
        refused = refuse_shape(result, self.output().shape)
        if refused is not None:
            return refused
        tally = Tally()
        every = self.batch * self.heads * self.q_len * self.kv_len <= _AFFORDABLE_PAIRS
        dq, dk, dv = self.gradients(result)
        for b, h in np.ndindex(self.batch, self.heads):
            for rows in _panels(self._chosen(self.q_len, f"rows {b} {h}", every), self.kv_len):
                reference, tolerance = self._reference_queries(inputs, b, h, rows)
                tally.compare(dq[b, h, rows].astype(np.float64), reference, tolerance, f"dq[{b}, {h}]", (rows[0], 0))
        for b, g in np.ndindex(self.batch, self.kv_heads):
            for keys in _panels(self._chosen(self.kv_len, f"keys {b} {g}", every), self.q_len):
                for name, found, (reference, tolerance) in zip(
                    ("dk", "dv"), (dk, dv), self._reference_keys(inputs, b, g, keys), strict=True
                ):
                    where = f"{name}[{b}, {g}]"
                    tally.compare(found[b, g, keys].astype(np.float64), reference, tolerance, where, (keys[0], 0))
        if every:
            return tally.check("every element against float64")
        for name, found in (("dq", dq), ("dk", dk), ("dv", dv)):
            flat = found.reshape(-1)
            for start in range(0, flat.size, _PANEL_PAIRS):
                finite = np.isfinite(flat[start : start + _PANEL_PAIRS].astype(np.float32)).astype(np.float64)
                tally.compare(finite, np.ones_like(finite), np.zeros_like(finite), f"finiteness of {name}", (start,))
        return tally.check("a sample of rows and keys against float64, every element finite")

    def _chosen(self, length: int, purpose: str, every: bool) -> np.ndarray:
        """All rows or keys of a head, or the ones that are compared where not all are."""
        if every:
            return np.arange(length)
        share = _AFFORDABLE_PAIRS / (self.batch * self.heads * self.q_len * self.kv_len)
        drawn = generator(self.seed, purpose).choice(length, max(1, int(share * length)), replace=False)
        return np.unique(np.concatenate([drawn, [0, length - 1]]))

    def _seen(self, rows: np.ndarray, keys: np.ndarray | None = None) -> np.ndarray:
        """Whether the query of each row sees each key."""
        first, stop = self.visible(rows)
        at = np.arange(self.kv_len) if keys is None else keys
        return np.asarray((at >= first[:, None]) & (at < stop[:, None]))

    def _pairs(self, queries: Arrays, k: np.ndarray, v: np.ndarray, seen: np.ndarray) -> _Pairs:
        """Of float64 rows of q, dout, out and lse with float64 keys and values (head comment)."""
        u, u_p, d = UNIT_ROUNDOFF["float32"], _own_rounding(self.dtype), self.head_dim
        q, dout, out = queries["q"], queries["dout"], queries["out"]
        scale, lse = d**-0.5, np.where(np.isfinite(queries["lse"]), queries["lse"], 0.0)[:, None]
        exponent = np.where(seen, q @ k.T * scale - lse, -np.inf)
        p = np.exp(exponent)
        a = (d + 3) * u * scale * (np.abs(q) @ np.abs(k).T) + u * np.abs(lse) + _EXP_ERROR
        a += u * np.where(seen, np.abs(exponent), 0.0)
        theta = np.exp(a * (1 + 2.0**-28)) * (1 + u_p) - 1
        delta = (dout * out).sum(axis=1, keepdims=True)
        difference = dout @ v.T - delta
        b = (d + 2) * u * (np.abs(dout) @ np.abs(v).T)
        b += ((d + 2) * u + u_p) * (np.abs(dout) * np.abs(out)).sum(axis=1, keepdims=True)
        growth, t = (1 + theta) * (1 + u) ** 2 * (1 + u_p), np.abs(difference)
        lost = (2.0**-24 if self.dtype == "float16" else _TINY) * seen
        return _Pairs(
            p, p * difference, p * theta + lost, p * ((growth - 1) * t + growth * b) + lost + _TINY * t * seen
        )

    def _reference_queries(self, inputs: Arrays, b: int, h: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of dq and their tolerances."""
        group = h // (self.heads // self.kv_heads)
        k, v = (inputs[name][b, group].astype(np.float64) for name in "kv")
        pairs = self._pairs(_rows(inputs, b, h, rows), k, v, self._seen(rows))
        sums = pairs.s @ k, _summed(pairs.s, pairs.s_error, np.abs(k), self.kv_len)
        return self._rounded(*(self.head_dim**-0.5 * x for x in sums))

    def _reference_keys(self, inputs: Arrays, b: int, g: int, keys: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows of dk and of dv and their tolerances, summed over the heads of the group."""
        group = self.heads // self.kv_heads
        k, v = (inputs[name][b, g, keys].astype(np.float64) for name in "kv")
        dk, dk_error, dv, dv_error = (np.zeros((len(keys), self.head_dim)) for _ in range(4))
        everyone = np.arange(self.q_len)
        for h in range(g * group, (g + 1) * group):
            queries = _rows(inputs, b, h, everyone)
            pairs = self._pairs(queries, k, v, self._seen(everyone, keys))
            q, dout, count = queries["q"], queries["dout"], group * self.q_len
            dk += pairs.s.T @ q
            dk_error += _summed(pairs.s.T, pairs.s_error.T, np.abs(q), count)
            dv += pairs.p.T @ dout
            dv_error += _summed(pairs.p.T, pairs.p_error.T, np.abs(dout), count)
        scale = self.head_dim**-0.5
        return [self._rounded(scale * dk, scale * dk_error), self._rounded(dv, dv_error)]

    def _rounded(self, reference: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A result and its tolerance after the last factor and the rounding to the result's type."""
        relative = 3 * UNIT_ROUNDOFF["float32"] + _own_rounding(self.dtype)
        smallest = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}[self.dtype]
        return reference, error * (1 + relative) + relative * np.abs(reference) + smallest


def _own_rounding(dtype: str) -> float:
    """Relative error of rounding a float32 to `dtype`."""
    return 0.0 if dtype == "float32" else UNIT_ROUNDOFF[dtype]


def _panels(chosen: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Rows or keys in panels of `width` columns that fit the cache."""
    step = max(1, _PANEL_PAIRS // width)
    return (chosen[start : start + step] for start in range(0, len(chosen), step))


def _rows(inputs: Arrays, b: int, h: int, rows: np.ndarray) -> Arrays:
    return {name: inputs[name][b, h, rows].astype(np.float64) for name in ("q", "dout", "out", "lse")}


def _summed(terms: np.ndarray, errors: np.ndarray, magnitude: np.ndarray, count: int) -> np.ndarray:
    """Error of terms @ operand: that of the terms and that of adding `count` of them."""
    chain = max(min(block, count) + -(-count // block) for block in _BLOCKS) + _PARTIAL_RESULTS
    share = gamma(chain, UNIT_ROUNDOFF["float32"])
    total: np.ndarray = (errors + share * (np.abs(terms) + errors)) @ magnitude
    return total
