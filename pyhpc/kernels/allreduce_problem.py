"""One instance of the all-reduce: data that any rank can make for any other, so that any rank verifies alone.

A contribution is drawn in blocks of 65 536 elements, each from its own stream of a counter-based generator keyed by
seed, rank and block. A rank therefore regenerates the part of everybody's contributions that it wants to check, and no
more: `verify_share` of all ranks together covers every element at a cost per rank of one vector, at any number of
ranks.

Tolerance. The float64 reference is Σ x_r. Whatever the order, the result is Σ x_r·(1+δ_r) with |δ_r| ≤ (1+u)^(p−1) − 1,
u being the dtype's unit roundoff (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2; 16-bit
sums are formed in float32 and rounded once, which equals one rounding). So |result − reference| ≤ ((1+u)^(p−1) − 1 +
(1+2⁻⁵³)^(p−1) − 1)·Σ|x_r|, the second term being the reference's own error; products alike with |Π x_r|. Integers
(which wrap), min and max are exact, and so is the pattern "integers" while its sums stay below 1/u.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF, poisoned, require_choice, require_sizes
from pyhpc.kernels.kernel import Arrays, Check, Problem
from pyhpc.kernels.verification import Tally, refuse_shape

OPS: dict[str, np.ufunc] = {"sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum}
ORDERS = ("fast", "repeatable", "invariant")  # what the bits depend on; see allreduce.allreduce
BUFFERS = ("ordinary", "window")  # window: arrays of allreduce_buffer, which the ranks of a node read in place
PATTERNS = ("uniform", "integers", "zeros")
BLOCK = 65536  # elements drawn from one stream
WHOLE_UP_TO = 1 << 22  # contributions' elements that every rank verifies wholly instead of sharing
_LARGEST_INTEGER = 4  # of the pattern "integers" in a sum


def algbw(message_bytes: int, seconds: float) -> float:
    """Algorithm bandwidth in bytes per second: message / time (nccl-tests, doc/PERFORMANCE.md)."""
    return message_bytes / seconds


def busbw(message_bytes: int, seconds: float, ranks: int) -> float | None:
    """Bus bandwidth in bytes per second: algbw·2(p−1)/p, comparable with a link's rate; None for one rank, which sends
    nothing.

    Source: nccl-tests, doc/PERFORMANCE.md.
    """
    return None if ranks == 1 else message_bytes / seconds * 2 * (ranks - 1) / ranks


@dataclass(frozen=True)
class AllreduceProblem(Problem):
    """`ranks` vectors of `elements` elements, combined elementwise by `op`; every rank gets the result.

    Patterns: "uniform" (floats in [−1, 1), for products ±2^[−½, ½); integers of the whole range), "integers" (−4 … 4,
    for products ±1: exact in floating point too), "zeros".
    """

    elements: int
    dtype: str = "float32"
    op: str = "sum"
    ranks: int = 2
    pattern: str = "uniform"
    seed: int = 1
    order: str = "fast"
    buffer: str = "ordinary"
    kernel: ClassVar[str] = "allreduce"

    def __post_init__(self) -> None:
        require_sizes({"elements": self.elements, "seed": self.seed}, lowest=0)
        require_sizes({"ranks": self.ranks})
        require_choice("dtype", self.dtype, tuple(DTYPES))
        require_choice("op", self.op, tuple(OPS))
        require_choice("pattern", self.pattern, PATTERNS)
        require_choice("order", self.order, ORDERS)
        require_choice("buffer", self.buffer, BUFFERS)

    @property
    def label(self) -> str:
        """ "float32 sum 1024 on 2 ranks", and the order and buffer that are not the usual ones."""
        unusual = [word for word in (self.order, self.buffer) if word not in (ORDERS[0], BUFFERS[0])]
        ranks = f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"
        return " ".join([f"{self.dtype} {self.op} {self.elements} on {ranks}", *unusual])

    @property
    def message_bytes(self) -> int:
        """Bytes of one rank's vector: the size in nccl-tests' sense."""
        return self.elements * DTYPES[self.dtype].itemsize

    @property
    def flops(self) -> int:
        """(p−1) operations an element: the definition's, over all ranks (Chan et al. 2007)."""
        return (self.ranks - 1) * self.elements

    @property
    def bytes(self) -> int:
        """Each rank's vector read once and the result written once."""
        return (self.ranks + 1) * self.message_bytes

    @property
    def ceiling(self) -> str:
        """The dtype."""
        return self.dtype

    def contribution(self, rank: int) -> np.ndarray:
        """The vector that `rank` contributes; the same wherever it is made."""
        vector = np.empty(self.elements, DTYPES[self.dtype])
        for block, part in self._blocks():
            vector[part] = self._draw(rank, block)
        return vector

    def inputs(self) -> Arrays:
        """{"contributions": every rank's vector, (ranks, elements)}."""
        rows = [self.contribution(rank) for rank in range(self.ranks)]
        return {"contributions": np.stack(rows)}

    def output(self) -> np.ndarray:
        """One poisoned vector."""
        return poisoned((self.elements,), self.dtype)

    def verify(self, result: np.ndarray, inputs: Arrays) -> Check:
        """Every element of `result` against the reference."""
        rows = inputs["contributions"]
        return self._verify(result, self._blocks(), lambda rank, block: rows[rank, self._part(block)])

    def verify_share(self, result: np.ndarray, rank: int | None = None) -> Check:
        """The elements of `result` that `rank` answers for: every p-th block, or all of a small problem; None: all.

        The ranks' shares cover the vector; with all ranks' results known to be equal they verify it wholly.
        """
        blocks = list(self._blocks())
        if rank is not None and self.ranks * self.elements > WHOLE_UP_TO and len(blocks) >= self.ranks:
            blocks = blocks[rank :: self.ranks]
        return self._verify(result, iter(blocks), self._draw)

    def algbw(self, seconds: float) -> float:
        """Algorithm bandwidth in bytes per second."""
        return algbw(self.message_bytes, seconds)

    def busbw(self, seconds: float) -> float | None:
        """Bus bandwidth in bytes per second, None for one rank."""
        return busbw(self.message_bytes, seconds, self.ranks)

    def _part(self, block: int) -> slice:
        return slice(block * BLOCK, min(self.elements, (block + 1) * BLOCK))

    def _blocks(self) -> Iterator[tuple[int, slice]]:
        return ((block, self._part(block)) for block in range(-(-self.elements // BLOCK)))

    def _draw(self, rank: int, block: int) -> np.ndarray:
        """One block of one rank's contribution."""
        kind, part = DTYPES[self.dtype], self._part(block)
        size = part.stop - part.start
        random = np.random.Generator(np.random.Philox(key=[self.seed, (rank << 32) | block]))
        wide = np.float64 if kind.itemsize == 8 else np.float32  # float32 holds every narrower type
        values: np.ndarray
        if self.pattern == "zeros":
            values = np.zeros(size, kind)
        elif self.pattern == "integers" and self.op == "prod":
            values = random.choice(np.array([1, -1]), size)
        elif self.pattern == "integers":
            values = random.integers(-_LARGEST_INTEGER, _LARGEST_INTEGER, size, np.int8, endpoint=True)
        elif kind.kind in "iu":
            values = np.frombuffer(random.bytes(size * kind.itemsize), kind)
        elif self.op == "prod":
            values = np.exp2(random.random(size, wide) - wide(0.5)) * random.choice(np.array([1, -1], np.int8), size)
        else:
            values = wide(2) * random.random(size, wide) - wide(1)
        return values.astype(kind)

    def _verify(
        self, result: np.ndarray, blocks: Iterator[tuple[int, slice]], draw: Callable[[int, int], np.ndarray]
    ) -> Check:
        refused = refuse_shape(result, (self.elements,))
        if refused is not None:
            return refused
        tally = Tally()
        for block, part in blocks:
            reference, tolerance = self._reference(draw(rank, block) for rank in range(self.ranks))
            # Wide enough for every integer: a difference of int64 must not be rounded away.
            wide = np.longdouble if DTYPES[self.dtype].kind in "iu" else np.float64
            with np.errstate(invalid="ignore"):  # a wrong result may hold signalling NaNs
                values = result[part].astype(wide)
            tally.compare(values, reference.astype(wide), tolerance, "result", (part.start,))
        return tally.check(
            "elements against the reference" if self._exact else "elements against float64 within (1+u)^(p-1)-1"
        )

    @property
    def _exact(self) -> bool:
        """Whether every order of combination gives the same, correct bits."""
        unit = UNIT_ROUNDOFF.get(self.dtype)
        if unit is None or self.op in ("min", "max") or self.pattern == "zeros":
            return True
        return self.pattern == "integers" and (self.op == "prod" or _LARGEST_INTEGER * self.ranks <= 1 / unit)

    def _reference(self, contributions: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The reference of one block and the tolerance of each element."""
        combine = OPS[self.op]
        integer = DTYPES[self.dtype].kind in "iu"
        first = next(contributions)
        reference = first.copy() if integer else first.astype(np.float64)
        magnitude = np.abs(reference)
        for contribution in contributions:
            combine(reference, contribution if integer else contribution.astype(np.float64), out=reference)
            if not self._exact:
                combine(magnitude, np.abs(contribution.astype(np.float64)), out=magnitude)
        if self._exact:
            return reference, np.zeros(reference.shape)
        steps = self.ranks - 1
        growth = sum(float(np.expm1(steps * np.log1p(unit))) for unit in (UNIT_ROUNDOFF[self.dtype], 2.0**-53))
        return reference, growth * magnitude
