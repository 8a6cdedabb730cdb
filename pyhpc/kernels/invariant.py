"""Order "invariant": an all-reduce whose bits depend on the contributions alone: not on the number of ranks, their
order or placement, nor on the algorithm. Every step between ranks is an all-reduce of integers, to which any order and
any schedule give the same bits.

Sums of floats are pre-rounded (Demmel and Nguyen, "Parallel reproducible summation", IEEE Transactions on Computers
64(7), 2015), here to integers. For each element, with contributions x₁ … x_n on all ranks, n ≤ 2²⁰:

    M = max |x_k|                 all-reduce max of the bit patterns, which are ordered as the magnitudes are
    e = the exponent: M < 2^e     (2^(e−1) ≤ M unless M = 0)
    h_k = rint(x_k·2^(42−e))      |h_k| ≤ 2⁴²: n of them fit 63 bits;  all-reduce sum → H
    l_k = rint((x_k·2^(42−e) − h_k)·2⁴²)      float64 only, the difference is exact;  all-reduce sum → L
    result = round(H·2^(e−42) + L·2^(e−84))

Error. The pre-roundings change the sum by at most n·2^(e−43) ≤ n·2⁻⁴²·M (float64: n·2⁻⁸⁴·M); the end rounds once
(float64: exactly once, see `_total`; others from float64, exact while |H| < 2⁵³, that is for n ≤ 2¹¹, otherwise and for
bfloat16, which goes through float32, with a factor below 1 + 2⁻¹⁵ on u). With u the dtype's unit roundoff and s the
exact sum, |result − s| ≤ u·(1 + 2⁻¹⁵)·|s| + n·2⁻⁴²·M. From n = 3 on that is below the bound (n−1)·u·Σ|x_k| of an
ordinary sum, and below it by a factor of about n for large n. For n = 2 it is that bound but for the factors 1 + 2⁻¹⁵
on u and 1 + 2⁻¹⁷ for the smaller summand.

Special values, alike in any order: a NaN, or infinities of both signs, give the canonical NaN; a sum of zeros is +0; an
intermediate sum cannot overflow, only the result can. Where M is infinite, H counts +∞ in its low 21 bits and −∞ above.
min and max compare integers of the same order, in which −0 < +0; NaN wins in either. Products of floats are refused:
their rounding error is relative, no unit fits all factors. Integers wrap and are invariant by nature.

Cost: a float's first all-reduce has its own width, the second 8 bytes an element (float64: 16). The work is done in
blocks that stay in the second-level cache; they do not change any bit, because elements do not know each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.allreduce_problem import OPS
from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF

MOST_CONTRIBUTIONS = 1 << 20  # over all ranks
_BITS = 42  # of a slice: 2⁴²·2²⁰ < 2⁶³
_COUNT_BITS = 21  # 2²⁰ infinities can be counted
_BLOCK = 1 << 16  # elements

# all_reduce(elements, dtype, op) gives the function that combines such vectors of all ranks in place.
InPlace = Callable[[np.ndarray], None]
AllReduceFactory = Callable[[int, str, str], InPlace]


def refusal(dtype: str, op: str) -> str | None:
    """Why this cannot be made invariant, or None."""
    if op == "prod" and dtype in UNIT_ROUNDOFF:
        return (
            f"a product of {dtype} has no invariant order: each factor's rounding is relative, so none is exact; use "
            "order='repeatable', or sum logarithms"
        )
    return None


def plan(elements: int, dtype: str, op: str, factory: AllReduceFactory) -> Callable[[np.ndarray, np.ndarray], None]:
    """The function run(rows, out): out = all rows, (contributions, elements), of all ranks combined.

    `rows` and `out` may share memory only where `out` is the one row. The ranks may give different numbers of rows.

    Raises:
        InvalidArgument: a product of floats.
    """
    reason = refusal(dtype, op)
    if reason is not None:
        raise InvalidArgument(reason)
    if dtype not in UNIT_ROUNDOFF:
        return _Integers(elements, dtype, op, factory)
    kind = _Sum if op == "sum" else _Extreme
    full, rest = kind(dtype, op, min(elements, _BLOCK), factory), elements % _BLOCK
    last = kind(dtype, op, rest, factory) if rest and elements > _BLOCK else full

    def run(rows: np.ndarray, out: np.ndarray) -> None:
        for low in range(0, elements, _BLOCK):
            part = slice(low, low + _BLOCK)
            (full if low + _BLOCK <= elements else last)(rows[:, part], out[part])

    return run


class _Integers:
    """Integers: the ranks' own rows first, then the ranks."""

    def __init__(self, elements: int, dtype: str, op: str, factory: AllReduceFactory) -> None:
        self.op = OPS[op]
        self.between = factory(elements, dtype, op)

    def __call__(self, rows: np.ndarray, out: np.ndarray) -> None:
        self.op.reduce(rows, axis=0, dtype=out.dtype, out=out)
        self.between(out)


class _Float:
    """A block of floats as integers."""

    def __init__(self, dtype: str, elements: int) -> None:
        self.dtype, self.elements = DTYPES[dtype], elements
        self.bits = np.dtype(f"int{8 * self.dtype.itemsize}")
        self.magnitude = self.bits.type(np.iinfo(self.bits).max)  # all bits but the sign
        self.infinity = np.array(np.inf, self.dtype).view(self.bits)[()]


class _Extreme(_Float):
    """min or max."""

    def __init__(self, dtype: str, op: str, elements: int, factory: AllReduceFactory) -> None:
        super().__init__(dtype, elements)
        self.op = np.minimum if op == "min" else np.maximum
        self.between = factory(elements, self.bits.name, op)
        self.nan = np.iinfo(self.bits).min if op == "min" else np.iinfo(self.bits).max

    def __call__(self, rows: np.ndarray, out: np.ndarray) -> None:
        keys = rows.view(self.bits)
        nan = (keys & self.magnitude) > self.infinity
        keys = np.where(nan, self.nan, self._swapped(keys)).astype(self.bits, copy=False)
        key = self.op.reduce(keys, axis=0)
        self.between(key)
        bits = self._swapped(key)
        out.view(self.bits)[...] = bits
        out[(bits & self.magnitude) > self.infinity] = np.nan

    def _swapped(self, bits: np.ndarray) -> np.ndarray:
        """Bit patterns ↔ integers that are ordered as the floats are: a negative float's magnitude is complemented."""
        swapped: np.ndarray = bits ^ ((bits >> (8 * self.bits.itemsize - 1)) & self.magnitude)
        return swapped


class _Sum(_Float):
    def __init__(self, dtype: str, op: str, elements: int, factory: AllReduceFactory) -> None:
        super().__init__(dtype, elements)
        self.slices = 2 if dtype == "float64" else 1
        self.largest = factory(elements, self.bits.name, "max")
        self.sums = factory(elements * self.slices, "int64", "sum")

    def __call__(self, rows: np.ndarray, out: np.ndarray) -> None:
        key = np.maximum.reduce(rows.view(self.bits) & self.magnitude, axis=0)
        self.largest(key)
        special = key >= self.infinity
        exponent = np.frexp(
            np.where(special, 1, key).astype(self.bits, copy=False).view(self.dtype).astype(np.float64)
        )[1]
        sums = np.zeros((self.slices, self.elements), np.int64)
        for row in rows:
            self._add(row, exponent, special, sums)
        self.sums(sums.reshape(-1))
        with np.errstate(over="ignore"):
            out[...] = self._total(sums, exponent).astype(self.dtype, copy=False)
        if special.any():
            count = sums[0][special]
            minus, plus = count >> _COUNT_BITS != 0, count & ((1 << _COUNT_BITS) - 1) != 0
            nan = (key[special] > self.infinity) | (minus & plus)
            out[special] = np.where(nan, np.nan, np.where(minus, -np.inf, np.inf)).astype(self.dtype)

    def _add(self, row: np.ndarray, exponent: np.ndarray, special: np.ndarray, sums: np.ndarray) -> None:
        """Add one contribution's slices."""
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            scaled = np.ldexp(row.astype(np.float64), _BITS - exponent)
            scaled[special] = (row[special] == np.inf) + (row[special] == -np.inf) * 2.0**_COUNT_BITS
        high = np.rint(scaled)
        sums[0] += high.astype(np.int64)
        if self.slices == 2:
            sums[1] += np.rint((scaled - high) * 2.0**_BITS).astype(np.int64)

    def _total(self, sums: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        """H·2^(e−42) + L·2^(e−84) in float64."""
        if self.slices == 1:
            total: np.ndarray = np.ldexp(sums[0].astype(np.float64), exponent - _BITS)
            return total
        # Carried into H, L is a whole number in [0, 2⁴²). H is split into its float64 and the rest, |rest| ≤ 2⁹, so
        # that rest·2⁴² + L is exact and the last addition is the only one that rounds.
        high, low = sums[0] + (sums[1] >> _BITS), sums[1] & ((1 << _BITS) - 1)
        leading = high.astype(np.float64)
        rest = (high - leading.astype(np.int64)).astype(np.float64)
        total = np.ldexp(leading * 2.0**_BITS + (rest * 2.0**_BITS + low), exponent - 2 * _BITS)
        return total
