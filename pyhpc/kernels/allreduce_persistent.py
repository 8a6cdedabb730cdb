"""All-reduces that are called in a loop: planned once, and with arrays that the ranks of a node share."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from pyhpc.comm import channel
from pyhpc.errors import InvalidArgument, PyhpcError
from pyhpc.kernels.allreduce_arguments import take
from pyhpc.kernels.allreduce_plan import (
    Request,
    Run,
    agree,
    check,
    check_axis,
    check_contributions,
    check_words,
    engine,
    plan,
)
from pyhpc.kernels.arrays import NAMES, describe
from pyhpc.kernels.data import DTYPES


class AllReduce:
    """An all-reduce that is planned once and called many times.

    Collective: all ranks of `comm` make it with the same arguments, and call it together. `plan(x)` or `plan(x, out)`
    is then `allreduce(x, comm, op, algorithm, order, out)` for any `x` of the size and dtype it was made for. A call
    with contiguous NumPy arrays goes straight to C++. `close()`, the end of a `with` block, or freeing `comm` ends its
    use.

    Args:
        like: an array of the shape and dtype that will be combined, or the pair (shape, dtype).
        comm, op, algorithm, order, axis: as in `allreduce`. With `axis=0` the length of the first axis may change from
            call to call.

    Returns:
        An object to call; `request` says what for.

    Raises:
        InvalidArgument: an argument that cannot be taken, or ranks that disagree, on every rank; from a call: arrays of
            another size or dtype, overlapping in part, or a plan that was closed.
        CommunicationError: from a call, as from `allreduce`.
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
            check_axis(axis, order)
            shape, dtype = _shape_and_dtype(like)
            request = Request(math.prod(shape if axis is None else shape[1:]), dtype, op, algorithm, order)
            check(request)
        except PyhpcError as error:
            refusal = error
        if private.ranks > 1:
            agree(private, request, refusal)
        if refusal is not None:
            raise refusal
        assert request is not None
        self.request, self._ranks = request, private.ranks
        self._run: Run | None = plan(private, request)
        self._checks = request.played  # itself what it is called with
        private.users.add(self)

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Combine `x` of every rank; returns `out`, or a new array of `x`'s library. Collective."""
        if self._checks and out is not None and self._run is not None:
            try:
                return self._run(x, out)
            except InvalidArgument:
                pass  # nothing was sent; below the arrays are converted, or the error said in the caller's words
        return self._call(x, out)

    def _call(self, x: Any, out: Any) -> Any:
        if self._run is None:
            raise InvalidArgument("this AllReduce was closed, or its communicator was freed")
        arrays = take(x, out, self.axis)
        if (arrays.out.size, NAMES[arrays.out.dtype]) != self.request[:2]:
            raise InvalidArgument(
                f"x has {arrays.out.size} elements of {NAMES[arrays.out.dtype]}; this AllReduce was made for "
                f"{self.request.elements} of {self.request.dtype}"
            )
        check_contributions(arrays.x, self._ranks)
        self._run(arrays.x, arrays.out)
        return arrays.finish()

    def close(self) -> None:
        """End its use. Not collective; a second call does nothing."""
        self._run = None

    def __enter__(self) -> AllReduce:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def allreduce_buffer(shape: int | tuple[int, ...], dtype: Any = "float32", comm: Any = None) -> np.ndarray:
    """A NumPy array that the other ranks of its node read and write in place, so that an all-reduce copies nothing.

    Collective over `comm`. Give such an array as `x`, `out` or both, on every rank; any other use is as of any array.
    The content is undefined while an all-reduce of it is under way.

    Args:
        shape: of this rank's array; the ranks' need not be alike.
        dtype: one of the library's, by name or as NumPy's.
        comm: the communicator whose all-reduces will take it, default MPI_COMM_WORLD.

    Returns:
        The array, of zeros. Its memory is given back with its last view.

    Raises:
        InvalidArgument: a shape, dtype or communicator that cannot be.
        Unsupported: no MPI here, or the ranks of a node cannot open each other's memory.
    """
    lengths, name = _shape_and_dtype((shape, dtype))
    return engine(channel(comm)).allocate(lengths, DTYPES[name])


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
