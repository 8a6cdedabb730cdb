"""Recursive doubling: in round k exchange the whole vector with the rank that differs in bit k. Any number of ranks.

    for k in 0 … log2(p')−1:  exchange with r xor 2^k;  result = lower op upper

Log2 p sequential messages, the least possible, each of the whole vector: for small vectors. Where p is no power of two,
p' = 2^⌊log2 p⌋ and the first 2(p−p') ranks fold: an even one gives its vector to the odd one above it and gets the
result back at the end. The partner with the lower numbers is always the left operand, so both partners, and in the end
all ranks, evaluate the same expression (contributions in rank order, valid for non-commutative operations too).

Source: R. Thakur, R. Rabenseifner and W. Gropp, Optimization of collective communication operations in MPICH, IJHPCA
19, 2005.
"""

from __future__ import annotations

from pyhpc.kernels.schedules.schedule import Algorithm, Buffer, Copy, Path, Reduce, Round, Send

WHOLE = (0, 1)


def rounds(rank: int, ranks: int) -> tuple[Round, ...]:
    """The rounds of one rank."""
    paired = 2 * (ranks - _power(ranks))  # the ranks below this fold two into one
    if rank < paired and rank % 2 == 0:
        return ((Send(rank + 1, WHOLE, "input"),), (Copy(rank + 1, WHOLE),))
    schedule: list[Round] = []
    own: Buffer = "input"
    if rank < paired:
        schedule.append((Reduce(rank - 1, WHOLE, "input", own_is_left=False),))
        own = "result"
    number = rank // 2 if rank < paired else rank - paired // 2  # among the p' that take part
    distance = 1
    while distance < _power(ranks):
        other = number ^ distance
        peer = 2 * other + 1 if 2 * other < paired else other + paired // 2
        schedule.append((Send(peer, WHOLE, own), Reduce(peer, WHOLE, own, own_is_left=number < other)))
        own = "result"
        distance *= 2
    if rank < paired:
        schedule.append((Send(rank - 1, WHOLE, "result"),))
    return tuple(schedule)


def _power(ranks: int) -> int:
    """The largest power of two that is at most `ranks`."""
    power: int = 1 << (ranks.bit_length() - 1)
    return power


def path(ranks: int) -> Path:
    """Log2 p' exchanges of the vector, and two more messages and one reduction for the fold."""
    exchanges, fold = _power(ranks).bit_length() - 1, ranks != _power(ranks)
    return Path(exchanges + 2 * fold, exchanges + 2 * fold, exchanges + fold)


ALGORITHM = Algorithm(
    name="recursive_doubling",
    summary="exchange the whole vector over doubling distances: ⌈log2 p⌉ messages (Thakur, Rabenseifner, Gropp 2005)",
    chunks=lambda ranks: 1,
    rounds=rounds,
    path=path,
    messages=lambda ranks: _power(ranks) * (_power(ranks).bit_length() - 1) + 2 * (ranks - _power(ranks)),
)
