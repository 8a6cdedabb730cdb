"""How the ranks of a communicator all-reduce vectors of one kind: decided once, kept for the next call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pyhpc.comm import Channel, mpi
from pyhpc.errors import InvalidArgument
from pyhpc.kernels import invariant
from pyhpc.kernels.allreduce_problem import OPS
from pyhpc.kernels.allreduce_variants import algorithm_refusal
from pyhpc.kernels.data import DTYPES, UNIT_ROUNDOFF
from pyhpc.kernels.schedules.play import play
from pyhpc.kernels.schedules.schedule import Algorithm, algorithms, cheapest

ORDERS = ("fast", "repeatable", "invariant")
_MPI_BLOCK = 1 << 30  # elements of one MPI_Allreduce: its count is a 32-bit integer before MPI 4
_KEPT = 64  # plans of a communicator

Run = Callable[[np.ndarray, np.ndarray], None]  # run(x, out), as in allreduce_arguments.Arrays


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


def plan(private: Channel, request: Request) -> Run:
    """How to do it; made at the first request of its kind on this communicator, then kept. Collective then."""
    found: Run | None = private.kept.get(request)
    if found is None:
        check(request)
        if len(private.kept) >= _KEPT:
            private.kept.pop(next(iter(private.kept)))
        found = private.kept[request] = _make(private, request)
    return found


def _make(private: Channel, request: Request) -> Run:
    elements, dtype, op, name, order = request
    if order == "invariant":

        def in_place(elements: int, dtype: str, op: str) -> Callable[[np.ndarray], None]:
            run = _make(private, Request(elements, dtype, op, name, "fast"))
            return lambda array: run(array, array)

        combine = invariant.plan(elements, dtype, op, in_place)
        return lambda x, out: combine(x if x.ndim == 2 else x[None], out)
    algorithm = chosen(request, private.ranks)
    if algorithm is None:
        return functools.partial(_library, private, op)
    return lambda x, out: play(private, algorithm, x, out, op)


def chosen(request: Request, ranks: int) -> Algorithm | None:
    """The schedule that is played, None for MPI_Allreduce. It depends on the request and the ranks alone, so that every
    order is also "repeatable"."""
    if request.algorithm == "mpi":
        return None
    if request.algorithm != "auto":
        return algorithms()[request.algorithm]
    return cheapest(ranks, request.elements * DTYPES[request.dtype].itemsize)


def _library(private: Channel, op: str, x: np.ndarray, out: np.ndarray) -> None:
    """MPI_Allreduce, in blocks whose count fits MPI 3."""
    operation = getattr(mpi(), op.upper())
    for low in range(0, x.size, _MPI_BLOCK):
        part = slice(low, low + _MPI_BLOCK)
        private.comm.Allreduce(mpi().IN_PLACE if out is x else x[part], out[part], operation)
