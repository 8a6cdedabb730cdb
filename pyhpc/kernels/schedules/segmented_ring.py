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

from dataclasses import replace

from pyhpc.kernels.schedules import ring
from pyhpc.kernels.schedules.schedule import Algorithm, Chunks, Path, Reduce, Round, Send


def segmented_ring(segments: int) -> Algorithm:
    """The algorithm with each chunk of the ring sent as `segments` messages."""
    return Algorithm(
        name="segmented_ring",
        summary=f"the ring, {segments} messages a chunk: combines while it receives (Pješivac-Grbović et al. 2007)",
        chunks=lambda ranks: segments * ranks,
        steps=lambda rank, ranks: (_cut(step, segments) for step in ring.steps(rank, ranks)),
        path=lambda ranks: Path((ranks - 1) * (segments + 1), 2 * (ranks - 1) / ranks, (ranks - 1) / ranks),
        messages=lambda ranks: ranks * (ranks - 1) * (segments + 1),
        volume=lambda ranks: 2 * (ranks - 1),
        runs=lambda rank, ranks: ((count, _cut(step, segments)) for count, step in ring.runs(rank, ranks)),
    )


def _cut(step: Round, segments: int) -> Round:
    """A step of the ring over ranges of as many chunks as there are segments."""
    send, receive = step
    assert isinstance(send, Send)

    def part(chunks: Chunks, number: int) -> Chunks:
        return chunks[0] * segments + number, chunks[0] * segments + number + 1

    if isinstance(receive, Reduce):
        sends = (replace(send, chunks=part(send.chunks, number)) for number in range(segments))
        combined = (replace(receive, chunks=part(receive.chunks, number)) for number in range(segments))
        return *sends, *combined
    sent, received = ((first * segments, last * segments) for first, last in (send.chunks, receive.chunks))
    return replace(send, chunks=sent), replace(receive, chunks=received)


ALGORITHM = segmented_ring(segments=2)
