"""Double binary tree: reduce up and copy down two trees at once, a half of the vector each, in a pipeline of segments.

    a rank at depth d of a tree of height D, in step t:   sends segment t−(D−d) up, combined with its children's
                                                          sends segment t−(D+d) down

A rank that is inner in one tree is a leaf in the other, so every rank sends and receives about twice the vector, in
2D + s − 1 steps for s segments a tree: few steps and, with many segments, little volume. Any number of ranks p ≥ 1,
D = ⌊log2 p⌋. The trees are in order (left child op own op right child): contributions are combined in rank order where
p is even.

Source: P. Sanders, J. Speck and J. L. Träff, Two-tree algorithms for full bandwidth broadcast, reduction and scan,
Parallel Computing 35, 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pyhpc.kernels.schedules.fold import power
from pyhpc.kernels.schedules.schedule import NOBODY, Action, Algorithm, Copy, Index, Path, Reduce, Send, Steps, where


def double_binary_tree(segments: Callable[[int], int]) -> Algorithm:
    """The algorithm with segments(ranks) ≥ 1 segments a tree."""
    return Algorithm(
        name="double_binary_tree",
        summary="reduce up and copy down two trees at once, in segments (Sanders, Speck, Träff 2009)",
        chunks=lambda ranks: 2 * segments(ranks),
        steps=lambda rank, ranks: _steps(rank, ranks, segments(ranks)),
        path=lambda ranks: _path(ranks, segments(ranks)),
        messages=lambda ranks: 4 * (ranks - 1) * segments(ranks),
        volume=lambda ranks: 2 * (ranks - 1),
    )


class _Seat(NamedTuple):
    """Where a rank sits in a tree."""

    depth: Index
    parent: Index  # ranks, or NOBODY
    lower: Index  # the child to the left in the tree
    upper: Index
    left_is_first: bool  # the child to the left has the lower ranks


def _height(ranks: int) -> int:
    return power(ranks).bit_length() - 1


def _steps(rank: Index, ranks: int, segments: int) -> Steps:
    height = _height(ranks)
    seats = [_seat(rank, ranks, second) for second in (False, True)]
    for step in range(2 * height + segments - 1 if height else 0):
        actions: list[Action] = []
        for tree, seat in enumerate(seats):
            actions += _step(seat, step, height, segments, tree * segments)
        yield tuple(actions)


def _seat(rank: Index, ranks: int, second: bool) -> _Seat:
    """The rank's seat; seats are numbered 1 … p from left to right, odd ones are leaves.

    The first tree seats ranks in order. The second seats them backwards if p is even, shifted by one if it is odd,
    which in both cases makes the leaves of the first tree inner.
    """
    backwards = ranks % 2 == 0
    seat = rank + 1
    if second:
        seat = ranks - rank if backwards else (rank + 1) % ranks + 1

    def rank_of(seat: Index) -> Index:
        number = seat - 1
        if second:
            number = ranks - seat if backwards else (seat - 2) % ranks
        return where(seat > 0, number, NOBODY)

    right = _right(seat, ranks)
    lower, upper = where(seat % 2 == 0, seat - _lowest_bit(seat) // 2, 0), where(right != seat, right, 0)
    depth, above = rank * 0, _parent(seat, ranks)
    parent = above
    for _ in range(_height(ranks)):
        depth, above = depth + where(above > 0, 1, 0), where(above > 0, _parent(above, ranks), 0)
    return _Seat(depth, rank_of(parent), rank_of(lower), rank_of(upper), not (second and backwards))


def _lowest_bit(seat: Index) -> Index:
    return seat & -seat


def _parent(seat: Index, ranks: int) -> Index:
    """The seat above, 0 for the root and for no seat."""
    bit = _lowest_bit(seat)
    above = (seat ^ bit) | (bit << 1)
    return where(above <= ranks, above, seat ^ bit)


def _right(seat: Index, ranks: int) -> Index:
    """The seat of the child to the right, or the seat itself."""
    distance = _lowest_bit(seat) // 2
    for _ in range(_height(ranks)):
        distance = where(seat + distance > ranks, distance // 2, distance)
    return seat + distance


def _step(seat: _Seat, step: int, height: int, segments: int, first: int) -> list[Action]:
    """What a rank does in one tree in one step."""

    def at(segment: Index, peer: Index) -> tuple[Any, tuple[Index, Index]]:
        """The peer, if there is such a segment, and its chunk."""
        there = (segment >= 0) & (segment < segments)
        return where(there, peer, NOBODY), (first + segment, first + segment + 1)

    up, down = step - (height - seat.depth), step - (height + seat.depth)
    leaf = (seat.lower == NOBODY) & (seat.upper == NOBODY)
    return [
        Send(*at(up, seat.parent), where(leaf, "input", "result")),
        Send(*at(down, seat.lower), "result"),
        Send(*at(down, seat.upper), "result"),
        Reduce(*at(up + 1, seat.lower), "input", own_is_left=not seat.left_is_first),
        Reduce(*at(up + 1, seat.upper), "result", own_is_left=seat.left_is_first),
        Copy(*at(down + 1, seat.parent)),
    ]


def _path(ranks: int, segments: int) -> Path:
    """At most: D steps with two messages, s−1 steps with four, D steps with two."""
    height = _height(ranks)
    if not height:
        return Path(0, 0, 0)
    messages = 4 * (height + segments - 1)
    return Path(messages, messages / (2 * segments), (height + segments - 1) / segments)


ALGORITHM = double_binary_tree(segments=lambda ranks: max(1, 4 * _height(ranks)))
