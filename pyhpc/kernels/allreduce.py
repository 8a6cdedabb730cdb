"""All-reduce: result = x₀ op x₁ op … op x_{p−1} elementwise, on every rank, for op in sum, prod, min, max.

Across ranks an algorithm is a schedule (pyhpc/kernels/schedules, one file each), played over MPI messages with the
native reduction of csrc/allreduce. All ranks get equal bits, because every schedule is proved to evaluate one
expression everywhere; order "invariant" (invariant.py) makes that expression independent of the schedule too.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from pyhpc.comm import Channel, channel, mpi
from pyhpc.errors import InvalidArgument, PyhpcError
from pyhpc.kernels.allreduce_arguments import take
from pyhpc.kernels.allreduce_plan import Request, Run, check, check_words, plan
from pyhpc.kernels.allreduce_problem import AllreduceProblem
from pyhpc.kernels.allreduce_variants import peers, variants
from pyhpc.kernels.arrays import NAMES, describe
from pyhpc.kernels.data import DTYPES
from pyhpc.kernels.invariant import MOST_CONTRIBUTIONS
from pyhpc.kernels.kernel import Kernel


def allreduce(
    x: Any,
    comm: Any = None,
    op: str = "sum",
    algorithm: str = "auto",
    order: str = "fast",
    out: Any = None,
    *,
    axis: int | None = None,
    checked: bool = True,
) -> Any:
    """Combine one array of every rank elementwise; every rank gets the result, with equal bits.

    Collective: all ranks of `comm` call it with the same number of elements, dtype, op, algorithm and order.

    Args:
        x: an array of any shape (NumPy, PyTorch, CuPy, Numba, DLPack, buffer protocol), of dtype float64, float32,
            float16, bfloat16 or any integer; elements are combined in C order. Strided input is copied into a
            contiguous work array first. Integers wrap; NaN propagates. Arrays in GPU memory are staged through the
            host by their own library (never tried on a GPU yet).
        comm: an mpi4py intracommunicator, default MPI_COMM_WORLD. Messages travel on a private duplicate of it.
        op: "sum", "prod", "min" or "max".
        algorithm: "auto", one of `pyhpc list` ("ring", "recursive_doubling"), or "mpi" for the library's own
            MPI_Allreduce (which knows neither bfloat16 nor float16, and promises no equal bits). "auto" takes the
            cheapest by a latency–bandwidth–reduction model (`schedules.schedule.Model`): recursive doubling for short
            vectors, ring for long ones.
        order: what the bits of the result depend on.
            "fast": every rank gets the same bits; nothing more is promised.
            "repeatable": the same bits whenever as many ranks, placed alike, give the same contributions.
            "invariant": the same bits for the same contributions, however many ranks they come from, in whatever order
            and place and by whatever algorithm. Float sums are rounded once, to within one unit in the last place of
            the exact sum but for 2^-42 of the largest contribution; a sum of zeros is +0; there are no float products.
        out: where the result goes: `x`'s shape, dtype and library, writable; `x` itself for in place. Other overlap is
            refused.
        axis: 0 with order="invariant": the first axis of `x` counts contributions of this rank, of which ranks may
            give different numbers (at most 2^20 divided by the ranks), and the result has the shape of `x[0]`. Work
            that is spread over any number of ranks then has the same sum. None: `x` is one contribution.
        checked: compare count, dtype, op, algorithm and order of all ranks first, so that a mismatch, or one rank's bad
            argument, is an error on every rank. It costs one MPI_Allreduce of 96 bytes, about as much as a short
            all-reduce itself. Without it a mismatch may hang or give wrong results.

    Returns:
        `out`, or a new array of `x`'s library.

    Raises:
        InvalidArgument: an argument that cannot be taken, or ranks that disagree; with `checked`, on every rank.
        Unsupported: no MPI here, or an array in GPU memory whose library offers no copy.

    Source of the algorithms: each schedule's file; of the invariant order: invariant.py.
    """
    private = channel(comm)
    request: Request | None = None
    refusal: PyhpcError | None = None
    try:
        check_words(op, algorithm, order)
        _check_axis(axis, order)
        arrays = take(x, out, axis)
        _check_contributions(arrays.x, private.ranks)
        request = Request(arrays.out.size, NAMES[arrays.out.dtype], op, algorithm, order)
        check(request)
    except PyhpcError as error:
        refusal = error
    if checked and private.ranks > 1:
        _agree(private, request, refusal)
    if refusal is not None:
        raise refusal
    assert request is not None
    plan(private, request)(arrays.x, arrays.out)
    return arrays.finish()


class AllReduce:
    """An all-reduce that is planned once and called many times.

    Collective: all ranks of `comm` make it with the same arguments, and call it together. It is made for one shape and
    dtype; `plan(x)` or `plan(x, out)` is then `allreduce(x, comm, op, algorithm, order, out)` without its checks of
    what the ranks agree on. Leaving a `with` block, or `close()`, ends its use.

    Args:
        like: an array of the shape and dtype that will be combined, or the pair (shape, dtype).
        comm, op, algorithm, order, axis: as in `allreduce`. With `axis=0` the length of the first axis may change from
            call to call.

    Returns:
        An object to call; `request` says what for, `shape` and `dtype` of what.

    Raises:
        InvalidArgument: an argument that cannot be taken, or ranks that disagree, on every rank; from a call: arrays of
            another shape or dtype, overlapping, or a plan that was closed.
        Unsupported: no MPI here.
    """

    def __init__(
        self,
        like: Any,
        comm: Any = None,
        op: str = "sum",
        algorithm: str = "auto",
        order: str = "fast",
        *,
        axis: int | None = None,
    ) -> None:
        private = channel(comm)
        self.axis = axis
        request: Request | None = None
        refusal: PyhpcError | None = None
        try:
            check_words(op, algorithm, order)
            _check_axis(axis, order)
            self.shape, self.dtype = _shape_and_dtype(like)
            elements = math.prod(self.shape if axis is None else self.shape[1:])
            request = Request(elements, self.dtype, op, algorithm, order)
            check(request)
        except PyhpcError as error:
            refusal = error
        if private.ranks > 1:
            _agree(private, request, refusal)
        if refusal is not None:
            raise refusal
        assert request is not None
        self.request, self._channel = request, private
        self._run: Run | None = plan(private, request)

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Combine `x` of every rank; returns `out`, or a new array of `x`'s library. Collective."""
        run = self._run
        if run is None:
            raise InvalidArgument("this AllReduce was closed")
        arrays = take(x, out, self.axis)
        if (arrays.out.size, NAMES[arrays.out.dtype]) != self.request[:2]:
            raise InvalidArgument(
                f"x has {arrays.out.size} elements of {NAMES[arrays.out.dtype]}; this AllReduce was made for "
                f"{self.request.elements} of {self.request.dtype}"
            )
        _check_contributions(arrays.x, self._channel.ranks)
        run(arrays.x, arrays.out)
        return arrays.finish()

    def close(self) -> None:
        """End its use. Not collective; a second call does nothing."""
        self._run = None

    def __enter__(self) -> AllReduce:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shape_and_dtype(like: Any) -> tuple[tuple[int, ...], str]:
    """Of an array, or of the pair (shape, dtype)."""
    if not (isinstance(like, tuple) and len(like) == 2):
        operand = describe(like, "like")
        return operand.shape, operand.dtype
    shape, dtype = like
    try:
        kind = np.dtype(DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype)
        lengths = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
    except TypeError as error:
        raise InvalidArgument(f"like is {like!r}; give an array or the pair (shape, dtype): {error}") from None
    if kind not in NAMES or min(lengths, default=0) < 0:
        raise InvalidArgument(f"like is {like!r}; lengths must not be negative, the dtype one of {', '.join(DTYPES)}")
    return lengths, NAMES[kind]


def _check_axis(axis: int | None, order: str) -> None:
    if axis is not None and order != "invariant":
        raise InvalidArgument(f"axis is {axis} and order {order!r}; several contributions a rank need 'invariant'")


def _check_contributions(x: np.ndarray, ranks: int) -> None:
    if x.ndim == 2 and len(x) * ranks > MOST_CONTRIBUTIONS:
        raise InvalidArgument(
            f"x has {len(x)} contributions; {ranks} ranks may give {MOST_CONTRIBUTIONS // ranks} each, 2^20 in all"
        )


def _agree(private: Channel, request: Request | None, refusal: PyhpcError | None) -> None:
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


KERNEL = Kernel(
    "allreduce",
    "result = x₀ op x₁ op … on every rank, op in sum, prod, min, max",
    AllreduceProblem,
    variants,
    peers,
    examples=(
        *(AllreduceProblem(1001, dtype, "sum", 3) for dtype in DTYPES),
        *(
            AllreduceProblem(77, dtype, op, 3)
            for dtype in ("float32", "bfloat16", "int8")
            for op in ("prod", "min", "max")
        ),
        *(AllreduceProblem(elements, "float32", "sum", ranks) for elements in (1, 65537) for ranks in (1, 2)),
        AllreduceProblem(70_000, "bfloat16", "sum", 4, "integers"),
        AllreduceProblem(33, "float64", "max", 2, "zeros"),
    ),
)
