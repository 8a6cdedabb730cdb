"""Ring: reduce-scatter around the ring, then all-gather around the ring. Any number of ranks.

    for k in 0 … p−2:  send chunk r−k to r+1;  chunk r−k−1 = received op own      (p−1 rounds)
    for k in 0 … p−2:  send chunk r+1−k to r+1;  chunk r−k = received             (p−1 rounds)

Each rank moves 2(p−1)/p of the vector, which is the least possible, in 2(p−1) sequential messages: for large vectors.
Only neighbours talk, so no link is shared on any topology that contains a ring. Chunk c is reduced in the order c, c+1,
…, c−1, the same expression on every rank.

Source: P. Patarasuk and X. Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, JPDC 69, 2009.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyhpc.kernels.schedules.schedule import Algorithm, Chunks, Copy, Index, Path, Reduce, Round, Send, Steps


def steps(rank: Index, ranks: int) -> Steps:
    """p−1 steps of reduce-scatter, p−1 of all-gather."""
    for step in range(ranks - 1):
        yield _combine(rank, ranks, step)
    for step in range(ranks - 1):
        yield _spread(rank, ranks, step)


def runs(rank: Index, ranks: int) -> Iterator[tuple[int, Round]]:
    """In all steps of a phase everybody sends as much to the same neighbour."""
    if ranks > 1:
        yield ranks - 1, _combine(rank, ranks, 0)
        yield ranks - 1, _spread(rank, ranks, 0)


def _combine(rank: Index, ranks: int, step: int) -> Round:
    sent, received = _chunk(rank - step, ranks), _chunk(rank - step - 1, ranks)
    send = Send((rank + 1) % ranks, sent, "result" if step else "input")
    return send, Reduce((rank - 1) % ranks, received, "input", own_is_left=False)


def _spread(rank: Index, ranks: int, step: int) -> Round:
    sent, received = _chunk(rank + 1 - step, ranks), _chunk(rank - step, ranks)
    return Send((rank + 1) % ranks, sent, "result"), Copy((rank - 1) % ranks, received)


def _chunk(index: Index, ranks: int) -> Chunks:
    chunk = index % ranks
    return chunk, chunk + 1


def path(ranks: int) -> Path:
    """2(p−1) messages, 2(p−1)/p vectors moved, (p−1)/p vectors reduced."""
    return Path(2 * (ranks - 1), 2 * (ranks - 1) / ranks, (ranks - 1) / ranks)


ALGORITHM = Algorithm(
    name="ring",
    summary="reduce-scatter and all-gather around a ring: least volume, 2(p−1) messages (Patarasuk and Yuan 2009)",
    chunks=lambda ranks: ranks,
    steps=steps,
    path=path,
    messages=lambda ranks: 2 * ranks * (ranks - 1),
    volume=lambda ranks: 2 * (ranks - 1),
    runs=runs,
)
