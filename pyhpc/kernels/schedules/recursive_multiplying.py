"""Recursive multiplying: in step i exchange the whole vector with the f−1 ranks that differ in digit i, f ≤ radix.

    for digits i with f values, place value m:  exchange with r + (j−d)·m for the digits j ≠ d of r;
                                                result = x of digit 0 op x of digit 1 op … op x of digit f−1

Fewer steps than recursive doubling, for networks that take several messages at once: tiny vectors. Any number of ranks:
p is folded (fold.py) to the largest p' ≤ p whose prime factors are at most the radix, written with few digits.
All ranks of a group evaluate the same expression, in rank order.

Source: M. Ruefenacht, M. Bull and S. Booth, Generalisation of recursive doubling for AllReduce, Parallel Computing 69,
2017.
"""

from __future__ import annotations

import functools

from pyhpc.kernels.schedules.fan_in import fan_in
from pyhpc.kernels.schedules.fold import Fold
from pyhpc.kernels.schedules.schedule import NOBODY, Algorithm, Chunks, Index, Path, Send, Steps, where

WHOLE: Chunks = (0, 1)


def recursive_multiplying(radix: int) -> Algorithm:
    """The algorithm with digits of at most `radix` ≥ 2 values."""
    return Algorithm(
        name="recursive_multiplying",
        summary=f"exchange the whole vector with up to {radix - 1} ranks a step (Ruefenacht, Bull, Booth 2017)",
        chunks=lambda ranks: 1,
        steps=lambda rank, ranks: _steps(rank, ranks, radix),
        path=lambda ranks: _path(ranks, radix),
        messages=lambda ranks: _messages(ranks, radix),
        volume=lambda ranks: _messages(ranks, radix),
    )


def _steps(rank: Index, ranks: int, radix: int) -> Steps:
    kept, factors = digits(ranks, radix)
    fold = Fold(ranks, kept, 1)
    number, own, place = fold.number(rank), fold.own(rank), 1
    yield from fold.enter(rank)
    for values in factors:
        digit = where(fold.gives(rank), NOBODY, number // place % values)

        def peer(j: Index, digit: Index = digit, place: int = place) -> Index:
            return where(fold.gives(rank), NOBODY, fold.rank(number + (j - digit) * place))

        sends = (Send(peer((digit + shift) % values), WHOLE, own) for shift in range(1, values))
        yield *sends, *fan_in(digit, values, peer, WHOLE, own)
        own, place = "result", place * values
    yield from fold.leave(rank)


@functools.lru_cache(maxsize=1024)
def digits(ranks: int, radix: int) -> tuple[int, tuple[int, ...]]:
    """The largest p' ≤ ranks with prime factors of at most `radix`, and its few factors of at most `radix`."""
    for kept in range(ranks, 0, -1):
        rest, factors = kept, list[int]()
        for value in range(radix, 1, -1):
            while rest % value == 0:
                rest, factors = rest // value, [*factors, value]
        if rest == 1:
            return kept, tuple(factors)
    raise AssertionError("1 has no prime factor")


def _path(ranks: int, radix: int) -> Path:
    """f−1 messages of the vector a digit, each combined."""
    kept, factors = digits(ranks, radix)
    others = sum(factors) - len(factors)
    return Fold(ranks, kept, 1).path(Path(others, others, others))


def _messages(ranks: int, radix: int) -> int:
    kept, factors = digits(ranks, radix)
    return kept * (sum(factors) - len(factors)) + 2 * (ranks - kept)


ALGORITHM = recursive_multiplying(radix=4)
