"""What several ranks send one rank, combined with its own in the order of their numbers, in two ways.

`fan_in`: of g ranks numbered 0 … g−1 the one with number d first combines the messages of 0 … d−1 and then its own (one
action), then, one by one, the messages of d+1 … g−1. Every rank that does so evaluates the same expression, x₀ op x₁ op
… from the left.

`fan_in_outwards`: one by one, first the messages of d−1, d−2 … 0, then those of d+1 … g−1. No message waits for another
one to be combined with; the expression depends on d, so that each chunk must be combined at one rank only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pyhpc.kernels.schedules.schedule import NOBODY, Chunks, Index, Reduce, where


def fan_in(number: Index, group: int, peer: Callable[[int], Index], chunks: Chunks, own: Any) -> Iterator[Reduce]:
    """The actions of rank `number` of a group of at most `group` ranks.

    Args:
        number: the rank's place in the group; NOBODY where it takes no part.
        group: how many places there are.
        peer: peer(j) is the rank in place j, NOBODY where that place is empty; places fill from 0.
        chunks: what is combined.
        own: the buffer of the rank's operand.
    """
    if group < 2:
        return
    lower = [where(j < number, peer(j), NOBODY) for j in range(group - 1)]
    last = lower[0]
    for j in range(1, group - 1):
        last = where(j == number - 1, lower[j], last)
    before = tuple(where(j < number - 1, lower[j], NOBODY) for j in range(group - 2))
    yield Reduce(where(number > 0, last, NOBODY), chunks, own, own_is_left=False, before=before)
    for j in range(1, group):
        upper = where((number >= 0) & (j > number), peer(j), NOBODY)
        yield Reduce(upper, chunks, where((number == 0) & (j == 1), own, "result"), own_is_left=True)


def fan_in_outwards(
    number: Index, group: int, peer: Callable[[Index], Index], chunks: Chunks, own: Any
) -> Iterator[Reduce]:
    """As `fan_in`, from the rank's own place outwards; peer(j) is asked for arrays too."""
    for distance in range(1, group):
        lower = where(number >= distance, peer(number - distance), NOBODY)
        yield Reduce(lower, chunks, own if distance == 1 else "result", own_is_left=False)
    for j in range(1, group):
        upper = where((number >= 0) & (j > number), peer(j), NOBODY)
        yield Reduce(upper, chunks, where((number == 0) & (j == 1), own, "result"), own_is_left=True)
