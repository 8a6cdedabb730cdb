"""How the ranks of a communicator all-reduce vectors of one kind: decided once, kept for the next call."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from pyhpc.comm import Channel, mpi
from pyhpc.errors import InvalidArgument, PyhpcError
from pyhpc.kernels import invariant
from pyhpc.kernels.allreduce_problem import OPS, ORDERS
from pyhpc.kernels.allreduce_variants import algorithm_refusal
from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF
from pyhpc.kernels.schedules.cheapest import cheapest
from pyhpc.kernels.schedules.engine import Engine
from pyhpc.kernels.schedules.hierarchical import hierarchical
from pyhpc.kernels.schedules.schedule import Algorithm, algorithms

MPI_BLOCK = 1 << 30  # elements of one MPI_Allreduce: its count is a 32-bit integer before MPI 4
_KEPT = 64  # plans of a communicator

Run = Callable[[np.ndarray, np.ndarray], Any]  # run(x, out), as in allreduce_arguments.Arrays


class Request(NamedTuple):
    """What all ranks must agree on."""

    elements: int  # of the result
    dtype: str
    op: str
    algorithm: str
    order: str

    def __str__(self) -> str:
        return f"{self.elements} elements of {self.dtype}, op {self.op}, algorithm {self.algorithm}, order {self.order}"

    @property
    def played(self) -> bool:
        """Whether it is the engine that combines the arrays themselves."""
        return self.order != "invariant" and self.algorithm != "mpi"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The same, as numbers that MPI can compare."""
        names = ["auto", "mpi", *algorithms()]
        places = (list(DTYPES).index(self.dtype), list(OPS).index(self.op), names.index(self.algorithm))
        return (self.elements, *places, ORDERS.index(self.order))


def check_words(op: str, algorithm: str, order: str) -> None:
    """Refuse what is no op, algorithm or order.

    Raises:
        InvalidArgument: the sentence says what there is.
    """
    for what, value, known in (
        ("op", op, tuple(OPS)),
        ("algorithm", algorithm, ("auto", *algorithms(), "mpi")),
        ("order", order, ORDERS),
    ):
        if value not in known:
            raise InvalidArgument(f"{what} is {value!r}; it must be one of {', '.join(known)}")


def check(request: Request) -> None:
    """Refuse a combination that cannot be.

    Raises:
        InvalidArgument: the sentence says why, and what can.
    """
    if request.order == "invariant":
        reason = invariant.refusal(request.dtype, request.op)
        if reason is not None:
            raise InvalidArgument(reason)
    if request.order == "invariant" and request.dtype in UNIT_ROUNDOFF:
        return  # the ranks combine integers of 64 bits, and the largest of others: every algorithm can
    reason = algorithm_refusal(request.algorithm, request.dtype, request.op)
    if reason is None and request.algorithm == "mpi" and request.order == "repeatable":
        reason = "an MPI library promises no repeatable order"
    if reason is not None:
        raise InvalidArgument(f"{reason}; use algorithm='auto'")


def engine(private: Channel) -> Engine:
    """What plays schedules among the ranks of this channel; made at its first use, which is collective."""
    found: Engine | None = private.kept.get(Engine)
    if found is None:
        found = private.kept[Engine] = Engine(private)
    return found


def plan(private: Channel, request: Request) -> Run:
    """How to do it, kept for the next request of its kind. Collective at the first one of a channel.

    A schedule's plan (`request.played`) checks the arrays it is called with; others trust them.
    """
    playing = engine(private)
    return remembered(private, request, lambda: _make(private, playing, request))


def remembered(private: Channel, key: Hashable, make: Callable[[], Run]) -> Run:
    """What the channel keeps under `key`; the oldest of too many is forgotten."""
    found: Run | None = private.kept.get(key)
    if found is None:
        if len(private.kept) > _KEPT:
            private.kept.pop(next(key for key in private.kept if key is not Engine))
        found = private.kept[key] = make()
    return found


def _make(private: Channel, playing: Engine, request: Request) -> Run:
    elements, dtype, op, name, order = request
    if order == "invariant":

        def in_place(elements: int, dtype: str, op: str) -> Callable[[np.ndarray], None]:
            run = _make(private, playing, Request(elements, dtype, op, name, "fast"))

            def call(array: np.ndarray) -> None:
                run(array, array)

            return call

        combine = invariant.plan(elements, dtype, op, in_place)
        return lambda x, out: combine(x if x.ndim == 2 else x[None], out)
    algorithm = chosen(request, playing)
    if algorithm is None:
        return functools.partial(_library, private, op)
    return playing.plan(algorithm, elements, DTYPES[dtype], op, zlib.crc32(str(request).encode()))


def chosen(request: Request, playing: Engine) -> Algorithm | None:
    """The schedule that is played, None for MPI_Allreduce. It depends on the request, the ranks, where they run and the
    rule's table, and on nothing that is measured in this run, so that every order is also "repeatable"."""
    if request.algorithm == "mpi":
        return None
    if request.algorithm == "hierarchical":
        return hierarchical(playing.ranks_per_node)
    if request.algorithm != "auto":
        return algorithms()[request.algorithm]
    ranks, size = playing.channel.ranks, request.elements * DTYPES[request.dtype].itemsize
    ruled = playing.table.algorithm(ranks, size, playing.crowded) if playing.one_node else None
    return cheapest(ranks, size, playing.ranks_per_node) if ruled is None else algorithms()[ruled]


def _library(private: Channel, op: str, x: np.ndarray, out: np.ndarray) -> None:
    """MPI_Allreduce, in blocks whose count fits MPI 3."""
    operation = getattr(mpi(), op.upper())
    for low in range(0, x.size, MPI_BLOCK):
        part = slice(low, low + MPI_BLOCK)
        private.comm.Allreduce(mpi().IN_PLACE if out is x else x[part], out[part], operation)


def check_axis(axis: int | None, order: str) -> None:
    """Refuse an axis without the invariant order."""
    if axis is not None and order != "invariant":
        raise InvalidArgument(f"axis is {axis} and order {order!r}; several contributions a rank need 'invariant'")


def check_contributions(x: np.ndarray, ranks: int) -> None:
    """Refuse more contributions than sums can take."""
    most = invariant.MOST_CONTRIBUTIONS // ranks
    if x.ndim == 2 and len(x) > most:
        raise InvalidArgument(f"x has {len(x)} contributions; {ranks} ranks may give {most} each, 2^20 in all")


def agree(private: Channel, request: Request | None, refusal: PyhpcError | None) -> None:
    """Raise on every rank unless all ranks ask for the same."""
    numbers = (0, *(request.numbers if request is not None else (0,) * len(Request._fields)))
    header = np.zeros(2 * len(numbers), np.int64)
    # The maximum of v and of −v shows whether all v are equal; the first pair is 0 unless a rank refuses.
    header[0::2] = numbers
    header[0] = refusal is not None
    header[1::2] = -header[0::2]
    private.comm.Allreduce(mpi().IN_PLACE, header, mpi().MAX)
    if header[0] == 0 and (header[0::2] == -header[1::2]).all():
        return
    said: list[tuple[bool, str]] = private.comm.allgather((refusal is not None, str(refusal or request)))
    if refusal is not None:
        raise refusal
    refused = [f"rank {rank}: {sentence}" for rank, (is_refused, sentence) in enumerate(said) if is_refused]
    if refused:
        raise InvalidArgument(f"all-reduce was refused by {len(refused)} of {private.ranks} ranks; {refused[0]}")
    odd = next(rank for rank, (_, sentence) in enumerate(said) if sentence != said[0][1])
    raise InvalidArgument(f"the ranks disagree: rank 0 asks for {said[0][1]}; rank {odd} for {said[odd][1]}")
