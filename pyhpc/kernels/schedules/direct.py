"""Direct: each rank combines its slice of everybody's vector, then everybody copies all slices. Any number of ranks.

    rank r:  slice r of the result = x₀[r] op (x₁[r] op … (x_{r−1}[r] op x_r[r])) op … op x_{p−1}[r]
    then     slice j of the result from rank j, for all j

Two steps, of p−1 messages to and from each rank: the way of ranks that share memory, where a message is a look into the
other's array, and of few ranks on a network with many ports. Contributions are combined in rank order, from the owner
of the slice outwards.

Source: reduce-scatter and all-gather by direct exchange of E. Chan, M. Heimlich, A. Purkayastha and R. van de Geijn,
Collective communication: theory, practice, and experience, CCPE 19, 2007.
"""

from __future__ import annotations

from pyhpc.kernels.schedules.fan_in import fan_in_outwards
from pyhpc.kernels.schedules.schedule import Algorithm, Copy, Index, Path, Send, Steps


def steps(rank: Index, ranks: int) -> Steps:
    """The slices come together at their owners; then they go out to everybody."""
    # Everybody begins with the next rank, lest all send to rank 0 first.
    others = [(rank + shift) % ranks for shift in range(1, ranks)]
    combined = fan_in_outwards(rank, ranks, lambda j: rank * 0 + j, (rank, rank + 1), "input")
    yield *(Send(other, (other, other + 1), "input") for other in others), *combined
    copies = (Copy(other, (other, other + 1)) for other in others)
    yield *(Send(other, (rank, rank + 1), "result") for other in others), *copies


def path(ranks: int) -> Path:
    """2(p−1) messages, 2(p−1)/p vectors moved, (p−1)/p vectors reduced."""
    return Path(2 * (ranks - 1), 2 * (ranks - 1) / ranks, (ranks - 1) / ranks)


ALGORITHM = Algorithm(
    name="direct",
    summary="each rank combines its slice of all vectors in rank order; all copy all slices (Chan et al. 2007)",
    chunks=lambda ranks: ranks,
    steps=steps,
    path=path,
    messages=lambda ranks: 2 * ranks * (ranks - 1),
    volume=lambda ranks: 2 * (ranks - 1),
)
