"""All-reduce: result = x₀ op x₁ op … op x_{p−1} elementwise, on every rank, for op in sum, prod, min, max.

Across ranks an algorithm is a schedule (pyhpc/kernels/schedules, one file each), played by the engine of
csrc/allreduce over shared memory inside a node and MPI messages between nodes. All ranks get equal bits, because every
schedule is proved to evaluate one expression everywhere; order "invariant" (invariant.py) makes the result independent
of the schedule too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyhpc.comm import channel
from pyhpc.errors import InvalidArgument, PyhpcError
from pyhpc.kernels.allreduce_arguments import take
from pyhpc.kernels.allreduce_plan import (
    Request,
    agree,
    check,
    check_axis,
    check_contributions,
    check_words,
    plan,
    remembered,
)
from pyhpc.kernels.allreduce_problem import AllreduceProblem
from pyhpc.kernels.allreduce_variants import peers, variants
from pyhpc.kernels.arrays import NAMES
from pyhpc.kernels.data import DTYPES
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
    checked: bool = False,
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
            MPI_Allreduce (which knows neither bfloat16 nor float16, and promises no equal bits). "auto" takes
            what a table of measurements has (`schedules.rule`, PYHPC_ALLREDUCE_RULE), else the cheapest by a
            latency–bandwidth–reduction model (`schedules.cheapest`): in a node recursive doubling for short vectors,
            direct or halving-doubling for longer ones; where successive ranks share nodes, hierarchical schedules,
            and a ring for long vectors.
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
        checked: compare what all ranks ask for before anything is sent: a mismatch, or one rank's bad argument, is then
            an error on every rank, and the next call works. It costs an MPI_Allreduce of 96 bytes. Without it each
            message tells what it belongs to: a mismatch is an error too, but ends the use of this communicator for
            all-reduces, and ranks that wait for one that never calls do so until the time limit.

    Returns:
        `out`, or a new array of `x`'s library.

    Raises:
        InvalidArgument: an argument that cannot be taken, or ranks that disagree; with `checked`, on every rank.
        CommunicationError: another rank has ended, was interrupted, or did not answer within the time limit of
            PYHPC_ALLREDUCE_TIMEOUT seconds (environment, default 300). The sentence names the rank that keeps the
            others waiting, found through all on this node that only wait themselves. `out` holds no result then, and
            later calls on this communicator raise the same: go on with a new one.
        Unsupported: no MPI here, or an array in GPU memory whose library offers no copy.

    Source of the algorithms: each schedule's file; of the invariant order: invariant.py.
    """
    private = channel(comm)
    if axis is None and not checked and type(x) is np.ndarray:
        # An array like one before: everything is decided. The plan takes contiguous arrays and checks them itself.
        known = private.kept.get((x.shape, x.dtype, op, algorithm, order))
        if known is not None and (out is None or (type(out) is np.ndarray and out.shape == x.shape)):
            try:
                return known(x, np.empty(x.shape, x.dtype) if out is None else out)
            except InvalidArgument:
                pass  # nothing was sent; below the array is copied, or the error said in the caller's words
    request: Request | None = None
    refusal: PyhpcError | None = None
    try:
        check_words(op, algorithm, order)
        check_axis(axis, order)
        arrays = take(x, out, axis)
        check_contributions(arrays.x, private.ranks)
        request = Request(arrays.out.size, NAMES[arrays.out.dtype], op, algorithm, order)
        check(request)
    except PyhpcError as error:
        refusal = error
    if checked and private.ranks > 1:
        agree(private, request, refusal)
    if refusal is not None:
        raise refusal
    assert request is not None
    run = plan(private, request)
    if axis is None and type(x) is np.ndarray and request.played:
        remembered(private, (x.shape, x.dtype, op, algorithm, order), lambda: run)
    run(arrays.x, arrays.out)
    return arrays.finish()


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
