"""Recursive doubling: in step k exchange the whole vector with the rank that differs in bit k. Any number of ranks.

    for k in 0 … log2(p')−1:  exchange with r xor 2^k;  result = lower op upper

Log2 p sequential messages, the least possible, each of the whole vector: for small vectors. Where p is no power of two,
it is folded to p' = 2^⌊log2 p⌋ (fold.py). The partner with the lower numbers is always the left operand, so both
partners, and in the end all ranks, evaluate the same expression (contributions in rank order, valid for non-commutative
operations too).

Source: R. Thakur, R. Rabenseifner and W. Gropp, Optimization of collective communication operations in MPICH, IJHPCA
19, 2005.
"""

from __future__ import annotations

from pyhpc.kernels.schedules.fold import Fold, power
from pyhpc.kernels.schedules.schedule import NOBODY, Algorithm, Index, Path, Reduce, Send, Steps, where

WHOLE = (0, 1)


def steps(rank: Index, ranks: int) -> Steps:
    """The fold, log2 p' exchanges, the fold undone."""
    fold = Fold(ranks, power(ranks), 1)
    number, own = fold.number(rank), fold.own(rank)
    yield from fold.enter(rank)
    for bit in range(_exchanges(ranks)):
        other = number ^ (1 << bit)
        peer = where(fold.gives(rank), NOBODY, fold.rank(other))
        yield Send(peer, WHOLE, own), Reduce(peer, WHOLE, own, own_is_left=number < other)
        own = "result"
    yield from fold.leave(rank)


def _exchanges(ranks: int) -> int:
    return power(ranks).bit_length() - 1


def path(ranks: int) -> Path:
    """Log2 p' exchanges of the vector, and two more messages and one reduction for the fold."""
    exchanges = _exchanges(ranks)
    return Fold(ranks, power(ranks), 1).path(Path(exchanges, exchanges, exchanges))


def messages(ranks: int) -> int:
    """Each one is the whole vector."""
    return power(ranks) * _exchanges(ranks) + 2 * (ranks - power(ranks))


ALGORITHM = Algorithm(
    name="recursive_doubling",
    summary="exchange the whole vector over doubling distances: ⌈log2 p⌉ messages (Thakur, Rabenseifner, Gropp 2005)",
    chunks=lambda ranks: 1,
    steps=steps,
    path=path,
    messages=messages,
    volume=messages,
)
