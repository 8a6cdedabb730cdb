"""Halving and doubling: reduce-scatter by exchanging halves, all-gather backwards. Any number of ranks.

    level k:  the m ranks that share a range of chunks form pairs; the first of a pair keeps the lower half combined,
              the last the upper half; the firsts, and the lasts, go on as ⌊m/2⌋ ranks each

Least volume in 2·log2 p messages where p is a power of two: for medium and large vectors. Otherwise some levels have
groups of three (3-2 elimination): the first and the middle exchange halves, then the middle passes its combined half on
to the last while the last gives its other half to the first. Such a level costs one more message of half the range each
way; levels far down cost little. A number of ranks up to 3·2^k has as many groups of three as make 2^k groups; a
larger one has a single group of three where it is odd. Contributions are combined in rank order.

Source: R. Rabenseifner and J. L. Träff, More efficient reduction algorithms for non-power-of-two number of processors
in message-passing parallel systems, EuroPVM/MPI 2004; R. Rabenseifner, Optimization of collective reduction operations,
ICCS 2004.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyhpc.kernels.schedules.fold import power
from pyhpc.kernels.schedules.schedule import (
    NOBODY,
    Algorithm,
    Buffer,
    Chunks,
    Copy,
    Index,
    Path,
    Reduce,
    Send,
    Steps,
    where,
)


class Level(NamedTuple):
    """How the ranks that share a range are grouped: first the groups of three, then the pairs."""

    triples: int
    pairs: int

    def first(self, group: Index) -> Index:
        """The first member of a group."""
        return 2 * group + where(group < self.triples, group, self.triples)

    def last(self, group: Index) -> Index:
        """The last member of a group."""
        return self.first(group) + 1 + where(group < self.triples, 1, 0)

    def group(self, member: Index) -> Index:
        """The group of a member."""
        return where(member < 3 * self.triples, member // 3, (member - self.triples) // 2)


@functools.lru_cache(maxsize=1024)
def levels(ranks: int) -> tuple[Level, ...]:
    """The levels, until one rank is left."""
    found = []
    while ranks > 1:
        half = power(ranks) // 2
        triples = ranks % 2 if ranks % 2 == 0 or ranks > 3 * half else ranks - 2 * half
        found.append(Level(triples, (ranks - 3 * triples) // 2))
        ranks = sum(found[-1])
    return tuple(found)


class _Place(NamedTuple):
    """Where a rank stands in a level; nowhere if it was a middle further up."""

    is_first: Any
    is_next: Any  # the middle of three, or the last of a pair
    is_last_of_three: Any
    first: Index  # the ranks of its group
    next: Index
    last: Index
    low: tuple[Index, Index]  # the halves of the range of chunks
    high: tuple[Index, Index]


def steps(rank: Index, ranks: int) -> Steps:
    """Down the levels with halves combined, and up again with halves copied."""
    places = list(_places(rank, ranks))
    for number, (level, place) in enumerate(zip(levels(ranks), places, strict=True)):
        yield from _combine(place, level.triples > 0, "result" if number else "input")
    for level, place in reversed(list(zip(levels(ranks), places, strict=True))):
        yield from _spread(place, level.triples > 0)


def _places(rank: Index, ranks: int) -> Iterator[_Place]:
    """The rank's place in each level."""
    above: list[tuple[Level, Any]] = []  # the levels above, and whether the rank kept the upper half there
    member, active, begin, half = rank, rank >= 0, rank * 0, power(ranks) // 2

    def rank_of(member: Index) -> Index:
        for level, upper in reversed(above):
            member = where(upper, level.last(member), level.first(member))
        return member

    for level in levels(ranks):
        group = level.group(member)
        first, last = level.first(group), level.last(group)
        is_last = active & (member == last)
        yield _Place(
            active & (member == first),
            active & (member == first + 1),
            is_last & (group < level.triples),
            rank_of(first),
            rank_of(first + 1),
            rank_of(last),
            (begin, begin + half),
            (begin + half, begin + 2 * half),
        )
        active = is_last | (active & (member == first))
        above.append((level, is_last))
        member, begin, half = group, begin + where(is_last, half, 0), half // 2


def _sides(place: _Place) -> tuple[Index, Chunks, Chunks]:
    """In the exchange of a group's first and next: the other one, the half that one keeps, and the half it keeps."""
    peer = where(place.is_first, place.next, where(place.is_next, place.first, NOBODY))
    low, high = place.low, place.high
    mine = where(place.is_first, low[0], high[0]), where(place.is_first, low[1], high[1])
    theirs = where(place.is_first, high[0], low[0]), where(place.is_first, high[1], low[1])
    return peer, mine, theirs


def _combine(place: _Place, has_triples: bool, own: Buffer) -> Steps:
    """The lower half comes together at the first of the group, the upper half at the last."""
    peer, mine, theirs = _sides(place)
    yield Send(peer, theirs, own), Reduce(peer, mine, own, own_is_left=place.is_first)
    if has_triples:
        is_last, (is_first, is_middle) = place.is_last_of_three, _of_three(place)
        yield (
            Send(where(is_middle, place.last, NOBODY), place.high, "result"),
            Send(where(is_last, place.first, NOBODY), place.low, own),
            Reduce(where(is_last, place.next, NOBODY), place.high, own, own_is_left=False),
            Reduce(where(is_first, place.last, NOBODY), place.low, "result", own_is_left=True),
        )


def _spread(place: _Place, has_triples: bool) -> Steps:
    """The same messages backwards."""
    if has_triples:
        is_last, (is_first, is_middle) = place.is_last_of_three, _of_three(place)
        yield (
            Send(where(is_last, place.next, NOBODY), place.high, "result"),
            Send(where(is_first, place.last, NOBODY), place.low, "result"),
            Copy(where(is_middle, place.last, NOBODY), place.high),
            Copy(where(is_last, place.first, NOBODY), place.low),
        )
    peer, mine, theirs = _sides(place)
    yield Send(peer, mine, "result"), Copy(peer, theirs)


def _of_three(place: _Place) -> tuple[Any, Any]:
    """Whether the rank is the first, or the middle, of three."""
    three = place.next != place.last
    return place.is_first & three, place.is_next & three


def path(ranks: int) -> Path:
    """A message of half the range each way and level, two where a level has groups of three."""
    messages, volume, half = 0, 0.0, 0.5
    for level in levels(ranks):
        sent = 2 if level.triples else 1
        messages, volume, half = messages + sent, volume + sent * half, half / 2
    return Path(2 * messages, 2 * volume, volume)


def messages(ranks: int) -> int:
    """Level k has 2^k ranges; a pair sends 2 messages each way, a group of three 4."""
    return 4 * sum((level.pairs + 2 * level.triples) << number for number, level in enumerate(levels(ranks)))


def volume(ranks: int) -> float:
    """A message of level k is half of its range."""
    return 2.0 * sum(level.pairs + 2 * level.triples for level in levels(ranks))


ALGORITHM = Algorithm(
    name="halving_doubling",
    summary="exchange halves, then copy them back: least volume in 2·log2 p messages (Rabenseifner and Träff 2004)",
    chunks=power,
    steps=steps,
    path=path,
    messages=messages,
    volume=volume,
)
