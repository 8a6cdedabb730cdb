"""Segmented ring: the ring whose reduce-scatter sends each chunk as several messages.

    step k of reduce-scatter:  s messages of 1/(p·s) of the vector to r+1; one is combined while the next is on its way
    step k of all-gather:      as the ring: nothing is combined, so one message does

(p−1)(s+1) messages instead of the ring's 2(p−1), but of the reduction only 1/s of (p−1)/p vectors is not hidden behind
the transfer: for very long vectors where combining costs as much as moving. Any number of ranks. The order of reduction
is the ring's.

Source: J. Pješivac-Grbović, T. Angskun, G. Bosilca, G. Fagg, E. Gabriel and J. Dongarra, Performance analysis of MPI
collective operations, Cluster Computing 10, 2007.
"""

from __future__ import annotations

from pyhpc.kernels.schedules import ring
from pyhpc.kernels.schedules.schedule import Algorithm, Chunks, Copy, Index, Path, Reduce, Send, Steps


def segmented_ring(segments: int) -> Algorithm:
    """The algorithm with each chunk of the ring sent as `segments` messages."""
    return Algorithm(
        name="segmented_ring",
        summary=f"the ring, {segments} messages a chunk: combines while it receives (Pješivac-Grbović et al. 2007)",
        chunks=lambda ranks: segments * ranks,
        steps=lambda rank, ranks: _steps(rank, ranks, segments),
        path=lambda ranks: Path((ranks - 1) * (segments + 1), 2 * (ranks - 1) / ranks, (ranks - 1) / ranks),
        messages=lambda ranks: ranks * (ranks - 1) * (segments + 1),
        volume=lambda ranks: 2 * (ranks - 1),
    )


def _steps(rank: Index, ranks: int, segments: int) -> Steps:
    """The steps of the ring, over ranges of as many chunks as there are segments."""

    def segment(chunks: Chunks, number: int) -> Chunks:
        return chunks[0] * segments + number, chunks[0] * segments + number + 1

    for send, receive in ring.steps(rank, ranks):
        assert isinstance(send, Send)
        if isinstance(receive, Reduce):
            sends = (Send(send.peer, segment(send.chunks, k), send.source) for k in range(segments))
            combined = (
                Reduce(receive.peer, segment(receive.chunks, k), receive.own, receive.own_is_left)
                for k in range(segments)
            )
            yield *sends, *combined
        else:
            sent, received = ((first * segments, last * segments) for first, last in (send.chunks, receive.chunks))
            yield Send(send.peer, sent, send.source), Copy(receive.peer, received)


ALGORITHM = segmented_ring(segments=2)
