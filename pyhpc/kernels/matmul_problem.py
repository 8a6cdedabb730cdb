"""One matmul to run: its work model, its operands and the proof of its result.

Error bound. Let u be the unit roundoff of the precision that sums (float64 2^-53, otherwise float32 2^-24; products of
two bfloat16 or float16 numbers are exact in float32). In whatever order k products are summed, with or without fused
multiply-add, every term passes at most k roundings, so

    |Ĉ - C| ≤ γ_k(u) |A| |B|,    γ_k(u) = k u / (1 - k u)        (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd
                                                                   ed. 2002, §3.1 and equation (3.13) in §3.5)

and k counts as the next even number for bfloat16: Arm's BFDOT rounds the sum of a pair of products and that of it and
the sum so far to odd, which errs by less than 2 u, but at most k / 2 such roundings change a term (the first sum is
added to zero), and (1 + 2 u)^(k/2) ≤ (1 + u)^k.

Plus k η for products that underflow (η: the smallest normal number, so that hardware which flushes to zero is covered).
The float64 reference lies within γ_k(2^-53) |A| |B| of C by the same theorem, and so does the computed |A| |B| of
the exact one; both are added. A result in a narrower type has one more rounding, u_out |C|. Integers are exact: int8
always, and floating point in exact-integer mode, the pattern "integers": operands are whole numbers of at most L with
k L² < 1/u, so that every product and every partial sum, in whatever order, is a whole number that the type holds, and a
result that differs from the integer product in one bit is wrong.

Work: 2 m n k operations (a multiplication and an addition each), and each operand moved once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pyhpc.kernels.data import (
    DTYPES,
    PATTERNS,
    UNIT_ROUNDOFF,
    gamma,
    generator,
    integers,
    operand,
    poisoned,
    require_choice,
    require_sizes,
)
from pyhpc.kernels.kernel import Arrays, Check, Problem
from pyhpc.kernels.verification import Tally, refuse_shape

RESULT_DTYPE = {
    "float64": "float64",
    "float32": "float32",
    "bfloat16": "float32",
    "float16": "float32",
    "int8": "int32",
}

_AFFORDABLE_FLOPS = 2**34  # of the reference: under a second of float64 matmul on a few cores
_SAMPLE_FLOPS = 2**31  # of the row sample where the whole is not affordable
_PANEL_ELEMENTS = 2**24  # of one float64 panel: 128 MiB
# Of sums in exact-integer mode: below 1/u, and for float64 far below it, so that the signed sums of columns by which
# `verify` checks large products are exact in float64 too.
_LARGEST_EXACT = {"float64": 2**40, "float32": 2**24, "bfloat16": 2**24, "float16": 2**24, "int8": 2**31 - 1}
_LARGEST_OPERAND = {"float64": 2**20, "float32": 2**12, "bfloat16": 2**8, "float16": 2**11, "int8": 127}
_LARGEST_INT8_DEPTH = (2**31 - 1) // 127**2  # beyond it an int32 sum could overflow


@dataclass(frozen=True)
class MatmulProblem(Problem):
    """C = A B with A (batch, m, k) and B (batch, k, n).

    `transpose_a`, `transpose_b` store the operand transposed (A column by column); `inputs` gives the m × k view of it.
    `checked`: every execution proves itself by row checksums, as `matmul(..., check=True)`, and is timed with them.

    Raises:
        ValueError: a size below 1, an unknown dtype or pattern, an int8 depth whose sums overflow int32.
    """

    kernel: ClassVar[str] = "matmul"
    m: int
    n: int
    k: int
    dtype: str
    batch: int = 1
    transpose_a: bool = False
    transpose_b: bool = False
    pattern: str = "normal"
    seed: int = 0
    checked: bool = False

    def __post_init__(self) -> None:
        require_sizes({"m": self.m, "n": self.n, "k": self.k, "batch": self.batch})
        require_sizes({"seed": self.seed}, lowest=0)
        require_choice("dtype", self.dtype, tuple(RESULT_DTYPE))
        require_choice("pattern", self.pattern, tuple(PATTERNS))
        if self.dtype == "int8" and self.k > _LARGEST_INT8_DEPTH:
            raise ValueError(f"k is {self.k}; int8 products sum without int32 overflow up to k = {_LARGEST_INT8_DEPTH}")
        if self.pattern == "integers" and self.k > _LARGEST_EXACT[self.dtype]:
            raise ValueError(
                f"k is {self.k}; {self.dtype} sums of whole numbers are exact up to {_LARGEST_EXACT[self.dtype]}"
            )

    @property
    def label(self) -> str:
        """ "float32 2048x1024x512 batch 4 tn": m x n x k, and which operands are stored transposed."""
        parts = [self.dtype, f"{self.m}x{self.n}x{self.k}"]
        if self.batch > 1:
            parts.append(f"batch {self.batch}")
        if self.transpose_a or self.transpose_b:
            parts.append("nt"[self.transpose_a] + "nt"[self.transpose_b])
        if self.pattern != "normal":
            parts.append(self.pattern)
        if self.seed:
            parts.append(f"seed {self.seed}")
        if self.checked:
            parts.append("checked")
        return " ".join(parts)

    @property
    def flops(self) -> int:
        """2 m n k for each member of the batch."""
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def bytes(self) -> int:
        """A and B read once, C written once."""
        size, result_size = DTYPES[self.dtype].itemsize, DTYPES[RESULT_DTYPE[self.dtype]].itemsize
        return self.batch * ((self.m + self.n) * self.k * size + self.m * self.n * result_size)

    @property
    def ceiling(self) -> str:
        """The peak of the operand type."""
        return self.dtype

    @property
    def _roundings(self) -> int:
        """k of the bound."""
        return self.k + self.k % 2 if self.dtype == "bfloat16" else self.k

    @property
    def largest_integer(self) -> int:
        """L of exact-integer mode: the largest whole number whose products sum exactly k times."""
        return min(_LARGEST_OPERAND[self.dtype], math.isqrt(_LARGEST_EXACT[self.dtype] // self.k))

    def _shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return (rows, columns) if self.batch == 1 else (self.batch, rows, columns)

    def inputs(self) -> Arrays:
        """ "a" (batch, m, k) and "b" (batch, k, n); no batch axis when batch is 1."""

        def draw(name: str, rows: int, columns: int, transposed: bool) -> np.ndarray:
            stored = self._shape(columns, rows) if transposed else self._shape(rows, columns)
            if self.pattern == "integers":
                array = integers(stored, self.dtype, self.largest_integer, self.seed, name)
            else:
                array = operand(stored, self.dtype, self.pattern, self.seed, name)
            return array.swapaxes(-1, -2) if transposed else array

        return {"a": draw("a", self.m, self.k, self.transpose_a), "b": draw("b", self.k, self.n, self.transpose_b)}

    def output(self) -> np.ndarray:
        """(batch, m, n) in the result type."""
        return poisoned(self._shape(self.m, self.n), RESULT_DTYPE[self.dtype])

    def verify(self, result: np.ndarray, inputs: Arrays) -> Check:
        """Compare with the float64 product, every element where that is affordable (2^34 operations).

        Beyond, 2^31 operations' worth of whole rows are compared element by element, and all elements by Freivalds'
        method (R. Freivalds, "Probabilistic machines can use less running time", IFIP 1977) on groups of g
        neighbouring columns: with signs x drawn from ±1, |Σ_g x (Ĉ - C)| is at most the sum of the group's
        elementwise tolerances, and Σ_g x C = A (Σ_g x B) costs 1/g of the product. g is as small as is affordable.
        """
        refused = refuse_shape(result, self._shape(self.m, self.n))
        if refused is not None:
            return refused
        group = -(-self.flops // _AFFORDABLE_FLOPS)
        tally = Tally()
        for index in range(self.batch):
            a, b, c = (x[index] if self.batch > 1 else x for x in (inputs["a"], inputs["b"], result))
            where = f"c[{index}]" if self.batch > 1 else "c"
            if group == 1:
                self._compare(tally, np.arange(self.m), 1, (a, b, c), where)
                continue
            count = min(self.m, max(1, _SAMPLE_FLOPS // (2 * self.n * self.k * self.batch)))
            rows = np.sort(generator(self.seed, f"rows {index}").choice(self.m, count, replace=False))
            self._compare(tally, rows, 1, (a, b, c), where)
            self._compare(tally, np.arange(self.m), group, (a, b, c), f"signed column sums of {where}")
        if group == 1:
            return tally.check("every element against float64")
        return tally.check(f"row sample and Freivalds checksum of {group} columns against float64")

    def _compare(
        self,
        tally: Tally,
        rows: np.ndarray,
        group: int,
        operands: tuple[np.ndarray, np.ndarray, np.ndarray],
        where: str,
    ) -> None:
        """Compare these rows of C, in signed sums of `group` neighbouring columns, panel by panel."""
        a, b, c = operands
        signs = generator(self.seed, "signs").choice((-1.0, 1.0), self.n) if group > 1 else np.ones(self.n)
        for columns in _spans(self.n, group * max(1, _PANEL_ELEMENTS // (self.k * group))):
            right = b[:, columns].astype(np.float64)
            folded, magnitude = (
                _fold(right, signs[columns], group),
                _fold(np.abs(right), np.ones(right.shape[1]), group),
            )
            for span in _spans(len(rows), max(1, _PANEL_ELEMENTS // max(self.k, right.shape[1]))):
                left = a[rows[span]].astype(np.float64)
                reference = left @ folded
                found = _fold(c[rows[span], columns].astype(np.float64), signs[columns], group)
                tolerance = self._tolerance(np.abs(left) @ magnitude, str(c.dtype), group)
                tally.compare(found, reference, tolerance, where, (int(rows[span.start]), columns.start // group))

    def _tolerance(self, magnitude: np.ndarray, result_dtype: str, group: int) -> np.ndarray:
        """The bound of the head comment for |A||B| = magnitude (summed over `group` columns)."""
        if self.dtype == "int8":
            return np.zeros_like(magnitude)
        working = "float64" if self.dtype == "float64" else "float32"
        u, u_reference = UNIT_ROUNDOFF[working], UNIT_ROUNDOFF["float64"]
        reference_error = gamma(self.k + group, u_reference)
        relative = (gamma(self._roundings, u) + reference_error) / (1.0 - reference_error)
        tolerance = relative * magnitude + group * self.k * float(np.finfo(working).tiny)
        if self.pattern in ("integers", "zeros"):
            tolerance = np.zeros_like(magnitude)
        if result_dtype != working:
            tolerance = tolerance + UNIT_ROUNDOFF[result_dtype] * (magnitude + tolerance)
        return tolerance


def _spans(total: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover range(total)."""
    edges = itertools.chain(range(0, total, step), (total,))
    return (slice(start, stop) for start, stop in itertools.pairwise(edges))


def _fold(matrix: np.ndarray, signs: np.ndarray, group: int) -> np.ndarray:
    """Signed sums of groups of `group` neighbouring columns."""
    if group == 1:
        return matrix
    folded: np.ndarray = np.add.reduceat(matrix * signs, np.arange(0, matrix.shape[1], group), axis=1)
    return folded
