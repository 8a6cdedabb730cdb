"""The simple fold, for algorithms that need a number of ranks of a certain form: p ranks become p' ≤ p ≤ 2p'.

Of the first 2(p−p') ranks an even one gives its vector to the odd one above it and gets the result back at the end; the
p' ranks that are left are numbered 0 … p'−1 in rank order. It costs two messages of the whole vector.

Source: R. Thakur, R. Rabenseifner and W. Gropp, Optimization of collective communication operations in MPICH, IJHPCA
19, 2005.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyhpc.kernels.schedules.schedule import NOBODY, Copy, Index, Path, Reduce, Send, Steps, where


def power(ranks: int) -> int:
    """The largest power of two that is at most `ranks`."""
    largest: int = 1 << (ranks.bit_length() - 1)
    return largest


@dataclass(frozen=True)
class Fold:
    """`ranks` ranks folded to `kept`, each holding `chunks` chunks."""

    ranks: int
    kept: int
    chunks: int

    @property
    def given(self) -> int:
        """How many ranks give their vector away."""
        return self.ranks - self.kept

    def gives(self, rank: Index) -> Any:
        """Whether the rank gives its vector away."""
        return (rank < 2 * self.given) & (rank % 2 == 0)

    def number(self, rank: Index) -> Index:
        """The rank's number among those that are left."""
        return where(rank < 2 * self.given, rank // 2, rank - self.given)

    def rank(self, number: Index) -> Index:
        """The rank of a number."""
        return where(number < self.given, 2 * number + 1, number + self.given)

    def own(self, rank: Index) -> Any:
        """The buffer in which the rank holds its operand after the fold."""
        return where(rank < 2 * self.given, "result", "input")

    def enter(self, rank: Index) -> Steps:
        """The step at the beginning, if any."""
        if self.given:
            above, below = self._pair(rank)
            yield (
                Send(above, (0, self.chunks), "input"),
                Reduce(below, (0, self.chunks), "input", own_is_left=False),
            )

    def leave(self, rank: Index) -> Steps:
        """The step at the end, if any."""
        if self.given:
            above, below = self._pair(rank)
            yield Send(below, (0, self.chunks), "result"), Copy(above, (0, self.chunks))

    def _pair(self, rank: Index) -> tuple[Index, Index]:
        """Whom an even rank gives to, and whom an odd one takes from."""
        takes = (rank < 2 * self.given) & (rank % 2 == 1)
        return where(self.gives(rank), rank + 1, NOBODY), where(takes, rank - 1, NOBODY)

    def path(self, inside: Path) -> Path:
        """The path of an algorithm on the ranks that are left, with the fold around it."""
        extra = int(self.given > 0)
        return Path(inside.messages + 2 * extra, inside.volume + 2 * extra, inside.reduced + extra)
