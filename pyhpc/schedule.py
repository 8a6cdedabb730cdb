"""`pyhpc schedule`: an all-reduce algorithm on so many ranks, written out, proved, drawn and priced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyhpc.errors import InvalidArgument
from pyhpc.kernels.schedules.hierarchical import hierarchical
from pyhpc.kernels.schedules.schedule import Algorithm, algorithms

MOST_WRITTEN_OUT = 64  # ranks whose schedules are all written out unless one is asked for


@dataclass(frozen=True)
class Wish:
    """What is asked for."""

    name: str
    ranks: int
    ranks_per_node: int | None = None
    leaders: int | None = None
    rank: int | None = None  # only this one's schedule
    prove: bool = False
    picture: Path | None = None
    price: tuple[int, ...] = ()  # vector sizes in bytes
    topology: Path | None = None


def lines(wish: Wish) -> Iterator[str]:
    """What the command prints, written as it is found.

    Raises:
        InvalidArgument: an unknown algorithm or rank, or leaders that a node has not.
    """
    algorithm = _algorithm(wish)
    if wish.rank is not None and not 0 <= wish.rank < wish.ranks:
        raise InvalidArgument(f"rank {wish.rank} is not among {wish.ranks}: they are numbered from 0")
    if wish.rank is None and wish.ranks > MOST_WRITTEN_OUT:
        yield f"{algorithm.name} on {wish.ranks} ranks; --rank R writes out the schedule of rank R"
    else:
        yield algorithm.text(wish.ranks, wish.rank)
    yield _summary(algorithm, wish)
    if wish.price:
        yield from _prices(algorithm, wish)
    if wish.picture is not None:
        from pyhpc.kernels.schedules.picture import draw

        draw(algorithm, wish.ranks, wish.picture)
        yield f"drawn: {wish.picture}"


def _algorithm(wish: Wish) -> Algorithm:
    if wish.name not in algorithms():
        raise InvalidArgument(f"there is no algorithm {wish.name!r}; there are {', '.join(algorithms())}")
    if wish.ranks_per_node is None and wish.leaders is None:
        return algorithms()[wish.name]
    if wish.name != "hierarchical":
        raise InvalidArgument(f"{wish.name} knows no nodes: --ranks-per-node and --leaders are for hierarchical")
    try:
        return hierarchical(wish.ranks_per_node or wish.leaders or 1, wish.leaders)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def _prices(algorithm: Algorithm, wish: Wish) -> Iterator[str]:
    """A line a size."""
    from pyhpc.kernels.schedules.price import price
    from pyhpc.kernels.schedules.topology import CLUSTER, load

    topology = CLUSTER if wish.topology is None else load(wish.topology)
    for size, seconds in zip(wish.price, price(algorithm, wish.ranks, wish.price, topology), strict=True):
        yield f"{size} bytes: {seconds * 1e6:.6g} us by the model"


def _summary(algorithm: Algorithm, wish: Wish) -> str:
    """One line: what is sent, the critical path, and whether it is proved."""
    path = algorithm.path(wish.ranks)
    formula = (
        f"{algorithm.messages(wish.ranks)} messages, {algorithm.volume(wish.ranks):g} vectors sent; of any rank at "
        f"most {path.messages:g} messages, {path.volume:g} vectors sent or received, {path.reduced:g} combined"
    )
    if not wish.prove:
        return f"{formula}; not proved (--prove)"
    from pyhpc.kernels.schedules.prove import prove

    proof = prove(algorithm, wish.ranks)
    order = "in rank order" if proof.rank_order else "not in rank order"
    return f"{proof.steps} steps, {formula}; proved: an all-reduce with equal bits on all ranks, {order}"
