"""Butterflies: reduce-scatter by halving the vector over any pairing of 2^L ranks, and all-gather by doubling it.

    step k of reduce-scatter:  exchange halves of what one holds with partner(k);  keep the other half combined
    all-gather:                the same steps backwards, with copies

A pairing works if the ranks that a rank can still reach by the steps after k are the halves of those it could reach
before. Which half a rank keeps is chosen so that whoever it will reach keeps the same one: every message is then one
range of chunks, also where the partners are not those of a hypercube.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pyhpc.kernels.schedules.fold import Fold, power
from pyhpc.kernels.schedules.schedule import NOBODY, Algorithm, Copy, Index, Path, Reduce, Send, Steps, where

Partner = Callable[[int, Index, int], Index]  # partner(step, number, numbers)


def butterfly(name: str, summary: str, partners: tuple[Partner, ...]) -> Algorithm:
    """An algorithm of one butterfly for each of `partners`, side by side, each with its share of the vector.

    Any number of ranks: p is folded to p' = 2^⌊log2 p⌋ (fold.py).
    """
    shares = len(partners)

    def path(ranks: int) -> Path:
        """2·log2 p' messages of each share, 2(p'−1)/p' vectors moved, half of them reduced; and the fold."""
        kept = power(ranks)
        once = (kept - 1) / kept
        return Fold(ranks, kept, 1).path(Path(2 * shares * (kept.bit_length() - 1), 2 * once, once))

    def messages(ranks: int) -> int:
        kept = power(ranks)
        return 2 * shares * kept * (kept.bit_length() - 1) + 2 * (ranks - kept)

    return Algorithm(
        name=name,
        summary=summary,
        chunks=lambda ranks: shares * power(ranks),
        steps=lambda rank, ranks: _steps(rank, ranks, partners),
        path=path,
        messages=messages,
        volume=lambda ranks: 2 * (power(ranks) - 1) + 2 * (ranks - power(ranks)),
    )


def _steps(rank: Index, ranks: int, partners: tuple[Partner, ...]) -> Steps:
    kept = power(ranks)
    fold = Fold(ranks, kept, len(partners) * kept)
    yield from fold.enter(rank)
    shares = [_share(rank, fold, partner, number * kept) for number, partner in enumerate(partners)]
    for actions in zip(*shares, strict=True):
        sends, receives = zip(*actions, strict=True)
        yield *sends, *receives
    yield from fold.leave(rank)


def _share(rank: Index, fold: Fold, partner: Partner, first: Index) -> Steps:
    """The steps of one butterfly over the chunks from `first` on: each a send and a receive."""
    number, own, chunks = fold.number(rank), fold.own(rank), fold.kept
    back = []
    for step, kept_half in enumerate(_halves(partner, fold.kept)):
        other, upper, chunks = partner(step, number, fold.kept), _at(kept_half, number), chunks // 2
        peer = where(fold.gives(rank), NOBODY, fold.rank(other))
        low, high = (first, first + chunks), (first + chunks, first + 2 * chunks)
        mine = where(upper, high[0], low[0]), where(upper, high[1], low[1])
        theirs = where(upper, low[0], high[0]), where(upper, low[1], high[1])
        yield Send(peer, theirs, own), Reduce(peer, mine, own, own_is_left=number < other)
        back.append((Send(peer, mine, "result"), Copy(peer, theirs)))
        first, own = mine[0], "result"
    yield from reversed(back)


def _at(table: np.ndarray, number: Index) -> Any:
    """The entry, as a plain truth value for a plain number."""
    return table[number] if isinstance(number, np.ndarray) else bool(table[number])


@functools.lru_cache(maxsize=64)
def _halves(partner: Partner, numbers: int) -> tuple[np.ndarray, ...]:
    """For each step, whether a number keeps the upper half of what it holds."""
    steps = numbers.bit_length() - 1
    least = np.arange(numbers)  # the least number that can be reached by the steps that follow
    halves = []
    for step in reversed(range(steps)):
        reached = np.minimum(least, least[partner(step, np.arange(numbers), numbers)])
        halves.append(least != reached)
        least = reached
    return tuple(reversed(halves))
